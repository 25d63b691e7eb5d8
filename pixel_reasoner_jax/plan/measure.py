"""Compiles the programs of a phase and measures their memory, operations and traffic."""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Sequence
from typing import Any

import jax

from pixel_reasoner_jax.plan.chips import Topology
from pixel_reasoner_jax.plan.flops import Flops, count_flops
from pixel_reasoner_jax.plan.hlo import Program as CompiledText
from pixel_reasoner_jax.plan.programs import Program, Programs, bytes_per_device
from pixel_reasoner_jax.plan.work import Work

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclasses.dataclass(frozen=True)
class Phase:
    """What a phase takes. All figures but memory are of one call of the phase's main program.

    Attributes:
      phase: its name.
      tokens: tokens that the call processes or samples.
      fits: whether a chip's memory holds it.
      bytes_per_chip: peak memory, with all else that is resident during the phase; None if the compiler ran out of
        memory without telling how much it needs.
      bytes_available: memory of a chip.
      flops: operations on all chips together, as the program is written.
      matmul_share: fraction of these that matrix products have.
      flops_per_chip: operations of a chip's matrix products, as compiled: more than 1/chips of all where chips repeat
        the same work.
      interconnect_bytes: bytes that a chip receives from others.
      seconds_floor: the least time by the chip's peak rates of arithmetic, memory and interconnect.
      bound: which of these three rates sets that time.
      compile_seconds: compilation time, tracing included.
      reason: why it does not fit, in the compiler's words; "" if it fits, or if only the sum of all that is resident
        does not.
      works: of each of the phase's programs, the main one first; not in the JSON.
    """

    phase: str
    tokens: int
    fits: bool
    bytes_per_chip: int | None
    bytes_available: int
    flops: float
    matmul_share: float
    flops_per_chip: float
    interconnect_bytes: float
    seconds_floor: float
    bound: str
    compile_seconds: float
    reason: str = ""
    works: tuple[Work, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {name: value for name, value in dataclasses.asdict(self).items() if name != "works"}

    def with_more(self, resident: int) -> Phase:
        """The same with so many bytes more that are resident."""
        if self.bytes_per_chip is None:
            return self
        needed = self.bytes_per_chip + resident
        return dataclasses.replace(self, bytes_per_chip=needed, fits=self.fits and needed <= self.bytes_available)


@dataclasses.dataclass(frozen=True)
class Compiled:
    """Operations, memory and text of one compiled program; `text` is None if it could not be compiled."""

    flops: Flops
    bytes: int | None
    text: CompiledText | None = None
    reason: str = ""


def measure(programs: Programs, phase: str, topology: Topology) -> Phase:
    """Compiles the programs of a phase and measures what they take."""
    began = time.perf_counter()
    available = topology.chip.memory
    try:
        parts = programs.build(phase)
    except jax.errors.JaxRuntimeError as error:
        needed, reason = out_of_memory(error)
        seconds = time.perf_counter() - began
        return Phase(phase, 0, False, needed, available, 0.0, 0.0, 0.0, 0.0, 0.0, "", seconds, reason)
    count = len(topology.devices)
    compiled = [compile_program(part, count) for part in parts]
    seconds = time.perf_counter() - began
    works = tuple(work_of(part, one, part.loops, count) for part, one in zip(parts, compiled, strict=True))
    main, flops, work = parts[0], compiled[0].flops, works[0]
    bound, least = work.least(topology.chip)
    known = [one.bytes for one in compiled if one.bytes is not None]
    return Phase(
        phase,
        main.tokens,
        len(known) == len(compiled) and max(known) <= available and not any(one.reason for one in compiled),
        max(known, default=None),
        available,
        flops.total,
        flops.share,
        work.flops,
        work.received,
        least,
        bound,
        seconds,
        next((one.reason for one in compiled if one.reason), ""),
        works,
    )


def work_of(program: Program, compiled: Compiled, loops: Sequence[int], devices: int) -> Work:
    """The work of one chip in a call of a program.

    Args:
      program, compiled: the program.
      loops: how often loops run whose length is not in the program; see `flops.count_flops`.
      devices: number of devices that it runs on.
    """
    text = compiled.text
    return Work(
        compiled.flops.products / devices if text is None else text.products(loops),
        sum(bytes_per_device(tree) * times for tree, times in program.read),
        0.0 if text is None else sum(one.received_bytes for one in text.collectives(loops)),
    )


def compile_program(program: Program, devices: int) -> Compiled:
    """Compiles a program for so many devices, and reads what it needs."""
    resident_bytes = bytes_per_device(program.resident)
    traced = program.function.trace(*program.arguments, **program.static)
    flops = count_flops(traced.jaxpr, program.loops)
    try:
        compiled = traced.lower().compile()
    except jax.errors.JaxRuntimeError as error:
        needed, reason = out_of_memory(error)
        return Compiled(flops, None if needed is None else needed + resident_bytes, reason=reason)
    memory = compiled.memory_analysis()
    program_bytes = (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes
        + memory.generated_code_size_in_bytes
    )
    return Compiled(flops, program_bytes + resident_bytes, CompiledText(compiled.as_text(), devices))


def out_of_memory(error: Exception) -> tuple[int | None, str]:
    """Reads the compiler's error: how many bytes the program needs (None if it does not tell), and the first line.

    Raises:
      Exception: `error` itself, if it is not about memory.
    """
    text = str(error)
    if "RESOURCE_EXHAUSTED" not in text:
        raise error
    found = re.search(r"Used ([\d.]+)([KMGT]?) of", text) or re.search(r"\(([\d.]+)([KMGT]?)\) exceeds", text)
    needed = int(float(found[1]) * _UNITS[found[2]]) if found else None
    return needed, text.splitlines()[0].removeprefix("RESOURCE_EXHAUSTED: ")

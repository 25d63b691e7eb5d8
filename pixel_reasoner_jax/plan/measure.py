"""Compiles the programs of a phase and reads off what they take."""

from __future__ import annotations

import dataclasses
import re
import time
from typing import Any

import jax

from pixel_reasoner_jax.plan.chips import Topology
from pixel_reasoner_jax.plan.flops import Flops, count_flops
from pixel_reasoner_jax.plan.hlo import Program as CompiledText
from pixel_reasoner_jax.plan.programs import Program, Programs, bytes_per_device

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclasses.dataclass(frozen=True)
class Phase:
    """What a phase takes.

    Attributes:
      phase: its name.
      tokens: put through the model, or sampled, in one call of its main program; the rest is of one call too.
      fits: whether the memory of a chip holds it.
      bytes_per_chip: at its peak, with what else lies there meanwhile; None where the compiler gave up without saying.
      bytes_available: of a chip's memory.
      flops: on all chips together, as the program is written.
      matmul_share: of matrix products in them.
      flops_per_chip: of matrix products, as compiled: more than a chip's share where chips do the same work.
      interconnect_bytes: received by a chip from others.
      seconds_floor: it cannot be faster by the chip's rates for arithmetic, memory and interconnect, ...
      bound: ... of which this is the slowest.
      compile_seconds: tracing included.
      reason: why it does not fit, in the compiler's words; "" where it does or the sum alone says so.
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

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class Compiled:
    """One program's part of that; `text` is None where it could not be compiled."""

    flops: Flops
    bytes: int | None
    text: CompiledText | None = None
    reason: str = ""


def measure(programs: Programs, phase: str, topology: Topology) -> Phase:
    """Compiles a phase."""
    began = time.perf_counter()
    available = topology.chip.memory
    try:
        parts = programs.build(phase)
    except jax.errors.JaxRuntimeError as error:
        needed, reason = out_of_memory(error)
        seconds = time.perf_counter() - began
        return Phase(phase, 0, False, needed, available, 0.0, 0.0, 0.0, 0.0, 0.0, "", seconds, reason)
    compiled = [_compile(part, len(topology.devices)) for part in parts]
    seconds = time.perf_counter() - began
    main, flops, text = parts[0], compiled[0].flops, compiled[0].text
    count = len(topology.devices)
    products = flops.products / count if text is None else text.products(main.loops)
    moved = 0.0 if text is None else sum(one.received_bytes for one in text.collectives(main.loops))
    floors = {
        "arithmetic": products / topology.chip.flops,
        "memory": sum(bytes_per_device(tree) * times for tree, times in main.read) / topology.chip.memory_rate,
        "interconnect": moved / topology.chip.link_rate,
    }
    bound = max(floors, key=floors.get)
    known = [one.bytes for one in compiled if one.bytes is not None]
    return Phase(
        phase,
        main.tokens,
        len(known) == len(compiled) and max(known) <= available and not any(one.reason for one in compiled),
        max(known, default=None),
        available,
        flops.total,
        flops.share,
        products,
        moved,
        floors[bound],
        bound,
        seconds,
        next((one.reason for one in compiled if one.reason), ""),
    )


def _compile(program: Program, devices: int) -> Compiled:
    beside = bytes_per_device(program.resident)
    traced = program.function.trace(*program.arguments, **program.static)
    flops = count_flops(traced.jaxpr, program.loops)
    try:
        compiled = traced.lower().compile()
    except jax.errors.JaxRuntimeError as error:
        needed, reason = out_of_memory(error)
        return Compiled(flops, None if needed is None else needed + beside, reason=reason)
    memory = compiled.memory_analysis()
    own = (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes
        + memory.generated_code_size_in_bytes
    )
    return Compiled(flops, own + beside, CompiledText(compiled.as_text(), devices))


def out_of_memory(error: Exception) -> tuple[int | None, str]:
    """How many bytes a program would need by the compiler's complaint, if it says, and its first line.

    Raises:
      Exception: `error`, if it complains of something else.
    """
    text = str(error)
    if "RESOURCE_EXHAUSTED" not in text:
        raise error
    found = re.search(r"Used ([\d.]+)([KMGT]?) of", text) or re.search(r"\(([\d.]+)([KMGT]?)\) exceeds", text)
    needed = int(float(found[1]) * _UNITS[found[2]]) if found else None
    return needed, text.splitlines()[0].removeprefix("RESOURCE_EXHAUSTED: ")

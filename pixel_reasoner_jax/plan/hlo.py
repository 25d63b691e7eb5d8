"""Reads the text of a compiled program: its matrix products and collectives, and how often they run."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from pixel_reasoner_jax.models.kernels import said_flops

COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute", "ragged-all-to-all")
# The computations that these operations call are applied to single numbers, and not counted.
APPLIED = ("all-reduce", "all-reduce-start", "reduce-scatter", "reduce", "scatter", "sort", "map", "reduce-window")

_WIDTH = {"pred": 1, "c64": 8, "c128": 16}  # bytes of types whose name does not tell their bits
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) .*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (\([^()]*(?:\([^()]*\)[^()]*)*\)|\S+) ([\w\-]+)\((.*)$")
_CALLED = re.compile(r"\b(?:calls|to_apply|body|condition|\w+_computations?)=(?:\{([^{}]*)\}|(%?[\w.\-]+))")
_ARRAY = re.compile(r"\b(pred|[a-z]+\d+\w*)\[([\d,]*)\]")


class Instruction(NamedTuple):
    """One line of the program: its name, the text of its type, its operation, and the text after that."""

    name: str
    type: str
    operation: str
    rest: str


class Collective(NamedTuple):
    """A collective operation of one device.

    Attributes:
      operation: one of `COLLECTIVES`.
      shapes: (element type, dimensions) of its results, on one device.
      group: number of devices that communicate with each other.
      times: how often it runs.
      source: the operation of the model that it was made for, by the compiler's metadata.
    """

    operation: str
    shapes: tuple[tuple[str, tuple[int, ...]], ...]
    group: int
    times: float
    source: str

    @property
    def result_bytes(self) -> int:
        return sum(_bytes(*shape) for shape in self.shapes)

    @property
    def received_bytes(self) -> float:
        """Bytes a device receives in all runs, with ring algorithms (Chan et al., 2007, Collective communication)."""
        others = (self.group - 1) / self.group
        share = {
            "all-gather": others,
            "all-reduce": 2 * others,
            "reduce-scatter": self.group - 1,  # of the result, which is one part
            "all-to-all": others,
            "ragged-all-to-all": others,
            "collective-permute": 1.0,
        }[self.operation]
        return self.times * share * self.result_bytes


class Program:
    """The instructions of a compiled program.

    Args:
      text: `compiled.as_text()`.
      devices: number of devices that it runs on.
    """

    def __init__(self, text: str, devices: int):
        self._devices = devices
        self._computations: dict[str, dict[str, Instruction]] = {}
        self._entry = ""
        current: dict[str, Instruction] = {}
        for line in text.splitlines():
            if match := _COMPUTATION.match(line):
                current = self._computations[match[1]] = {}
                self._entry = match[1] if line.startswith("ENTRY") else self._entry
            elif match := _INSTRUCTION.match(line):
                current[match[1]] = Instruction(*match.groups())

    def collectives(self, loops: Sequence[int] = ()) -> list[Collective]:
        """Every collective operation.

        Args:
          loops: how often each loop runs whose length is not in the program; see `flops.count_flops`.
        """
        found = [
            (computation, instruction, times)
            for computation, instruction, times in self._walk(self._entry, 1.0, tuple(loops))
            if instruction.operation.removesuffix("-start") in COLLECTIVES
        ]
        # The TPU's compiler may split up a collective: it is then written in the fusion that starts it, in those that
        # advance it, whose loops may run more often, and in the one that ends it. These share its channel. It is
        # counted where it starts.
        started = {_channel(one) for computation, one, _ in found if _starts(computation, one)} - {None}
        return [
            self._collective(computation, instruction, times)
            for computation, instruction, times in found
            if _channel(instruction) not in started or _starts(computation, instruction)
        ]

    def products(self, loops: Sequence[int] = ()) -> float:
        """Floating-point operations of one device's matrix products; `loops` as in `collectives`.

        These are `dot`, `convolution` (which the TPU's compiler makes of it), and the operations that kernels declare.
        """
        total = 0.0
        for computation, instruction, times in self._walk(self._entry, 1.0, tuple(loops)):
            if instruction.operation in ("dot", "convolution"):
                lhs, rhs = (_shapes(one.type)[0][1] for one in _operands(computation, instruction)[1:3])
                count = _dot if instruction.operation == "dot" else _convolution
                total += times * count(instruction, lhs, rhs)
            elif instruction.operation == "custom-call":
                total += times * _kernel(instruction)
        return total

    def _walk(
        self, name: str, times: float, loops: tuple[int, ...]
    ) -> Iterator[tuple[dict[str, Instruction], Instruction, float]]:
        """Every instruction of a computation and of those it calls, with its computation and how often it runs."""
        computation = self._computations[name]
        for instruction in computation.values():
            yield computation, instruction, times
            inner, rest = times, loops
            if instruction.operation == "while":
                if (count := self._trips(instruction)) is None:
                    count, rest = (loops[0], loops[1:]) if loops else (1, ())
                inner = times * count
            elif instruction.operation in APPLIED:
                continue
            for called in _called(instruction):
                yield from self._walk(called, inner, rest)

    def _collective(self, computation: dict[str, Instruction], instruction: Instruction, times: float) -> Collective:
        operation = instruction.operation.removesuffix("-start")
        shapes = _shapes(instruction.type)
        root, *taken = _operands(computation)
        fused = computation is not self._computations[self._entry]
        if fused and operation == "all-reduce" and root.operation == "dynamic-slice" and taken[0] == instruction:
            # The TPU's compiler writes a reduce-scatter as a fusion: an all-reduce, and a slice of its result.
            operation, shapes = "reduce-scatter", _shapes(root.type)
        if instruction.operation.endswith("-start") and instruction.type.startswith("("):
            # An asynchronous collective returns (operands, results, contexts): the second half of the arrays are the
            # results. An asynchronous all-reduce returns nothing but results.
            arrays = [shape for shape in shapes if shape[1] or len(shapes) == 2]
            shapes = arrays[len(arrays) // 2 :] if operation != "all-reduce" else arrays
        source = re.search(r'op_name="([^"]*)"', instruction.rest)
        group = self._devices if operation == "collective-permute" else self._group(instruction.rest)
        return Collective(operation, tuple(shapes), group, times, source[1] if source else "")

    def _group(self, rest: str) -> int:
        """Devices in a group, from any of the notations: {{0,1},{2,3}}, [groups,size]<=[...], a mesh and its axes."""
        if match := re.search(r"replica_groups=\{\{([\d,]*)\}", rest):
            return len(match[1].split(","))
        if match := re.search(r"replica_groups=\[(\d+),(\d+)\]", rest):
            return int(match[2])
        if match := re.search(r"replica_groups=mesh\[([^\]]*)\]\s*\{([^}]*)\}", rest):
            sizes = {axis: int(size) for axis, size in re.findall(r"'(\w+)'=(\d+)", match[1])}
            # An axis may be named in part, as 'axis':(2)4, the second factor of it.
            axes = re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", match[2])
            return math.prod(int(part) if part else sizes[axis] for axis, part in axes)
        return self._devices

    def _trips(self, loop: Instruction) -> int | None:
        """How often a loop runs; None if the program does not tell."""
        if match := re.search(r'known_trip_count":?\{"?n"?:"?(\d+)', loop.rest):
            return int(match[1])
        condition, body = (
            self._computations[re.search(rf"{name}=%?([\w.\-]+)", loop.rest)[1]] for name in ("condition", "body")
        )
        root, *compared = _operands(condition)
        if root.operation != "compare" or "direction=LT" not in root.rest or compared[-1].operation != "constant":
            return None
        left, right = compared
        index = re.search(r"index=(\d+)", left.rest)
        # The compiler may have unrolled the loop: its counter then increases by more than 1.
        step, following = 1, _operands(body)[1 + int(index[1])] if index else None
        if following is not None and following.operation == "add":
            constants = [one for one in _operands(body, following)[1:] if one.operation == "constant"]
            step = sum(_constant(one) for one in constants) or 1
        return -(-_constant(right) // step)


def _operands(computation: dict[str, Instruction], instruction: Instruction | None = None) -> list[Instruction]:
    """An instruction and its operands; by default the instruction that is the computation's result."""
    instruction = instruction or list(computation.values())[-1]
    names = re.findall(r"%([\w.\-]+)", re.split(r"\)(?:, |$)", instruction.rest)[0])
    return [instruction, *(computation[name] for name in names if name in computation)]


def _channel(instruction: Instruction) -> str | None:
    match = re.search(r"channel_id=(\d+)", instruction.rest)
    return match[1] if match else None


def _starts(computation: dict[str, Instruction], instruction: Instruction) -> bool:
    """Whether an instruction's computation is the first part of a collective that is split up."""
    root, *taken = _operands(computation)
    return 'custom_call_target="AsyncCollectiveStart"' in root.rest and instruction in taken


def _constant(instruction: Instruction) -> int:
    return int(re.match(r"-?\d+", instruction.rest)[0])


def _dot(instruction: Instruction, lhs: tuple[int, ...], rhs: tuple[int, ...]) -> float:
    contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", instruction.rest)[1]
    out = math.prod(_shapes(instruction.type)[0][1])
    return 2.0 * out * math.prod(lhs[int(axis)] for axis in contracted.split(",") if axis)


def _convolution(instruction: Instruction, lhs: tuple[int, ...], rhs: tuple[int, ...]) -> float:
    """Operations of a convolution. Those on padding, which batched products are written with, are not counted."""
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", instruction.rest)
    out = _shapes(instruction.type)[0][1]
    size = {letter: out[axis] for axis, letter in enumerate(labels[3])}
    total = 2.0 * size["b"] * size["f"] * rhs[labels[2].index("i")]
    window = re.search(r"window=\{([^}]*)\}", instruction.rest)
    options = dict(part.split("=") for part in window[1].split()) if window else {}
    for number, letter in enumerate(sorted(set(labels[3]) - {"b", "f"})):

        def option(name: str, default: str, number=number) -> str:
            return options[name].split("x")[number] if name in options else default

        kernel = np.arange(rhs[labels[2].index(letter)]) * int(option("rhs_dilate", "1"))
        position = np.arange(size[letter])[:, None] * int(option("stride", "1")) + kernel
        position = position - int(option("pad", "0_0").split("_")[0])
        spread = int(option("lhs_dilate", "1"))
        inside = (position >= 0) & (position % spread == 0) & (position < lhs[labels[1].index(letter)] * spread)
        total *= np.count_nonzero(inside)
    return total


def _kernel(instruction: Instruction) -> float:
    """Operations of the matrix products of a kernel, as it declares them; 0 for any other call."""
    if estimate := re.search(r'"cost_estimate":\{[^}]*"flops":"?(\d+)', instruction.rest.replace(" ", "")):
        return float(estimate[1])
    return float(said_flops(instruction.name, dict(re.findall(r'(\w+)="(\d+)"', instruction.rest))) or 0)


def _called(instruction: Instruction) -> list[str]:
    return [
        name.lstrip("%")
        for several, one in _CALLED.findall(instruction.rest)
        for name in (one or several).split(", ")
        if name
    ]


def _shapes(text: str) -> list[tuple[str, tuple[int, ...]]]:
    # Layouts are in braces, without brackets, so that they do not match.
    return [(kind, tuple(int(n) for n in sizes.split(",") if n)) for kind, sizes in _ARRAY.findall(text)]


def _bytes(kind: str, sizes: tuple[int, ...]) -> int:
    bits = _WIDTH[kind] * 8 if kind in _WIDTH else int(re.search(r"\d+", kind)[0])
    return math.prod(sizes) * bits // 8

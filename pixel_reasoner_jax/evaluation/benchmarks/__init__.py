"""Benchmarks by name, each in a file with one small class; one's own by `module:Class`."""

from __future__ import annotations

import os

from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.evaluation.benchmarks.base import Benchmark
from pixel_reasoner_jax.evaluation.benchmarks.items import Item, Prompt, UnreadableItem
from pixel_reasoner_jax.named_parts import find_part

__all__ = ["BENCHMARKS", "Benchmark", "Item", "Prompt", "UnreadableItem", "find_benchmark", "open_benchmark"]

BENCHMARKS = {
    "vstar": "vstar:VStar",
    "tallyqa": "tallyqa:TallyQA",
    "infovqa": "infovqa:InfoVQA",
    "mvbench": "mvbench:MVBench",
    "hrbench4k": "hrbench:HRBench4K",
    "hrbench8k": "hrbench:HRBench8K",
    "visualprobe": "visualprobe:VisualProbe",
    "mme_realworld_lite": "mme_realworld:MMERealWorldLite",
    "docvqa": "infovqa:DocVQA",
    "textvqa": "textvqa:TextVQA",
    "chartqa": "chartqa:ChartQA",
    "videomme": "videomme:VideoMME",
    "pixel_search": "pixel_search:PixelSearchBenchmark",
    "data": "data:OwnData",
}
"""Module and class in this package by the name that `--on` takes; a module is imported when it is asked for."""


def find_benchmark(name: str) -> type[Benchmark]:
    """The class of a benchmark, by its name or as `module:Class`.

    Raises:
      UserError: there is none.
    """
    found = find_part(name, BENCHMARKS, "benchmark", "module:Class")
    if name in BENCHMARKS:
        found = find_part(f"{__name__}.{found}", {}, "benchmark")
    if not (isinstance(found, type) and issubclass(found, Benchmark)):
        raise UserError(f"{name!r} is no class of a benchmark: derive it from {Benchmark.__module__}.Benchmark")
    return found


def open_benchmark(name: str, path: str | os.PathLike, **options) -> Benchmark:
    """A benchmark at a path; see `Benchmark` for the options."""
    return find_benchmark(name)(path, **options)

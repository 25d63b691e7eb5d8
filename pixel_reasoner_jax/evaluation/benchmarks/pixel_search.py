"""The quickstart's world as a benchmark: every answer is drawn, and only zooming shows it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import ClassVar

from data_pipeline.sources.pixel_search import SPLITS, PixelSearch
from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.evaluation.benchmarks.base import Benchmark
from pixel_reasoner_jax.evaluation.benchmarks.items import Item, Prompt
from pixel_reasoner_jax.processing.decoding import digest
from pixel_reasoner_jax.query import object_box

COUNT = 500


class PixelSearchBenchmark(Benchmark):
    """Images of the pixel-search world; no files are read.

    Args:
      path: the split, with or without a count behind a colon: "heldout", "heldout:200".
      order: there are no options.
      seed: of the world.
    """

    name = "pixel_search"
    title = "pixel search"
    forms = ()
    scorer = "answer"
    scorers = ("answer", "exact")
    prompts: ClassVar = {"plain": Prompt("{question}")}
    protocol = "model"

    def __init__(self, path: str | os.PathLike = "heldout", order: str = "published", seed: int = 0):
        split, _, count = os.fspath(path).partition(":")
        if split not in SPLITS or (count and not (count.isdecimal() and 0 < int(count) < 10**7)):
            raise UserError(f"{path}: pixel search is SPLIT or SPLIT:COUNT, with a split of {', '.join(SPLITS)}")
        self.seeds = PixelSearch(int(count or COUNT), split, seed)
        self.order, self.seed, self.notes = order, seed, ()
        self.split = split

    @property
    def ids(self) -> Sequence[str]:
        return [self.seeds.id(index) for index in range(len(self))]

    @property
    def rows_digest(self) -> str:
        return digest(f"{self.split} {self.seed}".encode())[:16]

    def __len__(self) -> int:
        return len(self.seeds)

    def __getitem__(self, index: int) -> Item:
        seed = self.seeds[range(len(self))[index]]
        return Item(
            str(seed.id),
            seed.question,
            answers=(seed.answer,) if isinstance(seed.answer, str) else tuple(seed.answer),
            images=seed.images,
            cluster=str(seed.id),
            object_box=object_box(seed.attributes, lambda: seed.images[0].size),
        )

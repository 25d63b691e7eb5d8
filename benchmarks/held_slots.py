"""Slots of an engine that hold so many tokens each, without prompts or a policy: what benchmarks of steps time."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from flax import nnx

from pixel_reasoner_jax.models import Qwen2_5_VL
from pixel_reasoner_jax.processing import Budgets, Geometry
from pixel_reasoner_jax.rollout.counters import Counters
from pixel_reasoner_jax.rollout.engine import Engine
from pixel_reasoner_jax.rollout.engine_arrays import Decoded, Slots
from pixel_reasoner_jax.rollout.layout import Layout
from pixel_reasoner_jax.rollout.pages import CachePages, list_reads
from pixel_reasoner_jax.rollout.sampling import SamplingSettings, SlotSampling
from pixel_reasoner_jax.rollout.shapes import Shapes, platform_units

SCALE_TOKENS = 128  # tokens whose keys and values scale a cache of int8


class NowhereToWait:
    """In place of the device, where no page has to be moved."""

    def save(self, part, pages):
        raise RuntimeError("a response had to wait")

    load = save


class HeldSlots:
    """Slots with zeros for keys and values, which cost what others do.

    Args:
      model: what is run.
      lengths: tokens of each slot.
      longest: tokens that a slot may hold.
      steps: tokens of a call of `decode`.
      dtype: of the cache; None: as the model computes.
      weights: "int8" rounds the decoder's matrices; None: as the model computes.
      sampling: of all slots.

    Attributes:
      engine, params, state: as a rollout has them.
      table: int32 [slots, pages of the longest slot]; see `models.cache.Pages`.
    """

    def __init__(
        self,
        model: Qwen2_5_VL,
        lengths: Sequence[int],
        longest: int,
        steps: int,
        dtype: str | None = None,
        weights: str | None = None,
        sampling: SamplingSettings = SamplingSettings(),  # noqa: B008 - frozen
    ):
        graph, params = nnx.split(model)
        config, layout = model.config, Layout(graph, params, {}, weights)
        self.params = layout(params)
        self.engine = Engine(layout.graphdef, [config.vocab_size - 1])
        self._steps, self._filtered = steps, sampling.filtered
        units = platform_units(None)
        tokens = sum(length + steps + units["page"] for length in lengths)
        geometry = Geometry.from_config(config.to_hf())
        shapes = Shapes.holding(len(lengths), longest, geometry, Budgets(), cache_tokens=tokens, **units)
        account, held = CachePages(shapes, 1, NowhereToWait(), Counters()), []
        for slot, length in enumerate(lengths):
            pages, _ = account.fork(account.begin(0, 1), True)
            account.reserve(pages, length + steps)
            held.append((slot, pages, length + steps))
        padding = shapes.slots - len(lengths)
        self.table = np.pad(np.stack([account.row(pages) for _, pages, _ in held]), ((0, padding), (0, 0)))
        self._reads = list_reads(shapes, held)
        self._sampling = SlotSampling.of([sampling] * shapes.slots, [steps] * len(lengths) + [0] * padding)
        self._lengths = np.pad(np.array(lengths, np.int32), (0, padding))
        self._forbidden = np.zeros(config.vocab_size, bool)
        self._forbidden[-1] = True  # the stop token: every call makes all of its steps
        sizes = shapes.slots, shapes.pages, shapes.page, shapes.items
        text = np.arange(SCALE_TOKENS, dtype=np.int32) % config.vocab_size if dtype == "int8" else None
        self.state: Slots = self.engine.empty(self.params, text, *sizes, dtype, sampling.penalized)

    def decode(self) -> Decoded:
        """Samples the tokens of a call after those that the slots held at first."""
        self.state = dataclasses.replace(self.state, length=jnp.asarray(self._lengths))
        most, patience = np.int32(self._steps), np.int32(len(self._lengths) + 1)
        given = self.table, self._reads, self._sampling, self._forbidden, most, patience
        options = dict(steps=self._steps, filtered=self._filtered)
        self.state, decoded = self.engine.decode(self.params, self.state, *given, **options)
        return decoded

"""What all rollouts of a policy share: compiled programs, parameters, declared shapes, and the embedding table."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jax
import numpy as np
from flax import nnx

from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.parallel import local_parts, parts
from pixel_reasoner_jax.processing import Processor
from pixel_reasoner_jax.rollout.embeddings import EmbeddingTable, RowAllocator
from pixel_reasoner_jax.rollout.engine import Engine
from pixel_reasoner_jax.rollout.layout import Layout, check_cache
from pixel_reasoner_jax.rollout.sampling import SamplingSettings
from pixel_reasoner_jax.rollout.scale_text import scale_text
from pixel_reasoner_jax.rollout.shapes import Shapes, platform_units


class Runtime:
    """A model on its mesh, with all that its rollouts share.

    Args:
      model: a `models.Qwen2_5_VL`.
      processor: its `processing.Processor`.
      mesh, weights: see `Layout`.
      cache_dtype: type of the KV cache, "int8" among them; None takes the type that the model computes in.

    Attributes:
      engine: the compiled steps.
      graphdef, config, dtype: the model's; `dtype` is what it computes in.
      layout: how rollouts hold the parameters.
      mesh: of the rollouts.
      scale_text: tokens for `engine.empty`.
      shortest: the shortest of the types that the computation, the weights and the cache have.
      version: how often `params` has been assigned.
    """

    def __init__(
        self,
        model: Any,
        processor: Processor,
        *,
        mesh: Mapping[str, int] = MappingProxyType({}),
        weights: str | None = None,
        cache_dtype: str | None = None,
    ):
        self.graphdef, params = nnx.split(model)
        self._places = jax.tree.map(lambda leaf: leaf.sharding, params)
        self._params = self._placed(params)
        self.layout = Layout(self.graphdef, params, mesh, weights)
        self._laid_out: Any = None
        self.config, self.mesh, self.processor = model.config, self.layout.mesh, processor
        self.cache_dtype, self.dtype = cache_dtype, model.language.dtype
        check_cache(self.config, cache_dtype or self.dtype, self.mesh)
        self.scale_text = scale_text(processor) if cache_dtype == "int8" else None
        types = [str(np.dtype(one)) for one in (self.dtype, weights, cache_dtype) if one is not None]
        self.shortest = min(types, key=lambda name: np.dtype(name).itemsize)
        self.engine = Engine(self.layout.graphdef, processor.stop_tokens, self.mesh)
        self.version = 0
        self._shapes: Shapes | None = None
        self._table: tuple[int, EmbeddingTable] | None = None

    @property
    def params(self) -> Any:
        """The parameters in use, as the model has them."""
        return self._params

    @params.setter
    def params(self, params: Any) -> None:
        self._laid_out = None
        self._params = self._placed(params)
        self.version += 1  # the table of an older version holds embeddings of other parameters

    def rollout_params(self) -> Any:
        """The parameters in use as rollouts take them (`Layout`), made when a rollout asks for them first."""
        if self._laid_out is None:
            self._laid_out = self.layout(self._params)
        return self._laid_out

    def release(self) -> None:
        """Drops what only rollouts need: the parameters as they take them, where these are copies, and the table."""
        self._laid_out = None
        self.forget_table()

    def _placed(self, params: Any) -> Any:
        """The parameters in the places of the model's, committed to them, since each other place is another program.

        What is there already is not copied, and what is abstract, of a model whose programs alone matter, is nowhere.
        """

        def place(leaf: Any, sharding: jax.sharding.Sharding) -> Any:
            is_there = isinstance(leaf, jax.Array) and leaf.committed and leaf.sharding == sharding
            return leaf if is_there or isinstance(leaf, jax.ShapeDtypeStruct) else jax.device_put(leaf, sharding)

        return jax.tree.map(place, params, self._places)

    def forbidden(self, sampling: SamplingSettings) -> np.ndarray:
        """Which tokens are never drawn with these settings, bool [vocab].

        Raises:
          UserError: a token of `sampling.forbidden_tokens` is not in the vocabulary.
        """
        mask = np.zeros(self.config.vocab_size, bool)
        if outside := [token for token in sampling.forbidden_tokens if not 0 <= token < len(mask)]:
            raise UserError(f"forbidden_tokens has {outside[0]}; the vocabulary is {len(mask)}")
        mask[self.processor.forbidden_tokens] = True
        mask[list(sampling.forbidden_tokens)] = True
        return mask

    def declare(self, slots: int, length: int, cache_tokens: int | None = None) -> Shapes:
        """Declares shapes with at least `slots` slots of `length` tokens in each part of the mesh.

        The shapes declared before are kept if they have room, so that nothing is compiled again.

        Args:
          cache_tokens: that a part's cache holds; see `Shapes.holding`.
        """
        held, wanted = self._shapes, self._holding(slots, length, cache_tokens)
        if held is None or held.slots < wanted.slots or held.length < wanted.length or held.pages < wanted.pages:
            if held is not None:
                wanted = self._holding(max(slots, held.slots), max(length, held.length), cache_tokens)
            self._shapes = wanted
        return self._shapes

    def _holding(self, slots: int, length: int, cache_tokens: int | None) -> Shapes:
        processor, units = self.processor, platform_units(self.mesh)
        return Shapes.holding(slots, length, processor.geometry, processor.budgets, cache_tokens=cache_tokens, **units)

    def table(self, params: Any, version: int) -> EmbeddingTable:
        """The table of images encoded with `params`, which have this version; an empty one if it has to be made."""
        size = self._shapes.table
        if self._table is None or self._table[0] != version or self._table[1].allocators[0].size < size:
            self._table = None  # its memory is free before the new one's is taken
            array = self.engine.empty_table(params, size * parts(self.mesh))
            self._table = version, EmbeddingTable(array, [RowAllocator(size) for _ in local_parts(self.mesh)])
        return self._table[1]

    def forget(self) -> None:
        """Drops the declared shapes and what was made of them, as if no rollout had been."""
        self._shapes = self._table = None

    def forget_table(self) -> None:
        """Drops the embedding table, so that every image is encoded again."""
        self._table = None

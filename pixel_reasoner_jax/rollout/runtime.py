"""What all rollouts of a policy share on the devices: programs, parameters, declared shapes, embeddings of images."""

from __future__ import annotations

from typing import Any

import numpy as np
from flax import nnx

from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.parallel import local_parts, parts
from pixel_reasoner_jax.processing import Processor
from pixel_reasoner_jax.rollout.embeddings import EmbeddingTable, RowAllocator
from pixel_reasoner_jax.rollout.engine import Engine
from pixel_reasoner_jax.rollout.sampling import SamplingSettings
from pixel_reasoner_jax.rollout.shapes import Shapes


class Runtime:
    """A model on its mesh, ready to roll out.

    Args:
      model: a `models.Qwen2_5_VL`.
      processor: its `processing.Processor`.
      decode_steps: the most tokens that one call of `Engine.decode` samples.
      gather_parameters: see `Engine`.
      cache_dtype: type of the KV cache; None takes the type that the model computes in.

    Attributes:
      engine: the compiled steps.
      graphdef, config, mesh: of the model.
      version: counts the parameters that have been assigned to `params`.
    """

    def __init__(
        self,
        model: Any,
        processor: Processor,
        *,
        decode_steps: int,
        gather_parameters: bool = True,
        cache_dtype: str | None = None,
    ):
        self.graphdef, self._params = nnx.split(model)
        self.config, self.mesh, self.processor = model.config, model.mesh, processor
        self.decode_steps, self.cache_dtype = decode_steps, cache_dtype
        self.engine = Engine(self.graphdef, processor.stop_tokens, self.mesh, gather_parameters)
        self.version = 0
        self._shapes: Shapes | None = None
        self._table: tuple[int, EmbeddingTable] | None = None

    @property
    def params(self) -> Any:
        """The parameters in use."""
        return self._params

    @params.setter
    def params(self, params: Any) -> None:
        self._params = params
        self.version += 1  # what was encoded with other parameters is of no use

    def forbidden(self, sampling: SamplingSettings) -> np.ndarray:
        """bool [vocab]: the tokens that are never drawn with such settings.

        Raises:
          UserError: `forbidden_tokens` that are not in the vocabulary.
        """
        mask = np.zeros(self.config.vocab_size, bool)
        if outside := [token for token in sampling.forbidden_tokens if not 0 <= token < len(mask)]:
            raise UserError(f"forbidden_tokens has {outside[0]}; the vocabulary is {len(mask)}")
        mask[self.processor.forbidden_tokens] = True
        mask[list(sampling.forbidden_tokens)] = True
        return mask

    def declare(self, slots: int, length: int) -> Shapes:
        """Shapes with `slots` slots of `length` tokens in each part of the mesh: those in use if they have room."""
        held = self._shapes
        if held is None or held.slots < slots or held.length < length:
            if held is not None:
                slots, length = max(slots, held.slots), max(length, held.length)
            self._shapes = Shapes.holding(slots, length, self.processor.geometry, self.processor.budgets)
        return self._shapes

    def table(self, params: Any, version: int) -> EmbeddingTable:
        """The images encoded with a version of the parameters; an empty table where there is none of that version."""
        size = self._shapes.table
        if self._table is None or self._table[0] != version or self._table[1].allocators[0].size < size:
            self._table = None  # its memory is free before the new one's is taken
            array = self.engine.empty_table(params, size * parts(self.mesh))
            self._table = version, EmbeddingTable(array, [RowAllocator(size) for _ in local_parts(self.mesh)])
        return self._table[1]

    def forget_table(self) -> None:
        """Has every image encoded anew."""
        self._table = None

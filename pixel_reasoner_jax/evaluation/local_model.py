"""A model directory as policies: one for each protocol and mode, with one copy of the weights."""

from __future__ import annotations

import os
from collections.abc import Mapping

import jax

from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.evaluation.identity import model_hash
from pixel_reasoner_jax.evaluation.protocol import OwnSettings, Protocol
from pixel_reasoner_jax.files import as_path
from pixel_reasoner_jax.models import Qwen2_5_VL
from pixel_reasoner_jax.parallel import is_shared, make_mesh
from pixel_reasoner_jax.processing import Processor
from pixel_reasoner_jax.rollout import Policy
from pixel_reasoner_jax.rollout.settings import PolicySettings, check_is_model, parameter_type


class LocalModel:
    """A model on this machine's devices, or with several processes on those of all of them.

    Args:
      directory: of the model, ours or Hugging Face's, or an adapter's.
      dtype: type of the parameters, or "auto"; see `parameter_type`.
      mesh: sizes of the mesh's axes, see `parallel.make_mesh`.
      slots: responses in flight.

    Attributes:
      description: its name, a hash of its weights, and the type that they are loaded in, for results.
      own: what it brings along for protocols.

    Raises:
      UserError: it is no model directory, or devices cannot form the mesh. The weights are read by `policy`.
    """

    def __init__(
        self,
        directory: str | os.PathLike,
        dtype: str = "auto",
        mesh: Mapping[str, int] | None = None,
        slots: int = 64,
    ):
        check_is_model(directory)
        self._directory, self._slots = directory, slots
        self._mesh = make_mesh(mesh or {"data": -1})
        self._processor = Processor.from_pretrained(directory)
        self.own = OwnSettings(PolicySettings.load(directory), self._processor.budgets)
        self.description = {
            "name": as_path(directory).resolve().name,
            "hash": model_hash(directory),
            "dtype": parameter_type(directory, dtype),
        }
        self._model: Qwen2_5_VL | None = None
        self._policy: Policy | None = None

    def policy(self, protocol: Protocol, mode: str) -> Policy:
        """The policy that answers by a protocol in one of its modes, until the next one is asked for.

        Raises:
          UserError: the weights cannot be read, or several processes share the mesh and no length is set.
        """
        if is_shared(self._mesh) and protocol.limits.max_length is None:
            raise UserError(
                "several processes share their shapes: set --max-length, the tokens of the longest prompt and response"
                " together"
            )
        if self._model is None:
            # A mesh of one device would only slow compilation down.
            mesh = None if self._mesh.size == 1 and jax.process_count() == 1 else self._mesh
            self._model = Qwen2_5_VL.from_pretrained(self._directory, dtype=self.description["dtype"], mesh=mesh)
        if self._policy is None or self._policy.processor.budgets != protocol.budgets:
            old = self._processor
            processor = Processor(
                old.tokenizer,
                old.config,
                old.preprocessor,
                protocol.budgets,
                old.position_rule,
                old.video_preprocessor,
                old.generation,
            )
            self._policy = None  # its cache is free before the next one's is taken
            self._policy = Policy(self._model, processor, slots=self._slots)
        policy = self._policy
        policy.limits = protocol.limits
        if mode == "text":
            policy.registry, policy.guidelines = None, protocol.text_guidelines
        else:
            policy.registry = protocol.operations.registry()
            policy.guidelines = protocol.guidelines
        return policy

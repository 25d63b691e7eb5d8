"""Rolls out queries, has the trainer score what was sampled, and compares the two."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from ml_collections import ConfigDict

from pixel_reasoner_jax.checks import findings
from pixel_reasoner_jax.checks.findings import Finding
from pixel_reasoner_jax.checks.forced_calls import ForcedCalls
from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.parallel import parts
from pixel_reasoner_jax.rollout import Limits, Policy, Query, QueryError, SamplingSettings, answered
from pixel_reasoner_jax.training.losses import sft_loss
from pixel_reasoner_jax.training.packing import Sequence as Trained
from pixel_reasoner_jax.training.packing import plan
from pixel_reasoner_jax.training.scoring import trainer_logprobs
from pixel_reasoner_jax.training.state import Trainer
from pixel_reasoner_jax.training.virtual_shards import AgreedBatches, VirtualShards
from pixel_reasoner_jax.trajectory import Trajectory

TURN_TOKENS = 48  # sampled in a turn at most
OPERATIONS = 2  # of a response, so that there is text before, between and after what they return
TEMPERATURES = (1.0, 0.9)  # of the first turn and of later ones, so that one of them matters

_log = logging.getLogger(__name__)


def make_trainer(policy: Policy) -> Trainer:
    """A trainer of the policy's model, as that of `rl` is made; only its scores are used."""
    model = nnx.merge(policy.runtime.graphdef, policy.params)
    forbidden = np.zeros(model.config.vocab_size, bool)
    forbidden[policy.processor.forbidden_tokens] = True
    return Trainer(model, optax.identity(), sft_loss, forbidden=forbidden)


def roll_out(
    policy: Policy,
    queries: Sequence[Query],
    samples: int,
    seed: int = 0,
    turn_tokens: int = TURN_TOKENS,
    on_response: Callable[[int], None] | None = None,
) -> list[Trajectory]:
    """Samples short responses that have operations whatever the model writes.

    Args:
      policy: its limits are set aside.
      queries: what is asked; those whose media cannot be used are left out, and named in the log.
      samples: responses to each.
      seed: of sampling.
      turn_tokens: sampled in a turn at most.
      on_response: called with the number of responses so far.

    Raises:
      UserError: none of the queries can be asked.
    """
    sampling = SamplingSettings(TEMPERATURES[0], max_turn_tokens=turn_tokens, later=SamplingSettings(TEMPERATURES[1]))
    before, trajectories = (policy.limits, policy.registry), []
    policy.limits = Limits(max_operations=OPERATIONS)
    policy.registry = None if policy.registry is None else ForcedCalls(policy.registry)
    failed: list[QueryError] = []
    try:
        with _exact_products(policy), policy.stream(queries, samples, seed, sampling=sampling) as stream:
            for _, trajectory in answered(stream, failed.append):
                trajectories.append(trajectory)
                if on_response:
                    on_response(len(trajectories))
    finally:
        policy.limits, policy.registry = before
    for error in failed:
        _log.warning("left out: %s", error)
    if not trajectories:
        raise UserError(
            f"none of the {len(queries)} queries can be asked{f'; the last: {failed[-1]}' if failed else ''}"
        )
    return trajectories


def compare(policy: Policy, trainer: Trainer, trajectories: Sequence[Trajectory]) -> list[Finding]:
    """All checks of what `roll_out` returned.

    Args:
      policy: that has sampled.
      trainer: of the same model; see `make_trainer`.
      trajectories: at least one.
    """
    sequences = [Trained.of(trajectory) for trajectory in trajectories]
    by_sequence = dict(zip(map(id, sequences), trajectories, strict=True))
    agreed = _pack(policy, sequences)
    placed = findings.placed_trajectories(agreed, agreed(), by_sequence)
    with _exact_products(policy):
        scored = trainer_logprobs(trainer, policy.params, agreed)
    pairs = [(by_sequence[id(sequence)], logprobs) for sequence, logprobs in scored]
    return [
        findings.coverage(trajectories, policy.processor, policy.registry is not None),
        findings.renderer(trajectories, policy.processor),
        findings.positions(placed, policy.processor),
        findings.masks(placed, policy.processor),
        findings.agreement(pairs, policy.processor, policy.runtime.shortest),
    ]


def _pack(policy: Policy, sequences: Sequence[Trained]) -> AgreedBatches:
    """Packs trajectories as a run does, several in a row, dealt out to the parts of the mesh."""
    mesh = nnx.merge(policy.runtime.graphdef, policy.params).mesh
    config = ConfigDict(dict(data=dict(shards=0), train=dict(batch_size=parts(mesh))))
    shards = VirtualShards(config, mesh)
    row = 2 * max(len(sequence.tokens) for sequence in sequences)
    plans = {
        shard: plan(sequences[number :: len(shards.local)], policy.processor, rows=1, row_length=row)
        for number, shard in enumerate(shards.local)
    }
    return shards.agree_on_shapes(plans, policy.processor, rows=1)


def _exact_products(policy: Policy) -> contextlib.AbstractContextManager[Any]:
    """Has accelerators multiply float32 in all of its bits, which they do not by default."""
    exact = _dtype(policy) == "float32" and jax.default_backend() != "cpu"
    return jax.default_matmul_precision("highest") if exact else contextlib.nullcontext()


def _dtype(policy: Policy) -> str:
    """The type that a policy's model computes in."""
    return str(jnp.dtype(nnx.merge(policy.runtime.graphdef, policy.params).language.dtype))

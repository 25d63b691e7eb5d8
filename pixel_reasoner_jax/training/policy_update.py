"""What an update of the policy computes before its gradient: forward passes, and the details that its loss takes.

The default needs nothing of it. Other settings of `config.grpo` and `config.auxiliary` need, for every trained token,

    the trainer's own log-probability under the policy that sampled it     correction of the sampler's, KL-Cov
    log-probability and entropy under the policy as it is                  GSPO, covariances, tokens by their entropy
    log-probability under a reference                                      KL term

each by one `Trainer.score`, and then weights and marks, in numpy (`token_weights`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.models.layers import ADAPTER
from pixel_reasoner_jax.models.lora import has_adapters
from pixel_reasoner_jax.named_parts import find_part, numbers_of
from pixel_reasoner_jax.parallel import all_gather, is_main
from pixel_reasoner_jax.training import packing
from pixel_reasoner_jax.training.losses import policy_loss, surrogate_of
from pixel_reasoner_jax.training.packing import Batch
from pixel_reasoner_jax.training.state import Trainer, TrainState
from pixel_reasoner_jax.training.token_weights import (
    AGGREGATIONS,
    CORRECTIONS,
    Size,
    clipped,
    covariances,
    drawn_between,
    sequence_means,
    sequence_ratios,
    top_share,
)
from pixel_reasoner_jax.training.training_run import TrainingRun
from pixel_reasoner_jax.training.virtual_shards import AgreedBatches

KNOWN = ("aggregation", "weights", "sequence_ratios", "reference", "nll", "kl_cov")
"""Details that a policy loss may take beside those that every loss takes, in the order in which they are made:
weights of `config.grpo.aggregation`; weights of corrections and masks of tokens; GSPO's ratios; log-probabilities under
the reference; 1 by the share of the tokens that are of right responses, for these, else 0; for the tokens with the
largest covariances 1 where they have become likelier in the episode, and -1 where less likely, else 0."""

Updates = Sequence[Mapping[int, Sequence[packing.Sequence]]]


def details_of(config: ConfigDict) -> tuple[str, ...]:
    """The names, out of `KNOWN`, of the details that the loss of an experiment takes.

    Raises:
      UserError: the policy loss asks for another one.
    """
    grpo, auxiliary = config.grpo, config.auxiliary
    wanted = set(getattr(surrogate_of(grpo), "details", ()))
    if unknown := sorted(wanted - set(KNOWN)):
        raise UserError(f"policy loss {grpo.loss!r} asks for the detail {unknown[0]!r}; known: {', '.join(KNOWN)}")
    if grpo.aggregation != "token_mean":
        wanted.add("aggregation")
    if correction_of(config) != "none" or grpo.entropy_fraction < 1 or auxiliary.clip_cov_fraction:
        wanted.add("weights")
    wanted |= {name for name, term in (("reference", "kl"), ("nll", "nll"), ("kl_cov", "kl_cov")) if auxiliary[term]}
    return tuple(name for name in KNOWN if name in wanted)


def correction_of(config: ConfigDict) -> str:
    """`config.grpo.correction`; for "auto", "tis" where rollouts round weights or the cache to int8, else "none"."""
    if config.grpo.correction != "auto":
        return config.grpo.correction
    return "tis" if "int8" in (config.rollout.weights, config.rollout.cache_dtype) else "none"


def settle_correction(config: ConfigDict) -> None:
    """Sets the correction that "auto" is, for the config that is saved, and says so if it is one."""
    settled = correction_of(config)
    if config.grpo.correction == "auto" and settled != "none" and is_main():
        print(
            f"config.grpo.correction is {settled!r}, since rollouts round to int8; 'none' leaves it off",
            file=sys.stderr,
            flush=True,
        )
    config.grpo.correction = settled


def check_update_parts(config: ConfigDict) -> None:
    """Checks that every part that an experiment names is there, before anything large is loaded.

    Raises:
      UserError: one is not; the message names it.
    """
    policy_loss(config)
    details_of(config)
    find_part(config.grpo.aggregation, AGGREGATIONS, "aggregation")
    _correction(config)


def score_passes(config: ConfigDict) -> int:
    """How often the tokens of an update are scored, forward only, beside its gradient."""
    return _needs_present(config) + _needs_old(config) + ("reference" in details_of(config))


def has_second_tree(config: ConfigDict) -> bool:
    """Whether the parameters of a reference are in memory beside the policy's: where there is one, and no adapters."""
    return "reference" in details_of(config) and not config.lora.rank


class UpdatePasses:
    """The passes before the updates of an experiment.

    Args:
      config: the experiment.
      trainer: computes them.
      model: with the parameters of `config.model.directory`, which are the reference's. Without adapters they are
        copied, where there is a KL term; with adapters, they are always there.
    """

    def __init__(self, config: ConfigDict, trainer: Trainer, model: Any):
        self._config, self._trainer = config, trainer
        self._settings = ConfigDict(config.grpo)
        self._settings.constant_length = config.grpo.constant_length or config.rollout.max_response_tokens
        self._details = details_of(config)
        self._aggregation = find_part(config.grpo.aggregation, AGGREGATIONS, "aggregation")
        self._correction = _correction(config)
        self._reference = _reference(model) if "reference" in self._details else None
        self._old: dict[int, np.ndarray] = {}  # the trainer's log-probabilities of a sequence, by its id
        self._first_step = -1  # updates made before the episode

    def begin_episode(self, state: TrainState, updates: Updates, training: TrainingRun) -> None:
        """Scores the sequences of an episode with the parameters that sampled them, where that is needed.

        All processes call this together.

        Args:
          state: that the episode's responses were sampled with.
          updates: for each update of the episode, the sequences of each of this process's shards. They are known by
            their identity: `prepare` is called with the same ones. Updates are scored one after the other, so that the
            arrays of one alone are in memory.
          training: plans and builds batches.
        """
        if not _needs_old(self._config):
            return
        self._old, self._first_step = {}, int(state.step)
        for update in updates:
            new = {
                shard: list({id(one): one for one in sequences if id(one) not in self._old}.values())
                for shard, sequences in update.items()
            }
            agreed = training.agree_on_shapes(training.plan(new))
            scores = self._trainer.score(state.params, agreed())
            for pairs in agreed.unpack([score["logprobs"] for score in scores]).values():
                self._old |= {id(sequence): logprobs for sequence, logprobs in pairs}

    def prepare(
        self, state: TrainState, agreed: AgreedBatches, batches: list[Batch]
    ) -> tuple[list[Batch], dict[str, float]]:
        """Gives the batches of an update the details that the loss takes. All processes call this together.

        Args:
          state: before the update.
          agreed: what the batches were built of.
          batches: of the update.

        Returns:
          The batches with `details_of` the experiment, and figures of the update, which replace those of the same
          name that the loss returns.
        """
        if not self._details:
            return batches, {}
        tokens = UpdateTokens(agreed, batches)
        if not tokens.size.tokens:
            return batches, {}
        config, made, figures = self._config, {}, {}
        sampled = tokens["logprobs"]
        trainers = tokens.concatenated(self._old) if _needs_old(config) else sampled
        old = sampled
        if self._correction is not None:
            old = made["logprobs"] = trainers
        present = self._trainer.score(state.params, batches) if _needs_present(config) else []
        present = {name: tokens.flat([one[name] for one in present]) for name in ("logprobs", "entropy") if present}
        for name in self._details:
            if name == "aggregation":
                made[name] = self._aggregation_weights(tokens)
            elif name == "weights":
                made[name], of_weights = self._weights(tokens, old, present, int(state.step))
                figures |= of_weights
            elif name == "sequence_ratios":
                made[name] = sequence_ratios(present["logprobs"], old, tokens.lengths)
            elif name == "reference":
                scores = self._trainer.score(self._reference(state.params), batches)
                made[name] = tokens.flat([score["logprobs"] for score in scores])
            elif name == "nll":
                right = np.repeat([float(one.correct > 0) for one in tokens.sequences], tokens.lengths)
                made[name] = right / max(tokens.mean(right), 1 / tokens.size.tokens)
            elif name == "kl_cov":
                covariance = covariances(present["logprobs"], tokens["advantages"], tokens.size)
                marked = top_share(covariance, config.auxiliary.kl_cov_fraction, tokens.size)
                moved = present["logprobs"] - trainers
                if int(state.step) == self._first_step:  # nothing has moved yet: what there is, is rounding
                    moved = np.zeros_like(moved)
                made[name] = marked * np.sign(moved)
                figures[name] = tokens.mean(made[name] * moved)
        arrays = {name: tokens.rows(values) for name, values in made.items()}
        return [
            {**batch, **{name: arrays[name][number] for name in arrays}} for number, batch in enumerate(batches)
        ], figures

    def _aggregation_weights(self, tokens: UpdateTokens) -> np.ndarray:
        name = f"aggregation {self._config.grpo.aggregation!r}"
        weights = self._aggregation(tokens.lengths, tokens.size, self._settings)
        return np.repeat(numbers_of(name, weights, tokens.lengths.shape, "sequences"), tokens.lengths)

    def _weights(
        self, tokens: UpdateTokens, old: np.ndarray, present: Mapping[str, np.ndarray], step: int
    ) -> tuple[np.ndarray, dict[str, float]]:
        """The weights of corrections and masks of tokens, and their figures."""
        grpo, auxiliary = self._config.grpo, self._config.auxiliary
        weights, figures = np.ones(len(old)), {}
        if self._correction is not None:
            log_ratios = old.astype(np.float64) - tokens["logprobs"]
            weights = self._correction(log_ratios, tokens.lengths, grpo.correction_bounds)
            weights = numbers_of(f"correction {grpo.correction!r}", weights, log_ratios.shape, "tokens")
            figures["correction_weight"] = tokens.mean(weights)
            figures["correction_rejected"] = tokens.mean(weights == 0)
            figures["logprob_difference"] = tokens.mean(np.abs(log_ratios))
        if grpo.entropy_fraction < 1:
            kept = top_share(present["entropy"], grpo.entropy_fraction, tokens.size)
            figures["entropy_kept"] = tokens.mean(np.where(kept, present["entropy"], 0.0)) / tokens.mean(kept)
            weights = weights * kept
        if auxiliary.clip_cov_fraction:
            covariance = covariances(present["logprobs"], tokens["advantages"], tokens.size)
            covariance[self._clipped(tokens, present["logprobs"] - old)] = -np.inf  # they have no loss as it is
            bounds, share = auxiliary.clip_cov_bounds, auxiliary.clip_cov_fraction
            seed = (self._config.seed, step)
            drawn = drawn_between(covariance, bounds, share, tokens.size, tokens.shards, seed)
            figures["clip_cov_fraction"] = tokens.mean(drawn)
            weights = weights * ~drawn
        return weights, figures

    def _clipped(self, tokens: UpdateTokens, log_ratios: np.ndarray) -> np.ndarray:
        """Whether the policy loss takes a token's gradient already, bool [tokens]; of a loss of one's own, none is."""
        grpo, advantages = self._config.grpo, tokens["advantages"]
        if grpo.loss not in ("clip", "dual_clip", "gspo"):
            return np.zeros(len(log_ratios), bool)
        if grpo.loss == "gspo":
            log_ratios = np.repeat(sequence_means(log_ratios, tokens.lengths), tokens.lengths)
        found = clipped(log_ratios, advantages, grpo.clip_low, grpo.clip_high)
        if grpo.loss == "dual_clip":
            found |= (advantages < 0) & (log_ratios > np.log(grpo.dual_clip))
        return found


class UpdateTokens:
    """The trained tokens of an update in this process, one sequence after the other; item `name` is a batch's array.

    Attributes:
      sequences, lengths: the sequences in this order, and how many trained tokens each has.
      shards: the shard of each token.
      size: of the update in all processes.
    """

    def __init__(self, agreed: AgreedBatches, batches: list[Batch]):
        self._batches, self._masks = batches, [batch["target_mask"] > 0 for batch in batches]
        shards_and_sequences = agreed.sequences()
        self.sequences = [sequence for _, sequence in shards_and_sequences]
        self.lengths = np.array([sequence.targets for sequence in self.sequences], int)
        self.shards = np.repeat(np.array([shard for shard, _ in shards_and_sequences], int), self.lengths)
        self.size = Size.of(self.lengths)

    def __getitem__(self, name: str) -> np.ndarray:
        return self.flat([batch[name] for batch in self._batches])

    def concatenated(self, values: Mapping[int, np.ndarray]) -> np.ndarray:
        """[tokens] of an array for each sequence, by its `id`."""
        return np.concatenate([np.zeros(0, np.float32), *(values[id(one)] for one in self.sequences)])

    def flat(self, arrays: Sequence[np.ndarray]) -> np.ndarray:
        """[tokens] of an array [rows, K] for each batch."""
        return np.concatenate([array[mask] for array, mask in zip(arrays, self._masks, strict=True)])

    def rows(self, values: np.ndarray) -> list[np.ndarray]:
        """The inverse of `flat`, in float32, with 0 in padding."""
        ends = np.cumsum([mask.sum() for mask in self._masks])[:-1]
        arrays = [np.zeros(mask.shape, np.float32) for mask in self._masks]
        for array, mask, of_batch in zip(arrays, self._masks, np.split(values, ends), strict=True):
            array[mask] = of_batch
        return arrays

    def mean(self, values: np.ndarray) -> float:
        """Over the tokens of all processes, which call this together."""
        return float(all_gather(np.asarray(values.sum(dtype=np.float64))).sum() / self.size.tokens)


def _needs_present(config: ConfigDict) -> bool:
    """Whether log-probabilities and entropies under the policy as it is are needed."""
    masked = config.grpo.entropy_fraction < 1 or config.auxiliary.clip_cov_fraction > 0
    return masked or not {"sequence_ratios", "kl_cov"}.isdisjoint(details_of(config))


def _needs_old(config: ConfigDict) -> bool:
    """Whether the trainer's own log-probabilities under the policy that sampled are needed."""
    return correction_of(config) != "none" or "kl_cov" in details_of(config)


def _correction(config: ConfigDict) -> Callable[..., np.ndarray] | None:
    name = correction_of(config)
    return None if name == "none" else find_part(name, CORRECTIONS, "correction")


def _reference(model: Any) -> Callable[[nnx.State], nnx.State]:
    """A function that gives the reference's parameters, from the policy's present ones."""
    params = nnx.state(model)
    if not has_adapters(model):
        copy = jax.tree.map(jnp.copy, params)  # updates donate the model's own
        return lambda _: copy
    adapters, _ = nnx.split_state(params, nnx.PathContains(ADAPTER), ...)
    zeros = jax.tree.map(lambda leaf: jnp.zeros_like(leaf, device=leaf.sharding), adapters)

    def without_adapters(params: nnx.State) -> nnx.State:
        _, others = nnx.split_state(params, nnx.PathContains(ADAPTER), ...)
        return nnx.merge_state(zeros, others)

    return without_adapters

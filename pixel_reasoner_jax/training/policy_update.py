"""What an update of the policy computes before its gradient: passes, shaped advantages, and the details of its loss.

The default needs nothing of it. Other settings of `config.grpo` and `config.auxiliary` name functions of the update
(`update_view`): shapings give every token another advantage, and details are further arrays that the loss takes. What
they need to know of the tokens is computed by forward passes (`passes`), each by one `Trainer.score`.
"""

from __future__ import annotations

import collections
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from pixel_reasoner_jax.config_values import POLICIES
from pixel_reasoner_jax.models.layers import ADAPTER
from pixel_reasoner_jax.models.lora import has_adapters
from pixel_reasoner_jax.named_parts import find_part, numbers_of
from pixel_reasoner_jax.parallel import is_main
from pixel_reasoner_jax.training import packing
from pixel_reasoner_jax.training.contexts import as_asked
from pixel_reasoner_jax.training.joint_terms import ShownRows, joint_arrays, joint_details, joint_parts, row_labels
from pixel_reasoner_jax.training.losses import auxiliary_terms, policy_loss, surrogate_of
from pixel_reasoner_jax.training.packing import Batch
from pixel_reasoner_jax.training.passes import Pass, Scores, agree, check_labels, scores_of
from pixel_reasoner_jax.training.preference import PAIRS
from pixel_reasoner_jax.training.schedules import is_on, scheduled_details, value_of
from pixel_reasoner_jax.training.shaping import shape_advantages, shapings
from pixel_reasoner_jax.training.state import Trainer, TrainState
from pixel_reasoner_jax.training.token_weights import AGGREGATIONS, CORRECTIONS
from pixel_reasoner_jax.training.training_run import TrainingRun
from pixel_reasoner_jax.training.update_details import (
    DETAILS,
    HostFunction,
    correction_of,
    find_details,
    passes_of,
    weight_parts,
)
from pixel_reasoner_jax.training.update_view import UpdateView
from pixel_reasoner_jax.training.virtual_shards import AgreedBatches

Updates = Sequence[Mapping[int, Sequence[packing.Sequence]]]


def details_of(config: ConfigDict) -> tuple[str, ...]:
    """The names of the details that the loss of an experiment takes.

    Raises:
      UserError: a part of the loss asks for one that is not there.
    """
    return *_details(config), *joint_details(config), *scheduled_details(config)


def _details(config: ConfigDict) -> dict[str, HostFunction]:
    """The details that the loss of an experiment takes, with the functions that make them, in this order."""
    grpo = config.grpo
    asking = [(f"auxiliary term {label!r}", term) for label, term in auxiliary_terms(config).items()]
    asked = find_details([(f"policy loss {grpo.loss!r}", surrogate_of(grpo)), *asking])
    on = {
        "aggregation": grpo.aggregation != "token_mean",
        "weights": weight_parts(config),
        "reference": is_on(config, "auxiliary.kl"),
        "nll": is_on(config, "auxiliary.nll"),
        "kl_cov": is_on(config, "auxiliary.kl_cov"),
    }
    ours = {name: function for name, function in DETAILS.items() if name in asked or on.get(name)}
    return ours | asked


def _host_functions(config: ConfigDict) -> list[tuple[str, Any]]:
    """What an update calls on the host: what it is, for messages, and the function."""
    details = [(f"detail {name!r}", function) for name, function in _details(config).items()]
    named = [(f"shaping {name!r}", function) for name, function in shapings(config)]
    return [*details, *named, *joint_parts(config).items()]


def passes_asked_for(config: ConfigDict) -> tuple[Pass, ...]:
    """The passes of an experiment's updates, in the order of their policies and of `config.passes`.

    Raises:
      UserError: a function asks for one that is not there.
    """
    found: dict[str, Pass] = {}
    for name, function in _host_functions(config):
        for label in passes_of(function, config):
            found[label] = Pass.of(label, config, name)
    found |= {label: Pass.of(label, config, "") for label in row_labels(config)}
    order = (*POLICIES, *config.passes)
    return tuple(sorted(found.values(), key=lambda one: order.index(one.label)))


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
    check_labels(config)
    passes_asked_for(config)
    find_part(config.grpo.aggregation, AGGREGATIONS, "aggregation")
    find_part(config.grpo.preference_pairs, PAIRS, "choice of pairs")
    if (name := correction_of(config)) != "none":
        find_part(name, CORRECTIONS, "correction")


def score_passes(config: ConfigDict) -> int:
    """How often the tokens of an update are scored, forward only, beside its gradient."""
    return len(passes_asked_for(config))


def gradient_passes(config: ConfigDict) -> int:
    """How often a gradient is computed of the tokens of an update: once, and for passes that join it as rows."""
    return 1 + len(row_labels(config))


def _has_reference(config: ConfigDict) -> bool:
    return any(one.policy == "reference" for one in passes_asked_for(config))


def has_second_tree(config: ConfigDict) -> bool:
    """Whether the parameters of a reference are in memory beside the policy's: where there is one, and no adapters."""
    return _has_reference(config) and not config.lora.rank


class UpdatePasses:
    """What the updates of an experiment compute before their gradients.

    Args:
      config: the experiment.
      trainer: makes the passes.
      model: with the parameters of `config.model.directory`, which are the reference's. Without adapters they are
        copied, where a pass is made with them; with adapters, they are always there.
    """

    def __init__(self, config: ConfigDict, trainer: Trainer, model: Any):
        self._config, self._trainer = config, trainer
        self._details, self._passes = _details(config), passes_asked_for(config)
        self._names, self._row_labels = details_of(config), row_labels(config)
        self._reference = _reference(model) if _has_reference(config) else None
        self._training: TrainingRun | None = None
        self._old: dict[str, dict[int, Scores]] = {}  # by label, and by the id of a sequence
        self._first_step = -1  # updates made before the episode
        self._seconds: collections.Counter[str] = collections.Counter()  # of the episode, by label

    def begin_episode(
        self, state: TrainState, updates: Updates, training: TrainingRun, config: ConfigDict | None = None
    ) -> None:
        """Scores the sequences of an episode with the parameters that sampled them, where that is needed.

        All processes call this together.

        Args:
          state: that the episode's responses were sampled with.
          updates: for each update of the episode, the sequences of each of this process's shards. They are known by
            their identity: `prepare` is called with the same ones. Updates are scored one after the other, so that the
            arrays of one alone are in memory.
          training: plans and builds batches.
          config: the experiment in this episode, see `schedules.config_at`; None: as it was.
        """
        if config is not None:
            self._config, self._passes = config, passes_asked_for(config)
        self._training, self._first_step, self._old = training, int(state.step), {}
        self._seconds = collections.Counter({one.label: 0.0 for one in self._passes})
        for one in self._passes:
            if one.policy != "old":
                continue
            scores = self._old.setdefault(one.label, {})
            for update in updates:
                start = time.perf_counter()
                new = {
                    shard: list({id(s): s for s in sequences if id(s) not in scores}.values())
                    for shard, sequences in update.items()
                }
                shown, in_batches, built = self._show(one, new, self._first_step)
                of_shown = scores_of(self._trainer, state.params, in_batches, built)
                for shard, some in new.items():
                    for before, after in zip(some, shown[shard], strict=True):
                        scores[id(before)] = of_shown[id(after)]
                self._seconds[one.label] += time.perf_counter() - start

    def prepare(
        self, state: TrainState, agreed: AgreedBatches, batches: list[Batch]
    ) -> tuple[list[Batch], dict[str, float]]:
        """Gives the batches of an update what the loss takes besides. All processes call this together.

        Args:
          state: before the update.
          agreed: what the batches were built of.
          batches: of the update.

        Returns:
          The batches with `details_of` the experiment and the arrays that are replaced, and figures of the update,
          which replace those of the same name that the loss returns.
        """
        config = self._config
        if not self._names and not config.grpo.shaping:
            return batches, {}
        step = int(state.step)
        view = UpdateView(agreed, batches, step, step == self._first_step)
        if not view.size.tokens:
            return batches, {}
        rows: dict[str, ShownRows | None] = {}
        for one in self._passes:
            start = time.perf_counter()
            view.scores[one.label], rows[one.label] = self._scores(one, state, view, batches)
            self._seconds[one.label] += time.perf_counter() - start
        if correction_of(config) != "none":
            view.replace("logprobs", view.logprobs("old"))
        shape_advantages(view, config)
        made = {
            name: numbers_of(f"detail {name!r}", detail(view, config), view.sampled.shape, "tokens")
            for name, detail in self._details.items()
        }
        joint, of_passes = joint_arrays(view, made.get("aggregation", 1.0), config)
        arrays = {name: view.rows(values) for name, values in (view.replaced | made | joint).items()}
        complete = [
            {**batch, **{name: arrays[name][number] for name in arrays}} for number, batch in enumerate(batches)
        ]
        for label, values in of_passes.items():
            complete += rows[label].carrying(values, view.lengths, self._names)
        scheduled = {key: np.float32(value_of(config, key)) for key in scheduled_details(config)}
        for batch in complete:  # the loss looks at the first place of each, which may be padding
            batch |= {key: np.full_like(batch["target_mask"], value) for key, value in scheduled.items()}
        return complete, view.figures

    def seconds(self) -> dict[str, float]:
        """What the passes of the episode have taken so far, as metrics."""
        return {f"seconds_pass_{label}": seconds for label, seconds in self._seconds.items()}

    def _scores(
        self, one: Pass, state: TrainState, view: UpdateView, batches: list[Batch]
    ) -> tuple[Scores, ShownRows | None]:
        """The scores of a pass, [tokens], and its rows if they join the update."""
        if one.policy == "old":
            return view.joined([self._old[one.label][id(sequence)] for sequence in view.sequences]), None
        params = state.params if one.policy == "present" else self._reference(state.params)
        if one.context is as_asked:
            scored = self._trainer.score(params, batches)
            return {name: view.flat([of_batch[name] for of_batch in scored]) for name in scored[0]}, None
        sequences: dict[int, list[packing.Sequence]] = {shard: [] for shard in self._training.shards.local}
        for shard, sequence in view.shards_and_sequences:
            sequences[shard].append(sequence)
        shown, agreed, built = self._show(one, sequences, view.step)
        scores = scores_of(self._trainer, params, agreed, built)
        of_shard = {shard: iter(some) for shard, some in shown.items()}
        in_order = [next(of_shard[shard]) for shard, _ in view.shards_and_sequences]
        rows = ShownRows(in_order, agreed, built) if one.label in self._row_labels else None
        return view.joined([scores[id(sequence)] for sequence in in_order]), rows

    def _show(
        self, one: Pass, sequences: Mapping[int, list[packing.Sequence]], step: int
    ) -> tuple[dict[int, list[packing.Sequence]], AgreedBatches, list[Batch]]:
        """The sequences of each shard as a pass shows them, and the batches that they make."""
        shown = one.change(sequences, self._training.processor, (self._config.seed, step))
        agreed = agree(shown, self._training)
        return shown, agreed, agreed()


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

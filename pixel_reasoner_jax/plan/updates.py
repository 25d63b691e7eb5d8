"""The updates of an episode: how many batches they pack into, and the least time that these take."""

from __future__ import annotations

import collections
import itertools
from collections.abc import Sequence

from ml_collections import ConfigDict

from pixel_reasoner_jax.plan.chips import Chip
from pixel_reasoner_jax.plan.lengths import Group
from pixel_reasoner_jax.plan.measure import Phase
from pixel_reasoner_jax.training.policy_update import gradient_passes, score_passes
from pixel_reasoner_jax.training.replay import planned_responses
from pixel_reasoner_jax.training.rows import arrange, split_by_tokens


def update_count(config: ConfigDict) -> int:
    """Updates that are planned for an episode."""
    responses = config.grpo.queries_per_episode * config.rollout.samples
    planned = planned_responses(config.replay.method, responses, config.rollout.samples)
    return -(-planned // config.train.batch_size)


def packed_rows(groups: Sequence[Group], config: ConfigDict, parts: int) -> list[int]:
    """The length of the rows of every batch that an episode's updates make, all of them full.

    Each shard packs its own responses; all parts of the mesh make as many batches as the one with most, and as long
    ones. Where a method of replay trains on fewer responses than there are, these are the first ones.

    Args:
      groups: the episode's queries.
      config: the experiment.
      parts: of the mesh.
    """
    shards, count = config.data.shards or parts, update_count(config)
    responses = config.grpo.queries_per_episode * config.rollout.samples
    share = planned_responses(config.replay.method, responses, config.rollout.samples) / responses
    runs = []
    for shard in range(shards):
        own = [(tokens, query) for query in range(shard, len(groups), shards) for tokens in groups[query].tokens()]
        own = own[: round(len(own) * share)]
        slices = split_by_tokens([tokens for tokens, _ in own], count) if own else [slice(0)] * count
        runs.append([own[one] for one in slices])
    lengths = []
    for update in range(count):
        batches = [
            [batch.row_length for batch in _arranged(run[update], config.train.micro_batch_rows, config)]
            for run in runs
        ]
        for index in range(shards // parts):  # the parts' shards with this index make batches together
            together = batches[index :: shards // parts]
            lengths += [max(sizes) for sizes in itertools.zip_longest(*together, fillvalue=0)]
    return lengths


def _arranged(responses: Sequence[tuple[int, int]], rows: int, config: ConfigDict):
    tokens, queries = [one for one, _ in responses], [query for _, query in responses]
    return arrange(tokens, queries, rows, config.train.row_length)


def update_seconds(rows: Sequence[int], config: ConfigDict, phase: Phase, chip: Chip) -> collections.Counter[str]:
    """The least seconds of an episode's updates, by the rate that bounds them.

    The products of a batch are in proportion to its rows' length; it reads the parameters and receives them and its
    gradients once, however long its rows are.

    Args:
      rows: see `packed_rows`.
      config: the experiment.
      phase: its update as measured, for the longest rows.
      chip: the chips' rates.
    """
    seconds: collections.Counter[str] = collections.Counter()
    gradient, apply, *scores = phase.works
    for work, times in ((gradient, gradient_passes(config)), *((score, score_passes(config)) for score in scores)):
        for length in rows:
            bound, least = work._replace(flops=work.flops * length / config.train.row_length).least(chip)
            seconds[bound] += times * least
    bound, least = apply.least(chip)
    seconds[bound] += update_count(config) * least
    return seconds

"""The lengths of prompts and responses of a finished run, from the trajectories that it has stored."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence

import numpy as np
from ml_collections import ConfigDict

from data_pipeline.draft import Draft
from data_pipeline.logged_tokens import LoggedTokens
from data_pipeline.records import RecordSource
from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.files import as_path
from pixel_reasoner_jax.plan.lengths import SEED, Group, Turn, limited
from pixel_reasoner_jax.processing import Processor
from pixel_reasoner_jax.training.samples import SAMPLES
from pixel_reasoner_jax.training.training_run import INITIAL
from pixel_reasoner_jax.trajectory import Source


def run_groups(run: str | os.PathLike, config: ConfigDict) -> list[Group]:
    """The queries of an episode with lengths drawn from the trajectories that a run of RL has stored.

    A run stores some responses of every episode (`train.log_samples`), few of them to the same query. So prompts and
    responses are drawn independently of each other, with replacement.

    Args:
      run: the run's directory.
      config: the experiment that is planned.

    Raises:
      UserError: the run has stored none; or one that cannot be read.
    """
    folders = sorted(path for path in (as_path(run) / SAMPLES).glob("*") if path.is_dir())
    if not folders:
        raise UserError(
            f"--lengths {run}: no trajectories are stored in its folder {SAMPLES}: it is no run of rl, or"
            " train.log_samples was 0"
        )
    processor = Processor.from_pretrained(as_path(run) / INITIAL)
    stored = [
        stored_lengths(draft, processor.placeholder_tokens)
        for folder in folders
        for draft in RecordSource(folder, "trajectory")
    ]
    random, rollout = np.random.default_rng(SEED), config.rollout
    groups = []
    for _ in range(config.grpo.queries_per_episode):
        query, *responses = random.integers(len(stored), size=1 + rollout.samples).tolist()
        prompt, images, _ = stored[query]
        group = Group(prompt, images, tuple(stored[response].responses[0] for response in responses))
        groups.append(limited(group, rollout.max_length, rollout.max_response_tokens))
    return groups


def stored_lengths(draft: Draft, placeholders: Sequence[int]) -> Group:
    """The lengths of a stored trajectory, as a query with one response.

    Args:
      draft: see `training.samples`.
      placeholders: ids of the tokens that stand for an image or a video.

    Raises:
      UserError: what is stored has no tokens of a rollout.
    """
    logged = LoggedTokens.of(draft)
    is_image = np.isin(logged.tokens, placeholders)
    lengths: list[tuple[int, int, tuple[int, ...]]] = []
    start = 0
    for source, run in itertools.groupby(logged.source.tolist()):
        end = start + len([*run])
        images = tuple(len([*ones]) for image, ones in itertools.groupby(is_image[start:end].tolist()) if image)
        lengths.append((source, end - start, images))
        start = end
    if not lengths or lengths[0][0] != Source.PROMPT:
        raise UserError(f"trajectory {draft.query_id!r} is no stored sample of a run: it does not begin with a prompt")
    (_, prompt, images), *rest = lengths
    turns = []
    for source, tokens, seen in rest:
        if source == Source.SAMPLED:
            turns.append(Turn(tokens))
        elif turns:
            turns[-1] = turns[-1]._replace(observed=tokens, images=seen)
    return Group(prompt, images, (tuple(turns),))

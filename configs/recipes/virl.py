"""ViRL, Visual Rationale Learning (arXiv 2511.23031): every operation is right, repeated or wrong, and has its credit.

An operation is right (1) where its box has an IoU of 0.5 and more with a gold box that none before it has found,
repeated (-0.2) where it has that with an earlier box or a gold one that was found, else wrong (-0.5), and so is a call
that fails. r = accuracy + 0.5 times the mean of these; the tokens of a turn that calls have the response's advantage
and 0.3 times its own, standardized over the operations of the group. Evidence: the abstract says that gold regions
supervise the process, that steps have rewards, and that credit tells right operations from repeated and wrong ones. All
numbers and forms here are our reconstruction. Also there, for `config.rewards.terms.correct`: `right_for_a_reason`.

Command: pixel-reasoner rl --config recipes/virl
Data: images with questions and answers, and `boxes` that an answer rests on, in pixels of the image; no tuning before
  (theirs: 8,000 of Visual-CoT, GQA, TextVQA and others).
Hardware: that of rl_qwen2_5_vl_7b; not compiled by itself.
Time and result: never run at this size. Published: no figure in our notes.
"""

import numpy as np
from ml_collections import ConfigDict

from pixel_reasoner_jax.config import variant
from pixel_reasoner_jax.query import Query
from pixel_reasoner_jax.rewards.boxes import MOST_BOXES, gold_boxes, iou
from pixel_reasoner_jax.rewards.terms import Responses
from pixel_reasoner_jax.training.credit import turns
from pixel_reasoner_jax.trajectory import Trajectory

RIGHT, REPEATED, WRONG = 1.0, -0.2, -0.5
OVERLAP = 0.5
SHARE = 0.3  # of a turn's own credit in its advantage


def get_config() -> ConfigDict:
    return variant(
        "rl_qwen2_5_vl_7b",
        {
            "workdir": "runs/virl",
            "model.directory": "checkpoints/Qwen2.5-VL-7B-Instruct",
            "operations.names": ("deepeyes_zoom",),
            "rewards.terms.bonus.weight": 0.0,
            "rewards.terms.penalty.weight": 0.0,
            "rewards.terms.steps.function": "recipes/virl:mean_step",
            "rewards.terms.steps.weight": 0.5,
            "grpo.advantage": "std",
            "grpo.credit": "recipes/virl:by_step",
            "grpo.clip_high": 0.2,
            "replay.method": "none",
        },
    )


def steps_of(one: Trajectory, query: Query) -> list[float]:
    """What each call is worth."""
    missing = [gold.box for gold in gold_boxes(query)[:MOST_BOXES]]
    seen: list = []
    values = []
    for record in one.operations:
        box = record.boxes[0] if record.succeeded and record.boxes else None
        found = max(missing, key=lambda gold: iou(box, gold), default=None) if box else None
        if found is not None and iou(box, found) >= OVERLAP:
            missing.remove(found)
            seen.append(found)
            values.append(RIGHT)
        else:
            values.append(REPEATED if box and any(iou(box, other) >= OVERLAP for other in seen) else WRONG)
        if box:
            seen.append(box)
    return values


def mean_step(responses: Responses) -> np.ndarray:
    """The mean of what the calls of a response are worth; 0 without any."""
    return responses.each(lambda one, query: np.mean(steps_of(one, query) or [0.0]))


def right_for_a_reason(responses: Responses) -> np.ndarray:
    """1 for a right answer of a response with a right operation."""
    return responses.correct * responses.each(lambda one, query: RIGHT in steps_of(one, query))


def by_step(responses: Responses, advantages: np.ndarray) -> list[list[np.ndarray]]:
    """The advantage of every token: the response's, and in a turn that calls its own."""
    credit = []
    for group, query, of_group in zip(responses.trajectories, responses.queries, advantages, strict=True):
        steps = [steps_of(one, query) for one in group]
        every = [value for values in steps for value in values]
        mean, spread = (np.mean(every), np.std(every, ddof=1)) if len(every) > 1 else (0.0, 0.0)
        credit.append([])
        for one, values, advantage in zip(group, steps, of_group, strict=True):
            tokens, turn = np.full(len(one.tokens), float(advantage)), turns(one)
            for record, value in zip(one.operations, values, strict=True) if spread > 0 else ():
                tokens[turn == record.turn] += SHARE * (value - mean) / spread
            credit[-1].append(tokens)
    return credit

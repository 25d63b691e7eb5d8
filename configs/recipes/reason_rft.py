"""Reason-RFT (arXiv 2503.20752; tanhuajie/Reason-RFT): rewards that fit the kind of answer, after a warm start.

r = format + accuracy. Numbers are right within 5% and worth something within 20%; of a list of transformations
`f(object, value)`, each counts by what of it is right: all 1, f with object or with value 0.5, f alone 0.25, by the
longer of both lists, times the share of transformations that are not repeated. Other answers are compared as usual.
Evidence: read in the authors' code; how repetition counts, and a KL of 0.04, are readings of ours. Left out: their
optional term of length.

Command: pixel-reasoner rl --config recipes/reason_rft
Data: images with questions and answers, and for some `answer_type`, "number" or "transformation"; a model tuned on
  thoughts about such questions.
Hardware: that of rl_qwen2_5_vl_7b, with rows of 4,096 tokens and a reference model; not compiled by itself.
Time and result: never run at this size. Published, as we remember it and have not checked:
above instruction tuning alone on counting, geometry and
  transformations.
"""

import collections
import math
import re

import numpy as np
from ml_collections import ConfigDict

from pixel_reasoner_jax.config import variant
from pixel_reasoner_jax.rewards.extraction import extract_answer
from pixel_reasoner_jax.rewards.formats import thinks_and_answers
from pixel_reasoner_jax.rewards.graded import as_number
from pixel_reasoner_jax.rewards.terms import Responses
from pixel_reasoner_jax.trajectory import Trajectory

EXACT, WORTHLESS = 0.05, 0.20  # relative errors up to which a number is right, and from which on it is wrong
MOST = 50  # transformations that are compared

_TRANSFORMATION = re.compile(r"(\w{1,40})\s{0,4}\(\s{0,4}([^(),\n]{1,40}),([^(),\n]{1,40})\)")


def get_config() -> ConfigDict:
    return variant(
        "rl_qwen2_5_vl_7b",
        {
            "workdir": "runs/reason_rft",
            "operations.names": (),
            "operations.guidelines": (
                "First think about the question within <think> </think> tags, then give the final answer within"
                " <answer> </answer> tags."
            ),
            "rollout.max_response_tokens": 512,
            "rollout.max_length": 4096,
            "train.row_length": 4096,
            "rewards.terms.correct.function": "recipes/reason_rft:task_accuracy",
            "rewards.terms.bonus.weight": 0.0,
            "rewards.terms.penalty.weight": 0.0,
            "rewards.terms.format.function": "recipes/reason_rft:form",
            "grpo.advantage": "std",
            "grpo.clip_high": 0.2,
            "auxiliary.kl": 0.04,
            "auxiliary.kl_estimator": "k3",
            "replay.method": "none",
        },
    )


def form(responses: Responses) -> np.ndarray:
    """1 for a thought and an answer in tags."""
    return responses.each(lambda one, query: thinks_and_answers(one))


def task_accuracy(responses: Responses) -> np.ndarray:
    """1 for a right answer, and less for one that is nearly right, by `answer_type` of the query."""
    kinds = {"number": near_number, "transformation": shared_transformations}

    def graded(one: Trajectory, query) -> float:
        function = kinds.get(str(query.get("answer_type")))
        references = one.reference if isinstance(one.reference, list) else [one.reference]
        answer = extract_answer(one.response) or ""
        return max((function(answer, reference) for reference in references), default=0.0) if function else 0.0

    return np.maximum(responses.correct, responses.each(graded))


def near_number(answer: str, reference: str) -> float:
    """1 within 5%, then down to 0 at 20% along a cosine."""
    predicted, gold = as_number(answer), as_number(reference)
    if predicted is None or not gold:
        return float(predicted is not None and predicted == gold)
    error = abs(predicted - gold) / abs(gold)
    if error < EXACT:
        return 1.0
    return 0.0 if error > WORTHLESS else 0.5 * (1 + math.cos(math.pi * (error - EXACT) / (WORTHLESS - EXACT)))


def shared_transformations(answer: str, reference: str) -> float:
    """How much of the reference's transformations an answer has, see above."""
    predicted, gold = (
        [tuple(part.strip().lower() for part in match.groups()) for match in _TRANSFORMATION.finditer(text)]
        for text in (answer, reference)
    )
    if not gold or not predicted or len(predicted) > MOST:
        return float(len(gold) == len(predicted) == 0 and bool(answer.strip()))
    score, share = 0.0, len(set(predicted)) / len(predicted)
    longest = max(len(predicted), len(gold))
    left = [predicted, gold]
    for parts, worth in (((0, 1, 2), 1.0), ((0, 1), 0.5), ((0, 2), 0.5), ((0,), 0.25)):
        counts = [collections.Counter(tuple(one[part] for part in parts) for one in side) for side in left]
        common = counts[0] & counts[1]
        score += worth * sum(common.values())
        left = [_without(side, common, parts) for side in left]
    return score * share / longest


def _without(side: list[tuple[str, ...]], taken: collections.Counter, parts: tuple[int, ...]) -> list[tuple[str, ...]]:
    """The transformations but those that are taken, each as often as it is."""
    taken, rest = taken.copy(), []
    for one in side:
        key = tuple(one[part] for part in parts)
        taken[key] -= 1
        if taken[key] < 0:
            rest.append(one)
    return rest

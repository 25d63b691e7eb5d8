"""Curr-ReFT (arXiv 2503.07065; ding523/Curr_REFT): the same topics in three stages, each with a reward of its kind.

First yes or no, then choices, where the set of letters has to be right, then open answers: a box with IoU above 0.5,
the Jaccard index of a set of labels, or mathematics; `answer_type` says which reward a query has. Instruction tuning on
right responses of the last stage follows. Evidence: read in the authors' code; the KL of 0.04 is a reading of ours.
Difference: a stage is a run of its own there, with a schedule of the learning rate; here data are taken in their order.

Command: pixel-reasoner rl --config recipes/curr_reft --config.data.path=sorted.jsonl, then
  pixel-reasoner synthesize --captioner model:runs/curr_reft/model (docs/synthesis.md), and sft on what it writes
Data: images with questions and answers, and `answer_type`: "choice"; "box", with `boxes` in pixels of the image;
  "labels", of which the answer is a list with commas; of others, yes-or-no and mathematics, none is needed.
Hardware: that of rl_qwen2_5_vl_7b, with rows of 4,096 tokens and a reference model; not compiled by itself.
Time and result: never run at this size. Published, as we remember it and have not checked:
a 3B model near 32B ones on their mix of tasks.
"""

import re

import numpy as np
from ml_collections import ConfigDict

from pixel_reasoner_jax.config import variant
from pixel_reasoner_jax.query import Query
from pixel_reasoner_jax.rewards.boxes import gold_boxes, iou, read_boxes, rescaled
from pixel_reasoner_jax.rewards.extraction import extract_answer
from pixel_reasoner_jax.rewards.formats import thinks_and_answers
from pixel_reasoner_jax.rewards.terms import Responses
from pixel_reasoner_jax.trajectory import Trajectory

MOST = 100  # labels that are compared

_BETWEEN = re.compile(r"\bAND\b|[\s,;.()&]")  # letters


def get_config() -> ConfigDict:
    return variant(
        "rl_qwen2_5_vl_7b",
        {
            "workdir": "runs/curr_reft",
            "model.directory": "checkpoints/Qwen2.5-VL-7B-Instruct",
            "data.shuffle": False,
            "operations.names": (),
            "operations.guidelines": (
                "First think within <think> </think> tags, then give the final answer within <answer> </answer> tags:"
                " yes or no, letters, a box as [x1, y1, x2, y2], labels with commas between them, or a number."
            ),
            "rollout.samples": 4,
            "rollout.max_response_tokens": 1024,
            "rollout.max_length": 4096,
            "train.row_length": 4096,
            "rewards.terms.correct.function": "recipes/curr_reft:of_its_kind",
            "rewards.terms.bonus.weight": 0.0,
            "rewards.terms.penalty.weight": 0.0,
            "rewards.terms.format.function": "recipes/curr_reft:form",
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


def of_its_kind(responses: Responses) -> np.ndarray:
    """How right an answer is, from 0 to 1, by `answer_type` of the query."""
    kinds = {"choice": same_letters, "box": fitting_box, "labels": shared_labels}

    def value(one: Trajectory, query: Query) -> float:
        function = kinds.get(str(query.get("answer_type")))
        return float(function(one, query)) if function else -1.0

    values = responses.each(value)
    return np.where(values < 0, responses.correct, values)


def same_letters(one: Trajectory, query: Query) -> bool:
    """Whether an answer has the letters of the reference, in any order, and nothing else."""
    found, *golds = (_BETWEEN.sub("", text[:MOST].upper()) for text in _texts(one))
    return any(found.isalpha() and set(found) == set(gold) and len(found) == len(gold) for gold in golds)


def fitting_box(one: Trajectory, query: Query) -> bool:
    """Whether the only box of an answer has an IoU above 0.5 with the box of the data."""
    found, gold = rescaled(read_boxes(_texts(one)[0]), one), gold_boxes(query)
    return len(found) == 1 and bool(gold) and iou(found[0].box, gold[0].box) > 0.5


def shared_labels(one: Trajectory, query: Query) -> float:
    """The labels that answer and reference share, by those of either."""
    found, *golds = ({" ".join(part.casefold().split()) for part in text.split(",")} - {""} for text in _texts(one))
    if len(found) > MOST:
        return 0.0
    return max((len(found & gold) / len(found | gold) for gold in golds if gold), default=0.0)


def _texts(one: Trajectory) -> list[str]:
    """The answer, and the references."""
    references = one.reference if isinstance(one.reference, list) else [one.reference]
    return [extract_answer(one.response) or "", *references]

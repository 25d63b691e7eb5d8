"""ViLaSR (arXiv 2506.09965; AntResearchNLP/ViLaSR): thinking by drawing boxes and lines on images.

r = 0.5 accuracy + 0.5 format where the accuracy is above 0, else 0. The accuracy of a number is the mean relative
accuracy, that of a choice an exact match. The format is right where every turn thinks and then draws, and the last
alone answers. Evidence: read in the authors' code; the tags of the answer are our reading. Differences: other answers
are compared by our rules; uniform groups are left out. Theirs choose traces that mend their own drawings between tuning
and this phase, which is not a part of it.

Command: pixel-reasoner rl --config recipes/vilasr
Data: images or videos with questions and answers, numbers among them; a model tuned on traces that draw.
Hardware: that of rl_qwen2_5_vl_7b; not compiled by itself.
Time and result: never run at this size. Published: 18.4% more on average over sets about space.
"""

import numpy as np
from ml_collections import ConfigDict

from pixel_reasoner_jax.config import variant
from pixel_reasoner_jax.query import Query
from pixel_reasoner_jax.rewards.extraction import extract_answer
from pixel_reasoner_jax.rewards.formats import has_one, thinks_and_answers, turns_of
from pixel_reasoner_jax.rewards.graded import as_number, relative_accuracy
from pixel_reasoner_jax.rewards.terms import Responses
from pixel_reasoner_jax.trajectory import Trajectory


def get_config() -> ConfigDict:
    return variant(
        "rl_qwen2_5_vl_7b",
        {
            "workdir": "runs/vilasr",
            "operations.names": ("vilasr_boxes", "vilasr_lines"),
            "operations.syntax": "labelled",
            "operations.guidelines": (
                "In every turn, think within <think></think> tags. Then draw on an image, or put your final answer"
                " within <answer></answer> tags."
            ),
            "rollout.max_operations": 9,
            "rollout.max_response_tokens": 13_312,
            "train.row_length": 20_480,
            "rollout.max_length": 20_480,
            "train.batch_size": 128,
            "rewards.terms.correct.function": "recipes/vilasr:graded_accuracy",
            "rewards.terms.correct.weight": 0.5,
            "rewards.terms.bonus.weight": 0.0,
            "rewards.terms.penalty.weight": 0.0,
            "rewards.terms.format.function": "recipes/vilasr:thinks_and_draws",
            "rewards.terms.format.weight": 0.5,
            "rewards.terms.format.gate": "correct",
            "grpo.queries_per_episode": 32,
            "grpo.advantage": "std",
            "grpo.clip_high": 0.2,
            "replay.method": "none",
        },
    )


def graded_accuracy(responses: Responses) -> np.ndarray:
    """1 for a right answer; of other numbers, where a number is asked for, the mean relative accuracy."""
    return np.maximum(responses.correct, responses.each(_relative))


def _relative(one: Trajectory, query: Query) -> float:
    gold = as_number(query["answer"]) if isinstance(query.get("answer"), str) and not query.get("options") else None
    given = as_number(extract_answer(one.response))
    return 0.0 if gold is None or given is None or not one.recovered else relative_accuracy(given, gold)


def thinks_and_draws(responses: Responses) -> np.ndarray:
    """1 where each turn thinks, all but the last make a call that can be read, and the last answers."""
    return responses.each(lambda one, query: thinks_and_answers(one) and _draws(one))


def _draws(one: Trajectory) -> bool:
    turns = turns_of(one)
    readable = {record.turn for record in one.operations if record.name is not None}
    return readable == set(range(len(turns) - 1)) and all(has_one(turn, "think") for turn in turns)

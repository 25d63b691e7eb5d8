"""VisRL (arXiv 2503.07523; zhangquanchen/VisRL): preferences between attempts, at the box and at the answer.

Three responses to a query look where they like and three elsewhere on purpose; the best and the worst of them, if they
are clearly so by answer and crop, are a pair. The loss is half DPO of the step that names the box, half DPO of the
answer given the crop, against the first model. Evidence: read in the authors' code [C]. Differences: pairs are made of
the policy's own responses in every episode, theirs once before each stage; crops are scored by the data's boxes, theirs
by a judge (name a function of your own in config.rewards.terms.crop); the words for looking elsewhere, the rank of the
adapters and one stage in place of two are ours [R].

Command: pixel-reasoner rl --config recipes/visrl
Data: images with questions and answers, and `boxes`: a list of {"xyxy": [left, top, right, bottom]} in pixels.
Hardware: that of rl_qwen2_5_vl_7b; not compiled by itself.
Time and result: never run at this size. Published: no figure in our notes.
"""

import numpy as np
from ml_collections import ConfigDict

from pixel_reasoner_jax.config import variant
from pixel_reasoner_jax.query import Query
from pixel_reasoner_jax.rewards.terms import Responses
from pixel_reasoner_jax.rollout.prompt import OTHER_GUIDELINES as GUIDELINES
from pixel_reasoner_jax.training.preference import best_and_worst, of_pairs
from pixel_reasoner_jax.training.update_view import Linearized, UpdateView
from pixel_reasoner_jax.trajectory import Trajectory

APART = 0.6  # of the rewards of a pair: one of 0.8 at least, one of 0.2 at most
FOCUS_WEIGHT = 0.5


def get_config() -> ConfigDict:
    return variant(
        "rl_qwen2_5_vl_7b",
        {
            "workdir": "runs/visrl",
            "operations.names": ("visrl_focus",),
            "operations.syntax": "inline",
            "lora.rank": 64,
            "optimizer.learning_rate": 5e-6,
            "train.epochs": 5,
            "rollout.samples": 6,
            "rollout.temperature": 2.0,
            "rollout.later_temperature": 2.0,
            "rollout.max_operations": 1,
            "rollout.subgroups.free.samples": 3,
            "rollout.subgroups.elsewhere.samples": 3,
            "rollout.subgroups.elsewhere.guidelines": f"{GUIDELINES} Look at a part that does not matter.",
            "rollout.subgroups.elsewhere.counted": False,
            "rewards.terms.correct.weight": 0.5,
            "rewards.terms.bonus.weight": 0.0,
            "rewards.terms.penalty.weight": 0.0,
            "rewards.terms.crop.function": "recipes/visrl:crop_shows_it",
            "rewards.terms.crop.weight": 0.5,
            "grpo.loss": "recipes/visrl:at_both_steps",
            "grpo.preference_beta": 0.1,
            "replay.method": "pairs",
        },
    )


def crop_shows_it(responses: Responses) -> np.ndarray:
    """1 where a crop has at least half of one of the data's boxes in it."""
    return responses.each(_shows)


def at_both_steps(view: UpdateView, settings: ConfigDict) -> Linearized:
    """Half the preference at the tokens of the first turn, half that at those of later turns."""
    means = view.sequence_means(view["advantages"])
    pairs = [(best, worst) for best, worst in best_and_worst(view) if means[best] - means[worst] >= APART]
    is_focus = np.concatenate([np.zeros(0, bool), *map(_is_first_turn, (one.train for one in view.sequences))])
    focus, margins = of_pairs(view, pairs, settings.preference_beta, is_focus)
    answer, _ = of_pairs(view, pairs, settings.preference_beta, ~is_focus)
    view.figures["preference_pairs"] = view.total(np.ones(len(pairs)))
    view.figures["preference_margin"] = view.total(margins) / max(view.figures["preference_pairs"], 1.0)
    slopes = FOCUS_WEIGHT * focus.slopes["present"] + (1 - FOCUS_WEIGHT) * answer.slopes["present"]
    return Linearized(FOCUS_WEIGHT * focus.values + (1 - FOCUS_WEIGHT) * answer.values, {"present": slopes})


at_both_steps.gradients, at_both_steps.passes = ("present",), ("reference",)


def _shows(one: Trajectory, query: Query) -> bool:
    crops = [box for record in one.operations if record.succeeded for box in record.boxes]
    return any(_inside(box["xyxy"], crop) >= 0.5 for box in query.get("boxes") or () for crop in crops)


def _inside(box: tuple[float, ...], crop: tuple[float, ...]) -> float:
    """The share of a box that is in a crop."""
    width, height = (min(box[axis + 2], crop[axis + 2]) - max(box[axis], crop[axis]) for axis in (0, 1))
    return max(width, 0) * max(height, 0) / max((box[2] - box[0]) * (box[3] - box[1]), 1e-9)


def _is_first_turn(train: np.ndarray) -> np.ndarray:
    """Of the trained tokens of a sequence: whether no observation stands before each of them."""
    targets = np.flatnonzero(train[1:])
    return np.cumsum(np.diff(targets, prepend=targets[:1]) > 1) == 0

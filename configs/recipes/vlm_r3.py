"""VLM-R3 (arXiv 2505.16192): regions that are looked at within the thought, and paid for where the answer is right.

r = accuracy + format + 0.001 for each character, at most 0.25, + 0.5 for each region looked at where the answer is
right. A region is a box in JSON at the end of a turn, enlarged the more the smaller it is. Evidence: notes on the
paper, not its code; that the same box is paid for once, and that there is no other bound than the number of operations,
is our reading. Differences: answers are compared by rules; uniform groups are left out.

Command: pixel-reasoner rl --config recipes/vlm_r3
Data: images with questions and answers; a model tuned on traces with boxes (theirs: VLIR).
Hardware: that of rl_qwen2_5_vl_7b; not compiled by itself.
Time and result: never run at this size. Published: no figure in our notes.
"""

import numpy as np
from ml_collections import ConfigDict

from pixel_reasoner_jax.config import variant
from pixel_reasoner_jax.rewards.formats import has_one, turns_of
from pixel_reasoner_jax.rewards.terms import Responses
from pixel_reasoner_jax.trajectory import Trajectory


def get_config() -> ConfigDict:
    return variant(
        "rl_qwen2_5_vl_7b",
        {
            "workdir": "runs/vlm_r3",
            "operations.names": ("vlm_r3_zoom",),
            "operations.syntax": "inline",
            "operations.guidelines": (
                "Think within <think></think> tags, in which you may look closer at regions of the image. Then put"
                " your final answer within <answer></answer> tags."
            ),
            "rewards.terms.bonus.weight": 0.0,
            "rewards.terms.penalty.weight": 0.0,
            "rewards.terms.format.function": "recipes/vlm_r3:thinks_then_answers",
            "rewards.terms.length.function": "recipes/vlm_r3:characters",
            "rewards.terms.length.cap": 0.25,
            "rewards.terms.region.function": "recipes/vlm_r3:regions",
            "rewards.terms.region.weight": 0.5,
            "rewards.terms.region.gate": "correct",
            "grpo.advantage": "std",
            "grpo.clip_high": 0.2,
            "replay.method": "none",
        },
    )


def thinks_then_answers(responses: Responses) -> np.ndarray:
    """1 where the response, all turns together, is one thought and one answer in their tags."""
    return responses.each(lambda one, query: has_one("\n".join(turns_of(one)), "think", "answer"))


def characters(responses: Responses) -> np.ndarray:
    """A thousandth of the characters of all turns."""
    return responses.each(lambda one, query: 0.001 * sum(map(len, turns_of(one))))


def regions(responses: Responses) -> np.ndarray:
    """How many different regions were looked at."""
    return responses.each(lambda one, query: len(_boxes(one)))


def _boxes(one: Trajectory) -> set:
    return {box for record in one.operations if record.succeeded for box in record.boxes}

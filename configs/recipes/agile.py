"""AGILE (yuzeng0-0/AGILE, ICLR 2026): jigsaw puzzles of any images, solved by exchanging tiles.

r = accuracy + format - 0.05 for each step, of which a puzzle that is not solved counts all it may have. The accuracy is
1 where the tiles are right at the end, whatever is answered. Evidence: notes on the paper; the limit of 8 steps, and
that the format is a thought in every turn with a call or, in the last one, an answer, are our reading. Differences:
tiles are exchanged by calls alone, theirs by Python; every exchange shows the puzzle; none zooms in; uniform groups are
left out.

Command: pixel-reasoner rl --config recipes/agile
Data: made of any images by `data_pipeline.sources.jigsaw`, whose queries have `tiles`.
Hardware: that of rl_qwen2_5_vl_7b; not compiled by itself.
Time and result: never run at this size. Published: 2 by 2 tiles solved, 9.5% to 82.8%; 3.1% more on nine general sets.
"""

import numpy as np
from ml_collections import ConfigDict

from pixel_reasoner_jax.config import variant
from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.query import Query, query_name
from pixel_reasoner_jax.rewards.formats import thinks_and_answers
from pixel_reasoner_jax.rewards.terms import Responses
from pixel_reasoner_jax.trajectory import Trajectory

MOST_STEPS = 8
SWAPS = ("swap_tiles", "swap")


def get_config() -> ConfigDict:
    return variant(
        "rl_qwen2_5_vl_7b",
        {
            "workdir": "runs/agile",
            "model.directory": "checkpoints/Qwen2.5-VL-7B-Instruct",
            "operations.names": ("swap_tiles",),
            "operations.syntax": "code",
            "operations.guidelines": (
                "In every turn, think within <think></think> tags, and then make one call, or put your final answer"
                " within <answer></answer> tags."
            ),
            "rollout.max_operations": MOST_STEPS,
            "rewards.terms.correct.function": "recipes/agile:solved",
            "rewards.terms.bonus.weight": 0.0,
            "rewards.terms.penalty.weight": 0.0,
            "rewards.terms.format.function": "recipes/agile:thinks_and_calls",
            "rewards.terms.steps.function": "recipes/agile:steps_taken",
            "rewards.terms.steps.weight": 0.05,
            "grpo.advantage": "std",
            "grpo.clip_high": 0.2,
            "replay.method": "none",
        },
    )


def is_solved(one: Trajectory, query: Query) -> bool:
    """Whether all tiles are in their places after the exchanges of a response."""
    tiles = query.get("tiles")
    if not isinstance(tiles, list | tuple) or len(tiles) != 4:
        raise UserError(
            f"{query_name(query)} has no `tiles` of a puzzle of 2 by 2: see data_pipeline/sources/jigsaw.py"
        )
    tiles = list(tiles)
    for record in one.operations:
        if record.succeeded and record.name in SWAPS:
            first, second = (int(record.arguments[name]) - 1 for name in ("first", "second"))
            tiles[first], tiles[second] = tiles[second], tiles[first]
    return tiles == sorted(tiles)


def solved(responses: Responses) -> np.ndarray:
    """1 for a solved puzzle."""
    return responses.each(is_solved)


def thinks_and_calls(responses: Responses) -> np.ndarray:
    """1 where every turn thinks and then calls, and the last answers."""
    return responses.each(lambda one, query: thinks_and_answers(one, calls=("code",)))


def steps_taken(responses: Responses) -> np.ndarray:
    """Less the number of calls; of a puzzle that is not solved, less the most there may be."""
    return -np.where(solved(responses) > 0, np.minimum(responses.operations, MOST_STEPS), MOST_STEPS)

"""RewardMap (arXiv 2510.02240; fscdc/RewardMap): a route on a transit map is worth something where it is half right.

r = w (10 accuracy + 0.5 detail), w = 1, 1.2 or 1.5 by the map's `difficulty`, and 0.5 more where the route has
transfers. Detail, of queries with a `route`, at most 10: 0 unless both end stops are right; else 2, 3 for every leg on
a line that the map has, 4 more for the right line of a route without transfers, 1 for each right transfer, and -5 for
each leg beyond those of the route. Data are taken in their order: yes-or-no and counting queries first, planning last.
Evidence: read in the authors' code. Differences, deliberate: their code takes 5 for the last right leg too; "4 more" is
a reading of ours; a route is right if its lines and stops are those of the data.

Command: pixel-reasoner rl --config recipes/rewardmap --config.data.path=sorted.jsonl
Data: images of maps with questions and answers; `difficulty` "easy", "middle" or "hard"; where a route is asked,
  `route`, its legs as {"line", "from", "to"}, and `lines`, the names of the map's lines.
Hardware: that of rl_qwen2_5_vl_7b, with rows of 6,144 tokens and a reference model; not compiled by itself.
Time and result: never run at this size. Published: 3.47% above the base on six benchmarks.
"""

import re

import numpy as np
from ml_collections import ConfigDict

from pixel_reasoner_jax.config import variant
from pixel_reasoner_jax.query import Query
from pixel_reasoner_jax.rewards.extraction import extract_answer
from pixel_reasoner_jax.rewards.terms import Responses
from pixel_reasoner_jax.trajectory import Trajectory

WEIGHTS = {"easy": 1.0, "middle": 1.2, "hard": 1.5}
LEG = ("line", "from", "to")
MOST_LEGS = 100
FIELDS = re.compile(r"(Route Name|Departure Stop|Arrival Stop)\s{0,4}:([^\n]{1,200})", re.IGNORECASE)


def get_config() -> ConfigDict:
    return variant(
        "rl_qwen2_5_vl_7b",
        {
            "workdir": "runs/rewardmap",
            "model.directory": "checkpoints/Qwen2.5-VL-7B-Instruct",
            "data.shuffle": False,
            "operations.names": (),
            "operations.guidelines": (
                "Reason step by step, then give the final answer within <answer> </answer> tags. Write each leg of a"
                " route as three lines, with -- between two legs:\n"
                "Route Name: ...\nDeparture Stop: ...\nArrival Stop: ..."
            ),
            "rollout.samples": 4,
            "rollout.max_response_tokens": 2048,
            "rollout.max_length": 6144,
            "train.row_length": 6144,
            "train.batch_size": 64,
            "rewards.terms.correct.function": "recipes/rewardmap:weighted_accuracy",
            "rewards.terms.correct.weight": 10.0,
            "rewards.terms.bonus.weight": 0.0,
            "rewards.terms.penalty.weight": 0.0,
            "rewards.terms.detail.function": "recipes/rewardmap:weighted_detail",
            "rewards.terms.detail.weight": 0.5,
            "grpo.queries_per_episode": 16,
            "grpo.advantage": "std",
            "grpo.clip_high": 0.2,
            "auxiliary.kl": 0.01,
            "auxiliary.kl_estimator": "k3",
            "replay.method": "none",
        },
    )


def weighted_accuracy(responses: Responses) -> np.ndarray:
    """w for a right answer or route."""
    routes = responses.each(lambda one, query: bool(gold := _gold(query)) and _legs(one) == gold)
    return np.maximum(responses.correct, routes) * _weights(responses)


def weighted_detail(responses: Responses) -> np.ndarray:
    """w times what of a route is right."""
    return responses.each(detail) * _weights(responses)


def detail(one: Trajectory, query: Query) -> float:
    """What of a route is right, at most 10; see above."""
    legs, gold = _legs(one), _gold(query)
    if not legs or not gold or (legs[0][1], legs[-1][2]) != (gold[0][1], gold[-1][2]):
        return 0.0
    lines = query.get("lines")
    known = {_folded(line) for line in lines} if isinstance(lines, list | tuple) else {leg[0] for leg in gold}
    score = 2.0 + sum(3.0 for leg in legs if leg[0] in known)
    if len(gold) == 1:
        score += 4.0 * any(leg[0] == gold[0][0] for leg in legs)  # once: a leg too many would pay
    changes, wanted = ([leg[2] for leg in route[:-1]] for route in (legs, gold))
    score += sum(one == other for one, other in zip(changes, wanted, strict=False))
    return min(score - 5.0 * max(len(legs) - len(gold), 0), 10.0)


def _weights(responses: Responses) -> np.ndarray:
    def weight(one: Trajectory, query: Query) -> float:
        return WEIGHTS.get(str(query.get("difficulty")), 1.0) + 0.5 * (len(_gold(query)) > 1)

    return responses.each(weight)


def _legs(one: Trajectory) -> list[tuple[str, ...]]:
    """(line, from, to) of each leg of an answer; empty if a leg is not whole."""
    parts = re.split(r"\n\s{0,8}-{2,8}", extract_answer(one.response) or "")
    legs = [{field[1].split()[0].lower(): _folded(field[2]) for field in FIELDS.finditer(part)} for part in parts]
    whole = len(legs) <= MOST_LEGS and all(len(leg) == 3 for leg in legs)
    return [(leg["route"], leg["departure"], leg["arrival"]) for leg in legs] if whole else []


def _gold(query: Query) -> list[tuple[str, ...]]:
    route = query.get("route")
    legs = [leg for leg in route if isinstance(leg, dict)] if isinstance(route, list | tuple) else []
    return [tuple(_folded(leg.get(name)) for name in LEG) for leg in legs]


def _folded(text: object) -> str:
    return " ".join(str(text)[:200].casefold().split())

"""RewardMap's rewards, worked by hand, and a run of it."""

import dataclasses

import pytest

from pixel_reasoner_jax.packaged_configs import config_module
from tests.recipes.scripted import Run, rewards_of, said

RECIPE = "recipes/rewardmap"
ROUTE = [dict(zip(("line", "from", "to"), leg, strict=True)) for leg in (("Line 1", "A", "B"), ("Line 2", "B", "C"))]
QUERY = {"route": ROUTE, "lines": ["Line 1", "Line 2", "Line 3"], "difficulty": "hard"}


def written(*legs):
    return "\n--\n".join("Route Name: {}\nDeparture Stop: {}\nArrival Stop: {}".format(*leg) for leg in legs)


def answered(*legs):
    return said(f"So.\n<answer>{written(*legs)}</answer>")


def details(query, *group):
    detail = config_module(RECIPE).detail
    return [detail(one, query) for one in group]


def test_details_with_a_transfer():
    right = ("line 1", "A", "B"), ("Line 2", "b", "C")
    found = details(
        QUERY,
        answered(*right),
        answered(("Line 3", "A", "X"), ("Line 9", "X", "C")),
        answered(("Line 1", "A", "B"), ("Line 2", "B", "D")),
        answered(*right[:1], ("Line 2", "B", "D"), ("Line 3", "D", "C")),
        said("<answer>" + "Route Name: 1\n--\n" * 10_000 + "</answer>"),
        said("none"),
    )
    assert found == [2 + 6 + 1, 2 + 3, 0, 2 + 9 + 1 - 5, 0, 0]


def test_details_without_a_transfer():
    query = {**QUERY, "route": [{"line": "Line 1", "from": "A", "to": "C"}]}
    group = [answered(*[(line, "A", "C")] * legs) for line, legs in (("Line 1", 1), ("Line 2", 1), ("Line 9", 5))]
    assert details(query, *group) == [9, 5, 2 - 20]
    assert details(query, *[answered(*[("Line 1", "A", "C")] * legs) for legs in (2, 3, 90)]) == [7, 5, 9 - 2 * 89]


def test_rewards():
    group = [answered(("Line 1", "A", "B"), ("Line 2", "B", "C")), answered(("Line 1", "A", "C")), said("\\boxed{5}")]
    rewards, terms = rewards_of(RECIPE, group, [0, 0, 1], QUERY)
    assert terms["correct"].tolist() == [2, 0, 2] and terms["detail"].tolist() == [18, 10, 0]
    assert rewards.tolist() == pytest.approx([2 * (10 + 4.5), 2 * 2.5, 20])
    rewards, _ = rewards_of(RECIPE, group, [0, 0, 1], {"difficulty": "middle"})
    assert rewards.tolist() == pytest.approx([0, 0, 12])


def test_a_right_route_with_two_transfers():
    """On a hard map, with detail 10, its most."""
    three = [*ROUTE, {"line": "Line 3", "from": "C", "to": "D"}]
    group = [answered(*[tuple(leg.values()) for leg in three])]
    rewards, terms = rewards_of(RECIPE, group * 2, [0, 0], {**QUERY, "route": three})
    assert terms["detail"].tolist() == [20, 20] and rewards.tolist() == [30, 30]


def test_data_of_any_kind():
    one = dataclasses.replace(answered(("Line 1", "A", "C")))
    for route in (None, 5, "A", [], [None], [{"line": None}], {"line": 1}):
        assert details({"route": route, "lines": route}, one) == [0]


def script(episode):
    """Right, on another line, to another stop, or no route."""
    (leg,) = episode.prompt.query["route"]
    line, to = (leg["line"], "Line 3")[episode.sample % 2], ("Digit", "End")[episode.sample == 2]
    return "<answer>none</answer>" if episode.sample == 3 else f"<answer>{written((line, 'Box', to))}</answer>"


def more(seed):
    """A route along the line of the colored box's digit."""
    line = f"Line {int(seed.answer) % 2}"
    return {
        "question": "How do I get from Box to Digit?",
        "answer": line,
        "route": [{"line": line, "from": "Box", "to": "Digit"}],
        "lines": ["Line 0", "Line 1", "Line 3"],
        "difficulty": ("easy", "middle", "hard")[int(seed.id[-1]) % 3],
    }


RUN = Run(script, more=more, varied=("correct", "detail"))

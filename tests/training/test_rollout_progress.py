"""What is told of a rollout while it runs."""

import types

import pytest

from pixel_reasoner_jax.rollout import QueryError, answered
from pixel_reasoner_jax.rollout.counters import Counters
from pixel_reasoner_jax.training.rollout_progress import RolloutProgress
from tests.trajectories import InTurn


def response(*succeeded):
    return types.SimpleNamespace(operations=[types.SimpleNamespace(succeeded=one) for one in succeeded])


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def told():
    shown, clock, counters = [], Clock(), Counters(sampled=1_000)
    return RolloutProgress(shown.append, [2] * 3, counters, clock), shown, clock, counters


def test_figures(told):
    progress, _, clock, counters = told
    assert progress.text() == "rollout 0/6 responses, 0 tokens/s"  # of which nothing can be foretold
    clock.now += 60
    counters.sampled += 120_000
    progress.add(0, response(False, True))
    progress.add(1, response(False))
    assert progress.text() == "rollout 2/6 responses, 2,000 tokens/s, RaPR 0.50, 2:00 left"
    clock.now += 7200
    assert progress.text().endswith("RaPR 0.50, 4:02:00 left")
    for number in (0, 1, 2, 2):
        progress.add(number, response())
    assert progress.text().startswith("rollout 6/6 ") and progress.text().endswith(" 0:00 left")


def test_it_is_shown_while_no_response_ends(told):
    progress, shown, clock, _ = told
    asked = progress.asking(lambda: clock.now > 103)
    assert not asked() and shown == []
    for seconds in (0.1, 0.6, 0.1, 0.6):
        clock.now += seconds
        assert not asked()
    assert len(shown) == 2
    clock.now += 5
    assert asked() and progress.asking(None)() is False


def test_queries_that_fail_are_expected_no_more(told):
    progress, _, _, _ = told
    stream = InTurn((0, response()), QueryError(0, "q0", "gone"), (1, response()), QueryError(2, "q2", "gone"))
    failed = []
    assert [number for number, _ in answered(progress.counting(stream), failed.append)] == [0, 1]
    assert [error.query_id for error in failed] == ["q0", "q2"]
    assert progress.text().startswith("rollout 2/3 responses")

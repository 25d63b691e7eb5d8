"""Evaluation with a policy that answers by rule."""

import contextlib

import pytest

from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.evaluation import run
from pixel_reasoner_jax.rollout import QueryError
from tests.trajectories import InTurn, RulePolicy


def queries(count):
    return [{"id": f"q{i}", "question": "?", "answer": str(i)} for i in range(count)]


def test_responses_count_in_whatever_order_they_come(make_trajectory):
    policy, done = RulePolicy(make_trajectory), []
    evaluation = run.evaluate(policy, queries(7), samples=2, seed=5, temperature=1.0, keep=4, on_progress=done.append)
    assert policy.calls == [(7, 2, 5, 1.0)] and done == [1, 2, 3, 4, 5, 6, 7]
    assert evaluation.figures == {"accuracy": 0.5, "rapr": 1.0, "operations": 1.0, "failure_rate": 0.0}
    assert [t.query_id for t in evaluation.trajectories] == ["q0", "q1", "q2", "q3"]
    assert evaluation.scores == [1.0] * 4


def test_a_failed_last_operation_counts_as_wrong(make_trajectory):
    policy = RulePolicy(make_trajectory)
    policy._answer = lambda query, sample: make_trajectory(reference="red")  # right, but its last call failed
    assert run.evaluate(policy, queries(1)).figures["accuracy"] == 0.0


class Losing(RulePolicy):
    """Loses the media of some queries, each after its first response."""

    def __init__(self, make_trajectory, *lost):
        super().__init__(make_trajectory)
        self.lost = lost

    @contextlib.contextmanager
    def stream(self, queries, **options):
        with super().stream(queries, **options) as items:
            items = list(items)
        begun = [next(item for item in items if item[0] == number) for number in self.lost]
        errors = [QueryError(number, f"q{number}", "gone") for number in self.lost]
        yield InTurn(*begun, *errors, *(item for item in items if item[0] not in self.lost))


def test_a_query_whose_media_are_lost_counts_in_no_figure(make_trajectory):
    evaluation = run.evaluate(Losing(make_trajectory, 0, 2), queries(4), samples=2, temperature=1.0)
    assert evaluation.figures["accuracy"] == 0.5 and evaluation.failed == {"q0": "gone", "q2": "gone"}
    assert [t.query_id for t in evaluation.trajectories] == ["q1", "q3"]
    with pytest.raises(UserError, match="the media of none of 2 queries can be used; the last: gone"):
        run.evaluate(Losing(make_trajectory, 0, 1), queries(2), samples=2, temperature=1.0)


def test_another_scorer(make_trajectory):
    policy = RulePolicy(make_trajectory)
    policy._answer = lambda query, sample: make_trajectory(reference=["rod", "blue"])
    figures = run.evaluate(policy, queries(2), scorer=run.score_anls).figures
    assert figures["accuracy"] == pytest.approx(2 / 3)


def test_no_queries():
    with pytest.raises(ValueError, match="no queries"):
        run.evaluate(None, [])


def test_a_query_without_an_answer_cannot_be_scored(make_trajectory):
    with pytest.raises(ValueError, match="query 'q1' has no answer"):
        run.evaluate(RulePolicy(make_trajectory), [*queries(1), {"id": "q1", "question": "?", "answer": []}])


def test_stages_side_by_side(make_trajectory):
    policy = RulePolicy(make_trajectory)
    evaluations = {stage: run.evaluate(policy, queries(4)) for stage in ("warm_start", "rl_with_curiosity")}
    shown = [(e.stage, e.trajectory.query_id) for e in run.side_by_side(evaluations, 5)]
    assert shown == [
        ("warm_start", "q0"),
        ("rl_with_curiosity", "q0"),
        ("warm_start", "q1"),
        ("rl_with_curiosity", "q1"),
        ("warm_start", "q2"),
    ]

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
    policy, done, records = RulePolicy(make_trajectory), [], []
    more = dict(on_progress=done.append, on_record=lambda record, _: records.append(record))
    evaluation = run.evaluate(policy, queries(7), samples=2, seed=5, temperature=1.0, keep=4, **more)
    assert policy.calls == [(7, 2, 5, 1.0)] and done == [1, 2, 3, 4, 5, 6, 7]
    assert evaluation.figures == {"accuracy": 0.5, "rapr": 1.0, "operations": 1.0, "failure_rate": 0.0}
    assert sorted((r.id, r.sample, r.score) for r in records) == [
        (str(i), sample, 1.0 - sample) for i in range(7) for sample in range(2)
    ]
    figures = evaluation.tally.figures()
    assert (figures["count"], figures["responses"], figures["pass@2"]["score"]) == (7, 14, 1.0)
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
    with pytest.raises(UserError, match="none of 2 queries can be used: gone"):
        run.evaluate(Losing(make_trajectory, 0, 1), queries(2), samples=2, temperature=1.0)


def test_another_scorer(make_trajectory):
    policy = RulePolicy(make_trajectory)
    policy._answer = lambda query, sample: make_trajectory(reference=["rod", "blue"])
    figures = run.evaluate(policy, queries(2), scorer=run.score_anls).figures
    assert figures["accuracy"] == pytest.approx(2 / 3)


def test_no_queries():
    with pytest.raises(ValueError, match="no queries"):
        run.evaluate(None, [])


def test_a_query_that_is_not_valid_is_named_or_skipped_and_counted(make_trajectory, caplog):
    mixed = [*queries(2), {"id": "mute", "question": "?", "answer": []}, *queries(3)[2:]]
    policy = RulePolicy(make_trajectory)
    with pytest.raises(ValueError, match="record 2: query 'mute': it has no answer"):
        run.evaluate(policy, mixed)
    records = []
    evaluation = run.evaluate(policy, mixed, max_unreadable=0.01, on_record=lambda record, _: records.append(record))
    assert sorted(record.id for record in records) == ["0", "1", "3"]
    assert (evaluation.figures["accuracy"], evaluation.skipped) == (1.0, 1)
    assert [t.query_id for t in evaluation.trajectories] == ["q0", "q1", "q2"]
    assert caplog.messages == ["skipped: record 2: query 'mute': it has no answer (1 of 3 so far)"]
    with pytest.raises(ValueError, match="none of 1 queries can be used"):
        run.evaluate(policy, mixed[2:3], max_unreadable=0.01)


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

"""Evaluation with a policy that answers by rule, and what the command prints and writes."""

import argparse
import contextlib
import itertools
import json

import numpy as np
import pytest

from data_pipeline.sources.pixel_search import PixelSearch
from pixel_reasoner_jax.evaluation import run
from pixel_reasoner_jax.rollout.episode import Limits
from pixel_reasoner_jax.rollout.settings import FILE, PolicySettings, load_policy
from pixel_reasoner_jax.trajectory import Ended

from .conftest import message, text


class RulePolicy:
    """Answers "i" to query i and "wrong" in every second sample; remembers how it was asked."""

    def __init__(self, make_trajectory):
        self.make, self.calls = make_trajectory, []

    @contextlib.contextmanager
    def stream(self, queries, *, samples, seed, temperature):
        self.calls.append((len(queries), samples, seed, temperature))
        yield ((number, self._answer(queries[number], sample)) for sample, number in self._order(len(queries), samples))

    @staticmethod
    def _order(count, samples):
        """Later queries and samples first, as happens."""
        return [(sample, number) for sample in reversed(range(samples)) for number in reversed(range(count))]

    def _answer(self, query, sample):
        answer = "wrong" if sample % 2 else query["answer"]
        messages = [message("user", text(query["question"])), message("assistant", text(f"\\boxed{{{answer}}}"))]
        recovered = self.make().operations[:1]
        return self.make(
            query_id=query["id"], reference=query["answer"], messages=messages, sample=sample, operations=recovered
        )


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


def arguments(*given):
    parser = argparse.ArgumentParser()
    run.add_arguments(parser)
    return parser.parse_args(["--model", "some/model", *given])


def test_the_command(tmp_path, capsys, monkeypatch, make_trajectory):
    policy = RulePolicy(make_trajectory)
    monkeypatch.setattr(run, "load_policy", lambda *_, **__: policy)
    files = ["--html", str(tmp_path / "r.html"), "--out", str(tmp_path / "r.json")]
    run.run(arguments("--count", "8", "--samples", "2", "--temperature", "0.5", *files))
    out = capsys.readouterr().out.splitlines()
    assert "Accuracy" in out[0] and out[3].split() == ["model", "0.500", "1.000", "1.000", "0.000"]
    assert out[-3:-1] == [f"report: {tmp_path / 'r.html'}", f"responses: {tmp_path / 'r.json'}"]
    figures = json.loads(out[-1])
    assert figures["policy"] == {"accuracy": 0.5, "rapr": 1.0, "operations": 1.0, "failure_rate": 0.0}
    saved = json.loads((tmp_path / "r.json").read_text())
    assert saved["prior"] == figures["prior"] and len(saved["responses"]) == 8
    assert (tmp_path / "r.html").read_text().count("<article") == 8


def test_prompts_that_leave_no_room_are_counted(capsys, monkeypatch, make_trajectory):
    policy = RulePolicy(make_trajectory)
    policy.limits = Limits()
    ended = itertools.cycle([Ended.LENGTH, Ended.LENGTH, Ended.LENGTH, Ended.ANSWER])
    policy._answer = lambda query, sample: make_trajectory(source=np.zeros(10, np.int8), ended=next(ended))
    monkeypatch.setattr(run, "load_policy", lambda *_, **__: policy)
    run.run(arguments("--count", "8", "--max-length", "10"))
    assert "6 of 8 prompts leave no room for a response: raise --max-length" in capsys.readouterr().err
    policy._answer = lambda query, sample: make_trajectory(ended=Ended.LENGTH)  # which has begun
    run.run(arguments("--count", "8"))
    assert "no room" not in capsys.readouterr().err


def test_the_prior_of_the_world():
    assert 0.35 < run.prior_figures(PixelSearch(200, "heldout"))["accuracy"] < 0.55


@pytest.mark.parametrize("option", ["--count", "--samples", "--slots"])
def test_options_out_of_range(option):
    with pytest.raises(ValueError, match=f"{option} must be at least 1, got 0"):
        run.run(arguments(option, "0"))


@pytest.mark.parametrize("option", ["--html", "--out"])
def test_an_output_that_cannot_be_written_is_named_before_the_model_is_loaded(tmp_path, option):
    with pytest.raises(ValueError, match=f"{tmp_path} is a directory"):
        run.run(arguments(option, str(tmp_path)))


def test_settings_are_saved_with_a_checkpoint(tmp_path):
    settings = PolicySettings("Look closely.", padding=0.01, limits=Limits(max_operations=2, max_length=500))
    settings.save(tmp_path)
    assert PolicySettings.load(tmp_path) == settings


def test_a_checkpoint_without_settings_has_the_defaults(tmp_path):
    assert PolicySettings.load(tmp_path) == PolicySettings()


@pytest.mark.parametrize("content", ["{", "[1]", '{"colour": 1}', '{"limits": {"max_operations": -1}}'])
def test_unreadable_settings_are_named(tmp_path, content):
    (tmp_path / FILE).write_text(content)
    with pytest.raises(ValueError, match=FILE):
        PolicySettings.load(tmp_path)


def test_a_missing_model_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere: no such model directory"):
        load_policy(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="no config.json"):
        load_policy(tmp_path)

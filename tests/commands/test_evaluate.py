"""What `pixel-reasoner evaluate` prints and writes, with a policy that answers by rule."""

import argparse
import itertools
import json

import numpy as np
import pytest

from data_pipeline.sources.pixel_search import PixelSearch
from pixel_reasoner_jax.commands import evaluate, options
from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.rollout.dialogue import Limits
from pixel_reasoner_jax.trajectory import Ended
from tests.trajectories import RulePolicy


def arguments(*given):
    parser = argparse.ArgumentParser()
    options.evaluate(parser)
    return parser.parse_args(["--model", "some/model", *given])


def test_the_command(tmp_path, capsys, monkeypatch, make_trajectory):
    policy = RulePolicy(make_trajectory)
    monkeypatch.setattr(evaluate, "load_policy", lambda *_, **__: policy)
    files = ["--html", str(tmp_path / "r.html"), "--out", str(tmp_path / "r.json")]
    evaluate.run(arguments("--count", "8", "--samples", "2", "--temperature", "0.5", *files))
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
    monkeypatch.setattr(evaluate, "load_policy", lambda *_, **__: policy)
    evaluate.run(arguments("--count", "8", "--max-length", "10"))
    assert "6 of 8 prompts leave no room for a response: raise --max-length" in capsys.readouterr().err
    policy._answer = lambda query, sample: make_trajectory(ended=Ended.LENGTH)  # which has begun
    evaluate.run(arguments("--count", "8"))
    assert "no room" not in capsys.readouterr().err


def test_no_accuracy_is_printed_where_no_response_has_room(capsys, monkeypatch, make_trajectory):
    policy = RulePolicy(make_trajectory)
    policy.limits = Limits()
    policy._answer = lambda query, sample: make_trajectory(source=np.zeros(10, np.int8), ended=Ended.LENGTH)
    monkeypatch.setattr(evaluate, "load_policy", lambda *_, **__: policy)
    with pytest.raises(UserError, match="none of the 8 prompts leaves room for a response within 10 tokens.*--max-len"):
        evaluate.run(arguments("--count", "8", "--max-length", "10"))
    assert capsys.readouterr().out == ""


def test_the_prior_of_the_world():
    assert 0.35 < evaluate.prior_figures(PixelSearch(200, "heldout"))["accuracy"] < 0.55


@pytest.mark.parametrize("option", ["--count", "--samples", "--slots"])
def test_options_out_of_range(option):
    with pytest.raises(ValueError, match=f"{option} must be at least 1, got 0"):
        evaluate.run(arguments(option, "0"))


@pytest.mark.parametrize("option", ["--html", "--out"])
def test_an_output_that_cannot_be_written_is_named_before_the_model_is_loaded(tmp_path, option):
    with pytest.raises(ValueError, match=f"{tmp_path} is a directory"):
        evaluate.run(arguments(option, str(tmp_path)))

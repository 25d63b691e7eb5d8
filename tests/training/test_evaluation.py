"""Evaluation of a run while it trains: it changes nothing, goes on, chooses the best checkpoint, and ends the run."""

from __future__ import annotations

import contextlib
import copy
import itertools
import json
import pathlib
import shutil
import signal
import types

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from data_pipeline.exchange.exporting import export_table
from data_pipeline.pipeline import held_out, record_count, trajectory_batches
from data_pipeline.records import RecordSource
from pixel_reasoner_jax.commands.export import export
from pixel_reasoner_jax.config import load_config
from pixel_reasoner_jax.errors import CheckpointError, RunStopped
from pixel_reasoner_jax.metrics import read_metrics
from pixel_reasoner_jax.processing import Budgets, Processor
from pixel_reasoner_jax.rollout.settings import PolicySettings
from pixel_reasoner_jax.saved_config import save_config
from pixel_reasoner_jax.training import evaluation, rl, sft
from pixel_reasoner_jax.training.best import FILE, Standing, read_best, rule_of, write_best
from pixel_reasoner_jax.training.stopping import StopRequest
from pixel_reasoner_jax.training.validation import Validation, spread
from tests.training.conftest import let_luck_pay, make_rl_config, make_sft_config
from tests.training.interruption import interrupted
from tests.training.test_processes import SCRIPT, assert_equal, configured, execute

TIMED = ("seconds", "time", "tokens_per_second")


COMPILED = "/jax/core/compile/backend_compile_duration"


@contextlib.contextmanager
def monitoring(listener):
    jax.monitoring.register_event_duration_secs_listener(listener)
    try:
        yield
    finally:
        jax.monitoring.unregister_event_duration_listener(listener)


def untimed(workdir: pathlib.Path) -> list[dict]:
    return [{k: v for k, v in line.items() if not k.startswith(TIMED)} for line in read_metrics(workdir)]


def without_evaluations(lines: list[dict]) -> list[dict]:
    """The lines of steps without their evaluations, and without that before the first step."""
    return [{k: v for k, v in line.items() if not k.startswith("evaluation/")} for line in lines if line["step"]]


def steps_of(workdir) -> list[int]:
    return sorted(
        int(folder.name) for folder in (pathlib.Path(workdir) / "checkpoints").iterdir() if folder.name.isdigit()
    )


def assert_same_model(one: pathlib.Path, other: pathlib.Path) -> None:
    expected, actual = (load_file(directory / "model.safetensors") for directory in (one, other))
    for name in expected:
        np.testing.assert_array_equal(expected[name], actual[name], err_msg=name)


def with_loss(config):
    config.evaluation.update(dict(loss_on=config.data.path, every=1, queries=5))
    return config


def with_queries(config, start):
    config.evaluation.update(dict(on=(f"data:{start / 'queries'}",), every=1, queries=3))
    return config


@pytest.fixture(scope="module")
def evaluated_sft(start, tmp_path_factory):
    """The model of a run of SFT with a validation loss after every step."""
    return sft.run(with_loss(make_sft_config(start, tmp_path_factory.mktemp("evaluated"))))


@pytest.mark.slow
def test_the_loss_is_the_token_mean_and_training_is_as_without_it(evaluated_sft, uninterrupted):
    assert_same_model(uninterrupted("sft"), evaluated_sft)
    lines, before = untimed(evaluated_sft.parent), untimed(uninterrupted("sft").parent)
    assert set(lines[0]) == {"step", "evaluation/loss", "evaluation/sampled_and_scored_tokens"}
    losses = [line["evaluation/loss"] for line in lines]
    assert losses == sorted(losses, reverse=True)  # it learns its own data
    assert all(line["evaluation/sampled_and_scored_tokens"] > 0 for line in lines)
    assert without_evaluations(lines) == before
    assert read_best(evaluated_sft.parent) == {"step": 4, "metric": "loss", "value": losses[-1], "rule": "smallest"}


@pytest.mark.slow
def test_the_loss_of_all_records_is_that_of_an_update_on_all(sft_config):
    config = with_loss(sft_config)
    config.evaluation.queries = 24
    config.train.update(dict(batch_size=24, steps=2))
    lines = read_metrics(sft.run(config).parent)
    for before, after in itertools.pairwise(lines):  # from that of the model that the run begins with on
        np.testing.assert_allclose(before["evaluation/loss"], after["loss"], rtol=1e-6)
    assert [line["step"] for line in lines] == [0, 1, 2]


@pytest.mark.slow
def test_sft_is_scored_on_queries_too_and_trains_as_without(sft_config, start, uninterrupted):
    """With samples of each, and an item that cannot be read."""
    queries = pathlib.Path(sft_config.workdir).parent / "queries.jsonl"
    export_table(str(start / "queries"), queries)
    with queries.open("a") as file:
        file.write(json.dumps({"id": "bad", "question": "?", "answer": "1", "images": ["gone.png"]}) + "\n")
    on, settings = (f"data:{queries}", "pixel_search:heldout"), dict(samples=2, temperature=1.0, queries=9, slots=4)
    sft_config.evaluation.update(dict(on=on, every=2, metric="pixel_search/tokens", **settings))
    model = sft.run(sft_config)
    assert_same_model(uninterrupted("sft"), model)
    lines = [line for line in read_metrics(model.parent) if "evaluation/data/score" in line]
    assert [line["step"] for line in lines] == [0, 2, 4]
    tokens = {line["step"]: line["evaluation/pixel_search/tokens"] for line in lines}
    assert all(count > 0 for count in tokens.values())
    assert read_best(model.parent)["step"] == min(tokens, key=tokens.get)


@pytest.mark.slow
@pytest.mark.parametrize("phase", ["sft", "rl"])
def test_two_processes_evaluate_as_one(phase, request, start, tmp_path):
    """More queries than the processes share evenly; the best one, and every figure, are the same."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    for count, name in ((1, "one"), (2, "two")):
        config = configured(request, phase, name)
        (with_loss if phase == "sft" else lambda config: with_queries(config, start))(config)
        execute(script, phase, config, count)
    one, two = (pathlib.Path(config.workdir).parent / name for name in ("one", "two"))
    assert_equal(one, two)
    assert all(any(key.startswith("evaluation/") for key in line) for line in read_metrics(two))
    assert read_best(one)["step"] == read_best(two)["step"]


@pytest.mark.slow
@pytest.mark.parametrize("at", [0, 2, 4])
def test_sft_goes_on_as_unbroken_from_a_stop_within_an_evaluation(at, evaluated_sft, sft_config, monkeypatch):
    config, loss, calls = with_loss(sft_config), Validation.loss, []

    def stopped(self, params, asked):
        calls.append(1)
        if len(calls) == at + 1:
            signal.raise_signal(signal.SIGTERM)
        return loss(self, params, asked)

    with monkeypatch.context() as patch:
        patch.setattr(Validation, "loss", stopped)
        with pytest.raises(RunStopped):
            sft.run(config)
    assert len(read_metrics(config.workdir)) == at and (at in steps_of(config.workdir) or not at)
    resumed = sft.run(config, resume=True)
    assert_same_model(evaluated_sft, resumed)
    assert untimed(resumed.parent) == untimed(evaluated_sft.parent)
    assert read_best(resumed.parent) == read_best(evaluated_sft.parent)


def scripted(monkeypatch, losses):
    """Lets the validation losses be those of a list, one after the other."""
    left = iter(losses)
    monkeypatch.setattr(Validation, "loss", lambda *_: (next(left), 1))


@pytest.mark.slow
def test_the_best_is_kept_and_exported_though_newer_ones_are_many(sft_config, monkeypatch, tmp_path, caplog):
    config = with_loss(sft_config)
    config.train.update(dict(keep_checkpoints=1, checkpoint_every=1, steps=4))
    scripted(monkeypatch, [4.0, 3.0, 1.0, 1.0, 2.0])
    sft.run(config)
    assert steps_of(config.workdir) == [2, 4]
    assert read_best(config.workdir)["step"] == 2  # of equal ones the earlier
    export(config.workdir, tmp_path / "best", step="best")
    export(config.workdir, tmp_path / "second", step=2)
    assert_same_model(tmp_path / "best", tmp_path / "second")


@pytest.mark.slow
def test_a_run_ends_when_its_patience_does_and_stays_ended(sft_config, monkeypatch, caplog):
    config = with_loss(sft_config)
    config.train.update(dict(checkpoint_every=100, keep_checkpoints=1))
    config.evaluation.patience = 2
    scripted(monkeypatch, [1.5, 1.0, 2.0, float("nan")])
    model = sft.run(config)
    assert [line["step"] for line in read_metrics(config.workdir)] == [0, 1, 2, 3]
    assert steps_of(config.workdir) == [1, 3]
    assert "has not become better in 2 evaluations; the best is 1 after 1" in caplog.text
    written = (model / "model.safetensors").read_bytes()
    assert (sft.run(config, resume=True) / "model.safetensors").read_bytes() == written
    assert len(read_metrics(config.workdir)) == 4


@pytest.mark.slow
def test_a_best_that_is_gone_is_forgotten(sft_config, monkeypatch, caplog):
    config = with_loss(sft_config)
    config.train.update(dict(checkpoint_every=1))
    config.evaluation.every = 2
    scripted(monkeypatch, [2.0, 1.0, 2.0, 0.5])
    interrupted(monkeypatch, sft.run, config, after=4)
    assert steps_of(config.workdir)[-1] == 3
    shutil.rmtree(pathlib.Path(config.workdir) / "checkpoints" / "2")
    (pathlib.Path(config.workdir) / FILE).unlink(missing_ok=True)
    sft.run(config, resume=True)
    assert "checkpoint 2, the best one, is gone" in caplog.text
    assert read_best(config.workdir)["step"] == 4


@pytest.fixture(scope="module")
def evaluated_rl(start, tmp_path_factory):
    """The model of a run of RL that is evaluated on three queries after every episode."""
    after, counts = evaluation.RunEvaluation.after, []

    def counted(*arguments):
        compiled = []
        with monitoring(lambda name, *_, **__: compiled.append(name) if name == COMPILED else None):
            figures = after(*arguments)
        counts.append(len(compiled))
        return figures

    with pytest.MonkeyPatch.context() as patch:
        let_luck_pay(patch)
        patch.setattr(evaluation.RunEvaluation, "after", counted)
        model = rl.run(with_queries(make_rl_config(start, tmp_path_factory.mktemp("evaluated")), start))
    assert counts[1:] == [0, 0, 0, 0]  # nothing is compiled after the first one
    return model


@pytest.mark.slow
def test_rl_trains_as_without_evaluations(evaluated_rl, uninterrupted):
    assert_same_model(uninterrupted("rl"), evaluated_rl)
    lines, before = untimed(evaluated_rl.parent), untimed(uninterrupted("rl").parent)
    for line in lines:
        assert 0 <= line["evaluation/data/score"] <= 1 and line["evaluation/data/tokens"] > 0
    assert all(line["seconds_evaluation"] > 0 for line in read_metrics(evaluated_rl.parent))
    assert without_evaluations(lines) == before
    assert read_best(evaluated_rl.parent)["metric"] == "data/score"


@pytest.mark.slow
def test_rl_goes_on_as_unbroken(evaluated_rl, rl_config, start, monkeypatch, luck_pays):
    """Stopped in the evaluation after episode 2, and in the one before the first episode."""
    config, answer, calls = with_queries(rl_config, start), evaluation.answer, []

    def stopped(*arguments):
        calls.append(1)
        if len(calls) in (1, 4):
            signal.raise_signal(signal.SIGTERM)
        return answer(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(evaluation, "answer", stopped)
        for resume, written in ((False, 0), (True, 2)):
            with pytest.raises(RunStopped):
                rl.run(config, resume=resume)
            assert len(read_metrics(config.workdir)) == written
    resumed = rl.run(config, resume=True)
    assert_same_model(evaluated_rl, resumed)
    assert untimed(resumed.parent) == untimed(evaluated_rl.parent)


def test_held_out_records_are_trained_on_by_nobody(start, sft_config):
    data, processor = start / "trajectories", Processor.from_pretrained(sft_config.model.directory)
    chosen = held_out(24, 0.25, 0).tolist()
    assert len(chosen) == 6 and chosen == sorted(set(chosen)) and chosen != held_out(24, 0.25, 1).tolist()
    assert record_count(data, held_out_share=0.25) == 18
    source = RecordSource(data)
    names = [source[number].query_id for number in range(24)]
    with trajectory_batches(data, processor, 18, held_out_share=0.25) as batches:
        read = [trajectory.query_id for trajectory in next(batches)[0]]
    assert sorted(read) == sorted(name for number, name in enumerate(names) if number not in chosen)


def test_settings_that_name_nothing_are_said_before_a_model_is_loaded(sft_config, rl_config, start, monkeypatch):
    def fails(config, run, text, **settings):
        config = copy.deepcopy(config)
        config.evaluation.update(settings)
        with pytest.raises(ValueError, match=text):
            run(config)
        assert not pathlib.Path(config.workdir).exists()

    for module in (sft, rl):
        monkeypatch.setattr(module, "TrainingRun", None)
    on = (f"data:{start / 'queries'}",)
    fails(rl_config, rl.run, "it must be texts of the form NAME:PATH", on=("vstar",))
    fails(rl_config, rl.run, "no such file or folder", on=("data:nowhere",))
    fails(rl_config, rl.run, "unknown benchmark 'vstra'|NAME:PATH", on=("vstra:x",))
    fails(rl_config, rl.run, "metric is 'accuracy': it is one of data/score", on=on, metric="accuracy")
    fails(rl_config, rl.run, "metric is 'loss': nothing is evaluated", metric="loss")
    fails(rl_config, rl.run, "patience is 3, and nothing is evaluated", patience=3)
    fails(sft_config, sft.run, "patience is 3, and nothing is evaluated", patience=3)
    fails(rl_config, rl.run, "at temperature 0 all would be alike", on=on, samples=2)
    fails(sft_config, sft.run, "nowhere", loss_on="nowhere")
    sft_config.data.held_out = 0.01
    fails(sft_config, sft.run, "leaves no trajectory")
    fails(sft_config, sft.run, "one or the other", loss_on=str(start / "trajectories"))


class Recorded:
    """A run that notes what is asked of it."""

    def __init__(self, workdir: pathlib.Path):
        self.workdir, self.kept, self.saved, self.lines = workdir, [], set(), {}
        self.settings, self.processor = PolicySettings(), types.SimpleNamespace(budgets=Budgets())

    def phase(self, _):
        return contextlib.nullcontext()

    def keep(self, step):
        self.kept.append(step)

    def has_saved(self, step):
        return step in self.saved

    def wait_for_checkpoints(self):
        pass

    def has_written(self, step):
        return step in self.lines

    def write(self, step, metrics):
        self.lines[step] = metrics

    def end_early(self):
        raise RunStopped


def evaluated(config, workdir, losses):
    """An evaluation whose losses are given, of a run that notes what is asked of it."""
    left, training = iter(losses), Recorded(workdir)
    validation = types.SimpleNamespace(loss=lambda *_: (next(left), 7))
    plan = evaluation.Plan({}, True, "loss", "smallest")
    return evaluation.RunEvaluation(config, training, plan, StopRequest(), None, validation), training


def test_when_it_is_made_and_what_it_means(tmp_path):
    config = load_config("sft_qwen2_5_vl_7b", [("evaluation.every", "2"), ("evaluation.patience", "2")])
    run, training = evaluated(config, tmp_path, [1.0, 0.5, 0.5, float("nan")])
    run.restore(None)
    told = {}
    for step in range(1, 8):
        told[step] = run.after(step, 7, None, step), run.is_best, run.is_over
        run.keep_best()
    assert told[1] == told[3] == told[5] == ({}, False, False)
    figures = {"evaluation/loss": 1.0, "evaluation/sampled_and_scored_tokens": 7}
    assert told[2] == (figures, True, False) and told[4][1:] == (True, False)
    assert told[6][1:] == (False, False) and told[7][1:] == (False, True)  # the last step is evaluated too
    assert training.kept == [2, 4]
    assert read_best(tmp_path) == {"step": 4, "metric": "loss", "value": 0.5, "rule": "smallest"}

    again, training = evaluated(config, tmp_path, [0.4])
    training.saved = {4}
    again.restore(run.to_json())
    assert again.is_over and training.kept == [4]
    other, training = evaluated(config, tmp_path, [2.0])
    training.saved = {4}
    other.restore({**run.to_json(), "metric": "data/score"})
    assert other.after(2, 7, None, 2) and other.is_best  # by another metric
    off, training = evaluated(config, tmp_path, [])
    training.saved, off._plan = {4}, evaluation.Plan({}, False, "", "greatest")
    off.restore(run.to_json())
    assert off.after(7, 7, None, 7) == {} and off.to_json() == run.to_json() and training.kept == [4]
    gone, training = evaluated(config, tmp_path, [0.9])
    gone.restore(run.to_json())
    assert not gone.is_over and not (tmp_path / FILE).exists()
    gone.after(2, 7, None, 2)
    assert gone.is_best


def test_the_model_that_a_run_begins_with_is_evaluated_first(tmp_path, caplog):
    config = load_config("sft_qwen2_5_vl_7b", [("evaluation.every", "2"), ("evaluation.patience", "2")])
    run, training = evaluated(config, tmp_path, [0.5, 0.75, 0.5])
    run.begin(0, 9, None, 0, None)
    assert training.lines == {0: {"evaluation/loss": 0.5, "evaluation/sampled_and_scored_tokens": 7}}
    assert read_best(tmp_path) == {"step": 0, "metric": "loss", "value": 0.5, "rule": "smallest"}
    run.after(2, 9, None, 2)
    again, training = evaluated(config, tmp_path, [0.5])  # it goes on: there is no checkpoint 0 that could be gone
    again.restore(run.to_json())
    again.begin(2, 9, None, 2, None)
    assert not training.lines and not again.is_over and read_best(tmp_path)["step"] == 0
    again.after(4, 9, None, 4)
    again.say_end(4)
    assert again.is_over and "the best is 0.5 of the model that the run began with" in caplog.text
    assert "gone" not in caplog.text and set(training.kept) <= {None}

    (tmp_path / "checkpoints").mkdir()
    config.model.directory = "models/first"
    save_config(config, tmp_path)
    with pytest.raises(CheckpointError, match="the model that its run began with, models/first: no evaluation after"):
        export(tmp_path, tmp_path / "out", step="best")
    assert not (tmp_path / "out").exists()


def test_one_that_is_stopped_before_the_first_step_writes_nothing(tmp_path):
    config = load_config("sft_qwen2_5_vl_7b", [("evaluation.every", "2")])
    run, training = evaluated(config, tmp_path, [])
    run._validation = types.SimpleNamespace(loss=lambda *_: None)
    with pytest.raises(RunStopped):
        run.begin(0, 9, None, 0, None)
    off, _ = evaluated(config, tmp_path, [])
    off._plan = evaluation.Plan({}, False, "", "greatest")
    off.begin(0, 9, None, 0, None)
    assert not training.lines and not (tmp_path / FILE).exists()


@pytest.mark.parametrize(
    ("name", "value", "is_other"),
    [
        ("queries", 7, True),
        ("samples", 3, True),
        ("temperature", 0.5, True),
        ("on", ("data:b.jsonl",), True),
        ("on", ("data:a.jsonl", "pixel_search:heldout"), False),
        ("every", 9, False),
        ("patience", 4, False),
    ],
)
def test_a_run_that_is_evaluated_on_something_else_has_another_best(name, value, is_other, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for file in ("a.jsonl", "b.jsonl"):
        pathlib.Path(file).write_text('{"question": "?", "answer": "1"}\n')

    def of(changes):
        config = load_config("rl_qwen2_5_vl_7b", [])
        config.evaluation.update({"on": ("data:a.jsonl",), "samples": 2, "temperature": 1.0, **changes})
        training = Recorded(tmp_path)
        training.saved = {4}
        return evaluation.RunEvaluation(config, training, evaluation.Plan.of(config), StopRequest(), None)

    before = of({})
    before._standing = Standing(4, 0.9)
    after = of({name: value})
    after.restore(json.loads(json.dumps(before.to_json())))
    assert after.to_json()["step"] == (None if is_other else 4)


@pytest.mark.parametrize("losses", [[None] * 3, [float("nan")] * 3])
def test_a_metric_without_a_value_ends_the_run_by_patience_and_has_no_best(losses, tmp_path, caplog):
    config = load_config("sft_qwen2_5_vl_7b", [("evaluation.every", "1"), ("evaluation.patience", "3")])
    run, training = evaluated(config, tmp_path, losses)
    for step in range(1, 4):
        assert not run.is_over
        run.after(step, 9, None, step)
        assert not run.is_best
    assert run.is_over and not (tmp_path / FILE).exists()
    run.say_end(3)
    assert "has not had a value in 3 evaluations; none is the best" in caplog.text


def test_what_it_takes_is_said_once_where_it_is_much(tmp_path, caplog, monkeypatch):
    config = load_config("sft_qwen2_5_vl_7b", [("evaluation.every", "1")])
    now = iter(range(0, 1000, 10))
    monkeypatch.setattr(evaluation.time, "monotonic", lambda: next(now))
    run, _ = evaluated(config, tmp_path, [1.0] * 4)
    for step in range(1, 5):
        run.after(step, 9, None, step)
    assert caplog.text.count("of the time") == 1 and "up to 2" in caplog.text


def test_standing():
    standing = Standing()
    for step, value in enumerate([None, 0.5, 0.5, float("nan"), 0.7], 1):
        standing = standing.after(step, value, "greatest")
    assert standing == Standing(5, 0.7, 0)
    assert Standing(1, 0.5, 0).after(2, 0.5, "smallest") == Standing(1, 0.5, 1)
    assert Standing().after(1, None, "smallest") == Standing(None, None, 1)
    assert [rule_of(m, "auto") for m in ("loss", "a/failure_rate", "a/score")] == ["smallest", "smallest", "greatest"]
    assert rule_of("loss", "greatest") == "greatest"


def test_the_file_of_the_best(tmp_path):
    with pytest.raises(CheckpointError, match="has no best.json: its run was not evaluated"):
        read_best(tmp_path)
    write_best(tmp_path, Standing(3, 0.5), "loss", "smallest")
    assert json.loads((tmp_path / FILE).read_text())["step"] == read_best(tmp_path)["step"] == 3
    for damaged in ("{", "[]", '{"step": "3"}', "[" * 100_000):
        (tmp_path / FILE).write_text(damaged)
        with pytest.raises(CheckpointError, match="is damaged"):
            read_best(tmp_path)
    write_best(tmp_path, Standing(), "loss", "smallest")
    assert not (tmp_path / FILE).exists()


def test_spread():
    assert spread(3, 5) == [0, 1, 2] and spread(10, 5) == [0, 2, 4, 6, 8] and spread(0, 5) == []

"""Both phases from stored data to an exported model, and on from a checkpoint as if nothing had happened."""

import copy
import dataclasses
import json
import multiprocessing
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from data_pipeline.exchange.exporting import export_table
from data_pipeline.records import RecordSource, shards, write_records
from data_pipeline.sources.pixel_search import PixelSearch
from data_pipeline.worker_processes import WorkerError
from pixel_reasoner_jax.commands.export import export
from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.metrics import read_metrics
from pixel_reasoner_jax.processing import PictureStore
from pixel_reasoner_jax.rollout import policy
from pixel_reasoner_jax.rollout.admission import Admission
from pixel_reasoner_jax.rollout.settings import load_policy
from pixel_reasoner_jax.training import rl, sft
from pixel_reasoner_jax.training.training_run import TrainingRun
from tests.conftest import REPOSITORY
from tests.data_pipeline.tables import write_table
from tests.documents import undocumented
from tests.training.interruption import interrupted

RL_FIGURES = {
    "reward", "reward_correct", "reward_bonus", "reward_penalty", "accuracy", "rapr", "operations", "response_tokens",
    "truncated", "uniform_groups", "answers_unchecked", "updates", "planned_updates", "replayed", "alpha", "beta",
    "tokens_per_second", "seconds_rollout",
}  # fmt: skip
UPDATE_FIGURES = {
    "learning_rate",
    "entropy",
    "clip_fraction",
    "gradient_norm",
    "logprob_difference",
    "tokens",
    "seconds_update",
}


@pytest.mark.parametrize("phase", ["sft", "rl"])
def test_a_resumed_run_ends_where_an_uninterrupted_one_does(
    phase, request, uninterrupted, monkeypatch, luck_pays, capsys
):
    whole = uninterrupted(phase)
    config, run = request.getfixturevalue(f"{phase}_config"), {"sft": sft.run, "rl": rl.run}[phase]
    interrupted(monkeypatch, run, config, after=3)  # the checkpoint is step 2's
    resumed = run(config, resume=True)
    assert f"{config.workdir} goes on after step 2\n" in capsys.readouterr().err
    expected, actual = (load_file(directory / "model.safetensors") for directory in (whole, resumed))
    assert expected.keys() == actual.keys()
    for name in expected:
        np.testing.assert_array_equal(expected[name], actual[name], err_msg=name)
    lines, again = read_metrics(whole.parent), read_metrics(resumed.parent)
    assert [line["step"] for line in again] == [1, 2, 3, 4]
    timed = ("seconds", "time", "tokens_per_second")
    for one, other in zip(lines, again, strict=True):
        assert {k: v for k, v in one.items() if not k.startswith(timed)} == {
            k: v for k, v in other.items() if not k.startswith(timed)
        }


@pytest.mark.slow
def test_a_run_keeps_the_slots_that_memory_has_decided_on(rl_config, uninterrupted, monkeypatch, luck_pays, capsys):
    """When it goes on, nothing is decided again. Responses do not depend on it: the end is that of other slots."""
    whole = uninterrupted("rl")
    rl_config.rollout.slots = 0
    again = copy.deepcopy(rl_config)
    interrupted(monkeypatch, rl.run, rl_config, after=3)
    decided = json.loads((pathlib.Path(rl_config.workdir) / "config.json").read_text())["rollout"]
    assert decided["slots"] == 8 and decided["cache_tokens"] > 0  # an episode has eight responses
    assert "rollouts: 8 responses in flight, " in capsys.readouterr().err
    monkeypatch.setattr(policy, "free_bytes", None)
    resumed = rl.run(again, resume=True)
    assert json.loads((resumed.parent / "config.json").read_text())["rollout"] == decided
    expected, actual = (load_file(directory / "model.safetensors") for directory in (whole, resumed))
    for name in expected:
        np.testing.assert_array_equal(expected[name], actual[name], err_msg=name)


def test_an_rl_run_leaves_all_it_should(uninterrupted):
    model = uninterrupted("rl")
    lines = read_metrics(model.parent)
    assert [line["updates"] for line in lines] == [1, 1, 1, 1]
    for line in lines:
        assert line.keys() >= RL_FIGURES | UPDATE_FIGURES and not undocumented(line)
        assert line["logprob_difference"] < 1e-4  # on-policy: sampler and trainer agree
        assert line["replayed"] == pytest.approx(0.2)  # 2 of 10
    # H - RaPR is 0.3, of which alpha takes half; and n - N is -1.
    assert [line["alpha"] for line in lines] == pytest.approx([0.5, 0.65, 0.8, 0.95])
    assert [line["beta"] for line in lines] == pytest.approx([0.05, 0.04, 0.03, 0.02])
    assert json.loads((model.parent / "config.json").read_text())["rollout"]["samples"] == 4
    policy = load_policy(model)
    assert policy.limits.max_response_tokens == 96 and policy.registry is not None
    assert list(pathlib.Path(model.parent).glob("events.out.tfevents*"))


def test_rollouts_sample_from_the_adapters_that_are_trained(rl_config, luck_pays, tmp_path):
    rl_config.lora.rank = 4
    rl_config.optimizer.learning_rate = 1e-2
    rl_config.train.steps = 2
    model = rl.run(rl_config)
    lines = read_metrics(model.parent)
    assert [line["updates"] for line in lines] == [1, 1]
    assert lines[1]["logprob_difference"] < 1e-4  # after an update
    export(model.parent, tmp_path / "exported")
    final, exported = (load_file(directory / "model.safetensors") for directory in (model, tmp_path / "exported"))
    initial = load_file(pathlib.Path(rl_config.model.directory) / "model.safetensors")
    assert final.keys() == exported.keys() == initial.keys()
    for name in final:
        np.testing.assert_array_equal(final[name], exported[name])
        assert np.array_equal(final[name], initial[name]) != ("model.layers" in name and "proj.weight" in name), name


@pytest.mark.slow
@pytest.mark.parametrize("rounded", ["weights", "cache_dtype"])
def test_what_rounded_rollouts_sample_is_corrected(rl_config, luck_pays, capsys, rounded):
    rl_config.rollout[rounded], rl_config.train.steps, rl_config.train.log_samples = "int8", 2, 2
    model = rl.run(rl_config)
    assert capsys.readouterr().err.count("config.grpo.correction is 'tis'") == 1
    assert json.loads((model.parent / "config.json").read_text())["grpo"]["correction"] == "tis"
    for line in read_metrics(model.parent):
        assert line["updates"] == 1 and 1e-5 < line["logprob_difference"] < 0.05
        assert line["correction_weight"] != 1 and line["correction_weight"] == pytest.approx(1, abs=0.05)
        assert 1e-5 < line["logprob_difference_text"] < 0.05


@pytest.mark.slow
def test_a_killed_data_worker_ends_the_run_and_the_run_can_go_on(sft_config, monkeypatch):
    sft_config.data.workers, sft_config.train.steps = 1, 12
    write = TrainingRun.write

    def killing(run, step, metrics):
        write(run, step, metrics)
        if step == 3:
            for child in multiprocessing.active_children():
                child.kill()

    with monkeypatch.context() as patch, pytest.raises(WorkerError, match="data worker 1 of 1 .* killed by SIGKILL"):
        patch.setattr(TrainingRun, "write", killing)
        sft.run(sft_config)
    assert len(read_metrics(sft.run(sft_config, resume=True).parent)) == 12


@pytest.mark.slow
def test_a_file_that_vanishes_in_a_rollout_leaves_its_query_out(rl_config, tmp_path, monkeypatch):
    """Between its opening and its encoding, where memory is so short that it has to be decoded again."""
    queries = [seed.query() for seed in PixelSearch(2, "rl")]
    for query in queries:
        file = tmp_path / f"{query['id']}.png"
        query["images"][0].convert("RGB").save(file)
        query["images"] = [str(file)]
    write_records(tmp_path / "queries", "query", queries)
    build, make_policy = Admission._build, rl.make_policy

    def lost(admission, query):
        prompt = build(admission, query)
        if query["id"] == queries[0]["id"]:
            os.remove(query["images"][0])
        return prompt

    def of_little_memory(*given):
        policy = make_policy(*given)
        policy.store = PictureStore(0)
        return policy

    monkeypatch.setattr(Admission, "_build", lost)
    monkeypatch.setattr(rl, "make_policy", of_little_memory)
    rl_config.data.path, rl_config.train.steps = str(tmp_path / "queries"), 1
    with pytest.raises(UserError, match="no update was made.*equal rewards"):  # a random model earns nothing
        rl.run(rl_config)
    [line] = read_metrics(pathlib.Path(rl_config.workdir))
    assert (line["failed_queries"], line["updates"]) == (1, 0) and "accuracy" in line


@pytest.mark.slow
@pytest.mark.parametrize("phase", ["sft", "rl"])
def test_a_resumed_run_skips_the_same_records(phase, request, start, tmp_path, monkeypatch, luck_pays, caplog):
    config, run = request.getfixturevalue(f"{phase}_config"), {"sft": sft.run, "rl": rl.run}[phase]
    kind, sliver = {"sft": "trajectory", "rl": "query"}[phase], Image.new("RGB", (1, 300))
    records = list(RecordSource(config.data.path))
    if phase == "sft":
        records += [dataclasses.replace(records[0], query_id="silent", messages=records[0].messages[:2])]
        long = [{"role": "user", "content": "word " * 400}, records[0].messages[-1]]
        records += [dataclasses.replace(records[0], query_id="long", messages=[*records[0].messages, *long])]
    else:
        records = [record | {"category": "digits"} for record in records]
        invalid = ({"images": [sliver]}, {"answer": ""}, {"question": "word " * 200})
        records += [records[0] | {"id": f"bad{number}"} | fields for number, fields in enumerate(invalid)]
    with monkeypatch.context() as patch:
        patch.setattr(shards, "check_form", lambda kind, record: "unchecked")
        write_records(tmp_path / "mixed", kind, records)
    config.data.update(dict(path=str(tmp_path / "mixed"), max_unreadable=0.2))
    config.train.steps = 8
    broken = copy.deepcopy(config)
    broken.workdir += "_broken"
    whole = run(config)
    interrupted(monkeypatch, run, broken, after=5)
    resumed = run(broken, resume=True)
    lines, again = read_metrics(whole.parent), read_metrics(resumed.parent)
    assert [line["skipped_records"] for line in lines] == [line["skipped_records"] for line in again]
    warnings = [record.getMessage() for record in caplog.records if record.name == "data_pipeline.reader"]
    assert lines[-1]["skipped_records"] >= 2 and warnings and all("skipped: " in warning for warning in warnings)
    expected, actual = (load_file(directory / "model.safetensors") for directory in (whole, resumed))
    for name in expected:
        np.testing.assert_array_equal(expected[name], actual[name], err_msg=name)


def test_a_query_without_an_answer_is_named_before_it_is_asked(rl_config, tmp_path, monkeypatch):
    monkeypatch.setattr(rl.Policy, "rollout", None)
    rl_config.data.path = str(tmp_path / "queries")
    with monkeypatch.context() as patch:
        patch.setattr(shards, "check_form", lambda kind, record: "unchecked")
        write_records(rl_config.data.path, "query", [{"id": f"q{n}", "question": "?", "answer": ""} for n in range(8)])
    with pytest.raises(ValueError, match=r"2 of 2 records .*record \d: query 'q[0-7]': it has no answer"):
        rl.run(rl_config)


@pytest.mark.slow
def test_a_run_that_was_moved_is_exported_without_its_first_model(sft_config, start, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(start)
    sft_config.model.directory, sft_config.train.steps = "model", 2
    trained = load_file(sft.run(sft_config) / "model.safetensors")
    assert capsys.readouterr().err.splitlines()[-1] == f"the trained model is in {sft_config.workdir}/model"
    moved = pathlib.Path(sft_config.workdir).rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    command = [sys.executable, "-m", "pixel_reasoner_jax.commands.cli", "export", "moved", "--out", "out"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(REPOSITORY)})
    assert (done.returncode, done.stdout, done.stderr) == (0, "exported: out\n", "")  # and no library's warnings
    exported = load_file("out/model.safetensors")
    assert exported.keys() == trained.keys()
    for name in trained:
        np.testing.assert_array_equal(exported[name], trained[name])
    for name in ("config.json", "preprocessor_config.json", "tokenizer.json", "pixel_reasoner.json"):
        assert pathlib.Path("out", name).read_text() == (moved / "model" / name).read_text()


@pytest.mark.slow
@pytest.mark.parametrize("phase,suffix", [("sft", ".parquet"), ("rl", ".jsonl"), ("rl", ".csv")])
def test_a_table_trains_as_the_data_set_it_holds(phase, suffix, request, uninterrupted, luck_pays, tmp_path):
    """Without an import: the trained model is the same."""
    config = request.getfixturevalue(f"{phase}_config")
    table = tmp_path / f"table{suffix}"
    export_table(config.data.path, table.with_suffix(".jsonl") if suffix == ".csv" else table)
    if suffix == ".csv":
        write_table(table, list(map(json.loads, table.with_suffix(".jsonl").read_text().splitlines())))
    config.data.path = str(table)
    model = {"sft": sft, "rl": rl}[phase].run(config)
    expected = load_file(uninterrupted(phase) / "model.safetensors")
    trained = load_file(model / "model.safetensors")
    assert all(np.array_equal(trained[name], values) for name, values in expected.items())

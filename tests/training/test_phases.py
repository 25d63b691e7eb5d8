"""Both phases from stored data to an exported model, and on from a checkpoint as if nothing had happened."""

import copy
import dataclasses
import functools
import itertools
import json
import multiprocessing
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from data_pipeline.exchange.exporting import export_table
from data_pipeline.records import RecordSource, shards, write_records
from data_pipeline.sources.pixel_search import PixelSearch
from data_pipeline.worker_processes import WorkerError
from pixel_reasoner_jax.commands.export import export
from pixel_reasoner_jax.config import ConfigError
from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.metrics import read_metrics
from pixel_reasoner_jax.parallel import MeshError
from pixel_reasoner_jax.processing import PictureStore, Processor
from pixel_reasoner_jax.rollout.scheduler import Scheduler
from pixel_reasoner_jax.rollout.settings import PolicySettings, load_policy
from pixel_reasoner_jax.training import replay, rl, sft, training_run
from pixel_reasoner_jax.training.state import Trainer
from pixel_reasoner_jax.training.training_run import TrainingRun
from tests.conftest import REPOSITORY
from tests.data_pipeline.tables import write_table

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


class Killed(Exception):
    pass


def interrupted(monkeypatch, run, config, after: int) -> None:
    """Runs until the figures of step `after` are written, then dies before anything else is saved."""
    write = TrainingRun.write

    def write_then_die(self, step, metrics):
        write(self, step, metrics)
        if step == after:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(TrainingRun, "write", write_then_die)
        with pytest.raises(Killed):
            run(config)


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


def test_an_rl_run_leaves_all_it_should(uninterrupted):
    model = uninterrupted("rl")
    lines = read_metrics(model.parent)
    assert [line["updates"] for line in lines] == [1, 1, 1, 1]
    for line in lines:
        assert line.keys() >= RL_FIGURES | UPDATE_FIGURES
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


def test_the_run_goes_on_where_an_episode_leaves_nothing_to_learn(rl_config, luck_pays, monkeypatch):
    """Two updates an episode, five in all; the second episode has none, and the last one stops halfway."""
    reward, episodes = rl.reward_groups, itertools.count(1)

    def second_is_uniform(groups, *settings):
        rewarded = reward(groups, *settings)
        if next(episodes) != 2:
            return rewarded
        return dataclasses.replace(rewarded, trained=np.zeros_like(rewarded.trained))

    monkeypatch.setattr(rl, "reward_groups", second_is_uniform)
    rl_config.train.update(dict(batch_size=4, steps=5))
    rl_config.optimizer.update(dict(learning_rate=1e-2, schedule="linear", warmup_fraction=0.0))
    lines = read_metrics(rl.run(rl_config).parent)
    assert [line["updates"] for line in lines] == [2, 0, 1]
    assert [line["skipped_updates"] for line in lines] == [0, 2, 2] and lines[1]["planned_updates"] == 2
    # The schedule waits: the last update is the third.
    assert [line.get("learning_rate") for line in lines] == [pytest.approx(0.9e-2), None, pytest.approx(0.6e-2)]
    # The second update of an episode meets another policy than the one that sampled.
    assert lines[0]["logprob_difference"] < 1e-4 < lines[0]["kl"]


@pytest.mark.parametrize("method, updates, replayed", [("none", 1, 0.0), ("paper", 2, 0.5)])
def test_replay_keeps_the_planned_updates(rl_config, luck_pays, monkeypatch, method, updates, replayed):
    """Two are planned, of four responses; four have an advantage. The updates are not computed here."""
    collect, trained = rl.collect, []

    def pays_once(*arguments):
        groups, correct = collect(*arguments)
        return groups, np.stack([correct[0], np.zeros_like(correct[1])])

    def update(self, state, batches, learning_rate):
        trained.append(sum(len(np.unique(row)) - 1 for batch in batches for row in batch["segment_ids"]))
        return dataclasses.replace(state, step=state.step + 1), {"tokens": 1.0, "logprob_difference": 0.0}

    monkeypatch.setattr(rl, "collect", pays_once)
    monkeypatch.setattr(Trainer, "update", update)
    rl_config.train.update(dict(batch_size=4, steps=2))
    rl_config.replay.method = method
    [line] = read_metrics(rl.run(rl_config).parent)
    assert trained == [4] * updates
    assert (line["planned_updates"], line["updates"], line["replayed"]) == (2, updates, replayed)
    assert line["uniform_groups"] == 0.5


def test_more_queries_are_asked_in_place_of_those_that_teach_nothing(rl_config, luck_pays, monkeypatch):
    """An episode has two queries: in the first one, the third and the fourth pay."""
    collect, asked = rl.collect, []

    def pays_later(*arguments):
        groups, correct = collect(*arguments)
        asked.append([group[0].query_id for group in groups])
        return groups, np.zeros_like(correct) if len(asked) == 1 else correct

    def update(self, state, batches, learning_rate):
        return dataclasses.replace(state, step=state.step + 1), {"tokens": 1.0, "logprob_difference": 0.0}

    monkeypatch.setattr(rl, "collect", pays_later)
    monkeypatch.setattr(Trainer, "update", update)
    rl_config.train.update(dict(batch_size=4, steps=4))
    rl_config.replay.method, rl_config.grpo.sampling_rounds = "none", 3
    lines = read_metrics(rl.run(rl_config).parent)
    figures = [(line["sampling_rounds"], line["updates"], line["uniform_groups"]) for line in lines]
    assert figures == [(2, 2, 0.5), (1, 2, 0)]
    assert len({query for queries in asked for query in queries}) == 6


def test_parts_that_there_are_not_are_named_before_anything_is_loaded(rl_config):
    rl_config.model.directory = "nowhere"
    for key, kind in (("replay.method", "replay method"), ("grpo.advantage", "advantage")):
        config = copy.deepcopy(rl_config)
        section, name = key.split(".")
        config[section][name] = "nowhere_at_all:function"
        with pytest.raises(UserError, match=f"{kind} 'nowhere_at_all:function' cannot be imported"):
            rl.run(config)


def test_a_run_that_never_made_an_update_is_an_error_and_exports_nothing(sft_config, rl_config, monkeypatch, caplog):
    """Here nothing is computed that could be learnt."""
    figures = dict(failed_queries=0, truncated=1.0, answers_unchecked=0, updates=0, skipped_updates=0)
    monkeypatch.setattr(Trainer, "update", lambda self, state, *_: (state, {}))

    def run_episode(learner, episode, read_queries, *states):
        read_queries()
        return *states, figures | {"accuracy": (episode - 1) / 8}

    monkeypatch.setattr(rl, "run_episode", run_episode)
    for run, config in ((sft.run, sft_config), (rl.run, rl_config)):
        config.train.steps, config.workdir = 2, f"{config.workdir}_{run.__module__}"
        for resume in (False, True):
            with pytest.raises(UserError, match="no update was made, so there is no trained model, and none is writ"):
                run(config, resume)
        assert not (pathlib.Path(config.workdir) / "model").exists()
    reasons = [message for message in caplog.messages if message.startswith("episode ")]
    assert [reason.partition(": ")[0] for reason in reasons] == [f"episode {n} made no update" for n in (1, 2)]
    assert "equal rewards (accuracy 0)" in reasons[0] and "every response met a limit before its answer" in reasons[0]
    assert reasons[1] == "episode 2 made no update: as before"  # though its accuracy is another


def test_a_run_whose_prompts_leave_no_room_exports_nothing(rl_config):
    rl_config.rollout.max_length = 40
    with pytest.raises(UserError, match="leaves no room for a response within rollout.max_length = 40"):
        rl.run(rl_config)
    assert not (pathlib.Path(rl_config.workdir) / "model").exists()


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
    build, make_policy = Scheduler._build, rl.make_policy

    def lost(scheduler, query):
        prompt = build(scheduler, query)
        if query["id"] == queries[0]["id"]:
            os.remove(query["images"][0])
        return prompt

    def of_little_memory(*given):
        policy = make_policy(*given)
        policy.store = PictureStore(0)
        return policy

    monkeypatch.setattr(Scheduler, "_build", lost)
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


def test_an_sft_update_with_nothing_to_train_on_is_skipped_and_counted(sft_config, monkeypatch):
    """All loss masks of the second batch are empty. The other updates are not computed here."""
    update, numbers = Trainer.update, itertools.count(1)

    def second_is_masked(self, state, batches, learning_rate):
        if next(numbers) == 2:
            batches = [{**batch, "target_mask": np.zeros_like(batch["target_mask"])} for batch in batches]
            return update(self, state, batches, learning_rate)
        return dataclasses.replace(state, step=state.step + 1), {"loss": 0.5}

    monkeypatch.setattr(Trainer, "update", second_is_masked)
    interrupted(monkeypatch, sft.run, sft_config, after=3)  # the checkpoint is step 2's, of one update
    lines = read_metrics(sft.run(sft_config, resume=True).parent)
    assert [(line["step"], line["skipped_updates"]) for line in lines] == [(1, 0), (2, 1), (3, 1), (4, 1)]
    assert ["loss" in line for line in lines] == [True, False, True, True]


@pytest.mark.slow
def test_an_rl_update_without_responses_is_skipped_and_counted(rl_config, luck_pays, monkeypatch):
    """Two updates an episode; where one response has most of the tokens, a share of them has no response in it."""

    def all_in_the_first(lengths, count):
        return [slice(0, len(lengths)), *[slice(0, 0)] * (count - 1)]

    monkeypatch.setattr(replay, "split_by_tokens", all_in_the_first)
    rl_config.replay.method = "none"
    rl_config.train.update(dict(batch_size=4, steps=4))
    lines = read_metrics(rl.run(rl_config).parent)
    assert [(line["updates"], line["skipped_updates"]) for line in lines] == [(1, 1), (1, 2)]


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


def test_one_device_is_no_mesh_of_three(sft_config):
    sft_config.mesh.tensor = 3
    with pytest.raises(MeshError, match="a multiple of 3 devices, but there are 1"):
        sft.run(sft_config)


def test_a_cpu_is_not_asked_for_bfloat16(sft_config):
    sft_config.model.dtype = "bfloat16"
    with pytest.raises(ConfigError, match="--config.model.dtype=float32"):
        sft.run(sft_config)


def test_data_that_are_not_there_are_named_with_their_setting(sft_config, rl_config, tmp_path):
    here = rl_config.data.path
    sft_config.data.path = str(tmp_path / "nowhere")
    with pytest.raises(
        ConfigError, match="config.data.path names .*nowhere, where no data set is complete: .*synthesize"
    ):
        sft.run(sft_config)
    rl_config.data.path = str(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="names .*nowhere, .*: give a table of questions and answers") as raised:
        rl.run(rl_config)
    assert "synthesize" not in str(raised.value)
    rl_config.data.path = str(tmp_path / "gone.csv")
    with pytest.raises(ConfigError, match="config.data.path names .*gone.csv, and there is no such file"):
        rl.run(rl_config)
    rl_config.data.mixture = ((here, 1.0), ("elsewhere", 1.0))
    with pytest.raises(ConfigError, match="config.data.mixture names elsewhere"):
        rl.run(rl_config)


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


def test_a_directory_in_use_is_refused(sft_config, uninterrupted):
    sft_config.workdir = str(uninterrupted("sft").parent)
    with pytest.raises(ConfigError, match="already holds a run.*--resume"):
        sft.run(sft_config)


def test_a_run_whose_data_grew_does_not_go_on(sft_config, uninterrupted, monkeypatch):
    sft_config.workdir = str(uninterrupted("sft").parent)
    monkeypatch.setattr(training_run, "record_count", lambda data: 99)
    with pytest.raises(ConfigError, match="have 99 records, and had .* when it was last saved"):
        sft.run(sft_config, resume=True)


def test_a_start_that_failed_may_be_tried_again(sft_config, tmp_path):
    model, sft_config.model.directory = sft_config.model.directory, str(tmp_path / "nowhere")
    sft_config.media.root = str(tmp_path / "nowhere")
    with pytest.raises(
        UserError, match=r"the root of media \(media\.root, --media-root\) is .*nowhere, which is no folder"
    ):
        TrainingRun(sft_config)
    sft_config.media.root = None
    with pytest.raises(ConfigError, match="config.model.directory is .*nowhere, which has no config.json"):
        TrainingRun(sft_config)
    sft_config.model.directory = model
    with TrainingRun(sft_config):
        pass


def without(file: pathlib.Path, *keys: str) -> None:
    """Removes dotted keys from a JSON file, as if it had been written before there were such settings."""
    content = json.loads(file.read_text())
    for key in keys:
        *sections, name = key.split(".")
        del functools.reduce(dict.__getitem__, sections, content)[name]
    file.write_text(json.dumps(content))


def rules(config, resume: bool = False) -> tuple[str, ...]:
    """The rules of a run that starts: those that it uses, which must be those that it saves."""
    with TrainingRun(config, resume) as run:
        used = run.processor.position_rule, run.settings.box_rule
    saved = json.loads((pathlib.Path(config.workdir) / "config.json").read_text())
    assert (saved["model"]["position_rule"], saved["operations"]["box_rule"]) == used
    beside = pathlib.Path(config.workdir) / "initial"
    assert (Processor.from_pretrained(beside).position_rule, PolicySettings.load(beside).box_rule) == used
    return used


def test_rules_stay_with_a_run_and_with_a_model(sft_config, tmp_path):
    """A run from before they were settings goes on with its own, and so does one from a model of that time."""
    fresh, workdir = copy.deepcopy(sft_config), pathlib.Path(sft_config.workdir)
    assert rules(copy.deepcopy(fresh)) == rules(copy.deepcopy(fresh), resume=True) == ("released", "shown")
    without(workdir / "config.json", "model.position_rule", "operations.box_rule")
    assert rules(copy.deepcopy(fresh), resume=True) == ("transformers", "raw")
    fresh.operations.box_rule = "shown"
    with pytest.raises(ConfigError, match="config.operations.box_rule is 'shown', but the run in .* with 'raw'"):
        TrainingRun(fresh, resume=True)

    model = pathlib.Path(shutil.copytree(sft_config.model.directory, tmp_path / "model"))
    without(model / "preprocessor_config.json", "position_rule")
    without(model / "pixel_reasoner.json", "box_rule")
    sft_config.model.directory = str(model)
    for number, given in enumerate(((None, None), ("released", None), (None, "shown"))):
        config = copy.deepcopy(sft_config)
        config.workdir = str(tmp_path / f"run{number}")
        config.model.position_rule, config.operations.box_rule = given
        assert rules(config) == (given[0] or "transformers", given[1] or "raw")


def test_budgets_that_the_config_leaves_open_are_the_model_s(sft_config, start, capsys):
    """They are saved with the run, which keeps them to its end."""
    own = Processor.from_pretrained(start / "model").budgets
    sft_config.processor.update(dict.fromkeys(("image", "frame", "video", "video_frames", "video_rate")))
    sft_config.processor.crop = (5, 7)
    fresh = copy.deepcopy(sft_config)
    with TrainingRun(sft_config) as run:
        assert run.processor.budgets == dataclasses.replace(own, crop=(5, 7))
    assert "config.processor.crop = [5, 7] (the model's: [16, 20])" in capsys.readouterr().err
    file = pathlib.Path(sft_config.workdir) / "config.json"
    saved = json.loads(file.read_text())
    assert (saved["processor"]["image"], saved["processor"]["crop"]) == ([16, 20], [5, 7])
    saved["processor"]["image"] = [15, 21]
    file.write_text(json.dumps(saved))
    with TrainingRun(fresh, resume=True) as run:
        assert run.processor.budgets == dataclasses.replace(own, crop=(5, 7), image=(15, 21))
    assert "config.processor" not in capsys.readouterr().err.partition("was trained with other budgets")[0]


def test_a_run_begins_with_an_adapter_merged_into_its_model(sft_config, start, tmp_path):
    settings = {"peft_type": "LORA", "r": 1, "lora_alpha": 2, "base_model_name_or_path": str(start / "model")}
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    name, one = "model.layers.0.mlp.up_proj", np.ones((256, 1), np.float32)
    factors = {f"base_model.model.{name}.lora_A.weight": one[:96].T, f"base_model.model.{name}.lora_B.weight": one}
    save_file(factors, tmp_path / "adapter_model.safetensors")
    sft_config.model.directory = str(tmp_path)
    with TrainingRun(sft_config) as run:
        kernel = np.asarray(run.model.language.layers.mlp.up.kernel[0])
        np.testing.assert_allclose(kernel, load_file(start / "model" / "model.safetensors")[f"{name}.weight"].T + 2)
        assert run.settings == PolicySettings.load(start / "model")


def test_a_config_that_cannot_train_is_refused_before_anything_is_written(sft_config, rl_config):
    sft_config.train.update(dict(steps=None, epochs=1, batch_size=25))
    with pytest.raises(ConfigError, match="24 trajectories .*batch_size is 25"):
        sft.run(sft_config)
    rl_config.rollout.max_length = 385
    with pytest.raises(ConfigError, match="max_length is 385.*row_length = 384"):
        rl.run(rl_config)
    rl_config.rollout.max_length = 384
    rl_config.train.steps, rl_config.grpo.queries_per_episode = None, 9
    with pytest.raises(ConfigError, match="8 queries .*queries_per_episode is 9"):
        rl.run(rl_config)
    assert not pathlib.Path(rl_config.workdir).exists()

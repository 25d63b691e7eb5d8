"""Runs of several processes: what they train, what they leave on disk, and what becomes of them when one dies."""

import copy
import json
import pathlib
import signal
import time

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from safetensors.numpy import load_file

from data_pipeline.sources.pixel_search import PixelSearch
from pixel_reasoner_jax.config_values import OPEN
from pixel_reasoner_jax.metrics import read_metrics
from pixel_reasoner_jax.processing import MediaError
from pixel_reasoner_jax.rollout.prompt import Prompt
from pixel_reasoner_jax.training import rl, rl_episode, sft
from tests import processes
from tests.training.test_joint_terms import with_passes
from tests.training.test_policy_update import with_parts

# One program for both phases and any number of processes, in which luck pays.
SCRIPT = """
import json, sys
phase, path, resume, _, coordinator, _, processes, _, process = sys.argv[1:]
from pixel_reasoner_jax.parallel import join
join(coordinator, int(processes), int(process))
import pytest
from ml_collections import ConfigDict
from pixel_reasoner_jax.config import load_config
from pixel_reasoner_jax.training import rl, rl_episode, sft
from tests.training.conftest import let_luck_pay

config = load_config(f"{phase}_qwen2_5_vl_7b")
config.update(ConfigDict(json.loads(open(path).read())))
with pytest.MonkeyPatch.context() as patch:
    let_luck_pay(patch)
    {"sft": sft, "rl": rl}[phase].run(config, resume=resume == "resume")
"""
TIMED = ("seconds", "time", "tokens_per_second")


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    return path


def execute(script: pathlib.Path, phase: str, config: ConfigDict, count: int, resume: bool = False) -> pathlib.Path:
    """Runs the config in so many processes; returns its directory."""
    file = script.parent / "config.json"
    file.write_text(config.to_json_best_effort())
    processes.run([str(script), phase, str(file), "resume" if resume else "start"], count)
    return pathlib.Path(config.workdir)


def assert_equal(one: pathlib.Path, other: pathlib.Path) -> None:
    """The same figures in every step, and the same model."""
    for a, b in zip(read_metrics(one), read_metrics(other), strict=True):
        a, b = ({k: v for k, v in line.items() if not k.startswith(TIMED)} for line in (a, b))
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_allclose(a[name], b[name], rtol=1e-4, atol=1e-5, err_msg=name)
    expected, actual = (load_file(directory / "model" / "model.safetensors") for directory in (one, other))
    for name in expected:
        np.testing.assert_allclose(actual[name], expected[name], atol=1e-5, err_msg=name)


def configured(request, phase: str, name: str, **train) -> ConfigDict:
    """Three updates in four shards; updates small enough that rounding does not grow, and not adaptive ones."""
    config = copy.deepcopy(request.getfixturevalue(f"{phase}_config"))
    config.workdir = str(pathlib.Path(config.workdir).parent / name)
    config.data.shards = 4
    config.mesh.update(dict(data=-1, fsdp=1, tensor=1))
    config.train.update(dict(batch_size=8 if phase == "sft" else 18, steps=3, checkpoint_every=1, **train))
    config.optimizer.update(dict(learning_rate=1e-4, warmup_fraction=0.0, schedule="constant"))
    if phase == "rl":
        config.grpo.queries_per_episode = 4
    return config


@pytest.mark.parametrize(
    ("phase", "count"),
    [pytest.param("sft", 2, marks=pytest.mark.slow), ("rl", 2), pytest.param("rl", 4, marks=pytest.mark.slow)],
)
def test_processes_train_as_one(request, script, luck_pays, phase, count):
    one = {"sft": sft, "rl": rl}[phase].run(configured(request, phase, "one"))
    several = execute(script, phase, configured(request, phase, "several"), count)
    assert_equal(one.parent, several)
    assert json.loads((several / "config.json").read_text())["data"]["shards"] == 4


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
def test_processes_train_as_one_with_parts_of_every_kind(request, script, luck_pays, count):
    """Their weights, marks and draws are of all tokens of an update.

    But for KL-Cov, whose gradient is a sign, which rounding decides for a token that has hardly moved.
    """
    configs = [configured(request, "rl", name) for name in ("one", "several")]
    for config in configs:
        config.train.batch_size = 8
        with_parts(config).auxiliary.kl_cov = 0.0
    assert_equal(rl.run(configs[0]).parent, execute(script, "rl", configs[1], count))


@pytest.mark.slow
def test_processes_train_as_one_through_passes_of_every_kind(request, script, luck_pays):
    """Masked and other rows, shaped advantages, and terms over several passes."""
    configs = [with_passes(configured(request, "rl", name)) for name in ("one", "several")]
    for config in configs:
        config.optimizer.learning_rate = 1e-4
    assert_equal(rl.run(configs[0]).parent, execute(script, "rl", configs[1], 2))


def every_other(query, earlier):
    """The queries of an even number alone, of which a process may have none."""
    return None if int(query["id"][-1]) % 2 else query


def even_again(query, earlier):
    """For the second of the two responses."""
    return [query if one.sample == 4 else None for one in earlier]


def the_digit(query):
    return "The digit is \\boxed{3}." if query["id"][-1] in "023" else None


@pytest.mark.slow
def test_processes_train_as_one_in_subgroups(request, script, luck_pays):
    """Asked in stages, of which one process may have nothing to ask; given tokens are scored by all together."""
    configs = [configured(request, "rl", name) for name in ("one", "several")]
    for config in configs:
        own = "tests.training.test_processes"
        entries = dict(
            again=dict(samples=2, query=f"{own}:even_again", needs="looks", scored=f"{own}:half", compared="again"),
            gold=dict(samples=1, response=f"{own}:the_digit", trains_given=True, counted=False),
            looks=dict(samples=2, prefix="Let me", trains_given=True, query=f"{own}:every_other", scored=f"{own}:half"),
            plain=dict(samples=1, images="noisy", strength=0.1, clean=True),
        )
        for label, entry in entries.items():
            config.rollout.subgroups[label] = {**OPEN["rollout.subgroups"], **entry}
        config.rollout.samples = 6
        config.grpo.update(dict(sampling_rounds=2, advantage="std"))
    assert_equal(rl.run(configs[0]).parent, execute(script, "rl", configs[1], 2))
    lines = read_metrics(pathlib.Path(configs[0].workdir))
    assert all(f"accuracy_{label}" in lines[0] for label in entries) and lines[-1]["updates"]


def half(trajectory, query):
    return 0.5


@pytest.mark.slow
def test_processes_leave_out_the_same_updates(request, script, luck_pays):
    """An episode has 16 responses for 8 updates; the 4 of every shard fall into about the same half of these."""
    runs = []
    for name in ("one", "several"):
        config = configured(request, "rl", name)
        config.train.update(dict(batch_size=2, steps=16))
        config.grpo.update(dict(clip_low=0.99, clip_high=100.0))  # or rounding decides on a token at the bound
        config.replay.method = "none"
        runs.append(execute(script, "rl", config, 2) if name == "several" else rl.run(config).parent)
    assert_equal(*runs)
    skipped = read_metrics(runs[0])[-1]["skipped_updates"]
    assert 0 < skipped < 16 and skipped + sum(line["updates"] for line in read_metrics(runs[0])) == 16


def reward_the_first_half(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the four shards' queries, luck pays for those of the first two alone."""
    collect = rl_episode.collect

    def half(*arguments):
        found = collect(*arguments)
        first = jax.process_index() * len(found.correct)
        found.correct[np.arange(first, first + len(found.correct)) >= 2] = 0.0
        return found

    monkeypatch.setattr(rl_episode, "collect", half)


@pytest.mark.slow
@pytest.mark.parametrize("parts", [False, True])
def test_a_process_without_anything_to_learn_from_goes_on_in_step(request, script, luck_pays, monkeypatch, parts):
    """What the other one learns from fills the updates; passes before them have none of its tokens.

    Of the parts, those are left out whose choice between copies of a token, in replayed responses, is rounding's.
    """
    imported = "from tests.training.test_processes import reward_the_first_half as half"
    patch = f"    let_luck_pay(patch)\n    {imported}\n    half(patch)"
    script.write_text(SCRIPT.replace("    let_luck_pay(patch)", patch))
    configs = [configured(request, "rl", name) for name in ("one", "several")]
    for config in configs:
        config.train.update(dict(batch_size=8, steps=4))
        if parts:
            with_parts(config).auxiliary.kl_cov = 0.0
            config.grpo.entropy_fraction = 1.0
    several = execute(script, "rl", configs[1], 2)
    reward_the_first_half(monkeypatch)
    assert_equal(rl.run(configs[0]).parent, several)
    lines = read_metrics(several)
    assert [line["updates"] for line in lines] == [2, 2] and lines[0]["uniform_groups"] == 0.5


def fail_a_query(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first query of the world becomes unreadable between its check and its rollout, each time it is asked."""
    build, unreadable = Prompt.build, PixelSearch(8, "rl")[0].id

    def failing(query, processor, registry, guidelines, store):
        if store.max_bytes and query["id"] == unreadable:  # what is checked before goes through a store of its own
            raise MediaError("scene.png: the file has changed since it was opened")
        return build(query, processor, registry, guidelines, store)

    monkeypatch.setattr(Prompt, "build", failing)


@pytest.mark.slow
def test_processes_leave_out_the_same_query(request, script, luck_pays, monkeypatch):
    """Only one of them meets it; all count it, and train on the others as one process does."""
    patched = "let_luck_pay(patch)\n    from tests.training.test_processes import fail_a_query\n    fail_a_query(patch)"
    script.write_text(SCRIPT.replace("    let_luck_pay(patch)", f"    {patched}"))
    several = execute(script, "rl", configured(request, "rl", "several"), 2)
    fail_a_query(monkeypatch)
    one = rl.run(configured(request, "rl", "one"))
    assert_equal(one.parent, several)
    failed = [line["failed_queries"] for line in read_metrics(several)]
    assert 0 < sum(failed) and max(failed) == 1


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 4])
def test_a_checkpoint_of_two_processes_goes_on_in_others(request, script, count):
    whole = execute(script, "rl", configured(request, "rl", "whole"), 2)
    config = configured(request, "rl", "again")
    config.train.steps = 2
    execute(script, "rl", config, 2)
    config.train.steps = 3
    config.data.shards = 0  # as it was
    again = execute(script, "rl", config, count, resume=True)
    assert_equal(whole, again)


@pytest.mark.slow
def test_the_others_end_when_a_process_is_killed(request, script, tmp_path):
    config = configured(request, "rl", "killed", epochs=1000)
    config.train.steps = 1000
    settings = [f"--config.{path}={value}" for path, value in leaves(config)]
    command = ["-m", "pixel_reasoner_jax.commands.cli", "rl", "--config", "rl_qwen2_5_vl_7b", *settings]
    started = processes.start(command, 2, tmp_path)
    metrics = pathlib.Path(config.workdir) / "metrics.jsonl"
    try:
        deadline = time.monotonic() + 300
        while not metrics.exists() or len(read_metrics(metrics)) < 2:
            assert time.monotonic() < deadline and started[0].poll() is None, (tmp_path / "0.log").read_text()
            time.sleep(0.2)
        started[1].send_signal(signal.SIGKILL)
        began = time.monotonic()
        status = started[0].wait(90)
        waited = time.monotonic() - began
    finally:
        for process in started:
            process.kill()
    said = (tmp_path / "0.log").read_text()
    assert status > 0 and waited < 60, (status, waited, said[-2000:])
    assert "this process ends, and with it the others of its run" in said
    config.train.steps = len(read_metrics(metrics)) + 1
    execute(script, "rl", config, 2, resume=True)
    assert (pathlib.Path(config.workdir) / "model" / "model.safetensors").exists()


def leaves(config, prefix=""):
    for key in config:
        if isinstance(config[key], ConfigDict):
            yield from leaves(config[key], f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", config[key]

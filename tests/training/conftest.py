"""A run's inputs in miniature: an initial model directory and stored trajectories and queries of the pixel world."""

import copy
import dataclasses
import functools
import pathlib
from collections.abc import Callable

import numpy as np
import pytest
from ml_collections import ConfigDict

from data_pipeline import lessons
from data_pipeline.pipeline import render_trajectory
from data_pipeline.records import RecordSource, write_records
from data_pipeline.sources.pixel_search import PixelSearch
from pixel_reasoner_jax.commands.quickstart import make_initial_model
from pixel_reasoner_jax.config import load_config
from pixel_reasoner_jax.processing import Processor
from pixel_reasoner_jax.rollout.settings import PolicySettings
from pixel_reasoner_jax.training import rl, rl_episode, sft
from pixel_reasoner_jax.training.packing import Sequence


@pytest.fixture(scope="session")
def start(tmp_path_factory):
    """Directories: `model`, `trajectories` (24 of the warm start), `queries` (8)."""
    directory = tmp_path_factory.mktemp("start")
    model = directory / "model"
    make_initial_model(load_config("quickstart"), model)
    write = lessons.warm_start(PolicySettings.load(model).registry(), Processor.from_pretrained(model))
    write_records(directory / "trajectories", "trajectory", map(write, PixelSearch(24, "sft")))
    write_records(directory / "queries", "query", (seed.query() for seed in PixelSearch(8, "rl")))
    return directory


@pytest.fixture(scope="session")
def sequences_of_two_queries(start):
    """Four responses with crops, two to each of two queries, whose image the two share."""
    processor = Processor.from_pretrained(start / "model")
    rng, source = np.random.default_rng(0), RecordSource(start / "trajectories", "trajectory")
    made = []
    for index in range(4):
        trajectory = render_trajectory(source[index], processor)
        count = len(trajectory.tokens)
        trajectory.logprobs = -rng.exponential(size=count).astype(np.float32)
        trajectory.temperatures = np.where(trajectory.train, 0.7, 1.0).astype(np.float32)
        made.append(Sequence.of(trajectory, float(rng.normal())))
    for first in (0, 2):
        one, other = made[first : first + 2]
        query = dict(query_id=f"query {first}")
        made[first] = dataclasses.replace(one, **query)
        made[first + 1] = dataclasses.replace(other, media=[one.media[0], *other.media[1:]], **query)
    return made


@pytest.fixture
def sft_config(start, tmp_path) -> ConfigDict:
    return make_sft_config(start, tmp_path)


@pytest.fixture
def rl_config(start, tmp_path) -> ConfigDict:
    return make_rl_config(start, tmp_path)


@pytest.fixture
def luck_pays(monkeypatch) -> None:
    let_luck_pay(monkeypatch)


@pytest.fixture(scope="session")
def uninterrupted(start, tmp_path_factory) -> Callable[[str], pathlib.Path]:
    """The final model of a phase, "sft" or "rl" where luck pays, with the settings of its fixture: one run for all."""

    @functools.cache
    def run(phase: str) -> pathlib.Path:
        make_config, training = {"sft": (make_sft_config, sft), "rl": (make_rl_config, rl)}[phase]
        with pytest.MonkeyPatch.context() as patch:
            let_luck_pay(patch)
            return training.run(make_config(start, tmp_path_factory.mktemp(phase)))

    return run


def let_luck_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    """A random model earns nothing, which leaves nothing to learn: here its tokens decide how right a response is."""
    collect = rl_episode.collect

    def by_luck(*arguments):
        found = collect(*arguments)
        for row, group in zip(found.correct, found.groups, strict=True):
            if group:  # a query that failed has none
                row[:] = [trajectory.tokens.sum() % 97 / 97 for trajectory in group]
        return found

    monkeypatch.setattr(rl_episode, "collect", by_luck)


def make_sft_config(start, workdir) -> ConfigDict:
    """Four updates of six trajectories."""
    return phase(start, workdir, "sft_qwen2_5_vl_7b", "trajectories", batch_size=6, steps=4)


def make_rl_config(start, workdir) -> ConfigDict:
    """Four episodes of two queries with four samples, one update each, which two replayed responses fill.

    The multipliers are dual: alpha grows, as a random model uses no operation.
    """
    config = phase(start, workdir, "rl_qwen2_5_vl_7b", "queries", batch_size=10, steps=4)
    config.rollout.update(dict(samples=4, max_operations=2, max_response_tokens=96, max_length=192, slots=8))
    config.grpo.queries_per_episode, config.train.log_samples = 2, 0
    config.curiosity.update(dict(multipliers="dual", rate="global"))
    return config


def phase(start, workdir, reference: str, data: str, **train) -> ConfigDict:
    config = copy.deepcopy(load_config(reference))
    config.workdir = str(workdir / "run")
    config.model.update(dict(directory=str(start / "model"), dtype="float32", remat="none"))
    config.processor.update(dict(image=lessons.BUDGETS.image, crop=lessons.BUDGETS.crop))
    config.data.path = str(start / data)
    if "workers" in config.data:
        config.data.workers = 0  # a process takes seconds to start
    config.operations.padding = lessons.PADDING
    config.optimizer.learning_rate = 1e-3
    config.train.update(dict(row_length=384, micro_batch_rows=2, checkpoint_every=2, freeze_vision=False, **train))
    return config

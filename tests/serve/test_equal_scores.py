"""A trained model scores through the server exactly as it does in its own process (slow)."""

from __future__ import annotations

import json

import pytest

from data_pipeline import lessons
from data_pipeline.records import write_records
from data_pipeline.sources.pixel_search import PixelSearch
from pixel_reasoner_jax.commands import cli
from pixel_reasoner_jax.commands.quickstart import make_initial_model
from pixel_reasoner_jax.config import load_config
from pixel_reasoner_jax.processing import Processor
from pixel_reasoner_jax.rollout.settings import PolicySettings, load_policy
from pixel_reasoner_jax.serve.app import Offer, Service
from pixel_reasoner_jax.serve.engine import Engine
from pixel_reasoner_jax.serve.request import RequestLimits
from pixel_reasoner_jax.serve.server import in_thread
from pixel_reasoner_jax.serve.sources import MediaSources
from pixel_reasoner_jax.training import sft
from tests.training.conftest import phase


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> str:
    """A model that has learned little but to zoom: some of its crops succeed."""
    folder = tmp_path_factory.mktemp("zooming")
    model = folder / "model"
    make_initial_model(load_config("quickstart"), model)
    write = lessons.warm_start(PolicySettings.load(model).registry(), Processor.from_pretrained(model), misplaced=0.0)
    drafts = map(write, PixelSearch(512, "sft"))
    zooming = (draft for draft in drafts if len(draft.messages) > 3)
    write_records(folder / "trajectories", "trajectory", zooming)
    config = phase(folder, folder, "sft_qwen2_5_vl_7b", "trajectories", batch_size=16, steps=80)
    config.train.micro_batch_rows, config.train.checkpoint_every = 4, 80
    return str(sft.run(config))


@pytest.mark.slow
def test_accuracy_and_rapr_are_those_of_the_model_here(trained, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    on = ["--on", "pixel_search:heldout:96"]

    def figures(*model):
        assert cli.main(["evaluate", *map(str, model), *on, "--out", str(tmp_path / model[0].strip("-"))]) == 0
        return json.loads(capsys.readouterr().out.splitlines()[-1])["pixel_search"]

    here = figures("--model", trained)
    policy = load_policy(trained, slots=8, decode_steps=8)
    engine = Engine(policy, MediaSources(), 64)
    service = Service({"mine": Offer(engine, PolicySettings.load(trained))}, RequestLimits())
    with in_thread(service) as (url, _):
        there = figures("--endpoint", f"{url}/v1", "--endpoint-model", "mine")
    assert here["rapr"] > 0.1 and here["score"] > 0
    assert (there["score"], there["rapr"], there["count"]) == (here["score"], here["rapr"], here["count"])

"""A trained model scores through the server exactly as it does in its own process (slow)."""

from __future__ import annotations

import json

import pytest

from pixel_reasoner_jax.commands import cli, quickstart
from pixel_reasoner_jax.config import load_config
from pixel_reasoner_jax.rollout.settings import PolicySettings, load_policy
from pixel_reasoner_jax.serve.app import Offer, Service
from pixel_reasoner_jax.serve.engine import Engine
from pixel_reasoner_jax.serve.request import RequestLimits
from pixel_reasoner_jax.serve.server import in_thread
from pixel_reasoner_jax.serve.sources import MediaSources
from pixel_reasoner_jax.training import sft


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> str:
    """A model that calls operations, half of them in vain: the quickstart's warm start in fewer steps."""
    workdir, config = tmp_path_factory.mktemp("quickstart"), load_config("quickstart")
    config.pretraining.train.steps, config.warm_start.train.steps = 120, 60
    model = workdir / "initial"
    quickstart.make_initial_model(config, model)
    for phase in ("pretraining", "warm_start"):
        quickstart.synthesize(config, phase, workdir / "initial", workdir / "data" / phase)
        model = quickstart.train(sft.run, config, phase, workdir / phase, model, workdir / "data" / phase)
    return str(model)


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
    print(here, there)
    assert here["rapr"] > 0.1 and here["score"] > 0
    assert (there["score"], there["rapr"], there["count"]) == (here["score"], here["rapr"], here["count"])

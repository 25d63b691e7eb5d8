"""A model directory under protocols: its policies have their budgets, prompts, operations and limits."""

import dataclasses
import json

import pytest

from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.evaluation import local_model
from pixel_reasoner_jax.evaluation.benchmarks import find_benchmark
from pixel_reasoner_jax.evaluation.protocol import make_protocol
from pixel_reasoner_jax.models import Config
from pixel_reasoner_jax.rollout import Limits
from pixel_reasoner_jax.rollout.settings import PolicySettings


class FakePolicy:
    """Stands for `Policy`, with which a model would have to be made."""

    def __init__(self, model, processor, *, slots):
        self.model, self.processor, self.slots = model, processor, slots


@pytest.fixture
def model(world_directory, tmp_path, monkeypatch):
    loaded = []

    def load(directory, dtype, mesh):
        loaded.append((directory, dtype, mesh))
        return f"model {len(loaded)}"

    monkeypatch.setattr(local_model, "Policy", FakePolicy)
    monkeypatch.setattr(local_model.Qwen2_5_VL, "from_pretrained", load)
    for file in world_directory.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "config.json").write_text(json.dumps(Config.preset("tiny").to_hf()))
    PolicySettings("Look.", padding=0.3, limits=Limits(1, 50)).save(tmp_path)
    found = local_model.LocalModel(tmp_path, "float32", slots=5)
    found.loaded = loaded
    return found


def test_one_copy_of_the_weights_answers_by_every_protocol(model):
    own = make_protocol(find_benchmark("pixel_search"), model.own)
    paper = make_protocol(find_benchmark("vstar"), model.own)
    assert model.loaded == [] and model.own.settings.guidelines == "Look." and len(model.description["hash"]) == 16
    policy = model.policy(own, "pixel")
    assert (policy.guidelines, policy.limits, policy.slots) == ("Look.", Limits(1, 50), 5)
    assert policy.processor.budgets == model.own.budgets and policy.registry is not None
    assert model.policy(own, "text") is policy  # so that nothing is compiled again
    assert policy.registry is None and policy.guidelines == own.text_guidelines
    other = model.policy(paper, "pixel")
    assert other.processor.budgets.image == (256, 8000) and other.guidelines == paper.guidelines
    assert policy.processor.budgets == model.own.budgets
    assert {one.model for one in (policy, other)} == {"model 1"} and len(model.loaded) == 1


def test_several_processes_need_a_length(model, monkeypatch):
    monkeypatch.setattr(local_model, "is_shared", lambda mesh: True)
    protocol = make_protocol(find_benchmark("pixel_search"), model.own)
    with pytest.raises(UserError, match="--max-length"):
        model.policy(protocol, "pixel")
    model.policy(dataclasses.replace(protocol, limits=Limits(max_length=500)), "pixel")


def test_what_is_no_model_is_said_before_it_is_read(tmp_path):
    with pytest.raises(UserError, match="no such model directory"):
        local_model.LocalModel(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"no config.json in it"):
        local_model.LocalModel(tmp_path)

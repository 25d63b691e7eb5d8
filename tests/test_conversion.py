"""A model through all its forms on disk: Hugging Face, converted, a run's checkpoint, and back."""

from __future__ import annotations

import dataclasses
import json

import jax
import numpy as np
import optax
import pytest
from flax import nnx
from safetensors.numpy import load_file

from data_pipeline.tokenizer import save_processor, train_tokenizer
from pixel_reasoner_jax.checkpoint import CheckpointError, Checkpoints
from pixel_reasoner_jax.config import load_config, open_workdir, save_config
from pixel_reasoner_jax.convert import convert
from pixel_reasoner_jax.export import export
from pixel_reasoner_jax.models import Config, Qwen2_5_VL
from pixel_reasoner_jax.processing import Budgets, Processor
from pixel_reasoner_jax.rollout.settings import PolicySettings, load_policy
from pixel_reasoner_jax.training.run import INITIAL
from pixel_reasoner_jax.training.state import Trainer


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """A small model in the Hugging Face form."""
    directory = tmp_path_factory.mktemp("released")
    save_processor(train_tokenizer(["a small text to learn from"] * 4, 400), directory, Budgets())
    config = Config.preset("tiny")
    vision = dataclasses.replace(config.vision, depth=1, fullatt_block_indexes=(0,))
    config = dataclasses.replace(config, vision=vision, num_hidden_layers=1)
    Qwen2_5_VL.create(config, seed=1).save_pretrained(directory)
    PolicySettings(padding=0.01).save(directory)
    return directory


def tensors(directory):
    return load_file(directory / "model.safetensors")


def assert_same_tensors(got, expected):
    assert got.keys() == expected.keys()
    for name in got:
        np.testing.assert_array_equal(got[name], expected[name])
        assert got[name].dtype == expected[name].dtype


def test_converted_and_exported_is_the_same(released, tmp_path):
    convert(released, tmp_path / "converted")
    assert not list((tmp_path / "converted").glob("*.safetensors"))
    model = Qwen2_5_VL.from_pretrained(tmp_path / "converted")
    expected = Qwen2_5_VL.from_pretrained(released)
    assert model.config == expected.config
    for got, want in zip(*(jax.tree.leaves(nnx.state(m, nnx.Param)) for m in (model, expected)), strict=True):
        np.testing.assert_array_equal(got, want)
    export(tmp_path / "converted", tmp_path / "exported")
    assert_same_tensors(tensors(tmp_path / "exported"), tensors(released))
    with pytest.raises(CheckpointError, match="converted holds a converted model"):
        export(tmp_path / "converted", tmp_path / "converted")
    assert PolicySettings.load(tmp_path / "exported").padding == 0.01
    Processor.from_pretrained(tmp_path / "exported")
    with pytest.raises(CheckpointError, match="already holds a converted model"):
        convert(released, tmp_path / "converted")


@pytest.mark.parametrize("freeze_vision", [False, True])
def test_a_checkpoint_of_a_run_is_exported(released, tmp_path, freeze_vision):
    overrides = {
        "workdir": tmp_path / "run",
        "model.directory": "not/read/again",
        "model.dtype": "float32",
        "train.freeze_vision": freeze_vision,
    }
    config = load_config("sft_qwen2_5_vl_7b", [(key, str(value)) for key, value in overrides.items()])
    workdir = open_workdir(config, resume=False)
    save_config(config, workdir)
    for part in (Qwen2_5_VL.from_pretrained(released), Processor.from_pretrained(released, Budgets(crop=(4, 16)))):
        part.save_pretrained(workdir / INITIAL)
    trainer = Trainer(
        Qwen2_5_VL.from_pretrained(released), optax.adamw(1e-3), lambda *_: (0.0, {}), freeze_vision=freeze_vision
    )
    state = trainer.init()
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        checkpoints.save(3, state, {})
        doubled = jax.tree.map(lambda x: 2 * x, state.trainable)
        checkpoints.save(5, dataclasses.replace(state, trainable=doubled), {})

    export(workdir, tmp_path / "three", step=3)
    assert_same_tensors(tensors(tmp_path / "three"), tensors(released))
    export(workdir, tmp_path / "newest")
    frozen = ("visual.",) if freeze_vision else ()
    doubled = {name: t if name.startswith(frozen) and frozen else 2 * t for name, t in tensors(released).items()}
    assert_same_tensors(tensors(tmp_path / "newest"), doubled)
    assert Processor.from_pretrained(tmp_path / "newest").budgets.crop == (4, 16)

    export(workdir, tmp_path / "half", dtype="bfloat16")
    assert json.loads((tmp_path / "half" / "config.json").read_text())["dtype"] == "bfloat16"
    with pytest.raises(CheckpointError, match=r"no checkpoint 4 .* there are \[3, 5\]"):
        export(workdir, tmp_path / "none", step=4)


def test_a_directory_that_is_no_model_says_what_it_is(released, tmp_path):
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.json").write_text("{}")
    advice = rf"run is the directory of a run: give {run}/model, or make one with `pixel-reasoner export {run} --out"
    for read in (
        lambda: load_policy(run),
        lambda: convert(run, tmp_path / "out"),
    ):  # generate and evaluate do the first
        with pytest.raises(CheckpointError, match=advice):
            read()
    (run / "checkpoints").rmdir()
    with pytest.raises(ValueError, match=f"{run}/config.json: model_type is None; only 'qwen2_5_vl' is supported"):
        load_policy(run)


def test_what_cannot_be_exported_says_so(released, tmp_path):
    with pytest.raises(CheckpointError, match="neither a run with checkpoints/ nor a converted model"):
        export(tmp_path, tmp_path / "out")
    with pytest.raises(CheckpointError, match=f"{released} is in the Hugging Face form already"):
        export(released, tmp_path / "out")
    for write in (convert, export):
        with pytest.raises(CheckpointError, match=f"{tmp_path}/nowhere: no such directory"):
            write(tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(CheckpointError, match="config.json"):
        convert(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()

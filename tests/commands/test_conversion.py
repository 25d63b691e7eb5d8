"""A model through all its forms on disk: Hugging Face, converted, a run's checkpoint, and back."""

from __future__ import annotations

import dataclasses
import json

import jax
import numpy as np
import optax
import pytest
import torch
import transformers
from flax import nnx
from PIL import Image
from safetensors.numpy import load_file, save_file
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from data_pipeline.tokenizer import save_processor, train_tokenizer
from pixel_reasoner_jax.checkpoint import Checkpoints
from pixel_reasoner_jax.commands import convert as conversion
from pixel_reasoner_jax.commands.convert import convert
from pixel_reasoner_jax.commands.export import export
from pixel_reasoner_jax.config import load_config
from pixel_reasoner_jax.errors import CheckpointError
from pixel_reasoner_jax.models import Config, Qwen2_5_VL
from pixel_reasoner_jax.models.lora import add_adapters
from pixel_reasoner_jax.processing import Budgets, Processor, SpecialTokens
from pixel_reasoner_jax.rollout.settings import PolicySettings, load_policy
from pixel_reasoner_jax.saved_config import open_workdir, save_config
from pixel_reasoner_jax.training.state import Trainer
from pixel_reasoner_jax.training.training_run import INITIAL
from tests.forward import forward


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """A small model in the Hugging Face form."""
    directory = tmp_path_factory.mktemp("released")
    save_processor(train_tokenizer(["a small text to learn from"] * 4, 400), directory, Budgets())
    config = Config.preset("tiny")
    vision = dataclasses.replace(config.vision, depth=1, fullatt_block_indexes=(0,))
    ids = SpecialTokens.of(train_tokenizer(["a small text to learn from"] * 4, 400).backend_tokenizer)
    tokens = {"image_token_id": ids.image_pad, "video_token_id": ids.video_pad, "eos_token_id": ids.im_end}
    tokens |= {"vision_start_token_id": ids.vision_start, "vision_end_token_id": ids.vision_end}
    config = dataclasses.replace(config, vision=vision, num_hidden_layers=1, **tokens)
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
    with pytest.raises(CheckpointError, match="converted is there already and not empty"):
        export(tmp_path / "converted", tmp_path / "converted")
    assert PolicySettings.load(tmp_path / "exported").padding == 0.01
    Processor.from_pretrained(tmp_path / "exported")
    with pytest.raises(CheckpointError, match="converted is there already and not empty"):
        convert(released, tmp_path / "converted")


def test_an_export_is_what_transformers_loads(released, tmp_path):
    """Configuration, tokenizer and model, whose logits for an image of the sizes that budgets make are ours."""
    convert(released, tmp_path / "converted")
    export(tmp_path / "converted", tmp_path / "exported")
    model, processor = (part.from_pretrained(tmp_path / "exported") for part in (Qwen2_5_VL, Processor))
    config = transformers.AutoConfig.from_pretrained(tmp_path / "exported")
    assert (config.model_type, config.dtype) == ("qwen2_5_vl", torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "exported")
    message = {"role": "user", "content": [{"type": "image", "image": Image.new("RGB", (130, 90), "teal")}]}
    text = tokenizer.apply_chat_template([message], tokenize=False)
    theirs, report = transformers.Qwen2_5_VLForConditionalGeneration.from_pretrained(
        tmp_path / "exported", output_loading_info=True
    )
    assert not any(report.values())
    assert theirs.generation_config.eos_token_id == [processor.im_end, processor.endoftext]

    images = Qwen2VLImageProcessorPil.from_pretrained(tmp_path / "exported")([message["content"][0]["image"]])
    grid = torch.tensor(np.asarray(images["image_grid_thw"]))
    tokens = tokenizer(text.replace("<|image_pad|>", "<|image_pad|>" * int(grid.prod() // 4)))["input_ids"]
    batch = processor([[message]])
    np.testing.assert_array_equal(batch["tokens"], [tokens])
    inputs = torch.tensor([tokens])
    with torch.no_grad():
        expected = theirs(
            input_ids=inputs,
            pixel_values=torch.tensor(np.asarray(images["pixel_values"])),
            image_grid_thw=grid,
            mm_token_type_ids=(inputs == processor.image_pad).int(),
        )
    np.testing.assert_allclose(forward(model, batch), expected.logits.numpy(), atol=1e-4)


def test_a_disk_that_fills_leaves_nothing_behind(released, tmp_path, monkeypatch):
    """And a second try may go on there, when there is room."""
    convert(released, tmp_path / "converted")
    writers = (
        (convert, released, conversion, "write_arrays"),
        (export, tmp_path / "converted", Processor, "save_pretrained"),
    )
    for write, source, module, last in writers:
        with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):

            def fill(*_, **__):
                (tmp_path / "out" / "parameters.orbax-checkpoint-tmp").mkdir(parents=True)
                raise OSError(28, "No space left on device")

            patch.setattr(module, last, fill)
            write(source, tmp_path / "out")
        assert not (tmp_path / "out").exists()


def test_nothing_is_written_over(released, tmp_path):
    convert(released, tmp_path / "converted")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "model.safetensors").write_text("mine")
    for write, source in ((export, tmp_path / "converted"), (convert, released)):
        with pytest.raises(CheckpointError, match=f"{tmp_path}/mine is there already and not empty: choose another"):
            write(source, tmp_path / "mine")
    assert [path.read_text() for path in (tmp_path / "mine").iterdir()] == ["mine"]
    (tmp_path / "empty").mkdir()
    export(tmp_path / "converted", tmp_path / "empty")


def test_an_adapter_is_merged_into_the_model_that_it_names(released, tmp_path):
    """By all that reads a model; what is its own comes first, all else is the model's."""
    adapter, random = tmp_path / "adapter", np.random.default_rng(0)
    adapter.mkdir()
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 6, "base_model_name_or_path": str(released)}
    (adapter / "adapter_config.json").write_text(json.dumps(settings))
    name = "model.layers.0.self_attn.o_proj"
    a, b = random.normal(size=(2, 96)).astype(np.float32), random.normal(size=(96, 2)).astype(np.float32)
    factors = {f"base_model.model.{name}.lora_A.weight": a, f"base_model.model.{name}.lora_B.weight": b}
    save_file(factors, adapter / "adapter_model.safetensors")
    expected = tensors(released)
    expected[f"{name}.weight"] = (3 * a.T.astype(np.float64) @ b.T).T.astype(np.float32) + expected[f"{name}.weight"]

    export(adapter, tmp_path / "exported")
    convert(adapter, tmp_path / "converted")
    export(tmp_path / "converted", tmp_path / "again")
    for directory in (tmp_path / "exported", tmp_path / "again"):
        got = tensors(directory)
        np.testing.assert_allclose(got.pop(f"{name}.weight"), expected[f"{name}.weight"], atol=1e-5)
        assert_same_tensors(got, {key: tensor for key, tensor in expected.items() if key in got})
        assert PolicySettings.load(directory).padding == 0.01
        assert not (directory / "adapter_config.json").exists()
    policy = load_policy(adapter)
    assert policy.processor.budgets == Budgets() and policy.registry is not None
    with pytest.raises(
        CheckpointError, match="converted, which the adapter in .* was trained on, is a converted model"
    ):
        settings["base_model_name_or_path"] = "../converted"
        (adapter / "adapter_config.json").write_text(json.dumps(settings))
        load_policy(adapter)


def start_run(released, tmp_path, model, **settings):
    """A run's directory as it is before the first checkpoint, and its trainer."""
    overrides = {"workdir": tmp_path / "run", "model.directory": "not/read/again", "model.dtype": "float32"} | settings
    config = load_config("sft_qwen2_5_vl_7b", [(key, str(value)) for key, value in overrides.items()])
    workdir = open_workdir(config, resume=False)
    save_config(config, workdir)
    for part in (Qwen2_5_VL.from_pretrained(released), Processor.from_pretrained(released, Budgets(crop=(4, 16)))):
        part.save_pretrained(workdir / INITIAL)
    add_adapters(model, **config.lora)
    freeze_vision, master_weights = config.train.freeze_vision, config.optimizer.master_weights
    loss = lambda *_: (0.0, {})  # noqa: E731
    trainer = Trainer(model, optax.adamw(1e-3), loss, freeze_vision=freeze_vision, master_weights=master_weights)
    return workdir, trainer


@pytest.mark.parametrize("freeze_vision", [False, True])
def test_a_checkpoint_of_a_run_is_exported(released, tmp_path, freeze_vision):
    model = Qwen2_5_VL.from_pretrained(released)
    workdir, trainer = start_run(released, tmp_path, model, **{"train.freeze_vision": freeze_vision})
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


def test_adapters_are_merged_when_a_checkpoint_is_exported(released, tmp_path):
    model = Qwen2_5_VL.from_pretrained(released, param_dtype="bfloat16")
    settings = {"model.param_dtype": "bfloat16", "lora.rank": 2, "lora.targets": "query,down"}
    workdir, trainer = start_run(released, tmp_path, model, **settings)
    state = trainer.init()
    state = dataclasses.replace(state, trainable=jax.tree.map(lambda x: x + 0.125, state.trainable))
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        checkpoints.save(1, state, {})
    nnx.update(model, state.params)
    model.save_pretrained(tmp_path / "here")
    export(workdir, tmp_path / "exported")
    assert_same_tensors(tensors(tmp_path / "exported"), tensors(tmp_path / "here"))
    export(workdir, tmp_path / "exact", dtype="float32")
    down = "model.layers.0.mlp.down_proj.weight"
    adapter = model.language.layers.mlp.down.adapter
    delta = 32 / 2 * np.asarray(adapter.a[0] @ adapter.b[0]).T
    before = np.asarray(model.language.layers.mlp.down.kernel[0], np.float32).T
    np.testing.assert_allclose(tensors(tmp_path / "exact")[down], before + delta, atol=1e-6)
    assert tensors(tmp_path / "exported").keys() == tensors(released).keys()


def test_master_copies_are_what_is_exported(released, tmp_path):
    model = Qwen2_5_VL.from_pretrained(released, param_dtype="bfloat16")
    settings = {"model.param_dtype": "bfloat16", "optimizer.master_weights": True}
    workdir, trainer = start_run(released, tmp_path, model, **settings)
    state = trainer.init()
    state = dataclasses.replace(state, master=jax.tree.map(lambda x: x + 2.0**-12, state.master))
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        checkpoints.save(1, state, {})
        checkpoints.wait()
        restored, _ = checkpoints.restore(state)
    for got, want in zip(jax.tree.leaves(restored), jax.tree.leaves(state), strict=True):
        assert got.dtype == want.dtype
        np.testing.assert_array_equal(got, want)
    norm = np.asarray(model.language.norm.scale[...], np.float32)
    export(workdir, tmp_path / "exact", dtype="float32")
    np.testing.assert_array_equal(tensors(tmp_path / "exact")["model.norm.weight"], norm + 2.0**-12)
    export(workdir, tmp_path / "rounded")
    np.testing.assert_array_equal(tensors(tmp_path / "rounded")["model.norm.weight"].astype(np.float32), norm)


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
        with pytest.raises(CheckpointError, match=f"{tmp_path}/nowhere: no such model directory"):
            write(tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(CheckpointError, match="config.json"):
        convert(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()

"""Checkpoints there and back, and every way in which one can be wrong."""

from __future__ import annotations

import dataclasses
import json
import math
import tracemalloc

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from safetensors.numpy import load_file, save_file
from transformers import Qwen2_5_VLForConditionalGeneration

from pixel_reasoner_jax.models import Config, Qwen2_5_VL, weights
from pixel_reasoner_jax.models.tensors import write_tensors
from pixel_reasoner_jax.models.weights import CheckpointError, parse_size, read_config, released_name, tensor_targets

TINY = Config.preset("tiny")


def state_bytes(model):
    return {path: np.asarray(v.get_value()).tobytes() for path, v in nnx.to_flat_state(nnx.state(model))}


@pytest.fixture(scope="module")
def model():
    return Qwen2_5_VL.create(dataclasses.replace(TINY, tie_word_embeddings=False), param_dtype=jnp.bfloat16)


@pytest.fixture
def directory(model, tmp_path):
    model.save_pretrained(tmp_path)
    return tmp_path


def edit(directory, change):
    """Rewrites the single file after `change` of its dict of tensors."""
    tensors = load_file(directory / "model.safetensors")
    change(tensors)
    save_file(tensors, directory / "model.safetensors")


def newer_name(name):
    if name.startswith("visual."):
        return f"model.{name}"
    return name.replace("model.", "model.language_model.", 1)


def test_every_real_name_has_one_place_and_every_place_a_name(qwen_dir):
    index = json.loads((qwen_dir / "model.safetensors.index.json").read_text())
    config = read_config(qwen_dir)
    table = tensor_targets(config)
    assert len(table) == 729
    assert table.keys() == index["weight_map"].keys()
    assert sum(2 * math.prod(place.shape) for place in table.values()) == index["metadata"]["total_size"]
    assert len({(place.path, place.layer) for place in table.values()}) == 729
    assert all(released_name(newer_name(name)) == name == released_name(name) for name in table)

    abstract = nnx.state(nnx.eval_shape(lambda: Qwen2_5_VL(config, rngs=nnx.Rngs(0))))
    for path, variable in nnx.to_flat_state(abstract):
        mine = [place for place in table.values() if place.path == path]
        if mine[0].layer is not None:
            assert [place.layer for place in mine] == list(range(variable.shape[0]))
        assert sum(math.prod(place.shape) for place in mine) == math.prod(variable.shape)
    assert {path for path, _ in nnx.to_flat_state(abstract)} == {place.path for place in table.values()}


@pytest.mark.parametrize("max_shard_size", ["5GB", "200KB"])
@pytest.mark.parametrize("tied", [True, False])
def test_byte_equal_round_trip_that_transformers_loads(tied, max_shard_size, tmp_path):
    config = dataclasses.replace(TINY, tie_word_embeddings=tied)
    model = Qwen2_5_VL.create(config, seed=2, param_dtype=jnp.bfloat16)
    model.save_pretrained(tmp_path, max_shard_size=max_shard_size)
    assert (tmp_path / "model.safetensors.index.json").exists() == (max_shard_size != "5GB")
    assert state_bytes(Qwen2_5_VL.from_pretrained(tmp_path, dtype="bfloat16")) == state_bytes(model)

    theirs, report = Qwen2_5_VLForConditionalGeneration.from_pretrained(
        tmp_path, dtype=torch.bfloat16, output_loading_info=True
    )
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    tensors = {released_name(name): p.detach().float().numpy() for name, p in theirs.named_parameters()}
    for path, variable in nnx.to_flat_state(nnx.state(model)):
        for name, place in tensor_targets(config).items():
            if place.path == path:
                mine = np.asarray(variable.get_value(), np.float32)
                np.testing.assert_array_equal(
                    place.to_released(mine if place.layer is None else mine[place.layer]), tensors[name]
                )


def test_large_shards_are_within_the_limit(model, tmp_path):
    model.save_pretrained(tmp_path, max_shard_size="200KB")
    files = list(tmp_path.glob("model-*.safetensors"))
    assert len(files) > 3
    assert all(len(load_file(file)) == 1 or file.stat().st_size < 220_000 for file in files)


@pytest.mark.parametrize("buffer, parts", [(1, {1}), (100_000, {2, 1})])
def test_layers_that_are_read_a_few_at_a_time_are_the_same(tmp_path, monkeypatch, buffer, parts):
    model = Qwen2_5_VL.create(dataclasses.replace(TINY, num_hidden_layers=5), param_dtype=jnp.bfloat16)
    model.save_pretrained(tmp_path)
    inserted = []
    insert = weights._insert
    monkeypatch.setattr(weights, "BUFFER", buffer)
    monkeypatch.setattr(weights, "_insert", lambda *args: inserted.append(args[1].shape[0]) or insert(*args))
    assert state_bytes(Qwen2_5_VL.from_pretrained(tmp_path, dtype="bfloat16")) == state_bytes(model)
    assert set(inserted) == parts


def test_reading_and_writing_hold_one_tensor_at_a_time(tmp_path, monkeypatch):
    """numpy's allocations; the arrays of the model itself are JAX's."""
    config = dataclasses.replace(TINY, num_hidden_layers=8, intermediate_size=1024)
    model = Qwen2_5_VL.create(config, param_dtype=jnp.float32)
    largest = max(math.prod(place.shape) for place in tensor_targets(config).values()) * 4
    monkeypatch.setattr(weights, "BUFFER", 1)

    def peak(function):
        tracemalloc.start()
        try:
            function()
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    slack = 2**20  # what is no tensor: names, headers, traces of compiled functions
    assert sum(map(len, state_bytes(model).values())) > 3 * (largest + slack)
    for _ in range(2):  # the second time nothing is compiled
        written = peak(lambda: model.save_pretrained(tmp_path))
        read = peak(lambda: Qwen2_5_VL.from_pretrained(tmp_path, dtype="bfloat16"))
    assert written < largest + slack
    assert read < 2 * largest + slack  # and in our order of axes


def test_files_of_several_types_are_read(model, directory):
    name = "model.layers.1.mlp.up_proj.weight"
    edit(directory, lambda t: t.update({name: t[name].astype(np.float32) * 1.001}))
    exact = load_file(directory / "model.safetensors")[name]
    read = Qwen2_5_VL.from_pretrained(directory, dtype="float32")
    np.testing.assert_array_equal(read.language.layers.mlp.up.kernel[1], exact.T)


def test_newer_names_are_read(model, directory):
    edit(directory, lambda t: [t.__setitem__(newer_name(name), t.pop(name)) for name in list(t)])
    assert state_bytes(Qwen2_5_VL.from_pretrained(directory, dtype="bfloat16")) == state_bytes(model)


def test_types_are_converted(model, directory):
    read = Qwen2_5_VL.from_pretrained(directory, dtype="bfloat16", param_dtype="float32")
    assert read.language.dtype == jnp.bfloat16
    assert read.language.embedding.dtype == jnp.float32
    np.testing.assert_array_equal(read.language.embedding[...], model.language.embedding[...].astype(jnp.float32))


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda t: t.pop("model.layers.1.mlp.up_proj.weight"), "lacks tensors model.layers.1.mlp.up_proj.weight"),
        (lambda t: t.update({"extra.weight": np.ones(3, np.float32)}), "unknown tensors extra.weight"),
        (lambda t: t.update({"model.norm.weight": np.ones(95, np.float32)}), r"model.norm.weight .*\[95\].*\[96\]"),
        (lambda t: t.update({"model.norm.weight": np.ones(96, np.int32)}), "model.norm.weight has type I32"),
        (
            lambda t: t.update({"model.language_model.norm.weight": np.ones(96, np.float32)}),
            "model.norm.weight twice",
        ),
    ],
    ids=["missing", "surplus", "misshapen", "integer", "both names"],
)
def test_wrong_tensors_are_named(directory, change, message):
    edit(directory, change)
    with pytest.raises(CheckpointError, match=message):
        Qwen2_5_VL.from_pretrained(directory)


def test_a_tied_head_may_be_written_out_if_equal(tmp_path):
    model = Qwen2_5_VL.create(TINY)
    model.save_pretrained(tmp_path)
    edit(tmp_path, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"]}))
    assert state_bytes(Qwen2_5_VL.from_pretrained(tmp_path)) == state_bytes(model)
    edit(tmp_path, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"] + 1}))
    with pytest.raises(CheckpointError, match="lm_head.weight differs"):
        Qwen2_5_VL.from_pretrained(tmp_path)


def test_a_file_cut_short_is_named(directory):
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="model.safetensors is cut short"):
        Qwen2_5_VL.from_pretrained(directory)


def test_a_damaged_header_is_named(directory):
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes().replace(b"data_offsets", b"data_offse_s", 1))
    with pytest.raises(CheckpointError, match="model.safetensors has a damaged header at"):
        Qwen2_5_VL.from_pretrained(directory)


@pytest.mark.parametrize("content", [b"", b"\xff" * 40, b"\x10" + bytes(7) + b"{" * 16])
def test_what_is_no_safetensors_file_is_named(directory, content):
    (directory / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match="model.safetensors"):
        Qwen2_5_VL.from_pretrained(directory)


def test_an_index_that_misplaces_is_an_error(model, tmp_path):
    model.save_pretrained(tmp_path, max_shard_size="200KB")
    index = json.loads((tmp_path / weights.INDEX).read_text())
    index["weight_map"]["ghost.weight"] = next(iter(index["weight_map"].values()))
    (tmp_path / weights.INDEX).write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="places ghost.weight in model-00001"):
        Qwen2_5_VL.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "weight_map, message",
    [
        (None, "index.json: it has no weight_map from tensors to files"),
        ({"a": 1}, "no weight_map"),
        ({"a": "../elsewhere.safetensors"}, "names '../elsewhere.safetensors', which is no file in its folder"),
        ({"a": "one.safetensors", "b": "two.safetensors"}, "lacks one.safetensors and 1 more of the 2 files that .*"
         "download is not complete; the same `hf download`"),
    ],
)  # fmt: skip
def test_an_index_without_its_files_says_so(directory, weight_map, message):
    (directory / weights.INDEX).write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(CheckpointError, match=message):
        Qwen2_5_VL.from_pretrained(directory)


@pytest.mark.parametrize(
    "name, message",
    [
        ("pytorch_model.bin", "but pytorch_model.bin: pickled weights are not read"),
        ("pytorch_model.bin.index.json", "pickled weights are not read"),
        ("model-00001-of-00002.safetensors", "which says what is in model-00001-of-00002.safetensors and the others"),
        ("weights.gguf", "but weights.gguf, the form of llama.cpp"),
        ("other.safetensors", "but other.safetensors, which has none of these names"),
        ("README.md", "neither model.safetensors nor model.safetensors.index.json: it has no weights"),
    ],
)
def test_weights_in_another_form_are_named(directory, name, message):
    (directory / "model.safetensors").rename(directory / name)
    with pytest.raises(CheckpointError, match=message):
        Qwen2_5_VL.from_pretrained(directory)


def test_a_pointer_in_the_place_of_a_file_is_named(directory):
    (directory / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d\nsize 1\n")
    with pytest.raises(CheckpointError, match="model.safetensors is a Git LFS pointer, .* `git lfs pull`"):
        Qwen2_5_VL.from_pretrained(directory)


def test_embeddings_of_other_rows_than_the_config_says_are_named(directory):
    name = "model.embed_tokens.weight"
    edit(directory, lambda t: t.update({name: t[name][:500], "lm_head.weight": t["lm_head.weight"][:500]}))
    with pytest.raises(CheckpointError, match=r"\[500, 96\], .*\[512, 96\]: the embeddings were resized .* write 500"):
        Qwen2_5_VL.from_pretrained(directory)


@pytest.mark.parametrize(
    "header",
    [
        [],
        {"a": 1},
        {"a": {"dtype": "F32", "shape": [1], "data_offsets": ["0", 4]}},
        {"a": {"dtype": "F32", "shape": [-1, -1], "data_offsets": [0, 4]}},
        {"a": {"dtype": "F32", "shape": [1.0], "data_offsets": [0, 4]}},
        {"a": {"dtype": ["F32"], "shape": [1], "data_offsets": [0, 4]}},
        {"a": {"dtype": "F32", "shape": 1, "data_offsets": [0, 4]}},
        {"a": {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4]}},
    ],
)
def test_a_header_of_another_form_is_named(directory, header):
    content = json.dumps(header).encode()
    (directory / "model.safetensors").write_bytes(len(content).to_bytes(8, "little") + content + bytes(4))
    with pytest.raises(CheckpointError, match="model.safetensors"):
        Qwen2_5_VL.from_pretrained(directory)


@pytest.mark.parametrize(
    "config, stored",
    [
        ({"dtype": "float16"}, "float16"),
        ({"dtype": None, "torch_dtype": "float32"}, "float32"),
        ({"dtype": None, "torch_dtype": None, "text_config": {"dtype": "torch.float16"}}, "float16"),
        ({"dtype": "auto", "torch_dtype": None}, "bfloat16"),  # what the tensors are
    ],
)
def test_the_type_that_parameters_are_stored_in(directory, config, stored):
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    assert weights.stored_dtype(directory) == stored


def test_an_empty_directory_is_an_error(tmp_path):
    with pytest.raises(CheckpointError, match="config.json"):
        Qwen2_5_VL.from_pretrained(tmp_path)


def test_saving_again_leaves_no_older_shards(model, tmp_path):
    model.save_pretrained(tmp_path, max_shard_size="200KB")
    (tmp_path / "tokenizer.json").write_text("{}")
    model.save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors", "tokenizer.json"]
    assert (tmp_path / "model.safetensors").stat().st_mode & 0o777 == (tmp_path / "config.json").stat().st_mode & 0o777


def test_a_failed_save_leaves_the_older_checkpoint(model, directory, monkeypatch):
    before = (directory / "model.safetensors").read_bytes()
    calls = []

    def fail_later(*args, **kwargs):
        calls.append(args)
        if len(calls) == 3:
            raise OSError("disk full")
        write_tensors(*args, **kwargs)

    monkeypatch.setattr(weights, "write_tensors", fail_later)
    with pytest.raises(OSError, match="disk full"):
        model.save_pretrained(directory, max_shard_size="200KB")
    assert sorted(path.name for path in directory.iterdir()) == ["config.json", "model.safetensors"]
    assert (directory / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize("text, size", [("5GB", 5 * 10**9), ("64 kb", 64_000), (1234, 1234)])
def test_sizes(text, size):
    assert parse_size(text) == size


def test_a_size_without_a_unit_is_an_error():
    with pytest.raises(ValueError, match="max_shard_size '5'"):
        parse_size("5")


@pytest.mark.parametrize("key", ["dtype", "param_dtype"])
@pytest.mark.parametrize("value", ["float31", "int32"])
def test_an_unknown_type_names_the_known_ones(tmp_path, key, value):
    with pytest.raises(ValueError, match=f"{key} is '{value}'; known types are float32, float16, bfloat16"):
        Qwen2_5_VL.from_pretrained(tmp_path, **{key: value})

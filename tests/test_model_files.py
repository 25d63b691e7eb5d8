"""A model's folder: how one that is not here is got, and which of an adapter's files are its model's."""

from __future__ import annotations

import json
import os

import pytest

from pixel_reasoner_jax.errors import CheckpointError, MissingModelError
from pixel_reasoner_jax.model_files import (
    base_directory,
    check_is_empty,
    check_is_no_pointer,
    download_hint,
    find_file,
    model_directory,
    read_json,
    removed_on_failure,
)

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 3998\n"


@pytest.mark.parametrize(
    "name, command, folder",
    [
        ("Qwen/Qwen2.5-VL-7B-Instruct", "Qwen/Qwen2.5-VL-7B-Instruct", "checkpoints/Qwen2.5-VL-7B-Instruct"),
        ("Qwen2.5-VL-3B-Instruct/", "Qwen/Qwen2.5-VL-3B-Instruct", "checkpoints/Qwen2.5-VL-3B-Instruct"),
        ("models/Qwen2.5-VL-3B-Instruct", "Qwen/Qwen2.5-VL-3B-Instruct", "models/Qwen2.5-VL-3B-Instruct"),
        ("TIGER-Lab/PixelReasoner-RL-v1", "TIGER-Lab/PixelReasoner-RL-v1", "checkpoints/PixelReasoner-RL-v1"),
    ],
)
def test_a_name_of_the_hub_suggests_its_download(name, command, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert f"`hf download {command} --local-dir {folder}`, then give {folder}" in download_hint(name, "give")
    with pytest.raises(MissingModelError, match=f"{name.rstrip('/')}: no such model directory; .*hf download"):
        model_directory(name)


@pytest.mark.parametrize("name", ["nowhere", "/a/b", "runs/typo", "../a/b", "a/b/c", "gs://a/Qwen2.5-VL-3B-Instruct"])
def test_another_name_suggests_nothing(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    assert download_hint(name, "give") == ""


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "model").write_text("")
    with pytest.raises(MissingModelError, match="model: it is a file: name a folder"):
        model_directory(tmp_path / "model")


def adapter(directory, base, **more):
    directory.mkdir(exist_ok=True)
    (directory / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base, **more}))
    return directory


def test_what_an_adapter_lacks_is_in_its_model_s_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    base = tmp_path / "base"
    base.mkdir()
    for name in ("config.json", "tokenizer.json"):
        (base / name).write_text("{}")
    mine = adapter(tmp_path / "mine", str(base))
    (mine / "tokenizer.json").write_text("{}")
    assert base_directory(mine) == base and base_directory(base) == base
    assert find_file(mine, "tokenizer.json") == mine / "tokenizer.json"
    assert find_file(mine, "config.json") == base / "config.json"
    assert find_file(mine, "nowhere.json") is None
    for relative in ("base", "../base"):  # to where the program was started, and to the adapter
        assert base_directory(adapter(mine, relative)).resolve() == base
    (mine / "model.safetensors").write_bytes(b"")  # an adapter that was merged into its model, and left its file
    assert base_directory(mine) == mine


@pytest.mark.parametrize(
    "base, message",
    [
        (None, "base_model_name_or_path is None: it must name the folder"),
        (7, "base_model_name_or_path is 7"),
        ("gone", "base_model_name_or_path is gone, which is no folder here; write in its place where that model is"),
        (
            "Qwen/Qwen2.5-VL-7B-Instruct",
            "no folder here; .*`hf download Qwen/Qwen2.5-VL-7B-Instruct --local-dir checkpoints/Qwen2.5-VL-7B-"
            "Instruct`, then write in its place checkpoints/Qwen2.5-VL-7B-Instruct",
        ),
        ("other", "is other, itself an adapter: merge that one"),
    ],
)
def test_an_adapter_without_its_model_says_what_to_do(base, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    adapter(tmp_path / "other", "mine")
    with pytest.raises(CheckpointError, match=message):
        base_directory(adapter(tmp_path / "mine", base))


@pytest.mark.parametrize(
    "content, message",
    [
        (POINTER, "a.json is a Git LFS pointer, not the file that it points to: run `git lfs pull` in"),
        ("{", "cannot read .*a.json"),
        ("[1]", "cannot read .*a.json: it holds a list, no JSON object"),
        ("[" * 100_000, "cannot read .*a.json"),
        ("\udcff", "cannot read .*a.json"),
    ],
)
def test_what_is_no_json_object_is_named(content, message, tmp_path):
    (tmp_path / "a.json").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(CheckpointError, match=message):
        read_json(tmp_path / "a.json")


def test_a_folder_in_the_place_of_a_file_is_named(tmp_path):
    (tmp_path / "a.json").mkdir()
    for read in (read_json, check_is_no_pointer):
        with pytest.raises(CheckpointError, match="^cannot read .*a.json: Is a directory$"):
            read(tmp_path / "a.json")


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
def test_what_has_no_end_is_not_read(tmp_path, make):
    make(tmp_path / "a.json")
    with pytest.raises(CheckpointError, match="^cannot read .*a.json: it is a pipe or a device, no file$"):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize("was_there", [False, True])
def test_what_could_not_be_written_to_its_end_is_removed(tmp_path, was_there):
    out = tmp_path / "out"
    if was_there:
        out.mkdir()
    with pytest.raises(OSError, match="No space"), removed_on_failure(out):
        (out / "parameters.tmp-1").mkdir(parents=True)
        (out / "parameters.tmp-1" / "part").write_text("half")
        (out / "config.json").write_text("{}")
        raise OSError(28, "No space left on device")
    assert out.exists() == was_there and (not was_there or not list(out.iterdir()))
    with removed_on_failure(out):
        out.mkdir(exist_ok=True)
        (out / "config.json").write_text("{}")
    assert (out / "config.json").exists()


def test_a_folder_to_write_into_is_empty(tmp_path):
    check_is_empty(tmp_path / "new")
    check_is_empty(tmp_path)
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "file"):
        with pytest.raises(CheckpointError, match="is there already and not empty"):
            check_is_empty(path)

"""Paths in an object store: the clients are the real ones, the store answers from memory."""

from __future__ import annotations

import errno
import importlib.util
import io
import os
import pathlib
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from flax import nnx
from PIL import Image

from data_pipeline.records import RecordError, RecordShards, RecordSource, read_description, write_records
from pixel_reasoner_jax import files
from pixel_reasoner_jax.arrays import read_arrays, write_arrays
from pixel_reasoner_jax.checkpoint import Checkpoints
from pixel_reasoner_jax.commands import cli
from pixel_reasoner_jax.commands.cli import main
from pixel_reasoner_jax.compilation import cache_directory
from pixel_reasoner_jax.errors import CheckpointError, UserError
from pixel_reasoner_jax.metrics import MetricWriter, read_metrics
from pixel_reasoner_jax.models import Config, Qwen2_5_VL
from pixel_reasoner_jax.processing import MediaError, load_image, load_video
from pixel_reasoner_jax.processing.pictures import PictureStore
from tests.processing.avi import write_avi


def test_local_paths_stay_what_they_are(tmp_path):
    assert files.as_path("runs/a") == files.fetch("runs/a") == pathlib.Path("runs/a")
    with files.output_directory(tmp_path / "new") as local:
        assert local == tmp_path / "new" and local.is_dir()


def test_a_disk_that_is_full_is_named_by_the_file_that_was_to_be_written(monkeypatch, tmp_path, capsys):
    def fill(handle, *_, **__):
        os.close(handle)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "fdopen", fill)
    monkeypatch.setattr(cli, "_main", lambda *_: files.write_text(tmp_path / "page.html", "x"))
    assert main([]) == 2
    said = f"error: No space left on device: {tmp_path / 'page.html'}: what this command was writing is not complete"
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_paths_that_cannot_be_used_say_why(monkeypatch, tmp_path, capsys):
    with pytest.raises(ValueError, match=r"ftp://host/x: ftp:// paths are not supported; gs:// is"):
        files.as_path("ftp://host/x")
    with pytest.raises(MediaError, match="http://host/x.png"):
        load_image("http://host/x.png")
    with pytest.raises(MediaError, match="http://host/x.avi"):
        load_video("http://host/x.avi")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main(["export", "gs://bucket/run", "--out", str(tmp_path)]) == 2
    assert "gs://bucket/run: gs:// needs gcsfs, which comes with pip install" in capsys.readouterr().err


def test_no_path_leads_out_of_a_root(tmp_path):
    root = tmp_path / "root"
    (root / "folder").mkdir(parents=True)
    (tmp_path / "rooted").mkdir()
    (root / "out").symlink_to(tmp_path)
    (root / "within").symlink_to(root / "folder")
    for path in ("folder/a.png", "folder/../folder/a.png", "within/a.png", root / "folder/a.png"):
        assert files.resolve_inside(path, root) == (root / "folder/a.png").resolve()
    assert files.resolve_inside(f"file://{root}/a.png", root) == (root / "a.png").resolve()
    for path in ("../a.png", "/etc/passwd", "file:///etc/passwd", "out/a.png", "../rooted/a.png", "gs://bucket/a.png"):
        with pytest.raises(UserError, match="leads out of"):
            files.resolve_inside(path, root)


def test_no_path_leads_out_of_a_root_in_a_store(bucket):
    assert str(files.resolve_inside("folder/a.png", f"{bucket}/data")) == f"{bucket}/data/folder/a.png"
    assert str(files.resolve_inside(f"{bucket}/data/a.png", f"{bucket}/data/")) == f"{bucket}/data/a.png"
    for path in ("../a.png", f"{bucket}/data/../a.png", f"{bucket}/database/a.png", "/etc/passwd"):
        with pytest.raises(UserError, match="leads out of"):
            files.resolve_inside(path, f"{bucket}/data")


def test_text_is_written_and_read(bucket):
    path = files.write_text(f"{bucket}/a/b.txt", "ä\n\nb")
    assert str(path) == f"{bucket}/a/b.txt"
    assert files.as_path(path).read_text(encoding="utf-8") == "ä\n\nb"
    assert files.as_path(f"{bucket}/a").is_dir()


def test_what_a_body_wrote_goes_up_unless_it_failed(bucket):
    with files.output_directory(f"{bucket}/folder") as local:
        (local / "file").write_bytes(b"\n\n" * 3_000_000)
    assert files.as_path(f"{bucket}/folder/file").read_bytes() == b"\n\n" * 3_000_000
    with pytest.raises(KeyError), files.output_directory(f"{bucket}/folder") as local:
        (local / "other").write_text("half")
        raise KeyError
    assert not files.as_path(f"{bucket}/folder/other").exists()


def test_fetched_files_follow_their_originals(bucket):
    for name in ("a.json", "b.json", "c.bin", "folder/d.json"):
        files.write_text(f"{bucket}/x/{name}", name)
    local = files.fetch(f"{bucket}/x", "*.json")
    assert {path.name: path.read_text() for path in local.glob("[!.]*")} == {"a.json": "a.json", "b.json": "b.json"}
    before = (local / "a.json").stat().st_mtime_ns
    files.write_text(f"{bucket}/x/b.json", "B.json")
    files.as_path(f"{bucket}/x/c.bin").unlink()
    assert files.fetch(f"{bucket}/x") == local
    assert (local / "b.json").read_text() == "B.json" and (local / "a.json").stat().st_mtime_ns == before
    assert not (local / "c.bin").exists() and not (local / "folder").exists()
    files.as_path(f"{bucket}/x/a.json").unlink()
    assert not (files.fetch(f"{bucket}/x", "*.json") / "a.json").exists()


def test_checkpoints(bucket):
    state = {"a": jnp.arange(1000.0), "b": {"c": jnp.ones((3, 4), jnp.bfloat16)}}
    with Checkpoints(f"{bucket}/run", keep=2) as checkpoints:
        assert checkpoints.latest_step is None
        for step in (1, 2, 3):
            checkpoints.save(step, {**state, "a": state["a"] + step}, {"step": step})
    with Checkpoints(f"{bucket}/run", keep=2) as checkpoints:
        restored, meta = checkpoints.restore(state)
        assert meta == {"step": 3}
        np.testing.assert_array_equal(restored["a"], state["a"] + 3)
        with pytest.raises(CheckpointError, match=r"no checkpoint 1 in gs://.*there are \[2, 3\]"):
            checkpoints.restore(state, 1)
    write_arrays(f"{bucket}/arrays", state)
    np.testing.assert_array_equal(read_arrays(f"{bucket}/arrays", {"a": state["a"]})["a"], state["a"])
    with pytest.raises(CheckpointError, match="no arrays in gs://"):
        read_arrays(f"{bucket}/elsewhere", state)


def test_metrics(bucket):
    with MetricWriter(f"{bucket}/run") as writer:
        for step in (1, 2):
            writer.write(step, {"loss": step})
        writer.flush()
        assert [line["step"] for line in read_metrics(f"{bucket}/run")] == [1, 2]
        writer.write(3, {"loss": 3})
    assert [line["step"] for line in read_metrics(f"{bucket}/run")] == [1, 2, 3]
    with MetricWriter(f"{bucket}/run", step=2) as writer:
        writer.write(3, {"loss": 30})
    assert [line["loss"] for line in read_metrics(f"{bucket}/run/metrics.jsonl")] == [1, 2, 30]
    events = [path for path in files.as_path(f"{bucket}/run").iterdir() if path.name.startswith("events")]
    assert events and all(path.stat().length for path in events)


def test_records(bucket):
    queries = [
        {"id": str(i), "question": "?", "answer": str(i), "images": [Image.new("RGB", (30, 30))]} for i in range(5)
    ]
    write_records(f"{bucket}/data", "query", queries, shard_size=2)
    assert [query["answer"] for query in RecordSource(f"{bucket}/data", "query")] == list("01234")
    with pytest.raises(UserError, match="gs://"):
        write_records(f"{bucket}/data", "query", queries)
    with pytest.raises(RecordError, match="gs://.*is missing"):
        read_description(f"{bucket}/nothing")
    shards = RecordShards(f"{bucket}/shards", "query")
    shards.write(1, queries[2:])
    assert shards.is_finished(1) and not shards.is_finished(0)
    shards.write(0, queries[:2])
    shards.finish(2)
    assert [query["answer"] for query in RecordSource(f"{bucket}/shards", "query")] == list("01234")
    files.as_path(f"{bucket}/data/query-train-00001.array_record").unlink()
    with pytest.raises(RecordError, match="gs://.*query-train-00001.array_record is missing"):
        RecordSource(f"{bucket}/data", "query")


def test_weights(bucket):
    model = Qwen2_5_VL.create(Config.preset("tiny"), 0)
    model.save_pretrained(f"{bucket}/model", max_shard_size="100KB")
    model.save_pretrained(f"{bucket}/model")  # in one file: those of before are gone
    names = {path.name for path in files.as_path(f"{bucket}/model").iterdir()}
    assert names == {"config.json", "model.safetensors"}
    again = Qwen2_5_VL.from_pretrained(f"{bucket}/model")
    for ours, theirs in zip(*(nnx.to_flat_state(nnx.state(m, nnx.Param)) for m in (model, again)), strict=True):
        np.testing.assert_array_equal(ours[1][...], theirs[1][...])


def test_media(bucket, tmp_path):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 50, 3), np.uint8))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    path = f"{bucket}/images/a.png"
    files.as_path(path).write_bytes(buffer.getvalue())
    assert load_image(path).tobytes() == image.tobytes()
    picture = PictureStore(max_bytes=0).open(path)
    assert picture.load().tobytes() == image.tobytes() and str(picture) == path
    write_avi(tmp_path / "clip.avi", [Image.new("RGB", (64, 64), (40 * i, 0, 0)) for i in range(4)], fps=2)
    files.as_path(f"{bucket}/clip.avi").write_bytes((tmp_path / "clip.avi").read_bytes())
    assert len(load_video(f"{bucket}/clip.avi").frames) == 4
    for load in (load_image, load_video):
        with pytest.raises(MediaError, match=f"{bucket}/none: no such file"):
            load(f"{bucket}/none")


def test_compilation_cache(bucket, monkeypatch, object_store):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", f"{bucket}/jax_cache")
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    assert cache_directory() == epath.Path(f"{bucket}/jax_cache")
    program = "import jax; from pixel_reasoner_jax.compilation import enable_cache; enable_cache();"
    program += "jax.config.update('jax_persistent_cache_min_compile_time_secs', 0); print(jax.jit(lambda x: x + 1)(1))"
    subprocess.run([sys.executable, "-c", program], check=True)
    assert any(name.startswith(f"{bucket[5:]}/jax_cache/jit") for name in object_store.names())


def test_a_policy_turns_the_compilation_cache_on_unless_the_program_has_set_one(tmp_path):
    program = """
import os, sys, jax
from flax import nnx
from pixel_reasoner_jax.models import Config, Qwen2_5_VL
from pixel_reasoner_jax.rollout import Policy
class Tokens:
    stop_tokens = (1,)
def after(directory):
    jax.config.update("jax_compilation_cache_dir", directory)
    Policy(nnx.eval_shape(lambda: Qwen2_5_VL(Config.preset("tiny"), rngs=nnx.Rngs(0))), Tokens())
    print(jax.config.jax_compilation_cache_dir)
after(None)
after(sys.argv[1])
os.environ["JAX_COMPILATION_CACHE_DIR"] = sys.argv[2]
after(sys.argv[2])  # as JAX reads it when imported
"""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("JAX_COMPILATION")}
    command = [sys.executable, "-c", program, f"{tmp_path}/mine", f"{tmp_path}/theirs"]
    environment = clean | {"HOME": str(tmp_path)}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    homes, mine, theirs = ran.stdout.split()
    assert homes == f"{tmp_path}/.cache/pixel_reasoner_jax/jax"
    assert mine == f"{tmp_path}/mine" and theirs == f"{tmp_path}/theirs"


def test_whether_an_output_can_be_written_is_told_without_writing(tmp_path):
    files.check_output(tmp_path / "new" / "folder" / "out.json")
    (tmp_path / "file").write_text("")
    files.check_output(tmp_path / "file")
    with pytest.raises(ValueError, match=f"{tmp_path} is a directory: name a file"):
        files.check_output(tmp_path)
    with pytest.raises(ValueError, match=f"out.json cannot be written: {tmp_path}/file is not a directory"):
        files.check_output(tmp_path / "file" / "folder" / "out.json")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_an_output_without_permission(tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda *_: False)  # nothing is forbidden to root
    with pytest.raises(ValueError, match=f"no permission to write into {tmp_path}"):
        files.check_output(tmp_path / "new" / "out.json")

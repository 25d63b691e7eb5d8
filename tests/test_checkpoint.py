from __future__ import annotations

import shutil
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from pixel_reasoner_jax import digests
from pixel_reasoner_jax.arrays import read_arrays, write_arrays
from pixel_reasoner_jax.checkpoint import SET_ASIDE, Checkpoints, find_unlisted, set_aside
from pixel_reasoner_jax.errors import CheckpointError
from pixel_reasoner_jax.training.resumption import choose_step, set_aside_unlisted


def make_state(scale=1.0):
    _, module = nnx.split(nnx.Linear(3, 4, rngs=nnx.Rngs(0)))
    parameters = {"layers": jax.tree.map(lambda x: x * scale, module), "head": jnp.full(5, scale, jnp.bfloat16)}
    return {"parameters": parameters, "optimizer": optax.adamw(1e-3).init(parameters), "step": jnp.int32(scale)}


def assert_same(got, expected):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def test_state_and_meta_come_back(tmp_path):
    with Checkpoints(tmp_path / "run", keep=2) as checkpoints:
        assert checkpoints.latest_step is None
        for step in (1, 2, 3):
            checkpoints.save(step, make_state(step), {"episode": step, "data": {"index": [step, 7]}})
    with Checkpoints(tmp_path / "run", keep=2) as checkpoints:
        assert checkpoints.latest_step == 3
        target = jax.eval_shape(make_state)
        state, meta = checkpoints.restore(target)
        assert_same(state, make_state(3))
        assert meta == {"episode": 3, "data": {"index": [3, 7]}}
        assert_same(checkpoints.restore(make_state(), step=2)[0], make_state(2))
        with pytest.raises(CheckpointError, match=r"no checkpoint 1 .* there are \[2, 3\]"):
            checkpoints.restore(target, step=1)


def test_a_checkpoint_is_kept_however_many_newer_ones_there_are(tmp_path):
    with Checkpoints(tmp_path / "run", keep=1) as checkpoints:
        for step in range(1, 6):
            checkpoints.save(step, {"x": jnp.full(2, step)}, {})
            checkpoints.wait()
            if step in (2, 4):
                checkpoints.kept.clear()
                checkpoints.kept.add(step)
            assert checkpoints.steps == {1: [1], 2: [2], 3: [2, 3], 4: [2, 4], 5: [4, 5]}[step]
    with Checkpoints(tmp_path / "run", keep=1) as checkpoints:
        assert checkpoints.steps == [4, 5]


def test_saving_survives_donation_of_the_state(tmp_path):
    update = jax.jit(lambda state: jax.tree.map(lambda x: x * 1.5 + 1, state), donate_argnums=0)
    state = update({"x": jnp.ones((1000, 2000)), "y": jnp.zeros((1000, 2000))})
    expected = jax.tree.map(lambda x: np.array(x, copy=True), state)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state, {})
        for _ in range(4):
            state = update(state)
        jax.block_until_ready(state)
        checkpoints.wait()
        assert_same(checkpoints.restore(state)[0], expected)


def test_errors_name_what_differs(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(CheckpointError, match="there is no checkpoint in"):
            checkpoints.restore(make_state())
        checkpoints.save(1, make_state(), {})
        checkpoints.wait()
        target = jax.eval_shape(make_state)
        wrong = {**target, "step": jax.ShapeDtypeStruct((2,), jnp.int32)}
        with pytest.raises(CheckpointError, match=r"checkpoint 1 .* step has shape \(\) in it, but \(2,\) here"):
            checkpoints.restore(wrong)
        with pytest.raises(CheckpointError, match="ema is not in it"):
            checkpoints.restore({**target, "ema": target["step"]})
        del target["parameters"]["head"]
        with pytest.raises(CheckpointError, match="parameters.head is in it, but not here"):
            checkpoints.restore(target)


def test_a_save_that_was_killed_leaves_nothing_that_is_taken_for_whole(tmp_path):
    """The process dies when everything is written but the last step, which makes the checkpoint visible."""
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, make_state(1), {"episode": 1})
    script = f"""
        import os, pathlib, jax.numpy as jnp
        from pixel_reasoner_jax.checkpoint import Checkpoints

        def die(*_, **__):
            os._exit(9)

        os.rename = os.replace = pathlib.Path.rename = pathlib.Path.replace = die
        with Checkpoints({str(tmp_path)!r}) as checkpoints:
            checkpoints.save(2, {{"x": jnp.ones((100, 100))}}, {{"episode": 2}})
    """
    killed = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=120
    )
    assert killed.returncode == 9, killed.stderr
    assert any(path.name.startswith("2") for path in tmp_path.iterdir())
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest_step == 1
        state, meta = checkpoints.restore(make_state())
        assert_same(state, make_state(1))
        assert meta == {"episode": 1}
        checkpoints.save(2, make_state(2), {"episode": 2})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2"]


def test_reading_warns_of_nothing(tmp_path, caplog):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, make_state(1), {})
        checkpoints.wait()
        checkpoints.restore(make_state(0))
        read_arrays(checkpoints.state_directory(), make_state(0))
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder of two checkpoints, of steps 1 and 2."""
    folder = tmp_path_factory.mktemp("saved")
    with Checkpoints(folder / "run") as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, make_state(step), {"episode": step, "data": {"index": [step, 7]}})
    return folder / "run"


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 16
    file.write_bytes(content)


TEARS = {
    "flipped": flip,
    "cut": lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
    "emptied": lambda file: file.write_bytes(b""),
    "longer": lambda file: file.write_bytes(file.read_bytes() + b"x"),
    "removed": lambda file: file.unlink(),
    "a folder": lambda file: (file.unlink(), file.mkdir()),
    "its folder removed": lambda file: shutil.rmtree(file.parent),
}


@pytest.mark.parametrize("tear", TEARS)
def test_a_tear_in_any_file_is_said_in_one_line(saved, tear, tmp_path):
    names = [file.relative_to(saved / "2") for file in (saved / "2").rglob("*") if file.is_file()]
    names = [name for name in names if str(name) not in (digests.FILE, "commit_success.txt")]  # that is never read
    assert len(names) > 5
    run = shutil.copytree(saved, tmp_path / "run")
    with Checkpoints(run, read_only=True) as checkpoints:
        for name in names:
            TEARS[tear](run / "2" / name)
            assert checkpoints.find_damage(2), name
            if name != names[-1]:
                shutil.rmtree(run / "2", ignore_errors=True)
                shutil.copytree(saved / "2", run / "2")
        with pytest.raises(CheckpointError, match=r"^checkpoint 2 in .* is damaged: [^\n]*; other .*: \[1\]$"):
            checkpoints.restore(make_state())
        assert checkpoints.restore(make_state(), 1)[1]["episode"] == 1


def test_checkpoints_that_have_changed_places_are_told(saved, tmp_path):
    """Or a run would go on with the parameters and the place of one step, and the figures of another."""
    run = shutil.copytree(saved, tmp_path / "run")
    (run / "2").rename(tmp_path / "2")
    (run / "1").rename(run / "2")
    (tmp_path / "2").rename(run / "1")
    shutil.copytree(run / "2", run / "5")
    with Checkpoints(run, read_only=True) as checkpoints:
        said = [checkpoints.find_damage(step) for step in (1, 2, 5)]
    assert said == [f"it is '{was}' by its digests.json, moved to '{now}'" for was, now in ((2, 1), (1, 2), (1, 5))]


@pytest.mark.parametrize("content", ["[]", "null", "3", '{"metrics": 3}', "[" * 100_000, "\ufeff", ""])
def test_damage_of_what_describes_a_checkpoint_is_told(saved, tmp_path, content):
    run = shutil.copytree(saved, tmp_path / "run")
    (run / "2" / "_CHECKPOINT_METADATA").write_text(content)
    try:
        with Checkpoints(run, read_only=True) as checkpoints:
            assert "_CHECKPOINT_METADATA" in checkpoints.find_damage(2) and checkpoints.find_damage(1) is None
    except CheckpointError as error:
        assert str(error).startswith(f"the checkpoints in {run} cannot be listed (")
        assert str(error).endswith("): move the damaged one elsewhere")


@pytest.mark.parametrize("content", ["[]", "null", "3", '{"metrics": 3}', "[" * 100_000, "\ufeff", ""])
def test_such_a_checkpoint_is_set_aside_where_a_run_goes_on(saved, tmp_path, content, capsys):
    run = shutil.copytree(saved, tmp_path / "run")
    assert find_unlisted(run) == find_unlisted(tmp_path / "none") == {}
    (run / "2" / "_CHECKPOINT_METADATA").write_text(content)
    set_aside_unlisted(run)
    with Checkpoints(run) as checkpoints:
        assert choose_step(checkpoints, True) == 1
    warning = capsys.readouterr().err
    assert warning.startswith("warning: checkpoint 2 is damaged (_CHECKPOINT_METADATA has ")
    assert warning.endswith(f"; it was moved to {tmp_path / SET_ASIDE / '2'}\n")


def test_a_folder_that_only_looks_like_a_checkpoint_is_damaged(saved, tmp_path, caplog):
    run = shutil.copytree(saved, tmp_path / "run")
    for step, part in ((7, None), (8, "state"), (9, "meta")):
        for name in ("state", "meta"):
            (run / str(step) / name).mkdir(parents=True)
        if part is not None:
            shutil.copytree(saved / "2" / part, run / str(step) / part, dirs_exist_ok=True)
    with Checkpoints(run, read_only=True) as checkpoints:
        found = [checkpoints.find_damage(step) for step in (7, 8, 9)]
    assert found[:2] == ["meta is empty"] * 2 and "there are no arrays in" in found[2]
    assert "Metadata file" not in caplog.text and "checksums" not in caplog.text


@pytest.mark.filterwarnings("ignore")  # of what Orbax leaves behind where it fails
def test_checkpoints_without_checksums_are_read_and_their_tears_told(saved, tmp_path, caplog):
    """They are those of earlier versions."""
    run = shutil.copytree(saved, tmp_path / "run")
    (run / "2" / digests.FILE).unlink()
    with Checkpoints(run) as checkpoints:
        assert checkpoints.restore(make_state())[1]["episode"] == 2
    assert "checkpoint 2 in" in caplog.text and "has no checksums" in caplog.text
    for file in [file for file in (run / "2").rglob("*") if file.is_file()]:
        content = file.read_bytes()
        file.write_bytes(b"")
        with Checkpoints(run) as checkpoints:
            try:
                state, meta = checkpoints.restore(make_state())
            except CheckpointError as error:
                assert len(str(error).splitlines()) == 1
            else:
                assert_same(state, make_state(2))
                assert meta["episode"] == 2
        file.write_bytes(content)


def test_checkpoints_set_aside_are_out_of_the_way(saved, tmp_path):
    run = shutil.copytree(saved, tmp_path / "run")
    with Checkpoints(run) as checkpoints:
        assert set_aside(checkpoints.directory, [2]) == tmp_path / SET_ASIDE
        checkpoints.reload()
        assert checkpoints.steps == checkpoints.steps_on_disk() == [1]
        checkpoints.save(2, make_state(5), {"episode": 5})
        checkpoints.wait()
        assert checkpoints.restore(make_state())[1] == {"episode": 5}
        set_aside(checkpoints.directory, [2])
    assert [path.name for path in (tmp_path / SET_ASIDE).iterdir()] == ["2"]


def test_arrays_of_their_own_are_read_in_part(tmp_path):
    tree = {"a": {"b": jnp.arange(6.0)}, "c": jnp.ones(2)}
    write_arrays(tmp_path / "arrays", tree)
    assert_same(read_arrays(tmp_path / "arrays", {"a": tree["a"]}), {"a": tree["a"]})
    with pytest.raises(CheckpointError, match=r"a.b has shape \(6,\) in it, but \(3,\) here"):
        read_arrays(tmp_path / "arrays", {"a": {"b": jnp.ones(3)}})
    with pytest.raises(CheckpointError, match="d is not in it"):
        read_arrays(tmp_path / "arrays", {"d": jnp.ones(3)})
    with pytest.raises(CheckpointError, match="there are no arrays in"):
        read_arrays(tmp_path / "nowhere", tree)
    with pytest.raises(CheckpointError, match="there are no arrays in"):
        read_arrays(tmp_path, tree)


@pytest.mark.parametrize("file", ["_METADATA", "manifest.ocdbt"])
def test_damaged_arrays_say_so(tmp_path, file):
    write_arrays(tmp_path / "arrays", {"a": jnp.ones(3)})
    (tmp_path / "arrays" / file).write_text("")
    with pytest.raises(CheckpointError, match=f"the arrays in {tmp_path}/arrays are incomplete or damaged"):
        read_arrays(tmp_path / "arrays", {"a": jnp.ones(3)})

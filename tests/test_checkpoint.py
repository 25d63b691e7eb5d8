from __future__ import annotations

import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from pixel_reasoner_jax.arrays import CheckpointError, read_arrays, write_arrays
from pixel_reasoner_jax.checkpoint import Checkpoints


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

"""Meshes that fit, and the advice when one does not."""

from __future__ import annotations

import types

import jax
import numpy as np
import pytest

from pixel_reasoner_jax.parallel import MeshError, make_mesh, mesh

EIGHT = [types.SimpleNamespace(id=i) for i in range(8)]


def test_one_device_is_a_mesh():
    assert dict(make_mesh({}, jax.devices()[:1]).shape) == {"data": 1, "fsdp": 1, "tensor": 1}


def test_minus_one_takes_what_is_left():
    assert dict(make_mesh({"data": -1, "tensor": 1}, jax.devices()[:1]).shape) == {"data": 1, "fsdp": 1, "tensor": 1}


@pytest.mark.parametrize(
    "shape, message",
    [
        ({"data": 3, "fsdp": 2, "tensor": 1}, "takes 6 devices, but there are 8: data could be 4"),
        ({"data": 2, "fsdp": 2, "tensor": 1}, "tensor could be 2"),
        ({"data": -1, "tensor": 3}, "takes a multiple of 3 devices, but there are 8: tensor could be 1 or 2 or 4 or 8"),
        ({"data": 16}, "data could be 8"),
        ({"data": -1, "fsdp": -1}, "data and fsdp are both -1"),
        ({"data": 0}, "data must be a positive number"),
        ({"data": 2, "model": 4}, "no axis 'model'; its axes are data, fsdp, tensor"),
        ({"data": 3, "fsdp": 5}, "divisors of 8"),
    ],
)
def test_impossible_meshes_say_what_would_fit(shape, message):
    with pytest.raises(MeshError, match=message):
        make_mesh(shape, EIGHT)


@pytest.mark.parametrize("torus", ["interleaved", "impossible"])
def test_a_tensor_axis_stays_on_one_host(monkeypatch, torus):
    devices = [types.SimpleNamespace(id=i, process_index=i % 2, platform="tpu") for i in range(8)]

    def along_the_wires(shape, names, *, axis_types, devices):
        if torus == "impossible":
            raise NotImplementedError("no assignment")
        return types.SimpleNamespace(devices=np.array(devices).reshape(shape))

    monkeypatch.setattr(jax, "make_mesh", along_the_wires)
    monkeypatch.setattr(mesh, "Mesh", lambda devices, names, axis_types: types.SimpleNamespace(devices=devices))
    made = make_mesh({"data": -1, "tensor": 4}, devices).devices
    assert made.shape == (2, 1, 4)
    assert [[d.process_index for d in row] for row in made.reshape(2, 4)] == [[0] * 4, [1] * 4]
    if torus == "interleaved":  # eight devices of two hosts: there is no such row, and the wires decide
        made = make_mesh({"data": -1, "tensor": 8}, devices).devices
        assert [d.id for d in made.ravel()] == list(range(8))

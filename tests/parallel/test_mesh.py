"""Meshes that fit, and the advice when one does not."""

from __future__ import annotations

import types

import jax
import pytest

from pixel_reasoner_jax.parallel import MeshError, make_mesh

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

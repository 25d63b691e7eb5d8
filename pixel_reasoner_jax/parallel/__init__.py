"""Meshes of devices and what lies where on them."""

from pixel_reasoner_jax.parallel.hosts import (
    deal,
    gather,
    gather_json,
    is_main,
    is_shared,
    join,
    own,
    own_parts,
    wait_for_all,
    whole,
)
from pixel_reasoner_jax.parallel.mesh import AXES, MeshError, make_mesh
from pixel_reasoner_jax.parallel.sharding import constrain, gathered, locally, param_shardings, parts, sharding

__all__ = [
    "AXES",
    "MeshError",
    "constrain",
    "deal",
    "gather",
    "gather_json",
    "gathered",
    "is_main",
    "is_shared",
    "join",
    "locally",
    "make_mesh",
    "own",
    "own_parts",
    "param_shardings",
    "parts",
    "sharding",
    "wait_for_all",
    "whole",
]

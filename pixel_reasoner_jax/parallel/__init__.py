"""Meshes of devices, the shardings of arrays on them, and the processes that share them."""

from pixel_reasoner_jax.parallel.hosts import (
    all_gather,
    all_gather_json,
    is_main,
    is_shared,
    join,
    local_parts,
    local_rows,
    shard_rows,
    to_host,
    wait_for_all,
)
from pixel_reasoner_jax.parallel.mesh import AXES, MeshError, make_mesh, regroup
from pixel_reasoner_jax.parallel.sharding import (
    constrain,
    map_parts,
    param_shardings,
    parts,
    sharding,
)

__all__ = [
    "AXES",
    "MeshError",
    "constrain",
    "shard_rows",
    "all_gather",
    "all_gather_json",
    "is_main",
    "is_shared",
    "join",
    "map_parts",
    "make_mesh",
    "local_rows",
    "local_parts",
    "param_shardings",
    "parts",
    "regroup",
    "sharding",
    "wait_for_all",
    "to_host",
]

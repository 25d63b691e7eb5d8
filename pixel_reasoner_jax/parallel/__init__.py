"""Meshes of devices and what lies where on them."""

from pixel_reasoner_jax.parallel.mesh import AXES, MeshError, make_mesh
from pixel_reasoner_jax.parallel.sharding import batch_shardings, constrain, param_shardings, sharding

__all__ = ["AXES", "MeshError", "batch_shardings", "constrain", "make_mesh", "param_shardings", "sharding"]

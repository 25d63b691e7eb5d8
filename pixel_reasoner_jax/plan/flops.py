"""Counts the floating-point operations of a traced program; a loop's body counts as often as it runs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.interpreters.partial_eval import dce_jaxpr

from pixel_reasoner_jax.models import kernels

# Primitives that move, select or generate numbers without arithmetic; any other one is counted as one operation for
# each number that it returns.
MOVES = frozenset(
    "broadcast_in_dim reshape transpose squeeze expand_dims slice dynamic_slice dynamic_update_slice gather scatter"
    " concatenate pad rev split select_n convert_element_type reduce_precision bitcast_convert_type iota copy copy_p"
    " stop_gradient sharding_constraint device_put optimization_barrier reshard empty random_bits random_wrap"
    " random_unwrap all_gather all_to_all ppermute pvary get swap masked_load masked_swap load".split()
)


class Flops(NamedTuple):
    """Numbers of operations: those of matrix products (and convolutions), and all others."""

    products: float = 0.0
    others: float = 0.0

    @property
    def total(self) -> float:
        return self.products + self.others

    @property
    def share(self) -> float:
        """The fraction of all operations that matrix products have."""
        return self.products / self.total if self.total else 0.0

    def plus(self, more: Flops, times: float = 1.0) -> Flops:
        return Flops(*(count + times * added for count, added in zip(self, more, strict=True)))


def count_flops(jaxpr: Any, loops: Sequence[int] = ()) -> Flops:
    """Counts the operations of a program as it is written, for all devices together.

    Operations that no result needs are left out, and those that several devices repeat are counted once. A multiply and
    an add are two operations; an elementwise function is one for each number; comparisons and integer operations are
    none.

    Args:
      jaxpr: of `jax.jit(f).trace(...)`.
      loops: how often each loop runs whose length is not in the program, the outer before the inner; 1 if not given.
    """
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    needed, _ = dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    return _count(needed, loops)


def _count(jaxpr: Any, loops: Sequence[int]) -> Flops:
    flops = Flops()
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        flops = flops.plus(_equation(equation, loops))
    return flops


def _equation(equation: Any, loops: Sequence[int]) -> Flops:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        shape = equation.invars[0].aval.shape
        return Flops(2.0 * _size(equation.outvars) * math.prod(shape[axis] for axis in contracted))
    if name == "conv_general_dilated":
        kernel, numbers = equation.invars[1].aval.shape, params["dimension_numbers"]
        return Flops(2.0 * _size(equation.outvars) * math.prod(kernel) / kernel[numbers.rhs_spec[0]])
    if name == "scan":
        return Flops().plus(_count(params["jaxpr"], loops), params["length"])
    if name == "while":
        times, inner = (loops[0], loops[1:]) if loops else (1, ())
        body = _count(params["body_jaxpr"], inner).plus(_count(params["cond_jaxpr"], inner))
        return Flops().plus(body, times)
    if name == "cond":
        return max((_count(branch, loops) for branch in params["branches"]), key=lambda flops: flops.total)
    if name == "pallas_call":
        return _kernel(equation, loops)
    if inner := list(_inner(params)):
        flops = Flops()
        for jaxpr in inner:
            flops = flops.plus(_count(jaxpr, loops))
        # Inside a `shard_map`, shapes are those of one shard.
        parts = (
            math.prod(params["mesh"].shape[axis] for axis in params["newly_manual_axes"]) if name == "shard_map" else 1
        )
        return Flops().plus(flops, parts)
    if name in MOVES or not any(_is_float(variable) for variable in equation.outvars):
        return Flops()
    if name.startswith(("reduce_", "cum", "arg")):
        return Flops(0.0, _size(equation.invars))
    return Flops(0.0, _size(equation.outvars))


def _kernel(equation: Any, loops: Sequence[int]) -> Flops:
    """The operations of a Pallas kernel: its cost estimate, or else its body's for every cell of its grid."""
    params = equation.params
    if (estimate := params.get("cost_estimate")) is not None:
        return Flops(float(estimate.flops), float(estimate.transcendentals))
    grid = math.prod(size for size in params["grid_mapping"].grid if isinstance(size, int))
    all_cells = Flops().plus(_count(params["jaxpr"], loops), grid)
    products = kernels.said_flops(params["name"] or "", dict(equation.ctx.xla_metadata or {}))
    # The kernel skips cells of the grid: their other operations are left out in the same proportion.
    return all_cells if products is None else Flops().plus(all_cells, products / all_cells.products)


def _inner(params: dict[str, Any]) -> Iterator[Any]:
    """The jaxpr that an equation calls. Functions with custom derivatives have further ones, which do not run here."""
    for key in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        if hasattr(jaxpr := params.get(key), "eqns") or hasattr(jaxpr, "jaxpr"):
            yield jaxpr
            return


def _is_float(variable: Any) -> bool:
    dtype = getattr(variable.aval, "dtype", None)
    return dtype is not None and jnp.issubdtype(dtype, jnp.floating)


def _size(variables: Sequence[Any]) -> float:
    return float(sum(math.prod(variable.aval.shape) for variable in variables if _is_float(variable)))

"""How rollouts hold the parameters: in the types in which they are multiplied, on a mesh that suits decoding.

Training spreads parameters, often in float32, over all devices, and gathers them layer by layer. A decoding step is
far too short for that: it wants them where they are read, in as few bytes as there can be. So they are brought there
once, when a rollout begins with new ones, and every program of the rollout takes them as they are.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.experimental.layout import Format
from jax.experimental.layout import Layout as Order
from jax.sharding import Mesh
from jax.typing import DTypeLike

from pixel_reasoner_jax.models import Config, cache
from pixel_reasoner_jax.models.inference import decoder_matrices, inference_parameters
from pixel_reasoner_jax.parallel import MeshError, constrain, make_mesh, param_shardings, regroup
from pixel_reasoner_jax.parallel.sharding import RULES, SHARED, SPREAD, Rules, check_sizes

ORDERED = ("tpu",)  # platforms whose arrays are tiled

Variables = dict[tuple, nnx.Variable]
"""Parameters by their paths."""


class Step(NamedTuple):
    """A compiled function of some parameters; these and what it makes of them, abstract."""

    function: Callable[[Variables], Variables]
    variables: Variables
    results: Variables


class Layout:
    """Brings parameters into the types and to the places in which rollouts take them.

    What is there already is not copied. Where the rollouts' mesh divides layers otherwise than the model's, parameters
    are spread over all devices first; then each device receives its share of a layer from those that have it, and no
    more. Stacks move layer by layer, so that none is ever in memory a second time. On TPUs the copies' axes lie in the
    order in which decoding reads them: it would have to copy them in every call.

    Args:
      graphdef, params: of the model, whose parameters may be abstract.
      mesh: sizes of the rollouts' mesh over the devices of the model's, see `parallel.regroup`; {}: the model's, but
        with fsdp 1.
      weights: "int8" rounds the decoder's matrices (`models.quantized`); None: they have the type of the computation.

    Attributes:
      mesh: of the rollouts; None if the model has none.
      graphdef: of the model, computing on that mesh.
      params: the parameters as rollouts take them, abstract; with shardings if there is a mesh.
      copied: paths of those that are copies of the model's.
      prepare: cast or round parameters on the model's mesh, and spread them there.
      gather: bring them to their places on the rollouts' mesh.

    Raises:
      MeshError: the devices cannot form the mesh, or it does not divide the model.
    """

    def __init__(self, graphdef: nnx.GraphDef, params: nnx.State, mesh: Mapping[str, int], weights: str | None = None):
        model = nnx.merge(graphdef, jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params))
        own = model.mesh
        self.mesh = rollout_mesh(own, mesh, model.config)
        model.compute_on(self.mesh)
        self.graphdef, params = nnx.split(model)
        quantized = decoder_matrices(model) if weights == "int8" else {}
        take = functools.partial(inference_parameters, dtype=model.language.dtype, quantized=quantized)
        given = _placed(dict(nnx.to_flat_state(params)), own)
        taken = jax.eval_shape(take, given)
        moves = self.mesh != own
        regroups = moves and self.mesh.shape["tensor"] != own.shape["tensor"]

        changed = [path for path in given if _types(given[path]) != _types(taken[path])]
        ordered = own is not None and own.devices.flat[0].platform in ORDERED
        chosen = {path: given[path] for path in changed}
        self.prepare = [_step(take, chosen, own, RULES, ordered and not moves)] if changed else []
        self.gather, self._reordered = [], None
        if regroups:
            self.prepare += _moves(_placed(taken, own), own, [SPREAD], ordered=False)
            if list(self.mesh.devices.flat) != list(own.devices.flat):
                self._reordered = param_shardings(taken, self.mesh, SPREAD)
            self.gather = _moves(_placed(taken, self.mesh, SPREAD), self.mesh, [SHARED, RULES], ordered)
        elif moves:
            self.gather = _moves(_placed(taken, own), self.mesh, [RULES], ordered)
        self.copied = frozenset(given if moves else changed)
        copies = {path: taken[path] for path in self.copied}
        self.params = nnx.from_flat_state(_placed(taken, self.mesh) | _placed(copies, self.mesh, ordered=ordered))

    def __call__(self, params: nnx.State) -> nnx.State:
        """Parameters as rollouts take them; what has not changed is what was given."""
        variables = dict(nnx.to_flat_state(params))
        for step in self.prepare:
            variables |= step.function({path: variables[path] for path in step.variables})
        if self._reordered is not None:
            variables = jax.device_put(variables, self._reordered)
        for step in self.gather:
            variables |= step.function({path: variables[path] for path in step.variables})
        return nnx.from_flat_state(variables)


def rollout_mesh(mesh: Mesh | None, shape: Mapping[str, int], model: Config) -> Mesh | None:
    """The mesh of a model's rollouts.

    Args:
      mesh: the model's; None for one device, which has no other.
      shape: sizes, see `parallel.regroup`.
      model: sizes of the model.

    Raises:
      MeshError: the devices cannot form it, or it does not divide the model; the message names `rollout.mesh`.
    """
    try:
        found = regroup(make_mesh({}, jax.devices()[:1]) if mesh is None else mesh, shape)
        check_sizes(model.divisible, found.shape)
    except MeshError as error:
        raise MeshError(f"rollout.{error}") from None
    return None if mesh is None else found


def check_cache(model: Config, dtype: DTypeLike, mesh: Mesh | None) -> None:
    """Checks that attention can read a cache on the devices of a mesh, before anything is compiled for it.

    Args:
      model: sizes of the model.
      dtype: of what is stored.
      mesh: of the rollouts.

    Raises:
      MeshError: JAX's kernel for TPU cannot; the message names the settings.
    """
    tensor, kv_heads = 1 if mesh is None else mesh.shape["tensor"], model.num_key_value_heads
    if not cache.has_kernel(mesh, model.head_dim) or cache.kernel_reads(kv_heads // tensor, dtype):
        return
    name = jnp.dtype(dtype).name
    fitting = [count for count in range(1, kv_heads + 1) if not kv_heads % count]
    fitting = [str(count) for count in fitting if cache.kernel_reads(kv_heads // count, dtype)]
    remedy = f"rollout.mesh.tensor could be {' or '.join(fitting)}, or " if fitting else ""
    raise MeshError(
        f"rollout.cache_dtype {name!r} does not go with rollout.mesh of tensor={tensor}: each device would have"
        f" {kv_heads // tensor} of the model's {kv_heads} num_key_value_heads, which the attention kernel of TPUs"
        f" cannot read in {name}: {remedy}give rollout.cache_dtype another type"
    )


def _step(
    function: Callable[[Variables], Variables], variables: Variables, mesh: Mesh | None, rules: Rules, ordered: bool
) -> Step:
    """Compiles a function whose results lie on a mesh as rules say, `ordered` as in `_places`."""
    results = jax.eval_shape(function, variables)
    places = None if mesh is None else _places(results, mesh, rules, ordered)
    return Step(jax.jit(function, out_shardings=places), variables, _placed(results, mesh, rules, ordered))


def _moves(variables: Variables, mesh: Mesh, rules: Sequence[Rules], ordered: bool) -> list[Step]:
    """Steps that divide parameters over a mesh by some rules, and then by the next; `ordered` as in `_places`.

    Each stack has a step of its own. XLA on a CPU runs loops of one program at the same time, in any order: devices
    would wait for each other in different ones.
    """
    groups: dict[tuple, Variables] = {}
    for path, variable in variables.items():
        groups.setdefault(path[:2] if _is_stacked(variable) else (), {})[path] = variable
    move = functools.partial(_moved, mesh, rules)
    return [_step(move, group, mesh, rules[-1], ordered) for group in groups.values()]


def _moved(mesh: Mesh, rules: Sequence[Rules], variables: Variables) -> Variables:
    """See `_moves`; the variables are all of one stack, or none is."""

    def divide(variable: nnx.Variable) -> nnx.Variable:
        for some in rules:
            divided = functools.partial(constrain, axes=variable.axes, mesh=mesh, rules=some)
            variable = variable.replace(jax.tree.map(divided, variable.get_raw_value()))
        return variable

    def divide_all(variables: Variables) -> Variables:
        return {path: divide(variable) for path, variable in variables.items()}

    stacked = any(map(_is_stacked, variables.values()))
    return jax.lax.map(divide_all, variables) if stacked else divide_all(variables)


def _is_stacked(variable: nnx.Variable) -> bool:
    return any(leaf.ndim > len(variable.axes) for leaf in jax.tree.leaves(variable))


def _placed(variables: Variables, mesh: Mesh | None, rules: Rules = RULES, ordered: bool = False) -> Variables:
    """Abstract parameters with their places on a mesh, if there is one."""
    if mesh is None:
        return variables
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        variables,
        _places(variables, mesh, rules, ordered),
    )


def _places(variables: Variables, mesh: Mesh, rules: Rules, ordered: bool) -> Variables:
    """The shardings of parameters; with `ordered`, the order of the axes of the decoder's in memory too.

    A projection to heads is read a head at a time, all others as they are declared. By itself, a TPU would have the
    latter's last axis come earlier where it is no multiple of 128.
    """
    places = param_shardings(variables, mesh, rules)
    if not ordered:
        return places

    def in_order(variable: nnx.Variable, place: nnx.Variable) -> nnx.Variable:
        def axes(leaf: Any) -> Order:
            numbers, first = [*range(leaf.ndim)], leaf.ndim - len(variable.axes)
            if len(variable.axes) == 3 and variable.axes[-1] == "head":
                numbers[first], numbers[first + 1] = first + 1, first
            return Order(tuple(numbers))

        value, sharding = variable.get_raw_value(), place.get_raw_value()
        return place.replace(jax.tree.map(lambda leaf, where: Format(axes(leaf), where), value, sharding))

    return {path: place if path[0] == "vision" else in_order(variables[path], place) for path, place in places.items()}


def _types(variable: nnx.Variable) -> list:
    return [leaf.dtype for leaf in jax.tree.leaves(variable)]

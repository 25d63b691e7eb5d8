"""How rollouts hold the parameters: in the types in which they are multiplied, on a mesh that suits decoding.

Training spreads parameters, often in float32, over all devices, and gathers them layer by layer. A decoding step is
far too short for that: it wants them where they are read, in as few bytes as there can be. So they are brought there
once, when a rollout begins with new ones, and every program of the rollout takes them as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array

from pixel_reasoner_jax.models import Config
from pixel_reasoner_jax.models.inference import inference_parameters
from pixel_reasoner_jax.parallel import MeshError, constrain, make_mesh, param_shardings, regroup
from pixel_reasoner_jax.parallel.sharding import RULES, SHARED, SPREAD, Rules, check_sizes

Variables = dict[tuple, nnx.Variable]
"""Parameters by their paths."""


class Step(NamedTuple):
    """A compiled function of parameters, and these, abstract."""

    function: Callable[[Variables], Variables]
    variables: Variables


class Layout:
    """Brings parameters into the types and to the places in which rollouts take them.

    What is there already is not copied. Where the rollouts' mesh divides layers otherwise than the model's, parameters
    are spread over all devices first; then each device receives its share of a layer from those that have it, and no
    more. Stacks move layer by layer, so that none is ever in memory a second time.

    Args:
      graphdef, params: of the model, whose parameters may be abstract.
      mesh: sizes of the rollouts' mesh over the devices of the model's, see `parallel.regroup`; {}: the model's, but
        with fsdp 1.

    Attributes:
      mesh: of the rollouts; None if the model has none.
      graphdef: of the model, computing on that mesh.
      params: the parameters as rollouts take them, abstract; with shardings if there is a mesh.
      copied: paths of those that are copies of the model's.
      prepare: casts parameters on the model's mesh, and spreads them there; None if there is nothing to do.
      gather: brings them to their places on the rollouts' mesh; None if that is the model's.

    Raises:
      MeshError: the devices cannot form the mesh, or it does not divide the model.
    """

    def __init__(self, graphdef: nnx.GraphDef, params: nnx.State, mesh: Mapping[str, int]):
        model = nnx.merge(graphdef, jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params))
        own, dtype = model.mesh, model.language.dtype
        self.mesh = rollout_mesh(own, mesh, model.config)
        model.compute_on(self.mesh)
        self.graphdef, params = nnx.split(model)
        given = dict(nnx.to_flat_state(params))
        taken = jax.eval_shape(lambda variables: inference_parameters(variables, dtype), given)
        moves = self.mesh != own
        regroups = moves and self.mesh.shape["tensor"] != own.shape["tensor"]
        spread = SPREAD if regroups else RULES

        def prepare(variables: Variables) -> Variables:
            variables = inference_parameters(variables, dtype)
            return _moved(variables, own, [SPREAD]) if regroups else variables

        def gather(variables: Variables) -> Variables:
            return _moved(variables, self.mesh, [SHARED, RULES] if regroups else [RULES])

        changed = [path for path in given if regroups or _types(given[path]) != _types(taken[path])]
        prepared = _placed({path: taken[path] for path in changed}, own, spread)
        self.prepare = self.gather = self._reordered = None
        if changed:
            function = jax.jit(prepare, out_shardings=_shardings(prepared, own))
            self.prepare = Step(function, _placed({path: given[path] for path in changed}, own))
        placed = _placed(taken, self.mesh)
        if moves:
            between = _placed(taken, self.mesh if regroups else own, spread)
            self.gather = Step(jax.jit(gather, out_shardings=_shardings(placed, self.mesh)), between)
            if list(self.mesh.devices.flat) != list(own.devices.flat):
                self._reordered = _shardings(between, self.mesh)
        self.params = nnx.from_flat_state(placed)
        self.copied = frozenset(placed if moves else changed)

    def __call__(self, params: nnx.State) -> nnx.State:
        """Parameters as rollouts take them; what has not changed is what was given."""
        variables = dict(nnx.to_flat_state(params))
        if self.prepare is not None:
            variables |= self.prepare.function({path: variables[path] for path in self.prepare.variables})
        if self._reordered is not None:
            variables = jax.device_put(variables, self._reordered)
        if self.gather is not None:
            variables = self.gather.function(variables)
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


def _moved(variables: Variables, mesh: Mesh, steps: Sequence[Rules]) -> Variables:
    """Divides parameters over a mesh by some rules, and then by the next; stacks layer by layer."""

    def moved(variable: nnx.Variable) -> nnx.Variable:
        axes = variable.get_metadata()["axes"]

        def move(array: Array) -> Array:
            for rules in steps:
                array = constrain(array, axes, mesh, rules)
            return array

        def move_stack(array: Array) -> Array:
            return jax.lax.map(move, array) if array.ndim > len(axes) else move(array)

        return variable.replace(jax.tree.map(move_stack, variable.get_raw_value()))

    return {path: moved(variable) for path, variable in variables.items()}


def _shardings(variables: Variables, mesh: Mesh | None, rules: Rules = RULES) -> Variables | None:
    return None if mesh is None else param_shardings(variables, mesh, rules)


def _placed(variables: Variables, mesh: Mesh | None, rules: Rules = RULES) -> Variables:
    """Abstract parameters with their shardings on a mesh, if there is one."""
    if mesh is None:
        return variables
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        variables,
        param_shardings(variables, mesh, rules),
    )


def _types(variable: nnx.Variable) -> list:
    return [leaf.dtype for leaf in jax.tree.leaves(variable)]

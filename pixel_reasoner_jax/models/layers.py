"""What both towers are made of: projections, norm, gated MLP, rotary embedding, stacks of layers."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float

from pixel_reasoner_jax.models import kernels
from pixel_reasoner_jax.models.quantized import Quantized
from pixel_reasoner_jax.parallel.sharding import constrain

POLICIES = {
    "none": None,
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.save_from_both_policies(
        jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
        jax.checkpoint_policies.save_only_these_names(kernels.SAVED),
    ),
}
UNROLLED = 4  # layers
ADAPTER = "adapter"  # in the path of every parameter of an adapter

WITHIN = ("batch", None, None)  # axes of the values in a layer
BETWEEN = ("batch", "sequence", None)  # and between layers


def stack(layer: type[nnx.Module], depth: int, config, *, rngs: nnx.Rngs, **options) -> nnx.Module:
    """A module of `depth` layers, whose parameters are stacked along a leading axis "layers"."""
    create = nnx.vmap(lambda rngs: layer(config, rngs=rngs, **options))
    return nnx.split_rngs(splits=depth)(create)(rngs)


def scan_layers(
    function: Callable[[Array, nnx.State], Array],
    x: Float[Array, "batch tokens size"],
    layers: nnx.State,
    *,
    remat: str,
    mesh: Mesh | None,
) -> Float[Array, "batch tokens size"]:
    """`function(x, layer)` for one layer after another.

    Between layers x is sharded over the whole mesh, and so are the layer inputs that "full" remat keeps. Within layers
    x is replicated along tensor. (Without this constraint the compiler gathers parameters over tensor instead.)

    Args:
      layers: stacked.
      remat: what the backward pass recomputes: nothing ("none"), all but layer inputs ("full") or all but matrix
        products and attention ("dots").
    """

    def apply(x, layer):
        x = constrain(constrain(x, BETWEEN, mesh), WITHIN, mesh)
        x = constrain(function(x, layer), WITHIN, mesh)
        return constrain(x, BETWEEN, mesh), None

    return scan(apply, constrain(x, BETWEEN, mesh), layers, remat=remat)[0]


def scan(function: Callable, x, layers, *, remat: str = "none"):
    """`jax.lax.scan` of `function(x, layer)` over stacked layers; `remat` as above.

    A few layers are unrolled: a loop copies every layer's saved values, which small models feel.
    """
    unroll = len(jax.tree.leaves(layers)[0]) <= UNROLLED
    if remat != "none":
        # In a loop nothing could merge a layer with its recomputation; unrolled, the compiler must be kept from it.
        function = jax.checkpoint(function, policy=POLICIES[remat], prevent_cse=unroll)
    return jax.lax.scan(function, x, layers, unroll=unroll)


class Linear(nnx.Module):
    """Contracts the last axes of its input, of shape `inputs`, to axes of shape `outputs`.

    Attributes:
      kernel: [*inputs, *outputs], with the logical axis names `axes`; begins with standard deviation `std`, by default
        1 / sqrt(number of inputs), which for the released sizes is about their 0.02 and suits small ones too. It may
        hold a `Quantized` in the place of an array.
      bias: [*outputs], or None.
      adapter: an `Adapter` whose output is added, or None; see `lora.add_adapters`.
    """

    adapter = None

    def __init__(self, inputs, outputs, axes, *, bias, rngs, dtype, param_dtype, std=None):
        shape = (*inputs, *outputs)
        std = math.prod(inputs) ** -0.5 if std is None else std
        self.inputs = len(inputs)
        self.dtype = dtype
        self.kernel = nnx.Param(std * jax.random.normal(rngs.params(), shape, param_dtype), axes=axes)
        self.bias = nnx.Param(jnp.zeros(outputs, param_dtype), axes=axes[len(inputs) :]) if bias else None

    def __call__(self, x: Array) -> Array:
        x, kernel = x.astype(self.dtype), self.kernel[...]
        if isinstance(kernel, Quantized):
            y = kernel.product(x, range(self.inputs), self.dtype)
        else:
            y = _product(x, kernel.astype(self.dtype), self.inputs)
        if self.adapter is not None:
            y = y + self.adapter(x)
        return y if self.bias is None else y + self.bias[...].astype(self.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _product(x: Array, kernel: Array, inputs: int) -> Array:
    """x [*batch, *inputs] by kernel [*inputs, *outputs], over so many axes of inputs.

    Its backward pass asks for the kernel's gradient as the kernel lies. Differentiation by JAX asks for the transpose,
    for which XLA on a CPU copies one operand transposed.
    """
    return jnp.tensordot(x, kernel, axes=inputs)


def _product_forward(x, kernel, inputs):
    # Not `_product`, whose product a remat policy would not see.
    return jnp.tensordot(x, kernel, axes=inputs), (x, kernel)


def _product_backward(inputs, saved, gradient):
    x, kernel = saved
    outputs, batch = kernel.ndim - inputs, tuple(range(x.ndim - inputs))
    over_outputs = tuple(range(gradient.ndim - outputs, gradient.ndim)), tuple(range(inputs, kernel.ndim))
    x_gradient = jnp.tensordot(gradient, kernel, axes=over_outputs)
    if math.prod(kernel.shape[:inputs]) <= math.prod(kernel.shape[inputs:]):
        return x_gradient, jnp.tensordot(x, gradient, axes=(batch, batch))
    # XLA on a CPU copies the first operand transposed: let it be the smaller.
    turned = jnp.tensordot(gradient, x, axes=(batch, batch))
    return x_gradient, jnp.moveaxis(turned, range(outputs), range(-outputs, 0))


_product.defvjp(_product_forward, _product_backward)


class Adapter(nnx.Module):
    """Low-rank adapters beside a stack of `Linear` layers: scale * (x @ a) @ b, in float32 whatever the layers' type.

    They begin as zero.

    Attributes:
      a: [layers, *inputs, rank], uniform with variance 1 / (3 * inputs), as PEFT begins.
      b: [layers, rank, *outputs], 0.
      scale: alpha / rank.
    """

    def __init__(self, linear: Linear, rank: int, alpha: float, key: Array):
        (depth, *shape), axes = linear.kernel.shape, linear.kernel.get_metadata()["axes"]
        inputs, outputs = shape[: linear.inputs], shape[linear.inputs :]
        bound = math.prod(inputs) ** -0.5
        a = jax.random.uniform(key, (depth, *inputs, rank), jnp.float32, -bound, bound)
        self.a = nnx.Param(a, axes=(*axes[: linear.inputs], "rank"))
        self.b = nnx.Param(jnp.zeros((depth, rank, *outputs)), axes=("rank", *axes[linear.inputs :]))
        self.scale = alpha / rank

    def __call__(self, x: Array) -> Array:
        """Applies one layer, inside a scan over the stack: [*batch, *inputs] to [*batch, *outputs]."""
        low = jnp.tensordot(x, self.a[...].astype(x.dtype), axes=self.a.ndim - 1)
        return self.scale * jnp.tensordot(low, self.b[...].astype(x.dtype), axes=1)


class RMSNorm(nnx.Module):
    """Root-mean-square norm (Zhang & Sennrich, 2019) over the last axis, in float32."""

    def __init__(self, size: int, *, eps: float, param_dtype):
        self.eps = eps
        self.scale = nnx.Param(jnp.ones((size,), param_dtype), axes=("norm",))

    def __call__(self, x: Float[Array, "*batch size"]) -> Float[Array, "*batch size"]:
        y = x.astype(jnp.float32)
        y = y * jax.lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + self.eps)
        return (y * self.scale[...].astype(jnp.float32)).astype(x.dtype)

    def project(self, x: Float[Array, "*batch size"], *projections: Linear) -> tuple[Array, ...]:
        """Projections of the normalized values, which the backward pass computes again from x."""

        def projected(x):
            y = self(x)
            return tuple(project(y) for project in projections)

        return jax.checkpoint(projected, prevent_cse=False)(x)


class SwiGLU(nnx.Module):
    """Gated MLP of normalized values, down(silu(gate(x)) * up(x)) (Shazeer, 2020).

    The backward pass computes the normalized values and the product again: of the hidden values it keeps two arrays,
    not four.
    """

    def __init__(self, size: int, hidden: int, **options):
        self.gate = Linear((size,), (hidden,), ("embed", "mlp"), **options)
        self.up = Linear((size,), (hidden,), ("embed", "mlp"), **options)
        self.down = Linear((hidden,), (size,), ("mlp", "embed"), **options)

    def __call__(self, x: Float[Array, "*batch size"], norm: RMSNorm) -> Float[Array, "*batch size"]:
        finish = jax.checkpoint(lambda gate, up: self.down(jax.nn.silu(gate) * up), prevent_cse=False)
        return finish(*norm.project(x, self.gate, self.up))


Rotation = tuple[Float[Array, "*batch half"], Float[Array, "*batch half"]]


def frequencies(size: int, theta: float) -> Float[Array, " half"]:
    """theta^(-2i/size) for i < size/2, in float32: bfloat16 angles would be off by tenths of a radian."""
    return theta ** -(jnp.arange(0, size, 2, dtype=jnp.float32) / size)


def rotate(x: Float[Array, "*batch heads size"], rotation: Rotation) -> Float[Array, "*batch heads size"]:
    """Rotary embedding (Su et al., 2021), pairing element i with i + size/2, in float32."""
    cos, sin = (r[..., None, :] for r in rotation)
    a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x.dtype)

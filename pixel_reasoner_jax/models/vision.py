"""The vision tower: patches in window layout to embeddings of merged patches."""

from __future__ import annotations

import functools
import itertools

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, UInt8

from pixel_reasoner_jax.models.attention import attention, dense_attention
from pixel_reasoner_jax.models.config import VisionConfig
from pixel_reasoner_jax.models.layers import (
    WITHIN,
    Linear,
    RMSNorm,
    Rotation,
    SwiGLU,
    frequencies,
    rotate,
    scan_layers,
    stack,
)
from pixel_reasoner_jax.parallel.sharding import constrain

EPS = 1e-6  # of every norm in the tower; not in the configuration


class VisionLayer(nnx.Module):
    def __init__(self, config: VisionConfig, *, rngs, dtype, param_dtype):
        options = dict(bias=True, rngs=rngs, dtype=dtype, param_dtype=param_dtype)
        size, heads = config.hidden_size, (config.num_heads, config.head_dim)
        self.block = config.window_patches
        self.norm1 = RMSNorm(size, eps=EPS, param_dtype=param_dtype)
        self.qkv = Linear((size,), (3, *heads), ("embed", None, "heads", "head"), **options)
        self.out = Linear(heads, (size,), ("heads", "head", "embed"), **options)
        self.norm2 = RMSNorm(size, eps=EPS, param_dtype=param_dtype)
        self.mlp = SwiGLU(size, config.intermediate_size, **options)

    def __call__(
        self,
        x: Float[Array, "rows patches size"],
        rotation: Rotation,
        groups: Int[Array, "rows patches"],
        *,
        full: bool,
        mesh: Mesh | None,
    ) -> Float[Array, "rows patches size"]:
        (qkv,) = self.norm1.project(x, self.qkv)
        query, key, value = (qkv[:, :, i] for i in range(3))
        query, key = rotate(query, rotation), rotate(key, rotation)
        if full:
            attended = attention(query, key.swapaxes(1, 2), value.swapaxes(1, 2), groups, causal=False, mesh=mesh)
        else:  # no window spans blocks of the layout: attend within blocks, which are too short for a kernel
            blocks = (-1, self.block)
            query, key, value = (a.reshape(*blocks, *a.shape[2:]) for a in (query, key, value))
            groups = groups.reshape(blocks)
            attended = dense_attention(query, key.swapaxes(1, 2), value.swapaxes(1, 2), groups, causal=False)
        x = constrain(x + self.out(attended.reshape(*x.shape[:2], *attended.shape[2:])), WITHIN, mesh)
        return x + self.mlp(x, self.norm2)


class Merger(nnx.Module):
    """Turns each group of `merge_patches` neighbouring patches into one embedding of the decoder."""

    def __init__(self, config: VisionConfig, *, rngs, dtype, param_dtype):
        options = dict(bias=True, rngs=rngs, dtype=dtype, param_dtype=param_dtype)
        merged = config.hidden_size * config.merge_patches
        self.norm = RMSNorm(config.hidden_size, eps=EPS, param_dtype=param_dtype)
        self.up = Linear((merged,), (merged,), ("embed", "mlp"), **options)
        self.down = Linear((merged,), (config.out_hidden_size,), ("mlp", "embed"), **options)

    def __call__(self, x: Float[Array, "rows patches size"]) -> Float[Array, "tokens out"]:
        x = self.norm(x).reshape(-1, self.up.kernel.shape[0])
        return self.down(jax.nn.gelu(self.up(x), approximate=False))


class VisionTower(nnx.Module):
    """A ViT with 2D rotary positions that attends within windows, and in a few layers within whole frames.

    Patches come in window layout: a row is a sequence of blocks of `config.window_patches` patches, each block one
    attention window of one frame or several smaller ones, padded at its end; the patches of a window stand together,
    and among them those that merge.
    """

    def __init__(self, config: VisionConfig, *, rngs, dtype, param_dtype, mesh=None):
        options = dict(rngs=rngs, dtype=dtype, param_dtype=param_dtype)
        self.config = config
        self.mesh = mesh
        self.embed = Linear(
            (config.patch_dim,),
            (config.hidden_size,),
            (None, "embed"),
            bias=False,
            std=config.initializer_range,
            **options,
        )
        self.layers = stack(VisionLayer, config.depth, config, **options)
        self.merger = Merger(config, **options)

    def __call__(
        self,
        patches: UInt8[Array, "rows patches values"],
        scaling: Float[Array, "rows 2 channels"],
        positions: Int[Array, "rows patches 2"],
        segments: Int[Array, "rows patches"],
        *,
        remat: str = "none",
    ) -> Float[Array, "tokens out"]:
        """Embeds every group of merged patches, row after row; padding gives embeddings without meaning.

        Args:
          patches: 8-bit levels of pixels, channel-major (channel, time, row, column).
          scaling: what is subtracted from the levels of each channel, and what the difference is multiplied with.
          positions: (row, column) of each patch in its frame, in patches.
          segments: id of the patch's frame, unique within its row; 0 is padding.
          remat: policy for the layers, see `Qwen2_5_VL`; not "vision".
        """
        return self.merger(self.hidden_states(patches, scaling, positions, segments, remat=remat))

    def hidden_states(
        self, patches, scaling, positions, segments, *, remat="none"
    ) -> Float[Array, "rows patches size"]:
        """The same before the merger."""
        angles = positions[..., None] * frequencies(self.config.head_dim // 2, self.config.rope_theta)
        angles = angles.reshape(*angles.shape[:-2], -1)  # row angles, then column angles
        rotation = jnp.cos(angles), jnp.sin(angles)
        windows = self._windows(positions, segments)
        graph, layers = nnx.split(self.layers)

        def apply(full, x, layer):
            groups = segments if full else windows
            return nnx.merge(graph, layer)(x, rotation, groups, full=full, mesh=self.mesh)

        # The backward pass normalizes again: it keeps levels, a quarter of the bytes.
        embed = jax.checkpoint(lambda levels: self.embed(normalized(levels, scaling)))
        return _scan_periodic(apply, embed(patches), layers, self._full_layers(), remat, self.mesh)

    def _windows(self, positions, segments) -> Int[Array, "rows patches"]:
        """Number of each patch's window in its row: a window begins where its place differs from the patch before."""
        window = positions // (self.config.window_size // self.config.patch_size)
        place = jnp.concatenate([window, segments[..., None]], axis=-1)
        begins = (place[:, 1:] != place[:, :-1]).any(axis=-1)
        return jnp.pad(jnp.cumsum(begins, axis=1, dtype=jnp.int32), ((0, 0), (1, 0)))

    def _full_layers(self) -> tuple[bool, ...]:
        return tuple(i in self.config.fullatt_block_indexes for i in range(self.config.depth))


def normalized(
    levels: UInt8[Array, "rows patches values"], scaling: Float[Array, "rows 2 channels"]
) -> Float[Array, "rows patches values"]:
    """Pixels as the tower was trained on them: (level / 255 - mean) / deviation of each channel, in float32."""
    offset, factor = jnp.moveaxis(jnp.repeat(scaling, levels.shape[-1] // scaling.shape[-1], axis=-1), 1, 0)
    return (levels.astype(jnp.float32) - offset[:, None]) * factor[:, None]


def _scan_periodic(apply, x, layers, kinds: tuple[bool, ...], remat: str, mesh: Mesh | None):
    """Scans layers of two kinds, compiling each run of one kind in the shortest repeating pattern once.

    The released towers repeat (7 windowed, 1 full) four times: a loop of 4 over a loop of 7 and one more layer. A
    conditional in one loop would do for any pattern, but then the backward pass stores both branches' values.

    `remat` is as in `scan_layers`, or "groups": of each repetition the backward pass keeps the input alone.
    """
    depth = len(kinds)
    period = next(p for p in range(1, depth + 1) if depth % p == 0 and kinds == kinds[:p] * (depth // p))
    if period == 1:
        period = depth  # one kind only: a single run
    runs, start = [], 0
    for full, run in itertools.groupby(kinds[:period]):
        runs.append((full, start, start := start + len(list(run))))

    within = "full" if remat == "groups" else remat

    def group(x, layers):
        for full, begin, end in runs:
            run = jax.tree.map(lambda p, begin=begin, end=end: p[begin:end], layers)
            x = scan_layers(functools.partial(apply, full), x, run, remat=within, mesh=mesh)
        return x, None

    if period == depth:
        return group(x, layers)[0]
    grouped = jax.tree.map(lambda p: p.reshape(-1, period, *p.shape[1:]), layers)
    if remat == "groups":
        group = jax.checkpoint(group, prevent_cse=False)  # within a loop, see `layers.scan`
    return jax.lax.scan(group, x, grouped)[0]

"""Fused self-attention for TPU: JAX's splash attention, which never holds the scores of all pairs of tokens.

It skips the blocks of keys that causality or segments hide and has its own backward pass. The compiler cannot divide a
kernel among devices, so it runs inside `jax.shard_map`, on the rows and the heads of each device.

Compiled for v5e, v5p and v6e, it has not run on its hardware so far, only in the interpreter, and no block size was
tuned there.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel, splash_attention_mask
from jax.experimental.xla_metadata import set_xla_metadata
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from pixel_reasoner_jax.parallel.sharding import sharding

LANES = 128  # the kernel wants lengths in multiples of this
BLOCK = 512  # tokens of a block, at most
SMALLEST_HEAD = 16  # elements; the kernel was tried with no smaller ones

# The name of what attention's backward pass needs of its forward pass, for remat policies.
SAVED = "attention"

# The kernels say nothing of their cost, and no count of their grids' cells tells which blocks are left out. So their
# calls carry `attention_flops` as attributes of this name, in a traced program and in a compiled one. (In the text of
# that, attributes stand in the order of the alphabet and those after "kernel_metadata" on lines of their own.)
FLOPS = "flops_of_"


def fits(platform: str, tokens: int, size: int) -> bool:
    """Whether the kernel runs on this platform ("tpu", "gpu" or other) and is of use for so many tokens and this head
    size."""
    return platform == "tpu" and tokens >= LANES and size >= SMALLEST_HEAD


def fused_attention(
    query: Float[Array, "batch tokens heads size"],
    key: Float[Array, "batch kv_heads tokens size"],
    value: Float[Array, "batch kv_heads tokens size"],
    segments: Int[Array, "batch tokens"],
    *,
    causal: bool,
    mesh: Mesh | None = None,
    interpret: bool = False,
) -> Float[Array, "batch tokens heads size"]:
    """Softmax attention of unscaled scores by the kernel; see `attention.attention` for the arguments.

    Args:
      mesh: rows are sharded over data and fsdp where these divide them and else computed by all; heads over tensor.
      interpret: runs the kernel as plain operations, on any platform, slowly.
    """
    kernel = functools.partial(_splash, causal=causal, interpret=interpret)
    if mesh is None:
        return kernel(query, key, value, segments)
    queries = sharding(("batch", None, "heads", None), query.shape, mesh)
    keys = sharding(("batch", "kv_heads", None, None), key.shape, mesh)
    rows = sharding(("batch", None), segments.shape, mesh)
    # The kernel does not say over which axes its results vary, which check_vma would want to know.
    specs = tuple(x.spec for x in (queries, keys, keys, rows))
    sharded = jax.shard_map(kernel, mesh=mesh, in_specs=specs, out_specs=queries.spec, check_vma=False)
    return sharded(query, key, value, segments)


def attention_flops(batch: int, tokens: int, heads: int, size: int, *, causal: bool) -> dict[str, int]:
    """Floating-point operations in the matrix products of a kernel, which XLA's cost analysis takes for none.

    Counted is the most that can run, which is the case of one segment a row. Padding to whole blocks is counted,
    blocks that causality hides are not. Blocks that segments hide are skipped as well, but only the data tell which. A
    product of m x k by k x n elements is 2mkn operations.

    Args:
      batch: rows a call; `batch`, `heads`: of one device for a count a device, of the program for the whole.

    Returns:
      Operations, by the beginning of the kernels' names in a program: those of a forward pass (two products; again each
      time that remat repeats it), and of the two kernels of a backward pass, `dkv` (four) and `dq` (three).
    """
    block, blocks = _blocks(tokens)
    pairs = block**2 * (blocks * (blocks + 1) // 2 if causal else blocks**2)
    numbers = {"splash_mha_fwd": 2, "splash_mha_dkv": 4, "splash_mha_dq": 3}
    return {name: number * 2 * batch * heads * pairs * size for name, number in numbers.items()}


def saying(flops: Mapping[str, int]) -> contextlib.AbstractContextManager:
    """A context in which the kernels that are called, and their backward passes, carry their number of operations."""
    return set_xla_metadata(**{FLOPS + name: count for name, count in flops.items()})


def said_flops(name: str, attributes: Mapping[str, int | str]) -> int | None:
    """The operations in a kernel's matrix products, as its call's name and attributes say; None: they say nothing."""
    return next((int(flops) for key, flops in attributes.items() if f"{FLOPS}{name}".startswith(key)), None)


def _blocks(tokens: int) -> tuple[int, int]:
    """The length of a block and the number of blocks: as few as possible, less than `LANES` padding tokens in each."""
    blocks = -(-tokens // BLOCK)
    return -(-tokens // (blocks * LANES)) * LANES, blocks


def _splash(query, key, value, segments, *, causal: bool, interpret: bool):
    tokens, heads = query.shape[1:3]
    block, blocks = _blocks(tokens)
    length = block * blocks
    mask = splash_attention_mask.CausalMask if causal else splash_attention_mask.FullMask
    names = ("block_q", "block_kv", "block_q_dkv", "block_kv_dkv", "block_q_dq", "block_kv_dq")
    kernel = splash_attention_kernel.make_splash_mha(
        splash_attention_mask.MultiHeadMask([mask((length, length))] * heads),
        block_sizes=splash_attention_kernel.BlockSizes(**dict.fromkeys(names, block)),
        residual_checkpoint_name=SAVED,
        head_shards=1,
        q_seq_shards=1,
        interpret=interpret,
    )

    flops = attention_flops(1, tokens, heads, query.shape[3], causal=causal)

    def attend(row):
        query, key, value, segments = row
        may_share = _may_share_segment(segments, block)
        infos = (kernel.fwd_mask_info, kernel.dq_mask_info, kernel.dkv_mask_info)
        infos = (info._replace(block_mask=jnp.where(may_share, info.block_mask, 0)) for info in infos)
        attend_row = splash_attention_kernel.SplashAttentionKernel(*infos, **kernel.kwargs)
        with saying(flops):
            return attend_row(query, key, value, splash_attention_kernel.SegmentIds(segments, segments))

    query, key, value = (_pad(x, 2, length) for x in (query.swapaxes(1, 2), key, value))
    out = jax.lax.map(attend, (query, key, value, _pad(segments, 1, length)))
    return out[:, :, :tokens].swapaxes(1, 2)


def _may_share_segment(segments: Int[Array, " tokens"], block: int) -> Array:
    """Whether a block of queries [blocks, 1] and one of keys [1, blocks] may share a segment: if not, none is computed.

    Ranges of ids are compared, which tells neighbors apart in a packed row. Padding belongs to no range: it need only
    see itself, so that no sum of weights is 0.
    """
    blocks = segments.reshape(-1, block)
    low = jnp.where(blocks > 0, blocks, jnp.iinfo(jnp.int32).max).min(axis=1)
    high = blocks.max(axis=1)
    return (low[:, None] <= high) & (low <= high[:, None]) | jnp.eye(len(blocks), dtype=bool)


def _pad(x: Array, axis: int, length: int) -> Array:
    """Pads arrays to a length, segments with an id that no token has."""
    fill = -1 if jnp.issubdtype(x.dtype, jnp.integer) else 0
    padding = [(0, length - x.shape[axis] if i == axis else 0) for i in range(x.ndim)]
    return jnp.pad(x, padding, constant_values=fill)

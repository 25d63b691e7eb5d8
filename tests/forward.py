"""The network's plain forward, compiled: what decoding with a cache, packing and accumulation are held against."""

from __future__ import annotations

import functools
from typing import Any, Protocol

import jax
import numpy as np
from flax import nnx

from pixel_reasoner_jax.buckets import vision_row
from pixel_reasoner_jax.models import Qwen2_5_VL
from pixel_reasoner_jax.processing import Processor


class Sequence(Protocol):
    """A trajectory, or what is trained of one."""

    tokens: np.ndarray
    media: Any


def forward(model: Qwen2_5_VL, batch: dict[str, Any]) -> np.ndarray:
    """The logits, float32 [rows, tokens, vocab]; models of the same graph share what is compiled."""
    return np.array(_forward(*nnx.split(model), batch))


def full_logits(model: Qwen2_5_VL, processor: Processor, sequence: Sequence) -> np.ndarray:
    """float32 [tokens, vocab] of one sequence alone.

    It is padded to a multiple of 256 tokens and to 4, 8, 16, ... rows of patches, so that few programs are compiled.
    """
    tokens, media = sequence.tokens, sequence.media
    length = -(-len(tokens) // 256) * 256
    patches = max(vision_row(media, processor.geometry), 2 * processor.geometry.window_patches)
    rows = max(4, 1 << (len(media) - 1).bit_length())
    return forward(model, processor.batch([(tokens, media)], length, patches, rows))[0, : len(tokens)]


@functools.partial(jax.jit, static_argnums=0)
def _forward(graph: Any, params: Any, batch: dict[str, Any]) -> jax.Array:
    return nnx.merge(graph, params)(batch)

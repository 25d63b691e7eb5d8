"""Trajectories of different lengths to batches of one shape.

Whole sequences are laid side by side in rows; segment ids keep them from attending to one another. Samples of one
query stay neighbours, so that the image they share is encoded once in a batch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence as Seq
from typing import Any

import jax
import numpy as np

from pixel_reasoner_jax.buckets import bucket, bucketed_vision
from pixel_reasoner_jax.processing import Geometry, Media, Processor
from pixel_reasoner_jax.trajectory import Trajectory

Batch = dict[str, Any]
"""What the model takes, and what its loss asks for; see `pack`."""

SHAPES = 4  # what a batch holds at most is divided in so many steps: of trained tokens a row, of rows of patches


@dataclasses.dataclass(frozen=True)
class Sequence:
    """A trajectory as the update sees it; arrays are [tokens] long.

    `advantage`, `logprobs` (of the distribution sampled from) and `temperatures` matter to GRPO alone.
    """

    tokens: np.ndarray
    train: np.ndarray
    media: list[Media]
    advantage: float = 0.0
    logprobs: np.ndarray | None = None
    temperatures: np.ndarray | None = None
    query_id: str = ""

    @classmethod
    def of(cls, trajectory: Trajectory, advantage: float = 0.0) -> Sequence:
        return cls(
            trajectory.tokens,
            trajectory.train,
            trajectory.media,
            advantage,
            trajectory.logprobs,
            trajectory.temperatures,
            trajectory.query_id,
        )


def pack(sequences: Seq[Sequence], processor: Processor, *, rows: int, row_length: int) -> list[Batch]:
    """Packs sequences, in order, into batches of `rows` rows of `row_length` tokens.

    Returns:
      Batches as the model takes them (tokens, positions, segment_ids, vision_index, vision), and for the loss
        targets       int32 [rows, K]    index in its row of every trained token, always > 0
        target_mask   float32 [rows, K]  1 for a real target, 0 for padding
        advantages, logprobs, temperatures  float32 [rows, K]
      where K is a bucket. Only these positions meet the vocabulary.

    Raises:
      ValueError: a sequence longer than a row.
    """
    batches: list[list[list[Sequence]]] = []
    lengths: list[int] = []  # of the rows of the last batch
    for sequence in sequences:
        length = len(sequence.tokens)
        if length > row_length:
            raise ValueError(
                f"a sequence of {length} tokens, of query {sequence.query_id!r}, is longer than a row of {row_length}:"
                " raise train.row_length"
            )
        row = next((i for i, used in enumerate(lengths) if used + length <= row_length), None)
        if row is None and batches and len(lengths) < rows:
            row = len(lengths)
            batches[-1].append([])
            lengths.append(0)
        elif row is None:
            batches.append([[]])
            lengths, row = [0], 0
        batches[-1][row].append(sequence)
        lengths[row] += length
    return [_batch(batch, processor, rows, row_length) for batch in batches]


def largest_batch(geometry: Geometry, row_patches: int, *, rows: int, row_length: int) -> Batch:
    """Shapes and types of the largest batch that `pack` makes: full of images, and all of its tokens trained.

    Args:
      geometry: of the vision tower.
      row_patches: patches of a row of images, as the largest of them needs.
      rows, row_length: see `pack`.

    Returns:
      The batch, with `jax.ShapeDtypeStruct` for arrays.
    """
    images = -(-rows * row_length * geometry.merge_size**2 // (row_patches * SHAPES)) * SHAPES

    def shaped(*shape: int, dtype=np.int32) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype)

    tokens = bucket(row_length, -(-row_length // SHAPES))
    names = ("target_mask", "advantages", "logprobs", "temperatures")
    return {
        "tokens": shaped(rows, row_length),
        "positions": shaped(3, rows, row_length),
        "segment_ids": shaped(rows, row_length),
        "vision_index": shaped(rows, row_length),
        "vision": {
            "patches": shaped(images, row_patches, geometry.patch_values, dtype=np.float32),
            "patch_positions": shaped(images, row_patches, 2),
            "patch_segments": shaped(images, row_patches),
        },
        "targets": shaped(rows, tokens),
        **{name: shaped(rows, tokens, dtype=np.float32) for name in names},
    }


def _batch(packed: list[list[Sequence]], processor: Processor, rows: int, row_length: int) -> Batch:
    tokens = np.zeros((rows, row_length), np.int32)
    positions = np.zeros((3, rows, row_length), np.int32)
    segments = np.zeros((rows, row_length), np.int32)
    index = np.full((rows, row_length), -1, np.int32)
    trained = max(sum(int(s.train[1:].sum()) for s in row) for row in packed)
    shape = (rows, bucket(trained, -(-row_length // SHAPES)))
    targets, mask = np.ones(shape, np.int32), np.zeros(shape, np.float32)
    advantages, logprobs, temperatures = (
        np.zeros(shape, np.float32),
        np.zeros(shape, np.float32),
        np.ones(shape, np.float32),
    )

    media = {id(item): item for row in packed for sequence in row for item in sequence.media}
    vision, places = bucketed_vision(list(media.values()), processor.geometry, rows * row_length, SHAPES)
    place_of = dict(zip(media, places, strict=True))
    for row, sequences in enumerate(packed):
        start = filled = 0
        for segment, sequence in enumerate(sequences, start=1):
            end = start + len(sequence.tokens)
            tokens[row, start:end] = sequence.tokens
            positions[:, row, start:end], _ = processor.positions(sequence.tokens, sequence.media)
            segments[row, start:end] = segment
            if sequence.media:
                placeholder = np.isin(sequence.tokens, processor.placeholder_tokens)
                index[row, start:end][placeholder] = np.concatenate([place_of[id(item)] for item in sequence.media])
            # The first token of a sequence follows nothing that could predict it.
            where = np.flatnonzero(sequence.train[1:]) + 1
            span = slice(filled, filled + len(where))
            targets[row, span], mask[row, span] = start + where, 1.0
            advantages[row, span] = sequence.advantage
            if sequence.logprobs is not None:
                logprobs[row, span] = sequence.logprobs[where]
                temperatures[row, span] = sequence.temperatures[where]
            start, filled = end, filled + len(where)
    return {
        "tokens": tokens,
        "positions": positions,
        "segment_ids": segments,
        "vision_index": index,
        "vision": vision,
        "targets": targets,
        "target_mask": mask,
        "advantages": advantages,
        "logprobs": logprobs,
        "temperatures": temperatures,
    }

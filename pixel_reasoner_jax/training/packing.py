"""Trajectories of different lengths to batches of one shape.

Whole sequences are laid side by side in rows (see `rows`); segment ids keep them from attending to one another. An
image that samples of one query share is encoded once in a batch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence as Seq
from typing import Any, NamedTuple

import jax
import numpy as np

from pixel_reasoner_jax.buckets import bucket, vision_row, vision_rows
from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.processing import Geometry, Media, Processor, vision_layout
from pixel_reasoner_jax.training.rows import arrange
from pixel_reasoner_jax.trajectory import Trajectory

Batch = dict[str, Any]
"""What the model takes, and what its loss asks for; see `pack`."""

SHAPES = 4  # a batch's trained tokens a row, and its rows of patches, are at least 1/SHAPES of what it can hold


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


class Shape(NamedTuple):
    """What of a batch's shape depends on its sequences: tokens of a row, targets of a row, patches of a row of patches,
    and the number of these rows; all of them declared sizes."""

    row_length: int
    targets: int
    patches: int
    images: int


@dataclasses.dataclass(frozen=True)
class Planned:
    """The rows of a batch, and the smallest shape that holds them."""

    rows: list[list[Sequence]]
    shape: Shape


def pack(sequences: Seq[Sequence], processor: Processor, *, rows: int, row_length: int) -> list[Batch]:
    """Packs the sequences of an update into batches; see `plan` and `build`."""
    planned = plan(sequences, processor, rows=rows, row_length=row_length)
    return [build(batch.rows, processor, rows, batch.shape) for batch in planned]


def plan(sequences: Seq[Sequence], processor: Processor, *, rows: int, row_length: int) -> list[Planned]:
    """Lays the sequences of an update, in an order of its own, in batches of `rows` rows of `row_length` tokens.

    The rows of the last batch may be shorter.

    Raises:
      ValueError: a sequence longer than a row.
    """
    lengths = [len(sequence.tokens) for sequence in sequences]
    for sequence, length in zip(sequences, lengths, strict=True):
        if length > row_length:
            raise UserError(
                f"a sequence of {length} tokens, of query {sequence.query_id!r}, is longer than a row of {row_length}:"
                " raise train.row_length"
            )
    planned = []
    for batch in arrange(lengths, [sequence.query_id for sequence in sequences], rows, row_length):
        packed = [[sequences[index] for index in row] for row in batch.rows]
        patches = vision_row(_media(packed), processor.geometry)
        planned.append(Planned(packed, fit(packed, processor, rows, batch.row_length, patches)))
    return planned


def largest_batch(geometry: Geometry, row_patches: int, *, rows: int, row_length: int) -> Batch:
    """Shapes and types of the largest batch that `build` makes: full of images, and all of its tokens trained.

    Args:
      geometry: of the vision tower.
      row_patches: patches of a row of images, as the largest of them needs.
      rows, row_length: see `plan`.

    Returns:
      The batch, with `jax.ShapeDtypeStruct` for arrays.
    """
    images = -(-rows * row_length * geometry.merge_size**2 // row_patches)

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


def fit(packed: Seq[Seq[Sequence]], processor: Processor, rows: int, row_length: int, patches: int) -> Shape:
    """The smallest shape for a batch of `rows` rows whose rows of tokens and of patches have these lengths."""
    trained = max((sum(int(s.train[1:].sum()) for s in row) for row in packed), default=0)
    images = vision_rows(_media(packed), processor.geometry, patches, rows * row_length, SHAPES)
    return Shape(row_length, bucket(trained, -(-row_length // SHAPES)), patches, images)


def build(packed: Seq[Seq[Sequence]], processor: Processor, rows: int, shape: Shape) -> Batch:
    """Makes a batch of its sequences' rows.

    Args:
      packed: at most `rows` rows; the others are padding.
      processor: places its sequences' media and text.
      rows: of the batch.
      shape: that of its plan, or a larger one.

    Returns:
      A batch as the model takes it (tokens, positions, segment_ids, vision_index, vision), and for the loss
        targets       int32 [rows, K]    index in its row of every trained token, always > 0
        target_mask   float32 [rows, K]  1 for a real target, 0 for padding
        advantages, logprobs, temperatures  float32 [rows, K]
      where K is `shape.targets`. Only these positions meet the vocabulary.
    """
    row_length = shape.row_length
    tokens = np.zeros((rows, row_length), np.int32)
    positions = np.zeros((3, rows, row_length), np.int32)
    segments = np.zeros((rows, row_length), np.int32)
    index = np.full((rows, row_length), -1, np.int32)
    loss = (rows, shape.targets)
    targets, mask = np.ones(loss, np.int32), np.zeros(loss, np.float32)
    advantages, logprobs, temperatures = (
        np.zeros(loss, np.float32),
        np.zeros(loss, np.float32),
        np.ones(loss, np.float32),
    )

    media, vision, places = _media(packed), None, []
    if shape.images:
        vision, places = vision_layout(media, processor.geometry, shape.patches, shape.images)
    place_of = dict(zip(map(id, media), places, strict=True))
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


def _media(packed: Seq[Seq[Sequence]]) -> list[Media]:
    """Those of a batch, each once."""
    return list({id(item): item for row in packed for sequence in row for item in sequence.media}.values())

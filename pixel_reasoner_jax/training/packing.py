"""Packs trajectories of different lengths into batches of a few declared shapes.

Each row of a batch holds several complete sequences side by side (see `rows`); segment ids keep them from attending to
one another. An image that samples of one query share is encoded once in a batch.
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
from pixel_reasoner_jax.processing.layout import vision_forms
from pixel_reasoner_jax.training.rows import arrange
from pixel_reasoner_jax.trajectory import Source, Trajectory

Batch = dict[str, Any]
"""The arrays that the model and its loss take; see `build`."""

SHAPES = 4  # declared targets of a row, and rows of patches, are at least 1/SHAPES of the most that a batch can have


@dataclasses.dataclass(frozen=True)
class Sequence:
    """A trajectory as the update takes it; arrays are [tokens] long.

    GRPO alone uses `advantage` (of all tokens, or of each), `logprobs` (under the distribution sampled from),
    `temperatures`, `correct`, how right the answer is, from 0 to 1, `given`, which trained tokens were not sampled
    (None: none), and `subgroup`, the label of its sub-group.
    """

    tokens: np.ndarray
    train: np.ndarray
    media: list[Media]
    advantage: float | np.ndarray = 0.0
    logprobs: np.ndarray | None = None
    temperatures: np.ndarray | None = None
    query_id: str = ""
    correct: float = 0.0
    given: np.ndarray | None = None
    subgroup: str = "all"

    @classmethod
    def of(
        cls,
        trajectory: Trajectory,
        advantage: float | np.ndarray = 0.0,
        correct: float = 0.0,
        subgroup: str = "all",
    ) -> Sequence:
        given = trajectory.train & (trajectory.source == Source.GIVEN)
        return cls(
            trajectory.tokens,
            trajectory.train,
            trajectory.media,
            advantage,
            trajectory.logprobs,
            trajectory.temperatures,
            trajectory.query_id,
            correct,
            given if given.any() else None,
            subgroup,
        )

    @property
    def targets(self) -> int:
        """How many tokens are trained: not the first one, which no token before it predicts."""
        return int(self.train[1:].sum())


class Shape(NamedTuple):
    """The sizes of a batch that depend on its sequences, all of them declared sizes.

    Attributes:
      row_length: tokens in a row.
      targets: trained tokens in a row.
      patches: patches in a row of the vision tower's input.
      images: rows of the vision tower's input.
    """

    row_length: int
    targets: int
    patches: int
    images: int


@dataclasses.dataclass(frozen=True)
class PlannedBatch:
    """The sequences in each row of a batch, and the smallest shape that holds them."""

    rows: list[list[Sequence]]
    shape: Shape


def pack(sequences: Seq[Sequence], processor: Processor, *, rows: int, row_length: int) -> list[Batch]:
    """Packs the sequences of an update into batches; see `plan` and `build`."""
    planned = plan(sequences, processor, rows=rows, row_length=row_length)
    return [build(batch.rows, processor, rows, batch.shape) for batch in planned]


def plan(sequences: Seq[Sequence], processor: Processor, *, rows: int, row_length: int) -> list[PlannedBatch]:
    """Assigns the sequences of an update to batches of `rows` rows of `row_length` tokens; see `rows.arrange`.

    The rows of the last batch may be shorter.

    Raises:
      UserError: a sequence is longer than a row.
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
        shape = smallest_shape(packed, processor, rows, batch.row_length, patches)
        planned.append(PlannedBatch(packed, shape))
    return planned


def largest_batch(geometry: Geometry, row_patches: int, *, rows: int, row_length: int, details: Seq[str] = ()) -> Batch:
    """Shapes and types of the largest batch that `build` makes: full of images, and all of its tokens trained.

    Args:
      geometry: sizes of the vision tower.
      row_patches: patches in a row of the vision tower's input, as many as the largest image needs.
      rows, row_length: see `plan`.
      details: names of arrays for the loss that a batch gets beside those of `build`.

    Returns:
      The batch, with `jax.ShapeDtypeStruct` for arrays.
    """
    images = -(-rows * row_length * geometry.merge_size**2 // row_patches)

    def shaped(*shape: int, dtype=np.int32) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype)

    tokens = bucket(row_length, -(-row_length // SHAPES))
    names = ("target_mask", "advantages", "logprobs", "temperatures", *details)
    return {
        "tokens": shaped(rows, row_length),
        "positions": shaped(3, rows, row_length),
        "segment_ids": shaped(rows, row_length),
        "vision_index": shaped(rows, row_length),
        "vision": {
            name: jax.ShapeDtypeStruct(*form) for name, form in vision_forms(images, row_patches, geometry).items()
        },
        "targets": shaped(rows, tokens),
        **{name: shaped(rows, tokens, dtype=np.float32) for name in names},
    }


def smallest_shape(packed: Seq[Seq[Sequence]], processor: Processor, rows: int, row_length: int, patches: int) -> Shape:
    """The smallest declared shape that holds a batch, for given lengths of its rows.

    Args:
      packed: the sequences of each row.
      rows: rows of the batch.
      row_length: tokens in a row.
      patches: patches in a row of the vision tower's input.
    """
    trained = max((sum(sequence.targets for sequence in row) for row in packed), default=0)
    images = vision_rows(_media(packed), processor.geometry, patches, rows * row_length, SHAPES)
    return Shape(row_length, bucket(trained, -(-row_length // SHAPES)), patches, images)


def build(packed: Seq[Seq[Sequence]], processor: Processor, rows: int, shape: Shape) -> Batch:
    """Makes the arrays of a batch.

    Args:
      packed: the sequences of each row, at most `rows` of them; the other rows are padding.
      processor: computes M-RoPE positions and the vision tower's input.
      rows: rows of the batch.
      shape: the shape of its plan, or a larger one.

    Returns:
      The arrays that the model takes (tokens, positions, segment_ids, vision_index, vision; see `Processor.batch`), and
      for the loss
        targets       int32 [rows, K]    index in its row of every trained token, always > 0
        target_mask   float32 [rows, K]  1 for a real target, 0 for padding
        advantages, logprobs, temperatures  float32 [rows, K]
      where K is `shape.targets`. Logits are computed for these tokens alone.
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

    media, vision, merged_tokens = _media(packed), None, []
    if shape.images:
        vision, merged_tokens = vision_layout(media, processor.geometry, shape.patches, shape.images)
    merged_tokens_of = dict(zip(map(id, media), merged_tokens, strict=True))
    for row, sequences in enumerate(packed):
        start = filled = 0
        for segment, sequence in enumerate(sequences, start=1):
            end = start + len(sequence.tokens)
            tokens[row, start:end] = sequence.tokens
            positions[:, row, start:end], _ = processor.positions(sequence.tokens, sequence.media)
            segments[row, start:end] = segment
            if sequence.media:
                is_placeholder = np.isin(sequence.tokens, processor.placeholder_tokens)
                merged = np.concatenate([merged_tokens_of[id(item)] for item in sequence.media])
                index[row, start:end][is_placeholder] = merged
            # The first token of a sequence is no target: no token before it predicts it.
            where = np.flatnonzero(sequence.train[1:]) + 1
            span = slice(filled, filled + len(where))
            targets[row, span], mask[row, span] = start + where, 1.0
            advantages[row, span] = np.broadcast_to(sequence.advantage, sequence.tokens.shape)[where]
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


def unpack(planned: Seq[PlannedBatch], values: Seq[np.ndarray]) -> list[tuple[Sequence, np.ndarray]]:
    """Takes apart what was computed for the trained tokens of batches: the inverse of `build`.

    Args:
      planned: the batches of a shard.
      values: for each batch [rows, K], for example the log-probabilities of `Trainer.score`.

    Returns:
      Every sequence with the values of its trained tokens, [trained tokens]; not of the first token, which nothing
      predicts. The order is that of the rows.
    """
    taken_apart = []
    for batch, of_batch in zip(planned, values, strict=True):
        for sequences, row in zip(batch.rows, of_batch, strict=False):  # rows without sequences are padding
            ends = np.cumsum([sequence.targets for sequence in sequences])
            taken_apart += zip(sequences, np.split(row[: ends[-1]], ends[:-1]), strict=True)
    return taken_apart


def _media(packed: Seq[Seq[Sequence]]) -> list[Media]:
    """The images and videos of a batch, each once."""
    return list({id(item): item for row in packed for sequence in row for item in sequence.media}.values())

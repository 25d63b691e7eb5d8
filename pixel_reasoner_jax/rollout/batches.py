"""The arguments of the engine's calls, as numpy arrays, for what a scheduler wants in its slots."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from pixel_reasoner_jax.processing import Geometry, Media, vision_layout
from pixel_reasoner_jax.rollout.engine_arrays import ExtendBatch, ForkBatch
from pixel_reasoner_jax.rollout.episode import Episode
from pixel_reasoner_jax.rollout.sampling import sample_seeds
from pixel_reasoner_jax.rollout.shapes import Shapes


@dataclasses.dataclass
class Extension:
    """Tokens to append to a slot, which holds `start` tokens already.

    Attributes:
      slot: its number; see `ModelRunner`.
      episode: the episode that the slot is sampled for.
      tokens: int32 [tokens].
      media: the images and videos whose placeholders are in `tokens`, in order; see `PendingImages`.
      positions: int32 [3, tokens], the M-RoPE positions of the tokens.
      following: the position of the token after them.
      pages: int32 [pages of the longest slot], those of the slot's tokens in order, with room for these.
      prompt: whether the tokens complete a prompt, which can be forked from then on.
    """

    slot: int
    start: int
    episode: Episode
    tokens: np.ndarray
    media: Sequence[Media]
    positions: np.ndarray
    following: int
    pages: np.ndarray
    prompt: bool


@dataclasses.dataclass
class Fork:
    """A response to begin.

    Attributes:
      source: the slot that holds its prompt.
      slot: its own.
      episode: the response.
      seed, name: what its random keys are made of, with the index of its sample; see `RolloutSettings`.
      page, copy: the prompt's last page, and the page that it is copied to; None for no copy.
    """

    source: int
    slot: int
    episode: Episode
    seed: int
    name: str
    page: int | None
    copy: int | None


def fork_batch(forks: Sequence[Fork], size: int, shapes: Shapes, vocab: int | None) -> ForkBatch:
    """The arguments of a `fork` of `size` responses: `forks`, and padding.

    Args:
      vocab: of `Slots.seen`; None where there is none.
    """
    batch = ForkBatch.blank(size, shapes.slots, shapes.pages, vocab)
    prompts, samples = [fork.episode.prompt for fork in forks], [fork.episode.sample for fork in forks]
    seeds, names = [fork.seed for fork in forks], [fork.name for fork in forks]
    batch.seeds[: len(forks)] = sample_seeds(seeds, names, samples)
    for row, (fork, prompt) in enumerate(zip(forks, prompts, strict=True)):
        batch.source[row], batch.target[row] = fork.source % shapes.slots, fork.slot % shapes.slots
        batch.lengths[row], batch.position[row] = len(prompt.rendered.tokens), prompt.next_position
        if fork.copy is not None:
            batch.page[row], batch.copy[row] = fork.page, fork.copy
        if batch.seen is not None:
            batch.seen[row, prompt.rendered.tokens] = True
    return batch


def extend_batch(
    extensions: Sequence[tuple[Extension, np.ndarray]], start: int, width: int, shapes: Shapes, vocab: int | None
) -> ExtendBatch:
    """The arguments of an `extend`: tokens `start` to `start + width` of each extension, and padding.

    Args:
      extensions: as many as the call has rows, or fewer, each with the row of the table of embeddings that replaces
        each token's, int32 [tokens], -1 for text.
      vocab: of `Slots.seen`; None where there is none.
    """
    rows = shapes.rows(width)
    batch = ExtendBatch.blank(rows, width, shapes.slots, shapes.slot_pages)
    seen = None if vocab is None else np.zeros((rows, vocab), bool)
    for row, (extension, vision_index) in enumerate(extensions):
        tokens = extension.tokens[start : start + width]
        count, end = len(tokens), start + len(tokens)
        batch.slots[row], batch.starts[row] = extension.slot % shapes.slots, extension.start + start
        batch.counts[row], batch.tokens[row, :count] = count, tokens
        batch.positions[row, :, :count] = extension.positions[:, start:end]
        batch.vision_index[row, :count] = vision_index[start:end]
        batch.position[row], batch.token_index[row] = extension.following, extension.episode.sampled
        batch.ends_prompt[row] = extension.prompt and end == len(extension.tokens)
        batch.table[row] = extension.pages
        if seen is not None:
            seen[row, extension.episode.tokens()] = True
    return batch._replace(seen=seen)


def encode_batch(
    images: Sequence[tuple[Media, np.ndarray]], length: int, shapes: Shapes, geometry: Geometry, table: int
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The arguments of an `encode`.

    Args:
      images: each with the rows reserved for it in the table of embeddings, int32 [its tokens].
      length: patches in a row of the call; each image takes one row.
      table: rows of the table.

    Returns:
      The vision tower's input (see `vision_layout`), and for every merged token the row of the table that its
      embedding goes to, int32 [merged tokens]; a number past the table's end for padding.
    """
    rows = shapes.images(length)
    table_rows = np.full(rows * length // geometry.merge_size**2, table, np.int32)
    vision, merged_tokens = vision_layout([media for media, _ in images], geometry, length, rows)
    for tokens, (_, reserved) in zip(merged_tokens, images, strict=True):
        table_rows[tokens] = reserved
    return vision, table_rows

"""The arrays of the engine: the state of the slots on the devices, what its calls are given, and what they return."""

from __future__ import annotations

import dataclasses
import functools
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt32

from pixel_reasoner_jax.models.cache import Cache


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["cache", "length", "hidden", "prompt_hidden", "position", "keys", "token_index", "seen"],
    meta_fields=[],
)
@dataclasses.dataclass(frozen=True)
class Slots:
    """The state of every response on the devices; [slots] counts the slots of all parts.

    Attributes:
      cache: the model's KV cache.
      length: int32 [slots], tokens that each slot holds.
      hidden: [slots, width], final hidden state of each slot's last token: the next token is drawn from it.
      prompt_hidden: [slots, width], final hidden state of the last token of the slot's prompt; a fork begins with it.
      position: int32 [slots], M-RoPE position of the next text token.
      keys: uint32 [slots, 2], the data of every slot's random key; see `sampling.sample_keys`.
      token_index: int32 [slots], tokens sampled so far.
      seen: bool [slots, vocab], tokens of the conversation, for a repetition penalty; None where there is none.
    """

    cache: Cache
    length: Int[Array, " slots"]
    hidden: Float[Array, "slots width"]
    prompt_hidden: Float[Array, "slots width"]
    position: Int[Array, " slots"]
    keys: UInt32[Array, "slots 2"]
    token_index: Int[Array, " slots"]
    seen: Bool[Array, "slots vocab"] | None


class ExtendBatch(NamedTuple):
    """Numpy arrays of tokens to append to slots, one row for each of these slots; the other rows are padding.

    Attributes:
      slots: int32 [rows], the slot that each row is for; a number past the last slot for padding.
      starts: int32 [rows], tokens that the slot holds already and keeps.
      counts: int32 [rows], tokens to append.
      tokens: int32 [rows, width].
      positions: int32 [rows, 3, width].
      vision_index: int32 [rows, width], the row of the table that replaces the token's embedding; -1 for text.
      position: int32 [rows], the M-RoPE position of the text token that follows.
      token_index: int32 [rows], tokens sampled so far.
      ends_prompt: bool [rows], whether these tokens are the last of the slot's prompt.
      table: int32 [rows, most], the pages of the slot's tokens, in order, those of the new tokens included.
      seen: bool [rows, vocab], every token of the slot so far, or None; see `Slots`.
    """

    slots: np.ndarray
    starts: np.ndarray
    counts: np.ndarray
    tokens: np.ndarray
    positions: np.ndarray
    vision_index: np.ndarray
    position: np.ndarray
    token_index: np.ndarray
    ends_prompt: np.ndarray
    table: np.ndarray
    seen: np.ndarray | None = None

    @classmethod
    def blank(cls, rows: int, width: int, slots: int, slot_pages: int) -> ExtendBatch:
        """A batch of padding, which the caller fills in.

        Args:
          slots: how many slots a part of the mesh has.
          slot_pages: pages of the longest slot.
        """
        zeros = [np.zeros(rows, np.int32) for _ in range(4)]
        return cls(
            np.full(rows, slots, np.int32),
            zeros[0],
            zeros[1],
            np.zeros((rows, width), np.int32),
            np.zeros((rows, 3, width), np.int32),
            np.full((rows, width), -1, np.int32),
            zeros[2],
            zeros[3],
            np.zeros(rows, bool),
            np.zeros((rows, slot_pages), np.int32),
        )


class ForkBatch(NamedTuple):
    """Numpy arrays of responses to begin: slot `target` gets the prompt that slot `source` holds.

    Attributes:
      source, target: int32 [forks]; both may be the same slot. A target past the last slot is padding.
      page, copy: int32 [forks], the prompt's last page, if it is not full, and where it is copied to; a `copy` past the
        last page is none. The full pages are shared.
      lengths: int32 [forks], tokens of the prompt.
      position: int32 [forks], the M-RoPE position after the prompt.
      seeds: uint32 [forks, 3], seeds of the new responses' random keys; see `sampling.sample_seeds`.
      seen: bool [forks, vocab], the tokens of the prompt, or None; see `Slots`.
    """

    source: np.ndarray
    target: np.ndarray
    page: np.ndarray
    copy: np.ndarray
    lengths: np.ndarray
    position: np.ndarray
    seeds: np.ndarray
    seen: np.ndarray | None

    @classmethod
    def blank(cls, count: int, slots: int, pages: int, vocab: int | None) -> ForkBatch:
        """A batch of padding, for parts of so many slots and pages; `vocab`: of `seen`, None for no `seen`."""
        source, page, lengths, position = (np.zeros(count, np.int32) for _ in range(4))
        target, copy = np.full(count, slots, np.int32), np.full(count, pages, np.int32)
        seen = None if vocab is None else np.zeros((count, vocab), bool)
        return cls(source, target, page, copy, lengths, position, np.zeros((count, 3), np.uint32), seen)


class Decoded(NamedTuple):
    """What `decode` sampled: slot i has counts[i] tokens, the last of them a stop token if stopped[i].

    `logprobs` are log-probabilities under the distribution sampled from, `policy_logprobs` under the model's own
    distribution: not tempered, filtered or penalized.
    """

    tokens: Int[Array, "slots steps"]
    logprobs: Float[Array, "slots steps"]
    policy_logprobs: Float[Array, "slots steps"]
    counts: Int[Array, " slots"]
    stopped: Bool[Array, " slots"]

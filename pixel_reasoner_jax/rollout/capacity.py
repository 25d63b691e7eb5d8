"""How many responses the memory of a device holds: pages of the KV cache, and slots that they are decoded in.

A response's keys and values lie in pages of `PAGE` tokens, which it takes as it grows. A slot is a row of the decoding
step; it holds the rest of a response's state, and costs little beside the pages of most responses. So as many slots are
made as responses of a usual length have pages, and all other memory is pages.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from pixel_reasoner_jax.buckets import bucket
from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.models import Config, cache

PAGE = cache.PAGE["tpu"]  # tokens of a page
# Responses in flight are taken to hold this share of the longest one's tokens on average, where a prompt counts once
# for its group: 512 of 16,384. In the simulated episode of the method's lengths it is about that (docs/scaling.md).
# With too many slots some responses wait for pages; with too few, pages are free.
USUAL_SHARE = 1 / 32
# Float32 arrays [slots, vocabulary] that a decoding step has at a time: as compiled for TPUs, with 7B's vocabulary.
LOGITS = 16


class CapacityError(UserError):
    """A pool of pages that has no room for one response; the message says how much is missing."""


@dataclasses.dataclass(frozen=True)
class Capacity:
    """What a part of the mesh holds.

    Attributes:
      slots: responses in flight, of the declared sizes (`buckets.bucket`).
      pages: of the pool, which all of them share.
    """

    slots: int
    pages: int

    @property
    def cache_tokens(self) -> int:
        """For how many tokens `Shapes.holding` makes these pages: it adds one."""
        return (self.pages - 1) * PAGE


def pages_of(tokens: int | np.ndarray) -> int | np.ndarray:
    """Pages that so many tokens of one response take."""
    return -(-tokens // PAGE)


def page_bytes(model: Config, dtype: str, tensor: int = 1) -> int:
    """Bytes of a page's keys and values in all layers, on each of the `tensor` devices that share the heads."""
    heads = 2 * model.num_hidden_layers * model.num_key_value_heads // tensor
    return heads * PAGE * model.head_dim * np.dtype(dtype).itemsize


def slot_bytes(model: Config, tensor: int = 1) -> int:
    """Bytes that a slot takes while a decoding step draws its token: its logits, mostly."""
    return LOGITS * 4 * (-(-model.vocab_size // tensor) + model.hidden_size)


def fit(room: int, page: int, slot: int, length: int, most: int, slots: int = 0) -> Capacity:
    """Divides the memory of a device into slots and pages, those of its part of the mesh.

    Args:
      room: bytes of a device that are left for both.
      page, slot: bytes of one, see `page_bytes` and `slot_bytes`.
      length: tokens of the longest response, prompt included.
      most: responses that can be in flight at a time: more slots would be of no use.
      slots: how many slots there shall be at least; 0: as many as memory allows.

    Returns:
      Slots, and as many pages as there is room for, or as the slots can fill.

    Raises:
      CapacityError: the pool would not hold two responses of `length` tokens: one goes on while another's prompt stays.
    """
    # The last page of a prompt is there twice, until all samples of its group have begun.
    longest, least = pages_of(length) + 1, 2 * pages_of(length) + 1
    if slots:
        slots = bucket(slots)
    else:
        usual = pages_of(max(int(length * USUAL_SHARE), 1))
        beside = (room - least * page) // slot  # that leave the pages of two responses
        slots = min(_largest_bucket(max(min(room // (slot + usual * page), beside), 1)), bucket(most))
    pages = min(max(room - slots * slot, 0) // page, max(slots * longest, least))
    if pages < least:
        raise CapacityError(
            f"beside all else a device has room for {pages} pages of {PAGE} tokens, and two responses of {length:,}"
            f" tokens need {least}: lower rollout.max_length or rollout.slots, or take more devices or memory"
        )
    return Capacity(slots, pages)


def _largest_bucket(limit: int) -> int:
    """The largest declared number of slots that is at most `limit`."""
    power = 1 << (limit.bit_length() - 1)
    return power * 3 // 2 if power > 1 and power * 3 // 2 <= limit else power

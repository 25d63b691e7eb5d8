"""What rollouts count of themselves."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass
class Counters:
    """Sums over the rollouts of a policy, of what this process did.

    Attributes:
      sampled: tokens drawn and kept.
      prefilled: tokens of prompts and observations that the model has processed.
      prefill_padding: padding tokens that were processed with them.
      decode_steps: steps of the decoding loop, each of which draws one token for every active slot.
      decode_calls: calls of `Engine.decode`.
      extend_calls: batches of tokens appended by `Engine.extend`.
      encoded: images encoded.
      encode_hits: images that were in the embedding table already.
      encode_padding: padding patches that were processed with encoded images.
      waits: how often a response had to wait for pages of the cache, its own being brought to the host.
      seconds: seconds that the scheduler's loop took.
      device_seconds: those of them spent in engine calls, waiting for the device included.
      idle_seconds: those of them spent waiting for worker threads, with nothing to decode.
    """

    sampled: int = 0
    prefilled: int = 0
    prefill_padding: int = 0
    decode_steps: int = 0
    decode_calls: int = 0
    extend_calls: int = 0
    encoded: int = 0
    encode_hits: int = 0
    encode_padding: int = 0
    waits: int = 0
    seconds: float = 0.0
    device_seconds: float = 0.0
    idle_seconds: float = 0.0

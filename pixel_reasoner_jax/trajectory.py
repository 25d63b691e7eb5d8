"""The one record of an episode: what was said, the exact tokens, and what may be trained.

Instruction tuning, reinforcement learning, evaluation, reports and storage all pass this type around.
It is append-only: a token that was sampled is a token that is trained; nothing is decoded and encoded again.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping
from typing import Any

import numpy as np


class Source(enum.IntEnum):
    """Who wrote a token."""

    PROMPT = 0
    SAMPLED = 1
    OBSERVATION = 2


class Ended(enum.StrEnum):
    """Why an episode ended."""

    ANSWER = "answer"  # a turn ended without asking for an operation
    OPERATIONS = "max_operations"  # the limit on executed operations was met
    TOKENS = "max_tokens"  # the limit on response tokens was met
    IMAGES = "max_images"  # an observation would have exceeded the limit on images
    LENGTH = "max_length"  # the cache has no room for what comes next


@dataclasses.dataclass(frozen=True)
class OperationRecord:
    """One call the model made and what came of it.

    Attributes:
      turn: index of the assistant turn that made the call, from 0.
      name: the operation's name; None when the call could not be read.
      arguments: its arguments as parsed; None when the call could not be read.
      error: None when the operation succeeded, else the message shown to the model.
      boxes: for crops, the clamped pixel box (left, top, right, bottom) that was cut from the raw target image.
      sizes: (width, height) after resizing of every image that came back.
      sources: for each of these, the picture it is or is a crop of: its index among the query's images, or its video's
        frames, and then all that operations returned; empty where none can be told.
    """

    turn: int
    name: str | None
    arguments: dict[str, Any] | None
    error: str | None = None
    boxes: tuple[tuple[int, int, int, int], ...] = ()
    sizes: tuple[tuple[int, int], ...] = ()
    sources: tuple[int, ...] = ()

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> OperationRecord:
        """What `dataclasses.asdict` gave, after a way through JSON."""
        boxes, sizes = (tuple(tuple(row) for row in fields[name]) for name in ("boxes", "sizes"))
        return cls(**{**fields, "boxes": boxes, "sizes": sizes, "sources": tuple(fields["sources"])})

    @property
    def succeeded(self) -> bool:
        return self.error is None


@dataclasses.dataclass
class Trajectory:
    """A conversation with its tokens.

    Attributes:
      query_id: the query it answers; the samples of one query form a group.
      sample: index within the group.
      question: the question as asked; reference: the accepted answer or answers.
      messages: the conversation in the Hugging Face message form; its images are pictures (`processing.Picture`) or
        PIL images.
      tokens: int32 [tokens], ids exactly as rendered or sampled.
      source: int8 [tokens], a `Source` for each token.
      train: bool [tokens], whether the loss covers the token.
      logprobs: float32 [tokens], log-probability under the distribution sampled from; 0 where not sampled.
      policy_logprobs: float32 [tokens], log-probability under the model's own distribution over the tokens that may be
        sampled: untempered, nothing filtered, nothing penalized; 0 where not sampled.
      temperatures: float32 [tokens], sampling temperature of each sampled token; 1 elsewhere.
      media: processed images and videos (`processing.Media`), in the order of their tokens.
      operations: calls in order.
      ended: why the episode ended; None for a trajectory that was written, not sampled.
    """

    query_id: str
    question: str
    reference: str | list[str]
    messages: list[dict[str, Any]]
    tokens: np.ndarray
    source: np.ndarray
    train: np.ndarray
    media: list[Any]
    sample: int = 0
    logprobs: np.ndarray | None = None
    policy_logprobs: np.ndarray | None = None
    temperatures: np.ndarray | None = None
    operations: list[OperationRecord] = dataclasses.field(default_factory=list)
    ended: Ended | None = None

    @property
    def response(self) -> str:
        """The text of the last assistant turn, where the answer is expected."""
        for message in reversed(self.messages):
            if message["role"] == "assistant":
                return "".join(item.get("text", "") for item in message["content"])
        return ""

    @property
    def recovered(self) -> bool:
        """False when the last operation failed: such an answer counts as wrong (the release's rule)."""
        return not self.operations or self.operations[-1].succeeded

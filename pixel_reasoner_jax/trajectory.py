"""The record of an episode: its messages, its exact tokens, and which of them are trained.

Instruction tuning, reinforcement learning, evaluation, reports and storage all use this type. It is append-only: the
tokens that were sampled are the tokens that are trained; nothing is decoded and encoded again.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping
from typing import Any

import numpy as np


class Source(enum.IntEnum):
    """The origin of a token."""

    PROMPT = 0
    SAMPLED = 1
    OBSERVATION = 2
    GIVEN = 3  # of a response, but not sampled: see `rollout.subgroups`


class Ended(enum.StrEnum):
    """Why an episode ended."""

    ANSWER = "answer"  # a turn ended without calling an operation
    OPERATIONS = "max_operations"  # a call exceeded the limit on executed operations
    TOKENS = "max_tokens"  # the limit on response tokens was met, or an observation would have exceeded it
    IMAGES = "max_images"  # an observation would have exceeded the limit on images
    LENGTH = "max_length"  # as for TOKENS, with the limit on tokens of prompt and response together
    WITHHELD = "withheld"  # a served model, or the filter of who serves it, has refused to answer
    NOT_ASKED = "not_asked"  # there is no response: a sub-group's need was not met, or its query cannot be asked


@dataclasses.dataclass(frozen=True)
class OperationRecord:
    """One call that the model made, and its outcome.

    Attributes:
      turn: index of the assistant turn that made the call, from 0.
      name: the operation's name; None when the call could not be read.
      arguments: its arguments as parsed; None when the call could not be read.
      error: None when the operation succeeded, else the message shown to the model.
      boxes: for crops, the clamped pixel box (left, top, right, bottom) in the target image before resizing.
      sizes: (width, height) after resizing of every image that the operation returned.
      sources: for each of these images, the picture that it is, or is a crop of: an index that counts the query's
        images, or its video's frames, and then all images that operations returned; empty if that is unknown.
      frames: for frames that were found in the query's video, their numbers among all of its frames, from 1.
    """

    turn: int
    name: str | None
    arguments: dict[str, Any] | None
    error: str | None = None
    boxes: tuple[tuple[int, int, int, int], ...] = ()
    sizes: tuple[tuple[int, int], ...] = ()
    sources: tuple[int, ...] = ()
    frames: tuple[int, ...] = ()

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> OperationRecord:
        """Makes a record of the fields that `dataclasses.asdict` returned, after they were stored as JSON."""
        boxes, sizes = (tuple(tuple(row) for row in fields[name]) for name in ("boxes", "sizes"))
        numbers = {name: tuple(fields.get(name, ())) for name in ("sources", "frames")}
        return cls(**{**fields, "boxes": boxes, "sizes": sizes, **numbers})

    @property
    def succeeded(self) -> bool:
        return self.error is None


@dataclasses.dataclass
class Trajectory:
    """A conversation with its tokens.

    Attributes:
      query_id: the query it answers; the samples of one query form a group.
      sample: index within the group.
      question: the question as asked.
      reference: the accepted answer or answers.
      messages: the conversation in the Hugging Face message form; its images are pictures (`processing.Picture`) or
        PIL images.
      tokens: int32 [tokens], ids exactly as rendered or sampled.
      source: int8 [tokens], a `Source` for each token.
      train: bool [tokens], whether the loss covers the token.
      logprobs: float32 [tokens], log-probability under the distribution sampled from; 0 where not sampled.
      policy_logprobs: float32 [tokens], log-probability under the model's own distribution over the tokens that may be
        sampled: not tempered, filtered or penalized; 0 where not sampled.
      temperatures: float32 [tokens], sampling temperature of each sampled token; 1 elsewhere.
      media: processed images and videos (`processing.Media`), in the order of their tokens.
      operations: the calls, in order.
      ended: why the episode ended; None for a trajectory that was synthesized or imported, and not sampled.
      counted: how many tokens a served model wrote, as its server counts them. It has no `tokens`; None where the
        server does not count, and for all other trajectories.
      object_box: where what is asked about is in the query's first image (`query.object_box`), for pages alone; None
        where the query does not say.
      policy_version: how many updates the parameters that sampled it had seen, in the run that trains them; None where
        no run does.
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
    counted: int | None = None
    policy_version: int | None = None
    object_box: tuple[float, float, float, float] | None = None

    @property
    def sampled(self) -> int | None:
        """How many tokens were sampled; None if that is unknown."""
        return int((self.source == Source.SAMPLED).sum()) if len(self.tokens) else self.counted

    @property
    def response(self) -> str:
        """The text of the last assistant turn, which should contain the answer."""
        for message in reversed(self.messages):
            if message["role"] == "assistant":
                return "".join(item.get("text", "") for item in message["content"])
        return ""

    @property
    def recovered(self) -> bool:
        """False if the last operation failed: the answer then counts as wrong (the rule of the released code)."""
        return not self.operations or self.operations[-1].succeeded

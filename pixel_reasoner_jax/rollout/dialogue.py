"""One response as it grows, turn by turn: its messages, its images, the operations that it calls, and why it ends.

Where turns come from, and what counts their tokens, a subclass knows: `episode` samples them here, `served` asks a
server for them.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable
from typing import Any

from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.operations import Call, MediaState, OperationError, Registry, Result, error_text
from pixel_reasoner_jax.processing import Picture
from pixel_reasoner_jax.rollout.prompt import OpenedQuery
from pixel_reasoner_jax.trajectory import Ended, OperationRecord, Trajectory


@dataclasses.dataclass(frozen=True)
class TurnText:
    """Text of a turn, as the tokens that were just sampled continue it."""

    query_id: str
    sample: int
    turn: int
    text: str


@dataclasses.dataclass(frozen=True)
class OperationRun:
    """An operation was executed, or refused by a limit; `images` are those that it returned, before resizing."""

    query_id: str
    sample: int
    turn: int
    record: OperationRecord
    images: list[Picture]


@dataclasses.dataclass(frozen=True)
class EpisodeEnd:
    """A response has ended."""

    query_id: str
    sample: int
    trajectory: Trajectory


Event = TurnText | OperationRun | EpisodeEnd


@dataclasses.dataclass(frozen=True)
class Limits:
    """Where a response ends.

    Attributes:
      max_operations: calls executed, failed ones included. One more call ends the response. A call that this or
        another limit refuses is recorded as one that failed.
      max_response_tokens: tokens after the prompt, observations included.
      max_images: images that operations may add.
      max_length: tokens of prompt and response together; None for no such limit.
    """

    max_operations: int = 4
    max_response_tokens: int = 12_288
    max_images: int = 16
    max_length: int | None = None

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            least = 0 if field.name in ("max_operations", "max_images") else 1
            if value is not None and value < least:
                raise UserError(f"limit {field.name} cannot be {value}: it must be at least {least}")


@dataclasses.dataclass(frozen=True)
class Observation:
    """The outcome of a call, not yet part of the response.

    Attributes:
      record: the call and its outcome; None where a message follows that the model did not ask for.
      message: the user message that shows the outcome to the model.
      images: the images that the operation returned.
      state: the response's images and frames after the call.
    """

    record: OperationRecord | None
    message: dict[str, Any]
    images: list[Picture]
    state: MediaState


@dataclasses.dataclass(frozen=True)
class FollowUp:
    """A message that follows an answer, after which the response goes on.

    Attributes:
      text: of the message.
    """

    text: str


class Dialogue(abc.ABC):
    """One sample of one query, while it is answered.

    For each turn `close_turn` is called. If it returns a call, then `execute` (in any thread, since that does not
    change the dialogue), and `observe` with the outcome. The dialogue is over when `ended` is set.

    Args:
      opened: the query.
      sample: the index of this response to it.
      registry: the operations that may be called; None for none.
      limits: where the response ends.
      on_event: called with every event.
      follow_up: the text of a message that follows the first answer; "": none does.
    """

    def __init__(
        self,
        opened: OpenedQuery,
        sample: int,
        registry: Registry | None,
        limits: Limits,
        on_event: Callable[[Event], None] | None = None,
        follow_up: str = "",
    ):
        self.opened, self.sample = opened, sample
        self._follow_up = follow_up
        self._registry, self._limits, self._on_event = registry, limits, on_event
        self._state = opened.state.fork()
        self.messages = list(opened.messages)
        self._images = 0
        self.turn = 0
        self.operations: list[OperationRecord] = []
        self.ended: Ended | None = None
        self._trajectory: Trajectory | None = None

    @property
    @abc.abstractmethod
    def room(self) -> int:
        """Tokens that may still be added to the response."""

    @property
    @abc.abstractmethod
    def token_limit(self) -> Ended:
        """Which of the two limits on tokens is met first."""

    def trajectory(self) -> Trajectory:
        """The record of the response, which has ended; every call returns the same one."""
        if self._trajectory is None:
            self._trajectory = self._record()
        return self._trajectory

    @abc.abstractmethod
    def _record(self) -> Trajectory:
        """Makes the record of the response."""

    @abc.abstractmethod
    def tokens_of(self, observation: Observation) -> int:
        """How many tokens an observation adds."""

    def close_turn(self, text: str, stopped: bool) -> Call | OperationError | FollowUp | None:
        """Adds a turn of the model.

        Args:
          text: of the turn.
          stopped: True if the model ended it, or a stop string did; False if it met a limit on tokens.

        Returns:
          The call to execute, what follows the answer, or None if the dialogue is over.
        """
        self.messages.append({"role": "assistant", "content": [{"type": "text", "text": text}]})
        if self.room < 1 and not stopped:
            return self.finish(self.token_limit)
        call = self._registry.parse(text) if self._registry is not None else None
        if call is None and stopped and self._follow_up:
            follow_up, self._follow_up = FollowUp(self._follow_up), ""
            return follow_up
        if call is None:
            return self.finish(Ended.ANSWER if stopped else Ended.TOKENS)
        if len(self.operations) >= self._limits.max_operations:
            return self.refuse(call, Ended.OPERATIONS)
        return call

    def execute(self, call: Call | OperationError | FollowUp) -> Observation:
        """Runs a call. An `OperationError` becomes an observation too, which shows the error to the model."""
        if isinstance(call, FollowUp):
            return self._observation(None, [{"type": "text", "text": call.text}], [], self._state)
        name, arguments = getattr(call, "name", None), getattr(call, "arguments", None)
        state = self._state.fork()
        try:
            if isinstance(call, OperationError):
                raise call
            result = self._registry.execute(call, state)
            images, sizes = self._open_images(result)
        except OperationError as error:
            return self.failure(call, str(error))
        state.images[len(state.images) - len(images) :] = images
        content = [{"type": "text", "text": self._registry.observation_text(call, result, sizes)}]
        content += [{"type": "image", "image": image, "kind": result.kind} for image in images]
        outcome = {name: tuple(getattr(result, name)) for name in ("boxes", "sources", "frames")}
        record = OperationRecord(self.turn, name, arguments, sizes=sizes, **outcome)
        return self._observation(record, content, images, state)

    def failure(self, call: Call | OperationError, error: str) -> Observation:
        """The observation of a call that has failed: the model is shown the error."""
        name, arguments = getattr(call, "name", None), getattr(call, "arguments", None)
        record = OperationRecord(self.turn, name, arguments, error=error)
        return self._observation(record, [{"type": "text", "text": error_text(error)}], [], self._state)

    def observe(self, call: Call | OperationError | FollowUp, observation: Observation) -> bool:
        """Adds the outcome of a call; none of it if it would exceed a limit.

        Returns:
          Whether it was added. Otherwise a limit refuses it, which ends the dialogue.
        """
        if self._images + len(observation.images) > self._limits.max_images:
            self.refuse(call, Ended.IMAGES)
            return False
        if self.tokens_of(observation) >= self.room:  # the answer needs at least one token more
            if isinstance(call, FollowUp):
                self.finish(Ended.ANSWER)  # the first answer is the last one
            else:
                self.refuse(call, self.token_limit)
            return False
        self._state = observation.state
        self._images += len(observation.images)
        self.messages.append(observation.message)
        if observation.record is not None:
            self.operations.append(observation.record)
        if self._on_event and observation.record is not None:
            self._emit(OperationRun, record=observation.record, images=observation.images)
        self.turn += 1
        return True

    def refuse(self, call: Call | OperationError, reason: Ended) -> None:
        """Ends the response at a call that a limit refuses. The call is recorded, as one that failed."""
        name, arguments = getattr(call, "name", None), getattr(call, "arguments", None)
        record = OperationRecord(self.turn, name, arguments, error=f"refused: {reason}")
        self.operations.append(record)
        if self._on_event:
            self._emit(OperationRun, record=record, images=[])
        self.finish(reason)

    def finish(self, reason: Ended) -> None:
        """Ends the response."""
        self.ended = reason
        if self._on_event:
            self._emit(EpisodeEnd, trajectory=self.trajectory())

    def _observation(
        self, record: OperationRecord | None, content: list[dict[str, Any]], images: list[Picture], state: MediaState
    ) -> Observation:
        return Observation(record, {"role": "user", "content": content}, images, state)

    def _open_images(self, result: Result) -> tuple[list[Picture], tuple[tuple[int, int], ...]]:
        """The pictures of a result and their (width, height) after resizing.

        Raises:
          OperationError: an image cannot be opened, or its shape is refused.
        """
        try:
            images = [self.opened.store.open(image) for image in result.images]
            return images, tuple(self._state.resized(image.size, result.kind) for image in images)
        except UserError as error:  # any other is a bug, which is logged where calls are made
            raise OperationError(str(error)) from error

    def _emit(self, kind: type, **fields) -> None:
        turn = {} if kind is EpisodeEnd else {"turn": self.turn}
        self._on_event(kind(query_id=self.opened.id, sample=self.sample, **turn, **fields))

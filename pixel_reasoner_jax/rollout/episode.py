"""The host side of one episode: its sampled tokens, the operations that it calls, and when it ends."""

from __future__ import annotations

import codecs
import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from transformers.convert_slow_tokenizer import bytes_to_unicode

from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.operations import Call, MediaState, OperationError, Registry, Result, error_text
from pixel_reasoner_jax.processing import Picture, Processor, Rendered
from pixel_reasoner_jax.rollout.prompt import Prompt
from pixel_reasoner_jax.rollout.sampling import SamplingSettings
from pixel_reasoner_jax.trajectory import Ended, OperationRecord, Source, Trajectory


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
    """The outcome of a call, not yet appended to the episode.

    Attributes:
      record: the call and its outcome.
      message: the user message that shows the outcome to the model.
      rendered: tokens and images of this message, and the opening of the next assistant turn.
      images: the images that the operation returned.
      state: the episode's images and frames after the call.
    """

    record: OperationRecord
    message: dict[str, Any]
    rendered: Rendered
    images: list[Picture]
    state: MediaState


class Episode:
    """One sample of one query, while it is rolled out.

    For each turn, the scheduler calls `add_sampled` once or several times and then `end_turn`. If this returns a call,
    it calls `execute` (in any thread, since that does not change the episode) and then `observe` with the outcome,
    which returns the tokens to append before the next turn. The episode is over when `ended` is set.
    """

    def __init__(
        self,
        prompt: Prompt,
        sample: int,
        processor: Processor,
        registry: Registry | None,
        limits: Limits,
        sampling: SamplingSettings,
        on_event: Callable[[Event], None] | None = None,
    ):
        self.prompt, self.sample, self.sampling = prompt, sample, sampling
        self._processor, self._registry, self._limits, self._on_event = processor, registry, limits, on_event
        self._state = prompt.state.fork()
        self._messages = list(prompt.messages)
        self.media = list(prompt.rendered.media)
        # Pieces of (tokens, source, logprobs, policy_logprobs, temperature), joined once at the end.
        self._pieces = [(prompt.rendered.tokens, Source.PROMPT, None, None, 1.0)]
        self._images = 0
        self._turn_tokens: list[int] = []
        self._text = self._new_text()
        self._closed = True  # whether the last turn ended with a sampled stop token
        self.length = len(prompt.rendered.tokens)
        self.sampled = 0
        self.turn = 0
        self.operations: list[OperationRecord] = []
        self.ended: Ended | None = None

    @property
    def room(self) -> int:
        """Tokens that may still be added to the response."""
        return self.end - self.length

    @property
    def turn_room(self) -> int:
        """Tokens that may still be sampled in this turn."""
        longest = self.sampling.max_turn_tokens
        return self.room if longest is None else min(self.room, longest - len(self._turn_tokens))

    @property
    def settings(self) -> SamplingSettings:
        """The sampling settings of this turn."""
        return self.sampling.turn(self.turn)

    @property
    def end(self) -> int:
        """The number of tokens, of prompt and response together, at which the response ends."""
        end = len(self.prompt.rendered.tokens) + self._limits.max_response_tokens
        return end if self._limits.max_length is None else min(end, self._limits.max_length)

    def end_if_full(self) -> None:
        """Ends the episode if its prompt leaves no room for a response."""
        if self.room < 1:
            self._finish(self._token_limit)

    def add_sampled(self, tokens: np.ndarray, logprobs: np.ndarray, policy_logprobs: np.ndarray) -> bool:
        """Appends sampled tokens unchanged, up to the one that completes a stop string.

        Args:
          tokens, logprobs, policy_logprobs: [tokens] each; see `engine.Decoded`.

        Returns:
          Whether a stop string has ended the turn. `sampled` grows by the number of tokens kept.
        """
        kept, stopped = len(tokens), False
        if self._text is not None:
            for number, token in enumerate(tokens.tolist(), start=1):
                text = "" if token in self._processor.stop_tokens else self._text.push(token)
                if text and self._on_event:
                    self._emit(TurnText, text=text)
                if self._text.stopped:
                    kept, stopped = number, True
                    break
        self._pieces.append(
            (tokens[:kept], Source.SAMPLED, logprobs[:kept], policy_logprobs[:kept], self.settings.temperature)
        )
        self.length += kept
        self.sampled += kept
        self._turn_tokens.extend(tokens[:kept].tolist())
        return stopped

    def end_turn(self, stopped: bool) -> Call | OperationError | None:
        """Closes the turn.

        Args:
          stopped: True if the turn ended with a stop token or a stop string, False if it met a limit on tokens.

        Returns:
          The call to execute, or None if the episode is over.
        """
        tokens = self._turn_tokens
        self._closed = bool(tokens) and tokens[-1] in self._processor.stop_tokens
        text = self._processor.tokenizer.decode(tokens[:-1] if self._closed else tokens)
        self._messages.append({"role": "assistant", "content": [{"type": "text", "text": text}]})
        if self._on_event and len(text) > len(self._text.text):
            self._emit(TurnText, text=text[len(self._text.text) :])
        self._turn_tokens, self._text = [], self._new_text()
        if self.room < 1 and not stopped:
            return self._finish(self._token_limit)
        call = self._registry.parse(text) if self._registry is not None else None
        if call is None:
            return self._finish(Ended.ANSWER if stopped else Ended.TOKENS)
        if len(self.operations) >= self._limits.max_operations:
            return self._refuse(call, Ended.OPERATIONS)
        return call

    def execute(self, call: Call | OperationError) -> Observation:
        """Runs a call. An `OperationError` becomes an observation too, which shows the error to the model."""
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
        outcome = {"boxes": tuple(result.boxes), "sizes": sizes, "sources": tuple(result.sources)}
        record = OperationRecord(self.turn, name, arguments, **outcome)
        return self._observation(record, content, images, state)

    def failure(self, call: Call | OperationError, error: str) -> Observation:
        """The observation of a call that has failed: the model is shown the error."""
        name, arguments = getattr(call, "name", None), getattr(call, "arguments", None)
        record = OperationRecord(self.turn, name, arguments, error=error)
        return self._observation(record, [{"type": "text", "text": error_text(error)}], [], self._state)

    def observe(self, call: Call | OperationError, observation: Observation) -> Rendered | None:
        """Appends the outcome of a call; none of it if it would exceed a limit.

        Returns:
          The tokens and images appended, or None if a limit refuses them, which ends the episode.
        """
        if self._images + len(observation.images) > self._limits.max_images:
            return self._refuse(call, Ended.IMAGES)
        rendered = observation.rendered
        if len(rendered.tokens) >= self.room:  # the answer needs at least one token more
            return self._refuse(call, self._token_limit)
        self._state = observation.state
        self._images += len(observation.images)
        self.operations.append(observation.record)
        self._messages.append(observation.message)
        self.media.extend(rendered.media)
        self._pieces.append((rendered.tokens, Source.OBSERVATION, None, None, 1.0))
        self.length += len(rendered.tokens)
        if self._on_event:
            self._emit(OperationRun, record=observation.record, images=observation.images)
        self.turn += 1
        return rendered

    def tokens(self) -> np.ndarray:
        """All tokens so far, int32 [length]."""
        return np.concatenate([piece[0] for piece in self._pieces])

    def trajectory(self) -> Trajectory:
        """The finished record."""
        joined = [np.concatenate(part) for part in zip(*map(_columns, self._pieces), strict=True)]
        tokens, source, logprobs, policy_logprobs, temperatures = joined
        return Trajectory(
            query_id=self.prompt.id,
            question=self.prompt.query["question"],
            reference=self.prompt.query.get("answer", ""),
            messages=self._messages,
            tokens=tokens,
            source=source,
            train=source == Source.SAMPLED,
            media=self.media,
            sample=self.sample,
            logprobs=logprobs,
            policy_logprobs=policy_logprobs,
            temperatures=temperatures,
            operations=self.operations,
            ended=self.ended,
        )

    @property
    def _token_limit(self) -> Ended:
        """Which of the two limits on tokens is met first."""
        response_end = len(self.prompt.rendered.tokens) + self._limits.max_response_tokens
        return Ended.TOKENS if response_end == self.end else Ended.LENGTH

    def _new_text(self) -> TextStream | None:
        """Follows a turn's text token by token, if events or stop strings need it; otherwise None."""
        if not self._on_event and not self.sampling.stop_strings:
            return None
        return TextStream(self._processor.tokenizer, self.sampling.stop_strings)

    def _observation(self, record, content, images, state) -> Observation:
        message = {"role": "user", "content": content}
        return Observation(record, message, self._processor.render_continuation(message, self._closed), images, state)

    def _open_images(self, result: Result) -> tuple[list[Picture], tuple[tuple[int, int], ...]]:
        """The pictures of a result and their (width, height) after resizing.

        Raises:
          OperationError: an image cannot be opened, or its shape is refused.
        """
        try:
            images = [self.prompt.store.open(image) for image in result.images]
            return images, tuple(self._processor.resized(image.size, result.kind) for image in images)
        except UserError as error:  # any other is a bug, which is logged where calls are made
            raise OperationError(str(error)) from error

    def _refuse(self, call: Call | OperationError, reason: Ended) -> None:
        """Ends the response at a call that a limit refuses. The call is recorded, as one that failed."""
        name, arguments = getattr(call, "name", None), getattr(call, "arguments", None)
        record = OperationRecord(self.turn, name, arguments, error=f"refused: {reason}")
        self.operations.append(record)
        if self._on_event:
            self._emit(OperationRun, record=record, images=[])
        self._finish(reason)

    def _finish(self, reason: Ended) -> None:
        self.ended = reason
        if self._on_event:
            self._emit(EpisodeEnd, trajectory=self.trajectory())

    def _emit(self, kind: type, **fields) -> None:
        turn = {} if kind is EpisodeEnd else {"turn": self.turn}
        self._on_event(kind(query_id=self.prompt.id, sample=self.sample, **turn, **fields))


class TextStream:
    """Decodes the text of a turn token by token, and tells whether it contains a stop string."""

    def __init__(self, tokenizer: Any, stop_strings: tuple[str, ...]):
        self._tokenizer, self._stop_strings = tokenizer, stop_strings
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.text = ""
        self.stopped = False

    def push(self, token: int) -> str:
        """The text that the token completes; the bytes of an incomplete character wait for the tokens that follow."""
        characters = self._tokenizer.convert_ids_to_tokens(token)
        new = self._decoder.decode(b"".join(_BYTES.get(char) or char.encode() for char in characters))
        for stop in self._stop_strings:
            self.stopped |= stop in self.text[-len(stop) :] + new
        self.text += new
        return new


_BYTES = {char: bytes([byte]) for byte, char in bytes_to_unicode().items()}
"""The byte of each character that byte-level tokenizers write it as."""


def _columns(piece: tuple[np.ndarray, Source, np.ndarray | None, np.ndarray | None, float]) -> tuple[np.ndarray, ...]:
    tokens, source, *logprobs, temperature = piece
    count = len(tokens)
    return (
        np.asarray(tokens, np.int32),
        np.full(count, source, np.int8),
        *(np.zeros(count, np.float32) if part is None else np.asarray(part, np.float32) for part in logprobs),
        np.full(count, temperature, np.float32),
    )

"""The host side of one episode: what was sampled, the operations it asked for, and when it is over."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from pixel_reasoner_jax.operations import Call, MediaState, OperationError, Registry, Result, error_text, tools_section
from pixel_reasoner_jax.processing import Picture, PictureStore, Processor, Rendered
from pixel_reasoner_jax.rollout.prompt import Query, query_messages
from pixel_reasoner_jax.trajectory import Ended, OperationRecord, Source, Trajectory


@dataclasses.dataclass(frozen=True)
class TurnText:
    """Text the model has just written."""

    query_id: str
    sample: int
    turn: int
    text: str


@dataclasses.dataclass(frozen=True)
class OperationRun:
    """An operation was executed, or refused; `images` are what it returned, before resizing."""

    query_id: str
    sample: int
    turn: int
    record: OperationRecord
    images: list[Picture]


@dataclasses.dataclass(frozen=True)
class EpisodeEnd:
    query_id: str
    sample: int
    trajectory: Trajectory


Event = TurnText | OperationRun | EpisodeEnd


@dataclasses.dataclass(frozen=True)
class Limits:
    """Where a response ends.

    Attributes:
      max_operations: calls executed, failed ones included; asking for one more ends the response. What a limit
        refuses is recorded as a call that failed.
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
            if value is not None and value < (0 if field.name in ("max_operations", "max_images") else 1):
                raise ValueError(f"limit {field.name} cannot be {value}")


@dataclasses.dataclass(frozen=True)
class Prompt:
    """A query, opened and rendered once, whatever the number of its samples.

    `positions` is int32 [3, tokens]; `next_position` is where the response goes on; `store` keeps the pixels.
    """

    query: Query
    messages: list[dict[str, Any]]
    state: MediaState
    rendered: Rendered
    positions: np.ndarray
    next_position: int
    store: PictureStore

    @classmethod
    def build(
        cls,
        query: Query,
        processor: Processor,
        registry: Registry | None,
        guidelines: str | None,
        store: PictureStore,
    ) -> Prompt:
        """Opens the media of a query and renders its conversation; `registry` None gives the text-only baseline."""
        images = [store.open(image) for image in query.get("images") or ()]
        video = None
        if query.get("video") is not None:
            video = store.open_video(query["video"], processor.budgets.video_frames)
        state = MediaState.from_query(images=images, video_frames=video.frames if video else None)
        tools = None if registry is None else tools_section(registry.signatures(state))
        messages = query_messages({**query, "images": images, "video": video}, tools, guidelines)
        rendered = processor.render(messages, generation_prompt=True)
        positions, next_position = processor.positions(rendered.tokens, rendered.media)
        return cls(query, messages, state, rendered, positions, next_position, store)


class Episode:
    """One sample of one query, growing."""

    def __init__(
        self,
        prompt: Prompt,
        sample: int,
        processor: Processor,
        registry: Registry | None,
        limits: Limits,
        on_event: Callable[[Event], None] | None = None,
    ):
        self.prompt, self.sample = prompt, sample
        self._processor, self._registry, self._limits, self._on_event = processor, registry, limits, on_event
        self._state = prompt.state.fork()
        self._messages = list(prompt.messages)
        self._media = list(prompt.rendered.media)
        # Pieces of (tokens, source, logprobs, temperature), joined once at the end.
        self._pieces = [(prompt.rendered.tokens, Source.PROMPT, None, 1.0)]
        self._length = len(prompt.rendered.tokens)
        self._images = 0
        self._turn_tokens: list[int] = []
        self._shown = ""
        self.turn = 0
        self.operations: list[OperationRecord] = []
        self.ended: Ended | None = None

    @property
    def room(self) -> int:
        """Tokens that may still be added."""
        return self._end - self._length

    @property
    def _end(self) -> int:
        end = len(self.prompt.rendered.tokens) + self._limits.max_response_tokens
        return end if self._limits.max_length is None else min(end, self._limits.max_length)

    def end_if_full(self) -> None:
        """Ends the episode if its prompt leaves no room for a response."""
        if self.room < 1:
            self._finish(self._full)

    def add_sampled(self, tokens: np.ndarray, logprobs: np.ndarray, temperature: float) -> None:
        """Appends what was sampled, exactly as sampled."""
        self._pieces.append((tokens, Source.SAMPLED, logprobs, temperature))
        self._length += len(tokens)
        self._turn_tokens.extend(tokens.tolist())
        if self._on_event:
            text = self._processor.tokenizer.decode(self._written_tokens())
            if not text.endswith("\ufffd"):  # half a character: its other tokens are still to come
                self._emit(TurnText, text=text[len(self._shown) :])
                self._shown = text

    def end_turn(self, stopped: bool) -> Rendered | None:
        """Closes the turn; runs the operation it asked for.

        Args:
          stopped: the turn ended at a stop token; otherwise it met the limit on tokens.

        Returns:
          The rendered observation to extend the cache with, or None when the episode is over.
        """
        text = self._processor.tokenizer.decode(self._written_tokens())
        self._messages.append({"role": "assistant", "content": [{"type": "text", "text": text}]})
        if self._on_event and len(text) > len(self._shown):
            self._emit(TurnText, text=text[len(self._shown) :])
        self._turn_tokens, self._shown = [], ""
        if not stopped:
            return self._finish(self._full)
        call = self._registry.parse(text) if self._registry is not None else None
        if call is None:
            return self._finish(Ended.ANSWER)
        if len(self.operations) >= self._limits.max_operations:
            return self._refuse(call, Ended.OPERATIONS)
        record, message, images = self._run(call)
        if self._images + len(images) > self._limits.max_images:
            return self._refuse(call, Ended.IMAGES)
        observation = self._processor.render_continuation(message)
        if len(observation.tokens) >= self.room:  # the answer needs at least one token more
            return self._refuse(call, self._full)
        self._images += len(images)
        self.operations.append(record)
        self._messages.append(message)
        self._media.extend(observation.media)
        self._pieces.append((observation.tokens, Source.OBSERVATION, None, 1.0))
        self._length += len(observation.tokens)
        if self._on_event:
            self._emit(OperationRun, record=record, images=images)
        self.turn += 1
        return observation

    def trajectory(self) -> Trajectory:
        """The finished record."""
        joined = [np.concatenate(part) for part in zip(*map(_columns, self._pieces), strict=True)]
        tokens, source, logprobs, temperatures = joined
        return Trajectory(
            query_id=str(self.prompt.query["id"]),
            question=self.prompt.query["question"],
            reference=self.prompt.query.get("answer", ""),
            messages=self._messages,
            tokens=tokens,
            source=source,
            train=source == Source.SAMPLED,
            media=self._media,
            sample=self.sample,
            logprobs=logprobs,
            temperatures=temperatures,
            operations=self.operations,
            ended=self.ended,
        )

    @property
    def _full(self) -> Ended:
        """Which of the two limits on tokens is the one that binds."""
        response_end = len(self.prompt.rendered.tokens) + self._limits.max_response_tokens
        return Ended.TOKENS if response_end == self._end else Ended.LENGTH

    def _written_tokens(self) -> list[int]:
        tokens = self._turn_tokens
        return tokens[:-1] if tokens and tokens[-1] in self._processor.stop_tokens else tokens

    def _run(self, call: Call | OperationError) -> tuple[OperationRecord, dict[str, Any], list[Picture]]:
        """Executes what was asked for: (record, observation message, images)."""
        name = getattr(call, "name", None)
        arguments = getattr(call, "arguments", None)
        try:
            if isinstance(call, OperationError):
                raise call
            state = self._state.fork()
            result = self._registry.execute(call, state)
            images, sizes = self._opened(result)
        except OperationError as error:
            content = [{"type": "text", "text": error_text(str(error))}]
            record = OperationRecord(self.turn, name, arguments, error=str(error))
            return record, {"role": "user", "content": content}, []
        state.images[len(state.images) - len(images) :] = images
        self._state = state
        content = [{"type": "text", "text": self._registry.observation_text(call, result, sizes)}]
        content += [{"type": "image", "image": image, "kind": result.kind} for image in images]
        record = OperationRecord(self.turn, name, arguments, boxes=tuple(result.boxes), sizes=sizes)
        return record, {"role": "user", "content": content}, images

    def _opened(self, result: Result) -> tuple[list[Picture], tuple[tuple[int, int], ...]]:
        """Pictures of a result and their sizes after resizing; a refused image is the operation's error."""
        try:
            images = [self.prompt.store.open(image) for image in result.images]
            return images, tuple(self._processor.resized(image.size, result.kind) for image in images)
        except ValueError as error:
            raise OperationError(str(error)) from error

    def _refuse(self, call: Call | OperationError, reason: Ended) -> None:
        """Ends the response at a call that a limit does not allow; it was made, so it counts, as one that failed."""
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
        self._on_event(kind(query_id=str(self.prompt.query["id"]), sample=self.sample, **turn, **fields))


def _columns(piece: tuple[np.ndarray, Source, np.ndarray | None, float]) -> tuple[np.ndarray, ...]:
    tokens, source, logprobs, temperature = piece
    count = len(tokens)
    return (
        np.asarray(tokens, np.int32),
        np.full(count, source, np.int8),
        np.zeros(count, np.float32) if logprobs is None else np.asarray(logprobs, np.float32),
        np.full(count, temperature, np.float32),
    )

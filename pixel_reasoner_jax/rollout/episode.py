"""The host side of one episode: its sampled tokens, the operations that it calls, and when it ends."""

from __future__ import annotations

import codecs
import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from transformers.convert_slow_tokenizer import bytes_to_unicode

from pixel_reasoner_jax.operations import Call, OperationError, Registry
from pixel_reasoner_jax.processing import Processor, Rendered
from pixel_reasoner_jax.rollout.dialogue import Dialogue, Event, FollowUp, Limits, Observation, TurnText
from pixel_reasoner_jax.rollout.prompt import Prompt
from pixel_reasoner_jax.rollout.sampling import SamplingSettings
from pixel_reasoner_jax.trajectory import Ended, Source, Trajectory


@dataclasses.dataclass(frozen=True)
class RenderedObservation(Observation):
    """An observation with its tokens.

    Attributes:
      rendered: tokens and images of its message, and the opening of the next assistant turn.
    """

    rendered: Rendered


class Episode(Dialogue):
    """One sample of one query, while it is rolled out.

    For each turn, the scheduler calls `add_sampled` once or several times and then `end_turn`. If this returns a call,
    it calls `execute` (in any thread, since that does not change the episode) and then `observe` with the outcome,
    whose tokens are appended before the next turn. The episode is over when `ended` is set.
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
        policy_version: int | None = None,
        follow_up: str = "",
    ):
        super().__init__(prompt, sample, registry, limits, on_event, follow_up)
        self.prompt, self.sampling, self._policy_version = prompt, sampling, policy_version
        self._processor = processor
        self.media = list(prompt.rendered.media)
        # Pieces of (tokens, source, logprobs, policy_logprobs, temperature), joined once at the end.
        prompt_tokens, given = np.split(prompt.rendered.tokens, [len(prompt.rendered.tokens) - prompt.given])
        self._pieces = [(prompt_tokens, Source.PROMPT, None, None, 1.0)]
        self._turn_tokens: list[int] = given.tolist()
        self._text = self._new_text()
        self._told = 0  # characters of the turn that events have told
        if prompt.given:
            self._pieces.append((given, Source.GIVEN, None, None, self.settings.temperature))
            if self._text is not None:
                self._text.add(self._turn_tokens)
        self._closed = True  # whether the last turn ended with a sampled stop token
        self.length = len(prompt.rendered.tokens)
        self.sampled = 0

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
            self.finish(self.token_limit)

    def add_sampled(self, tokens: np.ndarray, logprobs: np.ndarray, policy_logprobs: np.ndarray) -> bool:
        """Appends sampled tokens unchanged, up to the one that completes a stop string.

        Args:
          tokens, logprobs, policy_logprobs: [tokens] each; see `engine_arrays.Decoded`.

        Returns:
          Whether a stop string has ended the turn. `sampled` grows by the number of tokens kept.
        """
        kept, stopped = len(tokens), False
        if self._text is not None:
            ids = tokens.tolist()
            ended = bool(ids) and ids[-1] in self._processor.stop_tokens
            added = self._text.push(ids[:-1] if ended else ids)
            if stopped := self._text.stopped:
                kept = added
            self._tell(self._text.text)
        self._pieces.append(
            (tokens[:kept], Source.SAMPLED, logprobs[:kept], policy_logprobs[:kept], self.settings.temperature)
        )
        self.length += kept
        self.sampled += kept
        self._turn_tokens.extend(tokens[:kept].tolist())
        return stopped

    def end_turn(self, stopped: bool) -> Call | OperationError | FollowUp | None:
        """Closes the turn.

        Args:
          stopped: True if the turn ended with a stop token or a stop string, False if it met a limit on tokens.

        Returns:
          The call to execute, what follows the answer, or None if the episode is over.
        """
        tokens = self._turn_tokens
        self._closed = bool(tokens) and tokens[-1] in self._processor.stop_tokens
        text = self._processor.tokenizer.decode(tokens[:-1] if self._closed else tokens)
        self._tell(text)
        self._turn_tokens, self._text, self._told = [], self._new_text(), 0
        return self.close_turn(text, stopped)

    def _tell(self, text: str) -> None:
        """Has an event tell what a turn's text, as it is now, has more than was told."""
        if self._on_event and len(text) > self._told:
            self._emit(TurnText, text=text[self._told :])
            self._told = len(text)

    def observe(self, call: Call | OperationError | FollowUp, observation: RenderedObservation) -> bool:
        if not super().observe(call, observation):
            return False
        rendered = observation.rendered
        self.media.extend(rendered.media)
        self._pieces.append((rendered.tokens, Source.OBSERVATION, None, None, 1.0))
        self.length += len(rendered.tokens)
        return True

    def tokens_of(self, observation: RenderedObservation) -> int:
        return len(observation.rendered.tokens)

    def tokens(self) -> np.ndarray:
        """All tokens so far, int32 [length]."""
        return np.concatenate([piece[0] for piece in self._pieces])

    def _record(self) -> Trajectory:
        joined = [np.concatenate(part) for part in zip(*map(_columns, self._pieces), strict=True)]
        tokens, source, logprobs, policy_logprobs, temperatures = joined
        return Trajectory(
            query_id=self.prompt.id,
            question=self.prompt.query["question"],
            reference=self.prompt.query.get("answer", ""),
            messages=self.messages,
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
            policy_version=self._policy_version,
            object_box=self.prompt.object_box,
        )

    @property
    def token_limit(self) -> Ended:
        response_end = len(self.prompt.rendered.tokens) + self._limits.max_response_tokens
        return Ended.TOKENS if response_end == self.end else Ended.LENGTH

    def _new_text(self) -> TextStream | None:
        """Follows a turn's text token by token, if events or stop strings need it; otherwise None."""
        if not self._on_event and not self.sampling.stop_strings:
            return None
        return TextStream(self._processor.tokenizer, self.sampling.stop_strings)

    def _observation(self, *parts: Any) -> RenderedObservation:
        observation = super()._observation(*parts)
        rendered = self._processor.render_continuation(observation.message, self._closed)
        return RenderedObservation(**vars(observation), rendered=rendered)


class TextStream:
    """Decodes the text of a turn as it is sampled, and tells whether it contains a stop string."""

    def __init__(self, tokenizer: Any, stop_strings: tuple[str, ...]):
        self._tokenizer, self._stop_strings = tokenizer, stop_strings
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.text = ""
        self.stopped = False

    def add(self, tokens: Sequence[int]) -> None:
        """Adds tokens to `text`; the bytes of an incomplete character wait for the tokens that follow."""
        self.text += self._decoder.decode(b"".join(_token_bytes(self._tokenizer, token) for token in tokens))

    def push(self, tokens: Sequence[int]) -> int:
        """Adds tokens up to the one that completes a stop string, and returns how many that were."""
        if not self._stop_strings:
            self.add(tokens)
            return len(tokens)
        for number, token in enumerate(tokens, start=1):
            before = len(self.text)
            self.add([token])
            # One that ended before, in a text that was given, does not count.
            if any(stop in self.text[max(0, before - len(stop) + 1) :] for stop in self._stop_strings):
                self.stopped = True
                return number
        return len(tokens)


@functools.lru_cache(maxsize=2**15)
def _token_bytes(tokenizer: Any, token: int) -> bytes:
    """The bytes of the text that a token stands for."""
    return b"".join(_BYTES.get(char) or char.encode() for char in tokenizer.convert_ids_to_tokens(token))


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

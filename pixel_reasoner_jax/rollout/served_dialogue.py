"""One response of a served model: what the model is sent, and how its turns are read.

The model is sent the conversation that a model of ours sees: the operations are described in the system message, and it
calls them in text, `<tool_call>{"name": …, "arguments": …}</tool_call>`. Calls that its server has taken out of the
text (`tool_calls`) are put back, so that one parser reads them all. Observations are messages of the user. Images are
PNG files in the size that the budgets give, so that coordinates and printed sizes are those of what it sees; a video is
its sampled frames, after a line that says when they were.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from pixel_reasoner_jax.endpoint import Completion
from pixel_reasoner_jax.endpoint.completion import CUT
from pixel_reasoner_jax.operations import Call, OperationError, Registry
from pixel_reasoner_jax.operations.calls import CLOSING, OPENING
from pixel_reasoner_jax.processing import Geometry, Media, Picture, Video
from pixel_reasoner_jax.processing.chat import content_items
from pixel_reasoner_jax.processing.media import normalization_table, process_image, process_video
from pixel_reasoner_jax.rollout.dialogue import Dialogue, Event, Limits, Observation, TurnText
from pixel_reasoner_jax.rollout.prompt import ImageSizes, OpenedQuery
from pixel_reasoner_jax.rollout.sampling import SamplingSettings
from pixel_reasoner_jax.trajectory import Ended, Trajectory

CHARACTERS = 4  # about so many are a token: of an observation's text, before the server has counted it

_GEOMETRY = Geometry()
_LEVELS = normalization_table((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))  # nothing computes with these patches


class ServedDialogue(Dialogue):
    """One sample of one query, while a served model answers it.

    Limits on tokens are kept by what the server counts, and between two of its answers by an estimate: images as
    Qwen2.5-VL counts them, texts by their characters. Where the server counts nothing, each turn alone is limited.

    Args:
      opened, sample, registry, limits, on_event: see `Dialogue`.
      sizes: in which the model is shown images.
      sampling: how tokens are drawn.
      seed: of the rollout.
    """

    def __init__(
        self,
        opened: OpenedQuery,
        sample: int,
        sizes: ImageSizes,
        registry: Registry | None,
        limits: Limits,
        sampling: SamplingSettings,
        seed: int,
        on_event: Callable[[Event], None] | None = None,
    ):
        super().__init__(opened, sample, registry, limits, on_event)
        self._sizes, self._sampling = sizes, sampling
        digest = hashlib.blake2s(repr((seed, opened.id, sample)).encode("utf-8", "replace"), digest_size=4).digest()
        self._seed = int.from_bytes(digest, "big") % 2**31
        self._prompt_tokens: int | None = None  # those of the prompt, and all so far; None if the server has not said
        self._length: int | None = None
        self._counted: int | None = 0

    @property
    def room(self) -> int:
        most, length = self._limits.max_response_tokens, self._limits.max_length
        if self._length is None:
            return most if length is None else min(most, length)
        end = self._prompt_tokens + most
        return (end if length is None else min(end, length)) - self._length

    @property
    def token_limit(self) -> Ended:
        end = (self._prompt_tokens or 0) + self._limits.max_response_tokens
        length = self._limits.max_length
        return Ended.TOKENS if length is None or end <= length else Ended.LENGTH

    def options(self) -> dict[str, Any]:
        """The options of the request for the next turn; see `Endpoint.complete`."""
        settings, longest = self._sampling.turn(self.turn), self._sampling.max_turn_tokens
        tokens = self.room if longest is None else min(self.room, longest)
        options: dict[str, Any] = {"temperature": settings.temperature, "max_tokens": max(tokens, 1)}
        if settings.temperature > 0:  # greedy needs none
            options["seed"] = self._seed
        if settings.top_p < 1:
            options["top_p"] = settings.top_p
        # A server of ours runs operations itself where a request has no list of functions.
        options["tools"] = [] if self._registry is None else self._registry.signatures(self.opened.state)
        if self._sampling.stop_strings:
            options["stop"] = list(self._sampling.stop_strings)
        more = {"top_k": (settings.top_k, 0), "repetition_penalty": (settings.repetition_penalty, 1.0)}
        if more := {name: value for name, (value, default) in more.items() if value != default}:
            options["extra_body"] = more
        return options

    def read(self, completion: Completion) -> Call | OperationError | None:
        """Adds a turn that the server has answered.

        Returns:
          The call to execute, or None if the dialogue is over.
        """
        text = turn_text(completion, self._sampling.stop_strings)
        if completion.prompt_tokens:
            if self._prompt_tokens is None:
                self._prompt_tokens = completion.prompt_tokens
            self._length = completion.prompt_tokens + completion.completion_tokens
        if self._counted is not None:
            known = completion.completion_tokens or not text
            self._counted = self._counted + completion.completion_tokens if known else None
        if self._on_event:
            self._emit(TurnText, text=text)
        if completion.refusal or completion.finish == "content_filter":
            return self.withhold(text)
        return self.close_turn(text, stopped=completion.finish not in CUT)

    def withhold(self, text: str = "") -> None:
        """Ends the response with what is said in place of a turn."""
        self.messages.append({"role": "assistant", "content": [{"type": "text", "text": text}]})
        self.finish(Ended.WITHHELD)

    def observe(self, call: Call | OperationError, observation: Observation) -> bool:
        goes_on = super().observe(call, observation)
        if goes_on and self._length is not None:
            self._length += self.tokens_of(observation)
        return goes_on

    def tokens_of(self, observation: Observation) -> int:
        if self._length is None:
            return 0
        side = _GEOMETRY.token_size
        images = sum(width // side * (height // side) for width, height in observation.record.sizes)
        text = sum(len(item.get("text", "")) for item in observation.message["content"])
        return images + text // CHARACTERS

    def _record(self) -> Trajectory:
        none = np.zeros(0, np.int32)
        return Trajectory(
            query_id=self.opened.id,
            question=self.opened.query["question"],
            reference=self.opened.query.get("answer", ""),
            messages=self.messages,
            tokens=none,
            source=none.astype(np.int8),
            train=none.astype(bool),
            media=[media for message in self.messages for media in _media(message, self._sizes)],
            sample=self.sample,
            operations=self.operations,
            ended=self.ended,
            counted=self._counted,
            object_box=self.opened.object_box,
        )


def turn_text(completion: Completion, stop_strings: tuple[str, ...] = ()) -> str:
    """The text of a turn as a model of ours would write it: with its calls, and the stop string that ended it."""
    text = completion.text or completion.refusal
    if completion.stopped_by in stop_strings:
        text += completion.stopped_by
    elif completion.finish not in CUT:
        text += unclosed_tag(text, stop_strings)
    if completion.calls and not text.rstrip().endswith(CLOSING):  # some servers leave them in the text too
        calls = (
            f'{OPENING}\n{{"name": {json.dumps(name)}, "arguments": {arguments.strip() or "{}"}}}\n{CLOSING}'
            for name, arguments in completion.calls
        )
        text = "\n".join([text, *calls]) if text else "\n".join(calls)
    return _sendable(text)


def unclosed_tag(text: str, stop_strings: tuple[str, ...]) -> str:
    """The closing tag, out of the texts that end a turn, that a text lacks: some servers do not say what ended it."""
    last = {stop: text.rfind(f"<{stop[2:]}") for stop in stop_strings if stop.startswith("</")}
    stop = max(last, key=last.__getitem__, default="")
    return stop if last.get(stop, -1) > text.rfind(stop) else ""


def chat_message(message: dict[str, Any], sizes: ImageSizes) -> dict[str, Any]:
    """A message in the form of chat completions, its images encoded.

    Args:
      message: its images are pictures, and its video a `Video` of pictures.
      sizes: in which the model is shown them.

    Raises:
      UserError: an image cannot be read, or is longer than 200 times its width.
    """
    parts = []
    for kind, item in content_items(message):
        if kind == "text":
            parts.append({"type": "text", "text": _sendable(item["text"])})
        elif kind == "image":
            parts.append(_image_part(item["image"], sizes, item.get("kind") or "image"))
        else:
            video: Video = item["video"]
            times = ", ".join(f"{time:.1f}" for time in video.times)
            parts.append({"type": "text", "text": f"A video, as {len(video.frames)} frames, at {times} seconds:"})
            parts += [_image_part(frame, sizes, "video") for frame in video.frames]
    if all(part["type"] == "text" for part in parts):
        return {"role": message["role"], "content": "".join(part["text"] for part in parts)}
    return {"role": message["role"], "content": parts}


def _image_part(picture: Picture, sizes: ImageSizes, kind: str) -> dict[str, Any]:
    size, image = sizes.resized(picture.size, kind), picture.load()
    buffer = io.BytesIO()
    image = image if image.size == size else image.resize(size, Image.Resampling.BICUBIC)
    image.save(buffer, "PNG", compress_level=1)
    url = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
    return {"type": "image_url", "image_url": {"url": url}}


def _media(message: dict[str, Any], sizes: ImageSizes) -> list[Media]:
    """The images and videos of a message as the model is shown them; they are resized when their pixels are used."""
    media = []
    for kind, item in content_items(message):
        if kind == "image":
            size = sizes.resized(item["image"].size, item.get("kind") or "image")
            media.append(process_image(item["image"], size, _GEOMETRY, _LEVELS))
        elif kind == "video":
            frames = item["video"].frames
            size = sizes.resized(frames[0].size, "video")
            media.append(process_video(frames, item["video"].fps, size, _GEOMETRY, _LEVELS))
    return media


def _sendable(text: str) -> str:
    """The text with "?" for half a surrogate pair, which cannot be sent."""
    return text.encode("utf-8", "replace").decode()

"""What a client is sent of its request: whole, or piece by piece as the model writes it."""

from __future__ import annotations

import base64
import dataclasses
import io
import secrets
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from pixel_reasoner_jax.operations.calls import OPENING
from pixel_reasoner_jax.operations.syntaxes import ToolCallTags
from pixel_reasoner_jax.processing import Picture, Processor
from pixel_reasoner_jax.rollout.dialogue import EpisodeEnd, Event, OperationRun, TurnText
from pixel_reasoner_jax.rollout.prompt import Prompt
from pixel_reasoner_jax.serve.conversation import arguments_json
from pixel_reasoner_jax.serve.engine import Ticket
from pixel_reasoner_jax.serve.request import EXTRA
from pixel_reasoner_jax.trajectory import Ended, OperationRecord, Source, Trajectory

LONGEST_SIDE = 1024  # pixels of an image of an operation as it is sent
FRAME_SIDE = 384  # and of a frame of the video
BETWEEN = "\n\n"  # between the texts of two turns


class TurnFilter:
    """Lets the text of a turn through as it grows, but neither the client's stop strings nor a call.

    Args:
      stops: the text ends before the first of these.
      opening: what a call begins with; "" holds a turn back until it has ended; None where calls are shown.
    """

    def __init__(self, stops: Sequence[str], opening: str | None):
        self._stops, self._opening = stops, opening
        self.text, self._sent = "", 0

    def push(self, text: str) -> str:
        """What may be shown once `text` has been added."""
        self.text += text
        if self._opening == "":
            return ""
        end = len(self.text)
        for marker in (*self._stops, *([self._opening] if self._opening else ())):
            found = self.text.find(marker, max(0, self._sent - len(marker)))
            if found >= 0:
                end = min(end, found)
                continue
            place = self.text.find(marker[0], max(0, len(self.text) - len(marker) + 1))
            while place >= 0:  # what may be the beginning of a marker waits for what follows
                if marker.startswith(self.text[place:]):
                    end = min(end, place)
                    break
                place = self.text.find(marker[0], place + 1)
        return self._release(end)

    def close(self, has_call: bool) -> str:
        """What is left to show of the turn, which has ended."""
        end = len(self.text) if self.stopped_by is None else self.text.find(self.stopped_by)
        if has_call and self._opening is not None:
            found = self.text.find(self._opening or OPENING)
            end = found if found >= 0 else 0 if self._opening == "" else end
        return self._release(end)

    @property
    def stopped_by(self) -> str | None:
        """The client's stop string that has ended the turn."""
        places = {stop: self.text.find(stop) for stop in self._stops}
        found = [stop for stop, place in places.items() if place >= 0]
        return min(found, key=places.__getitem__, default=None)

    def _release(self, end: int) -> str:
        new = self.text[self._sent : end]
        self._sent = max(self._sent, end)
        return new


@dataclasses.dataclass
class Choice:
    """One of the responses to a request.

    Attributes:
      index: among them.
      content: the text so far, as the client sees it.
      operations: what has been run, as the client sees it.
      calls: of the client's functions.
      trajectory: once it has ended.
    """

    index: int
    filter: TurnFilter
    content: str = ""
    operations: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    calls: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    stopped_by: str | None = None
    trajectory: Trajectory | None = None
    begins_turn: bool = False

    @property
    def finish_reason(self) -> str:
        if self.calls:
            return "tool_calls"
        ended = self.trajectory.ended
        return "stop" if ended in (Ended.ANSWER, Ended.OPERATIONS) and not self._was_refused else "length"

    @property
    def _was_refused(self) -> bool:
        """Whether a limit has refused an operation that would have run here."""
        return self.trajectory.ended is Ended.OPERATIONS and bool(self.operations)


class Reply:
    """The answer to a request as it grows.

    Args:
      ticket: the request in the batch.
      processor: of the model.
    """

    def __init__(self, ticket: Ticket, processor: Processor):
        self._ticket, self._processor, request = ticket, processor, ticket.request
        self.id, self._created = f"chatcmpl-{secrets.token_hex(12)}", int(time.time())
        registry = ticket.settings.registry
        opening = None
        if registry is not None:
            opening = OPENING if isinstance(registry.syntax, ToolCallTags) else None if request.tools is None else ""
        self._filter = lambda: TurnFilter(request.sampling.stop_strings, opening)
        self.choices = [Choice(index, self._filter()) for index in range(request.samples)]
        self.prompt: Prompt | None = None

    @property
    def is_complete(self) -> bool:
        return all(choice.trajectory is not None for choice in self.choices)

    def add(self, event: Event) -> list[dict[str, Any]]:
        """Takes an event; the pieces of a streamed answer that it makes."""
        choice = self.choices[event.sample]
        match event:
            case TurnText():
                return self._text(choice, choice.filter.push(event.text))
            case OperationRun():
                return self._operation(choice, event)
            case EpisodeEnd():
                return self._end(choice, event.trajectory)

    def begin(self, prompt: Prompt) -> list[dict[str, Any]]:
        """Takes the prompt; the first pieces."""
        self.prompt = prompt
        pieces = [self._piece(choice, {"role": "assistant", "content": ""}) for choice in self.choices]
        if self._ticket.request.with_frames and prompt.state.frames:
            frames = [
                {"url": data_url(frame, side=FRAME_SIDE), "width": frame.width, "height": frame.height}
                for frame in prompt.state.frames
            ]
            pieces[0]["choices"][0]["delta"][EXTRA] = {"frames": frames}
        return pieces

    def usage(self) -> dict[str, Any]:
        """Tokens; those of a prompt count its images, and those of images that operations add are told apart."""
        tokens = 0 if self.prompt is None else len(self.prompt.rendered.tokens)
        images = 0 if self.prompt is None else sum(media.tokens for media in self.prompt.rendered.media)
        ended = [choice.trajectory for choice in self.choices if choice.trajectory is not None]
        sampled = sum(trajectory.sampled for trajectory in ended)
        observed = sum(int((trajectory.source == Source.OBSERVATION).sum()) for trajectory in ended)
        return {
            "prompt_tokens": tokens,
            "completion_tokens": sampled,
            "total_tokens": tokens + sampled,
            "prompt_tokens_details": {"image_tokens": images},
            EXTRA: {"observation_tokens": observed},
        }

    def whole(self) -> dict[str, Any]:
        """The body of an answer that is not streamed."""
        choices = []
        for choice in self.choices:
            message = {"role": "assistant", "content": choice.content or (None if choice.calls else "")}
            message |= {"tool_calls": choice.calls} if choice.calls else {}
            message[EXTRA] = self._extra(choice) | {"operations": choice.operations}
            choices.append(
                {
                    "index": choice.index,
                    "message": message,
                    "finish_reason": choice.finish_reason,
                    "stop_reason": choice.stopped_by,
                    "logprobs": self._logprobs(choice),
                }
            )
        return self._frame("chat.completion") | {"choices": choices, "usage": self.usage()}

    def last(self) -> dict[str, Any]:
        """The piece with the usage."""
        return self._frame("chat.completion.chunk") | {"choices": [], "usage": self.usage()}

    def _text(self, choice: Choice, text: str) -> list[dict[str, Any]]:
        if not text:
            return []
        if choice.begins_turn:
            text, choice.begins_turn = BETWEEN + text if choice.content else text, False
        choice.content += text
        return [self._piece(choice, {"content": text})]

    def _operation(self, choice: Choice, event: OperationRun) -> list[dict[str, Any]]:
        record = event.record
        if self._ticket.request.tools is not None:
            if record.name is None:  # no call that can be read: it is text
                return self._text(choice, choice.filter.close(False))
            pieces = self._text(choice, choice.filter.close(True))
            function = {"name": record.name, "arguments": arguments_json(record.arguments)}
            call = {"id": f"call_{secrets.token_hex(8)}", "type": "function", "function": function}
            choice.calls.append(call)
            return [*pieces, self._piece(choice, {"tool_calls": [{"index": 0, **call}]})]
        pieces = self._text(choice, choice.filter.close(True))
        choice.filter, choice.begins_turn = self._filter(), True
        shown = operation_dict(record, event.images)
        choice.operations.append(shown)
        return [*pieces, self._piece(choice, {EXTRA: {"operation": shown}})]

    def _end(self, choice: Choice, trajectory: Trajectory) -> list[dict[str, Any]]:
        choice.stopped_by = choice.filter.stopped_by
        pieces = self._text(choice, "" if choice.calls else choice.filter.close(False))
        choice.trajectory = trajectory
        last = self._piece(choice, {EXTRA: self._extra(choice)}, choice.finish_reason)
        last["choices"][0] |= {"stop_reason": choice.stopped_by, "logprobs": self._logprobs(choice)}
        return [*pieces, last]

    def _extra(self, choice: Choice) -> dict[str, Any]:
        """What is told of a response that has ended, its last turn to the letter among it."""
        ended = str(choice.trajectory.ended)
        if choice.trajectory.ended is Ended.OPERATIONS and self._ticket.request.tools is not None:
            ended = "tool_calls" if choice.calls else str(Ended.ANSWER)  # none runs here: no limit has ended it
        return {"ended": ended, "text": choice.trajectory.response}

    def _logprobs(self, choice: Choice) -> dict[str, Any] | None:
        """Log-probabilities under the model's own distribution of all tokens that were sampled."""
        if not self._ticket.request.logprobs:
            return None
        trajectory, processor = choice.trajectory, self._processor
        content = []
        for position in np.flatnonzero(trajectory.train):
            text = processor.tokenizer.decode([int(trajectory.tokens[position])])
            logprob = float(trajectory.policy_logprobs[position])
            content.append({"token": text, "logprob": logprob, "bytes": list(text.encode()), "top_logprobs": []})
        return {"content": content, "refusal": None}

    def _frame(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self._created, "model": self._ticket.request.model}

    def _piece(self, choice: Choice, delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        one = {"index": choice.index, "delta": delta, "finish_reason": finish}
        return self._frame("chat.completion.chunk") | {"choices": [one]}


def operation_dict(record: OperationRecord, images: Sequence[Picture]) -> dict[str, Any]:
    """An operation as clients see it, its images as data: URLs."""
    return dataclasses.asdict(record) | {"images": [data_url(image) for image in images]}


def data_url(picture: Any, kind: str = "JPEG", side: int = LONGEST_SIDE) -> str:
    """An image as a data: URL, reduced where a side is longer."""
    image = picture.load() if isinstance(picture, Picture) else picture.convert("RGB")
    image.thumbnail((side, side))
    buffer = io.BytesIO()
    image.save(buffer, kind, **({"quality": 85} if kind == "JPEG" else {}))
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"

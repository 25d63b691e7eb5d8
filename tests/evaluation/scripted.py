"""Policies that answer by a script, for tests of evaluations."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from PIL import Image

from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.processing import PictureStore
from pixel_reasoner_jax.rollout import QueryError
from pixel_reasoner_jax.trajectory import Ended, OperationRecord, Source, Trajectory
from tests.trajectories import message, text


class Killed(BaseException):
    """What ends an evaluation in the middle."""


class ScriptedPolicy:
    """Answers (query, sample) by a function, a few queries at a time and in another order than they were asked.

    Args:
      answer: (query, sample) -> the text of the response; a UserError that it raises makes the query unusable.
      kill_after: responses after which `Killed` is raised.

    Attributes:
      asked: the queries.
      given: how many responses were given.
      sampling: the settings of the last stream.
    """

    def __init__(self, answer: Callable[[dict[str, Any], int], str], kill_after: int | None = None, together: int = 3):
        self._answer, self._kill_after, self._together = answer, kill_after, together
        self.asked: list[dict[str, Any]] = []
        self.given, self.sampling = 0, None
        self._store = PictureStore()

    @contextlib.contextmanager
    def stream(self, queries, *, samples, seed, sampling):
        self.sampling = samples, seed, sampling
        yield Stream(self._responses(enumerate(queries), samples))

    def _responses(self, queries: Iterator, samples: int) -> Iterator[tuple[int, Trajectory | QueryError]]:
        open_queries = []
        for number, query in queries:
            self.asked.append(query)
            open_queries.append((number, query))
            if len(open_queries) == self._together:
                yield from self._end(open_queries, samples)
                open_queries = []
        yield from self._end(open_queries, samples)

    def _end(self, open_queries, samples):
        for number, query in reversed(open_queries):
            for sample in reversed(range(samples)):
                try:
                    response = self._answer(query, sample)
                except UserError as error:
                    yield number, QueryError(number, query["id"], str(error))
                    break
                if self.given == self._kill_after:
                    raise Killed
                self.given += 1
                yield number, trajectory(query, sample, response, self._store)


class Stream(Iterator):
    """Goes on after an error that it has raised, as a rollout does."""

    def __init__(self, responses: Iterator[tuple[int, Trajectory | QueryError]]):
        self._responses = responses

    def __next__(self) -> tuple[int, Trajectory]:
        number, response = next(self._responses)
        if isinstance(response, QueryError):
            raise response
        return number, response


def trajectory(query: dict[str, Any], sample: int, response: str, store: PictureStore | None = None) -> Trajectory:
    """A response that zooms into the query's image, if it has one, and answers."""
    images = [(store or PictureStore()).open(image) for image in query.get("images") or ()]
    messages = [
        message("system", text("You are a helpful assistant.")),
        message("user", *({"type": "image", "image": image} for image in images), text(query["question"])),
    ]
    operations = []
    if images:
        box = (2, 1, images[0].width - 2, images[0].height - 1)
        messages += [message("assistant", text("Let me zoom in.")), message("user", _crop(images[0], box))]
        operations = [OperationRecord(0, "crop_image_normalized", {}, boxes=(box,), sizes=((28, 28),), sources=(0,))]
    messages.append(message("assistant", text(response)))
    source = np.array([0, 0, 1, 1, 2, 1, 1], np.int8)
    sampled = source == Source.SAMPLED
    logprobs = np.where(sampled, -0.5 - np.arange(len(source)), 0).astype(np.float32)
    return Trajectory(
        query_id=query["id"],
        question=query["question"],
        reference="",
        messages=messages,
        tokens=np.arange(len(source), dtype=np.int32),
        source=source,
        train=sampled,
        media=[],
        sample=sample,
        logprobs=logprobs,
        policy_logprobs=logprobs,
        temperatures=np.ones(len(source), np.float32),
        operations=operations,
        ended=Ended.ANSWER,
    )


def _crop(image: Any, box: tuple[int, int, int, int]) -> dict[str, Any]:
    return {"type": "image", "image": image.crop(box), "kind": "crop"}


def picture(shade: int, size: tuple[int, int] = (80, 60)) -> Image.Image:
    return Image.new("RGB", size, (shade, 20, 20))

"""The prompt of a query: tools, media, question, guidelines (paper, appendix E.1)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from pixel_reasoner_jax.config_values import DEFAULT_OPERATIONS
from pixel_reasoner_jax.operations import MediaState, Registry
from pixel_reasoner_jax.processing import (
    Budgets,
    MediaError,
    Picture,
    PictureStore,
    Processor,
    Rendered,
    smart_resize,
)
from pixel_reasoner_jax.processing.items import media_source
from pixel_reasoner_jax.query import FractionBox, Query, object_box
from pixel_reasoner_jax.rollout.choices import with_choices

SYSTEM = "You are a helpful assistant."

_NAMED = " For a video, we can look closer by `select_frames`. For an image, we can look closer by `crop_image`."

GUIDELINES = (
    "Guidelines: Understand the given visual information and the user query. Determine if it is beneficial to employ"
    f" the given visual operations (tools).{_NAMED} Reason with the visual information step by step, and put your final"
    " answer within \\boxed{}."
)

OTHER_GUIDELINES = GUIDELINES.replace(_NAMED, "")
"""The same where other operations are offered."""

TEXT_ONLY_GUIDELINES = "Please think step by step, and put your final answer within \\boxed{}."


class QueryError(MediaError):
    """Media of a query cannot be used, or no longer: there are no responses to it, or no more. Other queries go on.

    Attributes:
      number: index of the query, in the order in which queries were given.
      query_id: its id.
      groups: where `Policy.rollout` raises it, the responses to the other queries.
    """

    def __init__(self, number: int, query_id: str, reason: str):
        super().__init__(reason)
        self.number, self.query_id = number, query_id
        self.groups: list[list[Any]] = []


def default_guidelines(registry: Registry) -> str:
    """The text after a question for these operations: the paper's, which names its own two, or without these names."""
    names = {operation.name for operation in registry.operations}
    return GUIDELINES if names.issuperset(DEFAULT_OPERATIONS) else OTHER_GUIDELINES


def query_messages(query: Query, tools: str | None, guidelines: str | None = None) -> list[dict[str, Any]]:
    """Writes the messages that begin the conversation about a query.

    Args:
      query: see `Query`; its media may already be processed (`processing.Media`).
      tools: the `# Tools` section of the system message (`operations.tools_section`); None for the text-only baseline.
      guidelines: the text after the question; None takes the paper's: `GUIDELINES` with tools, else
        `TEXT_ONLY_GUIDELINES`.

    Returns:
      The system and the user message in the Hugging Face form. Nothing in them is trained.
    """
    if guidelines is None:
        guidelines = TEXT_ONLY_GUIDELINES if tools is None else GUIDELINES
    system = SYSTEM if tools is None else SYSTEM + tools
    media: list[dict[str, Any]] = [{"type": "image", "image": image} for image in query.get("images") or ()]
    if query.get("video") is not None:
        rate = {"fps": query["fps"]} if query.get("fps") is not None else {}
        media.append({"type": "video", "video": query["video"], **rate})
    text = query["question"] + (f"\n\n{guidelines}" if guidelines else "")
    return [
        {"role": "system", "content": [{"type": "text", "text": system}]},
        {"role": "user", "content": [*media, {"type": "text", "text": text}]},
    ]


class ImageSizes(Protocol):
    """What tells the sizes in which a model is shown images: a `Processor`, or a `BudgetSizes`."""

    budgets: Budgets

    def resized(self, size: tuple[int, int], kind: str = "image") -> tuple[int, int]:
        """The (width, height) that an image of `size` is resized to; kind: see `Budgets`."""


@dataclasses.dataclass(frozen=True)
class BudgetSizes:
    """The sizes that budgets give, for a model whose processor is not here."""

    budgets: Budgets = Budgets()

    def resized(self, size: tuple[int, int], kind: str = "image") -> tuple[int, int]:
        return smart_resize(size, self.budgets.of(kind))


@dataclasses.dataclass(frozen=True)
class OpenedQuery:
    """A query whose media are opened and whose first messages are written, once for all of its samples.

    Attributes:
      messages: the conversation before the first response.
      state: the query's images and frames, as operations see them.
      store: keeps the pixels.
    """

    query: Query
    messages: list[dict[str, Any]]
    state: MediaState
    store: PictureStore

    @property
    def id(self) -> str:
        """The query's id."""
        return str(self.query["id"])

    @property
    def pictures(self) -> list[Picture]:
        """The query's images and frames."""
        return [*self.state.images, *self.state.frames]

    @property
    def object_box(self) -> FractionBox | None:
        """Where the query says that what it asks about is in its first image."""
        images = self.state.images
        return object_box(self.query, lambda: images[0].full_size) if images else None

    @classmethod
    def open(
        cls,
        query: Query,
        sizes: ImageSizes,
        registry: Registry | None,
        guidelines: str | None,
        store: PictureStore,
        alter: Callable[[Picture], Picture] | None = None,
    ) -> OpenedQuery:
        """Opens the media of a query and writes its conversation; `registry` None gives the text-only baseline.

        With `alter`, images and frames are replaced by what it makes of them, of the same size.

        Raises:
          UserError: a medium cannot be read, or there are images and a video.
        """
        question, answer = with_choices(query["question"], query.get("answer", ""), query.get("options"))
        query = {**query, "question": question, "answer": answer}
        images: list[Picture] = []
        video = None
        try:
            for image in query.get("images") or ():
                images.append(store.open(media_source(image)))
            if query.get("video") is not None:
                budgets = sizes.budgets
                source, fps = media_source(query["video"]), query.get("fps")
                video = store.open_video(source, budgets.video_frames, fps, budgets.video_rate)
        except BaseException:
            for picture in images:
                store.forget(picture)
            raise
        if alter is not None:
            images = [*map(alter, images)]
            video = video and dataclasses.replace(video, frames=[*map(alter, video.frames)])
        frames = video.frames if video else None
        state = MediaState.from_query(images, frames, sizes.resized, video.clip if video else None)
        tools = registry.tools_section(state) if registry is not None and registry.operations else None
        if tools is not None and guidelines is None:
            guidelines = default_guidelines(registry)
        messages = query_messages({**query, "images": images, "video": video}, tools, guidelines)
        return OpenedQuery(query, messages, state, store)


@dataclasses.dataclass(frozen=True)
class Prompt(OpenedQuery):
    """An opened query whose prompt is rendered.

    Attributes:
      rendered: the prompt's tokens and media, and the tokens that its response begins with, if these are given.
      positions: int32 [3, tokens], their M-RoPE positions.
      next_position: M-RoPE position of the first token after them.
      given: how many tokens at the end of `rendered` are the response's.
    """

    rendered: Rendered
    positions: np.ndarray
    next_position: int
    given: int = 0

    @classmethod
    def build(
        cls,
        query: Query,
        processor: Processor,
        registry: Registry | None,
        guidelines: str | None,
        store: PictureStore,
        alter: Callable[[Picture], Picture] | None = None,
        prefix: str = "",
    ) -> Prompt:
        """Opens the media of a query and renders its conversation.

        Args:
          prefix: the text that a response begins with.

        Other arguments and errors are those of `OpenedQuery.open`.
        """
        opened = OpenedQuery.open(query, processor, registry, guidelines, store, alter)
        rendered = processor.render(opened.messages, generation_prompt=True)
        given = processor.encode(prefix) if prefix else ()
        if prefix:
            tokens = np.concatenate([rendered.tokens, given])
            rendered = dataclasses.replace(rendered, tokens=tokens, train=np.zeros(len(tokens), bool))
        positions, following = processor.positions(rendered.tokens, rendered.media)
        return cls(**vars(opened), rendered=rendered, positions=positions, next_position=following, given=len(given))

"""The prompt of a query: tools, media, question, guidelines (paper, appendix E.1)."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.operations import MediaState, Registry, tools_section
from pixel_reasoner_jax.processing import MediaError, Picture, PictureStore, Processor, Rendered

SYSTEM = "You are a helpful assistant."

GUIDELINES = (
    "Guidelines: Understand the given visual information and the user query. Determine if it is beneficial to employ"
    " the given visual operations (tools). For a video, we can look closer by `select_frames`. For an image, we can"
    " look closer by `crop_image`. Reason with the visual information step by step, and put your final answer within"
    " \\boxed{}."
)

TEXT_ONLY_GUIDELINES = "Please think step by step, and put your final answer within \\boxed{}."

Query = Mapping[str, Any]
"""A mapping with `id`, `question`, `answer` (str or list of str) and `images` (a list) or `video`.

Rollouts do not need `answer`; it is needed where responses are scored. For a video given as a list of frames, `fps` is
the number of these frames in a second, 2 unless given.
"""

KEYS = ("id", "question", "answer", "images", "video", "fps")


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


def check_query(query: Query, scored: bool = False) -> Query:
    """Checks that a mapping is a query, and returns it unchanged.

    Args:
      query: see `Query`.
      scored: whether responses will be compared with the query's answer, so that it must have one.

    Raises:
      UserError: it is not a query; the message says which key is wrong and what it must be.
    """
    if not isinstance(query, Mapping):
        raise UserError(f"a query is a mapping with {', '.join(KEYS)}, and queries are a list of them; got {query!r}")
    name = f"query {query['id']!r}" if query.get("id") is not None else f"a query with the keys {list(query)}"
    for key in query:
        if key not in KEYS:
            close = difflib.get_close_matches(str(key), KEYS, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(KEYS)}"
            raise UserError(f"{name}: unknown key {key!r}; {hint}")
    for key in ("id", "question", *(["answer"] if scored else [])):
        if query.get(key) in (None, "", []):
            raise UserError(f"{name}: it has no {key}")
    if not isinstance(query["question"], str):
        raise UserError(f"{name}: question must be a text, got {query['question']!r}")
    images = query.get("images")
    if images is not None and (isinstance(images, str | bytes) or not isinstance(images, Sequence)):
        raise UserError(f"{name}: images must be a list, of one image too; got {type(images).__name__}")
    return query


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


@dataclasses.dataclass(frozen=True)
class Prompt:
    """A query whose media are opened and whose prompt is rendered, once for all of its samples.

    Attributes:
      messages: the conversation before the first response.
      state: the query's images and frames, as operations see them.
      rendered: the prompt's tokens and media.
      positions: int32 [3, tokens], M-RoPE positions of the prompt.
      next_position: M-RoPE position of the response's first token.
      store: keeps the pixels.
    """

    query: Query
    messages: list[dict[str, Any]]
    state: MediaState
    rendered: Rendered
    positions: np.ndarray
    next_position: int
    store: PictureStore

    @property
    def id(self) -> str:
        """The query's id."""
        return str(self.query["id"])

    @property
    def pictures(self) -> list[Picture]:
        """The query's images and frames."""
        return [*self.state.images, *self.state.frames]

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
        images: list[Picture] = []
        video = None
        try:
            for image in query.get("images") or ():
                images.append(store.open(image))
            if query.get("video") is not None:
                budgets = processor.budgets
                video = store.open_video(query["video"], budgets.video_frames, query.get("fps"), budgets.video_rate)
        except BaseException:
            for picture in images:
                store.forget(picture)
            raise
        frames = video.frames if video else None
        state = MediaState.from_query(images=images, video_frames=frames, resized=processor.resized)
        tools = None if registry is None else tools_section(registry.signatures(state))
        messages = query_messages({**query, "images": images, "video": video}, tools, guidelines)
        rendered = processor.render(messages, generation_prompt=True)
        positions, next_position = processor.positions(rendered.tokens, rendered.media)
        return cls(query, messages, state, rendered, positions, next_position, store)

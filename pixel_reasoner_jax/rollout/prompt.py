"""What the model is told before it answers: tools, media, question, guidelines (paper, appendix E.1)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SYSTEM = "You are a helpful assistant."

GUIDELINES = (
    "Guidelines: Understand the given visual information and the user query. Determine if it is beneficial to employ"
    " the given visual operations (tools). For a video, we can look closer by `select_frames`. For an image, we can"
    " look closer by `crop_image`. Reason with the visual information step by step, and put your final answer within"
    " \\boxed{}."
)

TEXT_ONLY_GUIDELINES = "Please think step by step, and put your final answer within \\boxed{}."

Query = Mapping[str, Any]
"""A mapping with `id`, `question`, `answer` (str or list of str) and `images` (a list) or `video`."""


def query_messages(query: Query, tools: str | None, guidelines: str | None = None) -> list[dict[str, Any]]:
    """Opens the conversation about a query.

    Args:
      query: see `Query`; its media may already be processed (`processing.Media`).
      tools: the `# Tools` section of the system message (`operations.tools_section`); None for the text-only baseline.
      guidelines: the text after the question; None takes the paper's, with or without tools.

    Returns:
      The system and the user message in the Hugging Face form. Nothing in them is trained.
    """
    if guidelines is None:
        guidelines = TEXT_ONLY_GUIDELINES if tools is None else GUIDELINES
    system = SYSTEM if tools is None else SYSTEM + tools
    media: list[dict[str, Any]] = [{"type": "image", "image": image} for image in query.get("images") or ()]
    if query.get("video") is not None:
        media.append({"type": "video", "video": query["video"]})
    text = query["question"] + (f"\n\n{guidelines}" if guidelines else "")
    return [
        {"role": "system", "content": [{"type": "text", "text": system}]},
        {"role": "user", "content": [*media, {"type": "text", "text": text}]},
    ]

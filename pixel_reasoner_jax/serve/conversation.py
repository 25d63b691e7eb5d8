"""Turns a request into the prompt that the model continues: its media opened, the operations described."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pixel_reasoner_jax.operations import MediaState, Operation, OperationError, Registry, Result
from pixel_reasoner_jax.operations.syntaxes import ToolCallTags
from pixel_reasoner_jax.processing import Picture, Processor
from pixel_reasoner_jax.query import Query
from pixel_reasoner_jax.rollout.policy import Policy
from pixel_reasoner_jax.rollout.prompt import SYSTEM, TEXT_ONLY_GUIDELINES, Prompt, default_guidelines
from pixel_reasoner_jax.serve.errors import refused
from pixel_reasoner_jax.serve.request import ChatRequest
from pixel_reasoner_jax.serve.sources import MediaSources

LEAST_TOKENS = 4  # of an image that is shown in its own size


class ClientTool(Operation):
    """A function that the client runs: it is described to the model, and its calls are read."""

    def __init__(self, signature: Mapping[str, Any]):
        function = signature["function"]
        self.name = function["name"]
        self.arguments = tuple((function.get("parameters") or {}).get("properties") or ())
        self._signature = dict(signature)

    def describe(self, state: MediaState) -> dict[str, Any]:
        return self._signature

    def run(self, arguments: dict[str, Any], state: MediaState) -> Result:
        raise OperationError(f"{self.name} is run by the client")

    def observation_text(self, result: Result, sizes: Any) -> str:
        return ""


def registry_of(request: ChatRequest, policy: Policy) -> Registry | None:
    """What the model may call: the policy's operations, or the client's functions; None for nothing."""
    if request.tools is None:
        return policy.registry
    if not request.tools:
        return None
    syntax = ToolCallTags() if policy.registry is None else policy.registry.syntax
    return Registry(map(ClientTool, request.tools), syntax)


def build_prompt(
    query: Query, request: ChatRequest, policy: Policy, sources: MediaSources, registry: Registry | None, most: int
) -> Prompt:
    """The prompt of a request, in a worker thread.

    Args:
      query: what the prompt is to be known as.
      sources: what media may be read.
      registry: see `registry_of`.
      most: tokens of prompt and response together.

    Raises:
      ApiError, UserError: a medium cannot be used, or the prompt is too long.
    """
    processor, messages, pictures, video = policy.processor, [], [], None
    for message in request.messages:
        content = []
        for item in message["content"]:
            if item["type"] == "image":
                picture = policy.store.open(sources.read(item["url"]))
                pictures.append(picture)
                own = own_size(picture, processor) if request.tools is not None else {}
                item = {"type": "image", "image": picture, **own}
            elif item["type"] == "video":
                budgets, fps = processor.budgets, item.get("fps")
                rate = budgets.video_rate
                video = policy.store.open_video(sources.read(item["url"]), budgets.video_frames, fps, rate)
                item = {"type": "video", "video": video}
            content.append(item)
        messages.append({"role": message["role"], "content": content})
    state = MediaState.from_query(
        pictures, video.frames if video else None, processor.resized, video.clip if video else None
    )
    _add_instructions(messages, request, policy, registry, state)
    rendered = processor.render(messages, generation_prompt=True)
    if len(rendered.tokens) >= most:
        raise refused(
            f"the messages have {len(rendered.tokens):,} tokens; the model's context length here is {most:,}",
            "messages",
            "context_length_exceeded",
        )
    positions, following = processor.positions(rendered.tokens, rendered.media)
    return Prompt(query, messages, state, policy.store, rendered, positions, following)


def own_size(picture: Picture, processor: Processor) -> dict[str, int]:
    """What keeps the size of an image of a client that runs operations itself: it has resized crops as they are shown.

    That is an image of whole tokens, no more of them than the largest budget has. Others are resized.
    """
    side = processor.geometry.token_size
    most = max(processor.budgets.of(kind)[1] for kind in ("image", "crop", "frame", "video"))
    (width, more_width), (height, more_height) = (divmod(length, side) for length in picture.size)
    if more_width or more_height or not LEAST_TOKENS <= width * height <= most:
        return {}
    return {"resized_width": picture.width, "resized_height": picture.height}


def _add_instructions(
    messages: list[dict[str, Any]],
    request: ChatRequest,
    policy: Policy,
    registry: Registry | None,
    state: MediaState,
) -> None:
    """Describes what may be called in the system message, and where operations run here, says how to answer."""
    if messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": [{"type": "text", "text": SYSTEM}]})
    tools = registry.tools_section(state) if registry is not None and registry.operations else None
    system = messages[0]["content"]
    if tools and tools.strip() not in "".join(item["text"] for item in system):  # some clients write it themselves
        system.append({"type": "text", "text": tools})
    if request.tools is not None:
        return
    guidelines = policy.guidelines
    if guidelines is None:
        guidelines = TEXT_ONLY_GUIDELINES if tools is None else default_guidelines(registry)
    if guidelines:
        messages[-1]["content"].append({"type": "text", "text": f"\n\n{guidelines}"})


def arguments_json(arguments: Any) -> str:
    """The arguments of a call as chat completions have them, a JSON text."""
    return json.dumps(arguments or {}, ensure_ascii=False)

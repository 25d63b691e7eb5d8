"""Responses that no model has sampled: what the data give, as trajectories, and pictures as they are without noise."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from pixel_reasoner_jax.operations import Registry
from pixel_reasoner_jax.processing import Media, Picture, Processor
from pixel_reasoner_jax.rollout.dialogue import Limits
from pixel_reasoner_jax.rollout.episode import Episode
from pixel_reasoner_jax.rollout.prompt import Prompt
from pixel_reasoner_jax.rollout.sampling import SamplingSettings
from pixel_reasoner_jax.trajectory import Trajectory


def given_response(
    prompt: Prompt, sample: int, processor: Processor, registry: Registry | None, limits: Limits
) -> Trajectory | None:
    """The trajectory of a response that is given whole: the text that its prompt was built with as prefix.

    Returns:
      The trajectory, with log-probabilities of 0; None where the response is longer than the limits allow, or calls an
      operation, which would have to be executed.
    """
    closed = np.append(prompt.rendered.tokens, processor.im_end).astype(np.int32)
    rendered = dataclasses.replace(prompt.rendered, tokens=closed, train=np.zeros(len(closed), bool))
    prompt = dataclasses.replace(prompt, rendered=rendered, given=prompt.given + 1)
    asked = len(closed) - prompt.given
    fits = prompt.given <= limits.max_response_tokens and (
        limits.max_length is None or asked + prompt.given <= limits.max_length
    )
    episode = Episode(prompt, sample, processor, registry, limits, SamplingSettings())
    if not fits or episode.end_turn(stopped=True) is not None:
        return None
    return episode.trajectory()


def clean_media(trajectory: Trajectory, processor: Processor, known: dict[str, Media]) -> list[Media]:
    """The media of a trajectory with its pictures as they are without what stands for them (`Picture.replaced`).

    Args:
      known: media by their key, which all responses of a query share; new ones are added.
    """

    def replaced(item: dict[str, Any]) -> dict[str, Any]:
        if item["type"] == "image" and isinstance(item["image"], Picture):
            return {**item, "image": item["image"].replaced()}
        if item["type"] == "video":
            video = item["video"]
            return {**item, "video": dataclasses.replace(video, frames=[one.replaced() for one in video.frames])}
        return item

    messages = [{**message, "content": [*map(replaced, message["content"])]} for message in trajectory.messages]
    media = processor.render(messages).media
    return [known.setdefault(one.key, one) for one in media]

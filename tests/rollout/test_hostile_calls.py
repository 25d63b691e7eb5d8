"""Whatever a model writes, its episode ends as an episode does: nothing is raised, nothing grows, nothing is earned."""

from __future__ import annotations

import dataclasses
import json
import resource
import time

import numpy as np
import pytest
from PIL import Image

from pixel_reasoner_jax.operations import default_registry
from pixel_reasoner_jax.processing.pictures import PictureStore
from pixel_reasoner_jax.rollout import Limits
from pixel_reasoner_jax.rollout.episode import Episode
from pixel_reasoner_jax.rollout.prompt import Prompt
from pixel_reasoner_jax.rollout.sampling import SamplingSettings
from pixel_reasoner_jax.trajectory import Source
from tests.mutations import mutated_text

LIMITS = Limits(max_operations=4, max_response_tokens=30_000, max_images=12)
MEBIBYTE = 2**20 // 1024  # in the units of ru_maxrss

IMAGE_CALLS = [
    {"name": "crop_image_normalized", "arguments": {"bbox_2d": [0.1, 0.2, 0.6, 0.9], "target_image": 1}},
    {"name": "crop_image", "arguments": {"bbox_2d": [10, 10, 90, 90], "target_image": 1}},
    {"name": "zoom_in", "arguments": {"bbox_2d": [0.5, 0.25, 0.75, 0.5], "target_image": 2}},
]
VIDEO_CALLS = [
    {"name": "select_frames", "arguments": {"target_frames": [1, 3, 4]}},
    {"name": "crop_image_normalized", "arguments": {"bbox_2d": [0.1, 0.2, 0.6, 0.9], "target_image": 3}},
]


@dataclasses.dataclass
class Figures:
    calls: int = 0
    episodes: int = 0
    succeeded: int = 0
    slowest: float = 0.0


def prompts(processor, registry):
    noise = np.random.default_rng(0).integers(0, 255, (300, 400, 3), np.uint8)
    frames = [Image.new("RGB", (120, 90), (40 * n, 0, 0)) for n in range(5)]
    for query in ({"images": [Image.fromarray(noise)]}, {"images": [Image.fromarray(noise)] * 2}, {"video": frames}):
        query = {"id": "q", "question": "What is it?", "answer": "a cat", **query}
        yield Prompt.build(query, processor, registry, None, PictureStore())


def play(prompt, processor, registry, random, figures: Figures) -> None:
    """Plays one episode in which most turns are mutated calls, and checks what is left of it."""
    episode = Episode(prompt, 0, processor, registry, LIMITS, SamplingSettings())
    calls = VIDEO_CALLS if "video" in prompt.query else IMAGE_CALLS
    stop = min(processor.stop_tokens)
    while episode.ended is None:
        call = json.dumps(calls[random.integers(len(calls))])
        text = f"I will look closer.\n<tool_call>\n{call}\n</tool_call>"
        text = mutated_text(text, random) if random.random() < 0.9 else text
        ids = processor.tokenizer.encode(text, add_special_tokens=False)
        ids = [token for token in ids if token not in processor.stop_tokens][: max(episode.room - 1, 0)] + [stop]
        zeros = np.zeros(len(ids), np.float32)
        began = time.perf_counter()
        episode.add_sampled(np.array(ids, np.int32), zeros, zeros)
        asked = episode.end_turn(stopped=True)
        figures.calls += 1
        if asked is not None:
            episode.observe(asked, episode.execute(asked))
        figures.slowest = max(figures.slowest, time.perf_counter() - began)
    figures.episodes += 1
    trajectory = episode.trajectory()
    assert len(trajectory.tokens) == len(trajectory.source) == len(trajectory.train)
    assert (trajectory.train == (trajectory.source == Source.SAMPLED)).all()
    assert len(trajectory.operations) <= LIMITS.max_operations + 1
    observed = [m for m in trajectory.messages[len(prompt.messages) :] if m["role"] == "user"]
    images = sum(item["type"] == "image" for message in observed for item in message["content"])
    assert images <= LIMITS.max_images
    # What counts as an operation that succeeded has shown something.
    succeeded = [record for record in trajectory.operations if record.succeeded]
    assert images >= len(succeeded) and all(record.sizes for record in succeeded)
    figures.succeeded += len(succeeded)
    for media in trajectory.media[len(prompt.rendered.media) :]:  # which are made when they are used
        assert len(media.pixels) == np.prod(media.grid)


def hostile_episodes(processor, calls: int, seed: int) -> Figures:
    registry, random, figures = default_registry(), np.random.default_rng(seed), Figures()
    built = list(prompts(processor, registry))
    while figures.calls < calls:
        play(built[random.integers(len(built))], processor, registry, random, figures)
    return figures


def test_mutated_calls(world):
    figures = hostile_episodes(world[1], 200, seed=0)
    assert figures.succeeded > 10  # some still are calls


@pytest.mark.slow
def test_20_000_mutated_calls(world):
    hostile_episodes(world[1], 200, seed=1)  # what is imported and cached once
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    figures = hostile_episodes(world[1], 20_000, seed=2)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / MEBIBYTE
    print(f"\n{figures}, {grown:.0f} MiB more, {time.perf_counter() - began:.0f} s")
    assert figures.slowest < 10 and grown < 256

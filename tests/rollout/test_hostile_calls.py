"""Whatever a model writes, its episode ends as an episode does: nothing is raised, nothing grows, nothing is earned."""

from __future__ import annotations

import dataclasses
import json
import resource
import time

import numpy as np
import pytest
from PIL import Image

from pixel_reasoner_jax.operations import Call, default_registry, make_registry
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

BOX = [20, 20, 90, 80]
OTHERS = {  # syntax: (operations, calls of images, calls of videos)
    "tool_call": (
        ("zoom_image", "zoom_in_on_point", "rotate_image", "draw_boxes", "draw_lines", "swap_tiles", "find_segment"),
        [
            Call("zoom_image", {"bbox_2d": BOX, "target_image": 1}),
            Call("zoom_in_on_point", {"coordinate": [50, 40], "target_image": 2}),
            Call("rotate_image", {"angle": 90, "target_image": 1}),
            Call("draw_boxes", {"boxes": [{"bbox_2d": BOX, "label": "a cat"}], "target_image": 1}),
            Call("draw_lines", {"lines": [{"start_point_2d": [0, 9], "end_point_2d": [70, 9]}], "target_image": 2}),
            Call("swap_tiles", {"first": 1, "second": 4}),
        ],
        [Call("find_segment", {"segments": [1]}), Call("rotate_image", {"angle": 30, "target_image": 2})],
    ),
    "tags": (
        ("mini_o3_zoom", "vrag_bbox"),
        [
            Call("grounding", {"bbox_2d": [0.1, 0.1, 0.6, 0.7], "source": "observation_1"}),
            Call("bbox", {"bbox_2d": BOX}),
        ],
        [Call("grounding", {"bbox_2d": [0.1, 0.1, 0.9, 0.9], "source": "original_image"})],
    ),
    "action": (
        ("frames_between", "frame_at_time", "rotate_image"),
        [Call("rotate_image", {"angle": 180, "target_image": 1})],
        [Call("frames_between", {"start": 1, "end": 4}), Call("frame_at_time", {"time": "00:01"})],
    ),
    "labelled": (
        ("vilasr_boxes", "vilasr_lines"),
        [Call("draw_boxes", {"boxes": [{"index": 0, "bbox_2d": BOX, "label": "a cat"}]})],
        [Call("draw_lines", {"lines": [{"index": 1, "start_point_2d": [0, 9], "end_point_2d": [70, 9]}]})],
    ),
}


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


def play(prompt, processor, registry, random, figures: Figures, texts) -> None:
    """Plays one episode in which most turns are mutated calls, and checks what is left of it.

    `texts` are calls of images, and calls of videos.
    """
    episode = Episode(prompt, 0, processor, registry, LIMITS, SamplingSettings())
    calls = texts["video" in prompt.query]
    stop = min(processor.stop_tokens)
    while episode.ended is None:
        text = f"I will look closer.\n{calls[random.integers(len(calls))]}"
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


def hostile_episodes(processor, calls: int, seed: int, syntax: str | None = None) -> Figures:
    """Of the default operations, or of the others of a syntax."""
    registry, random, figures = default_registry(), np.random.default_rng(seed), Figures()
    texts = [[f"<tool_call>\n{json.dumps(call)}\n</tool_call>" for call in few] for few in (IMAGE_CALLS, VIDEO_CALLS)]
    if syntax:
        names, *others = OTHERS[syntax]
        registry = make_registry(names, syntax)
        texts = [[registry.write(call) for call in few] for few in others]
    built = list(prompts(processor, registry))
    while figures.calls < calls:
        play(built[random.integers(len(built))], processor, registry, random, figures, texts)
    return figures


def test_mutated_calls(world):
    figures = hostile_episodes(world[1], 200, seed=0)
    assert figures.succeeded > 10  # some still are calls


@pytest.mark.parametrize("syntax", OTHERS)
def test_mutated_calls_of_other_operations(world, syntax, caplog):
    figures = hostile_episodes(world[1], 60, seed=3, syntax=syntax)
    assert figures.succeeded > 2
    assert " failed" not in caplog.text  # no operation has raised what is not an OperationError


@pytest.mark.slow
@pytest.mark.parametrize("syntax", [None, *OTHERS])
def test_20_000_mutated_calls(world, syntax):
    hostile_episodes(world[1], 200, seed=1, syntax=syntax)  # what is imported and cached once
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    figures = hostile_episodes(world[1], 5000 if syntax else 20_000, seed=2, syntax=syntax)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / MEBIBYTE
    print(f"\n{figures}, {grown:.0f} MiB more, {time.perf_counter() - began:.0f} s")
    assert figures.slowest < 10 and grown < 256

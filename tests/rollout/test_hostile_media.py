"""Whatever a file holds, it is read, or refused by a `MediaError` that names it, in bounded memory and time."""

from __future__ import annotations

import io
import pathlib
import resource
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data_pipeline.seed import Seed
from data_pipeline.synthesis import BudgetMediaLoader, SynthesisError, Synthesizer, TemplateCaptioner
from pixel_reasoner_jax.operations import default_registry
from pixel_reasoner_jax.processing import MediaError, Processor
from pixel_reasoner_jax.rollout import Limits, Policy
from tests.mutations import mutated_bytes
from tests.processing.avi import write_avi

IMAGES = [
    ("JPEG", "RGB", {"quality": 80}),
    ("JPEG", "L", {"progressive": True}),
    ("JPEG", "CMYK", {}),
    ("PNG", "RGBA", {}),
    ("PNG", "I;16", {}),
    ("PNG", "P", {}),
    ("WEBP", "RGB", {}),
    ("WEBP", "RGBA", {"lossless": True}),
    ("GIF", "P", {}),
    ("BMP", "RGB", {}),
    ("PPM", "RGB", {}),
    ("TIFF", "RGB", {"compression": "tiff_lzw"}),
    ("TIFF", "L", {}),
]
CLIPS = [  # suffix, arguments of ffmpeg
    ("mp4", ["-c:v", "mpeg4"]),
    ("mkv", ["-c:v", "mpeg4"]),
    ("avi", ["-c:v", "mjpeg"]),
    ("ts", ["-c:v", "mpeg2video"]),
    ("mpg", ["-c:v", "mpeg1video", "-r", "25"]),
]
MEBIBYTE = 2**20 // 1024  # in the units of ru_maxrss
DEADLINE = 60.0  # seconds for one file


def image_files() -> list[bytes]:
    noise = np.random.default_rng(0).integers(0, 255, (61, 83, 3), np.uint8)
    files = []
    for form, mode, options in IMAGES:
        image = Image.fromarray(noise)
        image = image.convert("L").convert("I;16") if mode == "I;16" else image.convert(mode)
        buffer = io.BytesIO()
        image.save(buffer, form, **options)
        files.append(buffer.getvalue())
    return files


def video_files(folder: pathlib.Path) -> list[bytes]:
    frames = [Image.new("RGB", (64, 48), (20 * n, 255 - 20 * n, 0)) for n in range(12)]
    files = [write_avi(folder / "clip.avi", frames, 4).read_bytes()]
    if program := shutil.which("ffmpeg"):
        for suffix, options in CLIPS:
            path = folder / f"made.{suffix}"
            made = [program, "-v", "error", "-i", folder / "clip.avi", *options, path]
            subprocess.run(made, check=True, stdin=subprocess.DEVNULL)
            files.append(path.read_bytes())
    return files


def mutants(files: list[bytes], count: int, random: np.random.Generator) -> Iterator[bytes]:
    """First the files themselves, then mutated ones."""
    yield from files
    for number in range(count):
        yield mutated_bytes(files[number % len(files)], random)


def survives(what: Callable[[], Any], *refusals: type[Exception]) -> bool:
    """Whether it was done; False if it was refused. Anything else is raised, as is a step beyond the deadline."""
    began = time.monotonic()
    try:
        what()
        return True
    except (MediaError, *refusals) as error:
        assert 0 < len(str(error)) < 1000
        return False
    finally:
        assert time.monotonic() - began < DEADLINE


def hostile_media(
    processor: Processor, key: str, media: Iterator[bytes], seed: Callable[[int, bytes], Seed]
) -> tuple[dict[str, int], list[dict[str, Any]]]:
    """Puts each file through the processor and synthesis; returns how many each took, and the queries to answer."""
    synthesizer = Synthesizer(default_registry(), BudgetMediaLoader(processor.budgets), TemplateCaptioner())
    counts, queries = {"files": 0, "rendered": 0, "synthesized": 0}, []

    def render(data: bytes) -> None:
        kind = "image" if key == "images" else "video"
        rendered = processor.render([{"role": "user", "content": [{"type": kind, kind: data}]}])
        assert all(len(one.pixels) == np.prod(one.grid) for one in rendered.media)

    for number, data in enumerate(media):
        counts["files"] += 1
        rendered = survives(lambda data=data: render(data))
        counts["rendered"] += rendered
        counts["synthesized"] += survives(lambda n=number, data=data: synthesizer(seed(n, data)), SynthesisError)
        if rendered:
            value = [data] if key == "images" else data
            queries.append({"id": str(number), "question": "What is it?", "answer": "a cat", key: value})
    return counts, queries


def image_seed(number: int, data: bytes) -> Seed:
    return Seed(f"seed-{number}", "What is it?", "a cat", (data,), cue=(0.2, 0.2, 0.7, 0.8))


def video_seed(number: int, data: bytes) -> Seed:
    return Seed(f"seed-{number}", "What happens?", "a jump", video=data, cue=(2, 3))


def test_mutated_media(world, tmp_path):
    random = np.random.default_rng(0)
    counts, _ = hostile_media(world[1], "images", mutants(image_files(), 40, random), image_seed)
    assert len(IMAGES) <= counts["rendered"] < counts["files"]
    videos = [write_avi(tmp_path / "a.avi", [Image.new("RGB", (64, 48), (20 * n, 0, 0)) for n in range(6)], 4)]
    counts, _ = hostile_media(world[1], "video", mutants([videos[0].read_bytes()], 10, random), video_seed)
    assert 1 <= counts["rendered"] < counts["files"]


@pytest.mark.slow
@pytest.mark.parametrize("key, count", [("images", 1000), ("video", 300)])
def test_1000_mutated_images_and_300_videos(world, tmp_path, key, count):
    random = np.random.default_rng(1)
    files, seed = (image_files(), image_seed) if key == "images" else (video_files(tmp_path), video_seed)
    model, processor = world
    policy = Policy(model, processor, registry=default_registry(), limits=Limits(1, max_response_tokens=4), slots=16)

    def answered(queries: list[dict[str, Any]]) -> int:
        with policy.stream(queries, samples=1, seed=0) as stream:
            return sum(1 for _ in stream)

    answered(hostile_media(processor, key, mutants(files, 20, random), seed)[1])  # what is compiled once
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    counts, queries = hostile_media(processor, key, mutants(files, count, random), seed)
    assert answered(queries) == len(queries)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / MEBIBYTE
    print(f"\n{key}: {counts}, {grown:.0f} MiB more, {time.perf_counter() - began:.0f} s")
    assert grown < 1024

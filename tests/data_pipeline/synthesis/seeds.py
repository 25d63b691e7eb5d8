"""Seeds for tests of synthesis."""

from __future__ import annotations

import io
import pathlib

import numpy as np
from PIL import Image

from data_pipeline.seed import Seed
from data_pipeline.synthesis import BudgetMediaLoader

CUE = (0.4, 0.3, 0.55, 0.5)
MEDIA = BudgetMediaLoader()


def picture(number: int, size=(200, 160)) -> Image.Image:
    """A picture unlike that of any other number, coarse enough to survive encoding and resizing."""
    blocks = np.random.default_rng(number).integers(0, 255, (8, 10, 3), np.uint8)
    return Image.fromarray(blocks).resize(size, Image.Resampling.NEAREST)


def encoded(image: Image.Image, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, **({"format": "PNG"} | options))
    return buffer.getvalue()


def image_seed(number: int, **changes) -> Seed:
    fields = {"id": f"seed-{number}", "question": f"What is at place {number}?", "answer": "a siamese cat", "cue": CUE}
    return Seed(**(fields | {"images": (encoded(picture(number)),)} | changes))


def video_seed(number: int, **changes) -> Seed:
    frames = [picture(100 * number + frame, (64, 48)) for frame in range(8)]
    fields = {"id": f"video-{number}", "question": "What happens?", "answer": "a jump", "video": frames, "cue": (3, 4)}
    return Seed(**(fields | changes))


def files_of(directory: pathlib.Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}

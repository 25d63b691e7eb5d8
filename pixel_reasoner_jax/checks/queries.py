"""Queries that need no file: an image with a fine detail, several images, and a video."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image, ImageDraw

FPS = 0.25  # of the video: its time has more positions than its frames have rows and columns


def built_in_queries() -> list[dict[str, Any]]:
    """Three queries, as `Policy.stream` takes them; the answers are not scored."""
    return [
        {
            "id": "fine detail",
            "question": "What is the small number near the edge?",
            "images": [_picture((840, 616), (0.82, 0.71), "4071")],
        },
        {
            "id": "several images",
            "question": "Which image shows the larger number?",
            "images": [
                _picture((420, 280), (0.2, 0.3), "12"),
                _picture((252, 504), (0.5, 0.6), "95"),
                _picture((336, 336), (0.7, 0.1), "38"),
            ],
        },
        {
            "id": "video",
            "question": "In which frame does the number change?",
            "video": [_picture((308, 224), (0.1 + 0.1 * n, 0.4), "7" if n < 4 else "8") for n in range(6)],
            "fps": FPS,
        },
    ]


def _picture(size: tuple[int, int], place: tuple[float, float], text: str) -> Image.Image:
    """A gradient, so that every part of the picture differs from the others, with a small text on it.

    Args:
      size: (width, height) in pixels.
      place: of the text, as fractions of the width and height.
      text: drawn a few pixels high.
    """
    width, height = size
    rows, columns = np.linspace(0, 1, height)[:, None], np.linspace(0, 1, width)[None]
    levels = np.stack([80 + 150 * columns + 0 * rows, 80 + 150 * rows + 0 * columns, 230 - 75 * (rows + columns)], -1)
    image = Image.fromarray(levels.astype(np.uint8))
    ImageDraw.Draw(image).text((int(place[0] * width), int(place[1] * height)), text, fill=(20, 20, 20))
    return image

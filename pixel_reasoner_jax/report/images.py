"""Images of a conversation as small pictures inside an HTML page or as numbers in a JSON file."""

from __future__ import annotations

import base64
import io
import math
from typing import Any

from PIL import Image

from pixel_reasoner_jax.processing import Media, MediaError, Picture, load_image

MIN_SIDE = 48  # a thumbnail is never reduced below this to fit its share of bytes


def open_image(source: Any) -> Image.Image | None:
    """An RGB image from a picture, a PIL image, a path or encoded bytes.

    Returns None where there are no pixels to show: a processed image (patches only), or a file that is gone or broken.
    A report is written after the work is done, so a missing picture must not lose it.
    """
    if isinstance(source, Media):
        return None
    try:
        return load_image(source)
    except MediaError:
        return None


def size_of(source: Any | Media) -> tuple[int, int] | None:
    """(width, height) of an image or processed image, None where it cannot be known."""
    if isinstance(source, Image.Image | Picture | Media):
        return source.size
    image = open_image(source)
    return image.size if image else None


def pixels_seen(media: Media) -> list[Image.Image]:
    """What the model saw of a processed image or video, one image for each temporal patch.

    Returns none where the file that the pixels are made from is gone; see `open_image`.
    """
    try:
        pixels = media.pixels
    except MediaError:
        return []
    time, rows, columns = media.grid
    merge, side = media.merge_size, media.size[0] // columns
    patches = pixels[:, :, 0].reshape(time, rows // merge, columns // merge, merge, merge, -1, side, side)
    frames = patches.transpose(0, 1, 3, 6, 2, 4, 7, 5).reshape(time, rows * side, columns * side, -1)
    return [Image.fromarray(frame) for frame in frames]


def data_uri(image: Image.Image, max_side: int, max_bytes: int) -> str:
    """`image` as a data URI: at most `max_side` pixels on its longer side and about `max_bytes` encoded bytes.

    PNG where it is the smaller (drawings, flat colour), JPEG otherwise (photographs). What is still too large is
    encoded again, coarser and then smaller, down to `MIN_SIDE`.
    """
    image = image.convert("RGB")
    side = min(max_side, max(image.size))
    while True:
        thumbnail = fit(image, side)
        kind, data = min((("png", _encode(thumbnail, "PNG")), ("jpeg", _encode(thumbnail, "JPEG"))), key=_length)
        if len(data) > max_bytes:
            kind, data = "jpeg", _encode(thumbnail, "JPEG", quality=60)
        if len(data) <= max_bytes or side <= MIN_SIDE:
            return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"
        side = max(MIN_SIDE, int(side * min(0.85, math.sqrt(max_bytes / len(data)))))


def fit(image: Image.Image, side: int) -> Image.Image:
    """`image` reduced so that its longer side is at most `side` pixels; never enlarged."""
    scale = min(1.0, side / max(image.size))
    if scale == 1.0:
        return image
    return image.resize([max(1, round(n * scale)) for n in image.size], Image.Resampling.LANCZOS)


def _encode(image: Image.Image, kind: str, quality: int = 85) -> bytes:
    buffer = io.BytesIO()
    if kind == "PNG":
        image.save(buffer, "PNG", optimize=True)
    else:
        image.save(buffer, "JPEG", quality=quality, optimize=True)
    return buffer.getvalue()


def _length(encoded: tuple[str, bytes]) -> int:
    return len(encoded[1])

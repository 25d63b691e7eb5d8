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

    Returns None if there are no pixels to show: for a processed image (patches only), or a file that is gone or broken.
    A report is written when all work is done; a missing picture must not make it fail.
    """
    if isinstance(source, Media):
        return None
    try:
        return load_image(source)
    except MediaError:
        return None


def image_size(source: Any | Media) -> tuple[int, int] | None:
    """(width, height) in pixels of an image or a processed image; None if it cannot be opened."""
    if isinstance(source, Image.Image | Picture | Media):
        return source.size
    image = open_image(source)
    return image.size if image else None


def pixels_seen(media: Media) -> list[Image.Image]:
    """The resized pixels that the model saw of an image or a video, one image for each temporal patch.

    The list is empty if the file that the pixels are made from is gone; see `open_image`.
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

    The smaller of PNG (drawings, flat colour) and JPEG (photographs) is taken. An image that is still too large is
    encoded as a coarser JPEG, then with fewer pixels, down to `MIN_SIDE`.
    """
    image = image.convert("RGB")
    side = min(max_side, max(image.size))
    while True:
        small = thumbnail(image, side)
        kind, data = min((("png", _encode(small, "PNG")), ("jpeg", _encode(small, "JPEG"))), key=_length)
        if len(data) > max_bytes:
            kind, data = "jpeg", _encode(small, "JPEG", quality=60)
        if len(data) <= max_bytes or side <= MIN_SIDE:
            return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"
        side = max(MIN_SIDE, int(side * min(0.85, math.sqrt(max_bytes / len(data)))))


def thumbnail(image: Image.Image, side: int) -> Image.Image:
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

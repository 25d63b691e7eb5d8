"""Turns decoded images of every kind into RGB, in strips, so that beside the image there is only the result."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image, ImageOps

STRIP_PIXELS = 2**20
_ORIENTATION = 0x0112  # EXIF
_SIDEWAYS = 5  # the least of the orientations whose width and height change places


class PixelGate:
    """Lets threads decode only so many pixels at once; one image may have more, and is then decoded alone.

    Threads are let in in the order in which they came, so that a large image waits no longer than others.
    """

    def __init__(self):
        self._reset()
        os.register_at_fork(after_in_child=self._reset)

    def _reset(self) -> None:
        self.pixels = 0
        self._turn, self._changed = threading.Lock(), threading.Condition()

    @contextlib.contextmanager
    def room(self, pixels: int, most: int) -> Iterator[None]:
        """Waits until no more than `most` pixels are decoded at once with these."""
        with self._turn, self._changed:
            self._changed.wait_for(lambda: not self.pixels or self.pixels + pixels <= most)
            self.pixels += pixels
        try:
            yield
        finally:
            with self._changed:
                self.pixels -= pixels
                self._changed.notify()


class PixelError(ValueError):
    """Pixels of a kind that is not supported; the message follows the file's name."""


def oriented_size(image: Image.Image) -> tuple[int, int]:
    """(width, height) of an image when it is upright; its pixels need not be loaded."""
    width, height = image.size
    return (height, width) if image.getexif().get(_ORIENTATION, 1) >= _SIDEWAYS else (width, height)


def upright_rgb(image: Image.Image) -> Image.Image:
    """A loaded image as RGB: upright, on white where it is transparent, 8 bits a channel.

    Raises:
      PixelError: grey values of more than 16 bits, or floating-point pixels.
    """
    if image.getexif().get(_ORIENTATION, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # PIL's own conversion would clip at 255
        return _in_strips(image, _grey_scaler(image))
    if image.mode == "F":
        raise PixelError("floating-point pixels are not supported")
    if "A" in image.getbands() or "a" in image.getbands() or image.info.get("transparency") is not None:
        return _in_strips(image, _on_white)
    return image if image.mode == "RGB" else image.convert("RGB")


def _in_strips(image: Image.Image, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """An RGB image of strips that are converted one after the other."""
    if image.width * image.height <= STRIP_PIXELS:
        return convert(image)
    result = Image.new("RGB", image.size)
    for box in _strips(image):
        result.paste(convert(image.crop(box)), box)
    return result


def _strips(image: Image.Image) -> Iterator[tuple[int, int, int, int]]:
    rows = max(STRIP_PIXELS // image.width, 1)
    for top in range(0, image.height, rows):
        yield 0, top, image.width, min(top + rows, image.height)


def _on_white(image: Image.Image) -> Image.Image:
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def _grey_scaler(image: Image.Image) -> Callable[[Image.Image], Image.Image]:
    """What brings grey values of up to 16 bits to 8."""
    least, most = 0, 0
    for box in _strips(image):
        values = np.asarray(image.crop(box))
        least, most = min(least, int(values.min())), max(most, int(values.max()))
    if least < 0 or most > 0xFFFF:
        raise PixelError("grey values beyond 16 bits are not supported")
    # Mode "I", unlike "I;16", does not tell the number of bits: if all values fit into 8 bits, these are assumed.
    unit = 1 if image.mode == "I" and most <= 0xFF else 257

    def scale(strip: Image.Image) -> Image.Image:
        return Image.fromarray((np.asarray(strip).astype(np.uint32) // unit).astype(np.uint8)).convert("RGB")

    return scale

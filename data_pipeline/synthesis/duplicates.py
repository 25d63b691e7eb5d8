"""Near-duplicates: seeds that ask the same about pictures that only encoding or resizing tells apart.

Seeds are judged before anything is written about them, so that no captioner is paid for one that is dropped, and in
their order, so that which of two is kept does not depend on who worked on them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
import unicodedata

import numpy as np
from PIL import Image

from data_pipeline.seed import Seed
from data_pipeline.synthesis.synthesizer import MediaLoader
from pixel_reasoner_jax.processing import MediaError

THUMBNAIL_SIDE = 16
"""Pixels of the thumbnail that stands for a picture."""

TOLERANCE = 6
"""Grey levels by which thumbnails of one picture may differ anywhere: what JPEG and resizing change, and no more."""

VIDEO_PICTURES = 3
"""That stand for a video: the first, the middle and the last of its sampled frames."""


@dataclasses.dataclass(frozen=True)
class Fingerprint:
    """What a seed is known by.

    Attributes:
      id: of the seed.
      text: a hash of question and answer, without regard to case, punctuation and white space.
      pixels: uint8 [pictures * THUMBNAIL_SIDE * THUMBNAIL_SIDE], gray thumbnails, in hexadecimal.
    """

    id: str
    text: str
    pixels: str


def fingerprint(seed: Seed, media: MediaLoader) -> Fingerprint:
    """The fingerprint of a seed; reads its media.

    Raises:
      MediaError: they cannot be read, or are too long for the model.
    """
    if seed.video is not None:
        frames = media.load_video(seed.video, seed.fps).frames
        pictures = [frames[at] for at in sorted({0, len(frames) // 2, len(frames) - 1})[:VIDEO_PICTURES]]
    else:
        pictures = [media.load_image(image) for image in seed.images]
    try:
        for picture in pictures:
            media.resized(picture.size)
    except ValueError as error:
        raise MediaError(f"seed {seed.id}: {error}") from None
    answers = [seed.answer] if isinstance(seed.answer, str) else seed.answer
    text = "\0".join(map(_plain, (seed.question, *answers)))
    digest = hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).hexdigest()
    return Fingerprint(seed.id, digest, b"".join(map(_thumbnail, pictures)).hex())


class DuplicateFilter:
    """The seeds so far; tells of a new one which it repeats."""

    def __init__(self):
        self._ids: set[str] = set()
        self._by_text: dict[tuple[str, int, int], list[tuple[str, np.ndarray]]] = {}

    def add(self, one: Fingerprint) -> str | None:
        """Adds a seed that repeats none; else says what it repeats."""
        if one.id in self._ids:
            return f"the id {one.id} is taken by an earlier seed"
        pixels = np.frombuffer(bytes.fromhex(one.pixels), np.uint8).astype(np.int16)
        # Where no pixel differs by more than the tolerance, nor do the means: neighboring buckets hold all that count.
        bucket = int(pixels.mean() // (TOLERANCE + 1)) if len(pixels) else 0
        for near in (bucket - 1, bucket, bucket + 1):
            for other, known in self._by_text.get((one.text, len(pixels), near), ()):
                if np.abs(known - pixels).max(initial=0) <= TOLERANCE:
                    return f"it asks and shows the same as {other}"
        self._ids.add(one.id)
        self._by_text.setdefault((one.text, len(pixels), bucket), []).append((one.id, pixels))
        return None


def _thumbnail(image: Image.Image) -> bytes:
    return image.convert("L").resize((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.BOX).tobytes()


def _plain(text: str) -> str:
    text = unicodedata.normalize("NFKC", text).casefold()
    return re.sub(r"[^\w%$€£+.-]+", " ", text).strip(" .")

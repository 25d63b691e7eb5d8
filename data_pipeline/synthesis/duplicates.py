"""Near-duplicates: seeds with the same question and answer about pictures that differ only by encoding or resizing.

Seeds are compared before anything is written about them, so that no captioner is paid for a duplicate, and in their
order, so that of two duplicates the first is kept whatever the number of workers.
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
"""Side, in pixels, of the thumbnails by which pictures are compared."""

TOLERANCE = 6
"""The most grey levels by which a pixel of two thumbnails of one picture may differ: what JPEG and resizing change."""

VIDEO_PICTURES = 3
"""Pictures by which videos are compared: the first, the middle and the last of the sampled frames."""


@dataclasses.dataclass(frozen=True)
class Fingerprint:
    """What seeds are compared by.

    Attributes:
      id: of the seed.
      text: a hash of question and answer that ignores case, punctuation and white space.
      pixels: uint8 [pictures * THUMBNAIL_SIDE * THUMBNAIL_SIDE], gray thumbnails, in hexadecimal.
    """

    id: str
    text: str
    pixels: str


def fingerprint(seed: Seed, media: MediaLoader) -> Fingerprint:
    """The fingerprint of a seed; loads its media.

    Raises:
      MediaError: they cannot be read, or their sides are of a ratio that the model does not take.
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
    """Remembers fingerprints and finds the seeds that repeat an earlier one."""

    def __init__(self):
        self._ids: set[str] = set()
        self._by_text: dict[tuple[str, int, int], list[tuple[str, np.ndarray]]] = {}

    def add(self, one: Fingerprint) -> str | None:
        """Adds a new seed and returns None; of a repeated one, only returns what it repeats, in words."""
        if one.id in self._ids:
            return f"the id {one.id} is taken by an earlier seed"
        pixels = np.frombuffer(bytes.fromhex(one.pixels), np.uint8).astype(np.int16)
        # If no pixel differs by more than the tolerance, neither do the means: duplicates are in neighboring buckets.
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

"""What a pass of an update shows the model in place of a sequence: other images, or none. See `passes`."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable

import numpy as np

from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.processing import Media, Processor
from pixel_reasoner_jax.training.packing import Sequence

LEVELS = 255  # of a pixel's channel, from black to full

ChangePixels = Callable[[np.ndarray, np.random.Generator], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Change:
    """What a context has beside the sequence that it changes: one for all sequences of a pass.

    Attributes:
      strength: `config.passes.LABEL.strength`.
      processor: of the model.
      seed: numbers from which all draws of the pass follow, with a sequence's query and the place of an image in it.
    """

    strength: float
    processor: Processor
    seed: tuple[int, ...] = (0,)
    _changed: dict[tuple, Media] = dataclasses.field(default_factory=dict, repr=False)

    def of_pixels(self, sequence: Sequence, change: ChangePixels) -> Sequence:
        """The sequence with other pixels in all of its images and videos, made when they are used.

        An image that sequences of a query have in the same place is changed once.

        Args:
          sequence: to change.
          change: a function of `Media.pixels`, which it leaves as they are, and of a generator for its draws. It
            returns others, uint8 of the same shape.
        """
        return dataclasses.replace(
            sequence, media=[self._of(item, sequence, place, change) for place, item in enumerate(sequence.media)]
        )

    def _of(self, item: Media, sequence: Sequence, place: int, change: ChangePixels) -> Media:
        key = id(item), sequence.query_id, place
        if key not in self._changed:
            seed = (*self.seed, zlib.crc32(sequence.query_id.encode("utf-8", "surrogatepass")), place + 1)

            def pixels() -> np.ndarray:
                before = item.pixels
                after = change(before, np.random.default_rng(seed))
                if getattr(after, "dtype", None) != np.uint8 or after.shape != before.shape:
                    raise UserError(f"a context of config.passes must return pixels as uint8 {list(before.shape)}")
                return after

            self._changed[key] = dataclasses.replace(item, source=pixels, key=None)
        return self._changed[key]


def as_asked(sequence: Sequence, change: Change) -> Sequence:
    """The sequence as it is trained on."""
    return sequence


def masked(sequence: Sequence, change: Change) -> Sequence:
    """Each patch (14 x 14 pixels) of every image and frame is black with the probability `strength` (VPPO, PAPO)."""

    def blacken(pixels: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        kept = generator.random(len(pixels), np.float32) >= change.strength
        return pixels * kept[:, None, None, None].astype(np.uint8)

    return change.of_pixels(sequence, blacken)


def noisy(sequence: Sequence, change: Change) -> Sequence:
    """Gaussian noise on every channel of every pixel, with a deviation of `strength` of the way from black to full.

    0.4, of VOGUE, is 102 of 255 levels; whether its authors count so was not found. Levels stay within 0 and 255.
    """

    def disturb(pixels: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        noise = generator.standard_normal(pixels.shape, np.float32) * np.float32(change.strength * LEVELS)
        return np.clip(np.rint(pixels + noise), 0, LEVELS).astype(np.uint8)

    return change.of_pixels(sequence, disturb)


def text_only(sequence: Sequence, change: Change) -> Sequence:
    """Without images: neither their tokens nor the marks around them; the positions of the text close the gaps."""
    processor = change.processor
    vision = (*processor.placeholder_tokens, processor.vision_start, processor.vision_end)
    left_out = np.isin(sequence.tokens, vision) & ~sequence.train
    return dataclasses.replace(keep_tokens(sequence, ~left_out), media=[])


CONTEXTS: dict[str, Callable[[Sequence, Change], Sequence]] = {
    "as_asked": as_asked,
    "masked": masked,
    "noisy": noisy,
    "text_only": text_only,
}
"""By the name in `config.passes.LABEL.context`, or `module:function`: functions of a sequence and a `Change` that
return a sequence with the same trained tokens in the same order."""


def keep_tokens(sequence: Sequence, kept: np.ndarray) -> Sequence:
    """Some tokens of a sequence, bool [tokens], with all that it says of them; its media stay as they are."""
    values = {field.name: getattr(sequence, field.name) for field in dataclasses.fields(sequence)}
    per_token = {name: value[kept] for name, value in values.items() if isinstance(value, np.ndarray)}
    return dataclasses.replace(sequence, **per_token)


def changed(sequence: Sequence, context: Callable[[Sequence, Change], Sequence], change: Change, name: str) -> Sequence:
    """What a context makes of a sequence.

    Raises:
      UserError: it is none with the same trained tokens; the message has `name`.
    """
    made = context(sequence, change)
    if made is sequence:
        return made
    if not isinstance(made, Sequence) or not _same_targets(sequence, made):
        raise UserError(f"{name} must return a packing.Sequence with the same trained tokens, in the same order")
    return made


def _same_targets(one: Sequence, other: Sequence) -> bool:
    if len(other.tokens) != len(other.train):
        return False
    pairs = [(one.tokens, other.tokens)]
    if one.temperatures is not None:
        if other.temperatures is None or len(other.temperatures) != len(other.tokens):
            return False
        pairs.append((one.temperatures, other.temperatures))
    return all(np.array_equal(a[1:][one.train[1:]], b[1:][other.train[1:]]) for a, b in pairs)

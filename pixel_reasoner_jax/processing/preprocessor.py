"""What a checkpoint's files say of its processor: how pixels are normalized, and how many an image may have.

transformers 4 writes `preprocessor_config.json`, and from 4.52 on `video_preprocessor_config.json`; transformers 5
writes both as sections of `processor_config.json`, which come first where there are several. Ours are the first two,
with `budgets` and `position_rule` in the first.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import math
import os
from collections.abc import Mapping
from typing import Any

from pixel_reasoner_jax.errors import UserError, shown
from pixel_reasoner_jax.files import as_path
from pixel_reasoner_jax.model_files import ModelPath, base_directory, read_json
from pixel_reasoner_jax.processing.geometry import Budgets, Geometry

IMAGE_FILE, VIDEO_FILE, BOTH_FILE = (
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "processor_config.json",
)
NORMALIZATION = {
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
"""Qwen2.5-VL's, which a folder without these files gets."""

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class PreprocessorFiles:
    """What the files of a folder say.

    Attributes:
      folder: named in errors.
      image: what they say of images, with `NORMALIZATION` where they lack it.
      video: what they say of videos; empty if nothing.
    """

    folder: ModelPath
    image: dict[str, Any]
    video: dict[str, Any]

    @classmethod
    def read(cls, directory: str | os.PathLike) -> PreprocessorFiles:
        """Reads a checkpoint's folder. What is taken from `NORMALIZATION` is logged, once for each folder.

        Raises:
          UserError: a file that holds something else, or one that asks for what this processor does not do.
        """
        folder = as_path(directory)
        if not any((folder / name).exists() for name in (IMAGE_FILE, VIDEO_FILE, BOTH_FILE)):
            folder = base_directory(directory)  # an adapter's folder may have none
        both = _read(folder / BOTH_FILE)
        image, video = (
            _section(folder, both, section) or _read(folder / name)
            for section, name in (("image_processor", IMAGE_FILE), ("video_processor", VIDEO_FILE))
        )
        for step in ("do_resize", "do_rescale", "do_normalize"):
            if image.get(step) is False:
                raise UserError(f"{directory}: its image processor has {step} false; images are always processed so")
        taken = {name: value for name, value in NORMALIZATION.items() if image.get(name) is None}
        if taken:
            states_budget = any(name in image for name in ("budgets", "min_pixels", "max_pixels", "size"))
            _say_what_is_taken(str(directory), bool(image), tuple(taken), states_budget)
        return cls(folder, image | taken, video)

    def budgets(self, token_size: int) -> Budgets:
        """The budgets saved with a model of ours, else those of the files' pixels, else the defaults.

        Files of Hugging Face know images and videos. Crops and frames are images: their budgets are the defaults,
        within that of an image.

        Args:
          token_size: side of a token, in pixels.

        Raises:
          UserError: an entry that is no number of pixels, or no budget.
        """
        try:
            return self._budgets(token_size)
        except UserError as error:
            raise UserError(f"{self.folder}: the processor's files: {error}") from None

    def _budgets(self, token_size: int) -> Budgets:
        saved = self.image.get("budgets")
        if saved is not None:
            names = {field.name for field in dataclasses.fields(Budgets)}
            if not isinstance(saved, Mapping) or (unknown := sorted(saved.keys() - names)):
                what = f"has {shown(unknown[0])}, which is none" if isinstance(saved, Mapping) else "is no object"
                raise UserError(f"budgets {what}; they are {', '.join(sorted(names))}")
            return Budgets(**saved)
        budgets = Budgets()
        given: dict[str, Any] = {}
        if (image := _tokens(self.image, token_size, budgets.image)) is not None:
            least, most = given["image"] = image
            given |= {
                kind: tuple(min(max(number, least), most) for number in budgets.of(kind)) for kind in ("crop", "frame")
            }
        if (video := _tokens(self.video, token_size, budgets.video)) is not None:
            given["video"] = video
        return budgets.replaced(given)


def preprocessor_files(
    image: Mapping[str, Any], video: Mapping[str, Any], geometry: Geometry, budgets: Budgets, position_rule: str
) -> dict[str, dict[str, Any]]:
    """The contents of both files of a model of ours, by name; transformers makes images and frames of the same sizes.

    Args:
      image, video: what the files of the model that it was made of say.
      geometry: of the model.
      budgets, position_rule: of the model.
    """
    sizes = {name: getattr(geometry, name) for name in ("patch_size", "temporal_patch_size", "merge_size")}
    common = {"processor_class": "Qwen2_5_VLProcessor", **sizes, **{name: image[name] for name in NORMALIZATION}}
    settings = {"budgets": dataclasses.asdict(budgets), "position_rule": position_rule}
    kinds = {
        IMAGE_FILE: ("image", {"image_processor_type": "Qwen2VLImageProcessor"}, image, settings),
        VIDEO_FILE: ("video", {"video_processor_type": "Qwen2VLVideoProcessor"}, video, {}),
    }
    return {
        name: {**common, **kind, **given, **_pixels(budgets.of(medium), geometry.token_size), **more}
        for name, (medium, kind, given, more) in kinds.items()
    }


def _pixels(budget: tuple[int, int], token_size: int) -> dict[str, Any]:
    """A budget in the words of transformers 4 and 5."""
    least, most = (number * token_size**2 for number in budget)
    return {"min_pixels": least, "max_pixels": most, "size": {"shortest_edge": least, "longest_edge": most}}


def _tokens(file: Mapping[str, Any], token_size: int, default: tuple[int, int]) -> tuple[int, int] | None:
    """The budget that an image or video processor's file states in pixels; None if it states none."""
    size = file.get("size")
    size = size if isinstance(size, Mapping) else {}
    numbers = []
    for name, edge in (("min_pixels", "shortest_edge"), ("max_pixels", "longest_edge")):
        stated = [given for given in (file.get(name), size.get(edge), size.get(name)) if given is not None]
        if stated and (not isinstance(stated[0], int | float) or not 0 < stated[0] < math.inf):
            raise UserError(f"{name} is {shown(stated[0])}; it must be a number of pixels above 0")
        numbers.append(stated[0] / token_size**2 if stated else None)
    if numbers == [None, None]:
        return None
    least, most = (default[place] if number is None else number for place, number in enumerate(numbers))
    most = max(1, math.floor(most))
    if math.ceil(least) > most and None not in numbers and numbers[0] > numbers[1]:
        raise UserError("min_pixels is greater than max_pixels")
    return min(math.ceil(least), most), most


@functools.lru_cache(maxsize=64)
def _say_what_is_taken(directory: str, there: bool, names: tuple[str, ...], states_budget: bool) -> None:
    taken = [f"{name} {NORMALIZATION[name]}" for name in names]
    if not states_budget:
        ranges = [f"{kind} {least} to {most}" for kind in Budgets.KINDS for least, most in [Budgets().of(kind)]]
        taken.append(f"tokens of an image of each kind: {', '.join(ranges)}")
    lacks = f"lacks {' and '.join(names)} in {IMAGE_FILE}" if there else f"has neither {IMAGE_FILE} nor {BOTH_FILE}"
    _log.warning("%s %s: Qwen2.5-VL's constants are taken: %s", directory, lacks, "; ".join(taken))


def _section(folder: ModelPath, both: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    section = both.get(name)
    if section is not None and not isinstance(section, dict):
        raise UserError(f"{folder / BOTH_FILE}: {name} is {shown(section)}; it must be an object")
    return section


def _read(path: ModelPath) -> dict[str, Any]:
    return read_json(path) if path.exists() else {}

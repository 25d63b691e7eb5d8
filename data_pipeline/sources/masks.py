"""Images with masks, as SA-1B has them: `sa_1.jpg` with `sa_1.json` beside it.

    {"image": {"image_id": 1, "file_name": "sa_1.jpg", "width": 2250, "height": 1500},
     "annotations": [{"id": 7, "bbox": [x, y, width, height], "segmentation": {"size": [1500, 2250], "counts": "..."},
                      "predicted_iou": 0.97, "stability_score": 0.98}]}

`segmentation` is COCO's run-length encoding, compressed or not; `bbox` may be left out. An image gives one seed, so
that no picture is in two trajectories. Its cue is the box of the mask of the best quality among those that are fine
enough to be worth a closer look (at most 5% of the image) and large enough to be looked at (32 pixels a side).

SA-1B has masks and nothing else. Where an annotation has a `question` and an `answer` of its own, the seed is made of
the first such; otherwise the seed has none, and the captioner asks one about the masked part. The template captioner
cannot: it names such seeds as rejected.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from data_pipeline.seed import NormalizedBox, Seed
from data_pipeline.sources.base import SourceEntry, SourceError, read_json
from pixel_reasoner_jax.files import as_path

LARGEST_SHARE = 0.05
"""Of the image, that the box of a mask may have: what is larger can be seen without zooming."""

SMALLEST_SIDE = 32
"""In pixels, of the box of a mask."""


class MaskedImages(Sequence):
    """See the module; `path` is a folder, searched through all folders in it."""

    def __init__(self, path: str):
        folder = as_path(path)
        self._files = sorted(folder.rglob("*.json")) if folder.is_dir() else []
        if not self._files:
            raise SourceError(f"{path}: a folder with JSON files of masks is expected")

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Seed:
        file = self._files[index]
        entry = SourceEntry(read_json(file), str(file), file.parent)
        about = SourceEntry(entry.get("image", dict), f"{file}, 'image'", file.parent)
        data, size = about.image(about.path("file_name", f"{file.stem}.jpg"))
        told = (about.get("width", int, size[0]), about.get("height", int, size[1]))
        if told != size:
            raise about.error(f"the image has {size[0]}x{size[1]} pixels, not {told[0]}x{told[1]}")
        masks = [
            SourceEntry(value, f"{file}, annotation {number}", file.parent)
            for number, value in enumerate(entry.get("annotations", list))
        ]
        asked = [mask for mask in masks if mask.value.get("question") is not None]
        mask, cue = self._choose(entry, asked or masks, size, choosy=not asked)
        return Seed(
            id=f"masks-{file.stem}",
            question=mask.text("question") if asked else "",
            answer=mask.answer() if asked else "",
            images=(data,),
            cue=cue,
            attributes={"mask": mask.get("id", (int, str), "")},
        )

    def _choose(
        self, entry: SourceEntry, masks: list[SourceEntry], size: tuple[int, int], choosy: bool
    ) -> tuple[SourceEntry, NormalizedBox]:
        """The best mask of a size worth looking at, and its box; the first one where somebody asked about it."""
        if not choosy:
            return masks[0], mask_box(masks[0], size)
        fitting = []
        for number, mask in enumerate(masks):
            left, top, right, bottom = box = mask_box(mask, size)
            sides = (right - left) * size[0], (bottom - top) * size[1]
            if min(sides) >= SMALLEST_SIDE and sides[0] * sides[1] <= LARGEST_SHARE * size[0] * size[1]:
                numeric = (int, float)
                quality = mask.get("predicted_iou", numeric, 1.0) * mask.get("stability_score", numeric, 1.0)
                fitting.append((-quality, number, mask, box))
        if not fitting:
            raise entry.error(
                f"none of its {len(masks)} masks is small enough to zoom in on and large enough to be seen"
            )
        *_, mask, box = min(fitting)
        return mask, box


def mask_box(mask: SourceEntry, size: tuple[int, int]) -> NormalizedBox:
    """The box around a mask, normalized: `bbox` where it is given, else that of the run lengths."""
    width, height = size
    if mask.value.get("bbox") is not None:
        left, top, across, down = mask.numbers("bbox", 4)
    else:
        left, top, across, down = run_length_box(
            SourceEntry(mask.get("segmentation", dict), mask.location, mask.folder), size
        )
    return mask.inside("bbox", (left / width, top / height, (left + across) / width, (top + down) / height))


def run_length_box(segmentation: SourceEntry, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """(left, top, width, height) in pixels of a mask in COCO's run-length encoding.

    Runs of zeros and ones in turn, down the columns, from the left.
    """
    height, width = (int(number) for number in segmentation.numbers("size", 2))
    if (width, height) != size:
        raise segmentation.error(f"its mask is of {width}x{height} pixels, its image of {size[0]}x{size[1]}")
    counts = segmentation.get("counts", (str, list))
    try:
        runs = np.array(uncompressed(counts) if isinstance(counts, str) else counts, np.int64)
    except (ValueError, TypeError, OverflowError) as error:
        raise segmentation.error(f"its run lengths cannot be read ({error})") from None
    ends = np.cumsum(runs)
    if runs.ndim != 1 or not len(runs) or runs.min() < 0 or ends[-1] != width * height:
        raise segmentation.error(f"its run lengths are not those of {width}x{height} pixels")
    filled = runs[1::2] > 0
    starts, stops = ends[:-1:2][: len(filled)][filled], ends[1::2][filled] - 1
    if not len(starts):
        raise segmentation.error("its mask is empty")
    left, right = starts[0] // height, stops[-1] // height
    whole = (starts // height != stops // height).any()  # a run over the end of a column touches bottom and top
    top, bottom = (0, height - 1) if whole else ((starts % height).min(), (stops % height).max())
    return int(left), int(top), int(right - left + 1), int(bottom - top + 1)


def uncompressed(counts: str) -> list[int]:
    """Run lengths from COCO's compressed form.

    Each number is written in groups of five bits, the lowest first, in characters from "0" on whose sixth bit says that
    another group follows; the last group has the sign. From the fourth on it is a difference to the number two before.
    """
    runs: list[int] = []
    value = shift = 0
    for character in counts:
        code = ord(character) - 48
        if not 0 <= code < 64:
            raise ValueError(f"unknown character {character!r}")
        value |= (code & 0x1F) << shift
        shift += 5
        if not code & 0x20:
            if code & 0x10:
                value -= 1 << shift
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    if shift:
        raise ValueError("it ends within a number")
    return runs

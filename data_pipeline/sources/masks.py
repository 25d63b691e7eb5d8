"""Images with masks, as SA-1B has them: `sa_1.jpg` with `sa_1.json` beside it.

    {"image": {"image_id": 1, "file_name": "sa_1.jpg", "width": 2250, "height": 1500},
     "annotations": [{"id": 7, "bbox": [x, y, width, height], "segmentation": {"size": [1500, 2250], "counts": "..."},
                      "predicted_iou": 0.97, "stability_score": 0.98}]}

`segmentation` is COCO's run-length encoding, compressed or not; `bbox` may be left out. An image gives one seed, so
that no picture is in two trajectories. Its cue is the box of the best mask (by `predicted_iou * stability_score`) that
is small enough to need zooming (at most 5% of the image) and large enough to be seen (32 pixels a side).

SA-1B has no questions. If annotations have a `question` and an `answer`, the first of them gives the seed and its cue.
Otherwise the seed has no question, and the captioner asks one about the masked part. The template captioner cannot, so
it rejects such seeds.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from data_pipeline.seed import NormalizedBox, Seed
from data_pipeline.sources.base import SourceEntry, SourceError, read_json
from pixel_reasoner_jax.files import as_path

LARGEST_SHARE = 0.05
"""The largest share of the image that a box may cover: what is larger can be seen without zooming."""

SMALLEST_SIDE = 32
"""The smallest side of a box in pixels."""


class MaskedImages(Sequence):
    """The seeds of all images with masks in the folder `path` and the folders within it."""

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
        about = entry.part(entry.get("image", dict), "'image'")
        data, size = about.image(about.path("file_name", f"{file.stem}.jpg"))
        told = (about.get("width", int, size[0]), about.get("height", int, size[1]))
        if told != size:
            raise about.error(f"the image has {size[0]}x{size[1]} pixels, not {told[0]}x{told[1]}")
        masks = [entry.part(mask, f"annotation {n}") for n, mask in enumerate(entry.get("annotations", list))]
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
        """The best mask of a suitable size, and its box; the first mask if not `choosy`."""
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
    """The normalized box around a mask: its `bbox`, or if that is missing, the box of its run lengths."""
    width, height = size
    if mask.value.get("bbox") is not None:
        left, top, across, down = mask.numbers("bbox", 4)
    else:
        left, top, across, down = run_length_box(mask.part(mask.get("segmentation", dict)), size)
    return mask.inside("bbox", (left / width, top / height, (left + across) / width, (top + down) / height))


def run_length_box(segmentation: SourceEntry, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """(left, top, width, height) in pixels of a mask in COCO's run-length encoding.

    The runs are of zeros and ones alternately, down the columns, from the left column to the right.
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
    wraps = (starts // height != stops // height).any()  # a run over the end of a column touches bottom and top
    top, bottom = (0, height - 1) if wraps else ((starts % height).min(), (stops % height).max())
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

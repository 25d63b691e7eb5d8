"""Questions that any images answer themselves, without annotations: the tasks of SSL4RL (arXiv 2510.16416).

    python -m data_pipeline.image_tasks photos --out data/ssl4rl --tasks rotation position --seed 0

    rotation     two images, the second one turned: by how many degrees? "0", "90", "180" or "270", clockwise
    position     an image, and a changed crop of one of its quarters: which? "A" to "D"
    jigsaw       an image whose quarters have changed places: which order is right? four digits, such as "3124"
    contrastive  two changed crops: are they of one image? "yes" or "no"

An image is cut to its largest central square, and made smaller where it is larger than `--size`. What becomes of it
depends on the seed, on its place in the sorted list of files, and on the task alone.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance

from data_pipeline.records import write_records
from data_pipeline.sources.jigsaw import Jigsaw
from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.files import as_path
from pixel_reasoner_jax.processing import MediaError
from pixel_reasoner_jax.processing.decoding import decode_image

SIZE = 448  # pixels a side, at most
LEAST = 56  # the same, at least: two visual tokens
SHARE = (0.5, 0.9)  # of a side that a crop has
CHANGE = 0.4  # the most by which a crop's brightness, contrast and color are changed
ENDINGS = (".avif", ".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
QUARTERS = ("the top left", "the top right", "the bottom left", "the bottom right")

_log = logging.getLogger(__name__)

Task = Callable[[Image.Image, Image.Image | None, np.random.Generator], dict[str, Any]]


def image_files(folder: str | Path) -> list[Path]:
    """The images of a folder and of those in it, sorted, by their endings.

    Raises:
      UserError: there are none.
    """
    folder = as_path(folder)
    found = folder.rglob("*") if folder.is_dir() else ()
    files = sorted(file for file in found if file.suffix.lower() in ENDINGS and file.is_file())
    if not files:
        raise UserError(f"{folder}: a folder with images is expected ({', '.join(ENDINGS)})")
    return files


def image_queries(
    files: Sequence[Path], tasks: Sequence[str] = (), seed: int = 0, size: int = SIZE
) -> Iterator[dict[str, Any]]:
    """The queries of each image, one for each task; an image that cannot be read is logged and has none.

    Args:
      files: the images, two at least where "contrastive" is among the tasks.
      tasks: names in `TASKS`; all of them if there are none.
      seed: of what is drawn.
      size: pixels a side of an image, at most.

    Raises:
      UserError: there is no such task, or too few images, or no room in them.
    """
    tasks = list(dict.fromkeys(tasks)) or list(TASKS)
    if unknown := [name for name in tasks if name not in TASKS]:
        raise UserError(f"unknown task {unknown[0]!r} of images; there are {', '.join(TASKS)}")
    if "contrastive" in tasks and len(files) < 2:
        raise UserError("contrastive compares an image with another one: it needs two images")
    if size < LEAST:
        raise UserError(f"images of {size} pixels a side are too small: {LEAST} are the least, for quarters of a token")
    other, other_file = next(_readable(reversed(files), size), (None, None)) if "contrastive" in tasks else (None, None)
    for number, file in enumerate(files):
        for image, _ in _readable([file], size, _log.warning):
            for task in tasks if file != other_file else [task for task in tasks if task != "contrastive"]:
                rng = np.random.default_rng((seed, number, tuple(TASKS).index(task)))
                yield {"id": f"{task}-{seed}-{number:06d}", **TASKS[task](image, other, rng), "category": task}
            other, other_file = image, file


def rotation(image: Image.Image, other: Image.Image | None, rng: np.random.Generator) -> dict[str, Any]:
    """By how much an image is turned."""
    turns = int(rng.integers(4))
    question = (
        "The second image is the first one, turned clockwise. By how many degrees? Answer with 0, 90, 180 or 270."
    )
    return {"question": question, "answer": str(90 * turns), "images": [image, image.rotate(-90 * turns)]}


def position(image: Image.Image, other: Image.Image | None, rng: np.random.Generator) -> dict[str, Any]:
    """Which quarter a crop is from."""
    quarter = int(rng.integers(4))
    options = dict(zip("ABCD", QUARTERS, strict=True))
    question = "The second image is a changed part of one quarter of the first one. Which quarter is it from?"
    crop = _changed(_quarters(image)[quarter], rng)
    return {"question": question, "answer": "ABCD"[quarter], "options": options, "images": [image, crop]}


def jigsaw(image: Image.Image, other: Image.Image | None, rng: np.random.Generator) -> dict[str, Any]:
    """In which order quarters make an image."""
    puzzle = Jigsaw([image], seed=int(rng.integers(2**31)))[0]
    question = (
        "The quarters of an image have changed places. By their places now, the top left one is 1, the top right one 2,"
        " the bottom left one 3, the bottom right one 4. In which order, row by row, do they make the image as it was?"
        " Answer with four digits, such as 3124."
    )
    return {"question": question, "answer": puzzle["answer"], "answer_type": "order", "images": puzzle["images"]}


def contrastive(image: Image.Image, other: Image.Image, rng: np.random.Generator) -> dict[str, Any]:
    """Whether two crops are of one image."""
    alike = bool(rng.integers(2))
    crops = [_changed(image, rng), _changed(image if alike else other, rng)]
    question = "Both images are changed parts of larger ones. Are they parts of the same image? Answer with yes or no."
    return {"question": question, "answer": "yes" if alike else "no", "images": crops}


TASKS: dict[str, Task] = {
    "rotation": rotation,
    "position": position,
    "jigsaw": jigsaw,
    "contrastive": contrastive,
}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m data_pipeline.image_tasks", description=__doc__.split("\n")[0])
    parser.add_argument("images", help="a folder with images")
    parser.add_argument("--out", required=True, help="folder of the data set of queries")
    parser.add_argument("--tasks", nargs="+", default=[], metavar="TASK", help=f"of {', '.join(TASKS)}; all if not set")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn (0)")
    parser.add_argument("--size", type=int, default=SIZE, help=f"pixels a side of an image, at most ({SIZE})")
    args = parser.parse_args(argv)
    try:
        write_records(args.out, "query", image_queries(image_files(args.images), args.tasks, args.seed, args.size))
    except UserError as error:
        sys.exit(f"{parser.prog}: {error}")
    print(f"queries: {args.out}")


def _readable(
    files: Iterable[Path], size: int, warn: Callable[..., None] = lambda *_: None
) -> Iterator[tuple[Image.Image, Path]]:
    """The images that can be read and are large enough, as squares, with their files; `warn` is told of the others."""
    for file in files:
        try:
            image = decode_image(file)
        except MediaError as error:
            warn("left out: %s", error)
            continue
        if min(image.size) < LEAST:
            warn("left out: %s has a side of %d pixels, %d are the least", file, min(image.size), LEAST)
            continue
        yield _square(image, size), file


def _square(image: Image.Image, size: int) -> Image.Image:
    """The largest central square of an image, with an even side of at most `size`."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square, even = image.convert("RGB").crop((left, top, left + side, top + side)), min(side, size) // 2 * 2
    return square if even == side else square.resize((even, even), Image.Resampling.BICUBIC)


def _quarters(image: Image.Image) -> list[Image.Image]:
    """Top left, top right, bottom left, bottom right."""
    side = image.width // 2
    return [
        image.crop((x * side, y * side, (x + 1) * side, (y + 1) * side)) for y, x in ((0, 0), (0, 1), (1, 0), (1, 1))
    ]


def _changed(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A square crop of a random place and size, enlarged to that of the image, in other colors, perhaps mirrored."""
    side = int(image.width * rng.uniform(*SHARE))
    left, top = (int(rng.integers(image.width - side + 1)) for _ in range(2))
    crop = image.crop((left, top, left + side, top + side)).resize(image.size, Image.Resampling.BICUBIC)
    for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        crop = enhance(crop).enhance(1 + rng.uniform(-CHANGE, CHANGE))
    return crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.integers(2) else crop


if __name__ == "__main__":
    main()

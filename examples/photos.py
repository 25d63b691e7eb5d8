"""Photos with a small detail, and annotated questions about it: in place of your own, and of any size.

    python examples/photos.py FOLDER --train 640 --held-out 64

draws landscapes of 448x448 pixels with a balloon each, and writes a table for training, `train.jsonl`, and one of other
photos for evaluation, `held_out.jsonl`. A row has image, question, answer and the box of the evidence, as docs/data.md
describes them. The balloon is at one of 8 places, which a model of 650,000 parameters can learn to find in minutes;
weather, hills and grain are random. With `--night` all is nearly black.
"""

import argparse
import json
import pathlib

import numpy as np
from PIL import Image, ImageDraw

SIDE = 448  # pixels
WIDE, HIGH = 64, 80  # of a balloon, in pixels
PLACES = [(SIDE * x // 8, SIDE * y // 8) for y in (3, 5) for x in (1, 3, 5, 7)]  # the middle of a balloon
COLORS = {"red": (205, 30, 40), "yellow": (240, 205, 30), "blue": (40, 60, 200), "white": (250, 250, 250)}
QUESTION = "Which color does the balloon have?"


def landscape(rng: np.random.Generator) -> Image.Image:
    """Sky, two ranges of hills and a meadow, drawn small and enlarged: slightly out of focus."""
    x, y = np.meshgrid(np.arange(0, SIDE, 4), np.arange(0, SIDE, 4))
    sky = np.array([120, 165, 200]) + rng.integers(-15, 15)
    pixels = sky + (y / SIDE * 60)[..., None]
    for level, color in ((0.5, (105, 130, 140)), (0.62, (85, 115, 80)), (0.75, (110, 140, 75))):
        waves = sum(rng.uniform(5, 20) / n * np.sin(x * n / 60 + rng.uniform(0, 6)) for n in (1, 2, 3))
        pixels = np.where((y > level * SIDE + waves)[..., None], np.array(color) + rng.integers(-12, 12, 3), pixels)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).resize((SIDE, SIDE))


def photo(rng: np.random.Generator, night: bool) -> tuple[Image.Image, str, list[list[int]]]:
    """A photo, the color of its balloon, and the boxes of all places, that of the balloon first."""
    image, color = landscape(rng), str(rng.choice([*COLORS]))
    boxes = [[x - WIDE // 2, y - HIGH // 2, x + WIDE // 2, y + HIGH // 2] for x, y in rng.permutation(PLACES).tolist()]
    left, top, right, bottom = boxes[0]
    draw = ImageDraw.Draw(image)
    draw.line([left + WIDE // 2, bottom - 16, left + WIDE // 2, bottom], (60, 60, 60))
    draw.ellipse([left, top, right - 1, bottom - 16], COLORS[color])
    pixels = np.asarray(image) * (0.15 if night else 1) + rng.normal(0, 1 if night else 6, (SIDE, SIDE, 1))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8)), color, boxes


def write(folder: pathlib.Path, name: str, count: int, seed: int, night: bool) -> None:
    """Writes photos and their table, unless it is there."""
    table = folder / f"{name}.jsonl"
    if table.exists():
        return
    (folder / name).mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(count):
        image, color, (box, *others) = photo(np.random.default_rng((seed, number)), night)
        image.save(folder / name / f"{number:04d}.jpg", quality=90)
        row = {"id": f"{name}-{number:04d}", "image": f"{name}/{number:04d}.jpg", "question": QUESTION, "answer": color}
        # In pixels. The candidates are other places that are worth a look: wrong first looks are taken from them.
        rows.append(json.dumps({**row, "box": box, "candidates": others}))
    table.write_text("\n".join(rows) + "\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--train", type=int, default=640)
    parser.add_argument("--held-out", type=int, default=64)
    parser.add_argument("--night", action="store_true")
    args = parser.parse_args()
    write(args.folder, "train", args.train, 0, args.night)
    write(args.folder, "held_out", args.held_out, 1, args.night)

"""The form of the data that were released with Pixel Reasoner: one parquet file, and a folder of images.

Columns `question`, `answer` (a text or a list, perhaps with its \\boxed{}), `image` (a list of paths: one for an image,
the frames of a video), `qid`, `is_video`. The questions of V* have an `<image>` of their own. Row counts, and which
split of a benchmark the files hold, were not verified.
"""

from __future__ import annotations

import posixpath
from typing import Any

from pixel_reasoner_jax.evaluation.benchmarks.base import Form
from pixel_reasoner_jax.evaluation.benchmarks.items import Item
from pixel_reasoner_jax.evaluation.benchmarks.options import index_of_letter, index_of_text, split_text
from pixel_reasoner_jax.evaluation.benchmarks.row import Row
from pixel_reasoner_jax.evaluation.benchmarks.rows import RowError

IMAGE_TAGS = ("<image>", "<video>")
FRAMES_FPS = 2.0  # assumed; the released rows do not say it

RELEASED = Form(
    "Pixel Reasoner's evaluation data",
    ("*.parquet", "data/*.parquet"),
    "read_released",
    ("question", "answer", "image", "qid"),
    id=("qid",),
)


def without_tags(question: str) -> str:
    """A question without the places of its media."""
    for tag in IMAGE_TAGS:
        question = question.replace(tag, "")
    return question.strip()


def read_released(row: Row, name: str, choices: bool = False) -> Item:
    """The item of a row.

    Args:
      row: of such a file.
      name: the benchmark's; the released scripts move `images/` to `<name>_images/`.
      choices: whether the question has options in its text.
    """
    question, answers = without_tags(row.text("question")), row.answers("answer")
    media = released_media(row, name)
    asked, options = split_text(question) if choices else (question, [])
    if not options:  # or options that are listed in a way that is not known: the answer is then their letter
        return Item("", question, answers=answers, **media)
    answer = answers[0] if answers else ""
    right = index_of_text(answer, options) if answer in options else index_of_letter(answer[:3], options)
    return Item("", asked, tuple(options), right, **media)


def released_media(row: Row, name: str) -> dict[str, Any]:
    """The images of a row, or the frames of its video."""
    value = row.get("image")
    values = value if isinstance(value, list | tuple) else [value]
    media = tuple(row.image(one, lambda path: _places(path, name)) for one in values)
    if not media:
        raise RowError("it has no image")
    return {"video": list(media), "fps": FRAMES_FPS} if row.get("is_video") else {"images": media}


def _places(path: str, name: str) -> list[str]:
    """Where a path of a row may lead: as it stands, or from its last folder `images` on."""
    parts = path.split("/")
    folders = [number for number, part in enumerate(parts) if part == "images" or part.endswith("_images")]
    rest = "/".join(parts[folders[-1] + 1 :]) if folders else parts[-1]
    return [path, *(posixpath.join(folder, rest) for folder in ("images", f"{name}_images", ""))]

"""What the columns of a row mean: one form of one's own data, which every command reads alike.

    {"id": "cat-1", "image": "photos/1.jpg", "question": "What is on the sign?", "answer": "STOP", "box": [412, 80, 470, 131]}

| column | |
|---|---|
| `id` or `qid` | unique; the file's name and the row's number unless given |
| `question`, `answer` | texts; the answer may be a number, or a list of those that are accepted |
| `image`, `images` or `video` | a path from the table's folder, bytes, a data: URL, a mapping with `path` or `bytes`, or a list: images, or the frames of a video |
| `is_video` | whether a list under `image` is a video's frames, or its file |
| `fps` | of a list of frames, how many make a second; of a video file, the frames to take in a second |
| `options`, `category`, `answer_type`, `difficulty`, `source`, `split`, `gold_response` | what else is known |
| `box`, or `boxes` | [left, top, right, bottom] of the evidence in pixels of the upright first image, or shares of it if no number is above 1; of several a list, also of mappings with `xyxy` and perhaps `frame`, `label`, `weight` |
| `window`, `frame_ranges` | of a video, [start, end] of the evidence in seconds, or a list of [first, last] frames of the file, from 0 |
| `pass_rate` | the share of right responses that was measured, from 0 to 1 |
| `segments`, `pages`, `checklist`, `visual_facts` | whole numbers; mappings of `q` and `a`; texts |
| `text_height`, `candidates`, `frames` | for synthesis; see `sources.table` |
| `attributes`, `extra` | mappings of anything else |

Other columns travel along, unless they look like one of these or like a medium.
"""  # noqa: E501  a table row is one line

from __future__ import annotations

import contextlib
import difflib
import functools
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from data_pipeline.exchange.columns import (
    READERS,
    parsed,
    plain,
    read_answers,
    read_boolean,
    read_mapping,
    read_number,
    read_numbers,
    read_positive,
    read_text,
    read_whole,
)
from data_pipeline.exchange.forms import media_of, query_in_our_form
from data_pipeline.exchange.media_files import IMAGE_SUFFIXES, VIDEO_SUFFIXES, MediaFiles, is_video
from pixel_reasoner_jax.errors import UserError, shown
from pixel_reasoner_jax.processing import MediaError
from pixel_reasoner_jax.processing.decoding import upright_size
from pixel_reasoner_jax.query import MISSPELT, is_missing
from pixel_reasoner_jax.rollout.choices import Options, chosen_option, lettered

Row = Mapping[str, Any]

_MEDIA_COLUMNS = frozenset({"image", "images", "video", "videos", "is_video", "fps"})
_NAMING = frozenset({"id", "qid", "question", "answer"})
_BOXES = frozenset({"box", "boxes"})
KNOWN = frozenset(READERS) | _MEDIA_COLUMNS | _NAMING | _BOXES | {"attributes"}
"""The columns that are read; see the module."""

_MEDIA_WORDS = frozenset(
    "img imgs image images pic pics picture pictures photo photos video videos clip clips movie screenshot screenshots"
    " frame media medium".split()
)
_PROPERTY_WORDS = frozenset(
    "id ids idx index size sizes width height count num number n hash sha md5 type types format source license caption"
    " captions description descriptions title duration length category label labels rate quality domain".split()
)
_OTHER_NAMES = {"bbox": "box", "bboxes": "boxes", "img": "image", "imgs": "images"}


def read_row(row: Row, media: MediaFiles) -> dict[str, Any]:
    """The row of a query in our form: columns as the module says, each checked.

    Args:
      row: as a table has it, in our form or another of `forms`.
      media: finds what the row names.

    Returns:
      `id`, `question`, `answer` (each only if the row has it), `images` (a list) or `video`, `fps`, `boxes` (mappings
      with `xyxy`), `attributes`, other columns. Columns without a value are left out.

    Raises:
      UserError: the row is wrong; the message names the column.
    """
    row = query_in_our_form(_given(row))
    row = _given(row)
    attributes = read_mapping(row.pop("attributes", {}), "attributes")
    if wrong := sorted(set(attributes) & (_NAMING | _MEDIA_COLUMNS)):
        raise UserError(f"attributes has {wrong[0]!r}, which is a column of its own")
    # An export has all other columns among the attributes: they are checked wherever they are.
    row = {name: attributes.pop(name) for name in sorted(set(attributes) & KNOWN)} | row
    check_columns(row)
    read: dict[str, Any] = {"attributes": attributes} if attributes else {}
    if (name := row_id(row)) is not None:
        read["id"] = name
    if (question := row.get("question")) is not None:
        if not isinstance(question, str) or not question.strip():
            raise UserError(f"'question' is empty or no text: {shown(question)}")
        read["question"] = question
    if answers := read_answers(row.get("answer")):
        read["answer"] = answers[0] if len(answers) == 1 else answers
    read |= _read_media(row, media)
    for name in [name for name in row if name not in _NAMING | _MEDIA_COLUMNS | _BOXES]:
        read[name] = READERS.get(name, plain)(row[name], name)
    if "window" in read and "video" not in read:
        raise UserError("window is of a video, and the row has none")
    if "options" in read:
        _check_options(answers, read["options"])
    if _BOXES <= row.keys():
        raise UserError("it has box and boxes; one of them is enough")
    for name in _BOXES & row.keys():
        read["boxes"] = _read_boxes(row[name], name, read)
    return read


def _check_options(answers: list[str], options: Options) -> None:
    """Checks that the answers are among the options: letters, texts, or several letters in one."""
    letters, texts = lettered(options)
    if len(letters) < len(texts):
        raise UserError(f"it has {len(texts)} options; there are letters for {len(letters)}")
    for answer in answers:
        several = set(re.findall(r"\w", answer.upper())) <= {letter.upper() for letter in letters}
        if chosen_option(answer, letters, texts) is None and not several:
            raise UserError(f"answer {shown(answer)} is none of its options {shown(options)}, nor a letter of them")


def check_columns(row: Row, more: frozenset[str] = frozenset()) -> None:
    """Checks that no column only looks like one that is read.

    Args:
      row: without missing values.
      more: columns that are read besides those of a query.

    Raises:
      UserError: a misspelt column, or one that seems to hold a medium; the message says what may be meant.
    """
    known = KNOWN | more
    has_medium = any(media_of(row).values())
    for name, value in row.items():
        if name in known:
            continue
        low = name.strip().lower()
        words = set(re.findall(r"[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()))
        meant = _OTHER_NAMES.get(low) or _misspelt(low, frozenset(words), known)
        if meant:
            raise UserError(f"unknown column {shown(name)}: did you mean {meant!r}?")
        is_number = isinstance(value, int | float)
        named_so = words & _MEDIA_WORDS and not words & _PROPERTY_WORDS and not is_number
        if named_so or (not has_medium and _looks_like_a_medium(value)):
            meant = "video" if {"video", "videos", "clip", "clips", "movie"} & words or is_video(value) else "image"
            raise UserError(
                f"unknown column {shown(name)} looks like a medium: did you mean {meant!r}?"
                " Media are read from image, images and video"
            )


def row_id(row: Row) -> str | None:
    """The id that a row has; None if it has none."""
    given = given_id(row)
    return None if given is None else read_text(given, "id")


def given_id(row: Row) -> Any:
    """The id as it stands in a row, whatever it is; None where there is none."""
    return next((row[name] for name in ("id", "qid") if not is_missing(row.get(name))), None)


def _given(row: Row) -> dict[str, Any]:
    return {name: value for name, value in row.items() if not is_missing(value)}


@functools.lru_cache(maxsize=4096)  # every row of a table has the same columns
def _misspelt(name: str, words: frozenset[str], known: frozenset[str]) -> str | None:
    """The known column that a name is close to; names of several words that use a known one, `question_id`, are not."""
    if name in known:
        return name  # but for capital letters or space around it
    if name in _PROPERTY_WORDS or len(name) > 2 * max(map(len, known)) or (len(words) > 1 and words & known):
        return None
    return next(iter(difflib.get_close_matches(name, [one for one in known if len(one) > 3], 1, MISSPELT)), None)


def _looks_like_a_medium(value: Any) -> bool:
    if isinstance(value, list | tuple) and value:
        value = value[0]
    if isinstance(value, bytes) or (isinstance(value, Mapping) and "bytes" in value):
        return True
    if not isinstance(value, str):
        return False
    low = value.lower() if len(value) < 4096 else value[:16].lower()
    return low.startswith(("data:image/", "data:video/")) or low.endswith(IMAGE_SUFFIXES + VIDEO_SUFFIXES)


def _read_media(row: Row, media: MediaFiles) -> dict[str, Any]:
    if "image" in row and "images" in row:
        raise UserError("it has image and images; one of them is enough")
    found, says_video = media_of(row), "is_video" in row and read_boolean(row["is_video"], "is_video")
    if "is_video" in row and not says_video and found["video"]:
        raise UserError("is_video is false, and it has a video")
    if says_video and not found["video"]:
        found = {"image": [], "video": [_video_under_image(row)]}
    if found["image"] and found["video"]:
        raise UserError("it has images and a video; a query is about one of them")
    if len(found["video"]) > 1:
        raise UserError(f"it has {len(found['video'])} videos; a query is about one")
    if found["video"]:
        return _read_video(found["video"][0], row.get("fps"), media)
    if "fps" in row and found["image"]:
        raise UserError("fps is of a video, and it has images")
    with _named("image" if "image" in row else "images"):
        return {"images": [media.image(_source(image, "image")) for image in found["image"]]} if found["image"] else {}


def _source(given: Any, kind: str) -> Any:
    """What verl's rows have as {"image": …} or {"video": …}."""
    return given[kind] if isinstance(given, Mapping) and given.get(kind) is not None else given


@contextlib.contextmanager
def _named(column: str) -> Iterator[None]:
    """Names the column in errors about its media."""
    try:
        yield
    except MediaError as error:
        raise MediaError(f"{column!r}: {error}") from None


def _video_under_image(row: Row) -> Any:
    """The video of a row in the released form, which has its frames or its file under `image`."""
    image = row.get("image")
    if image is None:
        where = "images; the frames of a video are a list under video" if "images" in row else "nothing under video"
        raise UserError(f"is_video is true, and the row has {where}")
    if not isinstance(image, list | tuple) and not is_video(image):
        raise UserError("is_video is true, and image is one image; a video is a file, or a list of frames")
    return image


def _read_video(source: Any, rate: Any, media: MediaFiles) -> dict[str, Any]:
    """A video, and its rate where that is known: a mapping may have a rate and the number of frames of its own."""
    read: dict[str, Any] = {}
    if isinstance(source, Mapping):
        source = dict(source)
        own, total = source.pop("fps", None), source.pop("total_frames", None)
        source = _source(source, "video")
        if isinstance(source, Mapping) and isinstance(source.get("path"), list | tuple):
            source = source["path"]
        if not is_missing(total):
            read["total_frames"] = read_whole(1)(total, "total_frames")
        if not is_missing(own) and isinstance(source, list | tuple):
            rate = own if rate is None else rate
        elif not is_missing(own):
            read["file_fps"] = read_positive(own, "fps of the video")
    with _named("video"):
        read = {"video": media.video(source), **read}
    return read if rate is None else {**read, "fps": read_positive(rate, "fps")}


def _read_boxes(value: Any, name: str, read: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One box or several, as mappings with `xyxy`, in pixels of the first image."""
    value = parsed(value, name)
    several = isinstance(value, list | tuple) and bool(value) and isinstance(value[0], Mapping | list | tuple)
    return [_read_box(box, name, read) for box in (value if several else [value])]


def _read_box(value: Any, name: str, read: Mapping[str, Any]) -> dict[str, Any]:
    known = value if isinstance(value, Mapping) else {"xyxy": value}
    left, top, right, bottom = numbers = read_numbers(4)(known.get("xyxy"), name)
    size = upright_size(read["images"][0]) if read.get("images") else None
    if max(numbers) <= 1:
        if size is None:
            raise UserError(f"{name} is {numbers}, shares of an image; without images it is in pixels")
        left, right, top, bottom = left * size[0], right * size[0], top * size[1], bottom * size[1]
    width, height = size or (math.inf, math.inf)
    if min(right, width) <= max(left, 0) or min(bottom, height) <= max(top, 0):
        within = f" of {width} x {height} pixels" if size else ""
        raise UserError(f"{name!r} is empty, inverted or outside the image{within}: {shown(numbers)}")
    box: dict[str, Any] = {"xyxy": [left, top, right, bottom]}
    for key, check in (("frame", read_whole(0)), ("label", read_text), ("weight", read_number)):
        if not is_missing(known.get(key)):
            box[key] = check(known[key], f"{key} of {name}")
    return box

"""The trajectories of an evaluation: `trajectories.jsonl`, a line for each response, and their images, each once.

A line has the conversation, the calls, and for every token its id, its source and its log-probabilities. In place of an
image it has the name of a file in `images/`, which is the image that was opened, and the box that was cut out of it.
Files of images are kept as they were; what has no file of its own becomes a PNG, frames of videos a JPEG.
"""

from __future__ import annotations

import base64
import collections
import dataclasses
import io
import json
import os
import pathlib
import re
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from pixel_reasoner_jax.errors import UserError, shown
from pixel_reasoner_jax.evaluation.line_file import LineFile
from pixel_reasoner_jax.evaluation.records import Key
from pixel_reasoner_jax.files import as_path, fetch, is_remote, storage_problem
from pixel_reasoner_jax.processing import MediaError, Picture, PictureStore, Video
from pixel_reasoner_jax.processing.decoding import digest, file_digest
from pixel_reasoner_jax.report.lineage import prompt_items
from pixel_reasoner_jax.report.trajectory_json import to_json_types
from pixel_reasoner_jax.trajectory import Ended, OperationRecord, Source, Trajectory

TRAJECTORIES = "trajectories.jsonl"
IMAGES = "images"
MAX_ARRAY = 2**26  # bytes of an array that is read
MAX_LINE = 2**28  # bytes of a trajectory that is read
MAX_PIECE = 2**20  # bytes of a line in which its key must be
REMEMBERED = 1024  # images whose files are known to be there

_FILE = re.compile(r"[0-9a-f]{8,64}\.(?:png|jpg|webp|gif|bmp|ppm|tiff)")
_SUFFIXES = {
    b"\x89PNG": "png",
    b"\xff\xd8\xff": "jpg",
    b"RIFF": "webp",
    b"GIF8": "gif",
    b"BM": "bmp",
    b"P6": "ppm",
    b"II*\0": "tiff",
    b"MM\0*": "tiff",
}
_TEXT = rb'"(?:[^"\\]|\\.)*+"'
_KEY = re.compile(rb'{"benchmark": %s, "mode": %s, "id": %s, "sample": [0-9]+, ' % (_TEXT, _TEXT, _TEXT))
_ARRAYS = ("logprobs", "policy_logprobs", "temperatures")


class TrajectoryWriter(LineFile):
    """Appends trajectories to those of an evaluation, which may have been begun before; see `LineFile`.

    Args:
      directory: of the lines.
      images: the folder of the evaluation, in which the folder of images is; None: the same.
    """

    def __init__(self, directory: str | os.PathLike, images: str | os.PathLike | None = None):
        super().__init__(directory, TRAJECTORIES, json.loads)
        self._images = as_path(directory if images is None else images) / IMAGES
        self._images.mkdir(parents=True, exist_ok=True)
        self._kept: collections.OrderedDict[str, str] = collections.OrderedDict()  # files of the last images

    def write(self, key: Key, trajectory: Trajectory, sources: Sequence[Any] = ()) -> None:
        """Adds a trajectory.

        Args:
          key: of its response.
          trajectory: its media are not kept, but what they were made from is.
          sources: what the query's images were opened from, in order: files are kept as they are.
        """
        images = [item["image"] for item in prompt_items(trajectory) if item["type"] == "image"]
        pairs = zip(images, sources, strict=False)
        files = {image.original.key: source for image, source in pairs if isinstance(image, Picture)}
        self.append(_key_text(key) + json.dumps(self._fields(trajectory, files))[1:])

    def _fields(self, trajectory: Trajectory, files: Mapping[str, Any]) -> dict[str, Any]:
        sampled = trajectory.source == Source.SAMPLED
        operations = [to_json_types(dataclasses.asdict(operation)) for operation in trajectory.operations]
        arrays = {name: getattr(trajectory, name) for name in _ARRAYS}
        return {
            "question": trajectory.question,
            "reference": to_json_types(trajectory.reference),
            "messages": [
                {"role": message["role"], "content": [self._item(item, files) for item in message["content"]]}
                for message in trajectory.messages
            ],
            "operations": operations,
            "ended": None if trajectory.ended is None else str(trajectory.ended),
            "counted": trajectory.counted,
            "policy_version": trajectory.policy_version,
            "tokens": _packed(trajectory.tokens, np.int32),
            "source": _packed(trajectory.source, np.int8),
            **{name: None if array is None else _packed(array[sampled], np.float32) for name, array in arrays.items()},
        }

    def _item(self, item: Mapping[str, Any], files: Mapping[str, Any]) -> dict[str, Any]:
        if item["type"] == "image":
            return {**_plain(item), "image": self._image(item["image"], files)}
        if item["type"] != "video":
            return to_json_types(dict(item))
        video = item["video"]
        if isinstance(video, Video):
            frames, fps = video.frames, video.fps
        else:
            frames, fps = (video if isinstance(video, list | tuple) else []), item.get("fps")
        return {**_plain(item), "video": [self._image(frame, files, "JPEG") for frame in frames], "fps": fps}

    def _image(self, image: Any, files: Mapping[str, Any], form: str = "PNG") -> dict[str, Any] | None:
        """Keeps the file of an image and says which, and which part of it; None where it cannot be had any more."""
        try:
            if isinstance(image, Picture):
                original = image.original
                if original.resized_from is not None:
                    whole = self._image(original.resized_from, files, form)
                    return whole and {"of": whole, "size": list(original.size), "box": list(image.box)}
                form = "JPEG" if "#" in original.key else form  # a frame of a video file
                name = self._keep(original.key, files.get(original.key), original.load, form)
                return {"file": name} if image.is_original else {"file": name, "box": list(image.box)}
            if isinstance(image, Image.Image):
                return {"file": self._keep(digest(image.tobytes()), None, lambda: image, form)}
            return {"file": self._keep(file_digest(image), image, lambda: image, form)}
        except (MediaError, OSError, ValueError):
            return None

    def _keep(self, key: str, source: Any, load: Callable[[], Any], form: str) -> str:
        """The name of the file of an image, which is written unless it is there.

        Args:
          key: hash of its content.
          source: what it was opened from; None if that is not known.
          load: gives its pixels.
          form: of the file of an image that has none.
        """
        if name := self._kept.get(key):
            self._kept.move_to_end(key)
            return name
        # An orientation that EXIF says is not written with the pixels.
        image = source if isinstance(source, Image.Image) and not source.getexif() else None
        data = None
        if source is not None and not isinstance(source, Image.Image):
            data = source if isinstance(source, bytes) else as_path(source).read_bytes()
            suffix = next((suffix for magic, suffix in _SUFFIXES.items() if data.startswith(magic)), None)
            if suffix is None:
                raise ValueError("no image in a known format")
        else:
            suffix = {"PNG": "png", "JPEG": "jpg"}[form]
        stem = key if re.fullmatch(r"[0-9a-f]{8,64}", key) else digest(key.encode())
        name = f"{stem}.{suffix}"
        if not (self._images / name).exists():
            _write_bytes(self._images / name, _encoded(image or load(), form) if data is None else data)
        self._kept[key] = name
        if len(self._kept) > REMEMBERED:
            self._kept.popitem(last=False)
        return name


def _plain(item: Mapping[str, Any]) -> dict[str, Any]:
    return to_json_types({key: value for key, value in item.items() if key not in ("image", "video", "fps")})


def _encoded(image: Image.Image, form: str) -> bytes:
    buffer = io.BytesIO()
    if form == "JPEG" or image.mode not in ("1", "L", "P", "RGB"):  # a palette is much smaller than its pixels
        image = image.convert("RGB")
    image.save(buffer, form, **({"compress_level": 1} if form == "PNG" else {"quality": 90}))
    return buffer.getvalue()


def _write_bytes(path: Any, data: bytes) -> None:
    """Writes a file that other processes may be writing too: whole, under its name at the end."""
    if is_remote(path):
        path.write_bytes(data)
        return
    temporary = f"{path.parent}/.{os.getpid()}-{path.name}"
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(handle, view) :]
    finally:
        os.close(handle)
    os.replace(temporary, path)


def _packed(array: np.ndarray, kind: type) -> str:
    return base64.b64encode(zlib.compress(np.ascontiguousarray(array, kind).tobytes(), 1)).decode()


def _unpacked(text: str, kind: type) -> np.ndarray:
    inflate = zlib.decompressobj()
    data = inflate.decompress(base64.b64decode(text), MAX_ARRAY)
    return np.frombuffer(data, kind).copy()


def _key_text(key: Key) -> str:
    """How the line of a response begins."""
    benchmark, mode, id, sample = key
    return json.dumps({"benchmark": benchmark, "mode": mode, "id": id, "sample": sample})[:-1] + ", "


def read_trajectories(directory: str | os.PathLike, keys: Iterable[Key]) -> dict[Key, Trajectory]:
    """The trajectories of some responses, without media and with pictures that are decoded when they are used.

    What is not there, or cannot be read, is left out: an evaluation can be shown without it.

    Args:
      directory: of the evaluation.
      keys: of the responses.
    """
    stored, images = StoredTrajectories(directory), _Images(as_path(directory) / IMAGES)
    found = {key: stored.read(key, images) for key in keys}
    return {key: trajectory for key, trajectory in found.items() if trajectory is not None}


class StoredTrajectories:
    """The trajectories of an evaluation, each read when it is asked for; what is held is where their lines begin.

    Args:
      directory: of the evaluation.
    """

    def __init__(self, directory: str | os.PathLike):
        self._path = fetch(directory, TRAJECTORIES) / TRAJECTORIES
        self._starts: dict[bytes, int] = {}
        if not self._path.is_file():
            return
        with self._path.open("rb") as file:
            begins, start = True, 0
            while piece := file.readline(MAX_PIECE):  # a line may be long
                if begins and (key := _KEY.match(piece)):
                    self._starts.setdefault(key[0], start)
                begins, start = piece.endswith(b"\n"), start + len(piece)

    def read(self, key: Key, images: Any) -> Trajectory | None:
        """The trajectory of a response; None where there is none that can be read.

        Args:
          key: of the response.
          images: `images.get(value)` gives the image that `TrajectoryWriter` described by a value of JSON.
        """
        start = self._starts.get(_key_text(key).encode())
        if start is None:
            return None
        try:
            with self._path.open("rb") as file:
                file.seek(start)
                return _trajectory(json.loads(file.readline(MAX_LINE)), key, images)
        except Exception as error:  # a damaged line can fail in many ways
            if storage_problem(error):  # of what keeps the images
                raise
            return None


class _Images:
    """The images of an evaluation's folder."""

    def __init__(self, folder: pathlib.Path):
        self._folder, self._store = folder, PictureStore(2**28)

    def get(self, value: Any) -> Any:
        """The picture that `TrajectoryWriter` kept; b"" where there is none, which shows as a missing image."""
        try:
            return b"" if value is None else self._picture(value)
        except UserError:
            return b""

    def _picture(self, value: Mapping[str, Any]) -> Picture:
        if "of" in value:
            width, height = value["size"]
            if not 0 < width * height < 2**27:
                raise ValueError(f"a size of {width}x{height}")
            return self._picture(value["of"]).resize((width, height)).crop(value["box"])
        if not _FILE.fullmatch(value["file"]):
            raise ValueError(f"no name of an image: {shown(value['file'])}")
        whole = self._store.open(os.fspath(self._folder / value["file"]))
        return whole.crop(value["box"]) if "box" in value else whole


def _trajectory(fields: Mapping[str, Any], key: Key, images: _Images) -> Trajectory:
    tokens, source = _unpacked(fields["tokens"], np.int32), _unpacked(fields["source"], np.int8)
    sampled = source == Source.SAMPLED
    arrays = {}
    for name in _ARRAYS:
        if fields[name] is not None:
            arrays[name] = np.full(len(tokens), name == "temperatures", np.float32)
            arrays[name][sampled] = _unpacked(fields[name], np.float32)
    return Trajectory(
        query_id=key[2],
        question=str(fields["question"]),
        reference=fields["reference"],
        messages=[
            {"role": message["role"], "content": [_item(item, images) for item in message["content"]]}
            for message in fields["messages"]
        ],
        tokens=tokens,
        source=source,
        train=sampled,
        media=[],
        sample=key[3],
        operations=[OperationRecord.from_dict(operation) for operation in fields["operations"]],
        ended=None if fields["ended"] is None else Ended(fields["ended"]),
        counted=None if fields.get("counted") is None else int(fields["counted"]),
        policy_version=None if fields.get("policy_version") is None else int(fields["policy_version"]),
        **arrays,
    )


def _item(item: Mapping[str, Any], images: _Images) -> dict[str, Any]:
    if item["type"] == "image":
        return {**item, "image": images.get(item["image"])}
    if item["type"] == "video":
        return {**item, "video": [images.get(frame) for frame in item["video"]]}
    return dict(item)

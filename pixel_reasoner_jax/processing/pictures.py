"""Images that take no memory until their pixels are used, and the bounded store that keeps these pixels.

A `Picture` holds a hash of its content and its size; its pixels come from a `PictureStore`, which decodes an image once
and keeps it while there is room. A crop is a box on its original and holds no pixels.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import os
import threading
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np
from PIL import Image

from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.processing.decoding import VideoFile, decode_image, digest, file_digest, sample_video
from pixel_reasoner_jax.processing.sources import MediaError, describe
from pixel_reasoner_jax.processing.videos import Clip, Video, given_times, load_each, sample_frames

Box = tuple[int, int, int, int]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Picture:
    """An image, or a part of one, whose pixels are fetched when they are used.

    Attributes:
      original: the image as a store opened it.
      box: left, top, right, bottom of this part, in pixels of the original.
    """

    original: Original
    box: Box

    @property
    def key(self) -> str:
        """Equal for the same part of the same content, whatever file it was opened from."""
        return self.original.key if self.is_original else f"{self.original.key}[{','.join(map(str, self.box))}]"

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        left, top, right, bottom = self.box
        return right - left, bottom - top

    @property
    def width(self) -> int:
        return self.size[0]

    @property
    def height(self) -> int:
        return self.size[1]

    @property
    def full_size(self) -> tuple[float, float]:
        """(width, height) of this part in pixels of the image that was opened, of which it may be a resized copy."""
        resized = self.original.resized_from
        if resized is None:
            return self.size
        return tuple(
            side * full / whole
            for side, full, whole in zip(self.size, resized.full_size, self.original.size, strict=True)
        )

    @property
    def is_original(self) -> bool:
        """Whether this is all of the original and not a part."""
        return self.size == self.original.size

    def crop(self, box: Sequence[float]) -> Picture:
        """The part within (left, top, right, bottom), rounded as PIL rounds; no pixels are touched.

        Raises:
          ValueError: the box is empty, or not within the picture. Operations check boxes before they crop.
        """
        left, top, right, bottom = map(round, box)
        if not (0 <= left < right <= self.width and 0 <= top < bottom <= self.height):
            raise ValueError(f"box {tuple(box)} is empty or not within a picture of {self.width}x{self.height} pixels")
        x, y = self.box[:2]
        return Picture(self.original, (x + left, y + top, x + right, y + bottom))

    def resize(self, size: tuple[int, int]) -> Picture:
        """All of it at another (width, height), bicubic; no pixels are touched."""
        return self if size == self.size else self.original.store.resize(self, size)

    def edit(
        self,
        change: Callable[[Image.Image], Image.Image],
        name: str,
        size: tuple[int, int],
        stands_for: bool = False,
    ) -> Picture:
        """A changed copy of it; no pixels are touched. See `PictureStore.edit`."""
        return self.original.store.edit(self, change, name, size, stands_for)

    def replaced(self) -> Picture:
        """What it stands for (see `Original`), or the part of that; a picture that stands for none is itself."""
        original = self.original
        if original.resized_from is not None:
            replaced = original.resized_from.replaced()
            return self if replaced is original.resized_from else replaced.resize(original.size).crop(self.box)
        return original.edited_from.replaced().crop(self.box) if original.stands_for else self

    def load(self) -> Image.Image:
        """A copy of its pixels as an RGB image, which the caller may change.

        Raises:
          MediaError: they had to be decoded again, and the file has changed or is gone.
        """
        image = self.original.load()
        return image.copy() if self.is_original else image.crop(self.box)

    def __str__(self) -> str:
        """Its name in error messages."""
        return self.original.name

    def __repr__(self) -> str:
        return f"<Picture {self.width}x{self.height} of {self.original.name}>"


@dataclasses.dataclass(frozen=True, eq=False)
class Original:
    """An image, or a frame of a video, that a store has opened; or a resized or changed copy.

    Attributes:
      store: keeps its pixels.
      key: hash of its content.
      name: names it in error messages.
      size: (width, height) in pixels.
      load: returns its pixels, which callers must not change.
      resized_from: the picture that it is a resized copy of; None for an image as it was opened.
      edited_from: the picture that it is a changed copy of.
      stands_for: whether it is to be seen in the place of that picture, such as one with noise.
    """

    store: PictureStore
    key: str
    name: str
    size: tuple[int, int]
    load: Callable[[], Image.Image]
    resized_from: Picture | None = None
    edited_from: Picture | None = None
    stands_for: bool = False

    @property
    def made_of(self) -> set[str]:
        """Its key, and those of the originals that it was made of."""
        source = self.resized_from or self.edited_from
        return {self.key} | (set() if source is None else source.original.made_of)

    def picture(self) -> Picture:
        """The picture of the entire image."""
        return Picture(self, (0, 0, *self.size))


@dataclasses.dataclass(frozen=True)
class _Held:
    value: Any
    bytes: int
    made_of: frozenset[str]


class PictureStore:
    """A bounded cache of decoded pixels, which evicts the least recently used ones; thread-safe.

    An evicted image is decoded again when it is used; one that is larger than the bound is never kept.

    Args:
      max_bytes: the most bytes of pixels that are kept. What callers hold does not count: PIL images that were opened,
        the bytes of files, and pixels in use.

    Attributes:
      max_bytes: as given.
      bytes: bytes kept now.
      peak_bytes: the most bytes that were kept at a time.
    """

    def __init__(self, max_bytes: int = 2**31):
        if max_bytes < 0:
            raise UserError(f"a store of pictures holds 0 bytes or more, got {max_bytes}")
        self.max_bytes = max_bytes
        self.bytes = self.peak_bytes = 0
        self._lock = threading.Lock()
        self._held: collections.OrderedDict[Hashable, _Held] = collections.OrderedDict()
        self._making: dict[Hashable, Future] = {}

    def open(self, source: str | os.PathLike | bytes | Image.Image | Picture) -> Picture:
        """Reads an image as `loading.load_image` does; equal files have equal keys and are kept once.

        Args:
          source: a path, which is read again when its pixels were evicted; the bytes of a file; a PIL image, which the
            picture holds and nobody may change; or a picture, which is returned as it is.

        Raises:
          MediaError: it cannot be read.
        """
        if isinstance(source, Picture):
            return source
        if isinstance(source, Image.Image):
            return self._open_image(source)
        key = file_digest(source)
        image = self._get(key, {key}, functools.partial(decode_image, source))
        return self._original(key, describe(source), image.size, lambda: _unchanged(source, key, decode_image))

    def open_video(
        self,
        source: str | os.PathLike | bytes | Sequence[Any] | Video,
        count: int = 16,
        fps: float | None = None,
        rate: float = 0.0,
    ) -> Video:
        """Samples a video as `loading.load_video` does; the frames are pictures.

        Args:
          source: a file, its bytes, a list of frames, each as `open` takes it, or a loaded `Video`, of whose frames as
            many are taken as of a file's.
          count: frames to take.
          fps: for a list, the number of its frames in a second; for a file, the frames to take in a second, in place of
            `rate`.
          rate: frames to take in a second of video, `count` at most; 0: `count`.

        Raises:
          MediaError: it cannot be read.
        """
        if isinstance(source, Video):
            chosen = sample_video(len(source.frames), source.fps, count, rate)
            frames, times = ([values[index] for index in chosen] for values in (source.frames, source.times))
            clock = functools.partial(given_times, source.times)
            more = functools.partial(load_each, source.frames, self.open)
            clip = Clip(len(source.frames), source.fps, clock, tuple(chosen), more)
            fps = source.fps * len(chosen) / len(source.frames)
            return Video([*map(self.open, frames)], tuple(times), fps, clip)
        if not isinstance(source, str | os.PathLike | bytes):
            return sample_frames(source, count, fps, self.open, rate)
        content, file = file_digest(source), VideoFile(source)
        chosen = file.sample(count, fps, rate)
        frames = self._frames(source, content, file, chosen)

        def more(indices: Sequence[int]) -> list[Picture]:
            return self._frames(source, content, _unchanged(source, content, VideoFile), indices)

        clip = Clip(file.total, file.fps, file.clock, tuple(chosen), more)
        return Video(frames, file.times(chosen), file.fps * len(chosen) / file.total, clip)

    def resize(self, picture: Picture, size: tuple[int, int]) -> Picture:
        """A resized copy of a picture, made when its pixels are used and kept as those of an opened image are."""
        key = f"{picture.key}@{size[0]}x{size[1]}"
        made_of = {key} | picture.original.made_of

        def make() -> Image.Image:
            return picture.load().resize(size, Image.Resampling.BICUBIC)

        load = functools.partial(self._get, key, made_of, make)
        return Original(self, key, picture.original.name, size, load, resized_from=picture).picture()

    def edit(
        self,
        picture: Picture,
        change: Callable[[Image.Image], Image.Image],
        name: str,
        size: tuple[int, int],
        stands_for: bool = False,
    ) -> Picture:
        """A changed copy of a picture, made when its pixels are used and kept as those of an opened image are.

        Args:
          change: gets the picture's pixels, which it may change, and returns the new ones.
          name: of the change with all that it depends on: equal names must be equal changes.
          size: (width, height) of the copy.
          stands_for: see `Original`.
        """
        key = f"{picture.key}!{digest(name.encode())}"
        made_of = {key} | picture.original.made_of
        load = functools.partial(self._get, key, made_of, lambda: change(picture.load()))
        copy = Original(self, key, picture.original.name, size, load, edited_from=picture, stands_for=stands_for)
        return copy.picture()

    def remember(self, key: Hashable, pictures: Sequence[Picture], make: Callable[[], np.ndarray]) -> np.ndarray:
        """Computes an array from pictures, and keeps it as decoded pixels are kept.

        Args:
          key: names the array: while it is kept, the same key returns the same array.
          pictures: the pictures it is made of. To `forget` one of them drops the array too.
          make: computes the array.

        Returns:
          The array, read-only.
        """

        def frozen() -> np.ndarray:
            array = make()
            array.flags.writeable = False
            return array

        return self._get(key, set().union(*(picture.original.made_of for picture in pictures)), frozen)

    def find(self, key: Hashable) -> np.ndarray | None:
        """The array that is kept under a key of `remember`; None if it would have to be made."""
        with self._lock:
            if key not in self._held:
                return None
            self._held.move_to_end(key)
            return self._held[key].value

    def forget(self, picture: Picture) -> None:
        """Drops the pixels of a picture's original and the arrays made of them; a later use decodes it again."""
        with self._lock:
            for key in [key for key, held in self._held.items() if picture.original.key in held.made_of]:
                self.bytes -= self._held.pop(key).bytes

    def _open_image(self, source: Image.Image) -> Picture:
        image = decode_image(source)
        key = f"{digest(image.tobytes())}-{image.width}x{image.height}"
        if image is source:  # the picture holds the PIL image itself, so the store need not keep a copy
            return Original(self, key, describe(source), image.size, lambda: source).picture()
        self._get(key, {key}, lambda: image)
        return self._original(key, describe(source), image.size, lambda: decode_image(source))

    def _frames(
        self, source: str | os.PathLike | bytes, content: str, file: VideoFile, indices: Sequence[int]
    ) -> list[Picture]:
        self._make_all({f"{content}#{index}": index for index in indices}, file.frames)
        return [self._frame(source, content, file, index) for index in indices]

    def _frame(self, source: str | os.PathLike | bytes, content: str, file: VideoFile, index: int) -> Picture:
        # A later reading opens the file again: one that stayed open would hold its bytes.
        read = functools.partial(_unchanged, source, content, lambda source: VideoFile(source).frame(index))
        return self._original(f"{content}#{index}", f"{file.name}, frame {index + 1}", file.size, read)

    def _original(self, key: str, name: str, size: tuple[int, int], read: Callable[[], Image.Image]) -> Picture:
        return Original(self, key, name, size, lambda: self._get(key, {key}, read)).picture()

    def _get(self, key: Hashable, made_of: set[str], make: Callable[[], Any]) -> Any:
        """The value kept under a key, or else the one that `make` returns; other threads that want it wait for that."""
        with self._lock:
            if key in self._held:
                self._held.move_to_end(key)
                return self._held[key].value
            making = self._making.get(key)
            if makes_it := making is None:
                making = self._making[key] = Future()
        if not makes_it:
            return making.result()
        try:
            value = make()
        except BaseException as error:
            self._give_up([key], error)
            raise
        return self._finish(key, made_of, value)

    def _make_all(self, keys: Mapping[str, int], make: Callable[[list[int]], Iterator[Image.Image]]) -> None:
        """Sees to it that images are or were kept, as `_get` does: `make` makes at once those that no thread does."""
        with self._lock:
            for key in keys.keys() & self._held.keys():
                self._held.move_to_end(key)
            others = [self._making[key] for key in keys if key in self._making]
            own = {key: index for key, index in keys.items() if key not in self._held and key not in self._making}
            self._making |= {key: Future() for key in own}
        left = list(own)
        try:
            for key, image in zip(own, make(list(own.values())) if own else (), strict=True):
                self._finish(key, {key}, image)
                left.remove(key)
        except BaseException as error:
            self._give_up(left, error)
            raise
        for making in others:
            making.result()

    def _finish(self, key: Hashable, made_of: set[str], value: Any) -> Any:
        with self._lock:
            making = self._making.pop(key)
            self._keep(key, _Held(value, _bytes(value), frozenset(made_of)))
        making.set_result(value)
        return value

    def _give_up(self, keys: Sequence[Hashable], error: BaseException) -> None:
        with self._lock:
            futures = [self._making.pop(key) for key in keys]
        for making in futures:
            making.set_exception(error)

    def _keep(self, key: Hashable, new: _Held) -> None:
        if new.bytes > self.max_bytes:
            return
        while self.bytes + new.bytes > self.max_bytes:
            self.bytes -= self._held.popitem(last=False)[1].bytes
        self._held[key] = new
        self.bytes += new.bytes
        self.peak_bytes = max(self.peak_bytes, self.bytes)


def _unchanged(source: Any, content: str, read: Callable[[Any], Image.Image]) -> Image.Image:
    """Reads a file again.

    Raises:
      MediaError: its content is no longer the one with the hash `content`.
    """
    if file_digest(source) != content:
        raise MediaError(f"{describe(source)}: the file has changed since it was opened")
    return read(source)


def _bytes(value: Image.Image | np.ndarray) -> int:
    # PIL stores an RGB pixel in 4 bytes.
    return value.nbytes if isinstance(value, np.ndarray) else 4 * value.width * value.height

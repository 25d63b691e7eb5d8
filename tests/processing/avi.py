"""The smallest video file there is, JPEG frames in an AVI container: nothing that is installed encodes video."""

from __future__ import annotations

import io
import pathlib
import struct
from collections.abc import Sequence

from PIL import Image


def write_avi(path: pathlib.Path, frames: Sequence[Image.Image], fps: int) -> pathlib.Path:
    """Writes RGB frames of one size as Motion JPEG (AVI 1.0, with an index)."""
    width, height = frames[0].size if frames else (64, 64)
    images = [_jpeg(frame) for frame in frames]
    largest = max(map(len, images), default=0)
    main_header = struct.pack(
        "<14I", 1_000_000 // fps, largest * fps, 0, 0x10, len(images), 0, 1, largest, width, height, 0, 0, 0, 0
    )
    stream_header = struct.pack(
        "<4s4sIHHIIIIIIII4H", b"vids", b"MJPG", 0, 0, 0, 0, 1, fps, 0, len(images), largest, 0, 0, 0, 0, width, height
    )
    bitmap = struct.pack("<IiiHH4sIiiII", 40, width, height, 1, 24, b"MJPG", width * height * 3, 0, 0, 0, 0)
    stream = _list(b"strl", _chunk(b"strh", stream_header) + _chunk(b"strf", bitmap))
    movie, index, offset = b"", b"", 4
    for image in images:
        chunk = _chunk(b"00dc", image)
        index += struct.pack("<4sIII", b"00dc", 0x10, offset, len(image))
        movie, offset = movie + chunk, offset + len(chunk)
    body = _list(b"hdrl", _chunk(b"avih", main_header) + stream) + _list(b"movi", movie) + _chunk(b"idx1", index)
    path.write_bytes(b"RIFF" + struct.pack("<I", len(body) + 4) + b"AVI " + body)
    return path


def _jpeg(frame: Image.Image) -> bytes:
    buffer = io.BytesIO()
    frame.save(buffer, "JPEG", quality=95, subsampling=0)
    return buffer.getvalue()


def _chunk(name: bytes, data: bytes) -> bytes:
    return name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)


def _list(name: bytes, data: bytes) -> bytes:
    return b"LIST" + struct.pack("<I", len(data) + 4) + name + data

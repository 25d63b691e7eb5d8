"""Random changes of bytes and texts, the same for the same generator."""

from __future__ import annotations

import numpy as np

# What breaks readers of JSON, of numbers, of boxes and of tags; each may be put anywhere.
FRAGMENTS = (
    "<tool_call>", "</tool_call>", "<|im_end|>", "<|image_pad|>", "<|vision_start|>", "NaN", "Infinity", "-1", "1e999",
    "0.5", "1", "1.0", "9" * 30, "null", "true", "{}", "[]", "[[[[[[[[[[[[", "{" * 2000, '"bbox_2d"', '"target_image"',
    '"target_frames"', '"name"', '"arguments"', '"select_frames"', '"crop_image"', '"zoom_in"', "\\ud800", "\\u0000",
    "\x00", "\ufeff", "é", "𝟙", "\u202e", ",", ":", '"', "\\", "}", "]", "../../etc/passwd", "file:///dev/zero",
    "x" * 9000, "[0, 0, 1, 1]", "[1, 2, 3, 999999]", "[-0.0, 0, 1e-300, 1e300]", "[0.2, 0.2, 0.1, 0.1]", "{}[]" * 500,
)  # fmt: skip


def mutated_text(text: str, random: np.random.Generator) -> str:
    """The text with one to four changes: a piece lost, repeated or reversed, a fragment or character put in."""
    for _ in range(random.integers(1, 5)):
        start, end = sorted(random.integers(0, len(text) + 1, 2).tolist())
        end = min(end, start + int(random.integers(1, 40)))
        fragment = FRAGMENTS[random.integers(len(FRAGMENTS))]
        match random.integers(6):
            case 0:
                text = text[:start] + text[end:]
            case 1:
                text = text[:end] + text[start:end] * int(random.integers(1, 4)) + text[end:]
            case 2:
                text = text[:start] + fragment + text[start:]
            case 3:
                text = text[:start] + fragment + text[end:]
            case 4:
                text = text[:start] + text[start:end][::-1] + text[end:]
            case 5:
                text = text[:start] + chr(int(random.integers(1, 0xD800))) + text[start + 1 :]
    return text


def mutated_bytes(data: bytes, random: np.random.Generator) -> bytes:
    """The file with one to eight changes; half of these are in the first 200 bytes, where the header is."""
    data = bytearray(data)
    for _ in range(random.integers(1, 9)):
        if not data:
            break
        start = int(random.integers(min(len(data), 200) if random.random() < 0.5 else len(data)))
        size = int(random.integers(1, 64))
        match random.integers(7):
            case 0:
                data[start] ^= 1 << int(random.integers(8))
            case 1:
                data[start : start + size] = random.bytes(min(size, len(data) - start))
            case 2:
                data[start : start + 4] = (b"\x00" * 4, b"\xff" * 4, b"\x7f\xff\xff\xff", b"\x01\x00\x00\x00")[
                    random.integers(4)
                ]
            case 3:
                del data[start : start + size]
            case 4:
                data[start:start] = data[start : start + size]
            case 5:
                del data[max(start, 16) :]
            case 6:
                data[start : start + size] = bytes(size)
    return bytes(data)

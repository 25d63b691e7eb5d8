"""Thumbnails: bounded, of the right kind, and true to what the model saw."""

import base64
import io

import numpy as np
import pytest
from PIL import Image, ImageDraw

from pixel_reasoner_jax.processing import PictureStore
from pixel_reasoner_jax.processing.geometry import Geometry
from pixel_reasoner_jax.processing.media import normalization_table, process_image, process_video
from pixel_reasoner_jax.report.images import data_uri, image_size, open_image, pixels_seen, thumbnail

NORMALIZATION = normalization_table([0.5] * 3, [0.25] * 3)


def decode(uri):
    head, body = uri.split(",")
    data = base64.b64decode(body)
    return head, len(data), Image.open(io.BytesIO(data))


def noise(width, height, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


@pytest.mark.parametrize("max_bytes", [2_000, 20_000, 200_000])
def test_thumbnails_are_bounded(max_bytes):
    head, size, image = decode(data_uri(noise(1600, 1200), 640, max_bytes))
    assert head == "data:image/jpeg;base64"
    assert size <= max_bytes
    assert max(image.size) <= 640
    assert image.width / image.height == pytest.approx(4 / 3, rel=0.05)


def test_drawings_become_png_unchanged():
    image = Image.new("RGB", (300, 200), "white")
    ImageDraw.Draw(image).rectangle([40, 40, 200, 120], fill=(10, 80, 200))
    head, _, back = decode(data_uri(image, 640, 100_000))
    assert head == "data:image/png;base64"
    assert np.array_equal(np.asarray(back.convert("RGB")), np.asarray(image))


def test_a_thumbnail_is_never_enlarged():
    assert thumbnail(noise(30, 20), 640).size == (30, 20)
    assert thumbnail(noise(4000, 2), 100).size == (100, 1)


def test_missing_pictures_are_none(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    assert open_image(tmp_path / "broken.png") is None
    assert open_image(tmp_path / "gone.png") is None
    assert open_image(b"") is None


def test_pixels_seen_are_those_of_the_resized_image():
    image = noise(140, 84)
    media = process_image(image, (140, 84), Geometry(), NORMALIZATION)
    [seen] = pixels_seen(media)
    assert np.array_equal(np.asarray(seen), np.asarray(image))


def test_pictures_are_shown_as_long_as_their_file_is_there(tmp_path):
    image, path = noise(140, 84), tmp_path / "image.png"
    image.save(path)
    store = PictureStore(0)
    picture = store.open(path).crop((0, 0, 56, 84))
    media = process_image(picture, (56, 84), Geometry(), NORMALIZATION)
    expected = np.asarray(image.crop((0, 0, 56, 84)))
    for shown in (open_image(picture), *pixels_seen(media)):
        assert np.array_equal(np.asarray(shown), expected)
    path.unlink()
    assert open_image(picture) is None and pixels_seen(media) == []
    assert image_size(picture) == image_size(media) == (56, 84)


def test_pixels_seen_of_a_video_are_every_other_frame():
    frames = [noise(56, 84, seed) for seed in range(5)]
    media = process_video(frames, 2.0, (56, 84), Geometry(), NORMALIZATION)
    seen = pixels_seen(media)
    assert len(seen) == 3
    for picture, frame in zip(seen, frames[::2], strict=True):
        assert np.array_equal(np.asarray(picture), np.asarray(frame))

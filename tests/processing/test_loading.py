"""Images and videos of every kind are read alike; what cannot be read is an error that names it."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from pixel_reasoner_jax.processing import MediaError, PictureStore, Video, load_image, load_video
from pixel_reasoner_jax.processing.decoding import sample_indices, upright_size
from tests.processing.avi import write_avi


def picture(width: int = 40, height: int = 30, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def png(image: Image.Image, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    return buffer.getvalue()


def test_path_bytes_and_pil_image_give_the_same(tmp_path):
    image = picture()
    path = tmp_path / "image.png"
    image.save(path)
    for source in (path, str(path), path.read_bytes(), Image.open(path), image):
        loaded = load_image(source)
        assert loaded.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(loaded), np.asarray(image))
    assert load_image(image) is image


@pytest.mark.parametrize("orientation", range(1, 9))
def test_jpeg_orientation_is_applied_once(tmp_path, orientation):
    upright = Image.new("RGB", (48, 32), "blue")
    upright.paste("red", (0, 0, 16, 16))  # the top left corner tells all eight orientations apart with the size
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(undo[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "photo.jpg"
    stored.save(path, exif=exif, quality=95)
    assert upright_size(path) == upright.size
    loaded = load_image(path)
    for again in (loaded, load_image(loaded)):
        assert again.size == (48, 32)
        red, _, blue = again.getpixel((6, 6))
        assert red > 200 > 100 > blue


def test_transparency_is_put_on_white():
    image = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    image.putpixel((0, 0), (255, 0, 0, 255))
    image.putpixel((1, 0), (0, 0, 0, 128))
    loaded = load_image(png(image))
    assert [loaded.getpixel((x, 0)) for x in range(3)] == [(255, 0, 0), (127, 127, 127), (255, 255, 255)]


def test_palette_with_and_without_transparency():
    image = Image.new("P", (4, 4), 1)
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((0, 0), 0)
    assert load_image(png(image)).getpixel((0, 0)) == (10, 20, 30)
    loaded = load_image(png(image, transparency=0))
    assert loaded.getpixel((0, 0)) == (255, 255, 255)
    assert loaded.getpixel((1, 1)) == (40, 50, 60)


def test_sixteen_bits_are_scaled_not_clipped():
    values = np.array([[0, 257, 32896, 65535]] * 4, np.uint16)
    loaded = load_image(png(Image.fromarray(values)))
    assert [loaded.getpixel((x, 0)) for x in range(4)] == [(level,) * 3 for level in (0, 1, 128, 255)]


def test_wide_integers_are_told_by_their_values():
    """Mode "I" holds values of 8 bits or of 16; a mode of 16 bits holds those however small they are."""
    eight = Image.fromarray(np.array([[0, 7, 200, 255]], np.int32))
    sixteen = Image.fromarray(np.array([[0, 257, 32896, 65535]], np.int32))
    dark = Image.fromarray(np.array([[0, 100, 200, 255]], np.uint16))
    assert (eight.mode, sixteen.mode, dark.mode) == ("I", "I", "I;16")
    for image, levels in ((eight, (0, 7, 200, 255)), (sixteen, (0, 1, 128, 255)), (dark, (0, 0, 0, 0))):
        assert [load_image(image).getpixel((x, 0))[0] for x in range(4)] == list(levels)


def test_sixteen_bit_colour_png():
    """PIL cannot write one, so this is one written by hand: 2x1 pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)
    pixels = b"\0" + struct.pack(">6H", 65535, 32896, 0, 257, 257, 257)
    source = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")
    loaded = load_image(source)
    assert [loaded.getpixel((x, 0)) for x in range(2)] == [(255, 128, 0), (1, 1, 1)]


@pytest.mark.parametrize(("mode", "colour"), [("L", 77), ("1", 1), ("LA", (77, 255)), ("CMYK", (0, 255, 0, 0))])
def test_other_modes_become_rgb(mode, colour):
    image = Image.new(mode, (4, 4), colour)
    expected = {"L": (77,) * 3, "1": (255,) * 3, "LA": (77,) * 3, "CMYK": (255, 0, 255)}[mode]
    assert load_image(image).getpixel((0, 0)) == expected


def test_an_image_file_beyond_the_limit_is_not_decoded(tmp_path):
    path = tmp_path / "bomb.png"
    Image.new("1", (12_000, 12_000)).save(path)
    assert path.stat().st_size < 100_000
    with pytest.warns(Image.DecompressionBombWarning), pytest.raises(MediaError, match=r"bomb\.png.*12000x12000"):
        load_image(path)


@pytest.mark.parametrize("name", ["image.png", "image.jpg", "image.webp", "image.gif"])
def test_truncated_and_corrupt_files_are_errors_that_name_them(tmp_path, name):
    path = tmp_path / name
    picture(64, 64).save(path)
    whole = path.read_bytes()
    for size in (0, 3, 20, len(whole) // 2):
        path.write_bytes(whole[:size])
        with pytest.raises(MediaError, match=name):
            load_image(path)
    generator = np.random.default_rng(0)
    for _ in range(50):  # any other damage either passes or is a MediaError
        damaged = np.frombuffer(whole, np.uint8).copy()
        damaged[generator.integers(0, len(damaged), 5)] = generator.integers(0, 256, 5)
        path.write_bytes(damaged.tobytes())
        try:
            load_image(path)
        except MediaError as error:
            assert name in str(error)


def test_a_pil_image_is_read_with_the_same_care(tmp_path):
    path = tmp_path / "lazy.png"
    path.write_bytes(png(picture(64, 64))[:3000])
    with pytest.raises(MediaError, match="lazy.png"):
        load_image(Image.open(path))
    with pytest.raises(MediaError, match="limit of 4,000"):
        load_image(picture(64, 64), max_pixels=4000)


def test_what_is_no_image(tmp_path):
    text = tmp_path / "notes.png"
    text.write_text("not an image")
    script = tmp_path / "figure.eps"
    script.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n")
    for source in (text, script, tmp_path, tmp_path / "missing.png"):
        with pytest.raises(MediaError, match=source.name):
            load_image(source)
    with pytest.raises(MediaError, match="floating-point"):
        load_image(Image.new("F", (4, 4)))


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """40 frames at 10 a second; frame n is of grey 6 n."""
    frames = [Image.new("RGB", (64, 48), (6 * number,) * 3) for number in range(40)]
    return write_avi(tmp_path_factory.mktemp("video") / "film.avi", frames, fps=10)


@pytest.mark.parametrize("count", [1, 2, 5, 16, 40, 64])
def test_video_file_is_sampled_evenly_with_times(film, count):
    video = load_video(film, count)
    expected = sample_indices(40, count)
    shown = [round(np.asarray(frame).mean() / 6) for frame in video.frames]
    assert shown == expected
    np.testing.assert_allclose(video.times, [index / 10 for index in expected], atol=1e-3)
    assert video.fps == pytest.approx(len(expected) / 4.0)
    assert {frame.size for frame in video.frames} == {(64, 48)}
    assert load_video(video) is video


@pytest.mark.parametrize(("rate", "frames"), [(0.0, 16), (1.0, 4), (2.0, 8), (100.0, 16), (0.01, 1)])
def test_a_video_is_sampled_at_a_rate(film, rate, frames):
    """The film has 40 frames and lasts 4 seconds."""
    video = load_video(film, 16, rate=rate)
    assert len(video.frames) == frames and video.fps == pytest.approx(frames / 4)
    assert PictureStore().open_video(film, 16, rate=rate).times == video.times
    assert len(load_video([picture()] * 40, 16, fps=10, rate=rate).frames) == frames


def test_video_bytes(film):
    assert load_video(film.read_bytes(), 4).times == load_video(film, 4).times


def test_sampled_indices_cover_the_whole():
    assert sample_indices(100, 16)[0] == 0
    assert sample_indices(100, 16)[-1] == 99
    assert sample_indices(3, 16) == [0, 1, 2]
    for total in range(1, 60):
        chosen = sample_indices(total, 16)
        assert len(set(chosen)) == len(chosen) == min(total, 16)


def test_video_as_a_list_of_frames(tmp_path):
    frames = [picture(seed=number) for number in range(6)]
    path = tmp_path / "frame.png"
    frames[2].save(path)
    video = load_video([*frames[:2], str(path), *frames[3:]], 16, fps=3)
    assert video.fps == 3
    assert video.times == tuple(number / 3 for number in range(6))
    np.testing.assert_array_equal(np.asarray(video.frames[2]), np.asarray(frames[2]))
    thinned = load_video(frames, 3, fps=3)
    assert thinned.fps == pytest.approx(1.5)
    assert load_video(frames).fps == 2.0


def test_videos_that_cannot_be_read(tmp_path, film):
    empty = write_avi(tmp_path / "empty.avi", [], fps=10)
    noise = tmp_path / "noise.mp4"
    noise.write_bytes(np.random.default_rng(0).bytes(5000))
    short = tmp_path / "short.avi"
    short.write_bytes(film.read_bytes()[:150])
    for source in (empty, noise, short, tmp_path / "missing.mp4"):
        with pytest.raises(MediaError, match=source.name):
            load_video(source)
    with pytest.raises(MediaError, match="no frames"):
        load_video([])
    with pytest.raises(MediaError, match="frame 2 is 41x30"):
        load_video([picture(), picture(41)])
    with pytest.raises(MediaError, match="fps must be positive"):
        load_video([picture()], fps=0)
    with pytest.raises(MediaError, match="lost.png"):
        load_video([picture(), str(tmp_path / "lost.png")])
    assert isinstance(load_video(film), Video)

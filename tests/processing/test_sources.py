"""What may be read: regular files, within the root if there is one, and not too large."""

from __future__ import annotations

import io
import os
import pathlib
import socket
import struct
import threading
import time
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile
from PIL.PngImagePlugin import PngInfo

from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.processing import MediaError, PictureStore, load_image, load_video
from pixel_reasoner_jax.processing.decoding import file_digest, upright_size
from pixel_reasoner_jax.processing.pixels import STRIP_PIXELS, PixelGate
from pixel_reasoner_jax.processing.sources import read_media
from tests.processing.avi import write_avi

READERS = (load_image, load_video, file_digest, PictureStore().open, PictureStore().open_video)


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(width: int = 64, height: int = 48, channels: int = 3) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, channels), np.uint8))


@pytest.mark.parametrize("kind", ["pipe", "socket", "device", "folder", "link to a pipe"])
def test_what_is_no_regular_file_is_refused_at_once(tmp_path, kind):
    path = tmp_path / "medium.png"
    if kind == "folder":
        path.mkdir()
    elif kind == "device":
        path = pathlib.Path("/dev/zero")
    elif kind == "socket":
        here = socket.socket(socket.AF_UNIX)
        here.bind(os.path.relpath(path))  # a short name
    else:
        os.mkfifo(path if kind == "pipe" else tmp_path / "pipe")
        if kind != "pipe":
            path.symlink_to(tmp_path / "pipe")
    for read in READERS:
        with pytest.raises(MediaError, match=rf"{path}: is a {kind.split()[-1]}, no file with an image or a video"):
            read(path)


@pytest.fixture
def root(tmp_path, use_media) -> pathlib.Path:
    """A root with an image and a video; the same lie outside, and links lead there."""
    inside = tmp_path / "root"
    (inside / "folder").mkdir(parents=True)
    for folder in (inside, tmp_path):
        noise().save(folder / "a.png")
        write_avi(folder / "a.avi", [noise()] * 2, fps=2)
    (inside / "out").symlink_to(tmp_path)
    (inside / "link.png").symlink_to(tmp_path / "a.png")
    (inside / "link.avi").symlink_to(tmp_path / "a.avi")
    use_media(root=str(inside))
    return inside


@pytest.mark.parametrize("suffix", ["png", "avi"])
def test_nothing_outside_the_root_is_read(root, suffix):
    read = load_image if suffix == "png" else load_video
    for path in (f"a.{suffix}", f"folder/../a.{suffix}", root / f"a.{suffix}", f"file://{root}/a.{suffix}"):
        assert read(path) and file_digest(path)
    outside = (f"../a.{suffix}", root.parent / f"a.{suffix}", f"out/a.{suffix}", f"link.{suffix}", "/etc/passwd")
    for path in (*outside, f"file://{root.parent}/a.{suffix}", f"gs://bucket/a.{suffix}", "nul\0"):
        for each in (read, file_digest, PictureStore().open):
            with pytest.raises(MediaError):
                each(path)


def test_settings_are_said_once_and_checked(tmp_path, capsys, use_media):
    use_media(root=str(tmp_path), max_pixels=100)
    use_media(root=str(tmp_path), max_pixels=100)
    assert capsys.readouterr().err == f"media: root = {tmp_path}, max_pixels = 100\n"
    with pytest.raises(UserError, match=r"root of media .* is .*nowhere, which is no folder"):
        use_media(root=str(tmp_path / "nowhere"))


def test_the_largest_image_and_frame_are_a_setting(tmp_path, use_media):
    use_media(max_pixels=64 * 48 - 1)
    film = write_avi(tmp_path / "film.avi", [noise()] * 2, fps=2)
    for read, source in ((load_image, encoded(noise(), "PNG")), (load_video, film)):
        with pytest.raises(MediaError, match="64x48 pixels.* more than the limit of 3,071"):
            read(source)
    use_media(max_pixels=200_000_000)
    assert Image.MAX_IMAGE_PIXELS == 200_000_000  # Pillow's own limit does not come first


def test_far_more_pixels_than_the_limit_are_no_damage():
    """Pillow itself refuses so many."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    with pytest.raises(MediaError, match="has far more pixels than the limit of 80,000,000"):
        load_image(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b""))


def test_truncated_images_are_taken_only_if_that_is_set(tmp_path, use_media):
    path = tmp_path / "photo.jpg"
    path.write_bytes(encoded(noise(), "JPEG")[:-500])
    with pytest.raises(
        MediaError,
        match=r"photo\.jpg: the image cannot be decoded: it is truncated; .*training .*--config\.media\.truncated",
    ):
        load_image(path)
    use_media(truncated=True)
    assert load_image(path).size == (64, 48)
    use_media()
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


@pytest.mark.skipif("AVIF" not in Image.registered_extensions().values(), reason="this Pillow does not read AVIF")
def test_avif():
    image = Image.new("RGB", (64, 48), (200, 30, 60))
    assert np.abs(np.asarray(load_image(encoded(image, "AVIF")), np.int16) - np.asarray(image)).max() < 8


def test_errors_say_what_to_do_in_our_own_words(tmp_path):
    damaged = tmp_path / "damaged.png"
    data = encoded(noise(), "PNG")
    damaged.write_bytes(data[:60] + b"\0\0\0\0" + data[64:])
    with pytest.raises(MediaError, match=r"damaged\.png: the image cannot be decoded: it is damaged; copy it anew$"):
        load_image(damaged)
    heic = tmp_path / "photo.heic"
    heic.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    with pytest.raises(MediaError, match=r"photo\.heic: not an image in a known format \(JPEG, PNG"):
        load_image(heic)


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "the file is empty: copy it anew"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d\n", "it is a Git LFS pointer, .*`git lfs pull`"),
        (b"\xef\xbb\xbf\r\n<!DOCTYPE HTML><title>404</title>", "it is a web page, .* download it anew"),
        (b"<html lang='en'>", "it is a web page"),
        (bytes(10_000), "it begins with zeros, as a file that was never written to its end: copy it anew"),
    ],
)  # fmt: skip
def test_a_file_that_is_something_else_is_told_what_it_is(tmp_path, content, message):
    path = tmp_path / "medium.bin"
    path.write_bytes(content)
    for read in (load_image, upright_size, load_video, PictureStore().open, PictureStore().open_video):
        for source, name in ((path, path), (content, f"<{len(content)} bytes>"), (read_media(path), path)):
            with pytest.raises(MediaError, match=f"^{name}: {message}"):
                read(source)


def with_texts(*sizes: int) -> bytes:
    """A PNG with compressed texts, such as the workflow that a program has made it by."""
    texts = PngInfo()
    for number, size in enumerate(sizes):
        texts.add_text(f"workflow {number}", "x" * size, zip=True)
    return encoded(noise(), "PNG", pnginfo=texts)


def test_an_image_with_long_texts_is_read(tmp_path):
    path = tmp_path / "made.png"
    path.write_bytes(with_texts(5_000_000, 2_000_000))
    np.testing.assert_array_equal(load_image(path), noise())
    assert upright_size(path) == (64, 48)
    path.write_bytes(with_texts(40 << 20, 40 << 20))
    with pytest.raises(MediaError, match="made.png: it holds more than 64 MiB of text: save the image without it"):
        load_image(path)


def test_no_message_repeats_what_was_taken_for_a_path(root):
    data = f"data:image/png;base64,{'A' * 100_000}"
    for path in (data, f"/{'a' * 5000}", f"{'../' * 2000}a.png"):
        for read in READERS:
            with pytest.raises(MediaError) as raised:
                read(path)
            assert len(str(raised.value)) < 500


@pytest.mark.parametrize("kind", ["RGBA", "LA", "P", "I;16", "I", "RGB with transparency", "CMYK"])
def test_large_images_are_converted_in_strips_to_the_same(kind, monkeypatch):
    image = noise(channels=4)
    options = {}
    if kind == "P":
        image, options = image.convert("RGB").quantize(40), {"transparency": 3}
    elif kind == "RGB with transparency":
        image, options = noise(), {"transparency": noise().getpixel((5, 5))}
    elif kind.startswith("I"):
        values = np.random.default_rng(0).integers(0, 65536, (48, 64))
        image = Image.fromarray(values.astype(np.uint16 if kind == "I;16" else np.int32))
    else:
        image = image.convert(kind)
    source = image if kind in ("I", "CMYK") else encoded(image, "PNG", **options)
    whole = load_image(source)
    monkeypatch.setattr("pixel_reasoner_jax.processing.pixels.STRIP_PIXELS", 64 * 7)
    assert STRIP_PIXELS > 64 * 48 and load_image(source).tobytes() == whole.tobytes()


def test_so_many_pixels_are_decoded_at_once_and_no_more():
    gate, most, peak = PixelGate(), 100, []
    barrier = threading.Barrier(8)

    def decode(pixels: int) -> None:
        barrier.wait()
        for _ in range(20):
            with gate.room(pixels, most):
                peak.append(gate.pixels)
                time.sleep(0.0005)

    threads = [threading.Thread(target=decode, args=(pixels,)) for pixels in (10, 30, 40, 60, 70, 90, 100, 130)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(peak) == 160 and gate.pixels == 0
    assert max(pixels for pixels in peak if pixels != 130) <= most  # one that is larger is decoded alone


def test_a_large_transparent_png_takes_little_more_than_itself_and_the_result(tmp_path):
    """Four bytes a pixel each."""
    path, status = tmp_path / "large.png", pathlib.Path("/proc/self/status")
    Image.new("RGBA", (4000, 3000), (10, 20, 30, 51)).save(path, compress_level=1)
    try:
        pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak is that of now
    except OSError:
        pytest.skip("this system does not measure the peak of memory anew")
    kib = {name: int(line.split()[1]) for line in status.read_text().splitlines() if (name := line[:5]) == "VmRSS"}
    image = load_image(path)
    [peak] = [int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM")]
    assert image.getpixel((3999, 2999)) == (206, 208, 210)
    assert (peak - kib["VmRSS"]) * 1024 < 2.5 * 4 * 12_000_000

"""Pictures give the pixels of the eager path, and their store never holds more than its bound."""

from __future__ import annotations

import concurrent.futures
import io
import os
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pixel_reasoner_jax.operations import Call, MediaState, default_registry
from pixel_reasoner_jax.processing import MediaError, PictureStore, Processor, load_image, load_video, pictures
from tests.processing.avi import write_avi

RGB_BYTES = 4  # of a pixel of a PIL image


def noise(width: int = 200, height: int = 150, seed: int = 0, channels: int = 3) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8))


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def rotated_jpeg() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(noise(), "JPEG", exif=exif)


SOURCES = {
    "png": lambda: encoded(noise()),
    "rotated jpeg": rotated_jpeg,
    "rgba": lambda: encoded(noise(channels=4)),
    "16 bits": lambda: encoded(Image.fromarray(np.arange(30_000, dtype=np.uint16).reshape(150, 200))),
    "pil": noise,
    "pil rgba": lambda: noise(channels=4),
}


def same(a: Image.Image, b: Image.Image) -> bool:
    return a.mode == b.mode == "RGB" and np.array_equal(np.asarray(a), np.asarray(b))


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    frames = [noise(64, 48, seed) for seed in range(20)]
    return write_avi(tmp_path_factory.mktemp("video") / "film.avi", frames, fps=10)


@pytest.fixture
def decoded(monkeypatch) -> list:
    """What was decoded, in order."""
    sources = []

    def decode(source, *arguments):
        sources.append(source)
        time.sleep(0.01)  # so that threads meet
        return original(source, *arguments)

    original = pictures.decode_image
    monkeypatch.setattr(pictures, "decode_image", decode)
    return sources


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize("max_bytes", [0, 2**20])
def test_pictures_equal_the_eager_path(tiny, kind, max_bytes):
    source = SOURCES[kind]()
    image, picture = load_image(source), PictureStore(max_bytes).open(source)
    assert same(picture.load(), image) and same(load_image(picture), image)
    assert (picture.width, picture.height) == picture.size == image.size
    box = (11, 20, 140, 139)
    for lazy, eager in ((picture, image), (picture.crop(box), image.crop(box))):
        for budget in ("image", "crop", "frame"):
            ours, theirs = tiny.image(lazy, budget), tiny.image(eager, budget)
            assert (ours.grid, ours.size, ours.tokens) == (theirs.grid, theirs.size, theirs.tokens)
            for _ in range(2):
                np.testing.assert_array_equal(ours.pixels, theirs.pixels)
            np.testing.assert_array_equal(ours.patches, theirs.patches)
            assert ours.key and theirs.key is None


@pytest.mark.parametrize("max_bytes", [0, 3 * 64 * 48 * RGB_BYTES, 2**20])
@pytest.mark.parametrize("count", [5, 16, 64])
def test_videos_equal_the_eager_path(tiny, film, max_bytes, count):
    frames = [noise(seed=seed) for seed in range(5)]
    for source, fps in ((film, None), (film.read_bytes(), None), (frames, 3.0), (load_video(film, count), None)):
        store = PictureStore(max_bytes)
        ours, theirs = store.open_video(source, count, fps), load_video(source, count, fps)
        assert (ours.times, ours.fps) == (theirs.times, theirs.fps)
        assert all(same(a.load(), b) for a, b in zip(ours.frames, theirs.frames, strict=True))
        ours, theirs = tiny.video(ours), tiny.video(theirs)
        assert (ours.grid, ours.second_per_grid, ours.kind) == (theirs.grid, theirs.second_per_grid, "video")
        np.testing.assert_array_equal(ours.pixels, theirs.pixels)
        assert store.peak_bytes <= max_bytes


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_a_crop_of_a_crop_is_pils(data):
    image = noise(40, 30)
    picture = PictureStore().open(image)
    for _ in range(data.draw(st.integers(1, 4))):
        left, top = (data.draw(st.integers(0, side - 1)) for side in image.size)
        right, bottom = data.draw(st.integers(left + 1, image.width)), data.draw(st.integers(top + 1, image.height))
        image, picture = image.crop((left, top, right, bottom)), picture.crop((left, top, right, bottom))
        assert picture.size == image.size and same(picture.load(), image)


def test_boxes_are_rounded_like_pils_and_must_lie_within():
    image = noise(40, 30)
    picture = PictureStore().open(image)
    box = (0.5, 1.5, 20.4, 20.6)
    assert same(picture.crop(box).load(), image.crop(box))
    assert picture.crop((0, 0, 40, 30)).key == picture.key
    part = picture.crop((10, 10, 30, 30))
    for outside in ((-1, 0, 5, 5), (0, 0, 21, 5), (5, 5, 5, 9), (9, 5, 5, 9)):
        with pytest.raises(ValueError, match="not within a picture of 20x20"):
            part.crop(outside)


def test_what_load_gives_may_be_changed():
    store = PictureStore()
    for source in (encoded(noise()), noise()):
        picture = store.open(source)
        picture.load().paste("red", (0, 0, 200, 150))
        assert same(picture.load(), noise())


def test_keys_are_those_of_the_content(tiny, tmp_path, film, decoded):
    data = encoded(noise())
    one, other = tmp_path / "one.png", tmp_path / "other.png"
    one.write_bytes(data)
    other.write_bytes(data)
    store = PictureStore()
    opened = [store.open(source) for source in (one, str(other), data, one)]
    assert len({picture.key for picture in opened}) == 1 and len(decoded) == 1
    assert store.bytes == 200 * 150 * RGB_BYTES
    first, last = opened[0], opened[-1]
    assert store.open(first) is first
    assert store.open(noise()).key == store.open(noise().copy()).key
    box, inner = (10, 10, 110, 110), (20, 20, 90, 90)
    assert first.crop(box).crop(inner).key == last.crop((30, 30, 100, 100)).key
    frames = [frame for _ in range(2) for frame in store.open_video(film, 4).frames]
    assert [frame.key for frame in frames[:4]] == [frame.key for frame in frames[4:]]
    different = [first, first.crop(box), first.crop(inner), store.open(noise(seed=1)), *frames[:4]]
    assert len({picture.key for picture in different}) == len(different)

    budgets = [tiny.image(first, kind).key for kind in ("image", "crop")]  # the image is small: both budgets keep it
    assert budgets[0] == budgets[1] == tiny.image(last).key
    assert tiny.image(first.crop(box)).key == tiny.image(last.crop(box)).key != tiny.image(first.crop(inner)).key
    video = store.open_video([one, data], fps=1)
    assert len({tiny.video(video).key, tiny.video(store.open_video([one], fps=1)).key, *budgets}) == 3


def test_pixels_are_decoded_once_while_they_are_kept(tmp_path, decoded):
    images = [encoded(noise(seed=seed)) for seed in range(3)]
    size = 200 * 150 * RGB_BYTES
    store = PictureStore(2 * size)
    first, second = (store.open(data) for data in images[:2])
    for _ in range(3):
        assert same(first.load(), noise(seed=0)) and same(
            second.crop((0, 0, 9, 9)).load(), second.load().crop((0, 0, 9, 9))
        )
    assert len(decoded) == 2
    first.load()
    store.open(images[2])  # takes the place of the second, which was used before the first
    assert store.bytes == 2 * size
    first.load()
    assert len(decoded) == 3
    assert same(second.load(), noise(seed=1)) and len(decoded) == 4
    assert store.peak_bytes == 2 * size

    small = PictureStore(size - 1)
    picture = small.open(images[0])
    assert same(picture.load(), noise(seed=0))
    assert small.bytes == small.peak_bytes == 0


def test_processed_pixels_of_whole_images_are_kept_and_those_of_crops_are_not(tiny, decoded):
    store = PictureStore()
    picture = store.open(encoded(noise()))
    whole, crop = tiny.image(picture), tiny.image(picture.crop((10, 10, 110, 110)), "crop")
    raw = store.bytes
    assert whole.pixels is tiny.image(picture).pixels
    assert store.bytes == raw + whole.pixels.nbytes
    assert crop.pixels is not crop.pixels
    assert store.bytes == raw + whole.pixels.nbytes
    with pytest.raises(ValueError, match="read-only"):
        whole.pixels[:] = 0

    film = tiny.video(store.open_video([encoded(noise(seed=seed)) for seed in range(3)]))
    assert film.pixels is film.pixels
    another = Processor(
        tiny.tokenizer, {**tiny.config, "vision_config": {"patch_size": 28}}, {**tiny.preprocessor, "patch_size": 28}
    )
    assert another.image(picture).pixels.shape != whole.pixels.shape


def test_forgotten_pictures_leave_the_store_with_all_that_was_made_of_them(tiny, decoded):
    store = PictureStore()
    picture, other = store.open(encoded(noise())), store.open(encoded(noise(seed=1)))
    held = store.bytes
    tiny.image(picture).pixels, tiny.video(store.open_video([encoded(noise()), encoded(noise(seed=1))])).pixels
    assert store.bytes > held
    store.forget(picture.crop((0, 0, 50, 50)))
    assert store.bytes == held // 2
    other.load()
    assert len(decoded) == 2
    assert same(picture.load(), noise()) and len(decoded) == 3


def test_a_resized_picture_is_made_once_and_leaves_with_its_original(decoded):
    store = PictureStore()
    picture = store.open(encoded(noise(100, 80)))
    raw, expected = store.bytes, noise(100, 80).resize((50, 40), Image.Resampling.BICUBIC)
    small = picture.resize((50, 40))
    assert small.size == (50, 40) and small.full_size == (100, 80) and store.bytes == raw
    assert picture.resize((100, 80)) is picture and small.key != picture.key
    cut = small.crop((10, 0, 50, 20))
    assert same(cut.load(), expected.crop((10, 0, 50, 20))) and cut.full_size == (80, 40)
    assert small.original.load() is small.original.load() and store.bytes == raw + 50 * 40 * 4
    again = cut.resize((20, 10))  # a copy of a part of a copy
    assert same(again.load(), expected.crop((10, 0, 50, 20)).resize((20, 10), Image.Resampling.BICUBIC))
    assert again.crop((0, 0, 10, 10)).full_size == (40, 40) and again.original.made_of > small.original.made_of
    store.forget(picture)
    assert store.bytes == 0
    assert same(small.load(), expected) and len(decoded) == 2


def test_sixteen_crops_cost_no_more_than_one(tiny):
    peaks = []
    for count in (1, 16):
        store = PictureStore()
        state = MediaState.from_query(images=[store.open(encoded(noise(1000, 800)))])
        registry = default_registry()
        for number in range(count):  # half of them of the image, half of the crop before
            box = [number / 32, 0.1, number / 32 + 0.3, 0.6]
            target = 1 if number % 2 == 0 else number + 1
            [crop] = registry.execute(Call("zoom_in", {"bbox_2d": box, "target_image": target}), state).images
            assert tiny.image(crop, "crop").patches.any()
        assert tiny.image(state.images[0]).patches.any()
        assert len({picture.key for picture in state.images}) == count + 1
        peaks.append(store.peak_bytes)
    assert peaks[0] == peaks[1] > 1000 * 800 * RGB_BYTES


def test_the_bound_holds_among_many_threads(tiny):
    images = [encoded(noise(60 + seed, 80, seed)) for seed in range(12)]
    store = PictureStore(5 * 70 * 80 * RGB_BYTES)
    expected = [tiny.image(data).pixels for data in images]
    over = threading.Event()

    def work(number: int) -> None:
        rng = np.random.default_rng(number)
        for index in rng.integers(0, len(images), 40):
            picture = store.open(images[index])
            np.testing.assert_array_equal(tiny.image(picture).pixels, expected[index])
            assert picture.crop((1, 2, 30, 40)).load().size == (29, 38)
            if index == 0:
                store.forget(picture)
            if not 0 <= store.bytes <= store.max_bytes:
                over.set()

    with concurrent.futures.ThreadPoolExecutor(16) as threads:
        list(threads.map(work, range(16)))
    assert not over.is_set() and 0 < store.peak_bytes <= store.max_bytes
    assert store.bytes == sum(held.bytes for held in store._held.values()) and not store._making


def test_threads_that_want_the_same_decode_it_once(decoded):
    store, data = PictureStore(), encoded(noise())
    with concurrent.futures.ThreadPoolExecutor(16) as threads:
        opened = list(threads.map(store.open, [data] * 16))
        assert len(decoded) == 1
        store.forget(opened[0])
        assert all(same(image, noise()) for image in threads.map(lambda picture: picture.load(), opened))
    assert len(decoded) == 2


def test_a_file_that_has_changed_or_vanished_is_named(tiny, tmp_path, film):
    path, clip = tmp_path / "photo.png", tmp_path / "clip.avi"
    path.write_bytes(encoded(noise()))
    clip.write_bytes(film.read_bytes())
    store = PictureStore()
    crop, frame = store.open(path).crop((5, 5, 60, 60)), store.open_video(clip, 4).frames[2]
    media = tiny.image(crop, "crop")
    path.write_bytes(encoded(noise(seed=1)))
    os.truncate(clip, 5000)
    assert same(crop.load(), noise().crop((5, 5, 60, 60)))
    store.forget(crop)
    store.forget(frame)
    with pytest.raises(MediaError, match=r"photo\.png: the file has changed"):
        crop.load()
    with pytest.raises(MediaError, match=r"clip\.avi: the file has changed"):
        frame.load()
    path.unlink()
    clip.unlink()
    with pytest.raises(MediaError, match=r"photo\.png: no such file"):
        _ = media.pixels
    with pytest.raises(MediaError, match=r"clip\.avi: no such file"):
        frame.load()
    path.write_bytes(encoded(noise()))  # the same content again
    assert same(crop.load(), noise().crop((5, 5, 60, 60)))
    assert not store._making


def test_what_cannot_be_read_is_an_error_when_it_is_opened(tiny, tmp_path):
    store = PictureStore()
    broken = tmp_path / "broken.png"
    broken.write_bytes(encoded(noise())[:3000])
    for source in (broken, tmp_path, tmp_path / "gone.png", b"", broken.read_bytes(), "nul\0"):
        for opened in (store.open, store.open_video):
            with pytest.raises(MediaError) as raised:
                opened(source)
            if isinstance(source, os.PathLike):
                assert str(source) in str(raised.value)
    with pytest.raises(MediaError, match="floating-point"):
        store.open(Image.new("F", (4, 4)))
    with pytest.raises(MediaError, match="frame 2 is 41x30"):
        store.open_video([noise(40, 30), noise(41, 30)])
    with pytest.raises(MediaError, match="no frames"):
        store.open_video([])
    assert store.bytes == 0 and not store._making
    with pytest.raises(ValueError, match="0 bytes or more"):
        PictureStore(-1)
    path = tmp_path / "sliver.png"
    path.write_bytes(encoded(noise(2000, 3)))
    with pytest.raises(MediaError, match=r"sliver\.png: .*2000x3 pixels.*200 times"):
        tiny.image(store.open(path))
    with pytest.raises(MediaError, match=r"sliver\.png: .*200 times"):
        tiny.video(store.open_video([path]))

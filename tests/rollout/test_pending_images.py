"""Worker threads fetch pixels: the scheduler's thread decodes and resizes nothing, whatever has been evicted."""

import io
import threading

import numpy as np
import pytest
from PIL import Image

from pixel_reasoner_jax.processing import MediaError, PictureStore, media, pictures
from pixel_reasoner_jax.rollout.pending_images import PendingImages
from pixel_reasoner_jax.rollout.runner import ModelRunner
from pixel_reasoner_jax.rollout.workers import Workers
from tests.rollout.zooming_policy import TURNS, assert_same, zooming


def noise(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (112, 112, 3), np.uint8))


def ready(images: PendingImages, held, workers) -> bool:
    """Whether they are ready at once; if not, they are when the worker is done."""
    if images.are_ready(held, workers):
        return True
    [coming] = images.coming
    coming.exception(60)
    assert images.are_ready(held, workers) and not images.coming
    return False


def have_pixels(images: PendingImages) -> list[bool]:
    return [isinstance(one.source, np.ndarray) for one in images.media]


def test_all_are_held_or_all_have_pixels(world, tmp_path):
    workers, processor = Workers(1), world[1]
    for number in range(2):
        noise(number).save(tmp_path / f"{number}.png")

    def opened(bound):
        store = PictureStore(bound)
        return [processor.image(store.open(tmp_path / f"{number}.png")) for number in range(2)]

    first, second = opened(0)
    images = PendingImages([first, second])
    assert ready(images, {first.key, second.key}, workers) and have_pixels(images) == [False, False]
    assert not ready(images, {first.key}, workers) and have_pixels(images) == [True, True]
    assert ready(images, {}, workers)
    np.testing.assert_array_equal(images.media[1].pixels, second.pixels)

    kept = opened(2**31)
    assert not ready(PendingImages(kept), {}, workers) and ready(PendingImages(kept), {}, workers)

    images = PendingImages(opened(0))
    (tmp_path / "1.png").unlink()
    with pytest.raises(MediaError, match=r"1\.png"):
        ready(images, {}, workers)
    workers.close()


@pytest.mark.parametrize("bound, evicted", [(2**31, True), (0, False), (0, True)])
def test_the_scheduler_decodes_nothing(world, queries, monkeypatch, bound, evicted):
    """With and without room for pixels, and where an image was in the table when it could have been fetched."""
    own, elsewhere = threading.current_thread(), []

    def by_workers(module, name):
        function = getattr(module, name)

        def called(*arguments):
            assert threading.current_thread() is not own, name
            elsewhere.append(name)
            return function(*arguments)

        monkeypatch.setattr(module, name, called)

    def file(image: Image.Image) -> bytes:
        buffer = io.BytesIO()
        image.convert("RGB").save(buffer, "PNG")
        return buffer.getvalue()

    queries = [{**query, "images": list(map(file, query["images"]))} for query in queries[:4]]
    expected = zooming(world).rollout(queries, samples=2, seed=5, sampling=TURNS)
    by_workers(pictures, "decode_image")
    by_workers(media, "_resize")
    if evicted:
        monkeypatch.setattr(ModelRunner, "holds", lambda self, media: True)
    groups = zooming(world, image_bytes=bound).rollout(queries, samples=2, seed=5, sampling=TURNS)
    assert set(elsewhere) == {"decode_image", "_resize"}
    for group, other in zip(groups, expected, strict=True):
        assert_same(group, other)

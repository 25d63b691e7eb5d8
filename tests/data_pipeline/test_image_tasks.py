"""Tasks of images: what is asked follows from the images, which have been changed as the answer says."""

import numpy as np
import pytest
from PIL import Image

from data_pipeline import image_tasks
from data_pipeline.image_tasks import TASKS, image_files, image_queries
from data_pipeline.records import RecordSource
from pixel_reasoner_jax.errors import UserError


@pytest.fixture
def photos(tmp_path):
    """Three images, and what is none."""
    for number, size in enumerate(((90, 71), (64, 100), (300, 300))):
        pixels = np.random.default_rng(number).integers(0, 255, (*size[::-1], 3), np.uint8)
        (tmp_path / "more").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / ("more" if number else ".") / f"{number}.png")
    (tmp_path / "broken.jpg").write_text("no image")
    Image.new("RGB", (55, 500)).save(tmp_path / "thin.png")
    return tmp_path


def pixels(image):
    return np.asarray(image)


def test_every_image_has_every_task(photos, caplog):
    queries = [*image_queries(image_files(photos), size=100)]
    assert [query["category"] for query in queries] == [*TASKS] * 3
    assert len({query["id"] for query in queries}) == 12
    assert {image.size for query in queries[::4] for image in query["images"]} == {(70, 70), (64, 64), (100, 100)}
    assert caplog.text.count("left out") == 2
    assert "broken.jpg" in caplog.text and "thin.png has a side of 55 pixels" in caplog.text
    again = [*image_queries(image_files(photos), ["jigsaw"], size=100)]
    assert [query["answer"] for query in again] == [query["answer"] for query in queries[2::4]]


@pytest.mark.parametrize("seed", range(6))
def test_rotations_and_jigsaws_are_those_of_the_answer(photos, seed):
    turned, mixed = [*image_queries(image_files(photos)[:1], ["rotation", "jigsaw"], seed)]
    first, second = map(pixels, turned["images"])
    np.testing.assert_array_equal(np.rot90(first, -int(turned["answer"]) // 90), second)
    parts = image_tasks._quarters(mixed["images"][0])
    for part, number in zip(image_tasks._quarters(turned["images"][0]), mixed["answer"], strict=True):
        np.testing.assert_array_equal(pixels(part), pixels(parts[int(number) - 1]))


def test_crops_are_of_what_the_answer_says(tmp_path):
    """Each quarter has one shade, far enough from the others to be known after a change of colors."""
    shades = np.kron([[20, 90], [160, 250]], np.ones((50, 50))).astype(np.uint8)
    Image.fromarray(shades).save(tmp_path / "a.png")
    Image.new("L", (100, 100), 0).save(tmp_path / "b.png")
    seen = set()
    for seed in range(12):
        position, contrastive = [*image_queries(image_files(tmp_path)[:2], ["position", "contrastive"], seed)][:2]
        shade = pixels(position["images"][1]).mean()
        shade = min(range(4), key=lambda number: abs((20, 90, 160, 250)[number] - shade) / (20, 90, 160, 250)[number])
        assert pixels(position["images"][1]).std() < 1
        seen.add(position["answer"])
        dark = [pixels(image).max() < 60 for image in contrastive["images"]]
        assert (contrastive["answer"] == "no") == dark[1] and not dark[0]
    assert len(seen) > 1


def test_the_command(photos, capsys):
    image_tasks.main([str(photos), "--out", str(photos / "data"), "--tasks", "position", "--size", "64"])
    queries = [*RecordSource(photos / "data", "query")]
    assert len(queries) == 3 and queries[0]["options"]["A"] == "the top left" and len(queries[0]["images"]) == 2
    with pytest.raises(SystemExit, match="unknown task 'colour' of images; there are rotation"):
        image_tasks.main([str(photos), "--out", str(photos / "other"), "--tasks", "colour"])
    with pytest.raises(UserError, match="a folder with images is expected"):
        image_files(photos / "none")
    with pytest.raises(UserError, match="it needs two images"):
        next(image_queries(image_files(photos)[:1], ["contrastive"]))


def test_an_image_is_not_compared_with_itself(tmp_path):
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_text("no image")
    queries = [*image_queries(image_files(tmp_path))]
    assert [query["category"] for query in queries] == ["rotation", "position", "jigsaw"]

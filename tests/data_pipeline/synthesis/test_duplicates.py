"""What counts as a repetition, and that it does not depend on who looks."""

import numpy as np
import pytest
from PIL import Image

from data_pipeline.sources.pixel_search import PixelSearch
from data_pipeline.synthesis import BudgetMediaLoader
from data_pipeline.synthesis.duplicates import DuplicateFilter, fingerprint
from pixel_reasoner_jax.processing import MediaError
from tests.data_pipeline.synthesis.seeds import encoded, image_seed, picture, video_seed

MEDIA = BudgetMediaLoader()


def repeats(first, second) -> bool:
    seen = DuplicateFilter()
    assert seen.add(fingerprint(first, MEDIA)) is None
    return seen.add(fingerprint(second, MEDIA)) is not None


ONE = image_seed(1)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"question": " what is at place 1 "},
        {"answer": "A Siamese cat."},
        {"images": (encoded(picture(1), format="JPEG", quality=80),)},
        {"images": (encoded(picture(1, (400, 320))),)},
        {"cue": (0, 0, 0.2, 0.2)},
    ],
)
def test_what_only_encoding_tells_apart_is_a_repetition(changes):
    assert repeats(ONE, image_seed(1, **({"id": "other"} | changes)))


@pytest.mark.parametrize(
    "other",
    [
        image_seed(2, question=ONE.question),
        image_seed(1, id="o", question="What is at place 2?"),
        image_seed(1, id="o", answer="a persian cat"),
        image_seed(1, id="o", images=ONE.images * 2),
        image_seed(1, id="o", images=(encoded(picture(1).transpose(Image.Transpose.FLIP_LEFT_RIGHT)),)),
        image_seed(1, id="o", images=(encoded(picture(1).point(lambda value: value * 0.9)),)),
    ],
)
def test_what_is_another_query_is_none(other):
    assert not repeats(ONE, other)


def test_a_local_change_is_no_repetition():
    """A thumbnail of means alone would not see a square that has moved."""
    first, second = Image.new("L", (160, 160), 255), Image.new("L", (160, 160), 255)
    first.paste(0, (20, 20, 50, 50))
    second.paste(0, (60, 20, 90, 50))
    assert not repeats(image_seed(1, images=(first,)), image_seed(1, id="o", images=(second,)))


def test_videos_are_told_apart_by_their_frames():
    assert repeats(video_seed(1), video_seed(1, id="o")) and not repeats(video_seed(1), video_seed(2))


def test_an_id_is_taken_once():
    seen = DuplicateFilter()
    assert seen.add(fingerprint(ONE, MEDIA)) is None
    assert "id seed-1 is taken" in seen.add(fingerprint(image_seed(2, id="seed-1"), MEDIA))


def test_neighboring_buckets_are_searched():
    """Wherever the mean lies, a shift of the whole picture within the tolerance is a repetition."""
    for level in range(0, 240, 5):
        flat = [
            image_seed(1, id=str(at), images=(Image.new("L", (32, 32), at),)) for at in (level, level + 6, level + 7)
        ]
        assert repeats(flat[0], flat[1]) and repeats(flat[1], flat[0]) and not repeats(flat[0], flat[2])


def test_the_procedural_world_hardly_repeats_itself():
    world, seen = PixelSearch(400, "sft"), DuplicateFilter()
    found = [seen.add(fingerprint(world[index], MEDIA)) for index in range(400)]
    assert np.sum([one is not None for one in found]) <= 1


def test_media_that_cannot_be_read_are_named():
    with pytest.raises(MediaError, match="not an image"):
        fingerprint(image_seed(1, images=(b"no picture",)), MEDIA)
    with pytest.raises(MediaError, match="seed seed-1: .*more than 200 times as long"):
        fingerprint(image_seed(1, images=(Image.new("RGB", (4100, 20)),)), MEDIA)

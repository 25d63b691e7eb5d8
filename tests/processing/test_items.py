"""Items of messages in all the forms that people write, and what they ask for; messages do not repeat the data."""

import base64
import io
import itertools

import numpy as np
import pytest
from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize as oracle_resize

from pixel_reasoner_jax.errors import UserError, shown
from pixel_reasoner_jax.processing import MediaError, PictureStore, load_video
from pixel_reasoner_jax.processing.items import ItemSizes, media_source
from pixel_reasoner_jax.processing.sources import describe
from pixel_reasoner_jax.query import check_query
from pixel_reasoner_jax.rollout.prompt import Prompt
from tests.processing.avi import write_avi


def png(width: int = 60, height: int = 80, color: str = "teal") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), color).save(buffer, "PNG")
    return buffer.getvalue()


DATA = png()
TEXT = base64.b64encode(DATA).decode()
URL = f"data:image/png;base64,{TEXT}"


def forms(path) -> list[dict]:
    return [
        {"type": "image", "image": str(path)},
        {"type": "image", "image": f"file://{path}"},
        {"type": "image", "image": URL},
        {"type": "image", "image": DATA},
        {"type": "image", "image": bytearray(DATA)},
        {"type": "image", "image": {"bytes": DATA, "path": "a name.png"}},
        {"type": "image", "image": {"bytes": None, "path": str(path)}},
        {"type": "image", "path": str(path), "text": None, "video": None},
        {"type": "image", "url": URL},
        {"type": "image", "url": f"file://{path}"},
        {"type": "image", "base64": TEXT},
        {"type": "image", "base64": "\n".join(TEXT[at : at + 64] for at in range(0, len(TEXT), 64))},
        {"type": "image", "bytes": DATA},
        {"type": "image_url", "image_url": {"url": URL, "detail": "high"}},
        {"type": "image_url", "image_url": URL},
        {"type": "image", "image_url": {"url": f"file://{path}"}},
        {"image_url": URL},
        {"image": path},
    ]


def shown_in(processor, item: dict):
    [media] = processor.render_message({"role": "user", "content": [item]}).media
    return media


@pytest.mark.parametrize("number", range(len(forms("x"))))
def test_every_form_is_the_same_image(number, tiny, tmp_path):
    (tmp_path / "one.png").write_bytes(DATA)
    media = shown_in(tiny, forms(tmp_path / "one.png")[number])
    assert media.kind == "image" and np.array_equal(media.pixels, tiny.image(DATA).pixels)


def test_videos_in_other_forms(tiny, tmp_path):
    film = write_avi(tmp_path / "film.avi", [Image.new("RGB", (64, 48), (40 * n, 0, 0)) for n in range(6)], fps=2)
    expected = tiny.video(str(film))
    encoded = base64.b64encode(film.read_bytes()).decode()
    for item in (
        {"type": "video", "path": str(film)},
        {"type": "video", "url": f"file://{film}"},
        {"type": "video", "video": {"bytes": film.read_bytes()}},
        {"type": "video_url", "video_url": {"url": f"data:video/avi;base64,{encoded}"}},
    ):
        media = shown_in(tiny, item)
        assert media.grid == expected.grid and np.array_equal(media.pixels, expected.pixels)
    frames = shown_in(tiny, {"type": "video", "video": [URL, {"bytes": DATA}, DATA], "fps": 4})
    assert np.array_equal(frames.pixels, tiny.video([DATA] * 3, fps=4).pixels) and frames.second_per_grid == 0.5


def test_queries_take_the_same_forms(tiny):
    store = PictureStore()
    query = {"id": "a", "question": "?", "images": [URL, {"bytes": DATA}]}
    prompt = Prompt.build(query, tiny, None, None, store)
    assert len(prompt.rendered.media) == 2 and len({picture.key for picture in prompt.pictures}) == 1
    video = {"id": "b", "question": "?", "video": [URL, {"bytes": DATA}], "fps": 1}
    assert Prompt.build(video, tiny, None, None, store).rendered.media[0].second_per_grid == 2


WRONG = {
    "nothing is downloaded": {"type": "image", "url": "https://example.org/one.png"},
    "not base64": {"type": "image", "base64": "A" * 4001},
    "data:TYPE;base64,DATA": {"type": "image", "image": "data:image/png," + "A" * 4000},
    "too long for a path": {"type": "image", "image": TEXT * 200},
    "none of": {"type": "image", "image": {"name": "x" * 4000}},
    "type 'audio'": {"type": "audio", "path": "x" * 4000},
    "with image, image_url": {"type": "image", "image": DATA, "image_url": URL},
    "with no text, image or video": {"type": "image"},
    "with path": {"path": "one.png"},
    "no such file": {"type": "image", "path": "gone.png"},
    "a path, bytes or a list of frames, not -1": {"video": -1},
    "known format": {"type": "image", "bytes": b"nothing" * 1000},
}


@pytest.mark.parametrize("problem", WRONG)
def test_what_is_wrong_is_said_in_short(problem, tiny):
    with pytest.raises(UserError, match=problem) as raised:
        shown_in(tiny, WRONG[problem])
    assert len(str(raised.value)) < 300


def test_no_message_repeats_the_data(tiny):
    large = {"question": "x" * 10**6, "images": URL * 1000}
    failures = [
        lambda: check_query(large | {"id": "y" * 10**6}),
        lambda: check_query("z" * 10**6),
        lambda: check_query({"id": "a", "question": ["x" * 10**6]}),
        lambda: tiny([{"role": "user", "content": "x" * 10**6}]),
        lambda: tiny.render([{"role": "r" * 10**6, "content": "x"}]),
        lambda: tiny.render([{"role": "user", "content": [{"type": "t" * 10**6, "text": "x"}]}]),
        lambda: tiny.image(URL[:-1] * 1000),
        lambda: tiny.video([URL * 1000]),
        lambda: media_source({"x" * 10**6: 1}),
    ]
    for fail in failures:
        with pytest.raises(UserError) as raised:
            fail()
        assert len(str(raised.value)) < 400
    assert len(describe(URL * 1000)) < 120 and len(describe([URL] * 1000)) < 120
    assert describe("/a/folder/" + "n" * 200 + ".png").endswith(".png")  # paths are whole
    assert shown("a" * 90) == f"'{'a' * 78}… (90 characters)" and shown([1, 2]) == "[1, 2]"


@pytest.mark.parametrize("width,height", [(60, 80), (640, 480), (1000, 90), (33, 2000)])
def test_pixels_of_an_item(width, height, tiny):
    for least, most in itertools.product((None, 784, 20_000, 100_352), (None, 1_000, 50_176, 200_704, 999_999)):
        if least and most and least > most:
            continue
        item = {"type": "image", "image": Image.new("RGB", (width, height)), "min_pixels": least, "max_pixels": most}
        size = shown_in(tiny, item).size
        low, high = (count * 784 for count in tiny.budgets.image)
        high = most or max(high, least or 0)
        oracle = oracle_resize(height, width, 28, least or min(low, high), high)
        if oracle[0] * oracle[1] <= high:  # it may leave a budget, which we do not
            assert size == oracle[::-1]
        assert size[0] * size[1] <= max(high, 784)


def test_a_size_of_its_own(tiny):
    picture = Image.new("RGB", (640, 480))
    item = {"type": "image", "image": picture, "resized_height": 100, "resized_width": 301.0}
    assert shown_in(tiny, item).size == oracle_resize(100, 301, 28, 4 * 784, 16384 * 784)[::-1] == (308, 112)
    film = {"type": "video", "video": [picture] * 4, "resized_height": 56, "resized_width": 84}
    assert shown_in(tiny, film).size == (84, 56)
    assert shown_in(tiny, {"type": "video", "video": [picture] * 4, "max_pixels": 5000}).size == (56, 56)


def test_frames_and_rates_of_an_item(tiny, tmp_path):
    film = write_avi(tmp_path / "film.avi", [Image.new("RGB", (56, 56), (8 * n, 0, 0)) for n in range(24)], fps=4)

    def grid(**asked) -> tuple[int, float]:
        media = shown_in(tiny, {"type": "video", "video": str(film), **asked})
        return media.grid[0], media.second_per_grid

    assert grid() == (8, 2 / (16 / 6))  # 16 frames of 6 seconds, as the budgets say
    assert grid(fps=1) == (3, 2.0)  # one frame a second
    assert grid(nframes=4) == (2, 3.0)
    assert grid(nframes=100)[0] == 12  # there are no more than 24
    frames = [Image.new("RGB", (56, 56))] * 8
    assert shown_in(tiny, {"type": "video", "video": frames, "fps": 8}).second_per_grid == 0.25  # their own rate
    assert shown_in(tiny, {"type": "video", "video": frames, "fps": 8, "nframes": 2}).grid[0] == 1
    # A query's rate means the same, in a store and without one.
    assert len(PictureStore().open_video(str(film), 16, 1.0).frames) == len(load_video(str(film), 16, 1.0).frames) == 6
    for fps in (0, -1, float("nan")):
        with pytest.raises(MediaError, match="fps must be positive"):
            load_video(str(film), 16, fps)


REFUSED = [
    {"max_pixels": 0},
    {"max_pixels": "many"},
    {"max_pixels": 10**9},
    {"min_pixels": 2000, "max_pixels": 1000},
    {"resized_height": 56},
    {"resized_width": 56},
    {"resized_height": True, "resized_width": 56},
    {"nframes": 4},
    {"fps": 2.0},
    {"total_pixels": 10**6},
]


@pytest.mark.parametrize("asked", REFUSED, ids=str)
def test_what_an_image_cannot_have_is_refused_by_name(asked, tiny):
    with pytest.raises(UserError, match=f"message 0, item 0: .*{'|'.join(asked)}"):
        shown_in(tiny, {"type": "image", "image": DATA, **asked})


REFUSED_OF_VIDEOS = [
    {"nframes": 0},
    {"nframes": 2.5},
    {"nframes": 10**6},
    {"fps": 0},
    {"fps": "2"},
    {"min_frames": 4},
    {"max_frames": 8},
    {"video_start": 1.0},
    {"video_end": 2.0},
    {"total_pixels": 10**6},
    {"nframes": 700, "min_pixels": 10**6},
    {"nframes": 4, "fps": 1.0, "video": "film.avi"},
]


@pytest.mark.parametrize("asked", REFUSED_OF_VIDEOS, ids=str)
def test_what_a_video_cannot_have_is_refused_by_name(asked, tiny):
    with pytest.raises(UserError, match="|".join(asked)):
        shown_in(tiny, {"type": "video", "video": [DATA] * 700, **asked})


def test_an_item_asks_for_nothing_unless_it_says_so():
    assert ItemSizes.of("video", {"video": "x", "fps": None, "max_pixels": None}, 28) == ItemSizes()

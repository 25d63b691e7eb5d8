"""Turning, drawing and swapping: every pixel where it belongs."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageColor

from pixel_reasoner_jax.operations import Call, MediaState, OperationError, base, make_registry
from pixel_reasoner_jax.operations.draw import COLORS, MOST_SHAPES, Shape, draw
from pixel_reasoner_jax.processing import PictureStore


def noise(width: int = 60, height: int = 40, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8)
    return Image.fromarray(pixels)


def state(*images: Image.Image, shown: float = 1.0) -> MediaState:
    store = PictureStore()
    return MediaState.from_query(
        [store.open(image) for image in images or (noise(),)],
        resized=lambda size, kind: (round(size[0] * shown), round(size[1] * shown)),
    )


def run(operation: str, media: MediaState, **arguments):
    registry = make_registry((operation,))
    return registry.execute(Call(registry.operations[0].name, arguments), media)


def pixels(image) -> np.ndarray:
    return np.asarray(image if isinstance(image, Image.Image) else image.load())


@pytest.mark.parametrize(("angle", "quarters"), [(0, 0), (90, 1), (180, 2), (270, 3), (-90, 3), (450, 1), (720.0, 0)])
def test_right_angles_move_pixels_as_they_are(angle, quarters):
    for media in (state(), MediaState.from_query([noise()])):  # pictures, and PIL images
        result = run("rotate_image", media, angle=angle, target_image=1)
        assert result.images[0].size == ((60, 40) if quarters % 2 == 0 else (40, 60))
        np.testing.assert_array_equal(pixels(result.images[0]), np.rot90(pixels(noise()), quarters))
        np.testing.assert_array_equal(pixels(media.images[0]), pixels(noise()))  # not changed
        assert (result.kind, result.sources, result.boxes) == ("image", (), ())


def test_other_angles_keep_the_size_and_turn_about_the_middle():
    image = Image.new("RGB", (41, 41))
    image.putpixel((20, 20), (255, 255, 255))
    image.putpixel((40, 20), (255, 0, 0))
    result = run("deepeyes_rotate", state(image), angle=45)
    turned = pixels(result.images[0])
    assert turned.shape == (41, 41, 3)
    assert (turned[20, 20] > 200).all()
    y, x = np.argwhere((turned[..., 0] > 60) & (turned[..., 1] < 60))[0]
    assert abs(x - 34) <= 1 and abs(y - 6) <= 1  # 20 * (cos 45, sin 45) from the middle, counterclockwise


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"angle": "90", "target_image": 1}, "numbers, not a JSON string"),
        ({"angle": float("inf"), "target_image": 1}, "finite"),
        ({"angle": 10**400, "target_image": 1}, "finite"),
        ({"angle": True, "target_image": 1}, "numbers, not a JSON boolean"),
        ({"angle": 90}, "missing target_image"),
        ({"angle": 90, "target_image": 2}, "numbered 1 to 1"),
    ],
)
def test_turns_refused(arguments, reason):
    with pytest.raises(OperationError, match=reason):
        run("rotate_image", state(), **arguments)


def test_a_turned_crop_is_shown_as_a_crop_and_a_turned_image_as_an_image():
    media = state(noise(400, 300))
    run("zoom_image", media, bbox_2d=[0, 0, 100, 50], target_image=1)
    assert run("rotate_image", media, angle=90, target_image=2).kind == "crop"
    assert media.images[-1].size == (50, 100)
    cut = run("zoom_image", media, bbox_2d=[0, 10, 40, 60], target_image=3)
    np.testing.assert_array_equal(pixels(cut.images[0]), np.rot90(pixels(noise(400, 300))[:50, :100])[10:60, :40])


def outline(image: np.ndarray, color: str) -> np.ndarray:
    return np.argwhere((image == ImageColor.getrgb(color)).all(-1))


def test_a_box_s_lines_are_inside_of_what_a_crop_of_it_shows():
    blank = Image.new("RGB", (100, 80))
    result = run("draw_boxes", state(blank), boxes=[{"bbox_2d": [10, 20, 60, 50]}], target_image=1)
    drawn = pixels(result.images[0])
    expected = np.zeros((80, 100), bool)
    expected[20:50, 10:60] = True
    expected[24:46, 14:56] = False  # lines of 4 pixels
    np.testing.assert_array_equal((drawn == ImageColor.getrgb(COLORS[0])).all(-1), expected)
    assert (drawn[~expected] == 0).all()
    assert result.kind == "image"
    # The model is shown the image at half its sides: so are its pixels and its lines.
    half = run("draw_boxes", state(blank, shown=0.5), boxes=[{"bbox_2d": [5, 10, 30, 25]}], target_image=1)
    wide = np.zeros((80, 100), bool)
    wide[20:50, 10:60] = True
    wide[28:42, 18:52] = False
    np.testing.assert_array_equal((pixels(half.images[0]) == ImageColor.getrgb(COLORS[0])).all(-1), wide)


def test_lines_go_where_they_are_told():
    lines = [
        {"start_point_2d": [10, 30], "end_point_2d": [90, 30]},
        {"start_point_2d": [40, 0], "end_point_2d": [40, 79]},
    ]
    drawn = pixels(run("draw_lines", state(Image.new("RGB", (100, 80))), lines=lines, target_image=1).images[0])
    across, down = outline(drawn, COLORS[0]), outline(drawn, COLORS[1])
    assert set(across[:, 0]) == {29, 30, 31, 32} and (across[:, 1].min(), across[:, 1].max()) == (10, 90)
    assert set(down[:, 1]) == {39, 40, 41, 42} and set(down[:, 0]) == set(range(80))


@pytest.mark.parametrize("param", ["{}=25", 'x="25" y=" 25.0"', "at {} = 25", 25, 25.0])
def test_a_line_across(param):
    places = {}
    for operation, axis in (("horizontal_line", "y"), ("vertical_line", "x")):
        given = param.format(axis) if isinstance(param, str) else param
        result = run(operation, state(Image.new("RGB", (100, 80))), image="img_1", param=given)
        rows, columns = outline(pixels(result.images[0]), COLORS[0]).T
        places[axis] = set(rows), set(columns)
    assert places == {"y": ({20, 21}, set(range(100))), "x": (set(range(80)), {25, 26})}


def test_what_is_drawn_again_replaces_what_has_its_label():
    media, blank = state(Image.new("RGB", (100, 80))), Image.new("RGB", (100, 80))
    run("vilasr_boxes", media, boxes=[{"index": 0, "bbox_2d": [0, 0, 40, 40], "label": "cup"},
                                      {"index": 0, "bbox_2d": [50, 50, 90, 70], "label": "pen"}])  # fmt: skip
    run("vilasr_boxes", media, boxes=[{"index": 1, "bbox_2d": [5, 5, 45, 45], "label": "cup"}])
    result = run("vilasr_lines", media, lines=[{"index": 2, "start_point_2d": [0, 0], "end_point_2d": [99, 79]}])
    assert [len(media.drawings[number].shapes) for number in (1, 2, 3)] == [2, 2, 3]
    assert {drawing.source for drawing in media.drawings.values()} == {0}
    shapes = {
        "cup": Shape("box", (0.05, 0.0625, 0.45, 0.5625)),
        "pen": Shape("box", (0.5, 0.625, 0.9, 0.875)),
        "line": Shape("line", (0.0, 0.0, 0.99, 0.9875), named=False),
    }
    np.testing.assert_array_equal(pixels(result.images[0]), pixels(draw(blank, shapes, 4)))
    fork = media.fork()
    fork.drawings.clear()
    assert len(media.drawings) == 3


def test_labels_are_written_whatever_they_are():
    media = state(Image.new("RGB", (100, 80)))
    for label in ("cup", "<|image_pad|>\x00\u202e", "é" * 4000):
        drawn = run("draw_boxes", media, boxes=[{"bbox_2d": [0, 0, 90, 70], "label": label}], target_image=1)
        assert pixels(drawn.images[0])[8:60, 8:80].any()


@pytest.mark.parametrize(
    ("operation", "arguments", "reason"),
    [
        ("draw_boxes", {"boxes": [], "target_image": 1}, "0 items; it must have 1 to 32"),
        ("draw_boxes", {"boxes": [{"bbox_2d": [0, 0, 9, 9]}] * 33, "target_image": 1}, "33 items"),
        ("draw_boxes", {"boxes": [[0, 0, 9, 9]], "target_image": 1}, "an array of objects"),
        ("draw_boxes", {"boxes": [{"bbox_2d": [9, 0, 0, 9]}], "target_image": 1}, "empty or inverted"),
        ("draw_boxes", {"boxes": [{"bbox_2d": [0, 0, 9, 9], "label": 3}], "target_image": 1}, "label must be a string"),
        ("draw_boxes", {"boxes": [{"label": "cup"}], "target_image": 1}, "missing bbox_2d"),
        ("draw_boxes", {"boxes": [{"bbox_2d": [0, 0, 9, 9], "index": 0}], "target_image": 1}, "unknown arguments"),
        ("draw_boxes", {"boxes": {"bbox_2d": [0, 0, 9, 9]}, "target_image": 1}, "an array, not a JSON object"),
        ("draw_boxes", {"boxes": [{"bbox_2d": [0, 0, 9, 9]}]}, "missing target_image"),
        ("draw_lines", {"lines": [{"start_point_2d": [0, 0]}], "target_image": 1}, "missing end_point_2d"),
        ("vilasr_boxes", {"boxes": [{"bbox_2d": [0, 0, 9, 9], "index": 1}]}, "numbered 0 to 0"),
        ("vilasr_boxes", {"boxes": [{"bbox_2d": [0, 0, 9, 9], "index": []}]}, "whole numbers"),
        ("vilasr_boxes", {"boxes": ["cup"]}, "an array of objects"),
        ("horizontal_line", {"image": "img_1", "param": "x=3"}, "in the form y=28.5"),
        ("horizontal_line", {"image": "img_1", "param": "y=101"}, "0 to 100"),
        ("horizontal_line", {"image": "img_1", "param": "y=1000"}, "in the form y=28.5"),
        ("horizontal_line", {"image": "img_1", "param": "y=1e9"}, "in the form y=28.5"),
        ("horizontal_line", {"image": "img_1", "param": "y=2.8.5"}, "in the form y=28.5"),
        ("horizontal_line", {"image": "img_1", "param": None}, "numbers, not a JSON null"),
        ("horizontal_line", {"image": "img_2", "param": "y=3"}, "image must be img_1 to img_1"),
        ("horizontal_line", {"image": "/etc/passwd", "param": "y=3"}, "image must be img_1 to img_1"),
    ],
)
def test_drawings_refused(operation, arguments, reason):
    media = state()
    with pytest.raises(OperationError, match=reason):
        run(operation, media, **arguments)
    assert len(media.images) == 1 and not media.drawings


def test_an_image_is_drawn_on_so_often_and_no_more():
    media = state(Image.new("RGB", (100, 80)))
    boxes = [{"bbox_2d": [n, 0, n + 9, 9]} for n in range(MOST_SHAPES)]
    run("draw_boxes", media, boxes=boxes, target_image=1)
    run("draw_boxes", media, boxes=boxes, target_image=2)  # the same ones
    with pytest.raises(OperationError, match="at most 32 boxes and lines"):
        run("draw_lines", media, lines=[{"start_point_2d": [0, 0], "end_point_2d": [9, 9]}], target_image=3)


def test_swapping_tiles():
    media = state(noise(61, 41))  # tiles of 30 by 20; a column and a row are left over
    before = pixels(noise(61, 41))
    result = run("swap_tiles", media, first=1, second=4)
    after = before.copy()
    after[:20, :30], after[20:40, 30:60] = before[20:40, 30:60], before[:20, :30]
    np.testing.assert_array_equal(pixels(result.images[0]), after)
    assert result.kind == "image"
    run("swap_tiles", media, first=2, second=3)  # of the puzzle as it stands
    again = run("swap_tiles", media, first=3, second=2)
    np.testing.assert_array_equal(pixels(again.images[0]), after)
    back = run("swap_tiles", media, first=4, second=1)
    np.testing.assert_array_equal(pixels(back.images[0]), before)


def test_tiles_of_nine_are_numbered_row_by_row():
    tiles = np.arange(9, dtype=np.uint8).reshape(3, 3).repeat(4, 0).repeat(5, 1)
    media = state(Image.fromarray(np.stack([tiles] * 3, -1)))
    swapped = pixels(run("swap_tiles_3x3", media, first=2, second=7.0).images[0])[::4, ::5, 0]
    assert swapped.tolist() == [[0, 6, 2], [3, 4, 5], [1, 7, 8]]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"first": 1, "second": 1}, "two tiles, not 1 twice"),
        ({"first": 0, "second": 1}, "tiles are numbered 1 to 4"),
        ({"first": 1, "second": 5}, "tiles are numbered 1 to 4"),
        ({"first": "1", "second": 2}, "whole numbers"),
        ({"first": 1}, "missing second"),
    ],
)
def test_swaps_refused(arguments, reason):
    with pytest.raises(OperationError, match=reason):
        run("swap_tiles", state(), **arguments)
    with pytest.raises(OperationError, match="fewer pixels than tiles"):
        run("swap_tiles", state(Image.new("RGB", (1, 9))), first=1, second=2)


@pytest.mark.parametrize("operation", ["rotate_image", "draw_boxes", "swap_tiles"])
def test_what_is_edited_is_bounded(operation, monkeypatch):
    monkeypatch.setattr(base, "MOST_EDITED", 600)
    media = state(noise(60, 40))  # four times as many
    given = {"angle": 90, "target_image": 1, "boxes": [{"bbox_2d": [0, 0, 60, 40]}], "first": 1, "second": 2}
    names = make_registry((operation,)).operations[0].arguments
    [image] = run(operation, media, **{name: given[name] for name in names}).images
    assert sorted(image.size) == [20, 30] and image.load().size == image.size


def test_edited_pictures_take_memory_only_in_their_store():
    store = PictureStore()
    media = MediaState.from_query([store.open(noise())])
    [turned] = run("rotate_image", media, angle=90, target_image=1).images
    [same] = run("rotate_image", media, angle=450, target_image=1).images
    assert turned.key == same.key != media.images[0].key
    held = store.bytes
    first = pixels(turned)
    assert store.bytes > held
    store.forget(media.images[0])
    assert store.bytes == 0
    np.testing.assert_array_equal(pixels(turned), first)  # made again

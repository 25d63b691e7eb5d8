"""Zooming by the rules of other methods, into boxes and around points: hand-worked places, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from pixel_reasoner_jax.operations import Call, MediaState, OperationError, make_registry
from pixel_reasoner_jax.operations.zoom import MOST_PIXELS, ZoomImage, at_least_112, by_area
from pixel_reasoner_jax.processing import PictureStore


def numbered(width: int, height: int) -> Image.Image:
    """An image whose pixels tell their place: red is x // 4, green y // 4."""
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([x // 4, y // 4, 0 * x], -1).astype(np.uint8))


def state(width: int = 1000, height: int = 800, shown: float = 1.0) -> MediaState:
    """One image, which the model is shown with sides that are `shown` times as long."""
    return MediaState.from_query(
        [PictureStore().open(numbered(width, height))],
        resized=lambda size, kind: (round(size[0] * shown), round(size[1] * shown)),
    )


def run(operation: str, media: MediaState, **arguments):
    registry = make_registry((operation,))
    return registry.execute(Call(registry.operations[0].name, arguments), media)


@pytest.mark.parametrize(
    ("operation", "shown", "arguments", "box", "size"),
    [
        ("zoom_image", 1.0, {"bbox_2d": [100, 200, 300, 250], "target_image": 1}, (100, 200, 300, 250), (200, 50)),
        # Pixels of the image as it is shown, at half its sides.
        ("zoom_image", 0.5, {"bbox_2d": [50, 100, 150, 125], "target_image": 1}, (100, 200, 300, 250), (200, 50)),
        ("zoom_image", 1.0, {"bbox_2d": [-9, -9, 5000, 1e300], "target_image": 1}, (0, 0, 1000, 800), (1000, 800)),
        ("deepeyes_zoom", 1.0, {"bbox_2d": [0, 0, 31, 40], "label": "a sign"}, (0, 0, 31, 40), (31, 40)),
        ("deepeyes_zoom", 1.0, {"bbox": [0, 0, 31, 40]}, (0, 0, 31, 40), (31, 40)),
        # The middle is (200, 300): sides of 100 and 200 become 150 and 300, and the crop 225 by 450.
        ("chain_of_focus_zoom", 1.0, {"bbox_2d": [150, 200, 250, 400]}, (125, 150, 275, 450), (225, 450)),
        # 40 by 40 become 60 by 60, and that 112 by 112.
        ("chain_of_focus_zoom", 1.0, {"bbox_2d": [100, 100, 140, 140]}, (90, 90, 150, 150), (112, 112)),
        # Half of the image or more: as it is. Below an eighth: twice. 500 by 500 is 0.3125 of it: 1.5 times.
        ("vlm_r3_zoom", 1.0, {"bbox_2d": [0, 0, 500, 800]}, (0, 0, 500, 800), (500, 800)),
        ("vlm_r3_zoom", 1.0, {"bbox_2d": [0, 0, 100, 100]}, (0, 0, 100, 100), (200, 200)),
        ("vlm_r3_zoom", 1.0, {"bbox_2d": [500, 300, 1000, 800]}, (500, 300, 1000, 800), (750, 750)),
        ("mini_o3_zoom", 1.0, {"bbox_2d": [0.1, 0.25, 0.2, 0.5], "source": "original_image"}, (100, 200, 200, 400),
         (400, 800)),
        ("vrag_bbox", 1.0, {"bbox_2d": [10, 20, 110, 220]}, (10, 20, 110, 220), (100, 200)),
        ("visrl_focus", 0.5, {"bbox_2d": [10, 20, 110, 220]}, (20, 40, 220, 440), (200, 400)),
        ("video_com_zoom", 1.0, {"bbox_2d": [10, 20, 110, 220]}, (10, 20, 110, 220), (100, 200)),
        # 364 pixels around the point, enlarged to 672; moved inside at the edges.
        ("vigorl_point", 1.0, {"coordinate": [500, 400]}, (318, 218, 682, 582), (672, 672)),
        ("vigorl_point", 1.0, {"coordinate": [0, 790.5]}, (0, 436, 364, 800), (672, 672)),
        ("vigorl_point", 0.5, {"coordinate": [500, 400]}, (272, 72, 1000, 800), (728, 728)),
        ("vigorl_web_point", 1.0, {"coordinate": [500, 400]}, (450, 350, 550, 450), (384, 384)),
        ("zoom_in_on_point", 1.0, {"coordinate": [1000, 0], "target_image": 1}, (636, 0, 1000, 364), (672, 672)),
    ],
)  # fmt: skip
def test_what_is_shown(operation, shown, arguments, box, size):
    media = state(shown=shown)
    result = run(operation, media, **arguments)
    assert (result.boxes, result.sources, result.kind) == ((box,), (0,), "crop")
    [image] = result.images
    assert image.size == size and media.images[-1] is image
    left, top, right, bottom = box
    part = numbered(1000, 800).crop(box).resize(size, Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(np.asarray(image.load()), np.asarray(part))


def test_a_square_that_is_longer_than_the_image_is_cut():
    media = state(200, 800)
    result = run("vigorl_point", media, coordinate=[10, 400])
    assert result.boxes == ((0, 218, 200, 582),)
    assert result.images[0].size == (369, 672)


def test_earlier_observations_are_cropped_again():
    media = state()
    first = run("mini_o3_zoom", media, bbox_2d=[0.5, 0.5, 0.6, 0.75], source="original_image")
    assert first.images[0].size == (400, 800)
    again = run("mini_o3_zoom", media, bbox_2d=[0.0, 0.5, 0.5, 1.0], source="observation_1")
    assert again.sources == (1,)
    assert again.boxes == ((0, 100, 50, 200),)  # in pixels of the crop before it was enlarged: reports add its corner
    last = run("vrag_bbox", media, bbox_2d=[0, 0, 100, 100])
    assert last.sources == (2,)
    numbers = run("zoom_image", media, bbox_2d=[0, 0, 100, 100], target_image=3)
    assert numbers.sources == (2,)


def test_enlargements_are_bounded():
    assert by_area((500, 500), (1000, 800)) == 1.5  # recipes' check value, at a share of 0.3125
    assert at_least_112((56, 56), (1, 1)) == 2.0
    media = state(3000, 2000)
    [image] = run("mini_o3_zoom", media, bbox_2d=[0.0, 0.0, 1.0, 1.0], source="original_image").images
    assert image.size == (3000, 2000)  # never reduced
    [image] = run("mini_o3_zoom", media, bbox_2d=[0.0, 0.0, 0.5, 0.5], source="original_image").images
    assert 0.99 < image.width * image.height / MOST_PIXELS < 1.01


BOX = [100, 100, 300, 300]


@pytest.mark.parametrize(
    ("operation", "arguments", "reason"),
    [
        ("zoom_image", {"bbox_2d": BOX}, "missing target_image"),
        ("zoom_image", {"bbox_2d": BOX, "target_image": 2}, "numbered 1 to 1"),
        ("zoom_image", {"bbox_2d": BOX, "target_image": 1, "zoom": 2}, "unknown arguments"),
        ("zoom_image", {"bbox_2d": [100, 100, 100, 300], "target_image": 1}, "empty or inverted"),
        ("zoom_image", {"bbox_2d": [100, 100, 128, 300], "target_image": 1}, "too small: 28x200"),
        ("deepeyes_zoom", {"bbox_2d": [100, 100, 130, 300]}, "too small: 30x200"),
        ("deepeyes_zoom", {"bbox_2d": BOX, "target_image": 1}, "unknown arguments"),
        ("deepeyes_zoom", {"bbox_2d": BOX, "bbox": BOX}, "unknown arguments"),
        ("deepeyes_zoom", {"bbox_2d": {"x1": 0}}, "an array, not a JSON object"),
        ("vrag_bbox", {"bbox_2d": [2000, 2000, 3000, 3000]}, "too small: 0x0"),
        ("mini_o3_zoom", {"bbox_2d": [0.1, 0.1, 0.5, 0.5], "source": "observation_1"}, "there is none yet"),
        ("mini_o3_zoom", {"bbox_2d": [0.1, 0.1, 0.5, 0.5], "source": 1}, "a string, not a JSON number"),
        ("mini_o3_zoom", {"bbox_2d": [0.1, 0.1, 0.5, 0.5], "source": "../original_image"}, "must be original_image or"),
        ("mini_o3_zoom", {"bbox_2d": [0.1, 0.1, 0.5, 0.5], "source": "observation_٣"}, "must be original_image or"),
        ("vigorl_point", {"coordinate": [10]}, "two numbers"),
        ("vigorl_point", {"coordinate": [10, float("nan")]}, "finite"),
        ("vigorl_point", {"coordinate": [1001, 10]}, "out of range; the image has 1000x800"),
        ("vigorl_point", {"coordinate": [-1, 10]}, "out of range"),
    ],
)
def test_what_is_refused(operation, arguments, reason):
    media = state()
    with pytest.raises(OperationError, match=reason):
        run(operation, media, **arguments)
    assert len(media.images) == 1


@pytest.mark.parametrize("operation", ["deepeyes_zoom", "vrag_bbox", "mini_o3_zoom", "vigorl_point", "zoom_image"])
def test_nothing_to_look_at(operation):
    given = {"bbox_2d": BOX, "source": "original_image", "target_image": 1, "coordinate": [1, 1]}
    names = make_registry((operation,)).operations[0].arguments
    with pytest.raises(OperationError, match="there is no image to"):
        run(operation, MediaState.from_query(), **{name: given[name] for name in names})


def test_signatures_say_what_is_asked_for():
    media = state()
    [told] = make_registry(("mini_o3_zoom",)).signatures(media)
    assert told["function"]["name"] == "grounding"
    assert told["function"]["parameters"]["required"] == ["bbox_2d", "source"]
    [told] = make_registry(("deepeyes_zoom",)).signatures(media)
    assert told["function"]["parameters"]["required"] == ["bbox_2d"]
    assert "pixels" in told["function"]["parameters"]["properties"]["bbox_2d"]["description"]
    assert ZoomImage().arguments == ("bbox_2d", "target_image")

"""Boxes and intervals: what is read of texts, how much they overlap, and what no text can do."""

import types

import pytest

from pixel_reasoner_jax.rewards.boxes import (
    Found,
    distinct,
    gold_boxes,
    gold_interval,
    iou,
    match,
    mean_average_precision,
    read_box,
    read_boxes,
    read_interval,
    rescaled,
    temporal_iou,
)
from tests.recipes.scripted import said

BOX = (0.0, 0.0, 10.0, 10.0)


@pytest.mark.parametrize(
    "text,found",
    [
        ('```json\n[{"bbox_2d": [1, 2, 3, 4.5], "label": "red cat"}]\n```', [Found((1, 2, 3, 4.5), "red cat")]),
        (
            "[{'Position': [1, 2, 3, 4], 'Confidence': 0.9}, {'Position': (5,6,7,8), 'Confidence': 7}]",
            [Found((1, 2, 3, 4), "", 0.9), Found((5, 6, 7, 8), "", 1.0)],
        ),
        ("at [1, 2, 3, 4] and ( 5 , -6 , 7 , 8 )", [Found((1, 2, 3, 4)), Found((5, -6, 7, 8))]),
        ('{"objects": [{"label": "a", "box": [1, 2, 3, 4]}]}', [Found((1, 2, 3, 4), "a")]),
        ("[1, 2, 3] [1, 2, 3, 4, 5] [a, b, c, d] {}", []),
        ("", []),
    ],
)
def test_boxes_are_read(text, found):
    assert read_boxes(text) == found
    assert read_box(text) == (found[0].box if found else None)


@pytest.mark.parametrize(
    "text,interval",
    [
        ("12.5 to 17.0", (12.5, 17.0)),
        ("It is from 3 s - 5 s.", (3, 5)),
        ("[3.2, 5]", (3.2, 5)),
        ("between 01:02 and 01:10.5", (62, 70.5)),
        ("1 to 2, or 3 seconds to 4 seconds", (3, 4)),
        ("12", None),
        ("never", None),
    ],
)
def test_intervals_are_read(text, interval):
    assert read_interval(text) == interval


@pytest.mark.parametrize(
    "part", ("{", "[", "[1,", "{[1, 2, 3, 4]", "{'label': '", "1", "1 to ", "1:", "1.", "[1 , 1", " ", "9" * 9 + ",")
)
def test_hostile_texts_are_read_in_linear_time(part):
    """Quadratic time would take minutes."""
    text = part * (50_000 // len(part))
    read_boxes(text), read_interval(text)
    assert read_boxes(text + "} ] {'box': [0, 0, 10, 10]}")[-1:] == [Found(BOX)]


def test_many_boxes_take_no_memory():
    many = [Found(BOX)] * 100_000
    assert match(many, [Found(BOX)] * 1000)[:1] == [1.0] and len(distinct(many)) == 1
    assert mean_average_precision(many, [Found(BOX)]) == 1.0


def test_overlaps():
    assert iou(BOX, (0, 0, 10, 5)) == 0.5 and iou(BOX, (5, 0, 15, 10)) == pytest.approx(1 / 3)
    assert iou(BOX, (10, 10, 20, 20)) == iou(BOX, (10, 10, 0, 0)) == iou((0, 0, 0, 0), (0, 0, 0, 0)) == 0
    assert temporal_iou((0, 4), (2, 6)) == pytest.approx(1 / 3)
    assert temporal_iou((4, 0), (0, 4)) == temporal_iou((0, 1), (1, 2)) == 0


def test_the_most_confident_box_chooses_first():
    gold = [Found(BOX), Found((100, 100, 110, 110))]
    found = [Found((0, 0, 10, 8), "", 0.5), Found((0, 0, 10, 9), "", 0.9), Found((100, 100, 110, 104), "", 1.0)]
    assert match(found, gold) == pytest.approx([0.0, 0.9, 0.0])
    assert match(found, gold, least=0.3) == pytest.approx([0.0, 0.9, 0.4])
    assert match([], gold) == [] and match(found, []) == [0.0] * 3


def test_mean_average_precision():
    assert mean_average_precision([], []) == 1.0 and mean_average_precision([Found(BOX)], []) == 0.0
    assert mean_average_precision([], [Found(BOX)]) == 0.0
    # IoU 0.8 is enough for 7 of 10 thresholds; a wrong box after a right one costs nothing, before it half.
    near, wrong = Found((0, 0, 10, 8), "Cat"), Found((50, 50, 60, 60), "cat")
    assert mean_average_precision([near], [Found(BOX, "cat")]) == pytest.approx(0.7)
    assert mean_average_precision([near, wrong], [Found(BOX, "cat")]) == pytest.approx(0.7)
    assert mean_average_precision([wrong, near], [Found(BOX, "cat")]) == pytest.approx(0.35)
    assert mean_average_precision([near], [Found(BOX, "dog")]) == 0.0
    # One of two gold boxes: the precision is 1 at the 51 recalls up to 0.5.
    assert mean_average_precision([Found(BOX)], [Found(BOX), Found((50, 50, 60, 60))]) == pytest.approx(51 / 101)


def test_boxes_of_the_data():
    assert gold_boxes({"boxes": [[1, 2, 3, 4]]}) == gold_boxes({"boxes": [1, 2, 3, 4]}) == [Found((1, 2, 3, 4))]
    assert gold_boxes({"boxes": [{"xyxy": [1, 2, 3, 4], "label": "cat"}]}) == [Found((1, 2, 3, 4), "cat")]
    wrong = [None, 5, [1, 2], ["a"] * 4, [True] * 4, [float("nan"), 0, 0, 0], [10**400, 0, 0, 0], {"xyxy": "1, 2"}]
    assert gold_boxes({"boxes": wrong}) == gold_boxes({"boxes": "no"}) == gold_boxes({}) == []
    assert gold_interval({"window": [1, 2.5]}) == (1, 2.5) and gold_interval({"window": [1]}) is None


def test_boxes_are_those_of_the_image_itself():
    one = said("x")
    assert rescaled([Found(BOX)], one) == [Found(BOX)]
    one.media.append(types.SimpleNamespace(size=(100, 50)))
    image = types.SimpleNamespace(size=(50, 50), full_size=(200, 200))
    one.messages[0]["content"].insert(0, {"type": "image", "image": image})
    assert rescaled([Found(BOX, "cat")], one) == [Found((0, 0, 20, 40), "cat")]

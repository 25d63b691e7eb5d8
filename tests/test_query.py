"""What is a query, and what is wrong with what is none."""

import math

import pytest
from PIL import Image

from pixel_reasoner_jax.query import check_query, object_box

QUERY = {"id": "q", "question": "?", "answer": "5"}


@pytest.mark.parametrize(
    "fields",
    [
        {"answer": ["5", "five"]},
        {"images": []},
        {"images": ["a.png"], "image": "what the source called it", "image_path": "a.png"},
        {"video": ["1.png", "2.png"], "fps": 0.5},
        {"pass_rate": 0.25, "category": "signs", "options": ["A", "B"], "box": [0, 0, 1, 1], "answer_type": "number"},
        {"question_id": 7, "video_id": "6H78U", "window": [1.0, 2.0], "frame_ranges": [[1, 2]], "source": None},
        {"id": 3},
    ],
)
def test_what_stored_records_carry_by_design_travels_along(fields):
    query = QUERY | fields
    assert check_query(query, scored=True) is query


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image": "a.png"}, "query 'q': unknown key 'image'; did you mean 'images'"),
        ({"image_path": "a.png"}, "unknown key 'image_path'; did you mean 'images'"),
        ({"video_path": "a.mp4"}, "unknown key 'video_path'; did you mean 'video'"),
        ({"vidoe": "a.mp4"}, "unknown key 'vidoe'; did you mean 'video'"),
        ({"images": "a.png"}, "images must be a list, of one image too; got str"),
        ({"images": Image.new("RGB", (4, 4))}, "images must be a list, of one image too; got Image"),
        ({"images": ["a.png"], "video": "a.mp4"}, "query 'q': it has images and a video"),
        ({"id": ""}, "it has no id"),
        ({"id": math.nan}, "it has no id"),
        ({"question": " \n"}, "query 'q': it has no question"),
        ({"question": 5}, "question must be a text, got 5"),
        ({"fps": 0}, "query 'q': fps must be a number greater than 0, got 0"),
        ({"fps": -2.0}, "fps must be a number greater than 0, got -2.0"),
        ({"fps": math.nan}, "fps must be a number greater than 0, got nan"),
        ({"fps": math.inf}, "fps must be a number greater than 0, got inf"),
        ({"fps": "2"}, "fps must be a number greater than 0, got '2'"),
        ({"options": 5}, "query 'q': options must be a list of texts, or a mapping from letters to texts, got 5"),
        ({"options": "A. red B. blue"}, "options must be a list of texts, or a mapping from letters to texts, got 'A"),
        ({"options": ["red", 3]}, "options must be a list of texts, or a mapping from letters to texts"),
        ({"options": {1: "red"}}, "options must be a list of texts, or a mapping from letters to texts"),
        ({"options": {"A": None}}, "options must be a list of texts, or a mapping from letters to texts"),
        ({"options": ["red"] * 27}, "query 'q': it has 27 options; there are letters for 26"),
        ({"pass_rate": "half"}, "its pass_rate is 'half', not a number from 0 to 1"),
        ({"pass_rate": 50}, "its pass_rate is 50, not a number from 0 to 1"),
    ],
)
def test_what_is_no_query_says_which_key_is_wrong(fields, message):
    with pytest.raises(ValueError, match=message):
        check_query(QUERY | fields)


@pytest.mark.parametrize("answer", [None, "", "  ", [], math.nan])
def test_only_what_is_scored_needs_an_answer(answer):
    check_query(QUERY | {"answer": answer})
    with pytest.raises(ValueError, match="query 'q': it has no answer"):
        check_query(QUERY | {"answer": answer}, scored=True)


@pytest.mark.parametrize("answer", [5, {"a": 1}, [5], ["5", None], b"5", True])
def test_an_answer_is_text(answer):
    with pytest.raises(ValueError, match="query 'q': answer must be a text or a list of texts, got"):
        check_query(QUERY | {"answer": answer}, scored=True)


def test_no_answer_of_several_is_empty():
    """An empty one would be met by an empty response."""
    with pytest.raises(ValueError, match="query 'q': one of its answers is empty"):
        check_query(QUERY | {"answer": ["5", ""]}, scored=True)


def test_messages_do_not_repeat_the_data():
    for query in ("x" * 10**6, QUERY | {"question": ["x" * 10**6]}, QUERY | {"id": "x" * 10**6, "question": ""}):
        with pytest.raises(ValueError) as error:
            check_query(query)
        assert len(str(error.value)) < 300


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"pixel_box": (10, 20, 30, 40)}, (0.1, 0.4, 0.3, 0.8)),
        ({"object_box": [0.1, 0.4, 0.3, 0.8]}, (0.1, 0.4, 0.3, 0.8)),
        ({"proposed_box": [0, 0, 1, 1]}, (0, 0, 1, 1)),
        ({"pixel_box": [-10, 20, 30.0, 4000]}, (0.0, 0.4, 0.3, 1.0)),  # cut off
        ({"boxes": [{"xyxy": [0, 0, 100, 50]}, {"xyxy": [10, 20, 30, 40], "label": "sign"}]}, (0.1, 0.4, 0.3, 0.8)),
        ({"boxes": [{"xyxy": "x"}, 7, {}], "pixel_box": None}, None),
        ({"boxes": "many"}, None),
        ({"pixel_box": [30, 20, 10, 40]}, None),
        ({"pixel_box": [200, 20, 300, 40]}, None),
        ({"pixel_box": [0, 0, math.nan, 3]}, None),
        ({"pixel_box": [0, 0, 10**400, 3]}, None),
        ({"pixel_box": [True, 0, 2, 3]}, None),
        ({"pixel_box": {"a": 1}}, None),
        ({}, None),
    ],
)
def test_where_what_is_asked_about_is(fields, expected):
    assert object_box(fields, lambda: (100, 50)) == (expected and pytest.approx(expected))
    in_pixels = any(max(box) > 1 for box in fields.values() if isinstance(box, tuple))
    assert not in_pixels or object_box(fields, lambda: None) is None  # an image that is gone

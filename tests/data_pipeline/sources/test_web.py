"""Web pages: CSS pixels, elements, questions."""

import pytest

from data_pipeline.sources.web import WebPages

PAGE = {
    "id": "p",
    "url": "https://example.org",
    "screenshot": "shot.png",
    "scale": 2,
    "elements": [
        {"text": "Opening hours", "box": [10, 5, 30, 10]},
        {"text": "Monday to Friday", "box": [10, 20, 50, 10]},
        {"text": "|", "box": [90, 1, 1, 1]},
    ],
    "questions": [
        {"question": "When is it open?", "answer": "Monday to Friday", "element": 1},
        {"question": "Who?", "answer": "Ada", "box": [50, 25, 25, 12.5], "text_height": 5},
    ],
}


def test_every_question_is_a_seed(write):
    picture = write("shot.png", size=(200, 100))
    first, second = WebPages(str(write("pages.jsonl", [PAGE])))
    assert (first.id, second.id) == ("web-p-0", "web-p-1") and first.images == (picture.read_bytes(),)
    assert first.cue == pytest.approx((0.1, 0.4, 0.6, 0.6)) and second.cue == pytest.approx((0.5, 0.5, 0.75, 0.75))
    # The other elements that can be looked at: the thin line is none.
    assert first.candidates == (pytest.approx((0.1, 0.1, 0.4, 0.3)),) and len(second.candidates) == 2
    assert first.text_height is None and second.text_height == pytest.approx(0.1)
    assert first.attributes == {"url": "https://example.org"}


def test_a_page_without_questions_is_for_the_captioner(write):
    write("shot.png", size=(200, 100))
    page = {key: value for key, value in PAGE.items() if key != "questions"}
    (seed,) = WebPages(str(write("pages.jsonl", [page])))
    assert seed.question == "" and seed.cue == pytest.approx((0.1, 0.4, 0.6, 0.6))


def test_pages_that_cannot_be_read_are_named_and_harm_no_other(write, errors):
    write("shot.png", size=(200, 100))
    asked = {"question": "?", "answer": "x"}
    pages = [
        "{",
        PAGE,
        PAGE | {"questions": [asked | {"element": 3}]},
        PAGE | {"questions": [asked]},
        PAGE | {"elements": [{"box": [1, 2, 3]}]},
        PAGE | {"scale": 0},
        {"screenshot": "shot.png"},
        PAGE | {"screenshot": "gone.png", "questions": []},
        PAGE | {"questions": "none"},
    ]
    path = write("pages.jsonl", pages)
    source = WebPages(str(path))
    found = errors(source)
    assert len(source) == 12 and {1, 2}.isdisjoint(found) and len(found) == 10
    assert f"{path}, line 1: not JSON" in found[0] and "line 3, question 0: there is no element 3" in found[3]
    assert "line 4, question 0: 'element' is missing" in found[4] and "element 0: 'box' has 3 numbers" in found[5]
    assert "'scale' is 0" in found[7] and "neither 'questions' nor" in found[9] and "there is no file" in found[10]
    assert "'questions' is str" in found[11]

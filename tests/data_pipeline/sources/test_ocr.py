"""Answers found among the words that OCR read."""

import pytest

from data_pipeline.sources.ocr import ReadableImages


def rosetta(word, left, top, width=0.1, height=0.05):
    box = {"top_left_x": left, "top_left_y": top, "width": width, "height": height, "rotation": 0}
    return {"word": word, "bounding_box": box}


def textract(text, left, top, width=0.1, height=0.05):
    return {"Text": text, "Geometry": {"BoundingBox": {"Left": left, "Top": top, "Width": width, "Height": height}}}


def test_textvqa(write):
    picture = write("images/0054.jpg")
    words = [rosetta("NO", 0.1, 0.1), rosetta("Coca", 0.4, 0.5), rosetta("Cola", 0.52, 0.5), rosetta("Cola", 0.8, 0.8)]
    write("ocr.json", {"data": [{"image_id": "0054", "ocr_info": words}]})
    answers = ["Coca-Cola!"] * 4 + ["cola"] * 3 + ["unanswerable", "no", "no"]
    entry = {"question_id": 5, "image_id": "0054", "question": "Which brand?", "answers": answers}
    (seed,) = ReadableImages(str(write("questions.json", {"data": [entry]}).parent))
    assert seed.id == "ocr-5" and seed.images == (picture.read_bytes(),)
    # Most people's answer is not written like that, with a hyphen; that of three is, and its word is on the sign. What
    # fewer said is not right, though "no" is written too.
    assert seed.answer == ["cola", "Coca-Cola!"]
    assert seed.cue == pytest.approx((0.52 - 0.025, 0.475, 0.62 + 0.025, 0.575))
    assert seed.text_height == pytest.approx(0.05)


def test_infographicsvqa(write):
    write("images/20471.jpeg")
    words = [
        textract("of", 0.1, 0.1),
        textract("thirty", 0.3, 0.2),
        textract("two", 0.42, 0.2),
        textract("87%", 0.9, 0.97),
    ]
    write("ocr/20471.json", {"PAGE": [], "WORD": words})
    about = {"image_local_name": "20471.jpeg"}
    entries = [
        about | {"questionId": 1, "question": "How many?", "answers": ["Thirty two"]},
        about | {"questionId": 2, "question": "Which share?", "answers": ["87%"]},
    ]
    first, second = ReadableImages(str(write("questions.json", {"data": entries}).parent))
    assert first.cue == pytest.approx((0.275, 0.175, 0.545, 0.275)) and first.answer == "Thirty two"
    assert second.cue == pytest.approx((0.875, 0.945, 1.0, 1.0))  # the margin ends with the image


def test_questions_that_cannot_be_used_are_named(write, errors):
    write("images/a.jpg")
    write("images/b.jpg")
    write("ocr.json", {"data": [{"image_id": "a", "ocr_info": [rosetta("STOP", 0.1, 0.1)]}]})
    entries = [
        {"image_id": "a", "question": "?", "answers": ["stop"]},
        {"image_id": "a", "question": "?", "answers": ["sto"]},
        {"image_id": "a", "question": "?", "answers": []},
        {"image_id": "b", "question": "?", "answers": ["stop"]},
        {"image_id": "c", "question": "?", "answers": ["stop"]},
        {"image_id": "a", "answers": ["stop"]},
    ]
    path = write("questions.json", {"data": entries})
    found = errors(ReadableImages(str(path.parent)))
    expected = [
        "",
        "none of its answers (sto) is written",
        "'answers' is empty",
        "no OCR of image b",
        "no file",
        "'question'",
    ]
    assert list(found) == [1, 2, 3, 4, 5]
    assert all(f"{path}, entry {at}: " in found[at] and expected[at] in found[at] for at in found), found

"""The plain form: boxes in pixels or shares, frames or windows, and every mistake with its file and line."""

import pytest
from PIL import Image

from data_pipeline.sources import SOURCE_KINDS, SourceError, open_source
from data_pipeline.sources.table import TableSeeds

GOOD = {"id": "a", "image": "one.png", "question": "What?", "answer": 7, "box": [20, 10, 40, 30]}


def test_an_image_query(write):
    picture = write("one.png")
    write("two.png", size=(50, 50))
    second = {
        "images": ["two.png", "one.png"],
        "question": "Who?",
        "answer": ["Bob", "bob", "Bob"],
        "box": [0, 0, 1, 0.5],
    }
    extra = {"text_height": 15, "candidates": [[100, 10, 150, 90]], "attributes": {"color": "red"}}
    first, other = TableSeeds(str(write("seeds.jsonl", [GOOD | extra, "", second])))
    assert (first.id, first.question, first.answer) == ("a", "What?", "7")
    assert first.images == (picture.read_bytes(),)  # the file itself, not its pixels encoded anew
    assert first.cue == pytest.approx((0.1, 0.1, 0.2, 0.3))
    assert first.candidates == (pytest.approx((0.5, 0.1, 0.75, 0.9)),) and first.attributes == {"color": "red"}
    assert other.id == "seeds-000001" and other.answer == ["Bob", "bob"] and other.cue == (0.0, 0.0, 1.0, 0.5)
    assert len(other.images) == 2 and (first.text_height, other.text_height) == (0.15, None)


def test_a_query_without_a_question_is_for_the_captioner(write):
    write("one.png")
    (seed,) = TableSeeds(str(write("seeds.jsonl", [{"image": "one.png", "box": [0.1, 0.1, 0.2, 0.2]}])))
    assert seed.question == "" and seed.answer == ""


def test_a_query_without_a_box_is_for_the_captioner(write):
    """Even a photo alone."""
    write("one.png")
    plain = {key: GOOD[key] for key in ("image", "question", "answer")}
    video = {"video": ["one.png"], "question": "?", "answer": "x"}
    asked, photo, clip = TableSeeds(str(write("seeds.jsonl", [plain | {"box": None}, {"image": "one.png"}, video])))
    assert (asked.question, asked.answer, asked.cue) == ("What?", "7", ())
    assert (photo.question, photo.answer, photo.cue) == ("", "", ())
    assert (clip.cue, clip.window) == ((), None)


def test_videos_have_frames_or_a_window(write):
    frames = [write(f"{number}.png", size=(40, 30)).name for number in range(20)]
    video = {"video": frames, "fps": 4, "question": "?", "answer": "x"}
    lines = [video | {"frames": [3, 4]}, video | {"window": [1.0, 2.1]}]
    by_number, by_window = TableSeeds(str(write("seeds.jsonl", lines)))
    assert by_number.cue == (3, 4) and by_number.fps == 4 and len(by_number.video) == 20
    assert by_window.window == (1.0, 2.1) and by_window.video == by_number.video


def test_nothing_outside_the_root_of_media_is_read(write, tmp_path, use_media, errors):
    write("one.png")
    (tmp_path / "media").mkdir()
    (tmp_path / "media" / "link.png").symlink_to(tmp_path / "one.png")
    write("media/one.png")
    names = ("one.png", f"{tmp_path}/media/one.png", f"{tmp_path}/one.png", "link.png", "../one.png")
    path = write("seeds.jsonl", [GOOD | {"image": name} for name in names])
    use_media(root=str(tmp_path / "media"))
    found = errors(TableSeeds(str(path)))
    assert list(found) == [2, 3, 4] and all("leads out of" in message for message in found.values())


def test_every_mistake_is_named_with_its_line(write, errors):
    write("one.png")
    write("text.png").write_bytes(b"no picture")
    lines = [
        GOOD,
        "{broken",
        "[1]",
        GOOD | {"image": "gone.png"},
        GOOD | {"image": "text.png"},
        GOOD | {"box": [40, 10, 20, 30]},
        GOOD | {"box": [300, 10, 400, 30]},
        GOOD | {"box": [1, 2, "3", 4]},
        GOOD | {"box": [True, 2, 3, 4]},
        '{"image": "one.png", "question": "?", "answer": "x", "box": [NaN, 0, 1, 1]}',
        GOOD | {"text_height": 101},
        GOOD | {"question": "  "},
        GOOD | {"answer": []},
        {"video": ["one.png"], "question": "?", "answer": "x", "frames": [0]},
        {"video": "gone.mp4", "question": "?", "answer": "x", "window": [0, 1]},
        {"video": ["one.png"], "question": "?", "answer": "x", "window": [2]},
        {"video": ["one.png"], "question": "?", "answer": "x", "frames": [1.5]},
        "[" * 100_000,
        GOOD | {"image": "data:image/png;base64," + "A" * 5000},
        GOOD | {"image": "https://example.org/one.png"},
        GOOD | {"image": "s3://bucket/one.png"},
    ]
    path = write("seeds.jsonl", lines)
    found = errors(TableSeeds(str(path)))
    assert list(found) == list(range(1, len(lines)))
    assert all(message.startswith(f"{path}, line {index + 1}: ") for index, message in found.items())
    expected = [
        "not JSON",
        "expected a JSON object, got [1]",
        "'image': ",
        "text.png: not an image in a known format",
        "'box' is empty, inverted or outside",
        "'box' is empty, inverted or outside",
        "expected a list of numbers",
        "expected a list of numbers",
        "expected a list of numbers",
        "'text_height' is 101",
        "'question' is empty",
        "it has no answer",
        "frames is 0; it is a whole number, 1 or more",
        "gone.mp4: no such file",
        "'window' has 1 numbers, expected 2",
        "frames is 1.5; it is a whole number, 1 or more",
        "not JSON",
        "it begins with zeros",
        "nothing is downloaded",
        "leads out of",
    ]
    assert all(text in found[index] for index, text in enumerate(expected, start=1)), found


def test_sources_are_opened_by_kind(write):
    write("one.png")
    assert open_source(f"table:{write('seeds.jsonl', [GOOD])}")[0].id == "a"
    assert open_source("pixel-search:sft")[3].images and open_source("pixel-search-video:sft")[3].video
    for wrong in ("jsonl", "jsonl:file"):
        with pytest.raises(SourceError, match="KIND:PATH with KIND one of table, masks"):
            open_source(wrong)
    for wrong in ("table", "table:"):
        with pytest.raises(SourceError, match=f"the source {wrong!r} has no path: write table:PATH"):
            open_source(wrong)
    for kind in set(SOURCE_KINDS) - {"pixel-search", "pixel-search-video"}:
        with pytest.raises(SourceError, match="nowhere"):
            open_source(f"{kind}:nowhere")


def test_an_upright_image_is_measured_upright(write, tmp_path):
    picture = Image.new("RGB", (100, 50))
    exif = picture.getexif()
    exif[0x0112] = 6  # shown a quarter turn from how it is stored
    picture.save(tmp_path / "turned.jpg", exif=exif)
    (seed,) = TableSeeds(str(write("seeds.jsonl", [GOOD | {"image": "turned.jpg", "box": [10, 10, 30, 60]}])))
    assert seed.cue == pytest.approx((0.2, 0.1, 0.6, 0.6))

"""Mistakes in tables, with their file, line and id, and rows that lead elsewhere."""

import pyarrow.parquet
import pytest

from data_pipeline.batch_loader import LoaderSettings
from data_pipeline.exchange.importing import import_tables
from data_pipeline.exchange.table_source import TableSource, open_records
from data_pipeline.pipeline import RecordOrder, query_batches
from data_pipeline.records import RecordError, RecordSource, RecordWriter
from data_pipeline.sources import SourceError, open_source
from pixel_reasoner_jax.errors import UserError
from tests.data_pipeline.tables import ASKED, SUFFIXES, write_table

WRONG = {
    "'image': .*gone.png: no such file": {"image": "photos/gone.png"},
    "photos: it is no file": {"image": "photos"},
    "'images': .*gone.png": {"images": ["photos/1.png", "gone.png"]},
    "'video': .*gone.mp4: no such file": {"video": "gone.mp4"},
    "'image_path' looks like a medium: did you mean 'image'": {"image_path": "photos/1.png"},
    "'img': did you mean 'image'": {"img": "photos/1.png"},
    "'video_path' looks like a medium: did you mean 'video'": {"video_path": "film.avi"},
    "'Image': did you mean 'image'": {"Image": "photos/1.png"},
    "'image2': did you mean 'image'": {"image": "photos/1.png", "image2": "photos/2.png"},
    "'picture' looks like a medium": {"picture": "photos/1.png"},
    "'file_name' looks like a medium": {"file_name": "photos/1.png"},
    "'questoin': did you mean 'question'": {"question": None, "questoin": "What?"},
    "'anwser': did you mean 'answer'": {"answer": None, "anwser": "a"},
    "'bbox': did you mean 'box'": {"image": "photos/1.png", "bbox": [1, 2, 3, 4]},
    "it has no question": {"question": None},
    "it has no answer": {"answer": None},
    "it has no answer ": {"answer": []},
    "'question' is empty": {"question": "  "},
    "empty or no text: 7": {"question": 7},
    "answer is {": {"answer": {"a": 1}},
    "is_video is true, and image is one image": {"image": "photos/1.png", "is_video": True},
    "is_video is true, and the row has images": {"images": ["photos/1.png"], "is_video": True},
    "is_video is true, and the row has nothing": {"is_video": True},
    "is_video is false, and it has a video": {"video": "film.avi", "is_video": False},
    "is_video is 'perhaps'": {"video": "film.avi", "is_video": "perhaps"},
    "images and a video": {"image": "photos/1.png", "video": "film.avi"},
    "has image and images": {"image": "photos/1.png", "images": ["photos/2.png"]},
    "film.avi is a video, given as an image": {"image": "film.avi"},
    "1.png is an image, given as a video": {"video": "photos/1.png"},
    "2 videos": {"videos": ["film.avi", "film.avi"]},
    "fps is 0; it is above 0": {"video": "film.avi", "fps": 0},
    "fps is of a video": {"image": "photos/1.png", "fps": 2},
    "'box' has 3 numbers": {"image": "photos/1.png", "box": [1, 2, 3]},
    "'box' is empty, inverted or outside the image of .* pixels: .*40, 10, 20, 30": {
        "image": "photos/1.png",
        "box": [40, 10, 20, 30],
    },
    "'boxes' is empty, inverted or outside": {"image": "photos/1.png", "boxes": [[0, 0, 9, 9], [90, 0, 99, 9]]},
    "shares of an image": {"video": "film.avi", "box": [0, 0, 0.5, 0.5]},
    "box and boxes": {"image": "photos/1.png", "box": [0, 0, 9, 9], "boxes": [[0, 0, 9, 9]]},
    "window is \\[2, 1\\]": {"video": "film.avi", "window": [2, 1]},
    "window is of a video": {"image": "photos/1.png", "window": [1, 2]},
    "frame_ranges has \\[3, 1\\]": {"video": "film.avi", "frame_ranges": [[3, 1]]},
    "pass_rate is 2": {"pass_rate": 2},
    "segments is": {"segments": ["one"]},
    "checklist has": {"checklist": ["one"]},
    "options is": {"options": 3},
    "options is the text 'red;blue', which is not JSON, as \\[1, 2\\]": {"options": "red;blue"},
    "answer 'a green one' is none of its options": {"options": ["red", "blue"], "answer": "a green one"},
    "attributes has 'images'": {"attributes": {"images": ["photos/1.png"]}},
    "nothing is downloaded": {"image": "https://example.org/1.png"},
    "not base64": {"image": "data:image/png;base64," + "#" * 9000},
    "too long for a path": {"image": "A" * 9000},
    "an image or video is a path": {"image": 7},
    "none of": {"image": {"name": "x"}},
}


def test_every_mistake_is_an_error_of_its_row(folder):
    """By import, by training and by synthesis alike; the others are read, and the message is short."""
    rows = [{"id": f"r{number}", **ASKED, **change} for number, change in enumerate(WRONG.values())]
    rows.insert(0, {**ASKED, "image": "photos/1.png"})
    table = write_table(folder / "t.jsonl", rows)
    report = import_tables([table], folder / "out")
    assert (report["written"], report["rows"], len(report["unreadable"])) == (1, len(rows), len(WRONG))
    source, seeds = TableSource(table), open_source(f"table:{table}")
    for number, (problem, told) in enumerate(zip(WRONG, report["unreadable"], strict=True)):
        place = f"{table}, line {number + 2}"
        assert (told["place"], told["id"]) == (place, f"r{number}") and len(told["problem"]) < 400
        with pytest.raises(RecordError, match=f"line {number + 2}: id 'r{number}': .*{problem.strip()}") as raised:
            source[number + 1]
        assert str(raised.value).endswith(told["problem"])
        if "it has no question" not in problem:  # which a captioner may ask for
            with pytest.raises(SourceError, match=f"line {number + 2}"):
                seeds[number + 1]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_missing_answers(suffix, folder):
    """What pandas and JSON write for none."""
    nan = float("nan")
    rows = [{**ASKED, "id": name, "answer": answer} for name, answer in (("a", 7.5), ("b", nan), ("c", None))]
    source = TableSource(write_table(folder / f"t{suffix}", rows))
    assert source[0]["answer"] == "7.5"
    for index in (1, 2):
        with pytest.raises(RecordError, match="it has no answer"):
            source[index]
    if suffix != ".csv":
        [query] = TableSource(write_table(folder / f"l{suffix}", [{**ASKED, "answer": [nan, 2.0]}]))
        assert query["answer"] == "2.0"


NO_TABLES = {
    "e.jsonl": (b"", "there are no rows in it"),
    "e.json": (b" \n", "is empty"),
    "l.json": (b"[]", "there are no rows in it"),
    "e.csv": (b"question,answer\n", "there are no rows in it"),
    "d.json": (b'{"question": 1}', r"holds dict, not a list of rows: write \[{…}"),
    "lines.json": (b'{"question": 1}\n{"question": 2}\n', "not a list of rows: name .* .jsonl"),
    "list.jsonl": (b'[\n {"question": 1}\n]\n', "is one JSON list.*: name it .json"),
    "line.jsonl": (b'[{"question": 1}]', "is one JSON list.*: name it .json"),
    "wide.csv": ("question,answer\na,b\n".encode("utf-16"), "is UTF-16: save it as UTF-8"),
    "zip.jsonl": (b"\x1f\x8b\x08\x00\x00", "is compressed: unpack it first"),
    "parquet.json": (b"PAR1\x15\x04", "is a parquet file: name it .parquet"),
    "h.json": (b'[{"question": 1}, {"a"', "is not JSON"),
    "m.json": (b'[{"question": 1} {"a": 1}]', "after row 1 a comma"),
    "t.json": (b'[{"question": 1}] []', "something follows"),
    "s.csv": (b"question;answer\na;b\n", "columns are separated by commas"),
    "r.csv": (b"answer,answer\na,b\n", "more than once"),
    "p.parquet": (b"PAR1", "is not a parquet file"),
    "x.xlsx": (b"PK", "rows are read from .csv, .json, .jsonl, .parquet files"),
}


@pytest.mark.parametrize("name", NO_TABLES)
def test_files_that_are_no_tables_are_named(name, tmp_path):
    data, problem = NO_TABLES[name]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=f"{name}.*{problem}"):
        import_tables([tmp_path / name], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    if name != "x.xlsx":
        with pytest.raises(RecordError, match=f"{name}.*{problem}"):
            open_records(tmp_path / name)


def test_a_parquet_file_names_each_column_once(tmp_path):
    names = ["question", "answer", "answer"]
    columns = [pyarrow.array(["x"]) for _ in names]
    pyarrow.parquet.write_table(pyarrow.Table.from_arrays(columns, names=names), tmp_path / "t.parquet")
    with pytest.raises(RecordError, match="t.parquet names the column 'answer' more than once"):
        open_records(tmp_path / "t.parquet")


def test_what_is_not_utf8_says_so(tmp_path):
    for suffix, text in ((".csv", "question,answer\nOù?,x\n"), (".jsonl", '{"question": "Où?", "answer": "x"}\n')):
        (tmp_path / f"t{suffix}").write_bytes(text.encode("latin-1"))
        with pytest.raises(RecordError, match=r"t\.\w+, line .*byte \d+ is not UTF-8: save the file as UTF-8"):
            TableSource(tmp_path / f"t{suffix}")[0]


def test_messages_are_one_line_whatever_a_path_is(folder):
    source = TableSource(write_table(folder / "t.jsonl", [{**ASKED, "image": "photos/1.png\n\x1b[2J"}]))
    with pytest.raises(RecordError, match="'image': '.*: no such file") as caught:
        source[0]
    assert str(caught.value).isprintable()


def test_no_row_leads_out_of_the_folder(folder):
    """Neither in training nor in an import, unless another folder is given."""
    outside = folder.parent / "outside.png"
    outside.write_bytes((folder / "photos/1.png").read_bytes())
    (folder / "link.png").symlink_to(outside)
    ways = ["../outside.png", str(outside), f"file://{outside}", "link.png", "photos/../../outside.png"]
    rows = [{**ASKED, "image": way} for way in ways] + [
        {**ASKED, "video": [ways[0]]},
        {**ASKED, "image": {"path": ways[0]}},
    ]
    table = write_table(folder / "t.jsonl", rows)
    for index in range(len(rows)):
        with pytest.raises(RecordError, match="leads out of .*--media-root"):
            TableSource(table)[index]
    with pytest.raises(UserError, match="none of 7 rows can be read"):
        import_tables([table], folder / "out")
    inside = write_table(folder / "u.jsonl", [{**ASKED, "image": "outside.png"}, {**ASKED, "image": str(outside)}])
    assert import_tables([inside], folder / "out", media_root=folder.parent)["written"] == 2


def test_no_set_is_complete_after_an_error_in_the_middle(folder, monkeypatch):
    table = write_table(folder / "t.jsonl", [{**ASKED, "id": str(number)} for number in range(4)])
    write, done = RecordWriter.write, []

    def failing(self, record):
        done.append(record)
        if len(done) == 3:
            raise OSError(5, "Input/output error")
        write(self, record)

    monkeypatch.setattr(RecordWriter, "write", failing)
    with pytest.raises(OSError, match="Input/output error"):
        import_tables([table], folder / "out")
    with pytest.raises(RecordError, match="no data set was completed"):
        open_records(folder / "out")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_id_is_given_once(folder, suffix, caplog):
    """By its text; a row without an id has that of its number, which another may not take."""
    rows = [{**ASKED, "id": name} for name in ("5", "b", "t-000005", "b", "5", None, "c", "b")]
    table = write_table(folder / f"t{suffix}", rows)
    source = TableSource(table, unique=True)
    read = []
    for index in range(len(rows)):
        try:
            read.append(source[index]["id"])
        except RecordError as error:
            read.append(str(error).partition("t" + suffix)[2])
    number = (lambda row: 1 + 2 * row) if suffix == ".csv" else (lambda row: row)  # a question has two lines there
    unit = "row" if suffix in (".json", ".parquet") else "line"
    said = lambda row, name, first: (  # noqa: E731
        f", {unit} {number(row) - (suffix == '.csv')}: {'' if row == 6 else f'id {name!r}: '}{unit}"
        f" {number(first) - (suffix == '.csv')} has the id {name!r} already; give each its own"
    )
    expected = ["5", "b", "t-000005", said(4, "b", 2), said(5, "5", 1), said(6, "t-000005", 3), "c", said(8, "b", 2)]
    assert read == expected
    settings = LoaderSettings(max_unreadable=0.9)
    [batch] = next(query_batches(str(table), 4, order=RecordOrder(), settings=settings)).values()
    assert sorted(query["id"] for query in batch) == ["5", "b", "c", "t-000005"]
    assert len(TableSource(table)[3]) == 3  # evaluations tell such rows apart by themselves


def test_an_import_names_the_file_of_a_damaged_image(folder):
    (folder / "bad.png").write_bytes((folder / "photos/1.png").read_bytes()[:200])
    (folder / "bad.avi").write_bytes(b"no film")
    rows = [
        {**ASKED, "image": "bad.png"},
        {**ASKED, "images": ["photos/1.png", "bad.png"]},
        {**ASKED, "video": "bad.avi"},
    ]
    report = import_tables(
        [write_table(folder / "t.jsonl", [{**ASKED, "image": "photos/1.png"}, *rows])], folder / "out"
    )
    problems = [row["problem"] for row in report["unreadable"]]
    assert len(problems) == 3 and all(f"{folder}/bad." in problem for problem in problems), problems
    assert type(RecordSource(folder / "out")[0]["images"][0]) is bytes

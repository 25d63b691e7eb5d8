"""One form of one's own data: every format, every command, every mistake with its file, its line and its id."""

import base64
import concurrent.futures
import csv
import json
import pickle

import pyarrow.parquet
import pytest

from data_pipeline.batch_loader import LoaderSettings
from data_pipeline.exchange import table_rows
from data_pipeline.exchange.exporting import export_table
from data_pipeline.exchange.importing import import_tables
from data_pipeline.exchange.table_source import TableSource, open_records
from data_pipeline.exchange.tables import Table
from data_pipeline.pipeline import RecordOrder, query_batches, record_count, trajectory_batches
from data_pipeline.records import RecordError, RecordSource, RecordWriter
from data_pipeline.sources import SourceError, open_source
from pixel_reasoner_jax.commands import cli
from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.files import as_path
from tests.data_pipeline.tables import SUFFIXES, write_media, write_table


@pytest.fixture
def folder(tmp_path):
    return write_media(tmp_path / "data")


ASKED = {"question": 'Which, "a" or b?\nSay one.', "answer": "a"}
ROWS = [
    {"id": "one", **ASKED, "image": "photos/1.png", "box": [8, 6, 40, 30], "category": "signs"},
    {"id": "two", **ASKED, "images": ["photos/1.png", "photos/2.png"], "answer": ["a", "the a"]},
    {"id": "film", **ASKED, "video": "film.avi", "window": [0.5, 2.0], "frame_ranges": [[1, 4]], "fps": 1.0},
    {"id": "none", **ASKED, "options": ["a", "b"], "pass_rate": 0.25, "split": "train"},
]


def paths(folder, *names) -> list[str]:
    return [str(folder / name) for name in names]


def expected(folder) -> list[dict]:
    one, two = paths(folder, "photos/1.png", "photos/2.png")
    return [
        {"id": "one", **ASKED, "images": [one], "boxes": [{"xyxy": [8, 6, 40, 30]}], "category": "signs"},
        {"id": "two", **ASKED, "images": [one, two], "answer": ["a", "the a"]},
        {
            "id": "film",
            **ASKED,
            "video": f"{folder}/film.avi",
            "window": [0.5, 2.0],
            "frame_ranges": [[1, 4]],
            "fps": 1,
        },
        {"id": "none", **ASKED, "options": ["a", "b"], "pass_rate": 0.25, "split": "train"},
    ]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_format_gives_the_same_queries(suffix, folder):
    table = write_table(folder / f"queries{suffix}", ROWS)
    source = TableSource(table)
    assert source.kind == "query" and len(source) == 4 and list(source) == expected(folder)
    stored = folder.parent / "stored"
    report = import_tables([table], stored)
    assert (report["written"], report["rows"], report["without_media"]) == (4, 4, 1) and not report["unreadable"]
    for query, imported in zip(source, RecordSource(stored), strict=True):
        for name in ("images", "video"):
            if name in query:
                files = query.pop(name)
                data = imported.pop(name)
                read = [open(file, "rb").read() for file in ([files] if name == "video" else files)]
                assert read == ([data] if name == "video" else data)
        assert query == imported
    seeds = open_source(f"table:{table}")
    assert [seeds[index].id for index in range(3)] == ["one", "two", "film"]
    assert seeds[0].cue == (0.1, 0.1, 0.5, 0.5) and seeds[0].attributes == {"category": "signs"}
    assert seeds[2].window == (0.5, 2.0) and seeds[2].question == ASKED["question"]
    with pytest.raises(SourceError, match="it has no image and no video"):
        seeds[3]


def test_bytes_and_urls_are_media_too(folder):
    data = (folder / "photos/1.png").read_bytes()
    url = "data:image/png;base64," + base64.b64encode(data).decode()
    given = [data, {"bytes": data, "path": None}, {"bytes": None, "path": "photos/1.png"}]
    table = write_table(folder / "t.parquet", [{**ASKED, "image": one} for one in given[:1]])
    nested = write_table(folder / "n.parquet", [{**ASKED, "images": [one]} for one in given[1:]])
    texts = write_table(
        folder / "t.csv", [{**ASKED, "image": one} for one in (url, "file://" + str(folder / "photos/1.png"))]
    )
    for file in (table, nested, texts):
        for query in TableSource(file):
            [image] = query["images"]
            assert (image if isinstance(image, bytes) else open(image, "rb").read()) == data


FIELDS = {
    "answer_type": "choice",
    "segments": [1, 2],
    "pages": [0],
    "checklist": [{"q": "is it red?", "a": "yes"}],
    "visual_facts": ["a red sign"],
    "gold_response": "It is a.",
    "difficulty": 0.5,
    "source": "me",
    "split": "train",
    "extra": {"any": [1]},
    "boxes": [{"xyxy": [0, 0, 4, 4], "label": "sign", "frame": 0, "weight": 0.5}],
    "question_id": 7,
    "image_id": "coco-7",
    "model": "gpt",
}


def test_what_else_is_known_travels_along(folder):
    table = write_table(folder / "t.jsonl", [{**ASKED, "image": "photos/1.png", **FIELDS}])
    [query] = TableSource(table)
    assert {name: query[name] for name in FIELDS} == FIELDS and query["id"] == "t-000000"
    import_tables([table], folder / "out")
    [stored] = RecordSource(folder / "out")
    assert {name: stored[name] for name in FIELDS} == FIELDS
    export_table(folder / "out", folder / "again.jsonl")
    [again] = TableSource(folder / "again.jsonl")
    assert {**again, "images": None} == {**query, "images": None}


def test_videos_as_frames_and_as_mappings(folder):
    frames = ["photos/1.png", "photos/2.png"]
    rows = [
        {**ASKED, "video": frames, "fps": 4},
        {**ASKED, "image": frames, "is_video": True, "fps": 4},  # as released
        {**ASKED, "image": ["film.avi"], "is_video": True},
        {**ASKED, "video": {"path": "film.avi", "fps": 2, "total_frames": 8}, "frame_ranges": [[2, 3], [5, 6]]},
        {**ASKED, "videos": [{"video": "film.avi"}]},
    ]
    table = write_table(folder / "t.jsonl", rows)
    first, second, third, fourth, fifth = TableSource(table)
    assert first["video"] == second["video"] == paths(folder, *frames) and first["fps"] == second["fps"] == 4
    assert third["video"] == fifth["video"] == f"{folder}/film.avi"
    assert (fourth["video"], fourth["file_fps"], fourth["total_frames"]) == (third["video"], 2, 8)
    seeds = open_source(f"table:{table}")
    assert seeds[3].window == (1.0, 3.0) and seeds[3].fps is None and seeds[0].fps == 4 and len(seeds[0].video) == 2


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


def test_lines_are_those_of_the_file(folder):
    cut = '{"image": "phot'
    (folder / "t.jsonl").write_text("\n\n" + json.dumps(ASKED) + "\n\n{oops\n" + json.dumps([1]) + f"\n{cut}\n")
    source = TableSource(folder / "t.jsonl")
    assert len(source) == 4 and source[0]["answer"] == "a"
    cut_off = r"not JSON \(Invalid control character at character 16\)"
    for index, line, problem in ((1, 5, "not JSON .*oops"), (2, 6, "expected a JSON object"), (3, 7, cut_off)):
        with pytest.raises(RecordError, match=f"line {line}: .*{problem}"):
            source[index]
    cells = 'question,answer,image\r\n"a ""b""\r\nc",x,\r\n\r\nshort,y\r\n"d",z,photos/1.png\r\n'
    (folder / "t.csv").write_bytes(b"\xef\xbb\xbf" + cells.encode())
    source = TableSource(folder / "t.csv")
    assert len(source) == 3 and source[0]["question"] == 'a "b"\r\nc'
    assert source[2]["images"] == paths(folder, "photos/1.png")
    with pytest.raises(RecordError, match=r"t.csv, line 5: it has 2 cells, and the first line names 3 columns"):
        source[1]
    (folder / "t.json").write_text(json.dumps([ASKED, 7, {**ASKED, "image": "gone.png"}], indent=1))
    report = import_tables([folder / "t.json"], folder / "out")
    assert [row["place"][-5:] for row in report["unreadable"]] == ["row 2", "row 3"]


def test_cells_of_csv(folder):
    header = "id,question,answer,options,video,fps,is_video,pass_rate,\n"
    lines = ['[1],"[2]","[3, 5]","[""[3, 5]"", ""y""]",film.avi,2.5,True,0.5,0\n', 'b,c,"[""d"", ""e""]",,,,,NaN,1\n']
    (folder / "t.csv").write_text(header + "".join(lines))
    first, second = TableSource(folder / "t.csv")
    assert (first["id"], first["question"], first["answer"]) == ("[1]", "[2]", "[3, 5]")  # one answer, an interval
    assert (first["options"], first["fps"], first["pass_rate"]) == (["[3, 5]", "y"], 2.5, 0.5) and first["video"]
    assert second == {"id": "b", "question": "c", "answer": ["d", "e"]}


def test_large_cells_and_lists_that_are_none(folder):
    data = (folder / "photos/1.png").read_bytes() * 20
    url = "data:image/png;base64," + base64.b64encode(data).decode()
    rows = [{**ASKED, "images": url}, {**ASKED, "images": "['photos/1.png']"}, {**ASKED, "images": "[1].png"}]
    source = pickle.dumps(TableSource(write_table(folder / "t.csv", rows)))
    csv.field_size_limit(131_072)  # as a new process has it
    source = pickle.loads(source)
    assert len(url) > 131_072 and source[0]["images"] == [data]
    with pytest.raises(RecordError, match="images is .* a list in a cell is JSON, with texts in double quotes"):
        source[1]
    with pytest.raises(RecordError, match="no such file"):
        source[2]


def test_rows_of_files_with_one_name_have_ids_of_their_own(folder):
    tables = [write_table(folder / name / "t.jsonl", [ASKED, {**ASKED, "id": name}]) for name in ("photos", ".")]
    import_tables(tables, folder / "out")
    assert [query["id"] for query in RecordSource(folder / "out")] == ["t-0-000000", "photos", "t-1-000000", "."]


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


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_rows_are_read_from_any_thread_and_process(suffix, folder, monkeypatch):
    monkeypatch.setattr(table_rows, "KEPT_BYTES", 700)  # one or two row groups
    rows = [{"id": str(number), "question": f"{number}é?" * 9, "answer": "a"} for number in range(40)]
    source = pickle.loads(pickle.dumps(TableSource(write_table(folder / f"t{suffix}", rows, row_group_size=7))))
    assert len(pickle.dumps(source)) < 8000  # where the rows are, not the rows
    order = [(number * 17) % 40 for number in range(80)]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert [query["id"] for query in pool.map(source.__getitem__, order)] == list(map(str, order))
    with pytest.raises(IndexError):
        source[40]


def test_large_row_groups_are_not_kept(folder, monkeypatch):
    table = write_table(folder / "t.parquet", [{"question": f"{n}", "answer": "a"} for n in range(200)], 200)
    monkeypatch.setattr(table_rows, "KEPT_BYTES", 10)
    source = TableSource(table)
    assert [source[index]["question"] for index in (0, 63, 64, 199)] == ["0", "63", "64", "199"]
    damaged = bytearray(table.read_bytes())
    damaged[4:400] = b"\x00" * 396
    table.write_bytes(damaged)
    report = [row for row in Table(table).in_order() if isinstance(row, UserError)]
    assert len(report) == 200 and "parquet file cannot be read" in str(report[0])


def conversation(answer: str = "a") -> dict:
    content = [{"type": "image", "image": "photos/1.png"}, {"type": "text", "text": "Which?"}]
    return {"messages": [{"role": "user", "content": content}, {"role": "assistant", "content": answer}]}


def test_training_reads_tables_as_it_reads_data_sets(folder, processor):
    table = write_table(folder / "t.jsonl", [{**ROWS[0], "id": str(number)} for number in range(6)])
    import_tables([table], folder / "stored")
    assert record_count(str(table)) == 6 and record_count([(str(table), 1), (folder / "stored", 2)]) == 12
    batches = query_batches(str(table), 3)
    found = [query["id"] for _ in range(2) for query in next(batches)[0]]
    assert found == [
        query["id"] for batch in (query_batches(folder / "stored", 3),) for _ in range(2) for query in next(batch)[0]
    ]
    mixed = query_batches([(str(table), 1), (folder / "stored", 1)], 4)
    assert len(next(mixed)[0]) == 4
    talks = write_table(folder / "talks.jsonl", [{**conversation(f"{n}"), "id": str(n)} for n in range(4)])
    [first, second] = next(trajectory_batches(str(talks), processor, 2))[0]
    assert first.train.sum() > 0 and first.reference == "" and first.query_id != second.query_id
    with pytest.raises(
        RecordError, match="talks.jsonl: its rows have conversations .trajectories., expected .*'query'"
    ):
        query_batches(str(talks), 2)
    with pytest.raises(RecordError, match="t.jsonl: its rows have no conversations"):
        trajectory_batches(str(table), processor, 2)


def test_the_digest_is_of_the_content(folder):
    first, second = (write_table(folder / name, ROWS) for name in ("a.jsonl", "b.jsonl"))
    assert TableSource(first).digest == TableSource(second).digest
    write_table(second, ROWS[:3])
    changed = TableSource(second)
    assert len(changed) == 3 and changed.digest != TableSource(first).digest


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


def test_a_table_in_an_object_store(folder, bucket):
    for name in ("photos/1.png", "film.avi"):
        as_path(f"{bucket}/set/{name}").write_bytes((folder / name).read_bytes())
    rows = [
        {**ROWS[0], "box": [0, 0, 0.5, 0.5]},
        ROWS[2],
        {**ASKED, "image": "../other.png"},
        {**ASKED, "image": "gone.png"},
    ]
    for suffix in (".jsonl", ".parquet"):
        table = f"{bucket}/set/t{suffix}"
        as_path(table).write_bytes(write_table(folder / f"t{suffix}", rows).read_bytes())
        source = TableSource(table)
        assert source[0]["images"] == [f"{bucket}/set/photos/1.png"] and source[1]["video"] == f"{bucket}/set/film.avi"
        assert source[0]["boxes"] == [{"xyxy": [0, 0, 40, 30]}]
        with pytest.raises(RecordError, match=f"{table}, .* 3: .*leads out of {bucket}/set"):
            source[2]
        report = import_tables([table], folder / f"out{suffix}")
        assert report["written"] == 2 and "gone.png" in report["unreadable"][1]["problem"]
        stored = RecordSource(folder / f"out{suffix}")
        assert stored[1]["video"] == (folder / "film.avi").read_bytes()


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


def test_a_table_without_ids_repeats_none(folder):
    for suffix in SUFFIXES:
        assert [query["id"] for query in TableSource(write_table(folder / f"u{suffix}", [ASKED] * 3), unique=True)] == [
            f"u-00000{number}" for number in range(3)
        ]


def test_an_import_names_the_file_of_a_damaged_image(folder):
    (folder / "bad.png").write_bytes((folder / "photos/1.png").read_bytes()[:200])
    (folder / "bad.avi").write_bytes(b"no film")
    rows = [
        {**ASKED, "image": "bad.png"},
        {**ASKED, "images": ["photos/1.png", "bad.png"]},
        {**ASKED, "video": "bad.avi"},
    ]
    report = import_tables([write_table(folder / "t.jsonl", [ROWS[0], *rows])], folder / "out")
    problems = [row["problem"] for row in report["unreadable"]]
    assert len(problems) == 3 and all(f"{folder}/bad." in problem for problem in problems), problems
    assert type(RecordSource(folder / "out")[0]["images"][0]) is bytes


def test_looking_at_a_table(folder, capsys):
    table = write_table(folder / "t.csv", [ROWS[0], ROWS[1], {**ASKED, "id": "bad", "image": "gone.png"}])
    assert cli.main(["inspect", str(table), "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert (figures["path"], figures["kind"], figures["count"]) == (str(table), "query", 3)
    assert figures["images"]["image"]["count"] == 3 and figures["bytes"] == table.stat().st_size
    assert len(figures["unreadable"]) == 1 and "line 6: id 'bad': 'image': " in figures["unreadable"][0]
    talks = write_table(folder / "talks.jsonl", [conversation()])
    page = folder / "page.html"
    assert cli.main(["inspect", str(talks), "--html", str(page)]) == 0
    assert "trajectory" in capsys.readouterr().out and str(talks) in page.read_text()


def test_the_command_says_what_it_read(folder, capsys):
    table = write_table(folder / "t.jsonl", [*ROWS, {"question": "?", "answer": "x", "image_path": "photos/1.png"}])
    assert cli.main(["import-data", str(table), "--out", str(folder / "out")]) == 0
    out = capsys.readouterr().out
    assert "4 of 5 rows, 1 could not be read" in out and "1 of them have no image and no video" in out
    assert f"not read: {table}, line 5: unknown column 'image_path'" in out
    (folder / "file").write_text("mine")
    assert cli.main(["import-data", str(table), "--out", str(folder / "file")]) == 2
    assert "file is to be a folder" in capsys.readouterr().err

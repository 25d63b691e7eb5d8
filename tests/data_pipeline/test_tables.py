"""One form of one's own data: every format, every command."""

import base64
import concurrent.futures
import csv
import json
import pickle

import pytest

from data_pipeline.exchange import table_rows
from data_pipeline.exchange.exporting import export_table
from data_pipeline.exchange.importing import import_tables
from data_pipeline.exchange.table_source import TableSource
from data_pipeline.exchange.tables import Table
from data_pipeline.pipeline import query_batches, record_count, trajectory_batches
from data_pipeline.records import RecordError, RecordSource
from data_pipeline.sources import SourceError, open_source
from pixel_reasoner_jax.commands import cli
from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.files import as_path
from tests.data_pipeline.tables import ASKED, SUFFIXES, write_table

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


def test_a_table_without_ids_repeats_none(folder):
    for suffix in SUFFIXES:
        assert [query["id"] for query in TableSource(write_table(folder / f"u{suffix}", [ASKED] * 3), unique=True)] == [
            f"u-00000{number}" for number in range(3)
        ]


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

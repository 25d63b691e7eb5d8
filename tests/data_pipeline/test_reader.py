"""What a record must be for all that comes later, and what is said of one that is not."""

import dataclasses
import functools
import io
import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from data_pipeline import lessons
from data_pipeline.batch_loader import LoaderSettings
from data_pipeline.draft import Draft
from data_pipeline.exchange.importing import import_tables
from data_pipeline.pipeline import RecordOrder, query_batches, render_trajectory, trajectory_batches
from data_pipeline.reader import QueryReader, RecordError, TrajectoryReader, ValidQueries, check_form, check_record
from data_pipeline.records import RecordSource, RecordWriter, write_records
from data_pipeline.records import shards as record_shards
from data_pipeline.sources.pixel_search import PixelSearch
from pixel_reasoner_jax.processing import PictureStore
from pixel_reasoner_jax.rollout.prompt import Prompt

QUERY = {"id": "q", "question": "?", "answer": "5"}


def png(*size, color="red") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, color).save(buffer, "PNG")
    return buffer.getvalue()


def draft(*messages, **fields) -> Draft:
    return Draft(**{"query_id": "t", "question": "?", "reference": "5", "kind": "x", "messages": [*messages]} | fields)


def said(role, content="word"):
    return {"role": role, "content": content}


SMALL, SLIVER = png(40, 30), png(1, 300)
INVALID_QUERIES = {
    "long": ({"images": [SMALL, SLIVER]}, "more than 200 times"),
    "sizes": ({"video": [SMALL, SMALL, png(40, 31)]}, "frame 3 is 40x31 pixels"),
    "broken": ({"images": [SMALL[:60]]}, "<60 bytes>: "),
    "gone": ({"images": ["nowhere/a.png"]}, "nowhere/a.png: no such file"),
    "late": ({"video": [SMALL, SMALL, SMALL[:60]]}, "<60 bytes>: "),
    "fps": ({"video": [SMALL], "fps": 0}, "fps must be a number greater than 0, got 0"),
    "both": ({"images": [SMALL], "video": [SMALL]}, "it has images and a video"),
    "empty": ({"answer": ""}, "it has no answer"),
    "none": ({"answer": []}, "it has no answer"),
    "mute": ({"question": " "}, "it has no question"),
}


@pytest.fixture
def unchecked(monkeypatch):
    """Writes records of any form, as an earlier version would, or another program."""

    def write(directory, kind, records):
        with monkeypatch.context() as patch:
            patch.setattr(record_shards, "check_form", lambda kind, record: "unchecked")
            write_records(directory, kind, records)

    return write


@pytest.fixture(scope="module")
def build(processor, registry):
    return functools.partial(
        Prompt.build, processor=processor, registry=registry, guidelines=None, store=PictureStore(0)
    )


@pytest.fixture(scope="module")
def drafts(registry, processor):
    synthesizer, world = lessons.warm_start(registry, processor), PixelSearch(4, "sft")
    return [synthesizer(world[index]) for index in range(4)]


@pytest.mark.parametrize("built", [False, True])
@pytest.mark.parametrize("name", INVALID_QUERIES)
def test_a_query_that_later_steps_would_refuse_is_refused(name, built, build):
    fields, reason = INVALID_QUERIES[name]
    with pytest.raises(RecordError, match=f"^query 'q': .*{re.escape(reason)}"):
        QueryReader(build if built else None)(QUERY | fields)
    with pytest.raises(RecordError, match=f"^query 'q': .*{re.escape(reason)}"):
        check_record("query", QUERY | fields)


def test_sizes_that_an_item_asks_for_are_checked_as_they_will_be_used():
    def asked(image, **sizes):
        shown = {"type": "image", "image": image} | sizes
        return draft(said("user", [shown]), said("assistant"))

    check_record("trajectory", asked(SLIVER, resized_height=280, resized_width=280))
    with pytest.raises(RecordError, match=r"^trajectory 't': message 0, item 0: .* more than 200 times"):
        check_record("trajectory", asked(SMALL, resized_height=28, resized_width=28 * 300))


def test_invalid_queries_are_skipped_counted_and_named_and_a_resumed_run_skips_the_same(
    unchecked, build, tmp_path, caplog
):
    good = [QUERY | {"id": f"good{number}", "images": [SMALL], "category": "signs"} for number in range(6)]
    bad = [QUERY | {"id": name} | fields for name, (fields, _) in INVALID_QUERIES.items()]
    unchecked(tmp_path, "query", [*bad, *good])
    settings, reader = LoaderSettings(max_unreadable=0.5), QueryReader(build)

    def batches():
        return query_batches(tmp_path, 2, order=RecordOrder(3), settings=settings, reader=reader)

    with batches() as running:
        taken = [next(running)[0] for _ in range(3)]
        assert sorted(query["id"] for batch in taken for query in batch) == [f"good{number}" for number in range(6)]
        assert {query["category"] for batch in taken for query in batch} == {"signs"}
        state = running.get_state()
        skipped = running.skipped
        assert skipped == len(caplog.messages)
        for line in caplog.messages:
            number, name = re.match(r"skipped: .*, record (\d+): query '(\w+)': ", line).groups()
            assert name == list(INVALID_QUERIES)[int(number)]
            assert INVALID_QUERIES[name][1] in line and "\n" not in line
        expected = [next(running) for _ in range(5)]
        assert {re.search(r"query '(\w+)'", line).group(1) for line in caplog.messages} == set(INVALID_QUERIES)
    with batches() as resumed:
        resumed.set_state(state)
        assert resumed.skipped == skipped
        assert [next(resumed) for _ in range(5)] == expected


def test_where_no_record_is_valid_reading_ends(unchecked, tmp_path):
    unchecked(tmp_path, "query", [QUERY | {"id": str(number), "answer": ""} for number in range(4)])
    with (
        query_batches(tmp_path, 1, settings=LoaderSettings(max_unreadable=1.0)) as batches,
        pytest.raises(
            RecordError, match=r"5 records after one another cannot be used; the last: .*, record \d: query '\d': it"
        ),
    ):
        next(batches)


def test_a_prompt_leaves_room_for_a_response(build, processor):
    query = PixelSearch(1)[0].query()
    length = len(build(query).rendered.tokens)
    assert QueryReader(build, length + 1)(query) is query
    with pytest.raises(RecordError, match=f"^query '.*': its prompt of {length} tokens leaves no room .*= {length}"):
        QueryReader(build, length)(query)


def test_a_video_that_lasts_longer_than_positions_can_count_is_refused(build):
    with pytest.raises(RecordError, match="query 'q': .*lasts longer than positions can count"):
        QueryReader(build)(QUERY | {"video": [SMALL] * 8, "fps": 1e-8})


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs ffmpeg")
def test_the_frames_that_will_be_sampled_are_decoded(tmp_path, build):
    whole, cut = tmp_path / "whole.mp4", tmp_path / "cut.mp4"
    command = "ffmpeg -v error -f lavfi -i testsrc=duration=4:size=64x64:rate=25 -g 5 -movflags +faststart"
    subprocess.run([*command.split(), str(whole)], check=True)
    data = whole.read_bytes()
    cut.write_bytes(data[: len(data) * 6 // 10])
    for reader in (QueryReader(), QueryReader(build)):
        reader(QUERY | {"video": str(whole)})
        with pytest.raises(RecordError, match=r"query 'q': .*cut\.mp4"):
            reader(QUERY | {"video": str(cut)})


def test_a_query_that_is_asked_and_not_scored_may_be_stored_without_an_answer(tmp_path):
    query = {"id": "q", "question": "?"}
    write_records(tmp_path, "query", [query])
    assert list(RecordSource(tmp_path)) == [query]
    with (
        query_batches(tmp_path, 1) as batches,
        pytest.raises(RecordError, match="record 0: query 'q': it has no answer"),
    ):
        next(batches)


def test_what_is_no_mapping_is_no_query():
    for record in (5, "answer", ["id"], None):
        with pytest.raises(RecordError, match="a query is a mapping with id, question, answer"):
            check_form("query", record)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"images": "a.png"}, "images must be a list"),
        ({"images": Image.new("RGB", (4, 4))}, "images must be a list"),
        ({"image": "a.png"}, "unknown key 'image'; did you mean 'images'"),
        ({"images": [np.zeros((4, 4, 3), np.uint8)]}, r"images\[0\] is ndarray; it is stored from a path, the bytes"),
        ({"images": [SMALL, None]}, r"images\[1\] is NoneType"),
        ({"images": [b""]}, r"images\[0\] is empty"),
        (
            {"video": Image.new("RGB", (4, 4))},
            "video is Image; it is stored from a path, the bytes of a file or a list",
        ),
        ({"video": []}, "video has no frames"),
        ({"video": [SMALL, 5]}, r"video\[1\] is int"),
        ({"answer": None}, "it has no answer"),
        ({"answer": 5}, "answer must be a text"),
        ({"id": 5}, "its id is int"),
        ({"category": {1, 2}}, "its category cannot be stored as JSON"),
        ({"score": float("nan")}, "its score cannot be stored as JSON"),
        ({"images": [Image.new("CMYK", (4, 4))]}, "it cannot be used .OSError: cannot write mode CMYK"),
    ],
)
def test_a_query_that_cannot_be_stored_is_named(fields, message, tmp_path):
    bad = QUERY | {"id": "b"} | fields
    with pytest.raises(RecordError, match=rf"query-train-00000.array_record, record 1: .*{message}") as error:
        write_records(tmp_path, "query", [QUERY, bad])
    assert f"query {bad['id']!r}: " in str(error.value)


def test_what_is_refused_is_not_written_and_others_follow(tmp_path):
    with RecordWriter(tmp_path, "query", shard_size=2) as writer:
        for record in (QUERY, QUERY | {"id": "b", "answer": ""}, QUERY, QUERY | {"id": "c"}, QUERY | {"id": "d"}):
            try:
                writer.write(record)
            except RecordError as error:
                problem = str(error)
        with pytest.raises(RecordError, match="query 'd': query-train-00001.array_record, record 0 has this id"):
            writer.write(QUERY | {"id": "d"})
    assert problem == "query 'q': query-train-00000.array_record, record 0 has this id already; give each its own"
    assert [query["id"] for query in RecordSource(tmp_path)] == ["q", "c", "d"]


def test_reasons_do_not_repeat_the_data():
    for fields in ({"images": ["x" * 10**6]}, {"video": "x" * 10**6}):
        with pytest.raises(RecordError, match="query 'q': ") as error:
            check_record("query", QUERY | fields)
        assert len(str(error.value)) < 1000


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"messages": []}, "a trajectory is stored from a Draft, not from dict"),
        (draft(said("user"), query_id=""), "a trajectory has the query_id ''"),
        (draft(said("user")), "trajectory 't': it has no turn of the assistant"),
        (draft(), "trajectory 't': messages are a list of mappings with role and content, got none"),
        (draft(messages="hello"), "messages are a list of mappings with role and content, got str"),
        (draft(["user", "hello"]), "message 0 is list; it is a mapping with role and content"),
        (draft({"from": "human", "value": "hello"}), "message 0: role is None; it is one of system, user, assistant"),
        (draft(said("user"), said("tool")), "message 1: role is 'tool'"),
        (draft({"role": "user"}), "message 0: content is NoneType; it is a string or a list of items"),
        (draft(said("user", {"text": "hello"})), "message 0: content is dict; it is a string or a list of items"),
        (draft(said("user", ["hello"])), "message 0, item 0: str; it is a mapping of text, image or video"),
        (draft(said("user", [{"type": "image"}])), "message 0, item 0: type 'image' with no text, image or video"),
        (draft(said("user", [{"image": 5}]), said("assistant")), "message 0, item 0 is int; it is stored from a path"),
        (draft(said("assistant"), question=5), "its question is 5; it must be a text"),
        (draft(said("assistant"), reference=[None]), r"its reference is \[None\]; it must be a text"),
    ],
)
def test_what_is_no_trajectory_says_where(record, message):
    with pytest.raises(RecordError, match=message):
        check_form("trajectory", record)
    with pytest.raises(RecordError, match=message):
        check_record("trajectory", record)


def test_items_are_stored_with_their_type_and_without_unused_keys(tmp_path):
    """As rows of a table have them."""
    item = {"text": None, "image": SMALL, "video": None, "fps": None}
    write_records(tmp_path, "trajectory", [draft(said("user", [item]), said("assistant", [{"text": "5"}]))])
    [stored] = RecordSource(tmp_path)
    assert [message["content"] for message in stored.messages] == [
        [{"type": "image", "image": SMALL}],
        [{"type": "text", "text": "5"}],
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([{"image": SLIVER}], "more than 200 times"),
        ([{"image": SMALL, "kind": "poster"}], "unknown kind of image 'poster'"),
        ([{"image": SMALL[:60]}], "<60 bytes>"),
        ([{"video": [SMALL, png(30, 40)]}], "frame 2 is 30x40 pixels"),
        ([{"video": [SMALL], "fps": 0}], "fps is 0; it is a number of frames in a second, above 0"),
        ([{"video": [SMALL], "fps": "fast"}], "fast"),
    ],
)
def test_a_trajectory_that_cannot_be_rendered_is_refused(content, message, processor):
    record = draft(said("user", content), said("assistant"))
    with pytest.raises(RecordError, match=f"^trajectory 't': .*{message}"):
        TrajectoryReader(functools.partial(render_trajectory, processor=processor))(record)
    with pytest.raises(RecordError, match=f"^trajectory 't': .*{message}"):
        check_record("trajectory", record)


def test_a_trajectory_longer_than_a_row_is_skipped(drafts, processor, unchecked, tmp_path, caplog):
    lengths = [len(render_trajectory(one, processor).tokens) for one in drafts]
    longer = dataclasses.replace(
        drafts[0], query_id="longer", messages=[*drafts[0].messages, said("user", "word " * 99), said("assistant")]
    )
    silent = dataclasses.replace(drafts[0], query_id="silent", messages=drafts[0].messages[:2])
    unchecked(tmp_path, "trajectory", [*drafts, longer, silent])
    room = max(lengths)
    assert len(render_trajectory(longer, processor).tokens) > room
    settings = LoaderSettings(max_unreadable=0.1)
    with trajectory_batches(tmp_path, processor, 4, settings=settings, row_length=room) as batches:
        for _ in range(2):
            assert sorted(one.query_id for one in next(batches)[0]) == sorted(one.query_id for one in drafts)
    text, reason = "\n".join(caplog.messages), rf"it has \d+ tokens, more than a row: train.row_length is {room} "
    assert re.search(rf"record 4: trajectory 'longer': {reason}", text)
    assert "record 5: trajectory 'silent': it has no turn of the assistant" in text


def test_an_import_reports_rows_that_later_steps_would_refuse(tmp_path):
    (tmp_path / "small.png").write_bytes(SMALL)
    (tmp_path / "sliver.png").write_bytes(SLIVER)
    rows = '{"qid": "%s", "question": "?", "answer": "5", "image": ["%s.png"]}\n'
    names = [("a", "small"), ("b", "sliver"), ("a", "small")]
    (tmp_path / "rows.jsonl").write_text("".join(rows % name for name in names))
    report = import_tables([tmp_path / "rows.jsonl"], tmp_path / "data")
    assert report["written"] == 1 and [row["id"] for row in report["unreadable"]] == ["b", "a"]
    assert "more than 200 times" in report["unreadable"][0]["problem"]
    assert "has this id already" in report["unreadable"][1]["problem"]


def test_valid_queries_come_in_order_and_others_are_counted(caplog):
    queries = [QUERY | {"id": number, "answer": "" if number % 7 == 3 else "5"} for number in range(40)]
    valid = ValidQueries(queries, QueryReader(), max_unreadable=0.1)
    for _ in range(2):
        assert [query["id"] for query in valid] == [number for number in range(40) if number % 7 != 3]
        assert valid.skipped == 6 and valid.numbers == [number for number in range(40) if number % 7 != 3]
    assert caplog.messages[0] == "skipped: record 3: query 3: it has no answer (1 of 4 so far)"
    with pytest.raises(RecordError, match="record 3: query 3: it has no answer"):
        list(ValidQueries(queries, QueryReader()))

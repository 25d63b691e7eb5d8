"""Rows as other projects publish them: EasyR1, verl, ShareGPT, LLaVA, LLaMA-Factory, OpenAI, Qwen."""

import json

import pytest

from data_pipeline.exchange.exporting import export_table
from data_pipeline.exchange.importing import import_tables
from data_pipeline.exchange.table_source import TableSource
from data_pipeline.pipeline import render_trajectory
from data_pipeline.records import RecordError, RecordSource
from tests.data_pipeline.tables import write_table


def read(folder, *rows, suffix=".jsonl"):
    """The records of a table; an import gives as many."""
    table = write_table(folder / f"t{suffix}", list(rows))
    source = TableSource(table)
    out = folder / f"out{len(list(folder.iterdir()))}"
    report = import_tables([table], out)
    assert report["written"] == len(rows) == len(RecordSource(out, source.kind))
    return list(source)


def shown(draft) -> list[tuple[str, str]]:
    """(role, text of a message with the names of its media)."""
    return [
        (m["role"], "".join(i.get("text") or f"[{str(i[i['type']])[-5:]}]" for i in m["content"]))
        for m in draft.messages
    ]


ONE, TWO = "photos/1.png", "photos/2.png"


def test_easyr1(folder):
    data = (folder / ONE).read_bytes()
    rows = [
        {"problem": "<image>Find x.", "answer": "4", "images": [{"bytes": data, "path": None}]},
        {
            "problem": "Which is larger,\n<image> or <image>?",
            "answer": "2",
            "images": [{"bytes": data, "path": "a.png"}] * 2,
        },
    ]
    first, second = read(folder, *rows, suffix=".parquet")
    assert (first["question"], first["answer"], first["images"]) == ("Find x.", "4", [data])
    assert second["question"] == "Which is larger,\nimage 1 or image 2?" and len(second["images"]) == 2
    [video] = read(folder, {"problem": "<video>\nWho?", "answer": "he", "videos": ["film.avi"]})
    assert video["question"] == "Who?" and video["video"] == f"{folder}/film.avi"
    table = write_table(folder / "w.jsonl", [rows[1] | {"images": [ONE]}])
    with pytest.raises(RecordError, match="line 1: the question has 2 places for images .<image>., the row 1"):
        TableSource(table)[0]


def test_our_own_questions_may_have_placeholders_or_speak_of_them(folder):
    row = {"answer": "a", "image": ONE}
    first, second = read(
        folder, {"question": "What?\n<image>", **row}, {"question": "Is <image> or <video> HTML?", **row}
    )
    assert first["question"] == "What?" and second["question"] == "Is <image> or <video> HTML?"


def test_verl(folder):
    row = {
        "data_source": "hiyouga/geometry3k",
        "prompt": [{"role": "system", "content": "Think."}, {"role": "user", "content": "<image>Find x."}],
        "images": [{"image": ONE}],
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": "4"},
        "extra_info": {"split": "train", "index": 0, "answer": "4"},
        "agent_name": "tool_agent",
    }
    items = [{"type": "image"}, {"type": "text", "text": "Find x."}]
    for given in (row, row | {"prompt": [{"role": "user", "content": items}]}):
        [query] = read(folder, given)
        assert (query["question"], query["answer"], query["images"]) == ("Find x.", "4", [str(folder / ONE)])
        assert (query["source"], query["category"], query["extra"]["index"]) == ("hiyouga/geometry3k", "math", 0)
    [query] = read(
        folder,
        {**row, "images": None, "videos": [{"video": "film.avi"}], "prompt": [{"role": "user", "content": "<video>?"}]},
    )
    assert query["video"] == f"{folder}/film.avi"
    several = [row["prompt"][1], {"role": "assistant", "content": "4"}]
    table = write_table(
        folder / "w.jsonl",
        [
            row | {"prompt": several},
            row | {"reward_model": {"ground_truth": float("nan")}},
            row | {"images": ["gone.png"]},
        ],
    )
    for index, problem in enumerate(("its prompt has 2 turns", "it has no answer", "gone.png: no such file")):
        with pytest.raises(RecordError, match=problem):
            TableSource(table)[index]


def test_sharegpt_and_llava(folder, processor):
    talk = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "A sign."}]
    more = [{"from": "human", "value": "And here?\n<image>"}, {"from": "gpt", "value": r"\boxed{A cat}"}]
    rows = [
        {"id": "7", "image": ONE, "conversations": talk},
        {"images": [ONE, TWO], "conversations": [*talk, *more], "system": "Be short."},
        {"image": ONE, "conversations": [{"from": "user", "value": "What?"}, talk[1]]},  # LLaVA puts it first
        {"video": "film.avi", "conversations": [{"from": "human", "value": "<video>Who?"}, talk[1]]},
        {"conversations": [{"from": "human", "value": "Hello"}, talk[1]]},
    ]
    first, second, third, fourth, fifth = read(folder, *rows)
    assert shown(first) == [("user", "[1.png]What is it?"), ("assistant", "A sign.")]
    assert (first.query_id, first.question, first.kind) == ("7", "What is it?", "text_only")
    assert [role for role, _ in shown(second)] == ["system", "user", "assistant", "user", "assistant"]
    assert shown(second)[3] == ("user", "And here?\n[2.png]") and second.reference == "A cat"
    assert shown(third)[0] == ("user", "[1.png]What?") and shown(fourth)[0] == ("user", "[m.avi]Who?")
    assert shown(fifth)[0] == ("user", "Hello")
    trajectory = render_trajectory(first, processor)
    assert trajectory.train.sum() and len(trajectory.media) == 1


def test_messages_with_images_beside_them(folder):
    said = {"role": "assistant", "content": "A sign."}

    def row(*content, **beside) -> dict:
        return {"messages": [{"role": "user", "content": content[0] if len(content) == 1 else content}, said], **beside}

    text, image = {"type": "text", "text": "What?"}, {"type": "image", "image": ONE}
    rows = [
        row("<image>What?", images=[ONE]),
        row({"type": "image"}, text, images=[ONE]),
        row({"type": "image_url", "image_url": {"url": ONE}}, text),
        row(image, text, image=ONE),  # the same one
        {"messages": json.dumps(row("<image>What?")["messages"]), "image": ONE},
    ]
    for draft in read(folder, *rows):
        assert shown(draft) == [("user", "[1.png]What?"), ("assistant", "A sign.")]
    [draft] = read(folder, {**row("<image>What?", image=ONE), "type": "\ud800", "id": "\ud800"})
    assert draft.kind == "?"
    film = (folder / "film.avi").read_bytes()
    asked = {"type": "video", "video": "film.avi", "nframes": 4, "max_pixels": 50_176}
    [draft] = read(folder, {"messages": [{"role": "user", "content": [asked, {"type": "text", "text": "Who?"}]}, said]})
    assert draft.messages[0]["content"][0] == asked | {"video": f"{folder}/film.avi"}
    import_tables([folder / "t.jsonl"], folder / "asked")
    for suffix in (".jsonl", ".parquet"):  # exported and read again, it asks for the same
        export_table(folder / "asked", folder / f"again{suffix}")
        [again] = TableSource(folder / f"again{suffix}")
        item = again.messages[0]["content"][0]
        assert item == asked | {"video": item["video"]} and open(item["video"], "rb").read() == film


SAID = {"role": "assistant", "content": "x"}
WRONG = {
    "message_list is the text 'oops', no JSON": {"message_list": "oops"},
    "messages is 7": {"messages": 7},
    "messages is \\[\\]": {"messages": "[]"},
    "message 0 is 'hello'": {"messages": ["hello"]},
    "message 0: role is 'tool'": {"messages": [{"role": "tool", "content": "x"}]},
    "role is 'observation'": {"conversations": [{"from": "observation", "value": "x"}]},
    "message 1: it has no content": {"messages": [{"role": "user", "content": "?"}, {"role": "assistant"}]},
    "tool_calls are not read": {"messages": [{"role": "assistant", "content": None, "tool_calls": [{"id": 1}]}]},
    "2 places for images .<image>., the row 1": {
        "messages": [{"role": "user", "content": "<image><image>?"}, SAID],
        "images": ["photos/1.png"],
    },
    "1 places for images .<image>., the row 0": {"conversations": [{"from": "human", "value": "<image>?"}, SAID]},
    "0 places for images .<image>., the row 2": {
        "messages": [{"role": "user", "content": "?"}, SAID],
        "images": ["photos/1.png", "photos/2.png"],
    },
    "message 0: .*gone.png: no such file": {
        "messages": [{"role": "user", "content": "<image>"}, SAID],
        "image": "gone.png",
    },
    "did you mean 'messages'": {"messages": [{"role": "user", "content": "?"}, SAID], "mesages": 1},
    "'image_path' looks like a medium": {"messages": [{"role": "user", "content": "?"}, SAID], "image_path": "1.png"},
    "message 0: nframes is not supported": {
        "messages": [{"role": "user", "content": [{"type": "image", "image": "photos/1.png", "nframes": 2}]}, SAID]
    },
    "operations is \\[None\\]": {"messages": [{"role": "user", "content": "?"}, SAID], "operations": [None]},
    "does not end with the assistant": {"messages": [{"role": "user", "content": "?"}]},
    "another kind: it has no conversation": {"question": "?", "answer": "x"},
}  # fmt: skip


@pytest.mark.parametrize("problem", WRONG)
def test_what_is_wrong_with_a_conversation_is_said(problem, folder):
    good = {"messages": [{"role": "user", "content": "?"}, SAID]}
    table = write_table(folder / "t.jsonl", [good, {"id": "wrong", **WRONG[problem]}])
    assert TableSource(table)[0].query_id == "t-000000"
    with pytest.raises(RecordError, match=f"t.jsonl, line 2: id 'wrong': .*{problem}"):
        TableSource(table)[1]
    report = import_tables([table], folder / "out")
    assert report["written"] == 1 and len(report["unreadable"]) == 1

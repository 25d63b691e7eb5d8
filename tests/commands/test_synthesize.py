"""`pixel-reasoner synthesize` as a user calls it."""

import json
import re

import pytest

from data_pipeline.records import RecordSource
from data_pipeline.sources import SOURCE_KINDS
from data_pipeline.synthesis.synthesis import Synthesis
from pixel_reasoner_jax.commands import cli
from pixel_reasoner_jax.commands import synthesize as synthesize_command
from pixel_reasoner_jax.processing import Processor
from pixel_reasoner_jax.report.images import data_uri
from tests.data_pipeline.synthesis.seeds import encoded, picture
from tests.data_pipeline.synthesis.test_policy_sampler import GOOD, ScriptedPolicy
from tests.endpoint.chat_server import pictures, said


@pytest.fixture
def seeds(tmp_path):
    """A JSONL of 12 queries, one of which is broken."""
    lines = []
    for number in range(12):
        (tmp_path / f"{number}.png").write_bytes(encoded(picture(number)))
        query = {"id": f"q{number}", "image": f"{number}.png", "question": f"What <b>is</b> {number}?", "answer": "cat"}
        lines.append(json.dumps(query | {"box": [80, 50, 110, 80]}))
    lines[4] = "{"
    (tmp_path / "seeds.jsonl").write_text("\n".join(lines))
    return f"table:{tmp_path / 'seeds.jsonl'}"


def synthesize(capsys, *argv) -> tuple[int, str, str]:
    try:
        status = cli.main(["synthesize", *map(str, argv)])
    except SystemExit as stop:
        status = stop.code
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_a_root_of_media_must_be_there(seeds, tmp_path, capsys):
    argv = ("--source", seeds, "--count", 1, "--out", tmp_path / "out", "--media-root", tmp_path / "nowhere")
    status, _, err = synthesize(capsys, *argv)
    assert (
        status == 2 and f"the root of media (media.root, --media-root) is {tmp_path}/nowhere, which is no folder" in err
    )


def test_trajectories_a_table_and_a_page(seeds, tmp_path, capsys):
    out = tmp_path / "out"
    argv = ("--source", seeds, "pixel-search:sft", "--source", "pixel-search-video:sft")
    argv += ("--count", 40, "--seed", 3, "--out", out, "--workers", 2)
    status, text, err = synthesize(capsys, *argv)
    assert status == 0 and "synthesis: 40/40" in err
    summary = json.loads(text.splitlines()[-1])
    assert summary["count"] == 40 and summary["rejected"] == {"unreadable": 1} and summary["seeds"] == 41
    for kind, count in summary["kinds"].items():
        assert re.search(rf"^{kind} +{count} +{count / 40:.1%} ", text, re.MULTILINE), text
    assert re.search(r"^unreadable +1$", text, re.MULTILINE) and re.search(rf"^{seeds} +11$", text, re.MULTILINE)
    assert "line 5: not JSON" in (out / "rejected.jsonl").read_text()
    page = (out / "contact_sheet.html").read_text()
    drafts = list(RecordSource(out, "trajectory"))
    assert page.count("<article") == 24 and "<b>is</b>" not in page
    shown = [draft for draft in drafts if f"{draft.query_id}," in page or f">{draft.query_id}<" in page]
    assert len(shown) == 24
    crops = sum(len(record.boxes) for draft in shown for record in draft.operations)
    assert page.count('<rect class="box"') == crops > 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    status, again, err = synthesize(capsys, *argv)
    assert status == 0 and again.splitlines()[-1] == text.splitlines()[-1] and "is complete already" in err
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_shares_that_the_seeds_do_not_allow_are_said(seeds, tmp_path, capsys):
    """A crop of these boxes, with its padding, is more than a quarter of the image."""
    mix = ("--image-mix", "further_zoom=3,single_pass=1")
    lines = (tmp_path / "seeds.jsonl").read_text().replace("[80, 50, 110, 80]", "[40, 30, 130, 110]")
    (tmp_path / "seeds.jsonl").write_text(lines)
    status, text, err = synthesize(capsys, "--source", seeds, "--count", 8, "--out", tmp_path / "out", *mix)
    assert status == 0, err
    assert "not all seeds allow further_zoom: the shares that came out are not those wanted" in text
    assert re.search(r"^further_zoom +0 +0.0% +75.0% +[1-8]$", text, re.MULTILINE)
    shares = {"further_zoom": {"wanted": 0.75, "made": 0.0}, "single_pass": {"wanted": 0.25, "made": 1.0}}
    assert json.loads(text.splitlines()[-1])["shares"] == {"image": shares}


def test_a_model_writes_it(server, seeds, tmp_path, capsys):
    argv = ("--source", seeds, "--count", 4, "--captioner", "openai", "--base-url", server.url, "--caption-model", "m")
    argv += ("--prices", "2.5,10", "--cache", tmp_path / "cache", "--workers", 3)
    status, text, err = synthesize(capsys, *argv, "--out", tmp_path / "a")
    assert status == 0, err
    spend = json.loads(text.splitlines()[-1])["spend"]
    assert f"asked the model {len(server.requests)} times for" in err
    assert spend["cost"] == pytest.approx(spend["requests"] * (100 * 2.5 + 10 * 10) / 1e6)
    assert f"texts: {spend['requests']} answers" in text
    asked = len(server.requests)
    status, _, err = synthesize(capsys, *argv, "--out", tmp_path / "b")
    assert status == 0 and len(server.requests) == asked and "asked the model 0 times for 0.00" in err
    first, second = (RecordSource(tmp_path / name, "trajectory").digest for name in "ab")
    assert first == second
    assert "secret" not in "".join(path.read_text(errors="replace") for path in tmp_path.rglob("*") if path.is_file())
    server.reply = lambda exchange: exchange.fail(500)
    status, _, err = synthesize(capsys, *argv, "--out", tmp_path / "c", "--seed", 1, "--attempts", 2)
    assert status == 2 and "did not answer in 2 attempts" in err and "start the same command again" in err


def test_a_larger_count_adds_to_it(seeds, tmp_path, capsys):
    argv = ("--source", seeds, "--out", tmp_path / "out", "--count")
    assert synthesize(capsys, *argv, 3)[0] == 0
    shards = {path.name: path.read_bytes() for path in (tmp_path / "out").glob("*.array_record")}
    status, text, err = synthesize(capsys, *argv, 5)
    assert status == 0 and "held 3 trajectories, to which 2 were added" in err
    assert json.loads(text.splitlines()[-1])["count"] == 5 == len(RecordSource(tmp_path / "out", "trajectory"))
    assert all((tmp_path / "out" / name).read_bytes() == data for name, data in shards.items())
    status, _, err = synthesize(capsys, *argv, 4)
    assert status == 2 and "its count is 5, now 4" in err


def test_photos_get_questions_and_boxes_and_those_not_kept_are_named(server, seeds, tmp_path, capsys):
    """Of four photos the model proposes for two a box whose crop it cannot answer from."""
    (tmp_path / "photos.jsonl").write_text("\n".join(f'{{"image": "{number}.png"}}' for number in range(4)))
    sensible = server.reply

    def reply(exchange):
        text = said(exchange.request)
        if "from nothing else" in text:
            exchange.say("unknown" if "Odd" in text else "Q")
        elif '"box"' in text:
            name = "Odd" if hash(pictures(exchange.request)[0]) in odd else "Which letter"
            exchange.say(json.dumps({"question": f"{name}?", "answer": "Q", "box": [0.1, 0.1, 0.3, 0.25]}))
        else:
            sensible(exchange)

    odd = {hash(data_uri(picture(number), 1024, 400_000)) for number in (1, 3)}
    server.reply = reply
    argv = ("--source", f"table:{tmp_path / 'photos.jsonl'}", "--count", 4, "--out", tmp_path / "out")
    argv += ("--captioner", "openai", "--base-url", server.url, "--cache", tmp_path / "cache")
    status, text, err = synthesize(capsys, *argv)
    assert status == 0, err
    assert re.search(r"^unconfirmed +2$", text, re.MULTILINE)
    named = re.search("^no proposed box was kept for (.*)$", text, re.MULTILINE)[1]
    assert sorted(named.split(", ")) == ["photos-000001", "photos-000003"]
    summary = json.loads(text.splitlines()[-1])
    assert summary["count"] == 2 and sorted(summary["unconfirmed"]) == ["photos-000001", "photos-000003"]


def test_a_model_of_ours_is_sampled(world_directory, tmp_path, capsys, monkeypatch):
    processor = Processor.from_pretrained(world_directory)
    scripts = {f"photos-{number:06d}": [("\\boxed{dog}",), (GOOD[0], "\\boxed{cat}")] for number in range(3)}
    scripts["photos-000001"][1] = ("\\boxed{cat}",)
    lines = []
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(encoded(picture(number)))
        lines.append(json.dumps({"image": f"{number}.png", "question": f"What is {number}?", "answer": "cat"}))
    (tmp_path / "photos.jsonl").write_text("\n".join(lines))
    loaded = []

    def load(directory, dtype):
        loaded.append((directory, dtype))
        return ScriptedPolicy(processor, scripts)

    monkeypatch.setattr(synthesize_command, "load_policy", load)
    argv = ("--source", f"table:{tmp_path / 'photos.jsonl'}", "--count", 3, "--out", tmp_path / "out", "--samples", 2)
    status, text, err = synthesize(capsys, *argv, "--captioner", f"model:{world_directory}", "--dtype", "bfloat16")
    assert status == 0, err
    assert loaded == [(str(world_directory), "bfloat16")]
    assert re.search(r"^sampled +2 +100.0% +100.0% +0$", text, re.MULTILINE)
    assert re.search(r"^unsolved +1$", text, re.MULTILINE)
    assert (tmp_path / "out" / "contact_sheet.html").read_text().count("<article") == 2


def test_a_second_run_is_kept_out(seeds, tmp_path, capsys, monkeypatch):
    argv = ("--source", seeds, "--count", 2, "--out", tmp_path / "out")
    inner = []

    def run(self, on_progress):
        inner.append(synthesize(capsys, *argv))
        raise ValueError("enough")

    monkeypatch.setattr(Synthesis, "run", run)
    with pytest.raises(ValueError, match="enough"):
        synthesize(capsys, *argv)
    ((status, _, err),) = inner
    assert status == 2 and "another run is synthesizing into" in err
    monkeypatch.undo()
    assert synthesize(capsys, *argv)[0] == 0


@pytest.mark.parametrize(
    "argv,message",
    [
        (("--source", "csv:x", "--count", "1"), "KIND:PATH with KIND one of jsonl"),
        (("--source", "pixel-search:validation", "--count", "1"), "unknown split 'validation'"),
        (("--source", "table:nowhere.jsonl", "--count", "1"), "nowhere.jsonl: no such file"),
        (("--source", "pixel-search:sft", "--count", "0"), "must be at least 1"),
        (("--source", "pixel-search:sft", "--count", "1", "--workers", "0"), "workers must be at least 1"),
        (("--source", "pixel-search:sft", "--count", "1", "--image-mix", "zoom=1"), "unknown kind 'zoom'"),
        (("--source", "pixel-search:sft", "--count", "1", "--image-mix", "text_only"), "is not KIND=SHARE"),
        (("--source", "pixel-search:sft", "--count", "1", "--prices", "x"), "is not PROMPT,COMPLETION"),
        (("--source", "pixel-search:sft", "--count", "1", "--padding", "2"), "padding is a fraction"),
        (("--source", "pixel-search:sft", "--count", "1", "--seed", "-1"), "a seed is 0 or more"),
        (("--source", "pixel-search:sft", "--count", "1", "--captioner", "openai"), "set OPENAI_API_KEY"),
        (
            ("--source", "pixel-search:sft", "--count", "1", "--captioner", "openai", "--requests-per-minute", "0"),
            "requests per minute must be above 0",
        ),
        (
            ("--source", "pixel-search:sft", "--count", "1", "--captioner", "openai", "--prices", "nan,1"),
            "prompt price must be 0 or more",
        ),
        (
            ("--source", "pixel-search:sft", "--count", "1", "--captioner", "gpt"),
            "none of template, openai and model:DIR",
        ),
        (
            ("--source", "pixel-search:sft", "--count", "1", "--captioner", "model:gone"),
            "gone: no such model directory",
        ),
        (
            ("--source", "pixel-search:sft", "--count", "1", "--captioner", "model:gone", "--image-mix", "text_only=1"),
            "--image-mix is for templates; with --captioner model:gone the model decides",
        ),
        (("--source", "pixel-search:sft"), "--count"),
    ],
)
def test_mistakes_are_named(argv, message, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    status, _, err = synthesize(capsys, *argv, "--out", tmp_path / "out")
    assert status == 2 and message in err


def test_a_file_in_place_of_the_folder_is_named(tmp_path, capsys):
    (tmp_path / "out").write_text("mine")
    for out in (tmp_path / "out", tmp_path / "out" / "deeper"):
        status, _, err = synthesize(capsys, "--source", "pixel-search:sft", "--count", 1, "--out", out)
        assert status == 2 and "is to be a folder, and" in err and "out is a file" in err and "Errno" not in err
    assert (tmp_path / "out").read_text() == "mine"


def test_help_names_the_sources(capsys):
    status, text, _ = synthesize(capsys, "--help")
    assert status == 0 and all(kind in text for kind in SOURCE_KINDS)


def test_a_models_budgets_are_taken(world_directory, tmp_path, capsys):
    """The world's model sees crops of 16 tokens, the released one crops as they are, down to whole tokens."""
    argv = ("--source", "pixel-search:sft", "--count", 3, "--image-mix", "single_pass=1")
    status, _, err = synthesize(capsys, *argv, "--model", world_directory, "--out", tmp_path / "world")
    assert status == 0, err
    assert synthesize(capsys, *argv, "--out", tmp_path / "released")[0] == 0
    tokens = {"world": [], "released": []}
    for name, counts in tokens.items():
        for draft in RecordSource(tmp_path / name, "trajectory"):
            ((width, height),) = draft.operations[0].sizes
            counts.append(width * height // 28**2)
    assert max(tokens["world"]) <= 20 < min(tokens["released"])

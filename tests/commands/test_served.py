"""Commands with a served model in place of a model directory."""

import json

import pytest

from data_pipeline.records import write_records
from pixel_reasoner_jax.commands import cli
from pixel_reasoner_jax.evaluation.records import read_records, read_results
from pixel_reasoner_jax.evaluation.trajectories import read_trajectories
from pixel_reasoner_jax.files import as_path
from tests.evaluation.forms import image_bytes, write_image, write_lines
from tests.evaluation.test_served_model import RIGHT, ROWS, answers, write_vstar

SERVED = ["--endpoint", "http://a", "--endpoint-model", "m"]


@pytest.fixture
def evaluated(server, tmp_path, capsys):
    """Evaluates the served model on V*; returns what is printed."""

    def evaluate(*given, status=0):
        data = tmp_path / "vstar"
        if not data.exists():
            write_vstar(data)
        served = ["--endpoint", server.url, "--endpoint-model", "mine", "--attempts", "2", "--out", tmp_path / "out"]
        assert cli.main(["evaluate", *map(str, [*served, "--on", f"vstar:{data}", *given])]) == status
        return capsys.readouterr()

    return evaluate


def test_a_benchmark(server, tmp_path, evaluated):
    server.reply = answers
    out, err = evaluated("--prices", "1000,10000")
    assert json.loads(out.splitlines()[-1])["vstar"]["score"] == RIGHT / ROWS
    assert f"asked the model {2 * ROWS} times for {2 * ROWS * 0.2:.2f}; 0 answers were remembered" in err
    assert {request["model"] for request in server.requests} == {"mine"}
    assert {(request["temperature"], request["max_tokens"]) for request in server.requests} == {(0.0, 2048)}
    results = read_results(tmp_path / "out")
    assert results["model"] == {"name": "mine", "endpoint": server.url + "/"}
    vstar = results["benchmarks"]["vstar"]
    assert (vstar["count"], vstar["rapr"], vstar["tokens"], vstar["ended"]) == (ROWS, 1.0, 20.0, {"answer": ROWS})
    assert set(map(tuple, vstar["images"].values())) == {("532x392",)}  # the protocol's least, 256 tokens
    records = list(read_records(tmp_path / "out"))
    assert sorted(record.id for record in records) == sorted(map(str, range(ROWS)))
    [trajectory] = read_trajectories(tmp_path / "out", [records[0].key]).values()
    assert trajectory.sampled == 20 and len(trajectory.messages) == 5
    asked = len(server.requests)
    assert (
        json.loads(evaluated()[0].splitlines()[-1])["vstar"]["score"] == RIGHT / ROWS and len(server.requests) == asked
    )


def test_what_is_refused_is_said(server, evaluated):
    def refusing(exchange):
        row = exchange.request["messages"][1]["content"][-1]["text"]
        if "Row 0?" in row:
            exchange.fail(400, "harmful", "content_filter")
        elif "Row 1?" in row and len(exchange.request["messages"]) > 2:
            exchange.fail(400, "maximum context length is 10")
        else:
            answers(exchange)

    server.reply = refusing
    out, _ = evaluated()
    assert "vstar: 1 response, pixel, was refused by the model or by the filter of who serves it" in out
    assert "vstar: 1 response, pixel, was cut by the limit on the length" in out
    assert json.loads(out.splitlines()[-1])["vstar"]["score"] == (RIGHT - 2) / ROWS


def test_an_evaluation_with_unanswered_items_is_not_complete_and_goes_on(server, tmp_path, evaluated):
    def failing(exchange):
        text = exchange.request["messages"][1]["content"][-1]["text"]
        return exchange.fail(500) if "Row 2?" in text and len(exchange.request["messages"]) > 2 else answers(exchange)

    server.reply = failing
    _, err = evaluated("--mode", "both", status=2)
    last = err.splitlines()[-1]
    assert last.startswith(
        "pixel-reasoner: error: the endpoint gave no answer to one query, but to all others: vstar, pix"
    )
    assert not (tmp_path / "out" / "results.json").exists()
    assert list(json.loads((tmp_path / "out" / "unanswered.json").read_text())) == ["vstar, pixel: 2, sample 0"]
    assert len(list(read_records(tmp_path / "out"))) == 2 * ROWS - 1  # those without operations too
    server.reply = answers
    server.requests.clear()
    out, _ = evaluated("--mode", "both")
    assert len(server.requests) == 1  # the first turn of the item was kept
    assert json.loads(out.splitlines()[-1])["vstar"]["score"] == RIGHT / ROWS
    assert not (tmp_path / "out" / "unanswered.json").exists()


@pytest.mark.parametrize(
    "given,message",
    [
        (["--model", "m", "--endpoint", "http://a"], "for a model that is served; both were given"),
        ([], "for a model that is served; neither was given"),
        (["--endpoint", "http://a"], "--endpoint needs --endpoint-model NAME"),
        (["--model", "m", "--budget", "1"], "--budget is for a served model"),
        (["--model", "m", "--timeout", "9"], "--timeout is for a served model: name it with --endpoint URL"),
        (["--model", "m", "--concurrency=8"], "--concurrency is for a served model"),
        (["--model", "m", "--judge", "http://a", "--judge-model", "j", "--prices", "1,2"], "--prices is for a served"),
        ([*SERVED, "--slots", "64"], "--slots is for --model DIR: how a served model computes is set where it is"),
        ([*SERVED, "--dtype=auto"], "--dtype is for --model DIR"),
        ([*SERVED, "--mesh.fsdp", "2"], "--mesh.fsdp is for --model DIR"),
        (["--endpoint", "a:80", "--endpoint-model", "m"], "'a:80' is no URL of a server"),
        (["--endpoint", "http://a", "--endpoint-model", "m", "--concurrency", "0"], "concurrency must be above 0"),
    ],
)
def test_mistakes_are_one_line(tmp_path, capsys, given, message):
    assert cli.main(["evaluate", *given, "--on", "pixel_search", "--out", str(tmp_path / "out")]) == 2
    err = capsys.readouterr().err
    assert message in err and err.splitlines()[-1].startswith("pixel-reasoner: error: ")


def write_queries(folder):
    rows = []
    for number in range(ROWS):
        write_image(folder / f"{number}.png").write_bytes(image_bytes(number, (96, 72)))
        rows.append(
            {"id": f"q{number}", "image": f"{number}.png", "question": f"Row {number}?", "answer": "AB"[number % 2]}
        )
    write_lines(folder / "queries.jsonl", [*rows[:3], {**rows[0], "id": "gone", "image": "gone.png"}, *rows[3:]])
    return folder / "queries.jsonl"


def test_pass_rates_are_written_beside_a_table(server, tmp_path, capsys):
    table = write_queries(tmp_path / "data")

    def sometimes(exchange):
        """Of the first row, one of two samples is right."""
        messages = exchange.request["messages"]
        wrong = "Row 0?" in messages[1]["content"][-1]["text"] and exchange.request["seed"] % 2
        exchange.say("\\boxed{C}") if wrong else answers(exchange)

    server.reply = sometimes
    rated = tmp_path / "data" / "rated.jsonl"
    command = ["evaluate", "--endpoint", server.url, "--endpoint-model", "m", "--on", f"data:{table}", "--samples", 2]
    command += ["--temperature", 1, "--seed", 3, "--out", tmp_path / "out", "--write-pass-rates", rated]
    for _ in range(2):
        assert cli.main([*map(str, command)]) == 0
        assert f"pass rates: {rated} (8 queries, 7 with a rate)" in capsys.readouterr().out
    seeds = {request["seed"] % 2 for request in server.requests if "Row 0?" in str(request["messages"][1])}
    first = {(0,): 1.0, (1,): 0.0, (0, 1): 0.5}[tuple(sorted(seeds))]
    rates = [json.loads(line).get("pass_rate") for line in rated.read_text().splitlines()]
    assert rates == [first, 1.0, 1.0, None, 1.0, 0.0, 0.0, 0.0]
    command[-1] = table
    assert cli.main([*map(str, command)]) == 2
    assert "is what was evaluated, which is not rewritten" in capsys.readouterr().err


@pytest.fixture
def generated(server, tmp_path, capsys):
    """Answers a table; returns the figures and the lines."""

    def generate(*given, status=0, out="out"):
        table = tmp_path / "data" / "queries.jsonl"
        served = ["--endpoint", server.url, "--endpoint-model", "m", "--attempts", "2"]
        command = ["generate", *served, "--queries", table, "--out", tmp_path / out, *given]
        assert cli.main([*map(str, command)]) == status
        captured = capsys.readouterr()
        if status:
            return captured.err.splitlines()[-1]
        lines = (tmp_path / out / "responses.jsonl").read_text().splitlines()
        return json.loads(captured.out.splitlines()[-1]), [*map(json.loads, lines)]

    return generate


def test_many_questions(server, tmp_path, generated):
    write_queries(tmp_path / "data")
    server.reply = answers
    figures, lines = generated()
    assert figures == {
        **{"responses": 7, "unreadable": 1, "answered": 7, "operations": 7, "failed_operations": 0, "tokens": 140},
        "ended": {"answer": 7},
    }
    assert [line["row"] for line in lines] == list(range(8)) and lines[3].keys() == {"row", "error"}
    first = lines[0]
    assert (first["id"], first["answer"], first["response"], first["ended"]) == ("q0", "A", "\\boxed{A}", "answer")
    assert first["operations"][0]["name"] == "crop_image_normalized" and first["tokens"] == 20
    assert (first["question"], first["sample"]) == ("Row 0?", 0)
    asked = len(server.requests)
    assert generated() == (figures, lines) and len(server.requests) == asked


def test_many_questions_go_on_where_they_were_killed(server, tmp_path, generated):
    """By a failure, and in the middle of a line; what comes out is what an unbroken run leaves."""
    write_queries(tmp_path / "data")
    server.reply = answers
    whole = generated("--samples", "2", "--temperature", "0.5", out="whole")

    def failing(exchange):
        bad = "Row 4?" in exchange.request["messages"][1]["content"][-1]["text"]
        exchange.hang_up() if bad else answers(exchange)

    server.reply = failing
    error = generated("--samples", "2", "--temperature", "0.5", status=2)
    assert "the endpoint gave no answer to one query, but to all others: q4 (" in error
    path = tmp_path / "out" / "responses.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    server.reply = answers
    server.requests.clear()
    assert generated("--samples", "2", "--temperature", "0.5") == whole
    assert len(server.requests) == 4  # the response whose line was cut is remembered
    assert path.read_bytes() == (tmp_path / "whole" / "responses.jsonl").read_bytes()
    assert "differ in samples" in generated("--samples", "3", "--temperature", "0.5", status=2)
    path.write_text("{}\n" + path.read_text())
    assert "line 1 is no response" in generated("--samples", "2", "--temperature", "0.5", status=2)


def test_many_questions_into_an_object_store(server, tmp_path, generated, bucket, monkeypatch):
    """What was answered before a failure is there, and what comes out is what a folder on a disk would hold."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))  # answers are kept there
    write_queries(tmp_path / "data")
    server.reply = answers
    whole = generated(out="whole")

    def failing(exchange):
        bad = "Row 4?" in exchange.request["messages"][1]["content"][-1]["text"]
        exchange.hang_up() if bad else answers(exchange)

    served = ["--endpoint", server.url, "--endpoint-model", "m", "--attempts", "2"]
    command = ["generate", *served, "--queries", str(tmp_path / "data" / "queries.jsonl"), "--out", f"{bucket}/out"]
    server.reply = failing
    assert cli.main(command) == 2
    server.reply = answers
    server.requests.clear()
    assert cli.main(command) == 0 and len(server.requests) == 2
    written = (as_path(bucket) / "out" / "responses.jsonl").read_text()
    assert [json.loads(line) for line in written.splitlines()] == whole[1]
    assert cli.main(command) == 0 and len(server.requests) == 2


def test_a_data_set_without_queries(generated, tmp_path):
    write_records(tmp_path / "empty", "query", [])
    assert "has no queries to answer" in generated("--queries", tmp_path / "empty", status=2)


def test_one_question(server, tmp_path, capsys):
    server.reply = answers
    picture = write_image(tmp_path / "a.png")
    picture.write_bytes(image_bytes(1, (96, 72)))
    served = ["--endpoint", server.url, "--endpoint-model", "m", "--out", str(tmp_path / "out.json")]
    for _ in range(2):  # nothing is remembered: another model may be served by then
        assert cli.main(["generate", *served, "--image", str(picture), "--question", "Row 1?"]) == 0
    out = capsys.readouterr().out
    assert "→ crop_image_normalized" in out and "answer: B" in out and "tokens written: 20" in out
    assert len(server.requests) == 4
    server.reply = lambda exchange: exchange.fail(500)
    assert cli.main(["generate", *served, "--attempts", "2", "--image", str(picture), "--question", "Row 1?"]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert "the endpoint gave no answer: " in last and "start the same command" not in last  # nothing is kept


@pytest.mark.parametrize(
    "given,message",
    [
        (["--queries", "q.jsonl", "--question", "?"], "--question is for one question"),
        (["--queries", "q.jsonl"], "--queries needs --out DIR"),
        (["--queries", "q.jsonl", "--out", "o"], "q.jsonl: no such file"),
        (["--question", "?", "--image", "a.png", "--attempts", "3"], "a.png"),
        (["--image", "a.png"], "give --question TEXT, or --queries TABLE"),
    ],
)
def test_mistakes_about_many_questions(capsys, given, message):
    assert cli.main(["generate", "--model", "m", *given]) == 2
    assert message in capsys.readouterr().err

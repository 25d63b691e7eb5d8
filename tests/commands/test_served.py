"""Commands with a served model in place of a model directory."""

import json

import pytest

from pixel_reasoner_jax.commands import cli
from pixel_reasoner_jax.evaluation.records import read_records, read_results
from pixel_reasoner_jax.evaluation.trajectories import read_trajectories
from tests.evaluation.test_served_model import RIGHT, ROWS, answers, write_vstar


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
        (["--endpoint", "a:80", "--endpoint-model", "m"], "'a:80' is no URL of a server"),
        (["--endpoint", "http://a", "--endpoint-model", "m", "--concurrency", "0"], "concurrency must be above 0"),
    ],
)
def test_mistakes_are_one_line(tmp_path, capsys, given, message):
    assert cli.main(["evaluate", *given, "--on", "pixel_search", "--out", str(tmp_path / "out")]) == 2
    err = capsys.readouterr().err
    assert message in err and err.splitlines()[-1].startswith("pixel-reasoner: error: ")

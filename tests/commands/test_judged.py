"""`evaluate` with a judge: which benchmarks it scores, what it costs, and what is said where there is none."""

import json

import pytest

from pixel_reasoner_jax.commands import cli
from pixel_reasoner_jax.evaluation.records import read_results
from tests.endpoint.conftest import server  # noqa: F401
from tests.evaluation.test_judge import answers, fair, write_visualprobe


def reply(exchange):
    """The candidate's answers and the judge's verdicts, by who is asked."""
    if exchange.request["model"] == "judge":
        return fair(exchange)
    [question] = [item["text"] for item in exchange.request["messages"][1]["content"] if item["type"] == "text"]
    return exchange.say(answers({"question": question}) if question[0] == "q" else "\\boxed{7}")


@pytest.fixture
def evaluated(server, tmp_path, capsys):  # noqa: F811
    server.reply = reply
    data = write_visualprobe(tmp_path / "data")

    def evaluate(*given, on=("--on", f"visualprobe:{data}"), status=0, out="out"):
        served = ["--endpoint", server.url, "--endpoint-model", "mine", "--attempts", "2", "--out", tmp_path / out]
        assert cli.main(["evaluate", *map(str, [*served, *on, *given])]) == status
        return capsys.readouterr()

    return evaluate


def test_a_judge_scores_where_the_benchmark_wants_one(server, tmp_path, evaluated):  # noqa: F811
    judge = ["--judge", server.url, "--judge-model", "judge", "--judge-prices", "1000,0", "--prices", "2000,0"]
    on = ["--on", f"visualprobe:{tmp_path / 'data'}", "--on", "pixel_search:heldout:1"]
    out, err = evaluated(*judge, on=on)
    assert json.loads(out.splitlines()[-1])["visualprobe"]["score"] == 4 / 6
    [row] = [line for line in out.splitlines() if line.startswith("visualprobe  ")]
    assert "  judge judge  " in row
    assert "visualprobe: scored by the judge judge, protocol paper" in out and "scored by the rule answer" in out
    assert "asked the judge 6 times for 0.60; 0 answers were remembered" in err
    assert "asked the model 7 times for 1.40" in err
    found = read_results(tmp_path / "out")["benchmarks"]
    assert (found["visualprobe"]["scorer"], found["pixel_search"]["scorer"]) == ("judge", "answer")
    assert found["visualprobe"]["protocol"]["judge"]["model"] == "judge"
    assert {request["temperature"] for request in server.requests} == {0.0}
    asked = len(server.requests)
    assert evaluated(*judge, on=on)[0] == out and len(server.requests) == asked


def test_without_a_judge_it_is_said(evaluated, tmp_path):
    out, _ = evaluated()
    assert "visualprobe: scored by the rule answer (" in out
    assert "visualprobe: its published figures are a judge's, which a rule does not come to: --judge URL" in out
    found = read_results(tmp_path / "out")["benchmarks"]["visualprobe"]
    assert (found["scorer"], found["protocol"]["judge"]) == ("answer", None)


def test_model_and_judge_are_held_to_one_budget(server, evaluated):  # noqa: F811
    judge = ["--judge", server.url, "--judge-model", "judge", "--judge-prices", "1000,0", "--prices", "1000,0"]
    _, err = evaluated(*judge, "--budget", "0.75", "--concurrency", "1", status=2)
    assert "the budget of 0.75 is used up" in err
    assert 8 <= len(server.requests) <= 10  # each costs 0.10, and two are under way
    assert evaluated(*judge, "--budget", "0.75")[0]
    assert len(server.requests) == 12


def test_a_judge_without_verdicts_is_said(server, evaluated):  # noqa: F811
    def mute(exchange):
        judged = exchange.request["model"] == "judge"
        exchange.say("no idea") if judged and "q0?" in str(exchange.request) else reply(exchange)

    server.reply = mute
    out, _ = evaluated("--judge", server.url, "--judge-model", "judge")
    assert "visualprobe: 1 response counts as wrong, since the judge gave no verdict" in out


@pytest.mark.parametrize(
    "given,message",
    [
        (["--judge", "http://a"], "--judge needs --judge-model NAME"),
        (["--judge", "a:80", "--judge-model", "j"], "'a:80' is no URL of a server"),
        (["--judge-model", "j"], "--judge-model NAME is of a judge: name its server with --judge URL"),
        (["--judge-prices", "1,2"], "--judge-prices is of a judge"),
        (["--set", "scorer=judge"], "the scorer judge asks a model: name it with --judge URL --judge-model NAME"),
    ],
)
def test_mistakes(evaluated, given, message):
    assert message in evaluated(*given, status=2).err.splitlines()[-1]


def test_a_judge_of_other_benchmarks_is_asked_for(server, evaluated):  # noqa: F811
    judge, world = ["--judge", server.url, "--judge-model", "judge"], ("--on", "pixel_search:heldout:1")
    _, err = evaluated(*judge, on=world, status=2)
    assert "--judge is for benchmarks that want one (visualprobe); others take it with --set scorer=judge" in err
    out, _ = evaluated(*judge, "--set", "scorer=judge", on=world)
    assert "pixel_search: scored by the judge judge" in out


def test_the_quickstart_s_world_has_no_judge(capsys):
    assert cli.main(["evaluate", "--model", "m", "--judge", "http://a"]) == 2
    assert "--judge is for benchmarks: name one with --on" in capsys.readouterr().err

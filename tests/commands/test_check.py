"""`pixel-reasoner check`: a table, one line of JSON, and an exit status for scripts."""

import argparse
import json

import pytest

from pixel_reasoner_jax.checks.findings import Finding
from pixel_reasoner_jax.commands import check, options
from pixel_reasoner_jax.commands.cli import COMMANDS
from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.rollout import Limits
from tests.trajectories import RulePolicy

SOUND = [Finding.of("masks", [], "all"), Finding("agreement", None, "mean 0.01", (), {"dtype": "bfloat16"})]
WRONG = Finding.of("positions", [f"token {n}\x1b[31m" for n in range(9)], "by the rule")


def arguments(*given):
    parser = argparse.ArgumentParser()
    options.check(parser)
    return parser.parse_args(["--model", "some/model", *given])


@pytest.fixture
def found(monkeypatch, make_trajectory):
    """What `compare` finds; what was asked is the value of "asked"."""
    found = {"findings": SOUND}
    policy = RulePolicy(make_trajectory)
    policy.limits, policy.prompt = Limits(), lambda query: None
    monkeypatch.setattr(check, "load_policy", lambda *_, **options: found.update(options) or policy)
    monkeypatch.setattr(check, "make_trainer", lambda _: None)
    monkeypatch.setattr(
        check, "roll_out", lambda policy, queries, samples, seed, **_: found.update(asked=(queries, samples, seed))
    )
    monkeypatch.setattr(check, "compare", lambda *_: found["findings"])
    monkeypatch.setattr(check, "QueryReader", lambda prompt: lambda query: query)
    return found


def test_a_table_and_a_line(found, capsys):
    check.run(arguments("--samples", "3", "--seed", "4", "--dtype", "bfloat16", "--cache-dtype", "int8"))
    *table, line = capsys.readouterr().out.splitlines()
    assert [row.split()[:2] for row in table] == [["masks", "pass"], ["agreement", "measured"]]
    passed = {"masks": {"passed": True, "problems": 0}, "agreement": {"passed": None, "dtype": "bfloat16"}}
    assert json.loads(line) == {"passed": True, "checks": passed}
    queries, samples, seed = found["asked"]
    assert (samples, seed) == (3, 4)
    assert (found["dtype"], found["weights"], found["cache_dtype"]) == ("bfloat16", None, "int8")
    assert [len(query.get("images", ())) for query in queries] == [1, 3, 0] and len(queries[2]["video"]) == 6


def test_what_fails_is_named_and_is_an_error(found, capsys):
    found["findings"] = [*SOUND, WRONG]
    with pytest.raises(UserError, match="^positions failed: do not train some/model before"):
        check.run(arguments())
    out = capsys.readouterr().out
    assert out.count("positions: token ") == 5 and "\x1b" not in out and "FAIL" in out
    result = json.loads(out.splitlines()[-1])
    assert result["passed"] is False and result["checks"]["positions"]["problems"] == 9


def test_queries_that_do_not_show_enough_are_no_fault_of_the_model(found, tmp_path):
    table = tmp_path / "t.jsonl"
    table.write_text(json.dumps({"id": "a", "question": "?", "answer": "1"}) + "\n")
    found["findings"] = [Finding.of("coverage", ["no token was sampled after an image"], "2 responses"), *SOUND]
    with pytest.raises(UserError, match="^coverage failed: .*check other queries, or those that are built in"):
        check.run(arguments("--on", f"data:{table}"))
    found["findings"].append(WRONG)
    with pytest.raises(UserError, match="^coverage, positions failed: do not train"):
        check.run(arguments())


def test_queries_of_ones_own(found, tmp_path, caplog):
    table = tmp_path / "t.jsonl"
    lines = [{"id": str(n), "question": "?", "answer": "1"} for n in range(4)]
    lines[1] = {"id": "bad", "question": "?", "images": ["not there.png"], "answer": "1"}
    table.write_text("".join(json.dumps(line) + "\n" for line in lines))
    check.run(arguments("--on", f"data:{table}", "--count", "2"))
    assert [query["id"] for query in found["asked"][0]] == ["0", "2"]
    (left_out,) = caplog.messages
    assert left_out.startswith("left out: ") and left_out.count(f"{table}, line 2") == 1 and "bad" in left_out
    for on in ("data:", "vstar:x", "t.jsonl"):
        with pytest.raises(UserError, match=f"--on {on}: it is data:PATH"):
            check.run(arguments("--on", on))
    table.write_text(json.dumps(lines[1]) + "\n")
    with pytest.raises(UserError, match="has no query that can be asked"):
        check.run(arguments("--on", f"data:{table}"))


@pytest.mark.parametrize("option", ["--samples", "--count", "--slots"])
def test_numbers_out_of_range(found, option):
    with pytest.raises(UserError, match=f"{option} must be at least 1, got 0"):
        check.run(arguments(option, "0"))


def test_it_is_a_command():
    assert COMMANDS["check"].module == check.__name__

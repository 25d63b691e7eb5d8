"""Answers checked in other processes: algebra, limits, workers that die, what could not be checked."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time

import pytest

from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.rewards import AnswerPool
from pixel_reasoner_jax.rewards import pool as pool_module


@pytest.fixture(scope="module")
def pool():
    with AnswerPool(workers=2) as pool:
        yield pool


@pytest.mark.parametrize(
    "answer,reference,score",
    [
        (r"\frac{1}{2}", "0.5", 1.0),
        (r"$\frac{1}{2}$", "0.5", 1.0),
        ("x(x+2)", "x^2+2x", 1.0),
        (r"\{2, 1\}", "{1,2}", 1.0),
        ("[0, 0, 1, 1]", "[0,0,1,1]", 1.0),
        ("[0, 0, 1, 2]", "[0,0,1,1]", 0.0),
        (r"5\text{ cm}", "5", 1.0),
        ("2, 1", "1,2", 1.0),
        (r"\sqrt{2}", "1.41421356", 1.0),
        (r"\sqrt{2}", "1.5", 0.0),
    ],
)
def test_algebra(pool, answer, reference, score):
    assert pool.score([(rf"so \boxed{{{answer}}}", reference)]) == [score]


def test_batches_lists_of_references_and_failed_operations(pool):
    pairs = [
        (r"\boxed{cat}", ["dog", "cat"]),
        (r"\boxed{\frac{6}{4}}", ["2", "1.5"]),
        (r"\boxed{\frac{6}{4}}", ["2"]),
        (r"\boxed{3}", "3"),
        (r"\boxed{3}", []),
        ("3", "3"),
        (None, "3"),
        (r"\boxed{7}", 7),
        (r"\boxed{A}", "A. cat"),
        (r"\boxed{cat}", ["B", "A. cat"]),
        (r"\boxed{B}", "A. cat"),
        (r"\boxed{\frac{6}{4}}", "A. 1.5"),
    ]
    assert pool.score(pairs) == [1.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 0.0, 1.0]
    recovered = [True, False, True, False, True, True, True] + [False] * 5
    assert pool.score(pairs, recovered) == [1.0] + [0.0] * 11


HOSTILE = [
    "9^{9^{9^{9}}}",
    "9^9^9^9",
    "(10^{10^{8}})!",
    r"\frac{1}{0}",
    r"\sum_{n=1}^{10^{12}} n^{-3}",
    r"\int_0^1 e^{-x^{x^{x}}} \sin(x^{99}) dx",
    "x^{1000} + " + "+".join(f"{n}x^{{{n}}}" for n in range(60)),
    r"\frac{" * 20 + "1" + "}{2}" * 20,
    "{" * 500,
    "\\left(" * 100,
    "2^" * 400 + "2",
    "\x00\x01\x02",
    "\ud800",
    "ﷺ" * 999,
    "𝟙𝟚" + "\u202e" + "٣" + "🙂" * 50,
    r"\input{/etc/passwd}",
    "__import__('os').getcwd()",
    "-" * 900 + "1",
    "1" * 900,
    "\\" * 999,
]


def test_hostile_answers_end_in_bounded_time():
    """Time of computation: that of the clock depends on what else the machine does."""
    start = children_seconds()
    with AnswerPool(workers=2, limit=1.0) as pool:
        assert pool.score([(rf"\boxed{{{answer}}}", "17") for answer in HOSTILE]) == [0.0] * len(HOSTILE)
        assert pool.score([(r"\boxed{\sqrt{4}}", "2")]) == [1.0]
    assert children_seconds() - start < 60  # a few seconds, unless limits do not hold


def children_seconds() -> float:
    """Computation of all processes that this one has waited for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


@pytest.mark.parametrize("command", ["/nowhere/python", "/bin/false"])
def test_without_workers_an_error_is_logged_and_nothing_raised(monkeypatch, caplog, command):
    monkeypatch.setattr(sys, "executable", command)
    with AnswerPool() as pool:
        assert pool.score([(r"\boxed{\sqrt{4}}", "2"), (r"\boxed{5}", "5")]) == [0.0, 1.0]
    [record] = caplog.records
    assert "count as wrong (1 of them)" in record.getMessage() and command in record.getMessage()


TOWERS = ["9^{9^{9^{9}}}", "2^" * 400 + "2"]


def test_a_worker_over_its_deadline_is_killed():
    with AnswerPool(workers=1, limit=60.0, deadline=0.3) as pool:
        assert pool.score([(r"\boxed{9^{9^{9^{9}}}}", "17")]) == [0.0]
        assert not pool._idle


@pytest.mark.parametrize("answer", ["(10^{10^{8}})!", *(pytest.param(a, marks=pytest.mark.slow) for a in TOWERS)])
def test_the_limit_is_of_computation(answer):
    with AnswerPool(workers=1, limit=0.5, deadline=300.0) as pool:
        start = time.monotonic()
        assert pool.score([(rf"\boxed{{{answer}}}", "17")]) == [0.0]
        assert time.monotonic() - start < 60


PAIRS = [(rf"\boxed{{\sqrt{{{n}}}\cdot\sqrt{{{n}}}\cdot 2}}", f"2\\cdot {n}") for n in range(1, 17)]


@pytest.mark.slow  # lost at work, in the default tests, takes the same way
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_worker_that_is_lost_while_idle_costs_no_answer(number):
    with AnswerPool(workers=2) as pool:
        assert pool.score(PAIRS[:2]) == [1.0, 1.0]
        for worker in pool._idle:
            os.kill(worker.process.pid, number)
        assert pool.score(PAIRS) == [1.0] * len(PAIRS)
        assert pool.unchecked == 0


@pytest.mark.parametrize("number", [pytest.param(signal.SIGKILL, marks=pytest.mark.slow), signal.SIGSTOP])
def test_a_worker_that_is_lost_at_work_gives_its_answer_to_a_fresh_one_once(number, monkeypatch):
    lost = []

    def send(worker, task):
        if len(lost) < times:  # before it can have answered
            lost.append(worker)
            os.kill(worker.process.pid, number)
        original(worker, task)

    original, times = pool_module._Worker.send, 1
    monkeypatch.setattr(pool_module._Worker, "send", send)
    with AnswerPool(workers=1) as pool:
        assert pool.score(PAIRS[:3]) == [1.0, 1.0, 1.0]
        assert pool.unchecked == 0
        times = 3
        assert pool.score(PAIRS[:1]) == [0.0]
        assert pool.unchecked == 1


def test_what_cannot_be_checked_is_counted(monkeypatch):
    with AnswerPool(workers=1, limit=0.5) as pool:
        pairs = [(r"\boxed{9^{9^{9^{9}}}}", "17"), (r"\boxed{\sqrt{4}}", "2"), (r"\boxed{4}", "5"), ("?", "5")]
        assert pool.score(pairs) == [0.0, 1.0, 0.0, 0.0]
        assert pool.unchecked == 1
        assert pool.score([(rf"\boxed{{{'(' * 40}x^2{')' * 40}}}", "x^2")]) == [0.0]
        assert pool.unchecked == 2


def test_unknown_rules_are_an_error():
    with pytest.raises(UserError, match="known: strict, release"):
        AnswerPool(rules="loose")


def test_workers_do_not_import_the_callers_main_module(tmp_path):
    """A script without a main guard can score answers, and its workers end with it."""
    script = tmp_path / "script.py"
    script.write_text(
        "import pixel_reasoner_jax as pr\n"
        "print(pr.rewards.answer_reward('\\\\boxed{\\\\sqrt{4}}', '2'))\n"
        "from pixel_reasoner_jax.rewards import pool\n"
        "print(pool._default_pool._idle[0].process.pid)\n"
    )
    result = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    score, pid = result.stdout.split()
    assert score == "1.0"
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid), 0)

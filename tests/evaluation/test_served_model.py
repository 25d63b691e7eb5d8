"""A benchmark through an endpoint: a server that answers k of n rightly, with a crop in between, scores k/n."""

import json

from pixel_reasoner_jax.evaluation.benchmarks import Item, open_benchmark
from pixel_reasoner_jax.evaluation.records import ScoredRecord
from pixel_reasoner_jax.evaluation.scorers import find_scorer
from pixel_reasoner_jax.evaluation.tally import Tally
from pixel_reasoner_jax.rollout.served import ServedPolicy
from tests.evaluation.forms import image_bytes, write_image, write_lines
from tests.evaluation.test_benchmark_run import Together, asked, without_times
from tests.evaluation.test_benchmark_run import run as evaluated

CALL = {"name": "crop_image_normalized", "arguments": {"bbox_2d": [0.0, 0.0, 0.9, 0.9], "target_image": 1}}
ROWS, RIGHT = 7, 4


def write_vstar(folder):
    """V* bench with a question of two options to each row; the right one is the row's parity."""
    rows = []
    for number in range(ROWS):
        write_image(folder / "direct_attributes" / f"{number}.png").write_bytes(image_bytes(number, (96, 72)))
        text = f"Row {number}?\n(A) red\n(B) blue\nAnswer with the option's letter from the given choices directly."
        row = {"image": f"direct_attributes/{number}.png", "text": text, "category": "direct_attributes"}
        rows.append({**row, "label": "AB"[number % 2], "question_id": number})
    write_lines(folder / "test_questions.jsonl", rows)
    return folder


def answers(exchange):
    """Looks closer, then answers the first `RIGHT` rows rightly, and the others wrongly."""
    messages = exchange.request["messages"]
    if messages[-1] is messages[1]:
        exchange.say(f"<tool_call>{json.dumps(CALL)}</tool_call>")
        return
    question = next(item["text"] for item in messages[1]["content"] if item["type"] == "text")
    number = int(question.split("Row ")[1].split("?")[0])
    exchange.say(f"\\boxed{{{'AB'[(number + (number >= RIGHT)) % 2]}}}")


def test_a_server_that_answers_k_of_n_rightly_scores_k_of_n(server, connect, tmp_path):
    server.reply = answers
    benchmark = open_benchmark("vstar", write_vstar(tmp_path / "vstar"))
    items = list(benchmark)
    assert all(isinstance(item, Item) for item in items)
    scorer, tally = find_scorer(benchmark.scorer), Tally()
    queries = [item.query(benchmark.prompts["plain"]) for item in items]
    with ServedPolicy(connect(isolated=True)).stream(queries, temperature=0.0) as stream:
        for number, trajectory in stream:
            tally.add(ScoredRecord.of(trajectory, "vstar", scorer(trajectory.response, items[number])))
    figures = tally.figures()
    assert (figures["score"], figures["count"]) == (RIGHT / ROWS, ROWS)
    assert (figures["rapr"], figures["operations"], figures["tokens"]) == (1.0, 1.0, 20.0)


def test_several_processes_ask_for_their_shares(server, connect, tmp_path, monkeypatch):
    """Each item is asked about once, by one of them, and the figures are those of one process."""
    server.reply = answers
    one = asked(write_vstar(tmp_path / "vstar"), "vstar")
    whole = evaluated(ServedPolicy(connect(isolated=True, cache=tmp_path / "a")), tmp_path / "whole", one)
    server.requests.clear()
    with monkeypatch.context() as patch:
        policies = [ServedPolicy(connect(isolated=True, cache=tmp_path / "b")) for _ in range(2)]
        results, nothing = Together(patch).run(policies, tmp_path / "out", one)
    assert nothing is None and without_times(results) == without_times(whole)
    assert results["benchmarks"]["vstar"]["score"] == RIGHT / ROWS and len(server.requests) == 2 * ROWS
    spent = [policy.endpoint.spend.paid for policy in policies]
    assert spent == [2 * ((ROWS + 1) // 2), 2 * (ROWS // 2)]

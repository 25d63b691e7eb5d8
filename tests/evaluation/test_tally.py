"""Figures of scored records, worked out by hand."""

import dataclasses
import itertools
import json
import math
import tracemalloc

import numpy as np
import pytest

from pixel_reasoner_jax.evaluation.intervals import score_interval, wilson
from pixel_reasoner_jax.evaluation.records import ScoredRecord
from pixel_reasoner_jax.evaluation.tally import Tally, benchmark_figures


def record(id, score=1.0, **fields):
    return ScoredRecord("vstar", str(id), score=score, **fields)


def figures(records):
    (found,) = benchmark_figures(records).values()
    json.dumps(found, allow_nan=False)
    return found


@pytest.mark.parametrize("right,count", [(0, 1), (3, 7), (13, 20), (64, 191), (191, 191)])
def test_k_of_n_is_exactly_that(right, count):
    found = figures(record(i, float(i < right)) for i in range(count))
    assert found["score"] == right / count and found["count"] == count and found["mode"] == "pixel"
    assert found["interval"][0] <= found["score"] <= found["interval"][1]
    assert found["interval_method"] == ("bootstrap" if 30 <= count and right < count else "wilson")
    if count < 30:
        assert found["interval"] == list(wilson(right / count, count))


def test_categories_of_several_kinds():
    kinds = {"subset": ("attribute", "position"), "task": ("attribute", "count")}
    records = [
        record(i, float(i % 3 == 0), categories={"subset": kinds["subset"][i % 2], "task": kinds["task"][i // 6]})
        for i in range(12)
    ]
    found = figures(records)["categories"]
    # "attribute" is of two kinds, and each keeps its own figures.
    assert {name: (part["score"], part["count"]) for name, part in found.items()} == {
        "subset: attribute": (2 / 6, 6),
        "position": (2 / 6, 6),
        "task: attribute": (2 / 6, 6),
        "count": (2 / 6, 6),
    }
    assert found["count"]["kind"] == "task" and found["count"]["interval"] == list(wilson(2 / 6, 6))


def test_simple_and_complex():
    """TallyQA's score is of all rows; its paper prints the complex ones."""
    records = [record(i, float(i % 2), categories={"kind": "simple" if i < 6 else "complex"}) for i in range(10)]
    found = figures(records)
    assert found["score"] == 0.5
    assert [found["categories"][name]["count"] for name in ("simple", "complex")] == [6, 4]


def test_categories_within_categories():
    paths = [["Perception", "OCR", "Poster"], ["Perception", "OCR", "Table"], ["Reasoning", "OCR"]]
    found = figures([record(i, float(i != 1), categories={"task": path}) for i, path in enumerate(paths)])
    assert {name: part["score"] for name, part in found["categories"].items()} == {
        "Perception": 0.5,
        "Perception/OCR": 0.5,
        "Perception/OCR/Poster": 1.0,
        "Perception/OCR/Table": 0.0,
        "Reasoning": 1.0,
        "Reasoning/OCR": 1.0,
    }


def test_operations():
    records = [
        record(0, 1.0, operations=2, failed=1, ended="answer", tokens=100, seconds=2.0),
        record(1, 0.0, operations=1, failed=1, ended="max_tokens", tokens=300),
        record(2, 0.5, ended="answer"),
        record(3, 1.0, operations=1, ended="answer", tokens=200, seconds=4.0),
        record(4, 0.0, unreadable=True),
    ]
    found = figures(records)
    assert found["score"] == 2.5 / 5 and (found["count"], found["responses"], found["unreadable"]) == (5, 4, 1)
    assert (found["rapr"], found["operations"], found["failure_rate"]) == (0.5, 1.0, 0.5)
    parts = {name: (found[name]["score"], found[name]["count"]) for name in ("with_operations", "without_operations")}
    assert parts == {"with_operations": (1.0, 2), "without_operations": (0.25, 2)}
    assert found["ended"] == {"answer": 3, "max_tokens": 1}
    assert (found["tokens"], found["seconds"]) == (200.0, 3.0)


def test_unreadable_items_are_wrong_whatever_their_record_says():
    found = figures([record(0), record(1, None, unreadable=True), record(2, 1.0, unreadable=True)])
    assert found["score"] == 1 / 3 and (found["unreadable"], found["unscored"], found["ended"]) == (
        2,
        0,
        {"unknown": 1},
    )
    assert found["samples"] == 1
    nothing = figures([record(0, 0.0, unreadable=True)])
    assert nothing["score"] == 0.0 and nothing["rapr"] is None and nothing["responses"] == 0


def test_items_without_an_answer_have_no_score():
    found = figures([record(0, None, operations=1), record(1, None)])
    assert found["score"] is found["interval"] is None and found["unscored"] == 2 and found["rapr"] == 0.5
    mixed = figures([record(0, None), record(1, 1.0), record(2, 0.0)])
    assert mixed["score"] == 0.5 and (mixed["count"], mixed["unscored"]) == (3, 1)


def test_known_scorers_and_their_spread():
    scores = [{"letter": 1.0, "text": 1.0}, {"letter": 0.0, "text": 1.0}, {"letter": 1.0, "text": 1.0}]
    records = [record(i, each["letter"], scores=each) for i, each in enumerate(scores)]
    found = figures([*records, record(3, 0.0, unreadable=True)])
    assert found["score"] == 0.5 and found["spread"] == [0.5, 0.75]
    assert {name: part["score"] for name, part in found["scorers"].items()} == {"letter": 0.5, "text": 0.75}
    assert figures([record(0)])["spread"] is None


def test_a_rule_that_leaves_responses_out():
    """As one harness does with empty replies: its figure is of the others, and no other rule's is."""
    scores = [[1.0, None], [0.0, None], [None, None], [1.0, 1.0]]
    records = [
        record(i, each or 0.0, sample=sample, scores={"ours": each or 0.0, "theirs": each})
        for i, pair in enumerate(scores)
        for sample, each in enumerate(pair)
    ]
    found = figures(records)
    assert found["score"] == found["scorers"]["ours"]["score"] == 0.375
    assert found["scorers"]["theirs"]["score"] == pytest.approx(2 / 3) and found["spread"][1] == pytest.approx(2 / 3)
    assert (found["scorers"]["ours"]["count"], found["scorers"]["theirs"]["count"]) == (4, 3)
    by_theirs = figures([dataclasses.replace(each, score=each.scores["theirs"]) for each in records])
    assert by_theirs["pass@2"]["score"] == pytest.approx(2 / 3) and by_theirs["unscored"] == 1
    by_theirs = figures([record(i, score) for i, score in enumerate((1.0, None, 0.0, 0.0))])
    assert by_theirs["score"] == pytest.approx(1 / 3) and by_theirs["unscored"] == 1


def test_clusters_widen_the_interval():
    alone = figures(record(i, float(i % 8 < 4)) for i in range(240))
    shared = figures(record(i, float(i % 8 < 4), cluster=f"question {i // 4}") for i in range(240))
    assert (alone["clusters"], shared["clusters"]) == (240, 60) and alone["score"] == shared["score"]
    widths = [high - low for low, high in (alone["interval"], shared["interval"])]
    assert widths[1] == pytest.approx(2 * widths[0], rel=0.1)


def test_samples():
    right = {"a": [1, 1, 0, 0], "b": [0, 0, 0, 0], "c": [1, 1, 1, 0]}
    answers = {"a": ["4", "4", "5", "6"], "b": ["1", "2", "3", "4"], "c": ["x", "x", "x", "y"]}
    records = [
        record(id, float(score), sample=sample, answer=answers[id][sample])
        for id in right
        for sample, score in enumerate(right[id])
    ]
    for order in (records, records[::-1], records[::2] + records[1::2]):
        found = figures(order)
        assert (found["samples"], found["count"], found["responses"]) == (4, 3, 12)
        assert found["score"] == found["avg@4"]["score"] == pytest.approx((0.5 + 0 + 0.75) / 3)
        assert found["pass@1"]["score"] == pytest.approx((0.5 + 0 + 0.75) / 3)
        assert found["pass@2"]["score"] == pytest.approx((5 / 6 + 0 + 1) / 3)
        assert found["pass@4"]["score"] == pytest.approx(2 / 3)
        assert found["maj@4"]["score"] == pytest.approx(2 / 3) and found["maj@4"]["ties"] == 1
        assert found["pass@4"]["interval"] == list(wilson(2 / 3, 3))
    with_unreadable = figures([*records, record("d", unreadable=True)])
    assert with_unreadable["pass@4"]["score"] == with_unreadable["maj@4"]["score"] == 0.5
    assert with_unreadable["samples"] == 4


def test_samples_that_are_no_power_of_two():
    found = figures(record(i, float(sample == 0), sample=sample) for i in range(2) for sample in range(6))
    assert [name for name in found if "@" in name] == ["avg@6", "pass@1", "pass@2", "pass@4", "pass@6", "maj@6"]
    assert found["pass@4"]["score"] == pytest.approx(4 / 6) and found["maj@6"]["score"] == pytest.approx(1 / 6)


def test_both_modes():
    pixel = [record(i, float(i < 8)) for i in range(10)]
    text = [record(i, float(i in (0, 1, 9)), mode="text") for i in range(10)]
    found = figures(itertools.chain(*zip(pixel, text, strict=True)))
    assert found["mode"] == "both" and found["score"] == 0.8
    assert {mode: part["score"] for mode, part in found["modes"].items()} == {"pixel": 0.8, "text": 0.3}
    assert found["difference"]["difference"] == pytest.approx(0.5)
    assert (found["difference"]["gained"], found["difference"]["lost"]) == (6, 1)
    assert found["difference"]["p"] == pytest.approx(0.125)
    assert figures(text)["mode"] == "text" and figures(text)["score"] == 0.3


def test_figures_do_not_depend_on_the_order_of_the_records():
    """Responses end in whatever order slots and processes bring about; sums of floats do depend on it."""
    generator = np.random.default_rng(0)
    records = [
        record(
            i,
            score,
            sample=sample,
            scores={"a": score},
            answer=str(generator.integers(3)),
            categories={"task": f"{i % 3}"},
            cluster=None if i % 5 else f"image {i % 4}",
            seconds=float(generator.random()),
            operations=sample,
        )
        for i in range(60)
        for sample in range(3)
        for score in [float(generator.random())]
    ]
    found = figures(records)
    for _ in range(3):
        assert figures([records[i] for i in generator.permutation(len(records))]) == found
    tally, late = Tally(), Tally()
    for each in records:
        tally.add(each)
    for each in records[::-1]:
        late.add(each)
        late.ids  # looked at while records still come  # noqa: B018
    assert late.figures() == tally.figures() and late.ids == tally.ids == [str(i) for i in range(60)]


def test_several_benchmarks():
    found = benchmark_figures([record(0), ScoredRecord("tallyqa", "0", score=0.0)])
    assert {name: part["score"] for name, part in found.items()} == {"vstar": 1.0, "tallyqa": 0.0}


def test_a_response_that_is_there_twice():
    with pytest.raises(ValueError, match="sample 1 of vstar '7' is there 2 times"):
        figures([record(7), record(7, sample=1), record(8), record(7, sample=1)])


def test_many_records_take_little_room():
    """A hundredth of 20,000 items with 8 samples, each with a long response that is not kept."""
    generator = np.random.default_rng(0)

    def records():
        for item in range(200):
            for sample in range(8):
                answer, right = str(generator.integers(9)), float(generator.random() < 0.4)
                scores = {"a": right, "b": right}
                yield record(item, right, sample=sample, answer=answer, scores=scores, response="x" * 4_000, tokens=9)

    figures(records())
    tracemalloc.start()
    try:
        found = figures(records())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found["responses"] == 1_600 and math.isclose(found["score"], 0.4, abs_tol=0.05)
    assert peak < 10e6


def test_the_interval_is_of_items_not_of_responses():
    once = figures(record(i, float(i % 2)) for i in range(40))
    often = figures(record(i, float(i % 2), sample=sample) for i in range(40) for sample in range(8))
    assert often["interval"] == once["interval"] == [*map(float, bounds(score_interval([0.0, 1.0] * 20)))]


def bounds(interval):
    return interval.low, interval.high

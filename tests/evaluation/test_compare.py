"""Comparing evaluations: differences by hand, what is refused and what is warned of."""

import json

import numpy as np
import pytest

from pixel_reasoner_jax.evaluation.compare import compare, protocol_differences
from pixel_reasoner_jax.evaluation.records import ScoredRecord, ScoredRecordWriter, write_results
from pixel_reasoner_jax.evaluation.tally import benchmark_figures

PROTOCOL = {"prompt": "paper", "sampling": {"temperature": 0.0}, "budgets": {"image": [256, 8000], "crop": 5120}}


@pytest.fixture
def evaluated(tmp_path):
    """Writes an evaluation as `evaluate --out` does, of scores by item, and returns its folder."""

    def write(name, scores, protocol=PROTOCOL, benchmark="vstar", protocol_hash=None, **fields):
        directory = tmp_path / name
        records = [
            ScoredRecord(
                benchmark,
                str(id),
                sample,
                score=float(score),
                question=f"What is {id}?",
                reference="B",
                answer="B" if score else "A",
                response=f"{name} says {score} in sample {sample}",
                **{key: value(id) if callable(value) else value for key, value in fields.items()},
            )
            for id, each in scores.items()
            for sample, score in enumerate(each if isinstance(each, list) else [each])
        ]
        with ScoredRecordWriter(directory) as writer:
            for record in records:
                writer.write(record)
        entry = {"protocol": protocol, "protocol_hash": protocol_hash or str(hash(json.dumps(protocol)))}
        figures = benchmark_figures(records)
        write_results(directory, {"benchmarks": {name: {**part, **entry} for name, part in figures.items()}})
        return directory

    return write


def test_a_comparison_by_hand(evaluated):
    subset = {"categories": lambda id: {"subset": "attribute" if int(id) < 10 else "position"}}
    before = evaluated("before", {i: i < 10 for i in range(20)}, **subset)
    after = evaluated("after", {i: 2 <= i < 18 for i in range(20)}, **subset)
    found = compare([before, after], show=3)
    json.dumps(found.figures, allow_nan=False)
    assert found.warnings == [] and found.figures["baseline"] == "before"
    assert found.figures["results"] == {"before": str(before), "after": str(after)}
    entry = found.figures["benchmarks"]["vstar"]
    assert {name: part["score"] for name, part in entry["results"].items()} == {"before": 0.5, "after": 0.8}
    change = entry["differences"]["after"]
    assert change["difference"] == pytest.approx(0.3) and (change["gained"], change["lost"]) == (8, 2)
    assert change["p"] == pytest.approx(0.109375) and change["interval_method"] == "newcombe"
    assert change["interval"][0] < 0.05 < 0.3 < change["interval"][1]
    assert change["gained_items"] == [str(i) for i in range(10, 18)] and change["lost_items"] == ["0", "1"]
    parts = change["categories"]
    assert {name: part["difference"] for name, part in parts.items()} == {"attribute": -0.2, "position": 0.8}
    assert [(item.id, *(r.response for r in item.responses)) for item in found.flipped] == [
        ("10", "before says False in sample 0", "after says True in sample 0"),
        ("11", "before says False in sample 0", "after says True in sample 0"),
        ("0", "before says True in sample 0", "after says False in sample 0"),
    ]
    assert (found.flipped[0].question, found.flipped[0].reference) == ("What is 10?", "B")


@pytest.mark.parametrize(
    ("show", "gained", "lost"), [(0, 0, 0), (1, 1, 0), (4, 2, 2), (5, 3, 2), (9, 7, 2), (99, 8, 2)]
)
def test_how_many_flipped_items_are_shown(evaluated, show, gained, lost):
    before = evaluated("before", {i: i < 10 for i in range(20)})
    after = evaluated("after", {i: 2 <= i < 18 for i in range(20)})
    shown = [item.responses[1].score for item in compare([before, after], show).flipped]
    assert (shown.count(1.0), shown.count(0.0)) == (gained, lost)


def test_curiosity_is_better(evaluated):
    """As the quickstart's runs end: 256 queries with 4 samples, right by a guess in 0.45, by a look in 0.95."""
    generator = np.random.default_rng(0)
    plain = evaluated("rl_without_curiosity", dict(enumerate((generator.random((256, 4)) < 0.45).tolist())))
    curious = evaluated("rl_with_curiosity", dict(enumerate((generator.random((256, 4)) < 0.95).tolist())))
    change = compare([plain, curious], show=1).figures["benchmarks"]["vstar"]["differences"]["rl_with_curiosity"]
    assert 0.4 < change["interval"][0] < 0.5 < change["interval"][1] < 0.6 and change["p"] < 1e-6


def test_of_several_samples_one_is_shown_that_is_as_the_item(evaluated):
    before, after = evaluated("a", {"x": [0, 1, 0, 1, 0], "y": 1}), evaluated("b", {"x": [0, 1, 1, 0, 1], "y": 1})
    (item,) = compare([before, after]).flipped
    assert [r.response for r in item.responses] == ["a says 0 in sample 0", "b says 1 in sample 1"]
    assert [r.score for r in item.responses] == [0.4, 0.6]


def test_several_evaluations(evaluated):
    runs = [evaluated(name, {i: i < right for i in range(40)}) for name, right in (("a", 10), ("b", 20), ("c", 5))]
    differences = compare(runs).figures["benchmarks"]["vstar"]["differences"]
    assert {name: found["difference"] for name, found in differences.items()} == {"b": 0.25, "c": -0.125}


def test_one_alone(evaluated):
    with pytest.raises(ValueError, match="one evaluation alone cannot be compared"):
        compare([evaluated("a", {1: 1})])


def test_different_items_are_refused_by_name(evaluated, tmp_path):
    before, after = evaluated("a", {i: 1 for i in range(10)}), evaluated("b", {i: 1 for i in range(9, 12)})
    with pytest.raises(ValueError, match="different items of vstar") as refused:
        compare([before, after])
    assert f"2 are not in {before} (10, 11)" in str(refused.value)
    assert f"9 are not in {after} (0, 1, 2, 3, 4, …)" in str(refused.value)


def test_other_questions_under_the_same_ids_are_refused(evaluated):
    before, after = evaluated("a", {1: 1, 2: 1}), evaluated("b", {1: 1, 2: 1})
    path = after / "records.jsonl"
    path.write_text(path.read_text().replace("What is 2?", "What was 2?"))
    with pytest.raises(ValueError, match=r"1 have another question there than here \(2\)"):
        compare([before, after])


def test_nothing_in_common(evaluated):
    with pytest.raises(ValueError, match=r"no benchmark in common: .*a has vstar; .*b has tallyqa"):
        compare([evaluated("a", {1: 1}), evaluated("b", {1: 1}, benchmark="tallyqa")])


def test_a_benchmark_that_one_lacks_is_left_out(evaluated):
    before, after = evaluated("a", {1: 1}), evaluated("b", {1: 1})
    with ScoredRecordWriter(after) as writer:
        writer.write(ScoredRecord("mvbench", "1", score=1.0))
    found = compare([before, after])
    assert list(found.figures["benchmarks"]) == ["vstar"]
    assert found.warnings == ["not compared, since not all have it: mvbench of b"]


def test_other_protocols_are_warned_of_by_what_differs(evaluated):
    changed = {"prompt": "ours " * 40, "sampling": {"temperature": 1.0}, "budgets": {"image": [256, 8000]}}
    found = compare([evaluated("a", {1: 1}), evaluated("b", {1: 1}, changed)])
    (warning,) = found.warnings
    assert warning.startswith("the protocols of vstar in a and b differ in prompt ('paper' and 'ours ours ours")
    assert "sampling.temperature (0.0 and 1.0), budgets.crop (5120 and nothing)" in warning and len(warning) < 250
    many = {**PROTOCOL, **{f"setting_{i}": i for i in range(9)}}
    assert compare([evaluated("c", {1: 1}), evaluated("d", {1: 1}, many)]).warnings[0].endswith(" and 4 more")
    (warning,) = compare([evaluated("e", {1: 1}), evaluated("f", {1: 1}, protocol_hash="other")]).warnings
    assert "differ in their hashes alone" in warning


def test_protocol_differences():
    before, after = {"a": {"b": [1], "c": 2}, "d": 3}, {"a": {"b": [1, 2], "c": 2}, "e": {"f": 1}, "d": {"g": 3}}
    assert list(protocol_differences(before, after)) == [
        ("a.b", [1], [1, 2]),
        ("d", 3, {"g": 3}),
        ("e", None, {"f": 1}),
    ]


def test_modes(evaluated):
    pixel, text = (
        evaluated("pixel", {i: i < 8 for i in range(10)}),
        evaluated("text", {i: i < 3 for i in range(10)}, mode="text"),
    )
    found = compare([pixel, text])
    assert found.warnings == ["the modes of vstar differ: pixel in pixel and text in text"]
    assert found.figures["benchmarks"]["vstar"]["differences"]["text"]["difference"] == -0.5
    runs = []
    for name in ("a", "b"):
        runs.append(evaluated(name, {1: 1, 2: 0}))
        evaluated(name, {1: 0, 2: name == "b"}, mode="text")
    found = compare(runs)
    differences = {
        title: entry["differences"]["b"]["difference"] for title, entry in found.figures["benchmarks"].items()
    }
    assert differences == {"vstar": 0.0, "vstar (text)": 0.5}
    assert [(item.benchmark, item.id) for item in found.flipped] == [("vstar (text)", "2")]


def test_names_tell_folders_apart(evaluated):
    runs = [evaluated(name, {1: 1}) for name in ("one/eval", "two/eval")]
    assert list(compare(runs).figures["results"]) == ["one/eval", "two/eval"]
    assert list(compare([runs[0], runs[0]]).figures["results"]) == [
        f"{n}: {runs[0]}".replace(": /", ": /") for n in (1, 2)
    ]


def test_an_evaluation_that_is_not_finished(evaluated):
    before, after = evaluated("a", {1: 1}), evaluated("b", {1: 1})
    (after / "results.json").unlink()
    with pytest.raises(ValueError, match="b has no results.json: it is not finished"):
        compare([before, after])

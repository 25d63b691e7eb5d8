"""Tables of benchmarks' figures, as a reader sees them."""

from pixel_reasoner_jax.evaluation.records import ScoredRecord
from pixel_reasoner_jax.evaluation.tally import benchmark_figures
from pixel_reasoner_jax.report.score_tables import benchmark_table


def records(benchmark, count, right, **fields):
    for i in range(count):
        score = float(i < right)
        scores = {"letter": score, "text": float(i < right + 1)}
        yield ScoredRecord(benchmark, str(i), score=score, scores=scores, operations=i % 2, **fields)


def test_benchmarks():
    vstar = [*records("vstar", 12, 9, categories={"subset": "attribute"}), *records("vstar", 12, 6, mode="text")]
    samples = [record for sample in range(2) for record in records("tallyqa", 10, 5, sample=sample, answer="4")]
    figures = benchmark_figures([*vstar, *samples])
    figures["vstar"] |= {"scorer": "choice", "protocol": {"judge": None}}
    figures["tallyqa"] |= {"scorer": "judge", "protocol": {"judge": {"model": "gpt-9", "prompt": "1"}}}
    lines = benchmark_table(figures).splitlines()
    assert [" ".join(line.split()) for line in lines] == [
        "Score Items Scored by By other rules RaPR Operations Failed",
        "─" * len(lines[0]),
        "vstar, pixel 0.75 [0.47, 0.91] 12 choice 0.750 to 0.833 0.500 0.500 0.000",
        "attribute 0.75 [0.47, 0.91] 12",
        "vstar, text 0.50 [0.25, 0.75] 12 choice 0.500 to 0.583 0.500 0.500 0.000",
        "vstar, pixel less text +0.25 [-0.04, +0.49] 12",
        "tallyqa 0.50 [0.24, 0.76] 10 judge gpt-9 0.500 to 0.600 0.500 0.500 0.000",
        "pass@1 0.50 [0.24, 0.76]",
        "pass@2 0.50 [0.24, 0.76]",
        "maj@2 0.50 [0.24, 0.76]",
    ]


def test_names_are_data():
    found = benchmark_figures([ScoredRecord("x", "1", score=1.0, categories={"a": "\x1b[2J\n" + "long " * 40})])
    lines = benchmark_table(found).splitlines()
    assert len(lines) == 4 and "\x1b" not in lines[3] and len(lines[3]) < 130


def test_many_categories():
    found = benchmark_figures(ScoredRecord("x", str(i), score=1.0, categories={"a": f"name {i}"}) for i in range(100))
    assert len(benchmark_table(found).splitlines()) == 3 + 24

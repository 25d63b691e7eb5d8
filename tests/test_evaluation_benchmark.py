"""The benchmark of evaluations compares a policy's stream with an evaluation by the same policy."""

import json

import pytest

from benchmarks import evaluation


def test_what_is_printed(monkeypatch, capsys):
    pairs = [(evaluation.Speed(100, 50), evaluation.Speed(100 - loss, 40)) for loss in (10, 5, 0)]
    monkeypatch.setattr(evaluation, "measure", lambda *arguments: pairs)
    evaluation.main(["--quick"])
    wall, processor = map(json.loads, capsys.readouterr().out.splitlines())
    assert wall == {"clock": "wall", "stream": 100, "evaluation": 95, "ratio": 0.95, "ratios": [0.9, 1.0]}
    assert processor["ratio"] == 0.8


@pytest.mark.slow
def test_both_sides_sample_all_tokens(tmp_path):
    ((stream, evaluated),) = evaluation.measure(tmp_path, queries=3, tokens=4, repeats=1, tiny=True)
    assert min(stream.wall, stream.processor, evaluated.wall, evaluated.processor) > 0
    assert len((tmp_path / "out-1" / "records.jsonl").read_text().splitlines()) == 3

"""What `pixel-reasoner compare` prints and writes."""

import json

from pixel_reasoner_jax.commands import cli
from pixel_reasoner_jax.evaluation.records import ScoredRecord, ScoredRecordWriter, write_results
from tests.trajectories import EVIL


def evaluated(directory, right, temperature=0.0):
    with ScoredRecordWriter(directory) as writer:
        for i in range(20):
            writer.write(
                ScoredRecord(
                    "vstar",
                    str(i),
                    score=float(i in right),
                    question=f"Which {EVIL}?",
                    reference=["B", EVIL],
                    answer=EVIL if i % 2 else None,
                    response=f"Look: {EVIL}",
                    categories={"subset": EVIL},
                )
            )
    protocol = {"sampling": {"temperature": temperature}}
    write_results(directory, {"benchmarks": {"vstar": {"protocol": protocol, "protocol_hash": str(temperature)}}})
    return str(directory)


def test_the_command(tmp_path, capsys, outline):
    before, after = evaluated(tmp_path / "a", range(10)), evaluated(tmp_path / "b", range(2, 18), temperature=1.0)
    page = tmp_path / "page.html"
    assert cli.main(["compare", before, after, "--show", "2", "--html", str(page)]) == 0
    out, err = capsys.readouterr()
    assert "the protocols of vstar in a and b differ in sampling.temperature (0.0 and 1.0)" in err
    lines = out.splitlines()
    assert lines[0] == "vstar, 20 items; differences from a"
    assert [line.split()[:3] for line in lines[3:5]] == [["a", "0.50", "[0.30,"], ["b", "0.80", "[0.58,"]]
    assert "+0.30 [+0.01, +0.53]" in lines[4] and lines[4].split()[-3:] == ["8", "2", "0.11"]
    assert "\x1b" not in out and "\u202e" not in out
    figures = json.loads(lines[-1])
    assert (
        figures["benchmarks"]["vstar"]["differences"]["b"]["lost_items"] == ["0", "1"] and len(figures["warnings"]) == 1
    )
    assert f"page: {page}" in lines
    assert "2 of 10 items that flipped" in page.read_text()
    shown = outline(page.read_text())
    assert shown.tags.count("article") == 2 and shown.tags.count("table") == 1


def test_mistakes_are_one_line(tmp_path, capsys):
    before = evaluated(tmp_path / "a", range(10))
    for argv, message in (
        ([before], "name two folders or more"),
        ([before, str(tmp_path / "b")], "b has no results.json"),
        ([before, before, "--show", "-1"], "--show must be at least 0, got -1"),
        ([before, before, "--html", str(tmp_path)], "is a directory"),
    ):
        assert cli.main(["compare", *argv]) == 2
        out, err = capsys.readouterr()
        assert message in err and err.count("\n") == 1 and not out

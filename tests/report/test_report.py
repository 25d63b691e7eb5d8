"""The report: whole, self-contained, of bounded size."""

import numpy as np
import pytest
from PIL import Image, ImageFilter

from pixel_reasoner_jax import files
from pixel_reasoner_jax.report.report import StageResponse, write_report
from tests.trajectories import EVIL

FIGURES = {
    "rl_with_curiosity": {"accuracy": 0.935, "rapr": 0.991, "operations": 1.02, "failure_rate": 0.004},
    "prior": {"accuracy": 0.39, "rapr": 0.0, "operations": 0.0, "failure_rate": None},
    "warm_start": {"accuracy": 0.24, "rapr": 0.4, "operations": 0.5, "failure_rate": float("nan")},
}


def rows(count):
    return [{"step": i, "rapr": i / count, "accuracy": 0.5, "loss": 1.0} for i in range(count)] + [{"step": count}]


def write(path, **changes):
    options = dict(figures=FIGURES, runs={"rl_with_curiosity": rows(30)}, responses=[], config={"seed": 0})
    return write_report(path, **{**options, **changes})


def test_sections(tmp_path, outline):
    page = write(tmp_path / "report.html", config={"optimizer": {"learning_rate": 3e-4}}, rate_floor=0.5).read_text()
    outline(page)
    table = page[page.index("<tbody>") : page.index("</tbody>")]
    assert table.index("Prior baseline") < table.index("Warm start") < table.index("RL with curiosity")
    assert "0.935" in table and table.count("<td>–</td>") == 2
    assert page.count('<svg class="chart"') == 2
    assert "curiosity pays below 0.5" in page and "prior baseline 0.39" in page
    assert "optimizer.learning_rate" in page and "0.0003" in page


def test_twenty_large_photographs_stay_below_five_megabytes(tmp_path, make_trajectory, outline):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (600, 800, 3), np.uint8)
    photo = Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(1)).resize((1600, 1200))
    responses = [StageResponse("warm_start", make_trajectory(photo), float(i % 2)) for i in range(20)]
    path = write(tmp_path / "report.html", responses=responses)
    assert path.stat().st_size < 5_000_000
    page = path.read_text()
    assert outline(page).tags.count("article") == 20
    assert page.count("✓ right") == 10


def test_untrusted_settings(tmp_path, outline):
    page = write(tmp_path / "r.html", figures={EVIL: {}}, runs={EVIL: rows(3)}, config={EVIL: [EVIL]}, title=EVIL)
    outline(page.read_text())


def test_without_runs_and_examples(tmp_path, outline):
    page = write(tmp_path / "deep" / "report.html", runs={}, config={}).read_text()
    outline(page)
    assert "Learning curves" not in page and "Configuration" not in page


def test_a_report_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = write(tmp_path / "report.html")
    before = path.read_text()
    monkeypatch.setattr(files.os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write(path, title="another")
    assert path.read_text() == before
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]

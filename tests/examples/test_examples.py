"""The examples: their parts and commands, and, slowly, each as its document says to run it."""

from __future__ import annotations

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from pixel_reasoner_jax.evaluation.records import read_records
from pixel_reasoner_jax.evaluation.trajectories import read_trajectories
from pixel_reasoner_jax.operations import Call, MediaState, OperationError, allow_own, make_registry
from pixel_reasoner_jax.operations.known import _allowed
from tests.conftest import REPOSITORY
from tests.documents import blocks
from tests.test_documented_commands import PROGRAM, check

EXAMPLES = REPOSITORY / "examples"
SCRIPTS = sorted(EXAMPLES.glob("*/run.sh"))
OWN = "enhance:EnhanceRegion"


def environment() -> dict[str, str]:
    """With the package and the programs of the tests, and XLA as it is for everybody."""
    path = f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}"
    found = {**os.environ, "PATH": path, "PYTHONPATH": str(REPOSITORY)}
    found.pop("XLA_FLAGS", None)  # those of tests, which compute slowly
    return found


def run(*command) -> str:
    """What a command prints."""
    done = subprocess.run([*map(str, command)], env=environment(), capture_output=True, text=True, timeout=3000)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def script_commands(script: pathlib.Path) -> list[str]:
    """What follows `pixel-reasoner` in a script, with its own folder in place of `$here`."""
    text = re.sub(r" *\\\n\s*", " ", script.read_text(encoding="utf-8")).replace("$here", str(script.parent))
    return [words for line in text.splitlines() for words in PROGRAM.findall(line.strip())]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.parent.name)
def test_the_commands_of_a_script_are_taken(script):
    found = script_commands(script)
    assert len(found) >= 3
    for text in found:
        check(text)


def test_shellcheck():
    found = shutil.which("shellcheck", path=pathlib.Path(sys.executable).parent) or shutil.which("shellcheck")
    if found is None:
        pytest.skip("shellcheck is not installed")
    result = subprocess.run([found, *SCRIPTS], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


def test_the_document_names_what_is_there():
    text = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    shown = "\n".join(body for language, body in blocks(EXAMPLES / "README.md"))
    for folder in (path for path in EXAMPLES.iterdir() if path.is_dir() and path.name != "__pycache__"):
        assert f"examples/{folder.name}/" in shown, folder
    for name in re.findall(r"`(\w+\.(?:py|sh))`", text):
        assert [*EXAMPLES.rglob(name)], name


def test_photos_are_equal_each_time_and_say_where_the_balloon_is(tmp_path):
    for folder in ("a", "b"):
        run(sys.executable, EXAMPLES / "photos.py", tmp_path / folder, "--train", 6, "--held-out", 2)
    rows = [json.loads(line) for line in (tmp_path / "a" / "train.jsonl").read_text().splitlines()]
    assert len(rows) == 6 and len({tuple(map(tuple, [row["box"], *row["candidates"]])) for row in rows}) == 6
    colors = {"red": (205, 30, 40), "yellow": (240, 205, 30), "blue": (40, 60, 200), "white": (250, 250, 250)}
    for row in rows:
        data = (tmp_path / "a" / row["image"]).read_bytes()
        assert data == (tmp_path / "b" / row["image"]).read_bytes() and len(data) < 2**17
        left, top, right, bottom = row["box"]
        pixels = np.asarray(Image.open(tmp_path / "a" / row["image"]), np.float32)
        middle = pixels[(top + bottom) // 2 - 12 : (top + bottom) // 2, (left + right) // 2 - 6 :][:, :12].mean((0, 1))
        nearest = min(colors, key=lambda name: np.abs(middle - colors[name]).sum())
        assert nearest == row["answer"]


@pytest.fixture
def registry(monkeypatch):
    """With the operation of the example, as a command finds it."""
    monkeypatch.syspath_prepend(EXAMPLES / "new_operation")
    allow_own([OWN])
    yield make_registry(("crop_image_normalized", OWN))
    _allowed.discard(OWN)
    sys.modules.pop("enhance", None)


def night() -> Image.Image:
    """A dark image of 200x100 pixels, whose right half is a little brighter."""
    pixels = np.full((100, 200, 3), 10, np.uint8)
    pixels[:, 100:] = 30
    return Image.fromarray(pixels)


def test_the_operation_is_one_short_file():
    assert len((EXAMPLES / "new_operation" / "enhance.py").read_text(encoding="utf-8").splitlines()) <= 40


def test_a_part_is_cut_out_and_its_brightness_is_spread(registry):
    state = MediaState.from_query([night()])
    arguments = {"bbox_2d": [0.25, 0.1, 0.75, 0.9], "target_image": 1}
    call = registry.parse(registry.write(Call("enhance_region", arguments)))
    result = registry.execute(call, state)
    [part] = result.images
    assert result.boxes == ((50, 10, 150, 90),) and result.sources == (0,) and part.size == (100, 80)
    assert part.getpixel((0, 0)) == (0, 0, 0) and part.getpixel((99, 79)) == (255, 255, 255)
    assert "(Image Size: 112x84):" in registry.observation_text(call, result, [(112, 84)])
    # A part of that part, as image 2.
    registry.execute(Call("enhance_region", {"bbox_2d": [0, 0, 0.5, 1], "target_image": 2}), state)
    assert [image.size for image in state.images] == [(200, 100), (100, 80), (50, 80)]
    assert "enhance_region" in registry.tools_section(state)


@pytest.mark.parametrize(
    "change, said",
    [
        ({"bbox_2d": [0.6, 0.2, 0.4, 0.8]}, "empty or inverted"),
        ({"bbox_2d": [0, 25, 200, 75]}, "fractions of the image, from 0 to 1"),
        ({"bbox_2d": [-0.1, 0, 1, 1]}, "fractions of the image, from 0 to 1"),
        ({"bbox_2d": [0.5, 0.5, 0.51, 0.51]}, "too small"),
        ({"bbox_2d": [0, 0, float("nan"), 1]}, "finite"),
        ({"bbox_2d": [0, 0, 10**400, 1]}, "finite"),
        ({"bbox_2d": [0, 0, True, 1]}, "must be numbers"),
        ({"bbox_2d": [0, 0, 1]}, "four numbers"),
        ({"bbox_2d": {"x": 1}}, "must be an array"),
        ({"target_image": 2}, "out of range"),
        ({"target_image": None}, "whole numbers"),
        ({"more": 1}, "unknown arguments"),
    ],
)
def test_what_the_model_is_told_of_wrong_arguments(registry, change, said):
    state = MediaState.from_query([night()])
    with pytest.raises(OperationError, match=said):
        registry.execute(Call("enhance_region", {"bbox_2d": [0, 0, 1, 1], "target_image": 1, **change}), state)
    assert len(state.images) == 1


def figures(folder: pathlib.Path) -> dict:
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))["benchmarks"]["data"]


@pytest.fixture(scope="module")
def photos_to_model(tmp_path_factory) -> pathlib.Path:
    """What the first example leaves, killed in the middle of its first phase and called again."""
    out = tmp_path_factory.mktemp("examples") / "photos_to_model"
    command, lines = [EXAMPLES / "photos_to_model" / "run.sh", out], out / "sft" / "metrics.jsonl"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    begun = subprocess.Popen(command, env=environment(), start_new_session=True, **quiet)
    while begun.poll() is None and not (lines.exists() and lines.read_bytes().count(b"\n") > 60):
        time.sleep(0.5)
    assert begun.poll() is None
    os.killpg(begun.pid, signal.SIGKILL)
    begun.wait()
    run(*command)
    return out


@pytest.mark.slow
def test_photos_become_an_evaluated_model(photos_to_model):
    steps = [json.loads(line)["step"] for line in (photos_to_model / "sft" / "metrics.jsonl").read_text().splitlines()]
    assert steps == [*range(1, len(steps) + 1)]
    found = {stage: figures(photos_to_model / "evaluation" / stage) for stage in ("sft", "rl")}
    for stage, one in found.items():
        low, high = one["interval"]
        assert one["count"] == 64 and low <= one["score"] <= high, stage
        assert low > 0.25 and one["rapr"] > 0.5, (stage, one)  # a guess is right in a quarter of the cases
        assert len([*read_records(photos_to_model / "evaluation" / stage)]) == 128
    page = (photos_to_model / "view" / "index.html").read_text(encoding="utf-8")
    assert "<script" in page and (photos_to_model / "trajectories" / "contact_sheet.html").exists()


@pytest.mark.slow
def test_what_is_done_is_not_done_again(photos_to_model):
    before = {path: path.stat().st_mtime_ns for path in photos_to_model.glob("*/checkpoints/*")}
    results = (photos_to_model / "evaluation" / "rl" / "results.json").read_bytes()
    run(EXAMPLES / "photos_to_model" / "run.sh", photos_to_model)
    assert before and before == {path: path.stat().st_mtime_ns for path in photos_to_model.glob("*/checkpoints/*")}
    assert json.loads(results)["benchmarks"]["data"] == figures(photos_to_model / "evaluation" / "rl")


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["rl", "evaluation/rl", "answers"])
def test_a_response_is_read(photos_to_model, folder, tmp_path):
    model = photos_to_model / "rl" / "model"
    if folder == "answers":
        asked = ["--queries", photos_to_model / "photos" / "held_out.jsonl", "--out", photos_to_model / folder]
        run("pixel-reasoner", "generate", "--model", model, *asked)
    read = EXAMPLES / "reading_a_trajectory" / "read.py"
    said = run(sys.executable, read, photos_to_model / folder, "--model", model, "--page", tmp_path / "page.html")
    assert re.search(r"^operation 1 shows \(\d+, \d+, \d+, \d+\) of image 1", said, re.MULTILINE)
    stretches = re.findall(r"^(\d+)-(\d+) +(\w+) +(yes|no)$", said, re.MULTILINE)
    assert [whose for _, _, whose, _ in stretches[:3]] == ["prompt", "sampled", "observation"]
    assert all((whose == "sampled") == (trained == "yes") for _, _, whose, trained in stretches)
    assert all(
        int(last) + 1 == int(first) for (_, last, *_), (first, *_) in zip(stretches, stretches[1:], strict=False)
    )
    values = [float(value) for value in re.findall(r"^    log-probability +(\S+)", said, re.MULTILINE)]
    count, total = re.search(r"^(\d+) of \d+ tokens are .* come to (-?[\d.]+\d)", said, re.MULTILINE).groups()
    assert len(values) == int(count) and sum(values) == pytest.approx(float(total), abs=1e-2)
    if folder == "rl":
        reward, terms = re.search(r"^reward (\S+) = (.*)$", said, re.MULTILINE).groups()
        assert sum(map(float, re.findall(r"[+-][\d.]+", terms))) == pytest.approx(float(reward), abs=1e-3)
        assert "advantage" in said and "the trainer's differ by" in said
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert page.count("<img") >= 2 and "log-probabilities" in page


@pytest.mark.slow
def test_a_new_operation_is_tried_taught_and_called(tmp_path):
    said = run(EXAMPLES / "new_operation" / "run.sh", tmp_path / "out")
    assert "bbox_2d must be fractions of the image, from 0 to 1" in said
    records = {record.key: record for record in read_records(tmp_path / "out" / "evaluation")}
    trajectories = read_trajectories(tmp_path / "out" / "evaluation", records).values()
    called = [call for one in trajectories for call in one.operations if call.succeeded]
    assert len(records) == len(trajectories) == 32 and len(called) >= 24
    assert {call.name for call in called} == {"enhance_region"}
    assert figures(tmp_path / "out" / "evaluation")["rapr"] >= 0.75
    assert "enhance_region" in (tmp_path / "out" / "answer.html").read_text(encoding="utf-8")

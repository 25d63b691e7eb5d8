"""Fixtures: folders as the commands write them, small and with hostile texts, and one browser for all tests."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterator

import pytest
from PIL import Image

from data_pipeline.draft import Draft
from data_pipeline.records import RecordWriter
from pixel_reasoner_jax.evaluation.records import ScoredRecord, ScoredRecordWriter
from pixel_reasoner_jax.evaluation.trajectories import TrajectoryWriter
from pixel_reasoner_jax.trajectory import OperationRecord
from pixel_reasoner_jax.viewer.build import build
from pixel_reasoner_jax.viewer.sources import find_sources
from tests.evaluation.scripted import picture, trajectory
from tests.trajectories import EVIL, message, text
from tests.viewer.browser import CHROMIUM, DRIVER, MISSING, Browser, browser

HOSTILE_ID = "../../etc/passwd\x00\u202e<b>"
QUERIES = 120


def write_evaluation(directory: pathlib.Path, right: set[int], queries: int = QUERIES) -> pathlib.Path:
    """An evaluation of which the responses with these numbers are right: item 1 fails a call, item 2 never looks, item
    3 is hostile."""
    images = [picture(shade, (80 + shade, 60)) for shade in (0, 40, 80)]
    with ScoredRecordWriter(directory) as records, TrajectoryWriter(directory) as trajectories:
        for number in range(queries):
            hostile = number == 3
            query = {"id": HOSTILE_ID if hostile else f"q{number}", "question": f"What is item {number}?"}
            if number != 2:
                query["images"] = [images[number % 3]]
            if hostile:
                query["question"] = f"{EVIL} \ud800 \u202e {'long ' * 20_000}"
            given = trajectory(query, 0, f"\\boxed{{{EVIL if hostile else number}}}")
            if number == 1:
                given.operations = [OperationRecord(0, EVIL, {"__proto__": {"x": float("inf")}}, error=EVIL)]
            kind = EVIL if hostile else ("even", "odd")[number % 2]
            record = ScoredRecord.of(given, "vstar", float(number in right), categories={"kind": kind})
            records.write(record)
            trajectories.write(record.key, given, query.get("images", ()))
    return directory


def sample(episode: int, number: int) -> Draft:
    """A stored sample of a run."""
    image = Image.new("RGB", (100, 80), (10 * number, 90, 20))
    return Draft(
        query_id=f"r{number}",
        question="Which digit?",
        reference="7",
        kind="rollout",
        messages=[
            message("user", {"type": "image", "image": image}, text("Which digit?")),
            message("assistant", text("It is \\boxed{7}.")),
        ],
        attributes={
            "policy_version": episode - 1,
            "sample": 0,
            "ended": "answer",
            "reward": 0.5,
            "reward_terms": {"correct": 1.0, "bonus": 0.05},
            "advantage": -0.25,
            "pixel_box": [10, 10, 30, 30],
            "tokens": {
                "ids": [5, 6, 7, 8],
                "source": [[0, 2], [1, 2]],
                "temperatures": [1.0, 1.0],
                "logprobs": [-0.5, -1.5],
                "trainer_logprobs": [-0.25, -1.5],
            },
        },
    )


def write_metrics(workdir: pathlib.Path, steps: range) -> None:
    with (workdir / "metrics.jsonl").open("a") as file:
        for step in steps:
            line = {
                "step": step,
                "constructor": 1,
                "__proto__": 2,
                "reward": 0.1 * step,
                "accuracy": 0.5,
                "rapr": 1 / step,
                "loss": None,
            }
            file.write(json.dumps({**line, **({"alarm_rapr": 1.0} if step > 3 else {})}) + "\n")


def write_run(workdir: pathlib.Path, episodes: int = 2) -> pathlib.Path:
    """A training run with samples."""
    workdir.mkdir(parents=True)
    (workdir / "config.json").write_text('{"curiosity": {"rate_floor": 0.3}}')
    write_metrics(workdir, range(1, 6))
    for episode in range(1, episodes + 1):
        with RecordWriter(workdir / "samples" / f"{episode:05d}", "trajectory") as writer:
            for number in range(2):
                writer.write(sample(episode, number))
    return workdir


def read_script(path: pathlib.Path):
    """The value that a script of a view hands over."""
    found = path.read_text(encoding="ascii")
    return json.loads(json.loads(found[found.index("JSON.parse(") + len("JSON.parse(") : found.rindex("))")]))


def details(directory: pathlib.Path, row: dict) -> dict:
    return read_script(directory / "data" / f"{row['at'][0]:05d}.js")[row["at"][1]]


def view_of(directory: pathlib.Path, *sources: pathlib.Path, **options):
    """Builds a view; returns what was built, and its index."""
    built = build(find_sources([str(source) for source in sources]), directory, **options)
    return built, read_script(directory / "data" / "index.js")


@pytest.fixture(scope="module")
def evaluations(tmp_path_factory) -> list[pathlib.Path]:
    """Two of them, in which items 0 and 5 flip."""
    folder = tmp_path_factory.mktemp("evaluations")
    both = set(range(10, 60))
    return [write_evaluation(folder / "a", both | {0}), write_evaluation(folder / "b", both | {5})]


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    if not (CHROMIUM and DRIVER):
        pytest.skip(MISSING)
    with browser() as opened:
        yield opened

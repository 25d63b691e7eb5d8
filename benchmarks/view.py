"""How soon a view of many trajectories opens in Chromium, and how it scrolls: python -m benchmarks.view [--json]

An evaluation of made responses, with images, crops and log-probabilities, is written and viewed. Opening is timed from
the navigation until the list of all trajectories and the first one are drawn, in a fresh profile; of the frames of a
scroll through the whole list the slowest ones are told. It needs Debian's chromium and chromium-driver.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import statistics
import tempfile
import time

import numpy as np
from PIL import Image

from pixel_reasoner_jax.evaluation.records import ScoredRecord, ScoredRecordWriter
from pixel_reasoner_jax.evaluation.trajectories import TrajectoryWriter
from pixel_reasoner_jax.viewer.build import build
from pixel_reasoner_jax.viewer.sources import find_sources
from tests.evaluation.scripted import trajectory
from tests.viewer.browser import CHROMIUM, DRIVER, MISSING, browser

AIM = 2.0  # seconds until it is open
IMAGES = 200
FRAME = 1 / 60  # seconds

OPEN = """const done = arguments[arguments.length - 1];
document.getElementById("tab-list").click();
const look = () => document.querySelector("#detail article") && document.querySelector(".item")
  ? requestAnimationFrame(() => done(performance.now())) : setTimeout(look, 5);
look();"""

SCROLL = """const done = arguments[arguments.length - 1];
const scroll = document.getElementById("scroll"), times = [], frames = 180;
const most = scroll.scrollHeight - scroll.clientHeight;
let blank = 0, last = performance.now(), count = 0;
const step = (now) => {
  times.push(now - last);
  last = now;
  const seen = document.elementFromPoint(100, scroll.getBoundingClientRect().top + 200);
  if (!seen || !seen.closest(".item")) blank++;
  if (++count > frames) return done({ times: times.slice(1), blank });
  scroll.scrollTop = (most * count) / frames;
  requestAnimationFrame(step);
};
requestAnimationFrame(step);"""


def write(directory: pathlib.Path, count: int) -> None:
    """An evaluation of so many responses."""
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 255, (300, 400, 3), np.uint8)) for _ in range(IMAGES)]
    with ScoredRecordWriter(directory) as records, TrajectoryWriter(directory) as trajectories:
        for number in range(count):
            image = images[number % IMAGES]
            question = f"Which of the small signs near the left edge of picture {number} can be read from afar?"
            text = f"{'The sign beside the door is the smaller one. ' * 12}\\boxed{{{number % 7}}}"
            given = trajectory({"id": f"item-{number:05d}", "question": question, "images": [image]}, 0, text)
            record = ScoredRecord.of(given, "made", float(number % 3 > 0), categories={"kind": f"kind {number % 5}"})
            records.write(record)
            trajectories.write(record.key, given, [image])


def measure(page: pathlib.Path) -> dict[str, float]:
    """Seconds until it is open, and how it scrolls, in a new browser."""
    with browser() as opened:
        opened.open(f"file://{page}")
        seconds = opened.run_async(OPEN) / 1e3
        found = opened.run_async(SCROLL)
        said = opened.log()
    assert not said, said
    times = sorted(time / 1e3 for time in found["times"])
    late = sum(time > 2 * FRAME for time in times)
    middle = statistics.median(times)
    return {"open": seconds, "median": middle, "slowest": times[-1], "late": late, "blank": found["blank"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=5_000, help="trajectories (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=3, help="browsers (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="a last line for programs")
    args = parser.parse_args()
    if not (CHROMIUM and DRIVER):
        parser.error(MISSING)
    with tempfile.TemporaryDirectory() as folder:
        made, out = pathlib.Path(folder) / "made", pathlib.Path(folder) / "view"
        write(made, args.count)
        began = time.perf_counter()
        build(find_sources([str(made)]), out)
        built = time.perf_counter() - began
        size = sum(path.stat().st_size for path in out.rglob("*.js"))
        runs = [measure(out / "index.html") for _ in range(args.runs)]
    figures = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
    print(f"{args.count:,} trajectories, {size / 1e6:.1f} MB of data, built in {built:.1f} s; median of {args.runs}")
    print(f"{'open':24}{figures['open']:8.3f} s   aim: {AIM} at most")
    print(f"{'frame while scrolling':24}{1e3 * figures['median']:8.1f} ms  slowest {1e3 * figures['slowest']:.1f} ms")
    print(f"{'late frames of 180':24}{figures['late']:8.0f}     blank ones {figures['blank']:.0f}")
    if args.json:
        print(json.dumps({"count": args.count, "build": built, "aim": AIM, **figures}))


if __name__ == "__main__":
    main()

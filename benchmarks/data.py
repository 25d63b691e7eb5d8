"""How fast trajectories are read: `python -m benchmarks.data [--quick] [--json]`.

Trajectories with photographs' sizes (1,280 x 960 JPEG, up to two crops) under the budgets of training go to disk; ours
and transformers' processor in a torch DataLoader read them, each with one and two worker processes. Both hand the main
process the tokens, the mask and the float32 patches of every trajectory, shuffled. Starting the workers is not timed.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import pathlib
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from PIL import Image

from benchmarks import packing
from data_pipeline import lessons
from data_pipeline.batch_loader import LoaderSettings
from data_pipeline.draft import Draft
from data_pipeline.exchange.exporting import export_table
from data_pipeline.pipeline import RecordOrder, render_trajectory, trajectory_batches
from data_pipeline.records import RecordSource, write_records
from pixel_reasoner_jax.operations import default_registry
from pixel_reasoner_jax.processing import Budgets, Processor, load_image

BATCH = 4
WORKERS = (1, 2)
SIZE, CROP = (1280, 960), (560, 420)
WORDS = "the small sign beside the door shows a number that is read only from close by and then compared".split()


def make_processor(folder: pathlib.Path) -> Processor:
    """The quickstart's tokenizer with the budgets of training."""
    lessons.save_world_processor(folder, default_registry())
    vision = {"patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2, "window_size": 112}
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen2_5_vl", "vision_config": vision}))
    return Processor.from_pretrained(folder, Budgets())


def trajectories(count: int, size: tuple[int, int] = SIZE, crop: tuple[int, int] = CROP) -> Iterator[Draft]:
    """Trajectories with an image of their own and none, one or two crops, all by turns."""
    for number in range(count):
        random = np.random.default_rng(number)
        content = [_image(random, size), _text(random, 60)]
        messages = [{"role": "system", "content": [_text(random, 150)]}, {"role": "user", "content": content}]
        for _ in range(number % 3):
            messages.append({"role": "assistant", "content": [_text(random, 80)]})
            messages.append({"role": "user", "content": [_text(random, 10), {**_image(random, crop), "kind": "crop"}]})
        messages.append({"role": "assistant", "content": [_text(random, 100)]})
        yield Draft(f"t{number}", "what is it?", "7", "benchmark", messages)


def ours(data: pathlib.Path, processor: Processor, workers: int, batches: int) -> float:
    """Trajectories a second."""
    settings = LoaderSettings(workers=workers, threads=1, ahead=2 * BATCH * max(workers, 1))
    with trajectory_batches(data, processor, BATCH, order=RecordOrder(0), settings=settings, cache_bytes=0) as stream:

        def batch() -> None:
            for trajectory in next(stream)[0]:
                for media in trajectory.media:
                    media.patches  # noqa: B018  what the peer hands over; training has the device normalize

        return _rate(batch, batches, workers)


def theirs(table: pathlib.Path, processor: Processor, workers: int, batches: int) -> float:
    """Trajectories a second of transformers and torch."""
    from benchmarks import data_peer

    iterator = data_peer.batches(data_peer.Table(table, processor), BATCH, workers)
    return _rate(lambda: next(iterator), batches, workers)


def floor(data: pathlib.Path, processor: Processor, count: int) -> dict[str, float]:
    """Seconds a trajectory in one process: all of it, and what of that PIL takes to decode and to resize.

    Returns:
      `seconds`, `decode`, `resize`, and `share`: that of decoding and resizing.
    """
    source = RecordSource(data, "trajectory")
    seconds, decode, resize = [], [], []
    for index in range(count):
        began = time.perf_counter()
        for media in render_trajectory(source[index], processor).media:
            media.patches  # noqa: B018
        seconds.append(time.perf_counter() - began)
        items = [item for m in source[index].messages for item in m["content"] if item["type"] == "image"]
        began = time.perf_counter()
        images = [load_image(item["image"]) for item in items]
        decoded = time.perf_counter()
        for item, image in zip(items, images, strict=True):
            image.resize(processor.resized(image.size, item.get("kind") or "image"), Image.Resampling.BICUBIC)
        decode.append(decoded - began)
        resize.append(time.perf_counter() - decoded)
    result = {"seconds": np.median(seconds), "decode": np.median(decode), "resize": np.median(resize)}
    result = {name: float(value) for name, value in result.items()}
    return result | {"share": (result["decode"] + result["resize"]) / result["seconds"]}


def memory(folder: pathlib.Path, processor: Processor, records: int) -> dict[str, float]:
    """Bytes that reading takes, workers included, over a data set of so many small trajectories.

    Returns:
      `tenth` and `end`: the most up to a tenth of the records, and up to all of them; `growth`: their ratio.
    """
    write_records(folder / "many", "trajectory", trajectories(records, (56, 56), (56, 56)), shard_size=8192)
    peaks, peak = [], 0
    batches = records // BATCH
    settings = LoaderSettings(workers=1, threads=1, ahead=64)
    with trajectory_batches(folder / "many", processor, BATCH, settings=settings, cache_bytes=2**20) as stream:
        for number in range(batches):
            next(stream)
            if number % 50 == 49:
                peak = max(peak, _resident())
                peaks.append(peak)
    return {"tenth": peaks[len(peaks) // 10], "end": peaks[-1], "growth": peaks[-1] / peaks[len(peaks) // 10]}


def measure(quick: bool = False, report: Callable[[str], None] = lambda line: None) -> dict[str, Any]:
    """All figures; see `main`."""
    count, batches, records = (24, 12, 4_000) if quick else (96, 60, 100_000)
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch)
        processor = make_processor(folder / "processor")
        write_records(folder / "data", "trajectory", trajectories(count))
        export_table(folder / "data", folder / "table.jsonl")
        report("workers   ours  transformers + DataLoader   ratio   (trajectories/s)")
        for workers in WORKERS:
            own = ours(folder / "data", processor, workers, batches)
            peer = theirs(folder / "table.jsonl", processor, workers, batches)
            results[f"workers_{workers}"] = {"ours": own, "peer": peer, "ratio": own / peer}
            report(f"{workers:7}  {own:5.1f}  {peer:25.1f}  {own / peer:6.2f}")
        one = results["floor"] = floor(folder / "data", processor, count // 2)
        report(
            f"\none process: {one['seconds'] * 1e3:.1f} ms a trajectory, of which decoding {one['decode'] * 1e3:.1f}"
            f" and resizing {one['resize'] * 1e3:.1f}: {one['share']:.0%}"
        )
        real = results["packing"] = packing.measure("sft", rows=1)["real"]
        report(f"packing: {real:.1%} of the tokens of packed rows are real")
        held = results["memory"] = memory(folder, processor, records) | {"records": records}
        report(
            f"memory: {held['end'] / 2**20:.0f} MiB after {records:,} records, {held['tenth'] / 2**20:.0f} MiB after a"
            f" tenth of them ({held['growth']:.3f}x)"
        )
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a minute or two, less exact")
    parser.add_argument("--json", action="store_true", help="one last line with all figures")
    args = parser.parse_args()
    results = measure(args.quick, print)
    if args.json:
        print(json.dumps(results))


def _rate(batch: Callable[[], object], batches: int, workers: int) -> float:
    for _ in range(4 * workers):  # started, and what was read ahead meanwhile is used up
        batch()
    began = time.perf_counter()
    for _ in range(batches):
        batch()
    return BATCH * batches / (time.perf_counter() - began)


def _image(random: np.random.Generator, size: tuple[int, int]) -> dict[str, Any]:
    """A JPEG as large as a photograph's: smooth, with some noise."""
    width, height = size
    coarse = Image.fromarray(random.integers(0, 256, (max(height // 40, 2), max(width // 40, 2), 3), np.uint8))
    smooth = np.asarray(coarse.resize(size, Image.Resampling.BICUBIC), np.int16)
    noisy = smooth + random.integers(-8, 9, smooth.shape, np.int16)
    buffer = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=85)
    return {"type": "image", "image": buffer.getvalue()}


def _text(random: np.random.Generator, words: int) -> dict[str, Any]:
    return {"type": "text", "text": " ".join(random.choice(WORDS, words))}


def _resident() -> int:
    """Bytes in memory of this process and of those it started."""
    processes = [os.getpid()]
    for task in pathlib.Path("/proc/self/task").iterdir():
        processes += map(int, (task / "children").read_text().split())
    pages = 0
    for process in processes:
        try:
            pages += int(pathlib.Path(f"/proc/{process}/statm").read_text().split()[1])
        except FileNotFoundError:  # it has just ended
            continue
    return pages * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main()

"""Updates against transformers on PyTorch, side by side: `python -m benchmarks.train_step [--quick] [--json]`.

The same random model, the same trajectories with an image and a crop, the same AdamW with clipping; see `train_work`
and `train_peer`. Loss and gradient norm of both sides must agree, before and after a step, or nothing is reported.
Every side has a process of its own, as in use. On a CPU: float32, the rollouts' model with the released vocabulary. On
a GPU, if JAX has one: the 3B preset in bfloat16.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import gc
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

import jax
import numpy as np

from benchmarks import floors, packing, train_work
from benchmarks.load_memory import GIB, peak
from benchmarks.train_own import Own, experiment, model_flops
from benchmarks.train_work import PHASES, Work
from benchmarks.workload import MODEL, TINY
from pixel_reasoner_jax.compilation import enable_cache
from pixel_reasoner_jax.models import Config
from pixel_reasoner_jax.plan.chips import topology
from pixel_reasoner_jax.plan.measure import measure
from pixel_reasoner_jax.plan.programs import Programs

SIDES = ("ours", "torch", "torch.compile")
DEVICES = 8


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is compared on a kind of device.

    Attributes:
      model: its sizes.
      time, memory: (rows, tokens a row) of the updates that are timed, and of those whose memory is measured.
      dtype: of parameters and computation; moments are float32 in ours, and in PyTorch of the parameters' type.
      checkpointing: layers are computed again in the backward pass, on both sides.
      tolerance: of losses and gradient norms; see `agree`.
    """

    model: Config
    time: tuple[int, int]
    memory: tuple[int, int]
    dtype: str = "float32"
    checkpointing: bool = False
    tolerance: float = 1e-3


_bfloat16 = dict(dtype="bfloat16", checkpointing=True, tolerance=0.05)
SETTINGS = {
    "cpu": Setting(dataclasses.replace(MODEL, vocab_size=151_936), time=(2, 512), memory=(4, 1024)),
    "gpu": Setting(Config.preset("3b"), time=(4, 2048), memory=(4, 2048), **_bfloat16),
    "tiny": Setting(TINY, time=(2, 96), memory=(2, 96), **_bfloat16),  # for tests
}


class Disagreement(Exception):
    """Both sides were given the same and computed something else."""


def make_side(name: str, work: Work, phase: str, setting: Setting) -> Any:
    """One of `SIDES`, with `update()`, which returns loss and gradient norm."""
    if name == "ours":
        return Own(work, phase, dtype=setting.dtype, remat="full" if setting.checkpointing else "vision")
    from benchmarks.train_peer import Peer  # PyTorch, whose memory our own processes do without

    return Peer(work, phase, dtype=setting.dtype, checkpointing=setting.checkpointing, compiled=name != "torch")


class Apart:
    """A side of `SIDES` in a process of its own, which makes an update whenever it is asked to; ends with its block."""

    def __init__(self, name: str, directory: pathlib.Path, phase: str, setting: str):
        options = ["--only", name, "--phase", phase, "--setting", setting, "--directory", str(directory)]
        command = [sys.executable, "-m", "benchmarks.train_step", *options]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def update(self) -> tuple[float, float]:
        """The loss and the gradient's norm before clipping."""
        print(file=self._process.stdin, flush=True)
        return tuple(self._answer())

    def _answer(self) -> Any:
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process of {self._process.args} ended with {self._process.wait()}")
        return json.loads(line)

    def __enter__(self) -> Apart:
        self._answer()
        return self

    def __exit__(self, *_) -> None:
        with self._process:  # closes its input, at which it ends
            pass


def on_request(side: Any) -> None:
    """Makes an update for each line of the input, and prints its figures, after a line that says that it is ready: the
    other end of `Apart`."""
    print(json.dumps("ready"), flush=True)
    with contextlib.redirect_stdout(sys.stderr):
        for _ in sys.stdin:
            print(json.dumps(side.update()), file=sys.__stdout__, flush=True)


def agree(figures: dict[str, list[tuple[float, float]]], tolerance: float) -> None:
    """Compares loss and gradient norm of the first updates of all sides.

    Raises:
      Disagreement: they differ by more than the tolerance, of their size or of 1 if that is more.
    """
    (first, expected), *others = figures.items()
    for name, found in others:
        if not np.allclose(found[:2], expected[:2], rtol=tolerance, atol=tolerance):
            raise Disagreement(f"loss and gradient norm of the first updates: {first} {expected}, {name} {found}")


def timed(sides: dict[str, Any], rounds: int, updates: int, tolerance: float) -> dict[str, dict[str, Any]]:
    """Times updates as training makes them, one after another: the sides in turn, several of each in a round, of which
    the first, which compiles and finds its memory taken away, does not count. The first two of all sides are compared.

    Returns:
      For each side `seconds` (the median of `every`) and `first`, the seconds of the first update.
    """
    figures: dict[str, list] = {name: [] for name in sides}
    every: dict[str, list[float]] = {name: [] for name in sides}
    first = {}
    for _ in range(rounds):
        for name, side in sides.items():
            for number in range(updates):
                began = time.perf_counter()
                figures[name].append(side.update())
                seconds = time.perf_counter() - began
                first.setdefault(name, seconds)
                if number:
                    every[name].append(seconds)
            agree({name: found for name, found in figures.items() if found}, tolerance)
    return {
        name: {"seconds": statistics.median(times), "every": times, "first": first[name]}
        for name, times in every.items()
    }


def alone(name: str, directory: pathlib.Path, phase: str, setting: Setting, updates: int) -> dict[str, Any]:
    """A side's updates in a process that does nothing else: what `--only` prints.

    Returns:
      `figures` (loss, gradient norm) and seconds (`every`) of each update; `seconds`, the median of all but the first
      two; `bytes`, the peak above what the process had with the model loaded, on a GPU all that was allocated; and the
      `device`.
    """
    side = make_side(name, train_work.build(directory, *setting.memory), phase, setting)
    gc.collect()
    on_cpu = side.device() == "cpu"
    loaded = 0
    if on_cpu:  # elsewhere a system may not say
        peak(reset=True)
        loaded = peak()
    figures, every = [], []
    for _ in range(updates):
        began = time.perf_counter()
        figures.append(side.update())
        every.append(time.perf_counter() - began)
    seconds = statistics.median(every[2:] or every[-1:])
    bytes_ = peak() - loaded if on_cpu else side.device_bytes()
    return {"figures": figures, "seconds": seconds, "every": every, "bytes": bytes_, "device": side.device()}


def write(directory: pathlib.Path, setting: Setting) -> dict[str, Any]:
    """Writes the model that every side reads: what `--only model` prints."""
    train_work.save(directory, setting.model, setting.dtype)
    flops = model_flops(train_work.build(directory, *setting.memory), setting.model)
    return {"model_flops": flops, "shape": setting.memory, "tolerance": setting.tolerance}


def in_processes(
    directory: pathlib.Path, setting: str, names: tuple[str, ...], updates: int, phases: tuple[str, ...] = PHASES
) -> dict[str, Any]:
    """Each side in a process of its own: {phase: {side: figures of `alone`}}."""
    found: dict[str, dict[str, Any]] = {}
    for phase in phases:
        options = ["--phase", phase, "--setting", setting, "--directory", str(directory), "--updates", str(updates)]
        found[phase] = {name: _process("--only", name, *options) for name in names}
        agree({name: one["figures"] for name, one in found[phase].items()}, SETTINGS[setting].tolerance)
    return found


def per_device(count: int, setting: Setting) -> dict[str, dict[str, float]]:
    """What a device does in an update of `DEVICES` rows when so many devices share rows and parameters: what
    `--devices` prints. Programs are compiled, and nothing runs.

    Returns:
      For each phase `flops` of matrix products and `bytes` at the peak, as compiled, and `asked`, the device's share of
      the operations in the traced program, of which more devices have more: rows of images come in declared numbers.
    """
    chips, length = topology(f"cpu:{count}"), setting.time[1]
    found = {}
    for phase in PHASES:
        run = experiment(phase)
        run.mesh.update(dict(data=1, fsdp=-1, tensor=1))
        run.train.update(dict(row_length=length, micro_batch_rows=DEVICES // count))
        if "rollout" in run:
            run.rollout.max_length = length  # no longer than a row
        run.model.update(dict(dtype="float32", param_dtype="float32", remat="vision"))
        run.processor.update(dict(image=(4, length // 4), crop=(4, length // 8), frame=(4, 4), video=(4, 4)))
        figures = measure(Programs(run, setting.model, chips.devices), f"{phase}_update", chips)
        found[phase] = {
            "flops": figures.flops_per_chip,
            "asked": figures.flops / count,
            "bytes": figures.bytes_per_chip,
        }
    return found


def on_cpu(directory: pathlib.Path, quick: bool) -> dict[str, Any]:
    """Times in turn, memory, and what a device does among `DEVICES`."""
    setting = SETTINGS["cpu"]
    train_work.save(directory, setting.model)
    work = train_work.build(directory, *setting.time)
    device, flops = f"{os.cpu_count()} cores", model_flops(work, setting.model)
    phases = PHASES[1:] if quick else PHASES  # GRPO, where PyTorch needs less
    memory = in_processes(directory, "cpu", ("ours", "torch"), updates=1, phases=phases)
    print(f"\n{'peak memory, GiB':24}{'ours':>10}{'torch':>10}{'ratio':>8}   above the loaded model, {setting.memory}")
    for phase in phases:
        own, other = (memory[phase][name]["bytes"] / GIB for name in ("ours", "torch"))
        print(f"{phase:24}{own:10.2f}{other:10.2f}{own / other:8.2f}")
    times = {}
    for phase in PHASES:
        with contextlib.ExitStack() as stack:
            starting = {name: Apart(name, directory, phase, "cpu") for name in SIDES}  # which load meanwhile
            sides = {name: stack.enter_context(side) for name, side in starting.items()}
            times[phase] = timed(sides, *((1, 3) if quick else (3, 4)), setting.tolerance)
        show_times(phase, setting.time, times[phase], flops, device)
    counts = {} if quick else {count: _devices(count, "cpu") for count in (1, DEVICES)}
    if counts:
        show_devices(counts, setting.time[1])
    return {
        **{f"time_ratio_{phase}": time_ratio(times[phase]) for phase in PHASES},
        "memory_ratio": max(map(memory_ratio, memory.values())),
        "device": device,
        "time": times,
        "memory": memory,
        "devices": counts,
        "model_flops": flops,
    }


def on_gpu(
    directory: pathlib.Path,
    setting: str = "gpu",
    names: tuple[str, ...] = ("ours", "torch.compile"),
    updates: int = 12,
) -> dict[str, Any]:
    """Times and memory, each side in a process of its own, and the share of the device's arithmetic that is used."""
    chosen = SETTINGS[setting]
    train_work.save(directory, chosen.model, chosen.dtype)
    found = in_processes(directory, setting, names, updates)
    flops = model_flops(train_work.build(directory, *chosen.memory), chosen.model)
    rate, device = floors.matrix_rate(), jax.devices()[0].device_kind
    for phase, sides in found.items():
        show_times(phase, chosen.memory, sides, flops, device)
        for name, side in sides.items():
            side["utilization"] = flops / side["seconds"] / rate
            print(f"{name:24}{side['utilization']:10.1%} of {rate / 1e12:.1f} TFLOP/s{side['bytes'] / GIB:10.2f} GiB")
    return {
        **{f"time_ratio_{phase}": time_ratio(found[phase]) for phase in PHASES},
        "memory_ratio": max(map(memory_ratio, found.values())),
        "device": device,
        "rate": rate,
        "time": found,
        "model_flops": flops,
    }


def time_ratio(sides: dict[str, Any]) -> float:
    """Seconds of PyTorch's best over ours."""
    return min(side["seconds"] for name, side in sides.items() if name != "ours") / sides["ours"]["seconds"]


def memory_ratio(sides: dict[str, Any]) -> float:
    """Our bytes over those of PyTorch's best."""
    return sides["ours"]["bytes"] / min(side["bytes"] for name, side in sides.items() if name != "ours")


def show_times(phase: str, shape: tuple[int, int], sides: dict[str, Any], flops: float, device: str) -> None:
    """Prints the table of a phase."""
    title = f"{phase}, {shape[0]} x {shape[1]}"
    print(f"\n{title:24}{'seconds':>10}{'TFLOP/s':>10}{'ours is':>9}   {device}")
    for name, side in sides.items():
        ratio = side["seconds"] / sides["ours"]["seconds"]
        print(f"{name:24}{side['seconds']:10.2f}{flops / side['seconds'] / 1e12:10.3f}{ratio:8.2f}x", flush=True)


def show_devices(counts: dict[int, dict[str, dict[str, float]]], length: int) -> None:
    """Prints what a device does alone, and among `DEVICES`; see `per_device`."""
    rows = f"{DEVICES} rows of {length}"
    print(f"\n{'on a device':24}{'1 device':>12}{f'each of {DEVICES}':>12}{'ratio':>8}   {rows}")
    for phase in PHASES:
        for key, unit, name in (("flops", 1e9, "GFLOP"), ("asked", 1e9, "GFLOP asked"), ("bytes", GIB, "GiB")):
            one, each = (counts[count][phase][key] / unit for count in (1, DEVICES))
            print(f"{f'{phase}, {name}':24}{one:12.2f}{each:12.2f}{each / one:8.3f}")


def _devices(count: int, setting: str) -> dict[str, Any]:
    flags = f"--xla_force_host_platform_device_count={count}"
    return _process("--devices", str(count), "--setting", setting, XLA_FLAGS=flags)


def _process(*options: str, **environment: str) -> dict[str, Any]:
    """Runs this file with options for one measurement; returns what its last line says."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.train_step", *options],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--quick", action="store_true", help="two timed updates in place of nine, memory of GRPO alone, and one device"
    )
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    for name, options in {
        "only": dict(choices=("model", *SIDES)),
        "phase": dict(choices=PHASES),
        "setting": dict(choices=SETTINGS),
        "directory": dict(type=pathlib.Path),
        "updates": dict(type=int),
        "devices": dict(type=int),
    }.items():
        parser.add_argument(f"--{name}", help=argparse.SUPPRESS, **options)
    args = parser.parse_args()
    if args.devices:
        print(json.dumps(per_device(args.devices, SETTINGS[args.setting])))
        return
    enable_cache()
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # a GPU is for one process after the other
    if args.only == "model":
        print(json.dumps(write(args.directory, SETTINGS[args.setting])))
        return
    if args.only and args.updates is None:
        setting = SETTINGS[args.setting]
        on_request(make_side(args.only, train_work.build(args.directory, *setting.time), args.phase, setting))
        return
    if args.only:
        print(json.dumps(alone(args.only, args.directory, args.phase, SETTINGS[args.setting], args.updates)))
        return
    with tempfile.TemporaryDirectory() as path:
        directory = pathlib.Path(path)
        result = on_gpu(directory) if jax.default_backend() == "gpu" else on_cpu(directory, args.quick)
    result["packing"] = min(packing.measure(phase, rows=1)["real"] for phase in PHASES)
    print()
    for name, aim in (
        ("time_ratio_sft", "over 1"),
        ("time_ratio_grpo", "over 1"),
        ("memory_ratio", "under 0.5"),
        ("packing", "over 0.95"),
    ):
        print(f"{name:24}{result[name]:10.3f}   aim {aim}")
    if args.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()

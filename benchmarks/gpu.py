"""What `gpu.sh` runs: every step in a process of its own, one after another, and its figures as JSON and as a table.

A step is a command whose last line is JSON. One that fails, or takes too long, leaves the others and their memory
alone. This file needs nothing but Python: which packages are missing is a result too.
"""

from __future__ import annotations

import argparse
import ast
import concurrent.futures
import dataclasses
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable

from benchmarks import gpu_table

ROOT = pathlib.Path(__file__).resolve().parent.parent
SECONDS = 580  # for everything
TINY = 6  # times as long may a step take on a CPU

# Those that hold values to an oracle; tests of meshes make devices of the CPU, and many others nothing of any device.
TESTS = (
    "tests/models/test_against_transformers.py",
    "tests/models/test_attention.py",
    "tests/models/test_cache.py",
    "tests/models/test_lora.py",
    "tests/models/test_model.py",
    "tests/models/test_quantized.py",
    "tests/models/test_quantized_cache.py",
    "tests/rollout/test_policy.py",
    "tests/rollout/test_sampling.py",
    "tests/rollout/test_scheduler.py",
    "tests/training/test_losses.py",
    "tests/training/test_optimizer.py",
)

# The quickstart's pretraining and warm start as they are, and of each RL run the first episodes.
SHORT = ("rl.queries=160", "evaluation.queries=64")
SHORTEST = (
    "pretraining.lessons=16",
    "pretraining.train.steps=2",
    "pretraining.train.batch_size=8",
    "pretraining.train.micro_batch_rows=8",
    "warm_start.trajectories=8",
    "warm_start.lessons=4",
    "warm_start.train.steps=2",
    "warm_start.train.batch_size=8",
    "warm_start.train.micro_batch_rows=4",
    "rl.queries=4",
    "rl.train.steps=2",
    "rl.train.batch_size=8",
    "rl.train.micro_batch_rows=4",
    "rl.rollout.samples=4",
    "rl.rollout.slots=8",
    "rl.grpo.queries_per_episode=2",
    "evaluation.queries=4",
    "evaluation.samples=2",
    "evaluation.slots=8",
)


def last_line(output: str) -> dict:
    """The JSON in it."""
    return json.loads(output.strip().splitlines()[-1])


def count_tests(output: str) -> dict:
    """How many tests passed, failed, were skipped, and those that did not pass; so far, where pytest was cut off."""
    lines = output.strip().splitlines()
    counts = {
        name.removesuffix("s"): int(count)
        for count, name in re.findall(r"(\d+) (passed|failed|skipped|errors?)", lines[-1])
    }
    if not counts:
        words = ("PASSED", "FAILED", "SKIPPED", "ERROR")
        counts = {word.lower(): found for word in words if (found := len(re.findall(rf"\b{word}\b", output)))}
    return counts | {"not_passed": [line for line in lines if re.match(r"(FAILED|ERROR) ", line)]}


@dataclasses.dataclass(frozen=True)
class Step:
    """A measurement.

    Attributes:
      name: with its groups, as a path.
      seconds: that it may take.
      arguments: of Python.
      timed: nothing runs beside it.
      torch: it measures PyTorch, and JAX stays on the CPU.
      needs: a step that comes first.
      read: makes figures of what the command printed.
      environment: beside that of all steps.
    """

    name: str
    seconds: int
    arguments: tuple[str, ...]
    timed: bool = True
    torch: bool = False
    needs: str | None = None
    read: Callable[[str], dict] = last_line
    environment: dict[str, str] = dataclasses.field(default_factory=dict)

    def chosen(self, names: list[str]) -> bool:
        return not names or any(self.name == name or self.name.startswith(f"{name}/") for name in names)


def all_steps(tiny: bool, work: pathlib.Path, parallel_tests: bool = False) -> list[Step]:
    """The steps, in the order in which there may be time for them.

    Args:
      tiny: with sizes for a CPU.
      work: a folder for a model of 8 GB and what the quickstart writes.
      parallel_tests: pytest has its plugin for that.
    """
    model = str(work / "model")
    benchmark = ("-m", "benchmarks.train_step", "--setting", "tiny" if tiny else "gpu", "--directory", model)
    sizes = "--preset tiny --slots 2 --context 96 --width 32" if tiny else ""
    decode = "--preset tiny --rounds 1" if tiny else "--preset 3b --parts ragged int8"
    rollout = "--tiny --queries 2 --samples 2" if tiny else "--dtype bfloat16 --queries 8 --samples 8 --turn-tokens 64"
    ragged = f"{rollout} --ragged" + ("" if tiny else " --queries 4")
    changes = (f"workdir={work / 'quickstart'}", *(SHORTEST if tiny else ("model.dtype=bfloat16", *SHORT)))
    pytest = ("--verbose", "--tb=short", "--continue-on-collection-errors", "-p", "no:cacheprovider", "-rfE")
    pytest += ("-n", "8") if parallel_tests and not tiny else ()

    def update(phase: str, side: str) -> Step:
        arguments = (*benchmark, "--only", side, "--phase", phase, "--updates", "3" if tiny else "6")
        return Step(f"updates/{phase}/{side}", 110, arguments, torch=side != "ours", needs="model")

    def rollouts(side: str, seconds: int, group: str = "rollouts", sizes: str = rollout) -> Step:
        arguments = ("-m", "benchmarks.rollout", "--only", side, "--weights", model, *sizes.split())
        return Step(f"{group}/{side}", seconds, arguments, torch=side != "ours", needs="model")

    share = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}  # of the memory: with those that run beside it
    # Trying kernels takes longer than such small programs run; and two programs whose kernels were chosen so may sum in
    # another order, where tests ask for the same to the bit.
    untried = {"XLA_FLAGS": "--xla_gpu_autotune_level=0"}
    exact = {"JAX_DEFAULT_MATMUL_PRECISION": "highest"}  # no TensorFloat-32
    return [
        Step("model", 120, (*benchmark, "--only", "model"), timed=False, environment=share),
        Step(
            "tests",
            200,
            ("-m", "pytest", *pytest, *(TESTS[-1:] if tiny else TESTS)),
            timed=False,
            read=count_tests,
            environment=share | untried | exact,
        ),
        Step("floors", 60, ("-m", "benchmarks.floors", "--json", *sizes.split())),
        update("grpo", "ours"),
        update("grpo", "torch.compile"),
        rollouts("ours", 150),
        rollouts("kept_cache", 150),
        rollouts("rerender", 150),
        Step("decode", 120, ("-m", "benchmarks.decode", "--json", *decode.split())),
        rollouts("ours", 150, "ragged", ragged),
        rollouts("kept_cache", 150, "ragged", ragged),
        update("sft", "ours"),
        update("sft", "torch.compile"),
        rollouts("rerender_compiled", 150),
        rollouts("rerender", 150, "ragged", ragged),
        update("grpo", "torch"),
        update("sft", "torch"),
        Step(
            "quickstart",
            560,
            ("-m", "pixel_reasoner_jax.commands.cli", "quickstart", *(f"--config.{change}" for change in changes)),
            environment=share | untried,
        ),
    ]


class Runner:
    """Runs steps until there is no more time, and writes what they gave.

    Args:
      out: folder of the results; those of an earlier call stay, but for the steps that are run again.
      work: folder that is removed at the end.
      tiny: on a CPU.
      wheels: folder of packages.
    """

    def __init__(self, out: pathlib.Path, work: pathlib.Path, tiny: bool, wheels: pathlib.Path):
        self._out, self._work, self._tiny, self._wheels = out, work, tiny, wheels
        self._end = time.monotonic() + SECONDS * (TINY if tiny else 1)
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen] = set()
        self._card: str | None = None
        out.mkdir(parents=True, exist_ok=True)
        lines = self._file.read_text().splitlines() if self._file.exists() else []
        self.results = {result["step"]: result for result in map(json.loads, lines)}
        self.failed: list[str] = []
        packages = work / "packages"
        self._environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(map(str, (ROOT, packages, os.environ.get("PYTHONPATH", "")))),
            "PYTHONUNBUFFERED": "1",
            "HF_HUB_OFFLINE": "1",
            "JAX_PLATFORMS": "cpu" if tiny else "cuda,cpu",
            "JAX_TRACEBACK_FILTERING": "off",  # the last line is the error's
            "XLA_CLIENT_MEM_FRACTION": "0.92",
        }
        self._environment.pop("XLA_PYTHON_CLIENT_MEM_FRACTION", None)  # its old name: JAX refuses both

    @property
    def _file(self) -> pathlib.Path:
        return self._out / "results.jsonl"

    def run_all(self, names: list[str]) -> None:
        """Runs the steps of these names, what they need, and before them what says where they run."""
        if wheels := sorted(map(str, self._wheels.glob("*.whl"))):
            options = ("--quiet", "--no-index", "--no-deps", "--no-compile", "--target", str(self._work / "packages"))
            self.run(
                Step(
                    "packages", 120, ("-m", "pip", "install", *options, *wheels), read=lambda _: {"wheels": len(wheels)}
                )
            )
        share = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
        machine = self.run(Step("machine", 60, ("-m", "benchmarks.gpu", "--probe"), environment=share))
        if machine["status"] == "failed":
            return
        steps = all_steps(self._tiny, self._work, machine["figures"]["parallel_tests"])
        chosen = [step for step in steps if step.chosen(names)]
        needed = {step.needs for step in chosen}
        chosen = [step for step in steps if step in chosen or step.name in needed]
        with concurrent.futures.ThreadPoolExecutor(len(steps)) as pool:
            list(pool.map(self.run, (step for step in chosen if not step.timed)))
        for step in chosen:
            if step.timed:
                self.run(step)

    def run(self, step: Step) -> dict:
        """Runs a step and writes its result: `status` is "measured", "failed" or "left out"."""
        began = time.monotonic()
        result: dict = {"step": step.name, "card": self._card, "status": "measured"}
        left = self._end - began - 5
        if step.torch and (reason := self.results["machine"]["figures"]["no_torch"]):
            result |= {"status": "left out", "error": f"not measured: {reason}"}
        elif left < 15:
            result |= {"status": "failed", "error": f"no time was left: benchmarks/gpu.sh {step.name}"}
        else:
            result |= self._call(step, min(left, step.seconds * (TINY if self._tiny else 1)))
        result["seconds"] = round(time.monotonic() - began, 1)
        with self._lock:
            if step.name == "machine" and "figures" in result:
                self._card = result["card"] = result["figures"]["card"]
            if result["status"] == "measured" and (found := gpu_table.disagreement(result, self.results)):
                result |= {"status": "failed", "error": found}
            if result["status"] == "failed":
                self.failed.append(step.name)
            self.results[step.name] = result
            with self._file.open("a") as file:
                file.write(json.dumps(result) + "\n")
            (self._out / "table.md").write_text(gpu_table.table(self.results.values()))
            told = [result["step"], result["status"], f"{result['seconds']:.0f} s", result.get("error", "")]
            print(*told, flush=True)
        return result

    def _call(self, step: Step, seconds: float) -> dict:
        """What the command printed, as figures, or why there are none."""
        environment = self._environment | step.environment | ({"JAX_PLATFORMS": "cpu"} if step.torch else {})
        name = step.name.replace("/", "-")
        texts = [self._work / f"{name}.{stream}" for stream in ("out", "err")]
        with texts[0].open("w") as out, texts[1].open("w") as err:
            process = subprocess.Popen(
                [sys.executable, *step.arguments],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=environment,
                cwd=ROOT,
                start_new_session=True,  # whose processes all end with it
            )
            self._running.add(process)
            try:
                status = process.wait(seconds)
            except subprocess.TimeoutExpired:
                status = None
            finally:
                self._end_group(process)
        output, errors = (path.read_text(errors="replace") for path in texts)
        with self._lock, (self._out / "log.txt").open("a") as log:
            log.write(f"\n=== {step.name}: python {' '.join(step.arguments)}\n{output}{errors}")
        found: dict = {}
        try:
            found["figures"] = step.read(output)
        except (ValueError, IndexError):
            status = status or None if status != 0 else 1
        if status == 0:
            return found
        why = (
            f"it took more than {seconds:.0f} s" if status is None else last_error(errors) or f"it ended with {status}"
        )
        return found | {"status": "failed", "error": why}

    def _end_group(self, process: subprocess.Popen) -> None:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:  # it ended by itself
            pass
        process.wait()
        self._running.discard(process)

    def stop(self, *_) -> None:
        """Ends what runs, and the program: what is measured is written."""
        self._end = 0.0
        for process in list(self._running):
            self._end_group(process)
        sys.exit(143)


def last_error(text: str) -> str:
    """The line of standard error that says most: the last that names an error, else the last."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    named = [line for line in lines if re.match(r"[\w.]*(Error|Exception|Exit|Disagreement)\b", line)]
    return (named or lines or [""])[-1][:300]


def probe() -> dict:
    """The machine, as the steps' Python sees it."""
    import jax

    device = jax.devices()[0]
    found = {
        "card": device.device_kind if device.platform != "cpu" else f"a CPU, {os.cpu_count()} cores",
        "memory": (device.memory_stats() or {}).get("bytes_limit"),
        "python": sys.version.split()[0],
        "jax": jax.__version__,
        "torch": None,
        "no_torch": "no torch",
        "parallel_tests": importlib.util.find_spec("xdist") is not None,
        "missing": missing(),
    }
    try:
        import torch
    except ImportError as error:
        return found | {"no_torch": f"no torch ({error})"}
    lacks = device.platform != "cpu" and not torch.cuda.is_available()
    return found | {"torch": torch.__version__, "no_torch": "torch sees no GPU" if lacks else None}


def missing() -> list[str]:
    """Packages of an installation that are not there."""
    tree = ast.parse((ROOT / "setup.py").read_text())
    required = next(node.value for node in ast.walk(tree) if getattr(node, "arg", None) == "install_requires")
    names = [re.match(r"[\w.-]+", requirement).group() for requirement in ast.literal_eval(required)]
    installed = {distribution.name.lower() for distribution in importlib.metadata.distributions() if distribution.name}
    return [name for name in names if not {name.lower(), name.lower().replace("-", "_")} & installed]


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks/gpu.sh", description="gpu.sh --help says what it does")
    parser.add_argument("steps", nargs="*", metavar="STEP")
    parser.add_argument("--wheels", type=pathlib.Path, default=ROOT / "benchmarks" / "wheels")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "runs" / "gpu")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--probe", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.probe:
        print(json.dumps(probe()))
        return 0
    known = all_steps(args.tiny, pathlib.Path())
    if args.list:
        print(*(step.name for step in known), sep="\n")
        return 0
    for name in args.steps:
        if not any(step.chosen([name]) for step in known):
            parser.error(f"there is no step {name}; --list names them")
    with tempfile.TemporaryDirectory() as work:
        runner = Runner(args.out.resolve(), pathlib.Path(work), args.tiny, args.wheels.resolve())
        signal.signal(signal.SIGTERM, runner.stop)
        signal.signal(signal.SIGINT, runner.stop)
        runner.run_all(args.steps)
    print(f"\n{(args.out / 'table.md').read_text()}")
    if runner.failed:
        print(f"failed: {' '.join(runner.failed)}; {args.out / 'log.txt'} has what they said", file=sys.stderr)
    return 1 if runner.failed else 0


if __name__ == "__main__":
    sys.exit(main())

"""Rollouts against transformers on PyTorch, side by side: `python -m benchmarks.rollout [--quick] [--json]`.

The same random model of about 100M parameters, the same queries, crops and numbers of tokens on all sides; see
`workload`. The lines without fork, extend or overlap are our engine with that one thing taken away. On a GPU,
`benchmarks.gpu` has every side do its part in a process of its own (`--only`).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import pathlib
import tempfile

import jax
import numpy as np

from benchmarks import workload as work
from pixel_reasoner_jax.compilation import enable_cache
from pixel_reasoner_jax.models import Qwen2_5_VL
from pixel_reasoner_jax.operations import CropImage, Registry
from pixel_reasoner_jax.processing import Processor
from pixel_reasoner_jax.rollout import Limits, Policy, SamplingSettings
from pixel_reasoner_jax.rollout.batches import Extension
from pixel_reasoner_jax.rollout.counters import Counters
from pixel_reasoner_jax.rollout.episode import Episode
from pixel_reasoner_jax.rollout.scheduler import Scheduler
from pixel_reasoner_jax.rollout.workers import Task, Workers
from pixel_reasoner_jax.trajectory import Source, Trajectory

PEERS = ("kept_cache", "rerender", "rerender_compiled")


class Forced(Registry):
    """Reads the workload's call into every turn but the last, whatever was written."""

    def __init__(self, workload: work.Workload):
        super().__init__([CropImage()])
        self._workload = workload
        self._numbers = {query["id"]: number for number, query in enumerate(workload.queries)}
        self.asked: Episode | None = None

    def parse(self, text):
        query, _, copy = self.asked.prompt.id.partition("/")
        sample = int(copy) if copy else self.asked.sample
        if self.asked.turn == self._workload.turns - 1:
            return None
        return work.forced_call(self._workload, self._numbers[query], sample, self.asked.turn)


class ForcedEpisode(Episode):
    """An episode that tells its registry whose turn is read."""

    def end_turn(self, stopped):
        self._registry.asked = self
        return super().end_turn(stopped)


class RaggedEpisode(ForcedEpisode):
    """Its turns take a quarter to seven quarters of the workload's tokens."""

    @property
    def turn_room(self):
        random = np.random.default_rng([*self.prompt.id.encode(), self.sample, self.turn])
        length = round(random.uniform(0.25, 1.75) * self.sampling.max_turn_tokens)
        return min(self.room, length - len(self._turn_tokens))


class Forcing(Scheduler):
    """The engine as it is."""

    episode: type[ForcedEpisode] = ForcedEpisode

    def _new_episode(self, prompt, sample):
        settings = self._settings
        return self.episode(
            prompt, sample, self._processor, settings.registry, settings.limits, settings.sampling, settings.on_event
        )


class Ragged(Forcing):
    """Turns end one by one."""

    episode = RaggedEpisode


class WithoutExtend(Forcing):
    """Puts the whole conversation through the model again in every turn; its images' embeddings are kept."""

    def __init__(self, runtime, *args):
        super().__init__(runtime, *args)
        extend, processor = self._runner.extend, runtime.processor

        def again(extensions: list[Extension]) -> list:
            for one in (extension for extension in extensions if not extension.prompt):
                one.start, one.tokens, one.media = 0, one.episode.tokens(), one.episode.media
                one.positions, one.following = processor.positions(one.tokens, one.media)
            return extend(extensions)

        self._runner.extend = again


class AtOnce(Workers):
    """Executes in the calling thread, while everything else waits."""

    def submit(self, function, *args):
        task = Task(function, args)
        task.run()
        return task


class WithoutOverlap(Forcing):
    """Runs every operation before anything else goes on."""

    def __init__(self, runtime, *args):
        super().__init__(runtime, *args)
        self._operators = AtOnce(0)


@dataclasses.dataclass(frozen=True)
class Measurement:
    """What our engine did.

    `trajectories` is a group for each query; `peak_bytes` is of the store of images.
    """

    counters: Counters
    trajectories: list[list[Trajectory]]
    compiles: int
    peak_bytes: int


def ours(
    workload: work.Workload,
    *,
    fork: bool = True,
    engine: type[Forcing] = Forcing,
    slots: int | None = None,
    decode_steps: int = 32,
    warmup: bool = True,
    rehearse: bool = False,
) -> Measurement:
    """Compiles everything, then answers the queries.

    Args:
      fork: False asks every query once for each of its samples, under names of their own.
      engine: all of it, or one with something taken away.
      slots: None: one for each response.
      decode_steps: see `Policy`.
      warmup: compile first; otherwise as the need arises.
      rehearse: answer all of them once before, which compiles what they need and no more.
    """
    processor = Processor.from_pretrained(workload.directory)
    settings = SamplingSettings(
        forbidden_tokens=tuple(work.forbidden_tokens(processor).tolist()), max_turn_tokens=workload.turn_tokens
    )
    response = workload.turns * (workload.turn_tokens + 250)
    longest = max(len(prompt.rendered.tokens) for prompt in work.prompts(workload, processor)) + response
    policy = Policy(
        Qwen2_5_VL.from_pretrained(workload.directory, workload.dtype),
        processor,
        registry=Forced(workload),
        limits=Limits(workload.turns - 1, response, max_length=longest),
        slots=slots or len(workload.rows),
        decode_steps=decode_steps,
    )
    if warmup:
        policy.warmup(sampling=settings)
    compiles: list[str] = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, *_, **__: compiles.append(name) if "backend_compile" in name else None
    )
    queries, samples = list(workload.queries), workload.samples
    if not fork:
        queries, samples = [{**q, "id": f"{q['id']}/{i}"} for q in queries for i in range(samples)], 1
    rollout = policy.rollout_settings(samples, 0, settings, policy.slots)

    def answer():
        policy.counters = Counters()
        made = engine(policy.runtime, queries, rollout, policy.store, policy.counters)
        return {(number, trajectory.sample): trajectory for number, trajectory in made}

    try:
        if rehearse:
            policy.runtime.declare(policy.slots, longest)  # at once, or they would grow with the prompts that come
            answer()
            policy.runtime.forget_table()  # the images are encoded anew
            compiles.clear()
        finished = answer()
    finally:
        jax.monitoring.clear_event_listeners()
    groups = [[finished[number, sample] for sample in range(samples)] for number in range(len(queries))]
    assert all(len(trajectory.media) == workload.turns for group in groups for trajectory in group)
    return Measurement(policy.counters, groups, len(compiles), policy.store.peak_bytes)


def needed(groups: list[list[Trajectory]]) -> int:
    """Tokens of the trajectories that nobody sampled, the prompt of a group counted once."""
    prompts = sum(int((group[0].source == Source.PROMPT).sum()) for group in groups)
    return prompts + sum(int((t.source == Source.OBSERVATION).sum()) for group in groups for t in group)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--quick", action="store_true", help="2 queries and 32 tokens a turn: under 8 minutes on 2 cores"
    )
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("--queries", type=int, help="in place of 8, or 2 with --quick")
    parser.add_argument("--samples", type=int, default=8, help="of each query (default: %(default)s)")
    parser.add_argument("--turn-tokens", type=int, help="in place of 64, or 32 with --quick")
    parser.add_argument(
        "--decode-steps",
        type=int,
        nargs="+",
        metavar="K",
        help="instead, compare chunks of so many tokens in our engine: turns of many lengths, slots for half of them",
    )
    parser.add_argument("--only", choices=("ours", *PEERS), help="instead, this side alone, which rehearses; JSON")
    parser.add_argument("--weights", type=pathlib.Path, help="folder of the model, in place of the 100M one's")
    parser.add_argument("--dtype", default="float32", help="of parameters and computation (default: %(default)s)")
    parser.add_argument("--tiny", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()

    enable_cache()
    sizes = dict(
        queries=args.queries or (2 if args.quick else 8),
        samples=args.samples,
        turn_tokens=args.turn_tokens or (32 if args.quick else 64),
    )
    if args.decode_steps:
        compare_decode_steps(sizes, args.decode_steps)
        return
    if args.only:
        with tempfile.TemporaryDirectory() as directory:
            workload = work.build(directory, **sizes, weights=args.weights, dtype=args.dtype, tiny=args.tiny)
            print(json.dumps(alone(args.only, workload)))
        return
    from benchmarks import peers  # PyTorch, which a rollout itself does without

    with tempfile.TemporaryDirectory() as directory:
        workload = work.build(directory, **sizes)
        own = ours(workload)
        rows = {"ours": figures(own)}
        if not args.quick:
            rows["ours without fork"] = figures(ours(workload, fork=False))
            rows["ours without extend"] = figures(ours(workload, engine=WithoutExtend))
            rows["ours without overlap"] = figures(ours(workload, engine=WithoutOverlap))
        for name in PEERS[:2]:
            measured = getattr(peers, name)(workload)
            rows[name] = dict(seconds=measured.seconds, generated=measured.generated, prefilled=measured.prefilled)
    with tempfile.TemporaryDirectory() as directory:
        peaks = [
            ours(small, slots=16, warmup=False).peak_bytes
            for samples in (1, 16)
            for small in [work.build(directory, queries=4, samples=samples, turn_tokens=2, tiny=True)]
        ]
    for row in rows.values():
        row["tokens_per_second"] = row["generated"] / row["seconds"]
    speed = {name: row["tokens_per_second"] for name, row in rows.items()}
    counters = own.counters
    result = {
        "ratio_rerender": speed["ours"] / speed["rerender"],
        "ratio_kept_cache": speed["ours"] / speed["kept_cache"],
        "prefill_ratio": counters.prefilled / needed(own.trajectories),
        "host_share": 1 - (counters.device_seconds + counters.idle_seconds) / counters.seconds,
        "compiles_after_warmup": own.compiles,
        "memory_ratio": peaks[1] / peaks[0],
        "peak_bytes": peaks,
        "workload": sizes,
        "device": f"{os.cpu_count()} cores" if jax.default_backend() == "cpu" else jax.devices()[0].device_kind,
        "rows": rows,
        "counters": dataclasses.asdict(counters),
    }
    show(result)
    if args.json:
        print(json.dumps(result))


def alone(side: str, workload: work.Workload) -> dict:
    """What one side does the second time that it answers the queries: what `--only` prints."""
    if side == "ours":
        own = ours(workload, warmup=False, rehearse=True)
        row = figures(own) | {"device": jax.devices()[0].device_kind, "compiles": own.compiles}
    else:
        from benchmarks import peers

        run, compiled = side.removesuffix("_compiled"), side.endswith("_compiled")
        measured = getattr(peers, run)(workload, rehearse=True, **({"compiled": True} if compiled else {}))
        row = {name: getattr(measured, name) for name in ("seconds", "generated", "prefilled", "device")}
    return row | {"tokens_per_second": row["generated"] / row["seconds"]}


def compare_decode_steps(sizes: dict[str, int], choices: list[int]) -> None:
    """Prints our speed with each of them."""
    print(f"\n{'decode_steps':>12}{'seconds':>10}{'tokens/s':>10}{'calls':>7}{'steps':>7}")
    with tempfile.TemporaryDirectory() as directory:
        workload = work.build(directory, **sizes)
        for steps in choices:
            slots = len(workload.rows) // 2
            counters = ours(workload, engine=Ragged, slots=slots, decode_steps=steps).counters
            speed = counters.sampled / counters.seconds
            print(
                f"{steps:12}{counters.seconds:10.1f}{speed:10.1f}{counters.decode_calls:7}{counters.decode_steps:7}",
                flush=True,
            )


def figures(measured: Measurement) -> dict[str, float]:
    counters = measured.counters
    return dict(
        seconds=counters.seconds,
        generated=counters.sampled,
        prefilled=counters.prefilled,
        padding=counters.prefill_padding,
        encode_padding=counters.encode_padding,
    )


def show(result: dict) -> None:
    """Prints the table."""
    print(f"\n{result['workload']} on {result['device']}\n")
    print(f"{'':24}{'seconds':>10}{'generated':>11}{'prefilled':>11}{'tokens/s':>10}{'ours is':>9}")
    own = result["rows"]["ours"]["tokens_per_second"]
    for name, row in result["rows"].items():
        speed = row["tokens_per_second"]
        print(
            f"{name:24}{row['seconds']:10.1f}{row['generated']:11,}{row['prefilled']:11,}{speed:10.1f}"
            f"{own / speed:8.2f}x"
        )
    print()
    for name, aim in (
        ("ratio_rerender", "5x"),
        ("ratio_kept_cache", "2x"),
        ("prefill_ratio", "1.00"),
        ("host_share", "under 0.05"),
        ("compiles_after_warmup", "0"),
        ("memory_ratio", "under 1.1"),
    ):
        print(f"{name:24}{result[name]:10.3f}   aim {aim}")


if __name__ == "__main__":
    main()

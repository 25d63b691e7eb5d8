"""Rollouts against transformers on PyTorch, side by side: `python -m benchmarks.rollout [--quick] [--ragged]`.

The same random model of about 100M parameters, the same queries, crops and numbers of tokens on all sides; see
`workload`. With `--ragged`, turns are as many and as long as the method's, in proportion, and all sides leave out what
has ended. The lines without fork, extend or overlap are our engine with that one thing taken away. On a GPU,
`benchmarks.gpu` has every side do its part in a process of its own (`--only`).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import pathlib
import tempfile
import time

import jax
import numpy as np

from benchmarks import earlier_engine
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

RAGGED_RESPONSES = 2  # responses for each slot, where they have many lengths
PEERS = ("kept_cache", "rerender", "rerender_compiled")


class Forced(Registry):
    """Reads the workload's call into every turn but the last, whatever was written."""

    def __init__(self, workload: work.Workload):
        super().__init__([CropImage()])
        self._workload = workload
        self._numbers = {query["id"]: number for number, query in enumerate(workload.queries)}
        self.asked: Episode | None = None

    def parse(self, text):
        row, turn = self.row(self.asked), self.asked.turn
        if turn == len(self._workload.row_turns(*row)) - 1:
            return None
        return work.forced_call(self._workload, *row, turn)

    def row(self, episode: Episode) -> tuple[int, int]:
        """(query index, sample) of a response."""
        query, _, copy = episode.prompt.id.partition("/")
        return self._numbers[query], int(copy) if copy else episode.sample

    def turn_tokens(self, episode: Episode) -> int:
        """Tokens after which the turn of a response is cut."""
        return self._workload.row_turns(*self.row(episode))[episode.turn]


class ForcedEpisode(Episode):
    """An episode whose turns are cut by its registry, which it tells whose turn is read."""

    @property
    def turn_room(self):
        return min(self.room, self._registry.turn_tokens(self) - len(self._turn_tokens))

    def end_turn(self, stopped):
        self._registry.asked = self
        return super().end_turn(stopped)


class Forcing(Scheduler):
    """The engine as it is."""

    def __init__(self, *args):
        super().__init__(*args)
        self._admission._new_episode = self._forced

    def _forced(self, prompt, sample):
        settings = self._settings
        return ForcedEpisode(
            prompt, sample, self._processor, settings.registry, settings.limits, settings.sampling, settings.on_event
        )


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

    `trajectories` is a group for each query; `peak_bytes` is of the store of images; `processor_seconds` are those of
    all threads.
    """

    counters: Counters
    trajectories: list[list[Trajectory]]
    compiles: int
    peak_bytes: int
    processor_seconds: float


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
    settings = SamplingSettings(forbidden_tokens=tuple(work.forbidden_tokens(processor).tolist()))
    response = max(sum(turns) + 250 * len(turns) for turns in (workload.row_turns(*row) for row in workload.rows))
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
        began = time.process_time()
        finished = answer()
        processor_seconds = time.process_time() - began
    finally:
        jax.monitoring.clear_event_listeners()
    groups = [[finished[number, sample] for sample in range(samples)] for number in range(len(queries))]
    if fork:
        assert all(len(groups[row[0]][row[1]].media) == len(workload.row_turns(*row)) for row in workload.rows)
    return Measurement(policy.counters, groups, len(compiles), policy.store.peak_bytes, processor_seconds)


def needed(groups: list[list[Trajectory]]) -> int:
    """Tokens of the trajectories that nobody sampled, the prompt of a group counted once."""
    prompts = sum(int((group[0].source == Source.PROMPT).sum()) for group in groups)
    return prompts + sum(int((t.source == Source.OBSERVATION).sum()) for group in groups for t in group)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--quick", action="store_true", help="2 queries and 32 tokens a turn: under 8 minutes on 2 cores"
    )
    parser.add_argument(
        "--ragged", action="store_true", help="responses of lengths like the method's, to 4 queries, or 2 with --quick"
    )
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("--queries", type=int, help="in place of 8, or 2 with --quick")
    parser.add_argument("--samples", type=int, default=8, help="of each query (default: %(default)s)")
    parser.add_argument("--turn-tokens", type=int, help="in place of 64, or 32 with --quick")
    parser.add_argument("--engine-of", metavar="COMMIT", help="also, our engine as it was then, for example 2ff9fb9")
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
    if args.engine_of:
        try:
            earlier_engine.find(args.engine_of)
        except earlier_engine.EngineError as error:
            parser.error(str(error))

    enable_cache()
    sizes = dict(
        queries=args.queries or (2 if args.quick else 4 if args.ragged else 8),
        samples=args.samples,
        turn_tokens=args.turn_tokens or (32 if args.quick else 64),
        ragged=args.ragged,
    )
    if args.decode_steps:
        compare_decode_steps(sizes, args.decode_steps)
        return
    with tempfile.TemporaryDirectory() as directory:
        workload = work.build(directory, **sizes, weights=args.weights, dtype=args.dtype, tiny=args.tiny)
        if args.only:
            print(json.dumps(alone(args.only, workload)))
            return
        own, rows = compare(workload, less=not (args.quick or args.ragged), commit=args.engine_of)
    result = summary(own, rows) | {"workload": sizes}
    aims = (12, 6) if args.ragged else (10, 4.5)
    show(result, dict(zip(("ratio_rerender", "ratio_kept_cache"), aims, strict=True)))
    if args.json:
        print(json.dumps(result))


def compare(workload: work.Workload, less: bool, commit: str | None) -> tuple[Measurement, dict[str, dict]]:
    """What our engine did, and the figures of all sides.

    Args:
      less: also our engine with one thing taken away.
      commit: also our engine as it was in this commit; None: not.
    """
    from benchmarks import peers  # PyTorch, which a rollout itself does without

    rows: dict[str, dict] = {}

    def add(name: str, row: dict) -> None:
        rows[name] = row | {"tokens_per_second": row["generated"] / row["seconds"]}
        print(f"{name}: {row['seconds']:.1f} s, of processors {row['processor_seconds']:.1f} s", flush=True)

    # As in a run, there are more responses of many lengths than slots: who has ended makes room for another.
    own = ours(workload, slots=None if workload.lengths is None else max(1, len(workload.rows) // RAGGED_RESPONSES))
    add("ours", figures(own))
    if less:
        add("ours without fork", figures(ours(workload, fork=False)))
        add("ours without extend", figures(ours(workload, engine=WithoutExtend)))
        add("ours without overlap", figures(ours(workload, engine=WithoutOverlap)))
    if commit:
        add(f"ours of {commit}", earlier_engine.measure(commit, workload))
    for name in PEERS[:2]:
        fields = dataclasses.asdict(dataclasses.replace(getattr(peers, name)(workload), tokens=[]))
        add(name, {field: fields[field] for field in ("seconds", "processor_seconds", "generated", "prefilled")})
    return own, rows


def summary(own: Measurement, rows: dict[str, dict]) -> dict:
    """What `--json` prints, the workload aside."""
    with tempfile.TemporaryDirectory() as directory:
        peaks = [
            ours(small, slots=16, warmup=False).peak_bytes
            for samples in (1, 16)
            for small in [work.build(directory, queries=4, samples=samples, turn_tokens=2, tiny=True)]
        ]
    counters = own.counters
    ratios = {name: rows["ours"]["tokens_per_second"] / row["tokens_per_second"] for name, row in rows.items()}
    return {
        "ratio_rerender": ratios["rerender"],
        "ratio_kept_cache": ratios["kept_cache"],
        "ratio_earlier": next((ratio for name, ratio in ratios.items() if name.startswith("ours of ")), None),
        "prefill_ratio": counters.prefilled / needed(own.trajectories),
        "host_share": 1 - (counters.device_seconds + counters.idle_seconds) / counters.seconds,
        "compiles_after_warmup": own.compiles,
        "memory_ratio": peaks[1] / peaks[0],
        "peak_bytes": peaks,
        "device": f"{os.cpu_count()} cores" if jax.default_backend() == "cpu" else jax.devices()[0].device_kind,
        "rows": rows,
        "counters": dataclasses.asdict(counters),
    }


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
        workload, random = work.build(directory, **sizes), np.random.default_rng(0)
        longest = workload.turn_tokens
        lengths = random.uniform(0.25, 1.75, (sizes["queries"], sizes["samples"], workload.turns)) * longest
        workload = workload.with_lengths(lengths.round().astype(int).tolist())
        for steps in choices:
            counters = ours(workload, slots=len(workload.rows) // 2, decode_steps=steps).counters
            speed = counters.sampled / counters.seconds
            print(
                f"{steps:12}{counters.seconds:10.1f}{speed:10.1f}{counters.decode_calls:7}{counters.decode_steps:7}",
                flush=True,
            )


def figures(measured: Measurement) -> dict[str, float]:
    counters = measured.counters
    return dict(
        seconds=counters.seconds,
        processor_seconds=measured.processor_seconds,
        generated=counters.sampled,
        prefilled=counters.prefilled,
        padding=counters.prefill_padding,
        encode_padding=counters.encode_padding,
    )


def show(result: dict, aims: dict[str, float]) -> None:
    """Prints the table; the last column compares processor time, which other work on the machine disturbs less.

    Args:
      aims: the least of some ratios.
    """
    print(f"\n{result['workload']} on {result['device']}\n")
    print(f"{'':24}{'seconds':>10}{'generated':>11}{'prefilled':>11}{'tokens/s':>10}{'ours is':>9}{'processor':>11}")
    own = result["rows"]["ours"]
    for name, row in result["rows"].items():
        speed, processor = row["tokens_per_second"], row["processor_seconds"] / own["processor_seconds"]
        print(
            f"{name:24}{row['seconds']:10.1f}{row['generated']:11,}{row['prefilled']:11,}{speed:10.1f}"
            f"{own['tokens_per_second'] / speed:8.2f}x{processor:10.2f}x"
        )
    print()
    for name, aim in (
        *((name, f"{aim:g}x") for name, aim in aims.items()),
        ("prefill_ratio", "1.00"),
        ("host_share", "under 0.05"),
        ("compiles_after_warmup", "0"),
        ("memory_ratio", "under 1.1"),
    ):
        print(f"{name:24}{result[name]:10.3f}   aim {aim}")


if __name__ == "__main__":
    main()

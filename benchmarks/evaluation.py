"""An evaluation against the same policy's own stream of the same queries: `python -m benchmarks.evaluation [--quick]`.

What an evaluation does beside (reading items, scoring, writing records, trajectories, images and figures) happens in
threads of its own, and should cost a policy little. Both sides answer in turn, in one process.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import pathlib
import statistics
import tempfile
import time
from collections.abc import Sequence

from benchmarks import workload as work
from data_pipeline.records import write_records
from pixel_reasoner_jax.evaluation.answering import Asked
from pixel_reasoner_jax.evaluation.benchmark_run import evaluate_benchmarks
from pixel_reasoner_jax.evaluation.benchmarks import find_benchmark
from pixel_reasoner_jax.evaluation.local_model import LocalModel
from pixel_reasoner_jax.evaluation.protocol import make_protocol


@dataclasses.dataclass(frozen=True)
class Speed:
    """Sampled tokens a second of wall-clock time, and of processor time of all threads."""

    wall: float
    processor: float


def measure(directory: pathlib.Path, queries: int, tokens: int, repeats: int, tiny: bool) -> list[tuple[Speed, Speed]]:
    """The speeds of the stream and of the evaluation, as often as asked for; the first round compiles and is left out.

    Args:
      directory: for the model, the queries and the results.
      queries: how many there are.
      tokens: of every response, which a random model does not end.
      repeats: rounds.
      tiny: a model for tests.
    """
    workload = work.build(directory / "model", queries, 1, tiny=tiny)
    write_records(directory / "data", "query", workload.queries)
    model, kind = LocalModel(workload.directory, slots=16), find_benchmark("data")
    parts = {"sampling.temperature": "1", "limits.max_response_tokens": str(tokens)}
    protocol = make_protocol(kind, model.own, "model", parts)
    asked = Asked("data", kind(directory / "data"), protocol)
    policy = model.policy(protocol, "pixel")

    def stream(_: int) -> None:
        questions = [item.query(protocol.prompt) for item in asked.benchmark]
        with policy.stream(questions, seed=protocol.seed, sampling=protocol.sampling) as responses:
            for _ in responses:
                pass

    def evaluation(number: int) -> None:
        evaluate_benchmarks([asked], model.policy, directory / f"out-{number}", {"hash": ""})

    def speed(side, number: int) -> Speed:
        sampled, wall, processor = policy.counters.sampled, time.perf_counter(), time.process_time()
        side(number)
        sampled = policy.counters.sampled - sampled
        return Speed(sampled / (time.perf_counter() - wall), sampled / (time.process_time() - processor))

    rounds = [(speed(stream, number), speed(evaluation, number)) for number in range(repeats + 1)]
    return rounds[1:]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tiny model and few queries")
    parser.add_argument("--queries", type=int, default=48)
    parser.add_argument("--tokens", type=int, default=64, help="of a response (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args(argv)
    if args.quick:
        args.queries, args.tokens, args.repeats = 6, 4, 1
    with tempfile.TemporaryDirectory() as directory:
        rounds = measure(pathlib.Path(directory), args.queries, args.tokens, args.repeats, args.quick)
    for clock in ("wall", "processor"):
        plain, evaluated = ([getattr(pair[side], clock) for pair in rounds] for side in (0, 1))
        ratios = [b / a for a, b in zip(plain, evaluated, strict=True)]
        figures = {
            "clock": clock,
            "stream": statistics.median(plain),
            "evaluation": statistics.median(evaluated),
            "ratio": statistics.median(ratios),
            "ratios": [min(ratios), max(ratios)],
        }
        print(json.dumps({key: round(one, 3) if isinstance(one, float) else one for key, one in figures.items()}))


if __name__ == "__main__":
    main()

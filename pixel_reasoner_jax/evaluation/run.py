"""Evaluates a policy on queries, and `pixel-reasoner evaluate`."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import rich.console
import rich.progress

from pixel_reasoner_jax.config_values import DTYPES
from pixel_reasoner_jax.evaluation.metrics import Outcome, anls, figures
from pixel_reasoner_jax.evaluation.report import COLUMNS, STAGES, Example, write_report
from pixel_reasoner_jax.evaluation.text import figures_table, printable
from pixel_reasoner_jax.evaluation.trajectory_json import trajectory_dict
from pixel_reasoner_jax.files import as_path, check_output, write_text
from pixel_reasoner_jax.rewards import AnswerPool, extract_answer
from pixel_reasoner_jax.rollout import Policy
from pixel_reasoner_jax.rollout.settings import load_policy
from pixel_reasoner_jax.trajectory import Ended, Source, Trajectory

Scorer = Callable[[Sequence[Trajectory]], Sequence[float]]
"""One score for each response, 1 right and 0 wrong."""


SETTINGS = ("model", "dtype", "text_only", "split", "count", "world_seed", "samples", "seed", "temperature")


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What came of an evaluation.

    Attributes:
      figures: see `metrics.figures`.
      trajectories: the responses kept to be looked at: the first sample of each of the first queries.
      scores: their scores.
      without_room: queries whose prompts alone are as long as prompt and response together may be.
    """

    figures: dict[str, float | None]
    trajectories: list[Trajectory]
    scores: list[float]
    without_room: int


def evaluate(
    policy: Policy,
    queries: Sequence[Any],
    *,
    samples: int = 1,
    seed: int = 0,
    temperature: float = 0.0,
    scorer: Scorer | None = None,
    keep: int = 20,
    on_progress: Callable[[int], None] | None = None,
) -> Evaluation:
    """Answers every query `samples` times and scores the responses.

    Args:
      policy: has `stream`; see `Policy.stream`.
      queries: a sequence; it is read a few queries ahead, so it may make them as they are asked for.
      samples: responses a query.
      seed, temperature: of sampling; temperature 0 is greedy, as published figures are.
      scorer: None takes `score_answers`.
      keep: queries whose first response is kept whole: with their images, thousands would not fit into memory.
      on_progress: called with the number of queries answered so far.

    Raises:
      ValueError: no queries, or one without an answer.
    """
    if not len(queries):
        raise ValueError("no queries to evaluate")
    outcomes: list[Outcome] = []
    groups: dict[int, list[Trajectory]] = {}
    kept: dict[int, tuple[Trajectory, float]] = {}
    done = without_room = 0
    with AnswerPool() as pool:
        score = scorer or (lambda trajectories: score_answers(trajectories, pool))
        with policy.stream(queries, samples=samples, seed=seed, temperature=temperature) as stream:
            for number, trajectory in stream:
                if not trajectory.reference:
                    raise ValueError(f"query {trajectory.query_id!r} has no answer to score its responses against")
                group = groups.setdefault(number, [])
                group.append(trajectory)
                if len(group) < samples:
                    continue
                scores = score(groups.pop(number))
                without_room += _without_room(trajectory)
                outcomes += map(Outcome.of, group, scores)
                if number < keep:
                    kept[number] = next((t, float(s)) for t, s in zip(group, scores, strict=True) if t.sample == 0)
                done += 1
                if on_progress:
                    on_progress(done)
    trajectories, scores = zip(*(kept[number] for number in sorted(kept)), strict=True) if kept else ((), ())
    return Evaluation(figures(outcomes), list(trajectories), list(scores), without_room)


def _without_room(trajectory: Trajectory) -> bool:
    """Whether the prompt has ended the response before its first token."""
    return trajectory.ended == Ended.LENGTH and not (trajectory.source == Source.SAMPLED).any()


def side_by_side(evaluations: Mapping[str, Evaluation], count: int = 20) -> list[Example]:
    """At most `count` responses for a report: every stage on the first query, then on the second, and so on."""
    rows = zip(*(zip(e.trajectories, e.scores, strict=True) for e in evaluations.values()), strict=False)
    return [Example(stage, *pair) for row in rows for stage, pair in zip(evaluations, row, strict=True)][:count]


def score_answers(trajectories: Sequence[Trajectory], pool: AnswerPool) -> list[float]:
    """1.0 for every right answer; wrong when the last operation failed (the release's rule)."""
    pairs = [(trajectory.response, trajectory.reference) for trajectory in trajectories]
    return pool.score(pairs, [trajectory.recovered for trajectory in trajectories])


def score_anls(trajectories: Sequence[Trajectory]) -> list[float]:
    """ANLS of the final answers, 0 where there is none: InfographicsVQA."""
    return [anls(extract_answer(t.response) or "", t.reference) for t in trajectories]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `pixel-reasoner evaluate`."""
    parser.add_argument("--model", required=True, metavar="DIR", help="checkpoint directory, ours or Hugging Face's")
    parser.add_argument("--split", default="heldout", help="split of the pixel-search world (default: %(default)s)")
    parser.add_argument("--count", type=int, default=256, help="queries (default: %(default)s)")
    parser.add_argument("--world-seed", type=int, default=0, help="seed of the world (default: %(default)s)")
    parser.add_argument("--samples", type=int, default=1, help="responses a query (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of sampling (default: %(default)s)")
    parser.add_argument("--temperature", type=float, default=1.0, help="0 is greedy (default: %(default)s)")
    parser.add_argument(
        "--dtype", default="float32", choices=DTYPES, help="type of the parameters (default: %(default)s)"
    )
    parser.add_argument("--slots", type=int, default=64, help="responses in flight (default: %(default)s)")
    parser.add_argument(
        "--max-length",
        type=int,
        help="tokens of prompt and response together: with --slots, how large the KV cache is (default: as trained)",
    )
    parser.add_argument("--text-only", action="store_true", help="offer no operations")
    parser.add_argument("--html", metavar="FILE", help="write a report with responses to the first 20 queries")
    parser.add_argument("--out", metavar="FILE", help="write the figures and these responses as JSON")


def run(args: argparse.Namespace) -> None:
    """`pixel-reasoner evaluate`: a table, and one JSON line with the same figures."""
    from data_pipeline.sources.pixel_search import PixelSearch  # what this command evaluates on; the rest is general

    for name, least in (("count", 1), ("samples", 1), ("slots", 1), ("temperature", 0)):
        if getattr(args, name) < least:
            raise ValueError(f"--{name} must be at least {least}, got {getattr(args, name)}")
    for path in filter(None, (args.html, args.out)):
        check_output(path)
    seeds = PixelSearch(args.count, args.split, args.world_seed)
    policy = load_policy(args.model, dtype=args.dtype, text_only=args.text_only, slots=args.slots)
    if args.max_length is not None:
        policy.limits = dataclasses.replace(policy.limits, max_length=args.max_length)
    with rich.progress.Progress(console=rich.console.Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("evaluating", total=args.count)
        evaluation = evaluate(
            policy,
            Queries(seeds),
            samples=args.samples,
            seed=args.seed,
            temperature=args.temperature,
            on_progress=lambda done: progress.update(bar, completed=done),
        )
    if evaluation.without_room:
        message = f"{evaluation.without_room} of {args.count} prompts leave no room for a response: raise --max-length"
        print(message, file=sys.stderr)
    table = {"prior": prior_figures(seeds), "policy": evaluation.figures}
    name = printable(as_path(args.model).resolve().name)
    headings = {key: heading for key, (heading, _) in COLUMNS.items()}
    print(figures_table({STAGES["prior"]: table["prior"], name: table["policy"]}, headings))
    if args.html:
        path = write_report(
            args.html,
            figures={"prior": table["prior"], name: table["policy"]},
            runs={},
            examples=side_by_side({name: evaluation}),
            config={key: getattr(args, key) for key in SETTINGS},
            title=f"{name} on pixel search",
        )
        print(f"report: {path}")
    if args.out:
        pairs = zip(evaluation.trajectories, evaluation.scores, strict=True)
        responses = [trajectory_dict(trajectory, correct=score) for trajectory, score in pairs]
        print(f"responses: {write_text(args.out, json.dumps({**table, 'responses': responses}, allow_nan=False))}")
    print(json.dumps(table, allow_nan=False))


def prior_figures(seeds: Sequence[Any]) -> dict[str, float | None]:
    """The figures of answering every seed of the pixel-search world with its colour's favoured digit, unseen."""
    each = map(seeds.__getitem__, range(len(seeds)))
    return figures([Outcome(float(seed.attributes["prior_answer"] == seed.answer)) for seed in each])


class Queries(Sequence):
    """Seeds as queries, drawn when asked for: their images are large."""

    def __init__(self, seeds: Sequence[Any]):
        self._seeds = seeds

    def __len__(self) -> int:
        return len(self._seeds)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self._seeds[index].query()

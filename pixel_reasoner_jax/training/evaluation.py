"""Evaluation of a run while it trains: when, on what, what it costs, which checkpoint is the best, when to end.

The policy that is evaluated is the one that trains: its parameters as they are, without a copy where rollouts need
none. Nothing that training depends on is changed: no random state, no place in the data, no carried reward. An
evaluation belongs to the step that it is made after: its figures, `evaluation/…`, are in that step's line, and what it
means for the best checkpoint is saved with it. The model that a run begins with is evaluated too, as after step 0. An
evaluation that SIGTERM ends is made anew when the run goes on.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
from ml_collections import ConfigDict

from pixel_reasoner_jax.config import ConfigError
from pixel_reasoner_jax.evaluation.answering import Answer, Asked, answer
from pixel_reasoner_jax.evaluation.benchmark_run import name_and_path, name_benchmarks
from pixel_reasoner_jax.evaluation.benchmarks import Benchmark, find_benchmark
from pixel_reasoner_jax.evaluation.protocol import OwnSettings, make_protocol
from pixel_reasoner_jax.evaluation.records import MODES, ScoredRecord
from pixel_reasoner_jax.evaluation.tally import Tally
from pixel_reasoner_jax.parallel import all_gather_json, is_main
from pixel_reasoner_jax.rollout import Policy
from pixel_reasoner_jax.rollout.scheduler import RolloutStopped
from pixel_reasoner_jax.training.best import Standing, rule_of, write_best
from pixel_reasoner_jax.training.kept_responses import EVALUATIONS, KeptResponses, drop_after, store
from pixel_reasoner_jax.training.stopping import StopRequest
from pixel_reasoner_jax.training.training_run import TrainingRun
from pixel_reasoner_jax.training.validation import Validation, spread

PREFIX = "evaluation/"  # of metrics
LOSS = "loss"  # of validation
FIGURES = ("score", "rapr", "operations", "failure_rate", "tokens")  # of each benchmark
PROTOCOL = "model"  # all as the model is trained

_log = logging.getLogger(__name__)


class EvaluationStopped(Exception):
    """SIGTERM has ended an evaluation, which is to be made anew."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a run is evaluated on, checked before anything large is loaded.

    Attributes:
      benchmarks: by the names that metrics have.
      has_loss: whether there is a validation loss.
      metric: that decides which checkpoint is the best, without `PREFIX`; "" if nothing is evaluated.
      rule: "greatest" or "smallest".
      subject: the settings that decide, beside the model, which value the metric has.
    """

    benchmarks: Mapping[str, Benchmark]
    has_loss: bool
    metric: str
    rule: str
    subject: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, config: ConfigDict, has_loss: bool = False) -> Plan:
        """Opens what `config.evaluation` names.

        Raises:
          ConfigError: the metric is none of what is evaluated, nothing is evaluated that patience could wait for, or
            there are samples at temperature 0.
          UserError: a benchmark is unknown, or its path does not hold it.
        """
        settings = config.evaluation
        pairs = [name_and_path(text, "config.evaluation.on") for text in settings.on]
        benchmarks = {
            label: find_benchmark(name)(path) for label, (name, path) in zip(name_benchmarks(pairs), pairs, strict=True)
        }
        if empty := [label for label, benchmark in benchmarks.items() if not len(benchmark)]:
            raise ConfigError(f"config.evaluation.on names {empty[0]}, which has no items to evaluate")
        if benchmarks and settings.samples > 1 and not settings.temperature:
            raise ConfigError(
                f"config.evaluation.samples is {settings.samples}, and at temperature 0 all would be alike: set"
                " config.evaluation.temperature, for example to 1.0"
            )
        known = [LOSS] * has_loss + [f"{label}/{figure}" for label in benchmarks for figure in FIGURES]
        metric = settings.metric or (known[0] if known else "")
        if metric and metric not in known:
            there = f"it is one of {', '.join(known)}" if known else "nothing is evaluated: set config.evaluation.on"
            raise ConfigError(f"config.evaluation.metric is {metric!r}: {there}")
        if settings.patience and not known:
            raise ConfigError(
                f"config.evaluation.patience is {settings.patience}, and nothing is evaluated, so that the run could"
                " never end early: set config.evaluation.on, or patience to 0"
            )
        subject = {"queries": settings.queries, "seed": config.seed}
        if metric == LOSS:
            subject |= {"loss_on": settings.loss_on, "held_out": config.data.held_out}
        elif metric:
            on = dict(zip(benchmarks, settings.on, strict=True))[metric.rpartition("/")[0]]
            subject |= {"on": on, "samples": settings.samples, "temperature": settings.temperature}
        return cls(benchmarks, has_loss, metric, rule_of(metric, settings.best), subject)


class RunEvaluation:
    """Evaluates a run every so many steps, and keeps account of the best.

    Args:
      config: the experiment.
      training: the run.
      plan: what is evaluated.
      stop: whether SIGTERM has come.
      policy: makes what answers benchmarks, when it is first needed; it gets the parameters then.
      validation: of the loss; None if there is none.

    Attributes:
      is_best: whether the last step's evaluation is the best so far, so that its checkpoint is to be saved.
    """

    def __init__(
        self,
        config: ConfigDict,
        training: TrainingRun,
        plan: Plan,
        stop: StopRequest,
        policy: Callable[[Any], Policy],
        validation: Validation | None = None,
    ):
        self._settings, self._training, self._plan, self._stop = config.evaluation, training, plan, stop
        self._make_policy, self._policy, self._validation = policy, None, validation
        own = OwnSettings(training.settings, training.processor.budgets)
        changes = {
            "samples": str(self._settings.samples),
            "sampling.temperature": str(self._settings.temperature),
            "seed": str(config.seed),
        }
        self._asked = [
            Asked(label, benchmark, make_protocol(type(benchmark), own, PROTOCOL, changes))
            for label, benchmark in plan.benchmarks.items()
        ]
        self._most_kept = config.train.log_samples if is_main() else 0  # responses to each benchmark
        self._standing, self.is_best = Standing(), False
        self._carried: dict[str, Any] = {"metric": None}
        self._began, self._spent, self._made, self._warned = time.monotonic(), 0.0, 0, False

    def restore(self, carried: Mapping[str, Any] | None) -> None:
        """Goes on with what a checkpoint carries (`to_json`); all processes call this together.

        The best checkpoint may be gone, and the metric may be another one now, or of other queries: then the next
        evaluation is the best.
        Where nothing is evaluated any more, the best of before stays what it is.
        """
        if not carried or carried["metric"] is None:
            return
        self._carried = dict(carried)
        standing = Standing(*(carried[field.name] for field in dataclasses.fields(Standing)))
        gone = bool(standing.step) and not self._training.has_saved(standing.step)
        changed = bool(self._plan.metric) and any(carried.get(name) != value for name, value in self._rule().items())
        if gone or changed:
            if is_main():
                other = "what evaluation.metric is of has changed"
                why = f"checkpoint {standing.step}, the best one, is gone" if gone else other
                _log.warning("%s: the next evaluation is the best one so far", why)
            standing = Standing()
        self._standing = standing
        self._training.keep(standing.step or None)
        if self._plan.metric and is_main():
            write_best(self._training.workdir, standing, self._plan.metric, self._plan.rule)

    def begin(self, step: int, last: int, params: Any, version: int, line: Mapping[str, float] | None) -> None:
        """Evaluates what is due before the next step, and writes its metrics; what is stored of later ones is dropped.

        Due is the model that a run begins with, and of a run that goes on the evaluation that SIGTERM ended, for which
        the metrics of its step have waited. All processes call this together.

        Args:
          step, last, params, version: see `after`; step 0: the run begins.
          line: the metrics that have waited (`unwritten`); None if none have.
        """
        if is_main():
            drop_after(self._training.workdir / EVALUATIONS, step)
        if step and line is None:
            return
        try:
            figures = self.after(step, last, params, version)
        except EvaluationStopped:
            self._training.end_early()
        if (line or figures) and not self._training.has_written(step):
            self._training.write(step, {**(line or {}), **figures})
        self.keep_best()

    def to_json(self) -> dict[str, Any]:
        """The standing, for `restore`, with the metric and the rule that it is by."""
        if not self._plan.metric:
            return self._carried
        return {**dataclasses.asdict(self._standing), **self._rule()}

    def _rule(self) -> dict[str, Any]:
        """What values of two evaluations must share to be compared."""
        return {"metric": self._plan.metric, "rule": self._plan.rule, "subject": dict(self._plan.subject)}

    @property
    def is_over(self) -> bool:
        """Whether so many evaluations in a row were not the best that the run ends early."""
        return bool(self._plan.metric) and 0 < self._settings.patience <= self._standing.since

    def after(self, step: int, last: int, params: Any, version: int) -> dict[str, float | None]:
        """Evaluates, if it is time to. All processes call this together after every step.

        Args:
          step: that was made; 0: none was.
          last: of the run, which is evaluated too.
          params: of the model after it.
          version: how many updates they have seen.

        Returns:
          The figures by the names of their metrics, in all processes; none if nothing is evaluated now.

        Raises:
          EvaluationStopped: SIGTERM has come to a process.
        """
        self.is_best = False
        if not self._plan.metric or (step % self._settings.every and step != last):
            return {}
        began = time.monotonic()
        with self._training.phase("evaluation"):
            figures, tokens = self._figures(params, version, step)
        seconds = time.monotonic() - began
        self._standing = self._standing.after(step, figures.get(self._plan.metric), self._plan.rule)
        self.is_best = self._standing.step == step
        self._account(seconds, step)
        named = {f"{PREFIX}{name}": value for name, value in figures.items() if value is not None}
        return {**named, f"{PREFIX}sampled_and_scored_tokens": tokens}

    def keep_best(self) -> None:
        """Names the step's checkpoint as the best when it is on the disk. All processes call this after saving it."""
        if self.is_best:
            self._training.wait_for_checkpoints()
            if is_main():
                write_best(self._training.workdir, self._standing, self._plan.metric, self._plan.rule)
            self._training.keep(self._standing.step or None)

    def say_end(self, step: int) -> None:
        """Says why the run ends before its last step."""
        if is_main():
            best = self._standing
            how = "become better" if best.step is not None else "had a value"
            when = f"after {best.step}" if best.step else "of the model that the run began with"
            which = f"the best is {best.value:g} {when}" if best.step is not None else "none is the best"
            _log.warning(
                "ended early after %d: %s%s has not %s in %d evaluations; %s",
                *(step, PREFIX, self._plan.metric, how, best.since, which),
            )

    def _figures(self, params: Any, version: int, step: int) -> tuple[dict[str, float | None], int]:
        figures, tokens, shown = {}, 0, []
        if self._validation is not None:
            found = self._validation.loss(params, self._stop.agreed)
            if found is None:
                raise EvaluationStopped
            figures[LOSS], tokens = found
        if self._asked:
            with self._answering(params, version) as answerer:
                for asked in self._asked:
                    kept = KeptResponses(self._most_kept)
                    tally = self._answered(asked, answerer, kept)
                    shown += kept.answers
                    of_all = tally.figures()
                    figures |= {f"{asked.name}/{name}": of_all[name] for name in FIGURES}
                    tokens += round((of_all["tokens"] or 0.0) * of_all["responses"])
        if shown:
            store(self._training.workdir, step, shown)
        return figures, tokens

    @contextlib.contextmanager
    def _answering(self, params: Any, version: int) -> Iterator[_Answerer]:
        if self._policy is None:
            self._policy = self._make_policy(params)
        self._policy.params, self._policy.policy_version = params, version
        try:
            yield _Answerer(self._policy, self._stop.asked)
        except RolloutStopped:
            raise EvaluationStopped from None
        finally:
            self._policy.release()

    def _answered(self, asked: Asked, answerer: _Answerer, kept: KeptResponses) -> Tally:
        """The records of a benchmark's answers in all processes, each of which has answered a share; some are kept."""
        numbers = spread(len(asked.benchmark), self._settings.queries)
        records: list[ScoredRecord] = []

        def keep(one: Answer) -> None:
            records.append(one.record)
            kept.add(one)

        share = numbers[jax.process_index() :: jax.process_count()]
        answer(asked, MODES[0], share, answerer, keep)
        tally = Tally()
        for lines in all_gather_json([record.line() for record in records]):
            for line in lines:
                tally.add(ScoredRecord.from_line(line))
        return tally

    def _account(self, seconds: float, step: int) -> None:
        """Warns once where evaluations take more than their share of the time, the first of which also compiles."""
        self._spent, self._made = self._spent + seconds, self._made + 1
        share = self._spent / max(time.monotonic() - self._began, 1e-9)
        if self._made > 1 and share > self._settings.warn_share and not self._warned and is_main():
            self._warned = True
            _log.warning(
                "evaluations have taken %.0f%% of the time up to %d: a higher evaluation.every or fewer"
                " evaluation.queries",
                *(100 * share, step),
            )


def unwritten(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The metrics of a step whose evaluation was stopped as a checkpoint carries them, for `RunEvaluation.begin`."""
    return {name: float(value) for name, value in metrics.items() if value is not None}


class _Answerer:
    """The running policy as what answers benchmarks: in the shapes that its rollouts have, and until SIGTERM."""

    def __init__(self, policy: Policy, stop: Callable[[], bool]):
        self._policy, self._stop = policy, stop

    def stream(self, queries: Any, **settings: Any) -> Any:
        # Of an iterator the policy does not know how few queries it has, for which it would take fewer slots.
        return self._policy.stream(iter(queries), stop=self._stop, **settings)

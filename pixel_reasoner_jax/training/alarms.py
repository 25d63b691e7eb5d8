"""Alarms of a GRPO run: what its metrics say is going wrong, each with what to try.

An alarm sounds while its metric is bad in each of the last few episodes that have it. The log tells when it begins, and
again only if it has been silent in between; the metric `alarm_<name>` is 1 as long as it sounds.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable, Mapping
from collections.abc import Sequence as Seq

from ml_collections import ConfigDict

from pixel_reasoner_jax.parallel import is_main

Metrics = Mapping[str, float | None]
"""Those of an episode; None stands for a number that was not finite."""

EPISODES = 3  # in a row, or what chance does in one of them would sound an alarm
MISMATCH = {"float32": 1e-2, "bfloat16": 5e-2, "int8": 1e-1}
"""By the type of the computation, or of the rollouts' weights or cache, the mean difference in log-probabilities that
rounding does not explain. An accelerator may multiply float32 in fewer bits."""

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Alarm:
    """What is bad, and what helps.

    Attributes:
      metrics: that it looks at, the largest of them.
      is_bad: whether a value is bad, by its episode's metrics, those of the first episode that has it, and the config.
      says: what is wrong.
      advice: what to try.
      episodes: how many have to be bad in a row.
    """

    metrics: tuple[str, ...]
    is_bad: Callable[[float, Metrics, Metrics, ConfigDict], bool]
    says: str
    advice: str
    episodes: int = EPISODES

    def value(self, line: Metrics) -> float | None:
        """The largest of its metrics in an episode; None if it has none of them."""
        values = [line[name] for name in self.metrics if line.get(name) is not None]
        return max((value for value in values if math.isfinite(value)), default=None)

    def sounds(self, lines: Seq[Metrics], config: ConfigDict) -> bool:
        """Whether it sounds after the last of these episodes."""
        told = [line for line in lines if self.value(line) is not None]
        last = told[-self.episodes :]
        return len(last) == self.episodes and all(self.is_bad(self.value(line), line, told[0], config) for line in last)


RATE_METRICS = ("rapr", "rate_all", "rate_image", "rate_video")  # one of which the bonus compares with its floor


def _bonus_cannot_act(bonus: float, line: Metrics, _: Metrics, config: ConfigDict) -> bool:
    """No bonus is paid though operations are used less than the floor, and the bonus has a weight."""
    alpha, term = line.get("alpha"), config.rewards.terms.bonus
    wanted = (config.curiosity.alpha if alpha is None else alpha) > 0 and term.weight > 0
    rates = [rate for name in RATE_METRICS if (rate := line.get(name)) is not None]
    return bonus == 0 and wanted and max(rates, default=math.inf) < config.curiosity.rate_floor


def _may_operate(config: ConfigDict) -> bool:
    names = config.operations.names
    return config.rollout.max_operations > 0 and (names is None or len(names) > 0)


def _largest_mismatch(config: ConfigDict) -> float:
    types = config.rollout.weights, config.rollout.cache_dtype, config.model.dtype
    return max(MISMATCH[name] for name in types if name is not None)


ALARMS: Mapping[str, Alarm] = {
    "rapr": Alarm(
        ("rapr",),
        lambda value, line, first, config: value < 0.01 and _may_operate(config),
        "hardly any response uses an operation with success (rapr): the learning trap",
        "a higher curiosity.alpha or rate_floor, curiosity.multipliers='dual', a warm start that uses operations more",
    ),
    "bonus": Alarm(
        ("reward_bonus",),
        _bonus_cannot_act,
        "no response is paid the curiosity bonus (reward_bonus is 0), though rapr is below curiosity.rate_floor",
        "more rollout.samples or a higher rollout.temperature, so that some response tries; a warm start whose"
        " operations succeed",
    ),
    "uniform_groups": Alarm(
        ("uniform_groups",),
        lambda value, *_: value > 0.9,
        "nearly all groups have equal rewards (uniform_groups), which leaves nothing to learn from",
        "queries of another difficulty (data.pass_rates), grpo.sampling_rounds above 1, replay.method='paper', more"
        " rollout.samples",
    ),
    "entropy_low": Alarm(
        ("entropy",),
        lambda value, *_: value < 0.02,
        "the policy is all but deterministic (entropy), and tries nothing new",
        "a lower optimizer.learning_rate, a higher grpo.clip_high, auxiliary.entropy, a higher rollout.temperature",
    ),
    "entropy_high": Alarm(
        ("entropy",),
        lambda value, line, first, config: value > max(1.0, 3 * (first.get("entropy") or 0.0)),
        "the entropy has grown to more than three times that of the first episode: texts fall apart",
        "a lower optimizer.learning_rate, a lower grpo.clip_high, auxiliary.kl; look at some samples"
        " (train.log_samples)",
    ),
    "truncated": Alarm(
        ("truncated",),
        lambda value, *_: value > 0.5,
        "most responses meet a limit before their answer (truncated)",
        "higher rollout.max_response_tokens, max_length or max_operations; a penalty of length; look at some samples"
        " (train.log_samples): do they repeat themselves?",
    ),
    "clip_fraction": Alarm(
        ("clip_fraction",),
        lambda value, *_: value > 0.2,
        "the clip takes the gradient of many tokens (clip_fraction): the policy has left the one that sampled",
        "a lower optimizer.learning_rate, fewer updates an episode (a larger train.batch_size, or a smaller"
        " grpo.queries_per_episode)",
    ),
    "mismatch": Alarm(
        ("logprob_difference", "logprob_difference_text", "logprob_difference_after_image"),
        lambda value, line, first, config: value > _largest_mismatch(config),
        "rollout and trainer do not agree on log-probabilities (logprob_difference)",
        "stop, and run `pixel-reasoner check --model` on the model, in float32 too; if float32 agrees, it is rounding,"
        " which grpo.correction corrects",
        episodes=1,
    ),
    "failures": Alarm(
        ("failure_rate",),
        lambda value, *_: value > 0.9,
        "nearly all calls of operations fail (failure_rate)",
        "the metrics errors_… say of what; a warm start in the form of calls that operations.box_rule and release"
        " expect",
    ),
}
"""By name, which is that of the metric `alarm_<name>`."""


def sounding(lines: Seq[Metrics], config: ConfigDict) -> list[str]:
    """The names of the alarms that sound after the last of a run's episodes; a function of its arguments alone.

    Args:
      lines: the metrics of all episodes so far, in order.
      config: of the run.
    """
    return [name for name, alarm in ALARMS.items() if alarm.sounds(lines, config)]


class AlarmLog:
    """Logs the alarms of a run when they begin to sound.

    Args:
      config: of the run.
      lines: the metrics of the episodes that were before, if the run goes on.
      tell: called with episode, name and text of an alarm that begins, in the first process.
    """

    def __init__(
        self, config: ConfigDict, lines: Seq[Metrics] = (), tell: Callable[[int, str, str], None] = lambda *_: None
    ):
        self._config, self._lines, self._tell = config, [*lines], tell
        self._sounding = sounding(self._lines, config)

    def after(self, episode: int, metrics: Metrics) -> dict[str, float]:
        """Takes the metrics of the next episode, and returns 1 for each alarm that sounds, by its metric's name."""
        self._lines.append(dict(metrics))
        before, self._sounding = self._sounding, sounding(self._lines, self._config)
        for name in self._sounding:
            if name not in before and is_main():
                alarm = ALARMS[name]
                value = alarm.value(self._lines[-1])
                figure = "" if value is None else f" ({value:.3g})"
                text = f"{alarm.says}; try {alarm.advice}"
                _log.warning("episode %d: alarm_%s%s: %s", episode, name, figure, text)
                self._tell(episode, name, text)
        return {f"alarm_{name}": 1.0 for name in self._sounding}

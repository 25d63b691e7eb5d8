"""Which of a run's evaluations is the best one, by a stated rule, and how long ago it was.

The best value is the greatest or the smallest of a metric, and of equal ones the earliest. Its checkpoint is kept
however many newer ones there are, and named in `best.json` of the run's directory. Step 0 is the model that the run
began with, of which there is no checkpoint: then the run has made nothing better of it.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from typing import Any

from pixel_reasoner_jax.errors import CheckpointError
from pixel_reasoner_jax.files import as_path, write_text

FILE = "best.json"
SMALLEST = ("loss", "failure_rate", "tokens")  # of which "auto" takes the smallest, of all others the greatest


@dataclasses.dataclass(frozen=True)
class Standing:
    """What evaluations have come to so far; it is saved with every checkpoint.

    Attributes:
      step: whose evaluation is the best one, 0 for that before the first step; None before any has a value.
      value: of the metric then.
      since: how many evaluations have been made since, or in all where none has a value.
    """

    step: int | None = None
    value: float | None = None
    since: int = 0

    def after(self, step: int, value: float | None, rule: str) -> Standing:
        """The standing after another evaluation.

        Args:
          step: that it was made after.
          value: of the metric; None or NaN where it has none, which is never the best.
          rule: "greatest" or "smallest".
        """
        if value is None or math.isnan(value):
            return dataclasses.replace(self, since=self.since + 1)
        if self.value is None or (value > self.value if rule == "greatest" else value < self.value):
            return Standing(step, value)
        return dataclasses.replace(self, since=self.since + 1)


def rule_of(metric: str, rule: str) -> str:
    """The rule by which a metric is compared: `rule` itself, or for "auto" what the metric's name says."""
    if rule != "auto":
        return rule
    return "smallest" if metric.rpartition("/")[2] in SMALLEST else "greatest"


def write_best(workdir: str | os.PathLike, standing: Standing, metric: str, rule: str) -> None:
    """Names the best checkpoint in the run's directory, or none. One process does it, when the checkpoint is there."""
    file = as_path(workdir) / FILE
    if standing.step is None:
        file.unlink(missing_ok=True)
        return
    best = {"step": standing.step, "metric": metric, "value": standing.value, "rule": rule}
    write_text(file, json.dumps(best, indent=2) + "\n")


def read_best(workdir: str | os.PathLike) -> dict[str, Any]:
    """What `write_best` wrote: `step`, `metric`, `value` and `rule`.

    Raises:
      CheckpointError: no evaluation was the best, or the file is damaged.
    """
    file = as_path(workdir) / FILE
    try:
        best = json.loads(file.read_text(encoding="utf-8"))
        if type(best["step"]) is not int:
            raise ValueError(f"its step is {best['step']!r}")
    except FileNotFoundError:
        raise CheckpointError(
            f"{workdir} has no {FILE}: its run was not evaluated while it trained (config.evaluation), so that no"
            " checkpoint is the best one"
        ) from None
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        raise CheckpointError(f"{file} is damaged ({str(error)[:100]}): name a step in its place") from error
    return best

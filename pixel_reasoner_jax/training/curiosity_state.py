"""What the curiosity reward carries from one episode to the next: its multipliers, and averages of rates.

The reward r + alpha * max(H - RaPR, 0) * 1_PR + beta * min(N - n_vo, 0) relaxes a problem with two constraints,
RaPR >= H and n_vo <= N (arXiv 2505.15966, section 4). The paper fixes alpha and beta and names dual gradient descent as
the other choice: a multiplier grows while its constraint is violated, and shrinks while it is satisfied.

The bonus compares H with the rate of pixel-space reasoning of the query's own responses ("query", as in the paper), or
with an exponential average over episodes: of queries with the same kind of media ("media"), or of all ("global").
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from pixel_reasoner_jax.config import ConfigError


@dataclasses.dataclass(frozen=True)
class CuriosityState:
    """What an episode begins with.

    Attributes:
      alpha: weighs the bonus for reasoning in pixel space.
      beta: weighs the penalty for operations.
      rates: averages over the episodes before, by what they are of: "image", "video", "all".
    """

    alpha: float
    beta: float
    rates: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @classmethod
    def begin(cls, curiosity: ConfigDict, saved: Mapping[str, Any] | None = None) -> CuriosityState:
        """The state with which a run begins or goes on.

        Args:
          curiosity: the settings.
          saved: what `to_json` returned, of the checkpoint that the run goes on from. Fixed multipliers are the
            config's all the same, and so are those of a run that has been fixed so far and goes on as dual.

        Raises:
          ConfigError: a first value lies outside of its bounds.
        """
        saved = saved or {}
        first = cls(curiosity.alpha, curiosity.beta, saved.get("rates", {}))
        if curiosity.multipliers == "fixed":
            return first
        bounds = {name: curiosity[f"{name}_bounds"] for name in ("alpha", "beta")}
        if "alpha" in saved:
            return dataclasses.replace(first, **{name: _project(saved[name], bounds[name]) for name in bounds})
        for name, (low, high) in bounds.items():
            if not low <= curiosity[name] <= high:
                raise ConfigError(
                    f"config.curiosity.{name} is {curiosity[name]}, where dual multipliers begin: it must lie within"
                    f" config.curiosity.{name}_bounds = ({low}, {high})"
                )
        return first

    def to_json(self, curiosity: ConfigDict) -> dict[str, Any]:
        """What a checkpoint has of it: the averages, and multipliers that are not the config's."""
        multipliers = {"alpha": self.alpha, "beta": self.beta} if curiosity.multipliers == "dual" else {}
        return {**multipliers, "rates": dict(self.rates)}

    def metrics(self) -> dict[str, float]:
        """What an episode shows of it."""
        return {"alpha": self.alpha, "beta": self.beta, **{f"rate_{of}": rate for of, rate in self.rates.items()}}

    def with_rates(self, rate: np.ndarray, is_video: np.ndarray, curiosity: ConfigDict) -> CuriosityState:
        """The state with the averages after an episode's rates have joined them: decay * average + (1 - decay) * mean.

        Args:
          rate: float [queries], RaPR of each query, those of all processes.
          is_video: bool [queries].
          curiosity: `rate` and `rate_decay`.
        """
        members = {
            "query": {},
            "media": {"image": ~is_video, "video": is_video},
            "global": {"all": np.ones(len(rate), bool)},
        }[curiosity.rate]
        rates = {of: average for of, average in self.rates.items() if of in members}
        for of, chosen in members.items():
            if chosen.any():
                mean, decay = float(rate[chosen].mean()), curiosity.rate_decay
                rates[of] = decay * rates[of] + (1 - decay) * mean if of in rates else mean
        return dataclasses.replace(self, rates=rates)

    def rate_of(self, rate: np.ndarray, is_video: np.ndarray, curiosity: ConfigDict) -> np.ndarray:
        """The rate that the bonus compares with H, for each of some queries; see `with_rates`."""
        if curiosity.rate == "query":
            return rate
        of = np.where(is_video, "video", "image") if curiosity.rate == "media" else np.full(len(rate), "all")
        return np.array([self.rates[name] for name in of.tolist()])

    def after(self, rate: float | None, operations: float | None, curiosity: ConfigDict) -> CuriosityState:
        """The state that the next episode begins with: for "dual", after one step of projected dual ascent.

            alpha <- clip(alpha + alpha_step * (H - mean RaPR), *alpha_bounds)
            beta  <- clip(beta + beta_step * (mean n_vo - N), *beta_bounds)

        Args:
          rate: mean RaPR over the queries of this episode; None if it has none.
          operations: mean calls of a response; None likewise.
          curiosity: the settings.
        """
        if curiosity.multipliers == "fixed" or rate is None or operations is None:
            return self

        alpha = self.alpha + curiosity.alpha_step * (curiosity.rate_floor - rate)
        beta = self.beta + curiosity.beta_step * (operations - curiosity.max_operations)
        return dataclasses.replace(
            self, alpha=_project(alpha, curiosity.alpha_bounds), beta=_project(beta, curiosity.beta_bounds)
        )


def _project(value: float, bounds: tuple[float, float]) -> float:
    return float(min(max(value, bounds[0]), bounds[1]))

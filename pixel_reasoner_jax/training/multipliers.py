"""The multipliers of the curiosity reward: fixed, or found by dual ascent.

The reward r + alpha * max(H - RaPR, 0) * 1_PR + beta * min(N - n_vo, 0) relaxes a problem with two constraints,
RaPR >= H and n_vo <= N (arXiv 2505.15966, section 4). The paper fixes alpha and beta and names dual gradient descent as
the other choice: a multiplier grows while its constraint is violated, and shrinks while it is satisfied.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from pixel_reasoner_jax.config import ConfigError


@dataclasses.dataclass(frozen=True)
class Multipliers:
    """The multipliers of an episode.

    Attributes:
      alpha: weighs the bonus for reasoning in pixel space.
      beta: weighs the penalty for operations.
    """

    alpha: float
    beta: float

    @classmethod
    def begin(cls, curiosity: ConfigDict, saved: Mapping[str, Any] | None = None) -> Multipliers:
        """The multipliers with which a run begins or goes on.

        Args:
          curiosity: `multipliers`, `alpha` and `beta`; for "dual", `alpha_bounds` and `beta_bounds` too.
          saved: what `to_json` returned, of the checkpoint that the run goes on from; fixed multipliers are the
            config's all the same.

        Raises:
          ConfigError: a first value lies outside of its bounds.
        """
        if curiosity.multipliers == "fixed":
            return cls(curiosity.alpha, curiosity.beta)
        if saved:
            return cls(**saved)
        for name in ("alpha", "beta"):
            low, high = curiosity[f"{name}_bounds"]
            if not low <= curiosity[name] <= high:
                raise ConfigError(
                    f"config.curiosity.{name} is {curiosity[name]}, where dual multipliers begin: it must lie within"
                    f" config.curiosity.{name}_bounds = ({low}, {high})"
                )
        return cls(curiosity.alpha, curiosity.beta)

    def to_json(self) -> dict[str, float]:
        return dataclasses.asdict(self)

    def after(self, rate: float | None, operations: float | None, curiosity: ConfigDict) -> Multipliers:
        """The multipliers of the next episode: for "dual" one step of projected dual ascent.

            alpha <- clip(alpha + alpha_step * (H - mean RaPR), *alpha_bounds)
            beta  <- clip(beta + beta_step * (mean n_vo - N), *beta_bounds)

        Args:
          rate: mean RaPR over the queries of this episode; None if it has none.
          operations: mean calls of a response; None likewise.
          curiosity: the settings.
        """
        if curiosity.multipliers == "fixed" or rate is None or operations is None:
            return self

        def step(value: float, size: float, violation: float, bounds: tuple[float, float]) -> float:
            return float(min(max(value + size * violation, bounds[0]), bounds[1]))

        return Multipliers(
            step(self.alpha, curiosity.alpha_step, curiosity.rate_floor - rate, curiosity.alpha_bounds),
            step(self.beta, curiosity.beta_step, operations - curiosity.max_operations, curiosity.beta_bounds),
        )

"""What a run has stored with a sampled trajectory, in words."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from data_pipeline.draft import Draft

MOST = 12  # terms of a reward that are shown


def logged_text(draft: Draft) -> str:
    """The version of the policy, the reward with its terms, the advantage and how far log-probabilities differ.

    What a record lacks, or has in another form than a run stores it in, is left out: "" where all is.
    """
    return "; ".join(_parts(draft.attributes, draft.policy_version))


def _parts(attributes: Mapping[str, Any], version: int | None) -> Iterator[str]:
    if version is not None:
        yield f"policy after {version:,} updates"
    if isinstance(ended := attributes.get("ended"), str):
        yield f"ended: {ended[:40]}"
    if (reward := _number(attributes.get("reward"))) is not None:
        given = attributes.get("reward_terms")
        terms = {str(label)[:40]: _number(value) for label, value in given.items()} if isinstance(given, dict) else {}
        shown = [f"{label} {value:.3g}" for label, value in list(terms.items())[:MOST] if value is not None]
        named = f" ({', '.join(shown)})" if shown else ""
        yield f"reward {reward:.3g}{named}"
    if (advantage := _number(attributes.get("advantage"))) is not None:
        yield f"advantage {advantage:.3g}"
    tokens = attributes.get("tokens")
    if isinstance(tokens, dict) and (difference := _difference(tokens)) is not None:
        mean, most = difference
        yield f"log-probabilities of sampler and trainer differ by {mean:.2g} on average, by {most:.2g} at most"


def _difference(tokens: Mapping[str, Any]) -> tuple[float, float] | None:
    try:
        sampler, trainer = (np.array(tokens[name], np.float64) for name in ("logprobs", "trainer_logprobs"))
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    if sampler.shape != trainer.shape or sampler.ndim != 1 or not len(sampler):
        return None
    difference = np.abs(sampler - trainer)
    return (float(difference.mean()), float(difference.max())) if np.isfinite(difference).all() else None


def _number(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and abs(value) < 1e300 and math.isfinite(value) else None

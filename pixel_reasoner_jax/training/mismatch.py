"""How far the log-probabilities of the rollout are from the trainer's, for text and for what follows an image.

Both are computed from the same parameters, by programs that have little in common: a cache that grows with every
observation, and one pass over a packed row. What one of them does wrong shows first in tokens after an image that an
operation returned: its place, its positions and its embedding have to be right.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from pixel_reasoner_jax.trajectory import Source

PARTS = ("text", "after_image")


def is_after_image(tokens: np.ndarray, source: np.ndarray, placeholders: Sequence[int]) -> np.ndarray:
    """Which sampled tokens come after the first image that an operation returned, bool [tokens].

    Args:
      tokens: int32 [tokens] of a trajectory.
      source: int8 [tokens], a `Source` for each.
      placeholders: the ids of tokens that stand for images and videos.
    """
    shown = (source == Source.OBSERVATION) & np.isin(tokens, placeholders)
    return (source == Source.SAMPLED) & (np.cumsum(shown) > 0)


def logprob_differences(
    sampler: np.ndarray, trainer: np.ndarray, tokens: np.ndarray, source: np.ndarray, placeholders: Sequence[int]
) -> dict[str, np.ndarray]:
    """|sampler - trainer| of a trajectory's sampled tokens.

    Args:
      sampler, trainer: float32 [tokens], log-probabilities under the distribution sampled from, in nats.
      tokens, source, placeholders: see `is_after_image`.

    Returns:
      "after_image": of the tokens after the first image that an operation returned; "text": of those before it, which
      are all of a response without one.
    """
    difference = np.abs(np.asarray(sampler, np.float64) - trainer)
    after = is_after_image(tokens, source, placeholders)
    return {"text": difference[(source == Source.SAMPLED) & ~after], "after_image": difference[after]}


def difference_figures(differences: Iterable[Mapping[str, np.ndarray]]) -> dict[str, float]:
    """The mean and the maximum of each part over all tokens of some trajectories.

    Args:
      differences: of each trajectory, from `logprob_differences`.

    Returns:
      `logprob_difference_<part>` and `logprob_difference_<part>_max`; a part that has no token is left out.
    """
    differences = list(differences)
    figures = {}
    for part in PARTS:
        values = np.concatenate([np.zeros(0), *(one[part] for one in differences)])
        if len(values):
            figures[f"logprob_difference_{part}"] = float(values.mean())
            figures[f"logprob_difference_{part}_max"] = float(values.max())
    return figures

"""Which responses of an episode each of its updates trains on: the fresh ones, and selective sample replay (SSR).

Groups whose rewards are all alike have no advantage and are dropped, which may leave few responses. SSR (VL-Rethinker,
arXiv 2504.08837; Pixel Reasoner, arXiv 2505.15966, section 4) fills the updates that were planned with responses drawn
again, those with a large advantage more often. A response that is replayed keeps the log-probabilities of the policy
that sampled it. The buffer is the episode's: it is empty again when the behaviour policy takes the trained parameters.

A method is a function of `Candidates` that returns the responses of every update, as indices. All processes compute
the same from what all of them have gathered, so that nothing depends on their number.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from pixel_reasoner_jax.errors import UserError, shown
from pixel_reasoner_jax.named_parts import find_part
from pixel_reasoner_jax.training.rows import split_by_tokens

RELEASE_EXTRA = 0.1  # all-correct responses without an advantage that the release's pool counts, for each with one
RELEASE_EPSILON = 1e-4  # is added to the |advantage| of what the release draws from its buffer


@dataclasses.dataclass(frozen=True)
class Candidates:
    """The responses of an episode, of all processes, shard by shard; arrays are [responses] long.

    Attributes:
      advantages: float, the advantage of each.
      trained: bool, whether it may be trained on: its group is not uniform, and no mask leaves it out.
      correct: float, 1 for a right answer.
      tokens: int, its length.
      shards: int, the virtual shard that it belongs to, ascending.
      updates: updates that are planned for the episode.
      batch_size: responses of an update.
      alpha: exponent of |advantage| in the probability of a draw.
      seed: numbers from which the draws of the episode follow.
      samples: responses to a query, which are side by side.
    """

    advantages: np.ndarray
    trained: np.ndarray
    correct: np.ndarray
    tokens: np.ndarray
    shards: np.ndarray
    updates: int
    batch_size: int
    alpha: float = 1.0
    seed: tuple[int, ...] = (0,)
    samples: int = 1

    def generator(self, update: int) -> np.random.Generator:
        """Draws for an update, numbered from 1: numpy takes a seed that ends in 0 for the one without it."""
        return np.random.default_rng((*self.seed, update))


Method = Callable[[Candidates], list[np.ndarray]]


def no_replay(candidates: Candidates) -> list[np.ndarray]:
    """Every response that may be trained on, once: in as many updates as they fill, which may be fewer than planned.

    Every shard spreads its responses over the updates, about as many tokens to each.
    """
    return _spread(candidates, np.flatnonzero(candidates.trained)[:, None])


def pairs_alone(candidates: Candidates) -> list[np.ndarray]:
    """Of each query the responses with the largest and with the smallest advantage, both in one update (`preference`).

    A query whose responses are all alike has none. There are as many updates as the pairs fill, as in `no_replay`.
    """
    advantages = candidates.advantages.reshape(-1, candidates.samples)
    trained = candidates.trained.reshape(advantages.shape)
    best, worst = (
        np.where(trained, sign * advantages, -np.inf).argmax(axis=1) + np.arange(len(advantages)) * candidates.samples
        for sign in (1, -1)
    )
    pairs = np.stack([best, worst], axis=1)[candidates.advantages[best] > candidates.advantages[worst]]
    return _spread(candidates, pairs[candidates.trained[pairs].all(axis=1)])


def paper_replay(candidates: Candidates) -> list[np.ndarray]:
    """SSR as in the paper: every planned update has `batch_size` responses, or none where none has an advantage.

    The responses with an advantage are spread evenly over the updates; each shard's too. The rest of every update is
    drawn from all of them, with replacement, response j with the probability |A_j|^alpha / sum_k |A_k|^alpha.
    """
    trained = np.flatnonzero(candidates.trained & (candidates.advantages != 0))
    if not len(trained):
        return []
    probabilities = draw_probabilities(candidates.advantages[trained], candidates.alpha)
    # Within each shard a response stands at a fraction of the episode; sorted by it, every slice is fair to all shards.
    places = [(np.arange(len(of_shard)) + 0.5) / len(of_shard) for of_shard in _by_shard(candidates, trained)]
    fresh = np.array_split(trained[np.argsort(np.concatenate(places), kind="stable")], candidates.updates)
    updates = []
    for number, responses in enumerate(fresh, start=1):
        missing = max(candidates.batch_size - len(responses), 0)
        drawn = candidates.generator(number).choice(trained, missing, p=probabilities)
        updates.append(np.concatenate([np.sort(responses), drawn]))
    return updates


def release_replay(candidates: Candidates) -> list[np.ndarray]:
    """SSR as in VL-Rethinker's released code: half as many responses as the episode has, all of them drawn.

    With N responses in the episode, those of more rounds of queries not counted, the pool is the responses with an
    advantage, and at most a tenth as many right ones of all-correct groups, N / 2 in all. As many as there are in the
    pool are drawn from it with replacement, with probabilities |A| / sum |A|, so that those without an advantage only
    add to the number of draws. The rest, up to N / 2, is drawn from the buffer, the last N / 2 responses with an
    advantage, with (|A| + 1e-4) / sum.
    """
    half = min(len(candidates.advantages) // 2, candidates.updates * candidates.batch_size)
    effective = np.flatnonzero(candidates.trained & (candidates.advantages != 0))
    if not len(effective) or not half:
        return []
    right = int(((candidates.correct > 0) & (candidates.advantages == 0)).sum())
    pool = effective[:half]
    draws = min(half, len(effective) + min(int(RELEASE_EXTRA * len(effective)), right))
    buffer = effective[-half:]
    size = np.abs(candidates.advantages[buffer]) + RELEASE_EPSILON
    generator = candidates.generator(1)
    drawn = generator.choice(pool, draws, p=draw_probabilities(candidates.advantages[pool], 1.0))
    filled = generator.choice(buffer, half - draws, p=size / size.sum())
    chosen = np.concatenate([drawn, filled])
    return np.array_split(chosen, -(-half // candidates.batch_size))


def draw_probabilities(advantages: np.ndarray, alpha: float) -> np.ndarray:
    """|A_j|^alpha / sum_k |A_k|^alpha, float64; 0 for a response without an advantage, whatever alpha is."""
    size = np.abs(np.asarray(advantages, np.float64))
    weights = np.where(size > 0, (size / max(size.max(), 1e-300)) ** alpha, 0.0)  # without overflow
    return weights / weights.sum()


METHODS: dict[str, Method] = {
    "none": no_replay,
    "paper": paper_replay,
    "release": release_replay,
    "pairs": pairs_alone,
}


def choose_responses(method: str, candidates: Candidates) -> list[np.ndarray]:
    """The responses of every update of an episode, int arrays of indices into the candidates.

    Args:
      method: a name in `METHODS`, or one's own as module:function.
      candidates: what the method chooses from.

    Raises:
      UserError: there is no such method; or one's own does not return lists of indices of responses, or of one that may
        not be trained on.
    """
    returned = find_part(method, METHODS, "replay method")(candidates)
    if not isinstance(returned, Iterable):
        raise UserError(f"the replay method {method!r} must return a list for each update; it returned {returned!r}")
    return [_checked(method, given, candidates) for given in returned]


def _checked(method: str, given: Any, candidates: Candidates) -> np.ndarray:
    """The indices of an update, as a method has returned them."""
    count = len(candidates.advantages)
    try:
        indices = np.asarray(given)
    except ValueError:  # lists of different lengths
        indices = np.array(np.nan)
    whole = indices.ndim == 1 and (np.issubdtype(indices.dtype, np.integer) or not indices.size)
    if not whole or (indices.size and not 0 <= indices.min() <= indices.max() < count):
        got = shown(given.tolist() if isinstance(given, np.ndarray) else given)
        raise UserError(
            f"the replay method {method!r} must return, for each update, the indices of responses, whole numbers from 0"
            f" to {count - 1}; it returned {got}"
        )
    indices = indices.astype(np.int64)
    left_out = indices[~candidates.trained[indices]]
    if len(left_out):
        raise UserError(
            f"the replay method {method!r} has chosen response {left_out[0]}, which may not be trained on (`trained` of"
            " the candidates)"
        )
    return indices


def replayed_share(updates: list[np.ndarray]) -> float:
    """The share of the responses in some updates that were in them before."""
    total = sum(map(len, updates))
    return 1.0 - len(np.unique(np.concatenate(updates))) / total if total else 0.0


def planned_responses(method: str, responses: int, samples: int) -> int:
    """How many of an episode's responses, `samples` to each query, its planned updates train on."""
    return {"release": max(responses // 2, 1), "pairs": 2 * responses // samples}.get(method, responses)


def _spread(candidates: Candidates, together: np.ndarray) -> list[np.ndarray]:
    """Responses, some of which stay together, in as many updates as they fill: int [groups, responses of a group].

    Every shard spreads its groups over the updates, about as many tokens to each.
    """
    count = -(-together.size // candidates.batch_size)
    updates: list[list[np.ndarray]] = [[] for _ in range(count)]
    for shard in np.unique(candidates.shards[together[:, 0]]):
        of_shard = together[candidates.shards[together[:, 0]] == shard]
        slices = split_by_tokens(candidates.tokens[of_shard].sum(axis=1).tolist(), count)
        for update, groups in zip(updates, slices, strict=True):
            update.append(of_shard[groups].ravel())
    return [np.concatenate(update) for update in updates]


def _by_shard(candidates: Candidates, indices: np.ndarray) -> list[np.ndarray]:
    """The indices of each shard, those of the first shard first; a shard without any is left out."""
    _, starts = np.unique(candidates.shards[indices], return_index=True)
    return np.split(indices, starts[1:]) if len(indices) else []

"""Which tokens of a response its advantage goes to: credit of turns, operations and tokens, by functions of one's own.

`config.grpo.credit` is "none", and then all of a response's tokens have its advantage, or names a function as
module:function. It takes the `Responses` and their advantages [queries, G], and returns for every query a list with,
for every response, a number for all of its tokens, or an array with one for each, [tokens]. Rewards, gates and the drop
of uniform groups come before it, and are by response.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.named_parts import find_part, numbers_of
from pixel_reasoner_jax.rewards.terms import Responses
from pixel_reasoner_jax.trajectory import Source, Trajectory

Credit = Callable[[Responses, np.ndarray], Sequence[Sequence[Any]]]


def turns(trajectory: Trajectory) -> np.ndarray:
    """The turn of the model, from 0, that each token belongs to: int [tokens]; -1 for prompt and observations."""
    own = np.isin(trajectory.source, (Source.SAMPLED, Source.GIVEN))
    begins = own & ~np.concatenate([[False], own[:-1]])
    return np.where(own, np.cumsum(begins) - 1, -1)


def find_credit(name: str, responses: Responses, advantages: np.ndarray) -> list[list[np.ndarray]] | None:
    """The advantage of every token, float32 [tokens] for each response of each query; None for "none".

    Args:
      name: `config.grpo.credit`.
      responses: of the queries that could be asked.
      advantages: [queries, G].

    Raises:
      UserError: there is no such function, or it returns something else.
    """
    if name == "none":
        return None
    function, what = find_part(name, {}, "credit"), f"credit {name!r}"
    returned = function(responses, advantages)
    if len(returned) != len(advantages) or any(len(row) != advantages.shape[1] for row in returned):
        raise UserError(f"the {what} must return a list for each query, with an entry for each of its responses")
    return [
        [_of_tokens(what, given, len(one.tokens)) for given, one in zip(row, group, strict=True)]
        for row, group in zip(returned, responses.trajectories, strict=True)
    ]


def _of_tokens(what: str, given: Any, count: int) -> np.ndarray:
    if np.ndim(given) == 0:
        return np.full(count, numbers_of(what, given, (), "responses"), np.float32)
    return numbers_of(what, given, (count,), "tokens").astype(np.float32)

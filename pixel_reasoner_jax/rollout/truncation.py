"""Top-k and top-p without a sort of the vocabulary.

Of every row the least logit that is kept is searched for, between two bounds that each pass over the rows brings closer
together. What is summed up are integers, whose sums are the same in any order: which tokens a row keeps depends neither
on the other rows nor on the number of passes that these take.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

STEPS = 5  # values that a pass tries, evenly between its bounds; more make fewer passes that each take longer
BITS = 30  # a row's weights are scaled to a sum below two to this power, so that it fits into int32
SPREAD = 0x9E3779B9  # golden ratio * 2^32: fractions of its multiples lie evenly in [0, 1) (Weyl's sequence)

Measure = Int[Array, "slots vocab"] | int


def least_kept(
    logits: Float[Array, "slots vocab"], top_k: Int[Array, " slots"], top_p: Float[Array, " slots"]
) -> Float[Array, " slots"]:
    """The least logit that top-k and then top-p keep of each row; all tokens with this logit or a larger one are kept.

    Top-k keeps the `top_k` likeliest tokens, and those that are as likely as the last of them. Of the distribution of
    the `top_k` tokens, top-p keeps a token while the sum of the likelier ones is below `top_p`.

    Args:
      logits: -inf for tokens that have no part in the distribution.
      top_k: 0 keeps all.
      top_p: 1 keeps all.
    """

    def everything(logits, top_k):
        return jnp.full_like(top_p, -jnp.inf), jnp.ones_like(top_p)

    least, share = jax.lax.cond((top_k > 0).any(), _top_k, everything, logits, top_k)
    return jax.lax.cond((top_p < 1).any(), _top_p, lambda *given: given[2], logits, top_p, least, share)


def _top_k(
    logits: Float[Array, "slots vocab"], top_k: Int[Array, " slots"]
) -> tuple[Float[Array, " slots"], Float[Array, " slots"]]:
    """The `top_k`-th largest logit of each row, and how much of the tokens that have it is among the `top_k` largest.

    Rows without top-k, and those with fewer tokens, have -inf or their smallest logit, and 1.
    """
    highest = _key(logits.max(axis=-1))
    lowest = _key(jnp.where(logits > -jnp.inf, logits, jnp.inf).min(axis=-1))
    limited = top_k > 0
    found = _search(logits, 1, top_k, jnp.where(limited, lowest, highest) - 1, highest)
    keys = _key(logits)
    above, kept = _reduce([(_above(keys, found, 1), "sum"), (_above(keys, found - 1, 1), "sum")])
    share = jnp.minimum((top_k - above) / (kept - above), 1.0)
    return jnp.where(limited, _value(found), -jnp.inf), jnp.where(limited, share, 1.0)


def _top_p(
    logits: Float[Array, "slots vocab"],
    top_p: Float[Array, " slots"],
    least: Float[Array, " slots"],
    share: Float[Array, " slots"],
) -> Float[Array, " slots"]:
    """`least`, or more where fewer tokens than those from `least` on, the least ones by `share`, make up `top_p`."""
    vocab = logits.shape[-1]
    highest = logits.max(axis=-1)
    weights = jnp.exp(logits - highest[:, None])
    weights *= jnp.where(logits > least[:, None], 1.0, jnp.where(logits == least[:, None], share[:, None], 0.0))
    total = weights.sum(axis=-1)
    # A weight is rounded up or down by a number of its token's own, so that the errors of many small ones cancel out.
    rounding = (jnp.arange(vocab, dtype=jnp.uint32) * np.uint32(SPREAD) >> 8).astype(jnp.float32) * 2.0**-24
    scale = jnp.ldexp(jnp.float32(1), BITS - jnp.frexp(total)[1])
    parts = (weights * scale[:, None] + rounding).astype(jnp.int32)
    limit = jnp.ceil(top_p * parts.sum(axis=-1).astype(jnp.float32)).astype(jnp.int32)
    # As many tokens as there are, each of this logit, have less than what top-p leaves out: none of them is kept.
    never = highest + jnp.log((1 - top_p) * total / vocab) - 0.01
    upper = _key(highest)
    lower = jnp.where(top_p < 1, jnp.maximum(_key(never), _key(least) - 1), upper)
    found = _value(_search(logits, parts, limit, jnp.minimum(lower, upper - 1), upper))
    return jnp.where(top_p < 1, jnp.maximum(found, least), least)


def _search(
    logits: Float[Array, "slots vocab"],
    measure: Measure,
    limit: Int[Array, " slots"],
    lower: Int[Array, " slots"],
    upper: Int[Array, " slots"],
) -> Int[Array, " slots"]:
    """The key of each row's least logit whose larger logits have a sum of `measure` below `limit`.

    Args:
      logits: of the tokens.
      measure: what each token counts, not negative.
      limit: see above.
      lower, upper: keys of a value that is below the one searched for, and of one that is not.
    """
    keys = _key(logits)

    def unfinished(bounds):
        lower, upper = bounds
        return (lower + 1 < upper).any()

    def narrow(bounds):
        lower, upper = bounds
        first, last = _value(lower), _value(upper)
        tried = [_key(first + (last - first) * (step / (STEPS + 1))) for step in range(1, STEPS + 1)]
        # Halving the keys between the bounds ends within 32 passes, whatever the logits are.
        tried.append((lower & upper) + ((lower ^ upper) >> 1))
        tried = jax.lax.optimization_barrier(tried)  # computed for a row, not for every token
        least = jnp.where(keys > lower[:, None], keys, np.iinfo(np.int32).max)
        most = jnp.where(keys <= upper[:, None], keys, np.iinfo(np.int32).min)
        sums = [(_above(keys, key, measure), "sum") for key in tried]
        least, most, *sums = _reduce([(least, "min"), (most, "max"), *sums])
        # Between two neighbouring logits all values have the same sum: the bounds move on to a logit.
        lower, upper = jnp.maximum(lower, least - 1), jnp.minimum(upper, most)
        for key, total in zip(tried, sums, strict=True):
            inside = (lower < key) & (key < upper)
            upper = jnp.where(inside & (total < limit), key, upper)
            lower = jnp.where(inside & (total >= limit), key, lower)
        return lower, upper

    return jax.lax.while_loop(unfinished, narrow, (lower, upper))[1]


def _above(keys: Int[Array, "slots vocab"], least: Int[Array, " slots"], measure: Measure) -> Int[Array, "slots vocab"]:
    """What tokens with a larger key count; 0 for the others."""
    return jnp.where(keys > least[:, None], jnp.int32(measure), 0)


def _reduce(arrays: list[tuple[Int[Array, "slots vocab"], str]]) -> list[Int[Array, " slots"]]:
    """The sum, min or max of every row of each array, all in one pass."""
    limits = np.iinfo(np.int32)
    operations = {"sum": (jnp.add, 0), "min": (jnp.minimum, limits.max), "max": (jnp.maximum, limits.min)}
    values, functions, starts = zip(*((array, *operations[name]) for array, name in arrays), strict=True)

    def combine(left, right):
        return tuple(function(*pair) for function, *pair in zip(functions, left, right, strict=True))

    return list(jax.lax.reduce(values, tuple(map(np.int32, starts)), combine, (1,)))


def _key(values: Float[Array, "*shape"]) -> Int[Array, "*shape"]:
    """Integers in the same order as the values, and different where these are; `_value` gives the values back."""
    return _flip(jax.lax.bitcast_convert_type(jnp.where(values == 0, 0.0, values), jnp.int32))


def _value(keys: Int[Array, "*shape"]) -> Float[Array, "*shape"]:
    return jax.lax.bitcast_convert_type(_flip(keys), jnp.float32)


def _flip(bits: Int[Array, "*shape"]) -> Int[Array, "*shape"]:
    """Floats are stored as sign and magnitude, integers as two's complement."""
    return jnp.where(bits < 0, bits ^ np.int32(0x7FFFFFFF), bits)

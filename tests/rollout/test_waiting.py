"""Responses that wait for pages of the cache: they come out as if the cache held everything."""

from __future__ import annotations

import numpy as np
import pytest

from pixel_reasoner_jax.models import cache
from pixel_reasoner_jax.rollout import Limits, Policy, pages

LIMITS = Limits(max_operations=2, max_response_tokens=160, max_length=240)


@pytest.fixture(autouse=True, scope="module")
def crowded():
    """Small pages, none of which is kept for those that are in memory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache, "DEFAULT_PAGE", 16)
        patch.setattr(pages, "RESERVED", 0)
        yield


def rollout(world, queries, cache_tokens, samples=4, **options):
    policy = Policy(*world, limits=LIMITS, slots=16, decode_steps=8, cache_tokens=cache_tokens, **options)
    return policy, policy.rollout(queries, samples, seed=3)


@pytest.fixture(scope="module")
def unhindered(world, queries):
    return rollout(world, queries, None)


@pytest.mark.parametrize("cache_dtype", [None, "bfloat16"])
def test_waiting_changes_nothing(world, queries, unhindered, cache_dtype):
    """To the bit: tokens and log-probabilities."""
    policy, groups = unhindered if cache_dtype is None else rollout(world, queries, None, cache_dtype=cache_dtype)
    assert policy.counters.waits == 0
    short, found = rollout(world, queries, 1, cache_dtype=cache_dtype)  # two of the longest: it holds no less
    assert short.counters.waits > 0
    for group, other in zip(groups, found, strict=True):
        for a, b in zip(group, other, strict=True):
            np.testing.assert_array_equal(a.tokens, b.tokens)
            np.testing.assert_array_equal(a.logprobs, b.logprobs)

"""Responses that wait for pages of the cache: they come out as if the cache held everything."""

from __future__ import annotations

import ctypes
import gc

import numpy as np
import pytest

from pixel_reasoner_jax.models import cache
from pixel_reasoner_jax.operations import Call, CropImage, Registry
from pixel_reasoner_jax.rollout import Limits, Policy, SamplingSettings, pages
from pixel_reasoner_jax.rollout.policy import answered

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


@pytest.mark.parametrize("cache_dtype", [None, "bfloat16", "int8"])
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


def answer(policy, queries, cancelled=(), **options):
    """The responses to queries, of which some are cancelled at their first response; nothing may be left of them."""
    finished, failed = [], []
    stream = policy.stream(queries, 4, seed=3, **options)
    for number, trajectory in answered(stream, failed.append):
        finished.append((number, trajectory.sample))
        if number in cancelled:
            stream.cancel(trajectory.query_id)
    assert not stream._active and stream._admission.pages.free(0) == policy.runtime._shapes.pages
    return finished, failed


def test_all_pages_are_free_at_the_end(world, queries):
    policy = Policy(*world, limits=LIMITS, slots=16, decode_steps=8, cache_tokens=1)
    gone = {**queries[1], "images": ["/nowhere.png"]}
    given = [queries[0], gone, *queries[2:5]]
    finished, failed = answer(policy, given, cancelled=[2])
    assert [error.number for error in failed] == [1] and policy.counters.waits > 0
    assert sorted(pair for pair in finished if pair[0] != 2) == [(n, s) for n in (0, 3, 4) for s in range(4)]


class Seldom(Registry):
    """Reads a crop into one turn in fifty, as their texts have it; every second crop has a bug."""

    def __init__(self):
        super().__init__([Broken()])

    def parse(self, text):
        number = sum(text.encode())
        if number % 50:
            return None
        side = 0.25 if number % 100 else 0.5
        return Call("crop_image_normalized", {"bbox_2d": [0.2, 0.2, 0.2 + side, 0.2 + side], "target_image": 1})


class Broken(CropImage):
    bugs = 0

    def run(self, arguments, state):
        if arguments["bbox_2d"][2] > 0.5:
            Broken.bugs += 1
            raise ZeroDivisionError
        return super().run(arguments, state)


@pytest.mark.slow
def test_twenty_thousand_responses_leave_nothing(world, queries):
    """Of a hundred queries one fails and one is cancelled, of a hundred turns two ask for a crop, of which one fails.

    Memory stays within 5% after the first tenth.
    """
    limits = Limits(max_operations=1, max_response_tokens=80, max_length=192)
    options = dict(slots=64, decode_steps=8, cache_tokens=1000, registry=Seldom())
    policy, sampling = Policy(*world, limits=limits, **options), SamplingSettings(max_turn_tokens=12)
    policy.warmup(sampling=sampling)
    resident = []

    def given():
        for number in range(5000):
            if number in (500, 4999):
                gc.collect()
                ctypes.CDLL(None).malloc_trim(0)  # free memory that the allocator keeps is nobody's
                with open("/proc/self/status") as status:
                    resident.append(next(int(line.split()[1]) for line in status if line.startswith("VmRSS")))
            query = {**queries[number % 6], "id": number}
            yield query if number % 100 != 50 else {**query, "images": ["/nowhere.png"]}

    finished, failed = answer(policy, given(), cancelled=range(0, 5000, 100), sampling=sampling)
    assert len(failed) == 50 and len(finished) >= 4 * 4900 and policy.counters.waits > 0
    assert Broken.bugs > 100
    assert resident[1] < 1.05 * resident[0]

"""A rollout that is asked to stop ends between two calls of the engine, in all processes, and leaves nothing behind."""

import contextlib

import pytest

from pixel_reasoner_jax.rollout.scheduler import RolloutStopped
from pixel_reasoner_jax.rollout.subgroups import Subgroup, Subgroups
from pixel_reasoner_jax.training.collecting import collect


class Pool:
    """Scores nothing, and must not be asked to once the rollout has stopped."""

    def score(self, pairs, recovered=None):
        return [0.0] * len(pairs)


def test_it_stops_and_the_policy_goes_on(policy, queries):
    asked = []
    with policy.stream(queries, samples=2, stop=lambda: asked.append(1) or len(asked) > 3) as stream:
        with pytest.raises(RolloutStopped):
            collect(
                lambda parts: contextlib.nullcontext(stream), None, queries, Subgroups([Subgroup("all", 2)]), Pool()
            )
    assert len(asked) == 4 and not stream._active and stream._runner._slots is None
    [[one]] = policy.rollout(queries[:1], seed=3)
    [[other]] = policy.rollout(queries[:1], seed=3)
    assert one.tokens.tolist() == other.tokens.tolist()

"""The order of calls that all parts of a mesh agree on."""

import hypothesis
import numpy as np
from hypothesis import strategies as st

from pixel_reasoner_jax.rollout.engine_calls import MAX_WISHES, EngineCall, common_order, exchange

NAMES = st.tuples(st.integers(0, 2), st.integers(1, 3))


def holds(order, wish):
    """Whether a part that takes part in the first call it wants each time gets all of them."""
    left = list(wish)
    for name in order:
        if left and left[0] == name:
            left.pop(0)
    return not left


@hypothesis.given(st.lists(st.lists(NAMES, max_size=8), min_size=1, max_size=5))
def test_every_part_gets_its_calls_in_its_order(wishes):
    order = common_order(wishes)
    assert all(holds(order, wish) for wish in wishes)
    assert max(map(len, wishes)) <= len(order) <= sum(map(len, wishes))
    assert order == common_order(wishes[::-1])


def test_calls_that_meet_are_made_once():
    prompt, observation = [(0, 64), (1, 128), (2, 4)], [(1, 32), (1, 128)]
    assert common_order([prompt, prompt]) == prompt
    assert common_order([observation, prompt, prompt]) == [(0, 64), (1, 32), (1, 128), (2, 4)]
    assert common_order([[], []]) == []


def test_alone_one_hears_oneself():
    wishes = [[EngineCall("extend", 96, None).name, EngineCall("fork", 4, None).name], [], [(0, 5)] * MAX_WISHES]
    heard, status = exchange(wishes, (1, 7), joined=False)
    assert heard == wishes and np.array_equal(status, [[1, 7]])

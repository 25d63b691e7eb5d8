"""The order of calls that all parts of a mesh agree on."""

import hypothesis
import numpy as np
from hypothesis import strategies as st

from pixel_reasoner_jax.rollout.engine_calls import MAX_CALLS, EngineCall, common_order, exchange

PROGRAMS = st.tuples(st.integers(0, 2), st.integers(1, 3))


def contains(order, queue):
    """Whether a part that makes each call of `order` which is at the head of its queue makes all of its calls."""
    pending = list(queue)
    for program in order:
        if pending and pending[0] == program:
            pending.pop(0)
    return not pending


@hypothesis.given(st.lists(st.lists(PROGRAMS, max_size=8), min_size=1, max_size=5))
def test_every_part_gets_its_calls_in_its_order(queues):
    order = common_order(queues)
    assert all(contains(order, queue) for queue in queues)
    assert max(map(len, queues)) <= len(order) <= sum(map(len, queues))
    assert order == common_order(queues[::-1])


def test_a_call_at_the_head_of_several_queues_is_made_once():
    prompt, observation = [(0, 64), (1, 128), (2, 4)], [(1, 32), (1, 128)]
    assert common_order([prompt, prompt]) == prompt
    assert common_order([observation, prompt, prompt]) == [(0, 64), (1, 32), (1, 128), (2, 4)]
    assert common_order([[], []]) == []


def test_a_single_process_receives_its_queues():
    queues = [[EngineCall("extend", 96, None).program, EngineCall("fork", 4, None).program], [], [(0, 5)] * MAX_CALLS]
    received, status = exchange(queues, (1, 7), shared=False)
    assert received == queues and np.array_equal(status, [[1, 7]])

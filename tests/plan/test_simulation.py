"""The simulated rollout: small cases worked out by hand, and what holds for all."""

import numpy as np
import pytest

from pixel_reasoner_jax.config import load_config
from pixel_reasoner_jax.plan import simulation
from pixel_reasoner_jax.plan.chips import HOST_RATE, Chip
from pixel_reasoner_jax.plan.lengths import Group, Turn, method_groups
from pixel_reasoner_jax.plan.page_reads import KernelReads, ListedReads
from pixel_reasoner_jax.plan.rollout_costs import RolloutCosts
from pixel_reasoner_jax.plan.simulation import simulate
from pixel_reasoner_jax.plan.work import Work
from pixel_reasoner_jax.processing import Budgets, Geometry
from pixel_reasoner_jax.rollout.capacity import Capacity
from pixel_reasoner_jax.rollout.shapes import Shapes

CHIP = Chip(flops=1e30, memory=0, memory_rate=HOST_RATE, link_rate=1e30)
SINGLY = KernelReads(1, 1)


@pytest.fixture(autouse=True)
def one_page_in_reserve(monkeypatch):
    """What the cases were worked out with."""
    monkeypatch.setattr(simulation, "RESERVED", 1)


def costs(step=10, page=1, extend=100, encode=1000, reads=SINGLY, flops=0.0) -> RolloutCosts:
    """Costs in seconds: of a step, of reading a page (or moving it), of an extend and of an encode; the kernel reads
    pages one by one unless others `reads` are given."""
    seconds = {name: Work(0.0, value * HOST_RATE) for name, value in dict(s=step, p=page, x=extend, e=encode).items()}
    return RolloutCosts(CHIP, seconds["s"]._replace(flops=flops), seconds["p"], reads, seconds["x"], 1, seconds["e"], 1)


def rollout(groups, slots=2, pages=20, length=384, hosts=(0,), steps=32, **of):
    shapes = Shapes.holding(slots, length, Geometry(), Budgets(), page=128, most_chunk=64)
    return simulate(groups, costs(**of), shapes, Capacity(slots, pages), hosts, steps, length)


def total(result, name: str) -> float:
    return sum(result.seconds[name].values())


THREE = [Group(128, (), ((Turn(100),), (Turn(40, 60), Turn(10)), (Turn(30),)))]
"""A prompt of one page; 100 tokens; 40 tokens, an observation of 60 and 10 tokens; 30 tokens."""


def test_three_responses_in_two_slots():
    """Calls of 32, 8, 10, 30 and 20 steps: one ends with the first turn that ends. Every token reads two pages."""
    result = rollout(THREE)
    sampled = (2 * 32, 2 * 8, 2 * 10, 2 * 30, 20)
    assert result.sampled == sum(sampled) == 180 and result.steps == 32 + 8 + 10 + 30 + 20
    # In the last call a slot is idle, for which the kernel reads a page in each of 20 steps.
    assert result.seconds["decode"] == {"memory": 10 * result.steps + 2 * 180 + 20}
    # A call for the prompt, in four blocks of 32 queries that read its page; one for the observation, in two blocks
    # that read the two pages of 228 tokens.
    assert result.seconds["prefill"] == {"memory": 104 + 104} and result.prefilled == 128 + 60
    assert not total(result, "encode") and not total(result, "swap")
    # The third begins when the second has ended: the last 50 steps sample 80 tokens, 20 of 100 rows are idle.
    assert (result.tail_steps, result.tail_sampled) == (50, 80) and result.tail_seconds == 10 * 50 + 2 * 80 + 20
    assert result.in_flight == 2 and result.free == (20,) and result.waits == 0
    # While the third waited, the prompt's page and one of each response held tokens; after its observation, of the
    # second response, too.
    assert result.used == pytest.approx(3 / 20)


def test_a_shared_page_is_read_once():
    """Elsewhere than on TPUs: the prompt's page once in a step, and the pages of each response's own that it can need
    in a call of 32 tokens: one, but two where it has 228 of 256."""
    result = rollout(THREE, reads=ListedReads())
    assert total(result, "decode") == 10 * result.steps + 3 * (32 + 8) + 4 * 10 + 3 * 30 + 2 * 20


def test_the_youngest_waits_where_pages_run_out():
    """Two responses of 120 + 200 tokens in four pages: when both have 248 tokens the first takes the second's pages,
    which come back when the first has ended."""
    groups = [Group(120, (), ((Turn(200),),))] * 2
    result = rollout(groups, pages=4)
    assert (result.waits, result.swapped, result.sampled) == (1, 4, 400) and result.free == (4,)
    assert result.steps == 4 * 32 + (32 + 32 + 8) + (32 + 32 + 8)
    assert total(result, "swap") == 4 and result.in_flight == 2
    # Before it waits as after it: a token reads the pages that it and those before it fill.
    each, idle = sum(-(-tokens // 128) for tokens in range(121, 321)), 2 * result.steps - 400
    assert total(result, "decode") == 10 * result.steps + 2 * each + idle
    assert rollout(groups, pages=8).waits == 0


def test_a_response_begins_where_pages_are_in_reserve():
    """The second needs two pages for 120 + 32 tokens, and one is kept for the first."""
    groups = [Group(120, (), ((Turn(20),),)), Group(120, (), ((Turn(20),),))]
    assert rollout(groups, pages=4).in_flight == 2
    shorter = [Group(120, (), ((Turn(20),),)), Group(250, (), ((Turn(20),),))]  # needs three
    assert rollout(shorter, pages=4).in_flight == 1


def test_images_and_prompts_are_encoded_and_prefilled_as_they_are_called():
    """A prompt of 600 tokens is one call of 512 and one of 96; its image of 64 tokens, 256 patches, is encoded once for
    all samples, a crop for each; two parts that need the same share the call."""
    turns = (Turn(5, 64, (64,)), Turn(5))
    groups = [Group(600, (64,), (turns, turns))] * 2
    alone = rollout(groups[:1], length=1024)
    both = rollout(groups, length=1024, hosts=(0, 1))
    other = rollout([groups[0], Group(600, (16,), ((Turn(5),),))], length=1024, hosts=(0, 1))
    # Four rows of 256 patches are in one call: the two crops are encoded, and appended, together.
    assert total(alone, "encode") == 2 * 1000 and alone.prefilled == 600 + 2 * 64
    # 16 blocks of queries read four pages and three read five; two read the six pages of each observation.
    assert total(alone, "prefill") == pytest.approx(2 * 100 + 16 * 4 + 3 * 5 + 100 + 2 * 2 * 6)
    assert both.seconds == alone.seconds and both.prefilled == 2 * alone.prefilled
    assert total(other, "encode") == 3 * 1000  # an image of another size is another call


def test_the_slowest_rate_bounds_a_call():
    result = rollout(THREE, flops=1000 * CHIP.flops)
    assert result.seconds["decode"] == {"arithmetic": 1000.0 * result.steps}


def random_groups(seed: int) -> list[Group]:
    random = np.random.default_rng(seed)

    def turns():
        count = random.integers(1, 4)
        seen = [int(tokens) for tokens in random.integers(0, 90, count - 1)] + [0]
        return tuple(Turn(int(random.integers(1, 60)), tokens, (tokens,) if tokens else ()) for tokens in seen)

    sizes = random.integers(1, 5, 12)
    return [Group(int(random.integers(20, 300)), (), tuple(turns() for _ in range(size))) for size in sizes]


@pytest.mark.parametrize("reads", [KernelReads(), ListedReads()])
@pytest.mark.parametrize("pages", [8, 11, 19, 400])
@pytest.mark.parametrize("slots, hosts", [(1, (0,)), (3, (0, 0)), (8, (0, 0, 1))])
def test_nothing_is_lost(slots, hosts, pages, reads):
    groups = random_groups(slots + pages)
    result = rollout(groups, slots, pages, length=896, hosts=hosts, steps=8, reads=reads)
    responses = [turns for group in groups for turns in group.responses]
    assert result.sampled == sum(turn.sampled for turns in responses for turn in turns)
    observed = sum(turn.observed for turns in responses for turn in turns)
    assert result.prefilled == sum(group.prompt for group in groups) + observed
    assert result.free == (pages,) * len(hosts) and result.in_flight <= slots * len(hosts)
    assert result.steps >= result.sampled / (slots * len(hosts)) and result.used is None or result.used <= 1
    assert (result.swapped > 0) == (result.waits > 0)
    again = rollout(groups, slots, pages, length=896, hosts=hosts, steps=8, reads=reads)
    assert again == result


def test_pages_do_run_out_in_these_cases():
    waits = [rollout(random_groups(seed), 8, 8, length=896, steps=8).waits for seed in range(8)]
    assert sum(waits) >= 8, waits


def test_a_response_without_room_takes_no_slot():
    groups = [Group(384, (), ((), ())), Group(100, (), ((Turn(3),), ()))]
    result = rollout(groups)
    assert result.sampled == 3 and result.prefilled == 100


def test_more_slots_more_tokens_a_second_up_to_what_is_asked():
    config = load_config("rl_qwen2_5_vl_7b")
    config.grpo.queries_per_episode = 16
    groups = method_groups(config)
    seconds = []
    for slots in (8, 32, 128):
        result = rollout(groups, slots, 1000 + 30 * slots, length=16_384, step=1.0, page=1e-4, extend=1.0, encode=1.0)
        assert result.waits == 0 and result.in_flight == slots
        seconds.append(result.seconds_of())
    assert seconds == sorted(seconds, reverse=True) and seconds[0] > 3 * seconds[-1]
    tight = rollout(groups, 128, 500, length=16_384, step=1.0, page=1e-4, extend=1.0, encode=1.0)
    assert tight.seconds_of() > seconds[-1] and tight.waits

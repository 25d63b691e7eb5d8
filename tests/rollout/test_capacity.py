"""How memory is divided into slots and pages."""

from types import SimpleNamespace

import numpy as np
import pytest
from ml_collections import ConfigDict

from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.models import Config
from pixel_reasoner_jax.rollout import Limits, Policy
from pixel_reasoner_jax.rollout import policy as module
from pixel_reasoner_jax.rollout.capacity import PAGE, Capacity, CapacityError, fit, page_bytes, pages_of, slot_bytes
from pixel_reasoner_jax.rollout.runner import ModelRunner
from pixel_reasoner_jax.training import rl


def test_a_page_holds_keys_and_values_of_all_layers():
    model = Config.preset("7b")  # 28 layers, 4 heads of 128
    assert page_bytes(model, "bfloat16") == 28 * 2 * 4 * PAGE * 128 * 2 == 4 * page_bytes(model, "bfloat16", tensor=4)
    assert page_bytes(model, "float32") == 2 * page_bytes(model, "bfloat16")
    assert 4 * 152_064 < slot_bytes(model) < 2 * page_bytes(model, "bfloat16")
    assert pages_of(np.array([0, 1, 128, 129])).tolist() == [0, 1, 1, 2]


def test_memory_decides_on_slots_and_pages():
    """Responses of 16,384 tokens at most are taken to hold 512 on average, four pages: of 10 bytes, a slot of 40."""
    assert fit(70 * 80, page=10, slot=40, length=16_384, most=4096).slots == 64  # 70 would do, and are no size
    assert fit(70 * 80, page=10, slot=40, length=16_384, most=4096).pages == (5600 - 64 * 40) // 10
    assert fit(96 * 80, page=10, slot=40, length=16_384, most=4096).slots == 96
    # What no response could use is left: more slots than responses, more pages than slots can fill.
    few = fit(10**9, page=10, slot=40, length=16_384, most=5)
    assert (few.slots, few.pages) == (6, 6 * 129)
    # Two responses of 128 pages, and the end of a prompt, have room in any case.
    assert fit(2580, page=10, slot=1, length=16_384, most=4096) == Capacity(8, 257)


def test_slots_that_are_set_are_kept():
    set_ = fit(100_000, page=10, slot=40, length=16_384, most=4096, slots=5)
    assert (set_.slots, set_.pages) == (6, 6 * 129)
    assert fit(9_000, page=10, slot=40, length=16_384, most=4096, slots=64).pages == (9_000 - 64 * 40) // 10


@pytest.mark.parametrize("room", [-5, 0, 2569])
def test_a_pool_without_room_for_two_responses_is_refused(room):
    with pytest.raises(CapacityError, match="two responses of 16,384 tokens need 257: lower rollout.max_length"):
        fit(room, page=10, slot=1, length=16_384, most=4096)
    assert fit(2570, page=10, slot=0, length=16_384, most=4096, slots=1).pages == 257


def test_more_memory_is_never_less():
    found = [fit(room, page=7, slot=3, length=4096, most=512) for room in range(7 * 66 + 3, 20_000, 97)]
    assert all(a.slots <= b.slots for a, b in zip(found, found[1:], strict=False))
    for one, room in zip(found, range(7 * 66 + 3, 20_000, 97), strict=True):
        assert one.slots * 3 + one.pages * 7 <= room


def test_a_policy_takes_what_memory_is_free(world, queries, monkeypatch):
    policy = Policy(*world, limits=Limits(max_operations=1, max_response_tokens=40, max_length=200))
    config, needed = world[0].config, []
    temporary = ModelRunner.temporary_bytes
    monkeypatch.setattr(ModelRunner, "temporary_bytes", lambda self: needed.append(temporary(self)) or needed[0])
    free = 300 * page_bytes(config, "float32") + 12 * slot_bytes(config)
    monkeypatch.setattr(module, "free_bytes", lambda mesh: free + needed[0] if needed else 2**40)
    monkeypatch.setattr(module, "fit", lambda room, *rest: fit(free, *rest))
    policy.fit_to_memory(most=24)
    assert needed[0] > 2**20
    assert (policy.slots, policy.cache_tokens) == (24, (24 * 3 - 1) * PAGE)  # no more than 24 responses can use
    policy.fit_to_memory(most=4096)
    assert policy.slots > 24 and policy.cache_tokens <= 300 * PAGE
    assert [len(group) for group in policy.rollout(queries[:2], 2)] == [2, 2]


def test_without_a_limit_nothing_can_be_decided(world):
    with pytest.raises(UserError, match="limits.max_length, which is not set"):
        Policy(*world).fit_to_memory(most=24)


def test_the_table_of_images_counts_as_taken(world, monkeypatch):
    """Rollouts have it beside their slots."""
    policy, tables = Policy(*world, limits=Limits(max_length=200)), []
    monkeypatch.setattr(ModelRunner, "temporary_bytes", lambda self: 0)
    monkeypatch.setattr(module, "free_bytes", lambda mesh: tables.append(policy.runtime._table) or 2**28)
    policy.fit_to_memory(most=8)
    assert tables[0] is not None and policy.runtime._table is None


def test_memory_bounds_the_tokens_that_a_config_gives(monkeypatch):
    """With rollout.slots = 0; and a run keeps the smaller of both."""
    saved = []
    training = SimpleNamespace(save_config=lambda: saved.append(True))
    for given, kept in ((0, 500), (300, 300), (10**9, 500)):
        policy = SimpleNamespace(slots=8, cache_tokens=500, fit_to_memory=lambda *_: None)
        config = ConfigDict(
            dict(rollout=dict(slots=0, cache_tokens=given, samples=2), grpo=dict(queries_per_episode=2))
        )
        rl.fit_to_memory(config, training, policy, None)
        assert (config.rollout.slots, config.rollout.cache_tokens, policy.cache_tokens) == (8, kept, kept)
    assert len(saved) == 3


@pytest.mark.parametrize(
    "options, shortest",
    [
        ({}, "float32"),
        ({"cache_dtype": "bfloat16"}, "bfloat16"),
        ({"weights": "int8", "cache_dtype": "float32"}, "int8"),
    ],
)
def test_the_shortest_type_decides_how_near_log_probabilities_can_be(world, options, shortest):
    assert Policy(*world, **options).runtime.shortest == shortest

"""The updates of an episode: their batches, and their least times."""

import pytest

from benchmarks import packing
from pixel_reasoner_jax.config import load_config
from pixel_reasoner_jax.config_values import OPEN
from pixel_reasoner_jax.plan.chips import Chip
from pixel_reasoner_jax.plan.lengths import Group, Turn, method_groups
from pixel_reasoner_jax.plan.measure import Phase
from pixel_reasoner_jax.plan.updates import packed_rows, update_count, update_seconds
from pixel_reasoner_jax.plan.work import Work

CHIP = Chip(flops=10.0, memory=0, memory_rate=1.0, link_rate=1.0)


@pytest.fixture
def config():
    config = load_config("rl_qwen2_5_vl_7b")
    config.rollout.samples = 2
    config.grpo.queries_per_episode = 4
    config.train.update(dict(batch_size=4, row_length=1024, micro_batch_rows=1))
    return config


def groups(*lengths):
    """Queries of two responses, each of so many tokens with its prompt."""
    return [Group(10, (), ((Turn(length - 10),),) * 2) for length in lengths]


def test_rows_are_as_many_as_the_part_with_most_needs(config):
    """Two parts: queries 0 and 2 are the first one's, 1 and 3 the second one's; each update has a query of each."""
    assert update_count(config) == 2
    # 2 x 512 tokens fill a row; 2 x 600 need two; with a part beside it, a row of 100 tokens is as long as the other.
    assert packed_rows(groups(512, 512, 512, 512), config, 2) == [1024, 1024]
    assert packed_rows(groups(512, 600, 512, 512), config, 2) == [1024, 640, 1024]
    # The second part's 512, 512, 50 and 50 tokens are one response and three.
    assert packed_rows(groups(50, 512, 50, 50), config, 2) == [512, 640]
    config.train.batch_size = 8
    assert packed_rows(groups(512, 512, 512, 512), config, 1) == [1024] * 4
    config.data.shards = 2  # of one part, one after the other
    assert packed_rows(groups(512, 100, 512, 100), config, 1) == [1024, 1024, 512]


def test_fewer_responses_are_trained_on_where_replay_takes_fewer(config):
    config.replay.method = "release"
    assert update_count(config) == 1
    assert packed_rows(groups(512, 512, 512, 512), config, 2) == [1024]


def test_packing_is_that_of_the_benchmark(monkeypatch):
    """The share of real tokens in 16 shards, of other lengths of the same kind."""
    config = load_config("rl_qwen2_5_vl_7b")
    config.grpo.queries_per_episode = 128
    monkeypatch.setitem(packing.UPDATES, "grpo", 4)
    found = method_groups(config)
    rows = packed_rows(found, config, 16)
    share = sum(sum(group.tokens()) for group in found) / (16 * sum(rows))
    assert update_count(config) == 4 and share == pytest.approx(packing.measure_shards("grpo", 16, seeds=4), abs=0.04)


def test_a_shorter_row_has_fewer_products_and_the_same_traffic(config):
    works = (Work(200.0, 4.0, 12.0), Work(0.0, 5.0, 0.0))
    phase = Phase("grpo_update", 1, True, 1, 1, 1.0, 1.0, 1.0, 1.0, 1.0, "arithmetic", 1.0, works=works)
    # 20 and 15 s of arithmetic, 12 s to receive what half a row needs too; 5 s for each of two steps of the optimizer.
    seconds = update_seconds([1024, 768, 512], config, phase, CHIP)
    assert seconds == {"arithmetic": 35.0, "interconnect": 12.0, "memory": 10.0}


def test_passes_that_score_are_counted(config):
    works = (Work(200.0, 0.0, 0.0), Work(0.0, 5.0, 0.0), Work(70.0, 0.0, 0.0))
    phase = Phase("grpo_update", 1, True, 1, 1, 1.0, 1.0, 1.0, 1.0, 1.0, "arithmetic", 1.0, works=works)
    config.grpo.correction, config.auxiliary.kl = "tis", 0.1
    assert update_seconds([1024], config, phase, CHIP)["arithmetic"] == 20 + 2 * 7
    config.passes.masked = dict(OPEN["passes"], context="masked", strength=0.5)  # which nothing asks for
    assert update_seconds([1024], config, phase, CHIP)["arithmetic"] == 20 + 2 * 7
    config.passes.masked.entropy = 0.1  # its sequences join the update as further rows
    assert update_seconds([1024], config, phase, CHIP)["arithmetic"] == 2 * 20 + 3 * 7

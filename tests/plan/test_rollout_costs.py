"""What a rollout's calls cost: hand-worked sums, and the decoding program with its cache taken off."""

import copy
import dataclasses

import jax
import pytest

from pixel_reasoner_jax.config import load_config
from pixel_reasoner_jax.models import Config
from pixel_reasoner_jax.plan.chips import HOST_RATE, Chip, Topology, topology
from pixel_reasoner_jax.plan.measure import Phase, measure
from pixel_reasoner_jax.plan.page_reads import KernelReads, ListedReads
from pixel_reasoner_jax.plan.programs import Programs
from pixel_reasoner_jax.plan.rollout_costs import RolloutCosts, layout_work, measure_step, rollout_costs
from pixel_reasoner_jax.plan.work import Work
from pixel_reasoner_jax.rollout.capacity import PAGE, page_bytes

# What is compiled for a TPU cannot be read back from the compilation cache without one.
pytestmark = pytest.mark.filterwarnings("ignore:Error reading persistent compilation cache")

CHIP = Chip(flops=100.0, memory=0, memory_rate=10.0, link_rate=1.0)


def test_work_is_bounded_by_the_slowest_rate():
    work = Work(200.0, 50.0, 3.0)
    assert work.floors(CHIP) == {"arithmetic": 2.0, "memory": 5.0, "interconnect": 3.0}
    assert work.least(CHIP) == ("memory", 5.0)
    assert work.plus(Work(200.0, 0.0, 1.0), 2) == Work(600.0, 50.0, 5.0)
    assert work.plus(Work(200.0, 0.0, 1.0), 2).least(CHIP) == ("arithmetic", 6.0)


def test_calls_by_hand():
    step, page, extend = Work(90.0, 20.0, 0.5), Work(3.0, 2.0), Work(640.0, 30.0, 4.0)
    costs = RolloutCosts(CHIP, step, page, KernelReads(4, 2), extend, 64, Work(800.0), 16)
    # Four steps and ten pages for the queries of two rows: 420 operations, 100 bytes, 2 bytes received.
    assert costs.decode_call(4, 10) == ("memory", 10.0)
    many = dataclasses.replace(costs, reads=KernelReads(4, 32))
    assert many.decode_call(4, 1000) == ("arithmetic", (4 * 90 + 32 * 3 * 1000) / 100)
    assert costs.decode_call(4, 0) == ("memory", 8.0)
    # 64 tokens, of which each reads one of two pages: 640 + 3 * 64 operations, 30 + 4 bytes.
    assert costs.extend_call(64, 2, 64) == ("arithmetic", pytest.approx(8.32))
    assert costs.extend_call(16, 0, 0) == ("interconnect", 4.0)
    assert costs.encode_call(8) == ("arithmetic", 4.0)
    assert costs.swap(3) == ("host", 6.0 / HOST_RATE)


@pytest.fixture(scope="module")
def small():
    """An experiment and a model with a loop of layers, on one device, in bfloat16."""
    config = copy.deepcopy(load_config("rl_qwen2_5_vl_7b"))
    config.processor.update(dict(image=(4, 64), crop=(4, 64), frame=(4, 64), video=(4, 8), video_frames=2))
    config.train.update(dict(row_length=512, batch_size=64))
    config.rollout.update(dict(max_length=512, slots=8))
    model = dataclasses.replace(Config.preset("tiny"), num_hidden_layers=3)
    return config, model


@pytest.mark.slow
@pytest.mark.parametrize("chips", ["cpu:1", "v5e:2x2"])
def test_decoding_without_its_cache(small, chips, request):
    """The step's products are those of the parameters, once for each slot, however long slots are declared."""
    if chips != "cpu:1":
        request.getfixturevalue("libtpu")
    (config, model), chips = small, topology(chips)
    found = measure_step(config, model, chips, slots=4)
    longer = copy.deepcopy(config)
    longer.rollout.max_length = 256
    assert measure_step(longer, model, chips, slots=4) == found and not found.reason
    programs = Programs(config, model, chips.devices)
    params, *_ = programs.build("decode")[0].arguments
    matrices = sum(leaf.size for leaf in jax.tree.leaves(params["language"]) if leaf.ndim > 1)  # the head is tied
    assert found.step.flops == pytest.approx(2 * 4 * matrices, rel=0.1)
    assert found.bytes < measure(programs, "decode", chips).bytes_per_chip
    # Its float32 parameters are rounded, and received from the others where they are sharded; the tower's, too.
    count, whole = len(chips.devices), sum(leaf.size for leaf in jax.tree.leaves(params["language"]))
    assert found.step.memory == pytest.approx(2 * whole, rel=0.01)
    layout = layout_work(measure(programs, "vision_encode", chips))
    taken = 2 * sum(leaf.size for leaf in jax.tree.leaves(params))
    assert layout.received == pytest.approx((count - 1) / count * taken, rel=0.1)
    assert layout.memory >= (2 * taken / count + taken) * 0.9


def test_costs_come_from_the_phases(small):
    config, model = small
    programs = Programs(config, model, jax.devices()[:1])
    names = ("vision_encode", "prefill")
    phases = {name: phase(name, Work(float(number), 2.0, 3.0)) for number, name in enumerate(names)}
    costs = rollout_costs(programs, phases, Work(7.0), 4, Topology("", jax.devices()[:1], CHIP), model)
    assert (costs.step, costs.encode.flops, costs.extend.flops, costs.reads) == (Work(7.0), 0.0, 1.0, ListedReads())
    assert costs.extend_tokens == 512 and costs.encode_patches % programs.row_patches == 0
    assert costs.page.memory == page_bytes(model, "bfloat16") == 3 * 2 * 2 * PAGE * 24 * 2
    assert costs.page.flops == 3 * 4 * 4 * 24 * PAGE  # layers, two products of two operations, heads, their size


def phase(name: str, *works: Work) -> Phase:
    return Phase(name, 1, True, 1, 1, 1.0, 1.0, 1.0, 1.0, 1.0, "arithmetic", 1.0, works=works)

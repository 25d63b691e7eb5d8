"""Topologies: what libtpu knows, and what to do about the rest."""

import importlib.util

import pytest

from pixel_reasoner_jax.plan.chips import TPUS, TopologyError, topology


@pytest.mark.parametrize(
    "name, says",
    [
        ("v5p", "give chips and shape, such as v5p:2x2x4"),
        ("v7x:2x2", "unknown topology 'v7x:2x2'"),
        ("v5p:16", "has 1 sizes, but v5p slices have 3"),
        ("v6e:2x2x4", "has 3 sizes, but v6e slices have 2"),
        ("v5p-24", "unknown topology 'v5p-24'"),
        ("v3-8", "unknown topology 'v3-8'"),
        ("cpu:0", "unknown topology"),
        ("cpu:4096", "xla_force_host_platform_device_count=4096"),
    ],
)
def test_bad_topologies_say_what_to_write(name, says):
    with pytest.raises(TopologyError, match=says):
        topology(name)


def test_without_libtpu_it_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(TopologyError, match=r"pip install '.\[tpu\]'; cpu:8 does without"):
        topology("v5p:2x2x4")


@pytest.mark.parametrize(
    "name, chips, hosts",
    [
        ("v4:2x2x4", 16, 4),
        ("v5p:2x2x4", 16, 4),
        ("v5e:1x1", 1, 1),
        ("v5e:2x4", 8, 1),
        ("v6e:2x2", 4, 1),
        ("v6e:2x4", 8, 1),
        ("v6e:4x8", 32, 8),
    ],
)
def test_one_device_a_chip_on_the_hosts_that_slices_have(name, chips, hosts, libtpu):
    made = topology(name)
    assert {device.process_index for device in made.devices} == set(range(hosts))
    assert len(made.devices) == chips and made.devices[0].platform == "tpu"
    assert made.chip is TPUS[name.split(":")[0]]


@pytest.mark.parametrize(
    "accelerator, shape",
    [
        ("v5p-8", "v5p:2x2x1"),
        ("v5p-16", "v5p:2x2x2"),
        ("v5p-32", "v5p:2x2x4"),
        ("v5p-64", "v5p:2x4x4"),
        ("v5p-256", "v5p:4x4x8"),
        ("v4-32", "v4:2x2x4"),
        ("v5litepod-1", "v5e:1x1"),
        ("v5litepod-8", "v5e:2x4"),
        ("v6e-32", "v6e:4x8"),
    ],
)
def test_an_accelerator_type_is_its_topology(accelerator, shape, libtpu):
    """Shapes of Google Cloud's documentation."""
    assert topology(accelerator).name == shape


@pytest.mark.parametrize("name", ["v5e:3x3", "v5p:2x2x3x", "v5p:1x3x1"])
def test_a_shape_that_is_no_slice_is_refused(name, libtpu):
    with pytest.raises(TopologyError, match="topology"):
        topology(name)


def test_a_cpu_is_a_share_of_this_machine():
    one = topology("cpu:1")
    assert len(one.devices) == 1 and one.devices[0].platform == "cpu"
    assert one.chip.flops > 1e8 and one.chip.memory > 2**28 and one.chip.memory_rate > 1e8

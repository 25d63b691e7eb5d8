"""The search for the most that fits, over sizes whose memory is known."""

import dataclasses
import types

import pytest
from ml_collections import ConfigDict

from pixel_reasoner_jax.config import ConfigError, load_config
from pixel_reasoner_jax.models import Config
from pixel_reasoner_jax.plan import search as search_module
from pixel_reasoner_jax.plan.chips import Topology
from pixel_reasoner_jax.plan.measure import Phase
from pixel_reasoner_jax.plan.search import best_mesh, largest, meshes, sizes


def phase(needed: int | None, available: int) -> Phase:
    fits = needed is not None and needed <= available
    return Phase("decode", 1, fits, needed, available, 1.0, 1.0, 1.0, 0.0, 1.0, "memory", 1.0)


def search(fixed: int, each: int, available: int, size: int, limit: int, silent: bool = False) -> tuple[int, list[int]]:
    tried = []

    def measured(size: int) -> Phase:
        tried.append(size)
        needed = fixed + each * size
        return phase(None if silent and needed > available else needed, available)

    return largest(measured, phase(fixed + each * size, available), size, limit), tried


@pytest.mark.parametrize("silent", [False, True])
@pytest.mark.parametrize("available", [99, 100, 120, 163, 164, 200, 499, 500, 10_000])
@pytest.mark.parametrize("size", [1, 2, 12])
def test_the_largest_that_fits_is_found(available, size, silent):
    expected = max((n for n in sizes(128) if 99 + n <= available), default=0)
    assert search(99, 1, available, size, 128, silent)[0] == expected


def test_two_compilations_are_enough_where_memory_grows_evenly():
    assert search(1000, 10, 2000, 8, 4096) == (96, [16, 96])
    assert search(1000, 10, 2000, 8, 8) == (8, [])


def test_sizes_are_those_that_slots_come_in():
    assert sizes(33) == [1, 2, 3, 4, 6, 8, 12, 16, 24, 32]


@pytest.mark.parametrize(
    "available, says",
    [(10_000, "4096, as many as an episode has responses"), (300, "192"), (50, "none")],
)
def test_what_ends_the_search_is_said(monkeypatch, available, says):
    measured = lambda config, model, topology, name, key, slots: phase(100 + slots, available)  # noqa: E731
    monkeypatch.setattr(search_module, "_measure", measured)
    config = load_config("rl_qwen2_5_vl_7b")
    found = search_module.largest_slots(config, None, None, phase(100 + config.rollout.slots, available))
    assert str(found) == says


def test_what_is_tried_is_said_before_it_is_compiled(monkeypatch):
    told = []

    def measured(config, model, topology, name, key, slots):
        assert told[-1] == (key, slots)
        return phase(100 + slots, 300)

    monkeypatch.setattr(search_module, "_measure", measured)
    config = load_config("rl_qwen2_5_vl_7b")
    present = phase(100 + config.rollout.slots, 300)
    search_module.largest_slots(config, None, None, present, lambda *tried: told.append(tried))
    assert told == [("rollout.slots", 128), ("rollout.slots", 192)]


def test_the_fastest_mesh_that_fits_is_recommended(monkeypatch):
    """Decoding fits a mesh with tensor alone, where the update is slower; one that does not is left at that."""
    seconds = {("decode", 1): None, ("decode", 2): 2.0, ("decode", 4): 1.0, ("grpo_update", 2): 1.0}
    compiled = []

    def measured(programs, name, topology):
        tensor = programs.mesh["tensor"]
        compiled.append((name, tensor))
        took = seconds.get((name, tensor), 3.0)
        return dataclasses.replace(phase(None if took is None else 1, 1), seconds_floor=took)

    monkeypatch.setattr(search_module, "measure", measured)

    def programs(config, *_):
        if config.mesh.data > 1:
            raise ConfigError("8 parts cannot share 4 queries")
        return types.SimpleNamespace(mesh=config.mesh, phases=("decode", "sft_update", "grpo_update"))

    monkeypatch.setattr(search_module, "Programs", programs)
    config = ConfigDict({"mesh": {"data": 1, "fsdp": -1, "tensor": 1}})
    chips, told = Topology("", devices(2, 4), None), []
    best = best_mesh(config, Config.preset("7b"), chips, lambda *tried: told.append(tried))
    assert best == {"data": 1, "fsdp": 4, "tensor": 2}  # 3 seconds in all, not 4
    assert compiled == [("decode", 1), *[(name, tensor) for tensor in (2, 4) for name in ("decode", "grpo_update")]]
    assert [(mesh["tensor"], len(phases), refused) for mesh, phases, refused in told] == [
        (1, 1, ""),
        (2, 2, ""),
        (4, 2, ""),
        (1, 0, "8 parts cannot share 4 queries"),
    ]
    monkeypatch.setattr(search_module, "measure", lambda *_: phase(None, 1))
    assert best_mesh(config, Config.preset("7b"), chips, lambda *_: None) is None


def devices(hosts: int, each: int) -> list[types.SimpleNamespace]:
    return [types.SimpleNamespace(process_index=host) for host in range(hosts) for _ in range(each)]


def test_meshes_split_heads_evenly():
    found = list(meshes(devices(1, 16), Config.preset("7b")))
    assert {mesh["tensor"] for mesh in found} == {1, 2, 4}
    assert all(mesh["data"] * mesh["fsdp"] * mesh["tensor"] == 16 for mesh in found)
    assert list(meshes(devices(1, 1), Config.preset("3b"))) == [{"data": 1, "fsdp": 1, "tensor": 1}]


@pytest.mark.parametrize("hosts, each, tensor", [(1, 8, {1, 2, 4, 8}), (2, 4, {1, 2, 4}), (2, 6, {1})])
def test_meshes_split_no_layer_among_hosts(hosts, each, tensor):
    assert {mesh["tensor"] for mesh in meshes(devices(hosts, each), Config.preset("72b"))} == tensor

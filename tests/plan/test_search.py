"""The search for the most that fits, over sizes whose memory is known."""

import dataclasses
import types

import pytest
from ml_collections import ConfigDict

from pixel_reasoner_jax.config import ConfigError, load_config
from pixel_reasoner_jax.models import Config
from pixel_reasoner_jax.parallel import MeshError
from pixel_reasoner_jax.plan import search as search_module
from pixel_reasoner_jax.plan.chips import Topology
from pixel_reasoner_jax.plan.measure import Phase
from pixel_reasoner_jax.plan.search import Meshes, MeshSearch, largest, meshes, sizes


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
    config = load_config("rl_qwen2_5_vl_7b", [("rollout.slots", "64")])
    found = search_module.largest_slots(config, None, None, phase(100 + config.rollout.slots, available))
    assert str(found) == says


def test_what_is_tried_is_said_before_it_is_compiled(monkeypatch):
    told = []

    def measured(config, model, topology, name, key, slots):
        assert told[-1] == (key, slots)
        return phase(100 + slots, 300)

    monkeypatch.setattr(search_module, "_measure", measured)
    config = load_config("rl_qwen2_5_vl_7b", [("rollout.slots", "64")])
    present = phase(100 + config.rollout.slots, 300)
    search_module.largest_slots(config, None, None, present, lambda *tried: told.append(tried))
    assert told == [("rollout.slots", 128), ("rollout.slots", 192)]


class Known:
    """Phases of known times in place of compiled ones, by their name and the size of tensor where they run."""

    def __init__(self, monkeypatch, seconds, refused=lambda config: False):
        self.compiled, self.told = [], []

        def programs(config, *_):
            if refused(config):
                raise ConfigError("8 parts cannot share 4 queries")
            return config

        def measured(config, name, topology):
            mesh = config.rollout.mesh if name == "decode" else config.mesh
            key = (name, mesh["tensor"], *(["spread"] if name == "decode" and mesh["fsdp"] > 1 else []))
            self.compiled.append((*key, config.mesh["tensor"]))
            took = seconds(*key, config)
            return dataclasses.replace(phase(None if took is None else 1, 1), phase=name, seconds_floor=took or 0.1)

        monkeypatch.setattr(search_module, "measure", measured)
        monkeypatch.setattr(search_module, "Programs", programs)

    def best(self, **sections) -> Meshes | None:
        config = ConfigDict({"mesh": {"data": 1, "fsdp": -1, "tensor": 1}, **sections})
        tell = lambda *tried: self.told.append(tried)  # noqa: E731
        return MeshSearch(config, Config.preset("7b"), Topology("", devices(2, 4), None), tell).best()


ROLLOUT = {"mesh": {"data": -1, "fsdp": 1, "tensor": 0}}


def test_the_fastest_meshes_that_fit_are_recommended(monkeypatch):
    """Each rollouts' mesh is compiled once, but for one that was the fastest and does not fit beside another mesh."""

    def seconds(name, tensor, *others):
        *_, config = others
        if name == "grpo_update":
            return {1: 5.0, 2: 4.0, 4: 4.5}[tensor]
        if tensor == 4 and config.mesh["tensor"] == 2:
            return None  # too little is left there
        return {1: 3.0, 2: 2.0, 4: 1.0}[tensor]

    known = Known(monkeypatch, seconds, lambda config: config.mesh["data"] > 1)
    best = known.best(rollout=ROLLOUT)
    # 1.0 + 4.5, less than 2.0 + 4.0, and than 1.0 + 5.0.
    assert best == (dict(data=1, fsdp=2, tensor=4), dict(data=2, fsdp=1, tensor=4))
    assert known.compiled == [
        *[("decode", tensor, 1) for tensor in (1, 2, 4)],
        ("grpo_update", 1, 1),
        ("decode", 4, 2),
        ("decode", 2, 2),
        ("grpo_update", 2, 2),
        ("decode", 4, 4),
        ("grpo_update", 4, 4),
    ]
    assert [(meshes.training["tensor"], refused) for meshes, phase, refused in known.told if phase is None] == [
        (1, "8 parts cannot share 4 queries")
    ]


def test_parameters_are_gathered_in_every_step_for_want_of_memory_alone(monkeypatch):
    known = Known(
        monkeypatch, lambda name, tensor, *others: 1.0 * tensor if name != "decode" or len(others) > 1 else None
    )
    assert known.best(rollout=ROLLOUT) == (dict(data=1, fsdp=8, tensor=1), dict(data=1, fsdp=8, tensor=1))
    known = Known(monkeypatch, lambda *_: None)
    assert known.best(rollout=ROLLOUT) is None and {name for name, *_ in known.compiled} == {"decode"}


def test_meshes_whose_cache_cannot_be_read_are_left_out(monkeypatch):
    """As in int8, with one head of keys on each device; other meshes of rollouts beside the same are tried."""
    known = Known(monkeypatch, lambda name, tensor, *_: 1.0 / tensor)
    programs = search_module.Programs

    def refusing(config, *others):
        if config.rollout.mesh["tensor"] == 4:
            raise MeshError("rollout.cache_dtype 'int8' does not go with it")
        return programs(config, *others)

    monkeypatch.setattr(search_module, "Programs", refusing)
    assert known.best(rollout=ROLLOUT) == (dict(data=1, fsdp=2, tensor=4), dict(data=4, fsdp=1, tensor=2))
    assert "rollout.cache_dtype 'int8' does not go with it" in {refused for *_, refused in known.told}


def test_without_rollouts_the_update_decides(monkeypatch):
    known = Known(monkeypatch, lambda name, tensor, *_: None if tensor == 1 else 2.0 / tensor)
    assert known.best() == (dict(data=1, fsdp=2, tensor=4), None)
    assert {name for name, *_ in known.compiled} == {"sft_update"}


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

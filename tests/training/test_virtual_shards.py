"""How shards are assigned to parts of the mesh, and records to shards: evenly, or not at all."""

import copy
import types

import pytest

from pixel_reasoner_jax.config import ConfigError, load_config
from pixel_reasoner_jax.training import virtual_shards as shards_module
from pixel_reasoner_jax.training.virtual_shards import VirtualShards


@pytest.fixture
def virtual_shards(monkeypatch):
    """Makes the shards of a config on a mesh of `parts` parts, of which this process feeds the last two."""

    def shards(phase: str, parts: int, **settings) -> VirtualShards:
        config = copy.deepcopy(load_config(f"{phase}_qwen2_5_vl_7b"))
        config.update_from_flattened_dict({key.replace("__", "."): value for key, value in settings.items()})
        monkeypatch.setattr(shards_module, "parts", lambda mesh: mesh.parts)
        monkeypatch.setattr(shards_module, "local_parts", lambda mesh: (mesh.parts - 2, mesh.parts - 1))
        return VirtualShards(config, types.SimpleNamespace(parts=parts))

    return shards


def test_an_update_without_sequences_has_no_batches(virtual_shards):
    """In all processes, which learn of each other how many batches there are."""
    shards = virtual_shards("sft", 4, train__batch_size=128)
    assert shards.agree_on_shapes({2: [], 3: []}, None, 1)() == []


def test_parts_serve_shards_and_shards_read_evenly(virtual_shards):
    shards = virtual_shards("sft", 4, train__batch_size=128)
    assert (shards.count, shards.local, shards.share) == (4, [2, 3], 32)
    shards = virtual_shards("rl", 4, data__shards=8, grpo__queries_per_episode=512)
    assert (shards.count, shards.local, shards.share) == (8, [4, 5, 6, 7], 64)


@pytest.mark.parametrize(
    ("phase", "parts", "settings", "says"),
    [
        ("rl", 8, dict(data__shards=12), "config.data.shards is 12, but data x fsdp of the mesh is 8"),
        (
            "sft",
            8,
            dict(train__batch_size=12),
            "config.train.batch_size is 12; with 8 shards .one for each of data x fsdp",
        ),
        ("rl", 8, dict(grpo__queries_per_episode=4), "config.grpo.queries_per_episode is 4; with 8 shards"),
        ("rl", 2, dict(data__shards=6), r"queries_per_episode is 512; with 6 shards \(config.data.shards\)"),
    ],
)
def test_shards_that_cannot_be_even_are_refused(virtual_shards, phase, parts, settings, says):
    with pytest.raises(ConfigError, match=says):
        virtual_shards(phase, parts, **settings)

"""The plan of an episode, of programs whose work is given: nothing is compiled but empty slots."""

import copy
import dataclasses
import json

import jax
import pytest

from pixel_reasoner_jax.config import ConfigError, load_config
from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.models import Config
from pixel_reasoner_jax.plan import episode as module
from pixel_reasoner_jax.plan import in_flight
from pixel_reasoner_jax.plan.chips import HOST_RATE, Chip, Topology
from pixel_reasoner_jax.plan.episode import PHASES, QUERIES, STORAGE_RATE, plan_episode
from pixel_reasoner_jax.plan.in_flight import DoesNotFit, decide
from pixel_reasoner_jax.plan.lengths import Group, Turn, method_groups
from pixel_reasoner_jax.plan.measure import Phase
from pixel_reasoner_jax.plan.programs import Programs, bytes_per_device
from pixel_reasoner_jax.plan.rollout_costs import DecodingStep
from pixel_reasoner_jax.plan.work import Work
from pixel_reasoner_jax.rollout.capacity import CapacityError, page_bytes

MEMORY = 2**30
CHIP = Chip(flops=1e9, memory=MEMORY, memory_rate=1e9, link_rate=1e9)
OTHERS = 2**29  # bytes that the rollout's programs need beside the cache


@pytest.fixture(scope="module")
def small():
    config = copy.deepcopy(load_config("rl_qwen2_5_vl_7b"))
    config.processor.update(dict(image=(4, 64), crop=(4, 64), frame=(4, 64), video=(4, 8), video_frames=2))
    config.train.update(dict(row_length=512, batch_size=8))
    config.rollout.update(dict(max_length=512, slots=4, samples=4))
    config.grpo.queries_per_episode = 4
    return config, Config.preset("tiny")


def phase(name: str, needed: int | None, *works: Work, reason: str = "") -> Phase:
    fits = needed is not None and needed <= MEMORY
    return Phase(name, 1, fits, needed, MEMORY, 1.0, 1.0, 1.0, 1.0, 1.0, "memory", 1.0, reason, works)


@pytest.fixture
def plan(small, monkeypatch):
    """Plans an episode; decoding needs `slot` bytes for each slot and `OTHERS`."""
    config, model = small
    compiled = []

    def measure_step(config, model, topology, slots):
        compiled.append(slots)
        return DecodingStep(Work(1e6, 2e6), OTHERS + slots * slot, "")

    slot = 1000
    monkeypatch.setattr(in_flight, "measure_step", measure_step)

    def run(groups=None, settings=(), **changed):
        changed_config = copy.deepcopy(config)
        changed_config.update_from_flattened_dict(dict(settings))
        chips = Topology("", jax.devices()[:1], CHIP)
        programs = Programs(changed_config, model, chips.devices)
        works = {
            "grpo_update": (Work(2e9), Work(0.0, 5e8)),
            "vision_encode": (*[Work(1e6, 1e6)] * 2, Work(0.0, 3e9, 5e9)),
        }
        cache = programs.cache_bytes
        phases = [
            changed.get(name, phase(name, OTHERS + cache, *works.get(name, (Work(1e6, 1e6),)))) for name in PHASES
        ]
        groups = method_groups(changed_config) if groups is None else groups
        held = decide(changed_config, model, chips, programs, {phase.phase: phase for phase in phases})
        found = plan_episode(changed_config, model, chips, programs, phases, groups, held)
        return found, programs, compiled

    return run


def test_slots_that_are_set_and_the_pages_that_are_left(plan, small):
    found, programs, compiled = plan()
    page = page_bytes(small[1], "bfloat16")
    assert compiled == [4] and found.capacity.slots == 4
    assert found.capacity.pages == min(
        (MEMORY - OTHERS - 4000) * 0.95 // page, 4 * 5
    )  # five pages for the longest response
    assert found.parts == found.chips == 1


def test_as_many_slots_as_memory_allows(plan, small):
    """Decoding is compiled for one slot, to know what there is room for, and for as many as there is room for."""
    found, _, compiled = plan(settings={"rollout.slots": 0})
    assert compiled == [1, 16] and found.capacity.slots == 16 == found.rollout.in_flight  # of 16 responses
    assert found.capacity.pages == 16 * 5


def test_the_parts_of_an_episode_add_up(plan, small):
    found, programs, _ = plan()
    figures = found.to_json()
    assert json.loads(json.dumps(figures)) == figures and figures["fits"] is True
    assert figures["seconds"] == pytest.approx(
        sum(figures[f"{name}_seconds"] for name in ("rollout", "update", "reshard", "checkpoint"))
    )
    assert figures["rollout_seconds"] == pytest.approx(
        sum(figures[f"{name}_seconds"] for name in ("encode", "prefill", "decode", "swap"))
    )
    assert figures["rollout_tokens_per_second"] * figures["rollout_seconds"] == pytest.approx(figures["sampled_tokens"])
    assert figures["sampled_tokens"] == sum(
        turn.sampled for group in found.groups for turns in group.responses for turn in turns
    )
    assert figures["reshard_seconds"] == 5.0 and figures["bounds"]["reshard"] == "interconnect"
    assert figures["bounds"]["update"] == "arithmetic" and "swap" not in figures["bounds"]
    assert figures["responses"] == 16 and 0 <= figures["idle_share"] < 1 and figures["in_flight"] == 4
    assert figures["hours"] == figures["chip_hours"] == pytest.approx(figures["episodes"] * figures["seconds"] / 3600)
    # The state's copy to the host is waited for, its writing is not, as long as an episode takes longer.
    assert figures["checkpoint_seconds"] == pytest.approx(programs.state_bytes / HOST_RATE)
    assert figures["checkpoint_written_seconds"] == pytest.approx(programs.state_bytes / STORAGE_RATE)


def test_the_state_is_parameters_and_moments(plan):
    _, programs, _ = plan()
    parameters, *_ = programs.build("prefill")[0].arguments
    assert programs.state_bytes == pytest.approx(6 * bytes_per_device(parameters), rel=1e-2)  # float32 for bfloat16


def test_idle_rows_of_the_tail(plan):
    """Four responses in four slots, of 10, 20, 30 and 40 tokens: of 40 steps' 160 rows 100 are sampled in."""
    one = Group(20, (), tuple((Turn(count),) for count in (10, 20, 30, 40)))
    found, *_ = plan([one])
    assert found.rollout.steps == 40 and found.idle_share == pytest.approx(60 / 160)


def test_a_checkpoint_that_is_not_written_in_time_is_waited_for(plan, monkeypatch):
    monkeypatch.setattr(module, "STORAGE_RATE", 10.0)
    found, programs, _ = plan()
    written = programs.state_bytes / 10.0
    others = found.seconds_of() - found.seconds_of("checkpoint")
    assert found.seconds["checkpoint"]["storage"] == pytest.approx(written - others)
    rarely, *_ = plan(settings={"train.checkpoint_every": 10**9})
    assert rarely.seconds["checkpoint"]["storage"] == 0 and rarely.bounds["checkpoint"] == "host"


def test_the_run_has_the_episodes_that_its_queries_fill(plan, tmp_path):
    assumed, *_ = plan()
    assert (assumed.episodes, assumed.queries, assumed.assumed) == (QUERIES // 4, QUERIES, True)
    table = tmp_path / "queries.jsonl"
    table.write_text("".join(json.dumps({"id": str(i), "question": "?", "answer": "1"}) + "\n" for i in range(11)))
    known, *_ = plan(settings={"data.path": str(table)})
    assert (known.episodes, known.queries, known.assumed) == (2, 11, False)
    steps, *_ = plan(settings={"train.steps": 5})
    assert (steps.episodes, steps.queries) == (3, None)  # of two updates each
    table.write_text(json.dumps({"id": "0", "question": "?", "answer": "1"}) + "\n")
    with pytest.raises(ConfigError, match="do not fill an episode"):
        plan(settings={"data.path": str(table)})


@pytest.mark.parametrize(
    "name, changed, says",
    [
        (
            "grpo_update",
            dict(bytes_per_chip=MEMORY + 5, fits=False),
            "update does not fit: grpo_update needs 1,073,741,829",
        ),
        ("grpo_update", dict(fits=False, reason="Ran out"), "the update does not fit: Ran out"),
        ("extend", dict(bytes_per_chip=None), "extend does not fit: the compiler ran out of memory"),
    ],
)
def test_what_does_not_fit_says_so(plan, name, changed, says):
    whole = phase(name, OTHERS, Work(1e6), Work(1e6))
    with pytest.raises(DoesNotFit, match=says):
        plan(**{name: dataclasses.replace(whole, **changed)})


def test_no_room_for_one_response(plan):
    with pytest.raises(CapacityError, match="has room for 0 pages"):
        plan(prefill=phase("prefill", 2 * MEMORY, Work(1e6)))


def test_prompts_that_leave_no_room(plan):
    with pytest.raises(UserError, match="no prompt leaves room for a response"):
        plan([Group(600, (), ((), ()))])

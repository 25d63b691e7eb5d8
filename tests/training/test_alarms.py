"""When each alarm sounds, and how often it is told."""

import logging

import pytest

from pixel_reasoner_jax.config import load_config
from pixel_reasoner_jax.training.alarms import ALARMS, AlarmLog, sounding

HEALTHY = {
    "rapr": 0.4, "reward_bonus": 0.02, "uniform_groups": 0.3, "entropy": 0.5, "truncated": 0.1, "clip_fraction": 0.01,
    "logprob_difference": 0.01, "failure_rate": 0.2,
}  # fmt: skip
BAD = {
    "rapr": [{"rapr": 0.0}],
    "bonus": [{"rapr": 0.1, "reward_bonus": 0.0}],
    "uniform_groups": [{"uniform_groups": 0.95}],
    "entropy_low": [{"entropy": 0.001}],
    "entropy_high": [{"entropy": 2.0}],
    "truncated": [{"truncated": 0.9}],
    "clip_fraction": [{"clip_fraction": 0.5}],
    "mismatch": [{"logprob_difference": 0.2}, {"logprob_difference_after_image": 0.2}],
    "failures": [{"failure_rate": 0.99}],
}


@pytest.fixture(scope="module")
def config():
    return load_config("rl_qwen2_5_vl_7b")


def run(config, caplog, *lines):
    """What each episode's metrics say, and the episodes and alarms in the log."""
    log, said = AlarmLog(config), []
    with caplog.at_level(logging.WARNING):
        said += [sorted(log.after(number, line)) for number, line in enumerate(lines, start=1)]
    return said, [tuple(message.split(": ")[:2]) for message in caplog.messages]


def test_a_healthy_run_is_silent(config, caplog):
    assert run(config, caplog, *[HEALTHY] * 9) == ([[]] * 9, [])
    assert sounding([], config) == sounding([{}], config) == []


@pytest.mark.parametrize(("name", "change"), [(name, change) for name, changes in BAD.items() for change in changes])
def test_each_alarm_sounds_for_what_it_is_for_and_tells_what_to_try(name, change, config, caplog):
    episodes = ALARMS[name].episodes
    said, told = run(config, caplog, *[HEALTHY] * 2, *[HEALTHY | change] * 4)
    silent = 2 + episodes - 1
    assert said == [[]] * silent + [[f"alarm_{name}"]] * (6 - silent)
    ((episode, which),) = told
    assert episode == f"episode {silent + 1}" and which.startswith(f"alarm_{name} (")
    assert "; try " in caplog.messages[0] or "; stop" in caplog.messages[0]


def test_every_alarm_is_tried():
    assert BAD.keys() == ALARMS.keys()


def test_an_alarm_is_told_again_only_after_it_has_been_silent(config, caplog):
    none, some = HEALTHY | {"rapr": 0.0, "reward_bonus": 0.01}, HEALTHY
    lines = [none] * 5 + [some] + [none] * 4
    said, told = run(config, caplog, *lines)
    assert [bool(one) for one in said] == [False, False, True, True, True, False, False, False, True, True]
    assert [episode for episode, _ in told] == ["episode 3", "episode 9"]


def test_a_run_that_goes_on_does_not_tell_again(config, caplog):
    none = HEALTHY | {"rapr": 0.0, "reward_bonus": 0.01}
    log = AlarmLog(config, [none] * 4)
    assert log.after(5, none) == {"alarm_rapr": 1.0}
    assert not caplog.messages
    assert AlarmLog(config, [none] * 2).after(3, none) and len(caplog.messages) == 1


def test_what_is_as_it_was_asked_for_is_no_alarm(config):
    config = config.copy_and_resolve_references()
    unpaid = [HEALTHY | {"reward_bonus": 0.0}]
    assert sounding(unpaid * 5, config) == []  # operations are used as much as the floor asks for
    rare = [HEALTHY | {"rapr": 0.1, "reward_bonus": 0.0}]
    assert sounding([rare[0] | {"rate_all": 0.35}] * 5, config) == []  # the average is not below the floor yet
    assert sounding([rare[0] | {"alpha": 0.0}] * 5, config) == []  # the multiplier is 0 at present
    assert sounding(rare * 5, config) == ["bonus"]
    config.rewards.terms.bonus.weight = 0.0  # it is only measured
    assert sounding(rare * 5, config) == []
    config.rewards.terms.bonus.weight, config.curiosity.alpha = 1.0, 0.0
    assert sounding(rare * 5, config) == []
    config.operations.names = ()  # none is offered
    assert sounding([HEALTHY | {"rapr": 0.0}] * 5, config) == []
    config.operations.names, config.rollout.max_operations = ("zoom_image",), 0
    assert sounding([HEALTHY | {"rapr": 0.0}] * 5, config) == []
    config.rollout.max_operations = 1
    assert sounding([HEALTHY | {"rapr": 0.0}] * 5, config) == ["rapr"]
    assert sounding([HEALTHY | {"logprob_difference": 0.03}], config) == []
    config.model.dtype = "float32"
    assert sounding([HEALTHY | {"logprob_difference": 0.03}], config) == ["mismatch"]


def test_episodes_without_a_figure_are_passed_over(config):
    """An episode that made no update has no entropy, one without a call no rate of failures."""
    low = HEALTHY | {"entropy": 0.001}
    without = {name: value for name, value in HEALTHY.items() if name != "entropy"}
    assert sounding([low, without, low, without | {"entropy": None}, low], config) == ["entropy_low"]
    assert sounding([low, without, low], config) == []
    assert sounding([HEALTHY | {"entropy": float("nan")}] * 3, config) == []

"""Queries asked in stages, and what is learned from sub-groups: rewards, advantages and credit worked by hand."""

import contextlib
import copy
import dataclasses

import numpy as np
import pytest
from safetensors.numpy import load_file

from pixel_reasoner_jax.config import load_config
from pixel_reasoner_jax.config_values import OPEN
from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.metrics import read_metrics
from pixel_reasoner_jax.rollout.subgroups import Subgroup, Subgroups
from pixel_reasoner_jax.training import rl, rl_episode
from pixel_reasoner_jax.training.collecting import Collected, collect
from pixel_reasoner_jax.training.credit import find_credit, turns
from pixel_reasoner_jax.training.curiosity_state import CuriosityState
from pixel_reasoner_jax.training.grpo import reward_groups, why_no_update
from pixel_reasoner_jax.trajectory import Ended, Source
from tests.training.interruption import interrupted
from tests.training.test_grpo import WORKED, response

CURIOSITY = CuriosityState(alpha=1.0, beta=0.05)
QUERIES = [dict(id="a", question="?", answer="5"), dict(id="b", question="?", answer="5")]


class Pool:
    def score(self, pairs, recovered):
        return [float(text.endswith("5}")) for text, _ in pairs]


def answering(answers):
    """Rolls out parts: `answers` of (query, column)."""

    def ask(parts):
        return contextlib.nullcontext(
            (number, dataclasses.replace(response(answers[part.number, column]), sample=column))
            for number, part in enumerate(parts)
            for column in range(part.first, part.first + part.samples)
        )

    return ask


def test_a_subgroup_is_asked_where_the_one_that_it_needs_is_right_enough():
    """PEARL's: without any right look, reasoning is not asked for."""
    subgroups = Subgroups(
        [Subgroup("look", 2, compared="look", counted=False), Subgroup("reason", 2, needs="look", compared="reason")]
    )
    answers = {(0, 0): 4, (0, 1): 4, (1, 0): 5, (1, 1): 4, (1, 2): 5, (1, 3): 4}
    found = collect(answering(answers), None, QUERIES, subgroups, Pool())
    assert found.asked.tolist() == [[True, True, False, False], [True] * 4]
    assert found.correct.tolist() == [[0, 0, 0, 0], [1, 0, 1, 0]]
    assert [one.ended for one in found.groups[0]] == [Ended.ANSWER] * 2 + [Ended.NOT_ASKED] * 2
    config = load_config("rl_qwen2_5_vl_7b", [("rewards.terms.bonus.weight", "0")])
    rewarded = reward_groups(found, config, CURIOSITY, None, subgroups)
    assert rewarded.advantages.tolist() == [[0] * 4, [0.5, -0.5, 0.5, -0.5]]
    assert rewarded.trained.tolist() == [[False] * 4, [True] * 4]
    figures = rewarded.metrics()
    assert figures["accuracy"] == 0.5 and figures["accuracy_look"] == 0.25 and figures["rapr_reason"] == 0
    assert rewarded.failed_queries == 0


def test_an_episode_that_asked_no_subgroup_that_counts_says_so():
    """As PEARL's, whose model cannot see yet."""
    subgroups = Subgroups([Subgroup("look", 2, counted=False), Subgroup("reason", 6, needs="look")])
    answers = {(row, column): 4 for row in (0, 1) for column in (0, 1)}
    found = collect(answering(answers), None, QUERIES, subgroups, Pool())
    config = load_config("rl_qwen2_5_vl_7b")
    config.grpo.queries_per_episode = 2
    rewarded = reward_groups(found, config, CURIOSITY, None, subgroups)
    figures = {**rewarded.metrics(), "failed_queries": 0, "answers_unchecked": 0}
    assert "accuracy" not in figures and figures["accuracy_look"] == 0
    assert why_no_update(figures, config).startswith("no response to any of 2 queries counts: the sub-groups that do")


def test_queries_that_no_subgroup_can_ask_say_so():
    """As PEARL's without a checklist."""
    subgroups = Subgroups([Subgroup("look", 2, query=lambda query, earlier: None), Subgroup("reason", 6, needs="look")])
    found = collect(answering({}), None, QUERIES, subgroups, Pool())
    assert found.groups == [[], []] and not found.asked.any()
    config = load_config("rl_qwen2_5_vl_7b", [("rollout.subgroups.look.samples", "8")])
    config.grpo.queries_per_episode = 2
    rewarded = reward_groups(found, config, CURIOSITY, None, subgroups)
    reason = why_no_update({**rewarded.metrics(), "failed_queries": rewarded.failed_queries}, config)
    assert reason == (
        "the media of all 2 queries could not be used, or no sub-group could ask them (rollout.subgroups)"
    )


def test_a_prompt_that_a_subgroup_makes_too_long_is_not_asked(caplog):
    """As by a checklist of any length: what has no response would be a sequence that no row holds."""
    subgroups = Subgroups([Subgroup("long", 2), Subgroup("short", 2), Subgroup("third", 1, needs="long")])

    def ask(parts):
        with answering(dict.fromkeys(((0, column) for column in range(5)), 5))(parts) as stream:
            ended = [(number, one) for number, one in stream]
        for number, one in ended:
            if parts[number].subgroup.label == "long":
                one.source[:], one.train[:] = [0, 0, 0, 3], False  # its words that a response begins with alone
        return contextlib.nullcontext(ended)

    found = collect(ask, None, QUERIES[:1], subgroups, Pool())
    assert found.asked.tolist() == [[False, False, True, True, False]] and found.correct.tolist() == [[0, 0, 1, 1, 0]]
    assert [len(one.tokens) for one in found.groups[0]] == [0, 0, 4, 4, 0]
    assert caplog.text.count("not asked: query 'a': its prompt in sub-group 'long' leaves no room") == 1


def test_scores_and_given_responses_of_ones_own():
    """A gold response joins the group that it is compared with; the other query has none."""
    gold = Subgroup("gold", 1, response=lambda query: query.get("gold_response"), trains_given=True)
    graded = Subgroup("sampled", 2, scored=lambda trajectory, query: 0.25 + 0.5 * (query["id"] == "b"))
    subgroups = Subgroups([graded, gold])

    def give(part):
        given = response(5)
        return dataclasses.replace(
            given, sample=part.first, source=np.full(4, Source.GIVEN, np.int8), train=np.zeros(4, bool)
        )

    queries = [{**QUERIES[0], "gold_response": "5"}, QUERIES[1]]
    found = collect(answering({(q, c): 4 for q in (0, 1) for c in (0, 1)}), give, queries, subgroups, Pool())
    assert found.correct.tolist() == [[0.25, 0.25, 1.0], [0.75, 0.75, 0.0]]
    assert found.asked.tolist() == [[True] * 3, [True, True, False]]
    assert found.groups[0][2].train.all()
    config = load_config("rl_qwen2_5_vl_7b", [("rewards.terms.bonus.weight", "0"), ("grpo.advantage", "std")])
    rewarded = reward_groups(found, config, CURIOSITY, None, subgroups)
    np.testing.assert_allclose(rewarded.advantages[0], [-0.57735, -0.57735, 1.1547], atol=1e-4)
    assert rewarded.advantages[1].tolist() == [0] * 3 and rewarded.uniform.tolist() == [False, True]
    [given] = [one for place, one in rewarded.sequences().items() if place == (0, 2)]
    assert given.given.tolist() == [True] * 4
    wrong = Subgroups([dataclasses.replace(graded, scored=lambda trajectory, query: None)])
    with pytest.raises(UserError, match="the score of sub-group 'sampled' must be a finite number for each of 2 resp"):
        collect(answering({(0, 0): 4, (0, 1): 4}), None, QUERIES[:1], wrong, Pool())


def test_a_given_response_is_in_every_column_and_a_query_that_cannot_be_opened_is_left_out(caplog):
    """As with media of queries that are asked: the others go on."""
    gold = Subgroup("gold", 2, response=lambda query: "5")

    def give(part):
        if part.query["id"] == "a":
            raise UserError("a.png: no such file")
        return response(5)

    subgroups = Subgroups([gold, Subgroup("sampled", 1)])
    found = collect(answering({(0, 2): 5, (1, 2): 4}), give, QUERIES, subgroups, Pool())
    assert found.asked.tolist() == [[False] * 3, [True] * 3] and found.correct.tolist() == [[0] * 3, [1, 1, 0]]
    assert [one.sample for one in found.groups[1]] == [0, 1, 2] and found.groups[0] == []
    assert "left out: query 'a': a.png: no such file" in caplog.text


def test_what_is_needed_of_a_subgroup_that_was_asked_in_part():
    """The mean is over the responses that there are; who asks for each of them finds each in its column."""
    seen = []

    def second_alone(query, earlier):
        return [None, query]

    def for_each(query, earlier):
        seen.append([one.ended for one in earlier])
        return [None if one.ended == Ended.NOT_ASKED else query for one in earlier]

    subgroups = Subgroups(
        [
            Subgroup("a", 2, query=second_alone),
            Subgroup("b", 2, query=for_each, needs="a", above=0.5),
            Subgroup("c", 2, query=for_each, needs="b", above=0.5),
        ]
    )
    found = collect(answering({(0, 1): 5, (0, 3): 5, (0, 5): 4}), None, QUERIES[:1], subgroups, Pool())
    assert seen == [[Ended.NOT_ASKED, Ended.ANSWER]] * 2
    assert found.asked.tolist() == [[False, True] * 3] and found.correct.tolist() == [[0, 1, 0, 1, 0, 0]]


def test_terms_see_the_queries_and_the_subgroups(monkeypatch):
    import pixel_reasoner_jax.rewards.terms as terms

    def near(responses):
        return np.array([[query["depth"]] for query in responses.queries]) * (responses.labels == "b")

    monkeypatch.setitem(terms.TERMS, "accuracy", near)
    subgroups = Subgroups([Subgroup("a", 1), Subgroup("b", 1)])
    groups = [[response(4), response(4, WORKED)]] * 2
    collected = Collected([{"depth": 2.0}, {"depth": 3.0}], groups, np.zeros((2, 2)), np.ones((2, 2), bool))
    config = load_config(
        "rl_qwen2_5_vl_7b", [("rewards.terms.bonus.weight", "0"), ("rewards.terms.penalty.weight", "0")]
    )
    rewarded = reward_groups(collected, config, CURIOSITY, None, subgroups)
    assert rewarded.rewards.tolist() == [[0, 2], [0, 3]]


def test_credit_goes_to_turns_and_tokens(monkeypatch):
    """A module of one's own; a number for all tokens, or one for each."""
    one = response(5)
    source = np.array([0, 1, 1, 2, 2, 1], np.int8)
    two = dataclasses.replace(one, tokens=np.zeros(6, np.int32), source=source, train=source == 1)
    assert turns(two).tolist() == [-1, 0, 0, -1, -1, 1]
    monkeypatch.setitem(
        globals(),
        "by_turn",
        lambda responses, advantages: [[advantages[0, 0] * 2, np.where(turns(two) == 1, 3.0, advantages[0, 1])]],
    )
    config = load_config("rl_qwen2_5_vl_7b", [("grpo.credit", f"{__name__}:by_turn")])
    collected = Collected([{}], [[one, two]], np.array([[1.0, 0.0]]), np.ones((1, 2), bool))
    rewarded = reward_groups(collected, config, CURIOSITY)
    sequences = rewarded.sequences()
    assert sequences[0, 0].advantage.tolist() == [1.0] * 4
    assert sequences[0, 1].advantage.tolist() == [-0.5] * 5 + [3.0]
    advantages, *_ = rewarded.candidates()
    assert advantages.tolist() == [[1.0, 3.0]]
    beside = np.where(source == Source.SAMPLED, 0.0, 9.0)  # nothing is learned there, nor is a response replayed for it
    monkeypatch.setitem(globals(), "by_turn", lambda responses, advantages: [[1.0, beside]])
    advantages, *_ = reward_groups(collected, config, CURIOSITY).candidates()
    assert advantages.tolist() == [[1.0, 0.0]]
    monkeypatch.setitem(globals(), "by_turn", lambda responses, advantages: [[1.0, [1.0, 2.0]]])
    with pytest.raises(UserError, match="credit .* must be a finite number for each of 6 tokens"):
        reward_groups(collected, config, CURIOSITY)
    for returned in ([[1.0]], None, 1.0, np.float32(1), [1.0], [None], np.zeros(2), iter([[1.0, 1.0]])):
        monkeypatch.setitem(globals(), "by_turn", lambda responses, advantages, returned=returned: returned)
        with pytest.raises(UserError, match="must return a list for each query, with an entry for each of its resp"):
            reward_groups(collected, config, CURIOSITY)
    assert find_credit("none", None, np.zeros((1, 2))) is None


ENTRIES = {
    "noisy": dict(samples=1, images="noisy", strength=0.2, clean=True),
    "looks": dict(samples=1, prefix="Let me", trains_given=True, guidelines="Look."),
    "blind": dict(samples=1, operations=False, compared="blind"),
    "gold": dict(samples=1, response=f"{__name__}:answer_first", trains_given=True),
}
"""Noise, words that a response begins with, no operations, and the data's response, whose tokens are scored."""


def answer_first(query):
    return "The digit is \\boxed{3}."


@pytest.fixture
def config_of_subgroups(rl_config):
    for label, entry in ENTRIES.items():
        rl_config.rollout.subgroups[label] = {**OPEN["rollout.subgroups"], **entry}
    return rl_config


def test_a_run_with_subgroups_of_every_kind(config_of_subgroups, luck_pays, monkeypatch):
    scored = []
    fill = rl_episode.with_logprobs

    def seen(sequences, *rest):
        filled = fill(sequences, *rest)
        scored.extend(one for one in filled.values() if one.given is not None)
        return filled

    monkeypatch.setattr(rl_episode, "with_logprobs", seen)
    config_of_subgroups.train.steps = 1
    lines = read_metrics(rl.run(config_of_subgroups).parent)
    assert lines[0]["updates"] == 1 and {f"accuracy_{label}" for label in ENTRIES} <= lines[0].keys()
    assert scored and all((one.logprobs[one.given] < 0).all() for one in scored)


@pytest.mark.slow
def test_a_resumed_run_with_subgroups_ends_where_an_uninterrupted_one_does(config_of_subgroups, luck_pays, monkeypatch):
    """With noise that fades, and replayed responses of all sub-groups."""
    config_of_subgroups.schedules = (("rollout.subgroups.noisy.strength", "linear", 0.2, 0.0),)
    broken = copy.deepcopy(config_of_subgroups)
    broken.workdir += "_broken"
    whole = rl.run(config_of_subgroups)
    interrupted(monkeypatch, rl.run, broken, after=3)  # the checkpoint is step 2's
    resumed = rl.run(broken, resume=True)
    expected, actual = (load_file(directory / "model.safetensors") for directory in (whole, resumed))
    for name in expected:
        np.testing.assert_array_equal(expected[name], actual[name], err_msg=name)
    lines, again = (read_metrics(directory.parent) for directory in (whole, resumed))
    timed = ("seconds", "time", "tokens_per_second")
    for one, other in zip(lines, again, strict=True):
        assert {k: v for k, v in one.items() if not k.startswith(timed)} == {
            k: v for k, v in other.items() if not k.startswith(timed)
        }
    assert lines[-1]["replayed"] > 0

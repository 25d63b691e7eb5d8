"""From trajectories to rewards and figures: every figure of an episode, computed by hand."""

import contextlib
import dataclasses
import threading

import numpy as np
import pytest

from pixel_reasoner_jax.config import load_config
from pixel_reasoner_jax.rewards import AnswerPool, score_trajectories
from pixel_reasoner_jax.rollout import QueryError
from pixel_reasoner_jax.rollout.subgroups import Subgroup, Subgroups
from pixel_reasoner_jax.training.collecting import Collected
from pixel_reasoner_jax.training.collecting import collect as collect_parts
from pixel_reasoner_jax.training.curiosity_state import CuriosityState
from pixel_reasoner_jax.training.grpo import reward_groups as reward_collected
from pixel_reasoner_jax.training.grpo import why_no_update
from pixel_reasoner_jax.training.query_order import QueryOrder
from pixel_reasoner_jax.trajectory import Ended, OperationRecord, Trajectory
from tests.trajectories import InTurn

CONFIG = load_config("rl_qwen2_5_vl_7b", [("curiosity.rate_floor", "0.5")])
CURIOSITY = CuriosityState(alpha=1.0, beta=0.05)
WORKED = OperationRecord(0, "zoom_in", {}, sizes=((28, 28),))
FAILED = OperationRecord(1, "zoom_in", {}, error="no")


def response(answer, *operations, query="q", ended=Ended.ANSWER) -> Trajectory:
    return Trajectory(
        query_id=query,
        question="?",
        reference="5",
        messages=[{"role": "assistant", "content": [{"type": "text", "text": f"\\boxed{{{answer}}}"}]}],
        tokens=np.zeros(4, np.int32),
        source=np.array([0, 1, 1, 1], np.int8),
        train=np.array([False, True, True, True]),
        media=[],
        operations=list(operations),
        ended=ended,
    )


def collect(stream, queries, samples, pool):
    """The groups of queries without sub-groups, and which responses are right."""
    asked = [dict(id=str(number), question="?", answer="5") for number in range(queries)]
    subgroups = Subgroups([Subgroup("all", samples)])
    collected = collect_parts(lambda parts: contextlib.nullcontext(stream), None, asked, subgroups, pool)
    return collected.groups, collected.correct


def reward_groups(groups, correct, *args):
    asked = np.repeat([[bool(group)] for group in groups], correct.shape[1], axis=1)
    return reward_collected(Collected([{} for _ in groups], groups, correct, asked), *args)


def test_figures_of_an_episode():
    groups = [
        [response(5), response(4), response(5, WORKED), response(5, WORKED, FAILED, ended=Ended.TOKENS)],
        [response(4, query="other") for _ in range(4)],
    ]
    with AnswerPool() as pool:
        correct = np.array([score_trajectories(group, pool) for group in groups])
    rewarded = reward_groups(groups, correct, CONFIG, CURIOSITY)
    np.testing.assert_allclose(rewarded.rewards, [[1.0, 0.0, 1.0, -0.05], [0.0] * 4])  # at the floor: no bonus
    assert rewarded.uniform.tolist() == [False, True] and len(rewarded.sequences()) == 4
    assert rewarded.metrics() == pytest.approx(
        {
            "reward": 1.95 / 8,
            "reward_correct": 2 / 8,
            "reward_bonus": 0.0,
            "reward_penalty": -0.05 / 8,
            "accuracy": 2 / 8,
            "rapr": 2 / 8,
            "operations": 3 / 8,
            "failure_rate": 1 / 3,
            "response_tokens": 3.0,
            "truncated": 1 / 8,
            "uniform_groups": 0.5,
            "masked": 0.0,
        }
    )


def test_masked_responses_count_in_the_mean_and_are_not_trained_on():
    """Mini-o3's case, beside a group that is uniform by its finished responses."""
    config = load_config("rl_qwen2_5_vl_7b", [("grpo.masks", "over_turn,over_long"), ("grpo.advantage", "std")])
    ends = [Ended.ANSWER, Ended.ANSWER, Ended.OPERATIONS, Ended.TOKENS]
    groups = [[response(4, ended=end) for end in ends]] * 2
    rewarded = reward_groups(groups, np.array([[1.0, 0, 0, 0], [0, 0, 1, 0]]), config, CURIOSITY)
    np.testing.assert_allclose(rewarded.advantages, [[1.5, -0.5, -0.5, -0.5], [0] * 4], atol=1e-5)
    assert rewarded.trained.tolist() == [[True, True, False, False], [False] * 4]
    assert rewarded.sequences().keys() == {(0, 0), (0, 1)}
    figures = rewarded.metrics()
    assert (figures["masked"], figures["uniform_groups"]) == (0.5, 0.5)


def test_of_more_groups_than_an_episode_has_the_first_are_kept():
    """Two shards and two rounds: four of six are not uniform, and an episode has three."""
    config = load_config("rl_qwen2_5_vl_7b", [("grpo.queries_per_episode", "3")])
    correct = np.array([[1.0, 0], [0, 0], [1, 0], [1, 0], [1, 1], [0, 1]])
    order = QueryOrder(np.array([0, 0, 1, 0, 1, 1]))
    rewarded = reward_groups([[response(4), response(4)]] * 6, correct, config, CURIOSITY, order)
    assert rewarded.informative() == 4
    # In their shards, the queries are the first, second, first; third, second and third.
    assert rewarded.trained.all(axis=1).tolist() == [True, False, True, True, False, False]
    assert not rewarded.advantages[5].any() and not rewarded.uniform[5]


def test_the_bonus_may_follow_the_rate_of_all_queries():
    """A query of rate 1/2 and one of 0: H is 0.5, so that their mean leaves a bonus of 0.25."""
    config = load_config("rl_qwen2_5_vl_7b", [("curiosity.rate_floor", "0.5"), ("curiosity.rate", "global")])
    groups = [[response(4, WORKED), response(4)], [response(4), response(4)], []]
    rewarded = reward_groups(groups, np.zeros((3, 2)), config, CURIOSITY)
    np.testing.assert_allclose(rewarded.rewards, [[0.25, 0], [0, 0], [0, 0]])
    assert rewarded.curiosity.rates == {"all": 0.25}
    again = reward_groups(groups[:1], np.zeros((1, 2)), config, rewarded.curiosity)
    assert again.curiosity.rates == pytest.approx({"all": 0.9 * 0.25 + 0.1 * 0.5})


@pytest.mark.parametrize(("variant", "rate"), [("paper", 0.25), ("release", 0.75)])
def test_the_rate_that_dual_multipliers_follow_is_that_of_the_reward(variant, rate):
    """The release counts calls that failed; a query that could not be asked has no rate."""
    config = load_config("rl_qwen2_5_vl_7b", [("curiosity.variant", variant)])
    groups = [[response(4, WORKED), response(4, FAILED)], [response(4, FAILED), response(4)], []]
    assert reward_groups(groups, np.zeros((3, 2)), config, CURIOSITY).rate == rate
    assert reward_groups([[]], np.zeros((1, 2)), config, CURIOSITY).rate is None


def test_answers_are_scored_while_the_rollout_goes_on():
    scored = threading.Event()

    class Pool:
        def score(self, pairs, recovered):
            scored.set()
            return [float(text.endswith("5}")) for text, _ in pairs]

    def stream():
        for sample, answer in ((1, 5), (0, 4)):
            yield 1, dataclasses.replace(response(answer, query="b"), sample=sample)
        assert scored.wait(30)  # before the first query has any response
        for sample, answer in ((0, 5), (1, 5)):
            yield 0, dataclasses.replace(response(answer, query="a"), sample=sample)

    groups, correct = collect(stream(), 2, 2, Pool())
    assert [[t.query_id for t in group] for group in groups] == [["a", "a"], ["b", "b"]]
    assert [[t.sample for t in group] for group in groups] == [[0, 1], [0, 1]]
    np.testing.assert_array_equal(correct, [[1, 1], [0, 1]])


def test_a_query_that_failed_counts_nowhere_but_among_the_failed(caplog):
    class Pool:
        def score(self, pairs, recovered):
            return [float(text.endswith("5}")) for text, _ in pairs]

    def answers(number, *given):
        return [(number, dataclasses.replace(response(answer), sample=n)) for n, answer in enumerate(given)]

    lost = QueryError(1, "b", "/data/b.png: the file has changed since it was opened")
    stream = InTurn(*answers(2, 5, 5), *answers(1, 4)[:1], lost, *answers(0, 5, 4))
    groups, correct = collect(stream, 3, 2, Pool())
    assert [len(group) for group in groups] == [2, 0, 2]
    np.testing.assert_array_equal(correct, [[1, 0], [0, 0], [1, 1]])
    assert caplog.messages == ["left out: /data/b.png: the file has changed since it was opened"]
    rewarded = reward_groups(groups, correct, CONFIG, CURIOSITY)
    assert rewarded.uniform.tolist() == [False, True, True]
    assert rewarded.sequences().keys() == {(0, 0), (0, 1)}
    metrics = rewarded.metrics()
    assert (metrics["accuracy"], metrics["uniform_groups"], metrics["response_tokens"]) == (0.75, 0.5, 3.0)
    assert rewarded.failed_queries == 1
    advantages, trained, correct, tokens = rewarded.candidates()
    assert advantages[0].tolist() == [0.5, -0.5] and trained.tolist() == [[True] * 2, [False] * 2, [False] * 2]
    assert correct[2].tolist() == [1, 1] and tokens.tolist() == [[4, 4], [0, 0], [4, 4]]


def test_an_episode_whose_queries_all_failed_has_no_figures():
    groups, correct = collect(InTurn(*(QueryError(n, str(n), "gone") for n in range(2))), 2, 4, None)
    rewarded = reward_groups(groups, correct, CONFIG, CURIOSITY)
    assert rewarded.metrics() == {} and rewarded.sequences() == {}
    assert rewarded.failed_queries == 2


def test_masks_that_leave_nothing_to_learn_are_named():
    config = load_config("rl_qwen2_5_vl_7b", [("rollout.samples", "2"), ("grpo.masks", "('over_long',)")])
    groups = [[response(4, ended=Ended.TOKENS), response(5)]] * 2
    rewarded = reward_groups(groups, np.array([[0.0, 1.0]] * 2), config, CURIOSITY)
    assert rewarded.uniform.all()
    reason = why_no_update({**rewarded.metrics(), "failed_queries": 0, "answers_unchecked": 0}, config)
    assert "of the 2 responses to each query, those that grpo.masks leaves in (50% of all) have equal rewards" in reason


@pytest.mark.parametrize(
    "responses,unchecked,words",
    [
        (None, 0, ["the media of all 2 queries could not be used"]),
        (
            dict(answer=4),
            0,
            ["the 2 responses to each query have equal rewards (accuracy 0)", "data.pass_rates"],
        ),
        (dict(answer=5), 0, ["equal rewards (accuracy 1)", "data.pass_rates"]),
        (dict(answer=4, operation=FAILED), 0, ["equal rewards", "every call of an operation failed"]),
        (dict(answer=4), 3, ["equal rewards", "3 of 4 answers could not be checked"]),
        (
            dict(answer=4, ended=Ended.TOKENS),
            0,
            ["every response met a limit before its answer"],
        ),
    ],
)
def test_why_an_episode_left_nothing_to_learn_is_said(responses, unchecked, words):
    config = load_config("rl_qwen2_5_vl_7b", [("rollout.samples", "2")])
    config.grpo.queries_per_episode = 2
    groups, correct = [[], []], np.zeros((2, 2))
    if responses is not None:
        operations = [responses["operation"]] if "operation" in responses else []
        one = response(responses["answer"], *operations, ended=responses.get("ended", Ended.ANSWER))
        groups, correct = [[one, one]] * 2, np.full((2, 2), float(responses["answer"] == 5))
    rewarded = reward_groups(groups, correct, CONFIG, CURIOSITY)
    assert rewarded.uniform.all()
    counts = {"failed_queries": rewarded.failed_queries, "answers_unchecked": unchecked}
    reason = why_no_update({**rewarded.metrics(), **counts}, config)
    assert all(word in reason for word in words), reason

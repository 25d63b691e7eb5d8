"""From trajectories to rewards and figures: every figure of an episode, computed by hand."""

import dataclasses
import threading

import numpy as np
import pytest
from ml_collections import ConfigDict

from pixel_reasoner_jax.rewards import AnswerPool, score_trajectories
from pixel_reasoner_jax.training.grpo import collect, reward_groups
from pixel_reasoner_jax.trajectory import Ended, OperationRecord, Trajectory

CURIOSITY = ConfigDict(dict(variant="paper", alpha=1.0, beta=0.05, rate_floor=0.5, max_operations=1))
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


def test_figures_of_an_episode():
    groups = [
        [response(5), response(4), response(5, WORKED), response(5, WORKED, FAILED, ended=Ended.TOKENS)],
        [response(4, query="other") for _ in range(4)],
    ]
    with AnswerPool() as pool:
        correct = np.array([score_trajectories(group, pool) for group in groups])
    rewarded = reward_groups(groups, correct, CURIOSITY, normalize_std=False)
    np.testing.assert_allclose(rewarded.terms.total, [[1.0, 0.0, 1.0, -0.05], [0.0] * 4])  # at the floor: no bonus
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
        }
    )


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

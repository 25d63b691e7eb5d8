"""DPO between an update's responses, against the formula in float64."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.processing import Processor
from pixel_reasoner_jax.training.policy_update import (
    check_update_parts,
    details_of,
    gradient_passes,
    has_second_tree,
    passes_asked_for,
)
from pixel_reasoner_jax.training.preference import of_pairs
from pixel_reasoner_jax.training.update_view import UpdateView
from tests.training.test_joint_terms import of_loss
from tests.training.test_passes import config_of, prepared


@pytest.fixture(scope="module")
def processor(start):
    return Processor.from_pretrained(start / "model")


class Scores:
    """Log-probabilities of -1 under the policy; under the reference they fall with the place of a token."""

    def score(self, params, batches):
        scored = []
        for batch in batches:
            place = np.arange(batch["targets"].size, dtype=np.float32).reshape(batch["targets"].shape)
            logprobs = np.full_like(place, -1.0) if params == "now" else -1 - 0.01 * (place % 7)
            scored.append({"logprobs": logprobs.astype(np.float32), "entropy": place})
        return scored


def dpo(present, reference, pairs, beta):
    """-log sigmoid of the margins of lists of log-probabilities, their mean, and the margins."""
    above = [(one - other).sum() for one, other in zip(present, reference, strict=True)]
    margins = np.array([beta * (above[chosen] - above[rejected]) for chosen, rejected in pairs])
    return np.log1p(np.exp(-margins)).mean(), margins


@pytest.fixture
def config(monkeypatch):
    monkeypatch.setattr("pixel_reasoner_jax.training.policy_update._reference", lambda model: None)
    return config_of(grpo__loss="preference", grpo__preference_beta=0.5)


def responses(sequences_of_two_queries):
    """Of two queries: three of the first, the second the best and the first the worst, and three alike."""
    one, two, three, four = sequences_of_two_queries
    advantages = zip((one, two, one, three, four, three), (-0.7, 0.9, 0.2, 0.5, 0.5, 0.5), strict=True)
    return [dataclasses.replace(sequence, advantage=advantage) for sequence, advantage in advantages]


def test_the_loss_and_its_gradient_are_those_of_the_formula(config, processor, sequences_of_two_queries):
    given = responses(sequences_of_two_queries)
    config.grpo.preference_pairs = f"{__name__}:of_both_queries"
    made, figures, agreed, _ = prepared(config, Scores(), [{0: given[:3], 1: given[3:]}], processor)
    view = UpdateView(agreed, made)
    reference = view.flat([one["logprobs"] for one in Scores().score("reference", made)])
    ends = np.cumsum(view.lengths)[:-1]
    present, reference = (np.split(np.asarray(v, np.float64), ends) for v in (np.full(len(reference), -1.0), reference))
    pairs = of_both_queries(view)
    value, margins = dpo(present, reference, pairs, 0.5)
    got, slopes = of_loss(config, made, float(view.size.tokens))
    assert got["loss"] == pytest.approx(value, rel=1e-5)
    by_token = np.split(view.flat([np.asarray(of_batch) for of_batch, _ in slopes]), ends)
    for number in range(len(view.sequences)):
        up, down = ([one.copy() for one in present] for _ in range(2))
        up[number] += 1e-5
        down[number] -= 1e-5
        wanted = (dpo(up, reference, pairs, 0.5)[0] - dpo(down, reference, pairs, 0.5)[0]) / 2e-5
        np.testing.assert_allclose(by_token[number], wanted / view.lengths[number], rtol=1e-4, atol=1e-8)
    assert {name: figures[name] for name in figures if name.startswith("preference")} == pytest.approx(
        dict(preference_pairs=3, preference_margin=margins.mean(), preference_accuracy=(margins > 0).mean())
    )


def of_both_queries(view):
    """A choice of pairs of one's own: a response is in two of them."""
    numbers = sorted(range(6), key=lambda number: (view.sequences[number].query_id, view.sequences[number].advantage))
    return [(numbers[2], numbers[0]), (numbers[1], numbers[0]), (numbers[3], numbers[5])]


def test_the_best_and_the_worst_of_a_query_are_a_pair(config, processor, sequences_of_two_queries):
    """A query whose responses are all alike has none, and neither has a third response."""
    given = responses(sequences_of_two_queries)
    made, figures, agreed, _ = prepared(config, Scores(), [{0: given[:3], 1: given[3:]}], processor)
    view = UpdateView(agreed, made)
    slopes = np.split(view["slopes"], np.cumsum(view.lengths)[:-1])
    of_each = {id(one): of_one for one, of_one in zip(view.sequences, slopes, strict=True)}
    signs = [np.sign(of_each[id(one)]) for one in given]
    assert [set(sign) for sign in signs] == [{1}, {-1}, {0}, {0}, {0}, {0}] and figures["preference_pairs"] == 1
    equal = [dataclasses.replace(one, advantage=0.5) for one in given]
    made, figures, agreed, _ = prepared(config, Scores(), [{0: equal[:3], 1: equal[3:]}], processor)
    assert not UpdateView(agreed, made)["slopes"].any() and figures["preference_pairs"] == 0
    assert of_loss(config, made, 1.0)[0]["loss"] == 0


def test_some_tokens_alone_count(config, processor, sequences_of_two_queries):
    """Such as those of a turn: the others have no gradient, and are in no sum."""
    given = responses(sequences_of_two_queries)
    _, _, agreed, batches = prepared(config, Scores(), [{0: given[:3], 1: given[3:]}], processor)
    view = UpdateView(agreed, batches)
    values = {"present": -1.0, "reference": -3.0}
    view.scores = {label: {"logprobs": np.full(len(view.sampled), value)} for label, value in values.items()}
    counted = np.arange(len(view.sampled)) % 2 == 0
    made, margins = of_pairs(view, [(0, 1)], 0.1, counted)
    first, second = (of_one.sum() for of_one in np.split(counted, np.cumsum(view.lengths))[:2])
    np.testing.assert_allclose(margins, 0.1 * 2 * (first - second))
    assert not made.slopes["present"][~counted].any() and made.slopes["present"][counted].any()
    np.testing.assert_allclose(view.mean(made.values), np.log1p(np.exp(-margins[0])))


def none_of_them(view):
    return [(0, 99)]


def not_pairs(view):
    return [1, 2]


@pytest.mark.parametrize("name", ["none_of_them", "not_pairs"])
def test_pairs_of_ones_own_that_are_none_are_named(config, processor, sequences_of_two_queries, name):
    config.grpo.preference_pairs = f"{__name__}:{name}"
    with pytest.raises(UserError, match=rf"choice of pairs '.*:{name}' must return \(chosen, rejected\) pairs of"):
        prepared(config, Scores(), [{0: responses(sequences_of_two_queries), 1: []}], processor)


def test_what_it_needs():
    config = config_of(grpo__loss="preference")
    assert [one.label for one in passes_asked_for(config)] == ["present", "reference"] and has_second_tree(config)
    assert details_of(config) == ("slopes", "values") and gradient_passes(config) == 1
    config.grpo.preference_pairs = "no_module:pairs"
    with pytest.raises(UserError, match="choice of pairs 'no_module:pairs' cannot be imported"):
        check_update_parts(config)

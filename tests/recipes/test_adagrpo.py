"""AdaGRPO's advantage of a mode, the credit of its words, and a run of it."""

import dataclasses
from statistics import NormalDist

import numpy as np
import pytest

from pixel_reasoner_jax.packaged_configs import config_module
from pixel_reasoner_jax.trajectory import Source
from tests.recipes.scripted import Run, responses_of, said, write_call

RECIPE = "recipes/adagrpo"
ADAGRPO = config_module(RECIPE)


def test_the_advantage_of_a_mode():
    looking, text = np.array([1.0, 1.0, 1.0, 0.0]), np.array([1.0, 1.0, 0.0, 0.0])
    deviation = np.sqrt(looking.var(ddof=1) + text.var(ddof=1))
    assert ADAGRPO.advantage_of_looking(looking, text) == pytest.approx(phi(0.25 / deviation), abs=1e-9)
    # Means 0.75 and 0.5, both deviations 0.5.
    spread = 0.5 / np.sqrt(2)
    both = (np.array([0.75 - spread, 0.75 + spread]), np.array([0.5 - spread, 0.5 + spread]))
    assert ADAGRPO.advantage_of_looking(*both) == pytest.approx(0.6382, abs=1e-4)
    assert ADAGRPO.advantage_of_looking(*both[::-1]) == pytest.approx(0.3618, abs=1e-4)
    assert ADAGRPO.advantage_of_looking(np.ones(4), np.ones(4)) == 0.5
    assert ADAGRPO.advantage_of_looking(np.ones(4), np.zeros(4)) == 1.0


def phi(x: float) -> float:
    return NormalDist().cdf(x)


def test_words_have_the_modes_advantage_and_other_tokens_their_own():
    one = said("a")
    one = dataclasses.replace(one, source=np.array([Source.PROMPT, Source.GIVEN, Source.GIVEN, 1, 1], np.int8))
    labels = np.array(["looking"] * 4 + ["text"] * 4)
    given = responses_of(RECIPE, [one] * 8, [1, 1, 1, 0, 1, 1, 0, 0], labels=labels, rewards=None)
    given = dataclasses.replace(given, rewards=given.correct)
    advantages = np.arange(8.0)[None]
    [credit] = ADAGRPO.credit_of_words(given, advantages)
    better = phi(0.25 / np.sqrt(0.25 + 1 / 3))
    np.testing.assert_allclose(credit[0], [0, better, better, 0, 0])
    np.testing.assert_allclose(credit[7], [7, 1 - better, 1 - better, 7, 7])


def script(episode):
    if episode.sample < 4 and not episode.turn:
        call = dict(bbox_2d=[0.1, 0.1, 0.9, 0.9], target_image=1)
        return write_call(RECIPE, "crop_image_normalized", **call)
    return f"\\boxed{{{episode.prompt.query['answer'] if episode.sample % 3 else 'none'}}}"


RUN = Run(script, operations=("crop_image_normalized",), varied=("correct",))

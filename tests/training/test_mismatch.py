"""Differences in log-probabilities, worked by hand."""

import numpy as np
import pytest

from pixel_reasoner_jax.training.mismatch import difference_figures, is_after_image, logprob_differences
from pixel_reasoner_jax.trajectory import Source

PAD, VIDEO, TEXT = 90, 91, 5
P, S, SEE = Source.PROMPT, Source.SAMPLED, Source.OBSERVATION


def trajectory(*pieces):
    """Tokens and sources of pieces (source, tokens)."""
    tokens = np.array([token for _, piece in pieces for token in piece], np.int32)
    return tokens, np.array([source for source, piece in pieces for _ in piece], np.int8)


TWO_CROPS = trajectory(
    (P, [1, PAD, PAD, 2]), (S, [3, 4]), (SEE, [5, PAD, 6]), (S, [7]), (SEE, [8]), (S, [9, 10]), (SEE, [PAD]), (S, [11])
)  # fmt: skip


def test_what_comes_after_an_image_of_an_operation():
    after = is_after_image(*TWO_CROPS, (PAD, VIDEO))
    assert TWO_CROPS[0][after].tolist() == [7, 9, 10, 11]
    error_only = trajectory((P, [PAD]), (S, [3]), (SEE, [5]), (S, [4]))  # the query's image is none of an operation's
    assert not is_after_image(*error_only, (PAD, VIDEO)).any()
    assert is_after_image(*trajectory((P, [1]), (SEE, [VIDEO]), (S, [2])), (PAD, VIDEO)).tolist() == [
        False,
        False,
        True,
    ]
    assert not is_after_image(np.zeros(0, np.int32), np.zeros(0, np.int8), (PAD,)).any()


def test_mean_and_maximum_of_each_part():
    tokens, source = TWO_CROPS
    sampler, trainer = np.zeros(len(tokens), np.float32), np.zeros(len(tokens), np.float32)
    trainer[source != S] = 100.0  # prompts and observations count nowhere
    trainer[np.isin(tokens, [3, 4])] = [-1.0, 3.0]
    trainer[np.isin(tokens, [7, 9, 10, 11])] = [0.0, 0.0, -2.0, 6.0]
    one = logprob_differences(sampler, trainer, tokens, source, (PAD, VIDEO))
    assert difference_figures([one]) == {
        "logprob_difference_text": 2.0,
        "logprob_difference_text_max": 3.0,
        "logprob_difference_after_image": 2.0,
        "logprob_difference_after_image_max": 6.0,
    }
    text_only = {"text": np.array([8.0]), "after_image": np.zeros(0)}
    assert difference_figures([one, text_only])["logprob_difference_text"] == pytest.approx(4.0)  # over all tokens
    assert difference_figures([text_only]) == {"logprob_difference_text": 8.0, "logprob_difference_text_max": 8.0}
    assert difference_figures([]) == {}


def test_what_is_not_a_number_is_not_hidden():
    tokens, source = TWO_CROPS
    trainer = np.where(tokens == 7, np.nan, 0.0)
    figures = difference_figures([logprob_differences(np.zeros(len(tokens)), trainer, tokens, source, (PAD,))])
    assert np.isnan(figures["logprob_difference_after_image_max"])

"""Visionary-R1's rewards and queries, worked by hand, and a run of it."""

import numpy as np
import pytest

from pixel_reasoner_jax.config import load_config
from pixel_reasoner_jax.packaged_configs import config_module
from pixel_reasoner_jax.training.schedules import config_at
from tests.recipes.scripted import Run, rewards_of, said

RECIPE = "recipes/visionary_r1"
FORM = "<info>a red box</info>\n<think>So.</think>\n<answer>5</answer>"


def test_rewards():
    """The k-th reader reads the k-th caption."""
    writers = [said(FORM), said(FORM), said("<think>So.</think><answer>5</answer>"), said(FORM)]
    readers = [said("<answer>5</answer>")] * 4
    labels = np.repeat(["captions", "readers"], 4)
    asked = np.array([[True] * 6 + [False, True]])
    options = {"labels": labels, "asked": asked}
    rewards, terms = rewards_of(RECIPE, writers + readers, [1, 1, 1, 0, 1, 0, 1, 1], **options)
    assert terms["caption"].tolist() == [1, 0, 0, 1, 0, 0, 0, 0]
    assert rewards.tolist() == pytest.approx([2.1, 2, 1, 1.1, 0, 0, 0, 0])


def test_captions_are_asked_without_the_image():
    from_captions = config_module(RECIPE).from_captions
    query = {"id": "a", "question": "Which digit?", "answer": "5", "images": ["a.png"]}
    texts = FORM, "no caption", "<info>{} {0}</info>", "<info> </info>", "<info>a</info><info>b</info>", "</info><info>"
    found = from_captions(query, [*map(said, texts)])
    told = "An image that you do not see was described so:\n{}\n\nWhich digit?"
    assert found[0] == {"id": "a", "question": told.format("a red box"), "answer": "5"}
    assert found[2]["question"] == told.format("{} {0}") and [found[n] for n in (1, 3, 4, 5)] == [None] * 4


@pytest.mark.parametrize("progress,weight", [(0, 0.04), (0.5, 0.02), (1, 0)])
def test_the_weight_of_kl_falls_along_a_cosine(progress, weight):
    assert config_at(load_config(RECIPE), progress).auxiliary.kl == pytest.approx(weight)


def script(episode):
    """A caption for two of three; readers of every other one, and every other writer, are right."""
    answer = episode.prompt.query["answer"] if episode.sample % 2 else "none"
    if not episode.prompt.pictures:
        return f"<answer>{answer}</answer>"
    caption = f"<info>a box {episode.sample}</info>" if episode.sample % 3 else ""
    return f"{caption}<think>So.</think><answer>{answer}</answer>"


RUN = Run(script, varied=("correct", "caption", "format"))

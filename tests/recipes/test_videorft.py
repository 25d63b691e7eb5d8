"""VideoRFT's rewards, worked by hand with a stand-in for SigLIP, and a run of it."""

import numpy as np
import pytest
from PIL import Image

from data_pipeline.sources.pixel_search_video import PixelSearchVideo
from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.packaged_configs import config_module
from tests.recipes.scripted import Run, rewards_of, said

RECIPE = "recipes/videorft"
FORM = "<think>{}</think>\n<answer>5</answer>"


def similarity(text, images):
    """Stands in for SigLIP: how much a text speaks of boxes, alike for all images; half for every other one."""
    assert all(isinstance(image, Image.Image) for image in images)
    return np.resize([1.0, 0.5], len(images)) * text.count("box") / 10


def compared_semantics(responses):
    return config_module(RECIPE).semantic(responses, similarity)


def test_rewards(monkeypatch):
    monkeypatch.setenv("PIXEL_REASONER_SIMILARITY", "tests.recipes.test_videorft:similarity")

    def seen(text, tokens=4):
        one = said(text, tokens=tokens)
        images = [Image.new("RGB", (8, 8))] * 2
        one.messages[0]["content"] += [{"type": "image", "image": image} for image in images]
        return one

    texts = [
        FORM.format("A question. A box, a box."),
        FORM.format("A question. " + "box " * 9),
        FORM.format("A box alone."),
        FORM.format("A question. A box."),
        "A question. A box.",
    ]
    group = [*map(seen, texts), seen(texts[0], 320), seen(texts[0], 513)]
    rewards, terms = rewards_of(RECIPE, group, [1, 1, 1, 0, 1, 1, 1])
    assert terms["semantic"].tolist() == pytest.approx([0.3, 1, 0, 0, 0, 0.3, 0.3])
    assert rewards.tolist() == pytest.approx([2.3, 3, 2, 1, 1, 2.5, 2.3])
    rewards, _ = rewards_of(RECIPE, group, [0, 0, 0, 0, 0, 1, 0])
    assert rewards[5] == pytest.approx(2.3)  # the only right one


def test_a_similarity_has_to_be_named(monkeypatch):
    monkeypatch.delenv("PIXEL_REASONER_SIMILARITY", raising=False)
    with pytest.raises(UserError, match="set PIXEL_REASONER_SIMILARITY to module:function of your own"):
        rewards_of(RECIPE, [said("x")], [1])


def script(episode):
    """Thoughts that speak of boxes more or less, one of a good length; three are right."""
    thought = "What is it? " + "The box. " * (1 + episode.sample)
    if episode.sample == 1:
        thought += " ".join(map(str, range(100, 200)))
    answer = episode.prompt.query["answer"] if episode.sample else "none"
    return f"<answer>{answer}</answer>" if episode.sample == 3 else f"<think>{thought}</think><answer>{answer}</answer>"


RUN = Run(
    script,
    queries=lambda: [seed.query() for seed in PixelSearchVideo(20, "rl")],
    settings={"rewards.terms.semantic.function": "tests.recipes.test_videorft:compared_semantics"},
    varied=("correct", "format", "length", "semantic"),
)

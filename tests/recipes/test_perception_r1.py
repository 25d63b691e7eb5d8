"""Perception-R1's rewards, worked by hand with a stand-in for the judge, and a run of it."""

import pytest

from pixel_reasoner_jax.packaged_configs import config_module
from tests.recipes.scripted import Run, responses_of, rewards_of, said

RECIPE = "recipes/perception_r1"
FACTS = ["The box is red.", "There are three boxes."]


def judge(text, statements):
    """Stands in for a model: a text makes the statements that it repeats."""
    return [number for number, one in enumerate(statements) if one in text]


def judged_facts(responses):
    return config_module(RECIPE).facts(responses, judge)


def test_rewards(monkeypatch):
    form = "<think>{}</think><answer>5</answer>"
    group = [said(form.format(" ".join(FACTS))), said(form.format(FACTS[0])), said(" ".join(FACTS)), said("")]
    found = judged_facts(responses_of(RECIPE, group, [1] * 4, {"visual_facts": FACTS}))
    assert found.tolist() == [[1, 0.5, 1, 0]]
    monkeypatch.setattr(config_module(RECIPE), "endpoint_judge", lambda: judge)
    rewards, _ = rewards_of(RECIPE, group, [1, 0, 1, 0], {"visual_facts": FACTS})
    assert rewards.tolist() == pytest.approx([0.1 + 0.9 + 0.5, 0.1 + 0.25, 0.9 + 0.5, 0])
    assert rewards_of(RECIPE, group, [1, 0, 1, 0])[0].tolist() == pytest.approx([1.0, 0.1, 0.9, 0])


def test_repetition():
    share = config_module(RECIPE).repeated_share
    assert share("one two three") == share(" ".join(map(str, range(1000)))) == 0
    assert share("wait " * 29) == pytest.approx(0.9) and share("wait " * 50_000) > 0.999


def script(episode):
    """One or both of the facts, and an answer that is right or not."""
    facts = episode.prompt.query["visual_facts"][: 1 + episode.sample % 2]
    answer = episode.prompt.query["answer"] if episode.sample > 1 else "none"
    thought = "wait " * 30 if episode.sample == 3 else " ".join(facts)
    return f"<think>{thought}</think><answer>{answer}</answer>" if episode.sample else f"<answer>{answer}</answer>"


def more(seed):
    return {"visual_facts": [f"The box is {seed.attributes['color']}.", "There are three boxes."]}


RUN = Run(
    script,
    more=more,
    settings={"rewards.terms.facts.function": "tests.recipes.test_perception_r1:judged_facts"},
    varied=("correct", "facts", "format", "repetition"),
)

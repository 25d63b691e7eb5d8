"""DeepEyes' rewards, worked by hand, and a run of it."""

import pytest

from tests.recipes.scripted import Run, called, rewards_of, said, write_call

RECIPE = "recipes/deepeyes"


def test_rewards():
    used = [called()]
    group = [
        said("look", "\\boxed{5}", operations=used),
        said("\\boxed{5}"),
        said("look", "\\boxed{4}", operations=used),
        said("five"),
        said(f"\\boxed{{{'5' * 1000}}}"),
        said("look", "\\boxed{5}", operations=[called(error="no"), *used]),
    ]
    rewards, terms = rewards_of(RECIPE, group, [1, 1, 0, 0, 1, 1])
    assert rewards.tolist() == pytest.approx([2.0, 0.8, 0.0, -0.2, -0.2, 1.8])
    assert terms["used"].tolist() == [1, 0, 0, 0, 0, 1]


def script(episode):
    """Every other response looks first; every third one is right."""
    if episode.sample % 2 and not episode.turn:
        return "I look. " + write_call(RECIPE, "image_zoom_in_tool", bbox_2d=[10, 10, 90, 90])
    return f"\\boxed{{{episode.prompt.query['answer'] if episode.sample % 3 else 'none'}}}"


RUN = Run(script, operations=("image_zoom_in_tool",), varied=("correct", "used"))

"""CodeV's rewards, worked by hand with a stand-in for the judge, and a run of it."""

import pytest
from PIL import Image

from pixel_reasoner_jax.named_parts import find_part
from tests.recipes.scripted import Run, called, rewards_of, said, write_call

RECIPE = "recipes/codev"


def judge(question, image):
    """Stands in for a model: a digit is seen in what is nearly square, as a cell is."""
    return abs(image.width - image.height) < 20


def judged_worth(responses):
    return find_part(f"{RECIPE}:worth", {}, "reward term")(responses, judge)


def shown(*sizes):
    """A response whose operations have shown images of these sizes, or failed where it is None."""
    operations = [called(turn=turn, error=None if size else "no") for turn, size in enumerate(sizes)]
    one = said(*["look"] * len(sizes), "5", operations=operations)
    for turn, size in enumerate(sizes):
        if size:
            one.messages[2 * turn + 2]["content"].append({"type": "image", "image": Image.new("L", size)})
    return one


def test_rewards(monkeypatch):
    monkeypatch.setitem(find_part(f"{RECIPE}:worth", {}, "").__globals__, "endpoint_sight", lambda: judge)
    group = [shown((50, 50)), shown((50, 50), (90, 50)), shown((90, 50), None), shown(None), shown()]
    rewards, terms = rewards_of(RECIPE, group, [1, 1, 0, 1, 1])
    assert terms["shown"].tolist() == pytest.approx([1, 0.5, -0.25, -0.5, 0])
    assert rewards.tolist() == pytest.approx([1.5, 1.25, -0.125, 0.75, 1.0])


def script(episode):
    """Odd responses zoom, one of them into a square, and then rotate; every third answer is wrong."""
    if episode.sample % 2 and not episode.turn:
        box = [10, 10, 60, 60 if episode.sample == 1 else 100]
        return write_call(RECIPE, "zoom_image", bbox_2d=box, target_image=1)
    if episode.sample == 1 and episode.turn == 1:
        return write_call(RECIPE, "rotate_image", angle=90, target_image=2)
    return f"\\boxed{{{episode.prompt.query['answer'] if episode.sample % 3 else 'none'}}}"


RUN = Run(
    script,
    settings={"rewards.terms.shown.function": "tests.recipes.test_codev:judged_worth"},
    operations=("zoom_image", "rotate_image"),
    varied=("correct", "shown"),
)

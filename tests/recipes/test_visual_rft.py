"""Visual-RFT's rewards, worked by hand, and a run of it."""

import pytest

from tests.recipes.scripted import Run, rewards_of, said

RECIPE = "recipes/visual_rft"
GOLD = [[0, 0, 100, 100], [200, 200, 300, 300]]


def answered(*boxes, form="<think>So.</think>\n<answer>{}</answer>"):
    listed = ", ".join(f"{{'Position': {box}, 'Confidence': {confidence}}}" for box, confidence in boxes)
    return said(form.format(f"[{listed}]" if boxes else "No Objects"))


def test_rewards_of_boxes():
    near, far = ([0, 0, 100, 80], 0.9), ([200, 200, 300, 230], 0.6)
    group = [answered(near, far), answered(near, near, far, form="<answer>{}</answer>"), answered()]
    rewards, terms = rewards_of(RECIPE, group, [1, 1, 1], {"boxes": GOLD})
    assert terms["overlap"].tolist() == pytest.approx([0.4, 0.4, 0])
    assert terms["confidence"].tolist() == pytest.approx([0.65, 0.65, 0])
    assert rewards.tolist() == pytest.approx([2.05, 1.05, 1])


def test_rewards_without_boxes():
    group = [answered(), answered(([0, 0, 9, 9], 0.25)), said("I see none.")]
    rewards, _ = rewards_of(RECIPE, group, [1, 0, 0], {"boxes": []})
    assert rewards.tolist() == pytest.approx([2, 1.75, 0])
    rewards, _ = rewards_of(RECIPE, group, [1, 0, 0])
    assert rewards.tolist() == [2, 1, 0]


def script(episode):
    """A box that is right, in part, not, or missing; as the model sees the image, a quarter of its size."""
    left, top, right, bottom = (side / 4 for side in episode.prompt.query["boxes"][0])
    near = f"[{left:g}, {top:g}, {right:g}, {bottom - 5 * (episode.sample % 2):g}]"
    found = (near, near, "[0, 0, 1, 1]", "")[episode.sample]
    answer = f"[{{'Position': {found}, 'Confidence': 0.9}}]" if found else "No Objects"
    return f"<think>So.</think><answer>{answer}</answer>" if episode.sample else f"<answer>{answer}</answer>"


RUN = Run(
    script,
    more=lambda seed: {"boxes": [list(seed.attributes["pixel_box"])]},
    varied=("overlap", "confidence", "format"),
)

"""VL-Rethinker: answers that wait too often, thinking again, and a run of it."""

from tests.recipes.scripted import Run, rewards_of, said

RECIPE = "recipes/vl_rethinker"


def test_waiting_more_than_five_times_counts_as_wrong():
    group = [said("wait " * 5), said("Wait, ", "wait " * 5), said("a"), said("wait " * 5, "\\boxed{5}")]
    rewards, terms = rewards_of(RECIPE, group, [1, 1, 0, 1])
    assert rewards.tolist() == [1, 0, 0, 1] and terms["patient"].tolist() == [1, 0, 1, 1]


def script(episode):
    """Wrong at first; those that are asked again are right."""
    waits = "wait " * 6 if episode.sample == 3 else ""
    right = episode.turn or episode.sample == 3
    return f"{waits}\\boxed{{{episode.prompt.query['answer'] if right else 'none'}}}"


RUN = Run(script, varied=("correct", "patient"))

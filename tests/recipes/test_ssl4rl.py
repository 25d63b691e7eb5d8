"""SSL4RL's rewards, worked by hand, and a run of it on its own tasks."""

import tempfile
from pathlib import Path

import pytest

from data_pipeline.image_tasks import image_files, image_queries
from data_pipeline.sources.pixel_search import PixelSearch
from tests.recipes.scripted import Run, rewards_of, said

RECIPE = "recipes/ssl4rl"


def test_rewards():
    answers = "2413", "2431", "1342", "2222", "24135", "", "2, 4, 1, 3", "2413" * 10_000
    group = [said(f"\\boxed{{{answer}}}") for answer in answers]
    rewards, _ = rewards_of(RECIPE, group, [1] * 8, {"answer": "2413", "answer_type": "order"})
    assert rewards.tolist() == pytest.approx([1, 0.5, 0, 0, 0, 0, 0, 0])
    rewards, _ = rewards_of(RECIPE, group[:2], [1, 0], {"answer": "90"})
    assert rewards.tolist() == [1, 0]


def queries():
    """Of a few images of the pixel world, small enough for a short prompt."""
    with tempfile.TemporaryDirectory() as folder:
        for number, seed in enumerate(PixelSearch(6, "rl")):
            seed.images[0].save(Path(folder) / f"{number}.png")
        yield from image_queries(image_files(folder), size=112)


def script(episode):
    """Right, wrong, or of a jigsaw half right."""
    answer = episode.prompt.query["answer"]
    swapped = answer[:2] + answer[:1:-1]
    return f"\\boxed{{{(answer, 'none', swapped, 'A')[episode.sample]}}}"


RUN = Run(script, queries=lambda: [*queries()], varied=("correct",))

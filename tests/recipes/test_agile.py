"""AGILE's rewards, worked by hand, and a run of it."""

import pytest

from data_pipeline.sources.jigsaw import Jigsaw
from data_pipeline.sources.pixel_search import PixelSearch
from pixel_reasoner_jax.errors import UserError
from tests.recipes.scripted import Run, called, rewards_of, said, write_call

RECIPE = "recipes/agile"
LOOK, ANSWER = "<think>a</think><code>swap(1, 2)</code>", "<think>b</think><answer>2413</answer>"
QUERY = {"tiles": [3, 1, 4, 2]}


def swaps(*pairs):
    return [called("swap_tiles", arguments={"first": first, "second": second}) for first, second in pairs]


def test_rewards():
    best = swaps((1, 2), (2, 4), (3, 4))  # 1342, 1243, 1234
    group = [
        said(LOOK, LOOK, LOOK, LOOK, ANSWER, operations=[called("swap_tiles", error="no"), *best]),
        said(LOOK, LOOK, LOOK, "done", operations=best),
        said(LOOK, LOOK, ANSWER, operations=best[:2]),
        said(LOOK, ANSWER, operations=[called("swap", arguments={"first": 1, "second": 2}, error="no")] * 9),
        said("2413"),
    ]
    rewards, terms = rewards_of(RECIPE, group, [1, 0, 1, 1, 1], QUERY)
    assert terms["correct"].tolist() == [1, 1, 0, 0, 0]
    assert rewards.tolist() == pytest.approx([1.8, 0.85, 0.6, 0.6, -0.4])


@pytest.mark.parametrize("query", [{"id": "q"}, {"id": "q", "tiles": [1, 2]}, {"id": "q", "tiles": "1234"}])
def test_a_query_that_is_no_puzzle(query):
    with pytest.raises(UserError, match="query 'q' has no `tiles`"):
        rewards_of(RECIPE, [said("5")], [1], query)


def puzzles():
    return list(Jigsaw([seed.images[0] for seed in PixelSearch(20, "rl")]))


def script(episode):
    """Odd responses solve the puzzle, the others give up after none or one step."""
    tiles, steps = list(episode.prompt.query["tiles"]), []
    for place in range(1, 5):
        if (wrong := tiles.index(place) + 1) != place:
            tiles[place - 1], tiles[wrong - 1] = tiles[wrong - 1], tiles[place - 1]
            steps.append((place, wrong))
    steps = steps if episode.sample % 2 else steps[: episode.sample // 2]
    if episode.turn < len(steps):
        first, second = steps[episode.turn]
        return "<think>a</think>" + write_call(RECIPE, "swap_tiles", first=first, second=second)
    return "<think>b</think><answer>2413</answer>" if episode.sample != 3 else "<answer>2413</answer>"


RUN = Run(script, puzzles, operations=("swap_tiles",), varied=("correct", "format", "steps"))

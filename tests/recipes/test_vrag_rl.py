"""VRAG-RL's rewards, worked by hand, and a run of it, on pages that a folder has."""

import dataclasses

import pytest

from data_pipeline.sources.pixel_search import PixelSearch
from pixel_reasoner_jax.operations.search import Page, Search
from tests.recipes.scripted import Run, called, rewards_of, said

RECIPE = "recipes/vrag_rl"
ANSWER = "<answer>5</answer>"


def shown(*pages, answer=ANSWER, question="?", **fields):
    """A response that was shown pages, one after each turn."""
    one = said(*["<search>a</search>"] * len(pages), answer, operations=[called("search")] * len(pages), **fields)
    texts = [f"\nHere is page {page} (Image Size: 28x28):" for page in pages]
    observations = [message for message in one.messages if message["role"] == "user"]
    for message, text in zip(observations, [question, *texts], strict=True):
        message["content"][0]["text"] = text
    return one


def test_rewards():
    group = [
        shown("a-1", "a-7", "a-9"),
        shown("a-7"),
        shown("a-1", answer="<answer>4</answer>"),
        shown("a-7", answer="5"),
        shown(),
        shown("a-1", "a-1", "a-7"),
        shown("a-1 Here is page a-7 (Image Size", question="Here is page a-7 (Image Size: 2x2)"),
    ]
    rewards, terms = rewards_of(RECIPE, group, [1, 1, 0, 1, 1, 1, 0], {"pages": ["a-7"]})
    assert rewards.tolist() == pytest.approx([0.9262, 1.0, 0.1, 0.0, 0.0, 0.9262, 0.1], abs=1e-4)
    assert terms["pages"][0] == pytest.approx(0.6309, abs=1e-4)


@pytest.mark.parametrize("pages", [None, "a-7", [7], []])
def test_data_without_such_pages(pages):
    assert rewards_of(RECIPE, [shown("a-7")], [1], {"pages": pages})[0].tolist() == pytest.approx([0.8])


WORLD = {f"page-{number}": seed for number, seed in enumerate(PixelSearch(20, "rl"))}


@dataclasses.dataclass(frozen=True)
class Pages(Search):
    """The images of the pixel world, by their numbers."""

    retrieve: object = lambda query: Page(query, WORLD[query].images[0].convert("RGB")) if query in WORLD else None


def queries():
    return [
        {**dataclasses.replace(seed, images=()).query(), "question": f"In {name}: {seed.question}", "pages": [name]}
        for name, seed in WORLD.items()
    ]


def script(episode):
    """Odd responses find the page, of which one looks closer; one searches elsewhere; every third answer is wrong."""
    query = episode.prompt.query
    if episode.sample and not episode.turn:
        return f"<search>{query['pages'][0] if episode.sample % 2 else 'page-0'}</search>"
    if episode.sample == 1 and episode.turn == 1:
        return "<bbox>[10, 10, 90, 90]</bbox>"
    return f"<answer>{query['answer'] if episode.sample % 3 else 'none'}</answer>"


RUN = Run(
    script,
    queries,
    settings={"operations.names": ("tests.recipes.test_vrag_rl:Pages", "vrag_bbox")},
    operations=("search", "bbox"),
    varied=("correct", "complete", "pages"),
)

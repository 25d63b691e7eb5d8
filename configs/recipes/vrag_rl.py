"""VRAG-RL (arXiv 2505.22019; Alibaba-NLP/VRAG): searching documents for pages, and zooming into what was found.

r = 0 unless the response has searched and answers in `<answer>` tags; else 0.1 + 0.7 accuracy + 0.2 NDCG of the pages
that were found, in their order, among the data's `pages`. Boxes are of the last image, and are cropped from the page at
its full resolution. Evidence: read in the authors' code. Differences: answers are compared by rules, theirs by a judge;
a page that is found again counts once; uniform groups are left out.

Command: PIXEL_REASONER_SEARCH=http://localhost:8002/search pixel-reasoner rl --config recipes/vrag_rl
Data: questions and answers, without images or with, and `pages`: the names of the right ones, as the search has them.
  PIXEL_REASONER_SEARCH is a service or a folder of pages: docs/recipes.md. A model tuned on such traces.
Hardware: that of rl_qwen2_5_vl_7b, with a reference model; not compiled by itself.
Time and result: never run at this size. Published: no figure in our notes.
"""

import re

import numpy as np
from ml_collections import ConfigDict

from pixel_reasoner_jax.config import variant
from pixel_reasoner_jax.query import Query
from pixel_reasoner_jax.rewards.formats import answers_in_tags
from pixel_reasoner_jax.rewards.graded import ranking_gain
from pixel_reasoner_jax.rewards.terms import Responses
from pixel_reasoner_jax.trajectory import Trajectory


def get_config() -> ConfigDict:
    return variant(
        "rl_qwen2_5_vl_7b",
        {
            "workdir": "runs/vrag_rl",
            "operations.names": ("pixel_reasoner_jax.operations.search:Search", "vrag_bbox"),
            "operations.syntax": "tags",
            "operations.guidelines": (
                "Think within <think></think> tags. Search for pages, and look closer at areas of the last one. Put"
                " your final answer within <answer></answer> tags."
            ),
            "rollout.samples": 5,
            "rollout.max_operations": 3,
            "rollout.max_response_tokens": 8_192,
            "train.batch_size": 160,
            "rewards.terms.complete.function": "recipes/vrag_rl:searches_and_answers",
            "rewards.terms.complete.weight": 0.1,
            "rewards.terms.correct.weight": 0.7,
            "rewards.terms.correct.gate": "complete",
            "rewards.terms.bonus.weight": 0.0,
            "rewards.terms.penalty.weight": 0.0,
            "rewards.terms.pages.function": "recipes/vrag_rl:gain_of_pages",
            "rewards.terms.pages.weight": 0.2,
            "rewards.terms.pages.gate": "complete",
            "grpo.queries_per_episode": 32,
            "grpo.advantage": "std",
            "grpo.clip_high": 0.2,
            "auxiliary.kl": 0.01,
            "auxiliary.kl_estimator": "k3",
            "replay.method": "none",
        },
    )


def searches_and_answers(responses: Responses) -> np.ndarray:
    """1 for a response that has searched, whatever that has found, and answers in its tags."""
    return responses.each(
        lambda one, query: answers_in_tags(one) and any(call.name == "search" for call in one.operations)
    )


def gain_of_pages(responses: Responses) -> np.ndarray:
    """NDCG of the pages that were found among the data's."""
    return responses.each(lambda one, query: ranking_gain(found_pages(one), gold_pages(query)))


def found_pages(one: Trajectory) -> list[str]:
    """The names of the pages that were shown, as observations have them, in order."""
    begun, names = False, []
    for message in one.messages:
        begun = begun or message["role"] == "assistant"
        if begun and message["role"] != "assistant":
            text = "".join(item.get("text", "") for item in message["content"])
            names += re.findall(r"^\s{0,4}Here is page ([\w.-]{1,80}) \(Image Size", text)
    return list(dict.fromkeys(names))


def gold_pages(query: Query) -> list[str]:
    """The names of the right pages that the data have."""
    pages = query.get("pages")
    return [*map(str, pages)] if isinstance(pages, list | tuple) else []

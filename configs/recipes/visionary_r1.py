"""Visionary-R1 (arXiv 2505.14677; maifoundations/Visionary-R1): describe first, so well that the image is not needed.

A response is a caption, a thought and an answer in `<info>`, `<think>` and `<answer>` tags. r = accuracy + format + 0.1
where the same policy answers rightly from caption and question alone, without the image: the second sub-group, with a
response for each caption, which is itself not trained. The weight of KL falls to 0 along a cosine. Evidence: read in
the authors' code; that this weight begins at 0.04 is a reading of ours. Difference: answers are compared by rules, free
texts too, which they compare by ANLS or ROUGE.

Command: pixel-reasoner rl --config recipes/visionary_r1
Data: images with questions and answers.
Hardware: that of rl_qwen2_5_vl_7b, with rows of 4,096 tokens and a reference model; not compiled by itself.
Time and result: never run at this size. Published, as we remember it and have not checked:
above GPT-4o on several benchmarks of visual reasoning, 3B.
"""

from collections.abc import Sequence

import numpy as np
from ml_collections import ConfigDict

from pixel_reasoner_jax.config import variant
from pixel_reasoner_jax.query import Query
from pixel_reasoner_jax.rewards.formats import contents, has_one
from pixel_reasoner_jax.rewards.terms import Responses
from pixel_reasoner_jax.trajectory import Trajectory

WRITERS, READERS = "captions", "readers"  # the sub-groups
TOLD = "An image that you do not see was described so:\n{}\n\n{}"


def get_config() -> ConfigDict:
    return variant(
        "rl_qwen2_5_vl_7b",
        {
            "workdir": "runs/visionary_r1",
            "model.directory": "checkpoints/Qwen2.5-VL-7B-Instruct",
            "processor.image": (4, 1275),
            "operations.names": (),
            "operations.guidelines": (
                "First describe the image in detail within <info> </info> tags, so that the question can be answered"
                " without it. Then reason step by step within <think> </think> tags, and give the final answer within"
                " <answer> </answer> tags."
            ),
            "rollout.samples": 16,
            "rollout.max_response_tokens": 768,
            "rollout.max_length": 4096,
            "train.row_length": 4096,
            "rollout.subgroups.captions.samples": 8,
            "rollout.subgroups.captions.compared": WRITERS,
            "rollout.subgroups.readers.samples": 8,
            "rollout.subgroups.readers.needs": WRITERS,
            "rollout.subgroups.readers.above": -1.0,  # whatever the answers with the image are
            "rollout.subgroups.readers.query": "recipes/visionary_r1:from_captions",
            "rollout.subgroups.readers.guidelines": "Reason, and give the final answer within <answer> </answer> tags.",
            "rollout.subgroups.readers.compared": READERS,
            "rollout.subgroups.readers.counted": False,
            "rewards.terms.correct.function": "recipes/visionary_r1:right",
            "rewards.terms.bonus.weight": 0.0,
            "rewards.terms.penalty.weight": 0.0,
            "rewards.terms.caption.function": "recipes/visionary_r1:caption_suffices",
            "rewards.terms.caption.weight": 0.1,
            "rewards.terms.format.function": "recipes/visionary_r1:form",
            "grpo.advantage": "std",
            "grpo.clip_high": 0.2,
            "auxiliary.kl": 0.04,
            "auxiliary.kl_estimator": "k3",
            "schedules": (("auxiliary.kl", "cosine", 0.04, 0.0),),
            "replay.method": "none",
        },
    )


def from_captions(query: Query, writers: Sequence[Trajectory]) -> list[Query | None]:
    """The question with each caption in place of the image; None where there is none."""
    told = {key: value for key, value in query.items() if key not in ("images", "video", "fps")}
    captions = [_caption(one) for one in writers]
    return [caption and {**told, "question": TOLD.format(caption, query["question"])} for caption in captions]


def right(responses: Responses) -> np.ndarray:
    """1 for a right answer of a response with the image; the others are all alike, and teach nothing."""
    return responses.correct * (responses.labels == WRITERS)


def caption_suffices(responses: Responses) -> np.ndarray:
    """1 for a caption from which the question was answered rightly."""
    values = np.zeros(responses.correct.shape)
    values[:, responses.labels == WRITERS] = (responses.correct * responses.asked)[:, responses.labels == READERS]
    return values


def form(responses: Responses) -> np.ndarray:
    """1 for a caption, a thought and an answer in tags, in this order."""
    return responses.each(lambda one, query: has_one(one.response, "info", "think", "answer")) * (
        responses.labels == WRITERS
    )


def _caption(one: Trajectory) -> str | None:
    """What stands in the tags of a response; None if it has not one pair of them, with a text."""
    found = contents(one.response, "info")
    return found[0].strip() or None if found and len(found) == 1 else None

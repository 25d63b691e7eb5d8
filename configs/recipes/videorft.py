"""VideoRFT (arXiv 2505.12434; QiWang98/VideoRFT): thoughts about a video that have to do with what is seen.

r = accuracy + format + semantic where the answer is right + 0.2 where it is right, another one of the query is right
too, and the response has 320 to 512 tokens. Semantic is min(1, 2 max(0, cos)): cos is the mean over frames of what
SigLIP says of the frame and the thought after its first sentence. Evidence: read in the authors' code.

SigLIP is not part of this package: PIXEL_REASONER_SIMILARITY names a function of your own, as module:function, of a
text and a list of PIL images, which returns the cosine of the text with each image, by a model or a server of yours.

Command: PIXEL_REASONER_SIMILARITY=my_siglip:cosines pixel-reasoner rl --config recipes/videorft
Data: videos or images with questions and answers; a model tuned on thoughts about such questions (theirs: 102,000).
Hardware: that of rl_qwen2_5_vl_7b, with rows of 6,144 tokens and a reference model; not compiled by itself.
Time and result: never run at this size. Published, as we remember it and have not checked:
best of its time on six benchmarks of videos, Qwen2.5-VL-7B.
"""

import os
import re
from collections.abc import Callable, Sequence

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from pixel_reasoner_jax.config import variant
from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.named_parts import find_part, numbers_of
from pixel_reasoner_jax.query import Query
from pixel_reasoner_jax.rewards.formats import contents, thinks_and_answers
from pixel_reasoner_jax.rewards.terms import Responses
from pixel_reasoner_jax.trajectory import Trajectory

SIMILARITY = "PIXEL_REASONER_SIMILARITY"
TOKENS = (320, 512)  # of a response that is neither short nor long
MOST = 4000  # characters of a thought

Similarity = Callable[[str, Sequence[Image.Image]], Sequence[float]]


def get_config() -> ConfigDict:
    return variant(
        "rl_qwen2_5_vl_7b",
        {
            "workdir": "runs/videorft",
            "operations.names": (),
            "operations.guidelines": (
                "Think about the question within <think> </think> tags: first say what is asked, then what you see that"
                " answers it. Then give the final answer within <answer> </answer> tags."
            ),
            "rollout.max_response_tokens": 1024,
            "rollout.max_length": 6144,
            "train.row_length": 6144,
            "rewards.terms.bonus.weight": 0.0,
            "rewards.terms.penalty.weight": 0.0,
            "rewards.terms.format.function": "recipes/videorft:form",
            "rewards.terms.length.function": "recipes/videorft:of_good_length",
            "rewards.terms.length.weight": 0.2,
            "rewards.terms.length.gate": "correct",
            "rewards.terms.semantic.function": "recipes/videorft:semantic",
            "rewards.terms.semantic.gate": "correct",
            "grpo.advantage": "std",
            "grpo.clip_high": 0.2,
            "auxiliary.kl": 0.04,
            "auxiliary.kl_estimator": "k3",
            "replay.method": "none",
        },
    )


def form(responses: Responses) -> np.ndarray:
    """1 for a thought and an answer in tags."""
    return responses.each(lambda one, query: thinks_and_answers(one))


def of_good_length(responses: Responses) -> np.ndarray:
    """1 for so many tokens, where more than one response to the query is right."""
    several = (responses.correct > 0).sum(axis=1, keepdims=True) > 1
    return (several & (responses.tokens >= TOKENS[0]) & (responses.tokens <= TOKENS[1])).astype(float)


def semantic(responses: Responses, similarity: Similarity | None = None) -> np.ndarray:
    """How much right thoughts have to do with the frames, from 0 to 1; the similarity is the environment's if None."""
    similarity = similarity or own_similarity()

    def value(one: Trajectory, query: Query) -> float:
        text, frames = observations(one.response), _frames(one)
        if not text or not frames:
            return 0.0
        cosines = numbers_of("similarity of a text and images", similarity(text, frames), (len(frames),), "images")
        return min(1.0, 2 * max(0.0, float(cosines.mean())))

    # Only what counts is compared.
    right = responses.asked & (responses.correct > 0)
    values = np.zeros(right.shape)
    for row, column in np.argwhere(right).tolist():
        values[row, column] = value(responses.trajectories[row][column], responses.queries[row])
    return values


def observations(response: str) -> str:
    """A thought after its first sentence, which repeats the question; "" without one."""
    thoughts = contents(response, "think")
    parts = re.split(r"(?<=[.!?])\s", thoughts[0][:MOST].strip(), maxsplit=1) if thoughts else []
    return parts[1].strip() if len(parts) > 1 else ""


def own_similarity() -> Similarity:
    """The function that the environment names."""
    if not (name := os.environ.get(SIMILARITY)):
        raise UserError(f"this reward compares texts with images: set {SIMILARITY} to module:function of your own")
    return find_part(name, {}, "similarity")


def _frames(one: Trajectory) -> list[Image.Image]:
    """The frames of a response's video, or its query's images."""
    asked = next((message for message in one.messages if message["role"] == "user"), {"content": []})
    videos = [item["video"].frames for item in asked["content"] if item.get("type") == "video"]
    images = videos[0] if videos else [item["image"] for item in asked["content"] if item.get("type") == "image"]
    return [image.load() if hasattr(image, "full_size") else image for image in images]

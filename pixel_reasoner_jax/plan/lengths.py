"""How long the prompts and responses of an episode are, turn by turn; and how long they are in the method.

There (docs/performance.md#packing) a prompt has an image of up to 2,000 tokens; text alone takes about 600 tokens, a
response with one crop 1,500 to 3,000, one with more crops up to 10,000, prompts included.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from pixel_reasoner_jax.processing import Budgets

SEED = 0
KINDS = {"text": 0.27, "one crop": 0.45, "more crops": 0.28}  # of responses, and their shares
LONGEST = 10_000  # tokens of the method's longest trajectory


class Turn(NamedTuple):
    """A turn of a response.

    Attributes:
      sampled: tokens, its end included.
      observed: tokens of the observation after it, images included; 0 after the last turn.
      images: tokens of each image in that.
    """

    sampled: int
    observed: int = 0
    images: tuple[int, ...] = ()


Response = tuple[Turn, ...]


class Group(NamedTuple):
    """A query and its responses.

    Attributes:
      prompt: tokens, images included.
      images: tokens of each image in that.
      responses: the turns of each response; a response without turns has no room beside its prompt.
    """

    prompt: int
    images: tuple[int, ...]
    responses: tuple[Response, ...]

    def tokens(self) -> list[int]:
        """Tokens of each trajectory."""
        return [self.prompt + sum(turn.sampled + turn.observed for turn in turns) for turns in self.responses]


def draw_group(random: np.random.Generator, samples: int) -> Group:
    """A query of the method's and its responses; trajectories may be longer than `LONGEST`."""
    image, question = int(random.integers(300, 2000)), int(random.integers(150, 500))
    return Group(question + image, (image,), tuple(_draw_response(random) for _ in range(samples)))


def _draw_response(random: np.random.Generator) -> Response:
    kind = random.choice(list(KINDS), p=list(KINDS.values()))
    crops = {"text": 0, "one crop": 1, "more crops": random.integers(2, 5)}[kind]
    seen = [int(random.integers(100, 1000)) for _ in range(crops)]
    written = random.gamma(4, 50, size=crops + 1) * (3 if kind == "more crops" else 1)
    sampled = np.diff(np.floor(np.cumsum(written)), prepend=0).astype(int).tolist()
    turns = [Turn(*pair, pair[1:]) for pair in zip(sampled, seen, strict=False)]
    return (*turns, Turn(sampled[-1]))


def method_groups(config: ConfigDict) -> list[Group]:
    """The queries of an episode with the method's lengths; the same for the same config.

    Where `rollout.max_length` is less than `LONGEST`, as for small models, all of them are less in proportion. Images
    have their budget at most.
    """
    random, budgets = np.random.default_rng(SEED), Budgets().replaced(config.processor)
    scale = min(1.0, config.rollout.max_length / LONGEST)
    groups = []
    for _ in range(config.grpo.queries_per_episode):
        group = draw_group(random, config.rollout.samples)
        prompt, images = _scaled(group.prompt, group.images, scale, budgets.image[1])
        responses = tuple(
            tuple(
                Turn(max(int(turn.sampled * scale), 1), *_scaled(turn.observed, turn.images, scale, budgets.crop[1]))
                for turn in turns
            )
            for turns in group.responses
        )
        group, longest = Group(max(prompt, 1), images, responses), int(LONGEST * scale)
        groups.append(limited(group, longest, config.rollout.max_response_tokens))
    return groups


def _scaled(tokens: int, images: tuple[int, ...], scale: float, most: int) -> tuple[int, tuple[int, ...]]:
    """Scales a text with images, which have `most` tokens each at most."""
    text = int((tokens - sum(images)) * scale)
    images = tuple(min(max(int(image * scale), 1), most) for image in images)
    return text + sum(images), images


def limited(group: Group, longest: int, most: int) -> Group:
    """Ends responses where a rollout would: an observation that leads over a limit is not appended.

    Args:
      group: the query and its responses.
      longest: tokens of a trajectory.
      most: tokens of a response.
    """
    end = min(longest - group.prompt, most)
    return group._replace(responses=tuple(_cut(turns, end) for turns in group.responses))


def _cut(turns: Response, room: int) -> Response:
    kept = []
    for turn in turns:
        room -= turn.sampled
        if room <= turn.observed:  # the limit is met within the turn, or the next turn has no room
            kept.append(Turn(turn.sampled + min(room, 0)))
            break
        room -= turn.observed
        kept.append(turn)
    if kept:  # nothing follows what a stored response has observed last, where a limit ended it there
        kept[-1] = Turn(kept[-1].sampled)
    return tuple(turn for turn in kept if turn.sampled > 0)

"""The forms of responses: the tags in which models think and answer.

Texts are untrusted: all of this takes time and memory that grow no faster than they do, and raises nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from pixel_reasoner_jax.rewards.extraction import extract_answer
from pixel_reasoner_jax.trajectory import Trajectory


def turns_of(trajectory: Trajectory) -> list[str]:
    """The texts of the model's turns, in order."""
    return [
        "".join(item.get("text", "") for item in message["content"])
        for message in trajectory.messages
        if message["role"] == "assistant"
    ]


def contents(text: str, tag: str) -> list[str] | None:
    """What stands in every `<tag>...</tag>` of a text, in order.

    None if one is not closed, was not opened, or stands in another one of its kind.
    """
    before, *parts = text.split(f"<{tag}>")
    pieces = [part.split(f"</{tag}>") for part in parts]
    if f"</{tag}>" in before or any(len(piece) != 2 for piece in pieces):
        return None
    return [piece[0] for piece in pieces]


def has_one(text: str, *tags: str) -> bool:
    """Whether a text has each of these tags once, with something in it, one after the other."""
    found = [contents(text, tag) for tag in tags]
    places = [text.find(f"<{tag}>") for tag in tags]
    ends = [text.find(f"</{tag}>") for tag in tags]
    in_order = all(end < place for end, place in zip(ends, places[1:], strict=False))
    return in_order and all(
        found_one is not None and len(found_one) == 1 and found_one[0].strip() for found_one in found
    )


def thinks_and_answers(trajectory: Trajectory, calls: Sequence[str] = ()) -> bool:
    """Whether every turn thinks in `<think>` tags, and the last alone answers after that, in `<answer>` tags.

    Args:
      calls: tags of which every other turn has one after its thought, those of a call.
    """
    *earlier, last = turns_of(trajectory) or [""]
    steps = all(
        "<answer>" not in turn
        and (any(has_one(turn, "think", call) for call in calls) if calls else has_one(turn, "think"))
        for turn in earlier
    )
    return steps and has_one(last, "think", "answer")


def answers_in_tags(trajectory: Trajectory) -> bool:
    """Whether the answer that counts stands in the last turn's one pair of `<answer>` tags."""
    found = contents(trajectory.response, "answer")
    if not found or len(found) != 1:
        return False
    return extract_answer(trajectory.response) in (found[0].strip(), extract_answer(found[0]))

"""What all scorers share: their type, and how an answer is found in a response."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence

from pixel_reasoner_jax.evaluation.benchmarks.items import Item
from pixel_reasoner_jax.rewards import answer_reward, extract_answer, marked_answer
from pixel_reasoner_jax.rewards.answers import judge

Rule = Callable[[str, Item], float | None]


@functools.lru_cache(maxsize=4)  # every scorer asks for that of the same response
def final_answer(response: str) -> str:
    """The answer that a response marks, else its last line with text; "" if it has none."""
    answer = extract_answer(response)
    if answer is None:
        lines = response.strip().rsplit("\n", 1)
        answer = lines[-1]
    return answer.strip()


@functools.lru_cache(maxsize=4)
def given_answer(response: str) -> str:
    r"""What the response holds in `\boxed{}` or `<answer>`, else all of it, as it is."""
    marked = marked_answer(response)
    return response if marked is None else marked


@dataclasses.dataclass(frozen=True)
class Scorer:
    """A rule by name.

    Attributes:
      name: as users write it.
      rule: (response, item) -> score in [0, 1], or None where the rule leaves the response out of the figure.
      says: the rule, in a sentence.
      source: where it comes from; "" for our own.
      answer: (response, item) -> what the response answers, as far as the rule tells; the letter of a choice.
    """

    name: str
    rule: Rule
    says: str
    source: str = ""
    answer: Callable[[str, Item], str | None] = lambda response, item: final_answer(response)

    def __call__(self, response: str, item: Item) -> float | None:
        """The score of a response, None where it is left out or the item's answer is withheld."""
        return self.rule(response, item) if item.answered else None


def is_right(answer: str, references: str | Sequence[str]) -> bool:
    """Whether an answer equals one of the references, by our rules (`rewards`), algebra included."""
    references = [references] if isinstance(references, str) else references
    verdicts = {reference: judge(answer, reference) for reference in references}
    if True in verdicts.values():
        return True
    undecided = [reference for reference, verdict in verdicts.items() if verdict is None]
    return bool(undecided) and answer_reward(f"<answer>{answer}</answer>", undecided) == 1.0


def by_letter(read: Callable[[str, Item], str | None]) -> dict[str, Callable]:
    """The `rule` and the `answer` of a scorer that reads one letter from what the response gives as its answer."""

    def answer(response: str, item: Item) -> str | None:
        return read(given_answer(response), item)

    def rule(response: str, item: Item) -> float:
        return float(item.letter is not None and answer(response, item) == item.letter)

    return {"rule": rule, "answer": answer}

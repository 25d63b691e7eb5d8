"""Whether an answer equals a reference: the reference's kind decides, and every kind has a module of its own.

A kind's module has `read(reference)`, what the reference says in that kind or None if it is of another, and
`accepts(value, answer)`. The kinds are asked in the order of `KINDS`; words are the last and read everything. Only
mathematics needs algebra, which `rewards.AnswerPool` does in other processes. Answers are untrusted: texts longer than
`MAX_ANSWER` characters are only compared as they are, so that nothing here takes long.
"""

from __future__ import annotations

from pixel_reasoner_jax.rewards.answers import (
    choice,
    codes,
    dates,
    lists,
    mathematics,
    numbers,
    quantities,
    ranges,
    ratios,
    release,
    texts,
    times,
    yes_no,
)
from pixel_reasoner_jax.rewards.answers.spelling import clean

MAX_ANSWER = 1000  # characters; no reference answer is near this long

KINDS = (yes_no, dates, times, numbers, ranges, ratios, quantities, codes, texts)

__all__ = ["KINDS", "MAX_ANSWER", "accepted", "clean", "for_algebra", "judge"]


def accepted(reference: str) -> list[str]:
    """The answers that a reference accepts: itself; and for a choice with its text, "A. cat", also "A" and "cat"."""
    labelled = choice.read(clean(reference))
    return [reference, labelled.letter.upper(), labelled.text] if labelled and labelled.text else [reference]


def judge(answer: str, reference: str, rules: str = "strict") -> bool | None:
    """Compares two answers without algebra.

    Args:
      answer: the answer extracted from a response; untrusted.
      reference: one accepted answer.
      rules: "strict", or "release" for `answers.release`.

    Returns:
      True or False, or None if only algebra can tell.
    """
    if len(answer) > MAX_ANSWER or len(reference) > MAX_ANSWER:
        return answer == reference
    if rules == "release":
        verdicts = [release.judge(answer, spelling) for spelling in accepted(reference)]
        return True if True in verdicts else None if None in verdicts else False
    answer, reference = clean(answer), clean(reference)
    chosen = choice.read(reference)
    if chosen is None or answer.casefold() == reference.casefold():
        return _judge(answer, reference)
    return _judge_choice(answer, chosen)


def for_algebra(answer: str, reference: str) -> tuple[str, str]:
    """The two expressions of an answer and a reference that `judge` left open: of a labelled choice its text."""
    answer, reference = clean(answer), clean(reference)
    chosen = choice.read(reference)
    if chosen is not None and chosen.text:
        given = choice.split(answer) or choice.Choice("", "")
        answer, reference = clean(given.text) or answer, clean(chosen.text)
    return mathematics.latex(answer), mathematics.latex(reference)


def _judge_choice(answer: str, reference: choice.Choice) -> bool | None:
    """By the letter; where the reference has a text too, by either, and both must be right if both are there."""
    if not reference.text:
        return choice.accepts(reference, answer)
    given = choice.split(answer)
    if given is None and (marked := choice.split_without_mark(answer)) and marked.letter == reference.letter:
        if _judge(clean(marked.text), clean(reference.text)):
            return True
    if given is None or (given.letter != reference.letter and not given.text):
        return given is None and _judge(answer, clean(reference.text))
    if given.letter != reference.letter:
        return False
    return not given.text or _judge(clean(given.text), clean(reference.text))


def _judge(answer: str, reference: str) -> bool | None:
    """Compares cleaned texts of any kind but choices."""
    if answer.casefold() == reference.casefold():
        return True
    if not answer or not reference:
        return False
    for kind in KINDS:
        if kind is codes:  # what is left is a list, mathematics, a code or words
            if (parts := lists.read(reference)) is not None:
                return (lists.are_words(parts) and texts.accepts(texts.read(reference), answer)) or _judge_list(
                    answer, parts
                )
            if mathematics.read(reference) is not None:
                return None if mathematics.may_equal(answer) else False
        value = kind.read(reference)
        if value is None:
            continue
        if kind is numbers and numbers.read(answer) is None and mathematics.is_expression(answer.rstrip("!")):
            return None  # "\sqrt{4}" is the number 2, and "\sqrt{2}" is not
        if kind.accepts(value, answer):
            return True
        if kind is numbers and (mass := quantities.read(reference)) is not None:  # pounds are no money alone
            return quantities.accepts(mass, answer)
        return False
    return False


def _judge_list(answer: str, parts: list[str]) -> bool | None:
    """Every part of the reference is met by another part of the answer, and none is left over."""
    given = lists.split(answer)
    if len(given) != len(parts):
        return False
    undecided = False
    for part in parts:
        verdicts = [judge(other, part) for other in given]
        if True in verdicts:
            given.pop(verdicts.index(True))
        elif None in verdicts:
            undecided = True
        else:
            return False
    return None if undecided else True

"""Questions with options: they are shown below the question with letters, and the answer is a letter with its text."""

from __future__ import annotations

import re
import string
from collections.abc import Mapping, Sequence
from typing import Any

Options = Sequence[str] | Mapping[str, str]
"""The texts of the choices, with or without their letters, or a mapping from letters to texts."""

_LABEL = re.compile(r"\s*[(\[]?([A-Za-z])\s*[)\].:]\s*")


def with_choices(question: str, answer: Any, options: Options | None) -> tuple[str, Any]:
    """The question with the options below it, and its answers as lines of these.

    A question that names all of its options is returned as it is, and so is an answer that is none of them.

    Args:
      question: what is asked.
      answer: one or several, each the letter or the text of an option.
      options: None or empty for a question that is open.
    """
    letters, texts = lettered(options)
    if not texts or all(re.search(rf"(?<!\w){re.escape(text)}(?!\w)", question, re.IGNORECASE) for text in texts):
        return question, answer
    lines = [f"{letter}. {text}" for letter, text in zip(letters, texts, strict=True)]

    def line(one: Any) -> Any:
        chosen = chosen_option(one, letters, texts)
        return one if chosen is None else lines[chosen]

    answer = [line(one) for one in answer] if isinstance(answer, list | tuple) else line(answer)
    return "\n".join([question, *lines]), answer


def lettered(options: Options | None) -> tuple[list[str], list[str]]:
    """The letters and the texts of options; texts lose letters of their own, and a full stop at the end."""
    if not options:
        return [], []
    letters = list(options) if isinstance(options, Mapping) else list(string.ascii_uppercase[: len(options)])
    texts = list(options.values() if isinstance(options, Mapping) else options)
    labels = [_LABEL.match(text) for text in texts]
    if all(label and label[1].upper() == letter.upper() for label, letter in zip(labels, letters, strict=False)):
        texts = [text[label.end() :] for text, label in zip(texts, labels, strict=True) if label]
    return letters, [text.strip().removesuffix(".") for text in texts]


def chosen_option(answer: Any, letters: Sequence[str], texts: Sequence[str]) -> int | None:
    """The number of the option that an answer names, by its text or by its letter; None if it names none."""
    if not isinstance(answer, str):
        return None
    plain = answer.strip().removesuffix(".")
    if plain in texts:
        return list(texts).index(plain)
    label = _LABEL.match(answer)
    letter, text = (label[1], plain[label.end() :]) if label else (plain, "")
    capitals = [one.upper() for one in letters]
    number = capitals.index(letter.upper()) if letter.upper() in capitals else None
    # "A. blue" is no answer where A is another colour.
    return number if number is not None and text.strip() in ("", texts[number]) else None

"""Options of a question: found in a text, named by their letters, shuffled."""

from __future__ import annotations

import dataclasses
import random
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pixel_reasoner_jax.errors import shown
from pixel_reasoner_jax.evaluation.benchmarks.items import LETTERS, Item
from pixel_reasoner_jax.evaluation.benchmarks.rows import RowError
from pixel_reasoner_jax.rewards import extract_answer
from pixel_reasoner_jax.rollout.choices import chosen_option, lettered

ORDERS = ("published", "shuffled")
MANY = 8  # rows whose right option is the first one: with two options each, one time in 256 by chance

_LINE = re.compile(r"\s*(?:\(([A-Z])\)|([A-Z])[.):])\s*(\S.*?)\s*")
_INLINE = re.compile(r"\s*\(([A-Z])\)\s*")
_LABEL = re.compile(r"\s*(?:\(([A-Z])\)|([A-Z])[.):])\s*")
_HEADING = re.compile(r"\s*(?:Options?|Choices)\s*:\s*\Z", re.IGNORECASE)
_INSTRUCTION = re.compile(
    r"\s*(?:Answer with|Answer the|Only give|Please (?:answer|select|choose)|Respond with|Select the).*", re.DOTALL
)


def split_text(text: str) -> tuple[str, list[str]]:
    """A question and its options from a text that has both: lines "(A) red", "A. red" or "(A) red (B) blue" in one.

    The letters must go on from A. An instruction behind the options is left out. Without options: the text and none.
    """
    lines = text.strip().split("\n")
    for start, line in enumerate(lines):
        options: list[str] = []
        for following in lines[start:]:
            match = _LINE.fullmatch(following)
            if not match or (match[1] or match[2]) != LETTERS[len(options)] or len(options) == len(LETTERS) - 1:
                break
            options.append(match[3])
        if len(options) > 1:
            return _HEADING.sub("", "\n".join(lines[:start])).strip(), options
        if start == len(lines) - 1 or "(B)" in line:
            break
    return _split_inline(text)


def _split_inline(text: str) -> tuple[str, list[str]]:
    """The same where options follow each other in a line."""
    labels: list[re.Match] = []
    for match in _INLINE.finditer(text):
        if len(labels) < len(LETTERS) and match[1] == LETTERS[len(labels)]:
            labels.append(match)
    if len(labels) < 2:
        return text.strip(), []
    ends = [match.start() for match in labels[1:]] + [len(text)]
    options = [text[match.end() : end].strip() for match, end in zip(labels, ends, strict=True)]
    options[-1] = _INSTRUCTION.sub("", options[-1]) or options[-1]
    return _HEADING.sub("", text[: labels[0].start()]).strip(), options


def without_label(option: str, index: int) -> str:
    """An option's text without its own letter, "(B) red" or "B. red" as the second one."""
    match = _LABEL.match(option)
    return option[match.end() :] if match and (match[1] or match[2]) == LETTERS[index] else option


def index_of_letter(letter: str, options: Sequence[str]) -> int:
    """The index of the option that "B", "(B)" or "B." names.

    Raises:
      RowError: it names none of them.
    """
    bare = letter.strip().strip("().").upper()
    index = LETTERS.find(bare) if len(bare) == 1 else -1
    if not 0 <= index < len(options):
        raise RowError(f"the answer is {shown(letter)}, not one of {len(options)} options' letters")
    return index


def index_of_text(answer: str, options: Sequence[str]) -> int:
    """The index of the first option that is the answer.

    Raises:
      RowError: none is.
    """
    if answer not in options:
        raise RowError(f"the answer {shown(answer)} is none of the {len(options)} options")
    return list(options).index(answer)


def read_options(options: Any, answer: str | None) -> tuple[list[str], int | None]:
    """The texts of options that are a list or a mapping, and the index of the one that the answer is, as in training.

    Args:
      options: see `rollout.choices`; they may be numbers.
      answer: an option's text, its letter or both; None where it is withheld.

    Raises:
      RowError: the options are something else, fewer than two or more than there are letters, or the answer is none.
    """
    values = list(options.values()) if isinstance(options, Mapping) else options
    if not isinstance(values, list | tuple) or not all(isinstance(one, str | int | float) for one in values):
        raise RowError(f"the options are {shown(options)}, expected a list of texts")
    if not 2 <= len(values) <= len(LETTERS):
        raise RowError(f"it has {len(values)} options, expected two to {len(LETTERS)}")
    names = map(str, options if isinstance(options, Mapping) else LETTERS)
    letters, texts = lettered(dict(zip(names, map(str, values), strict=False)))
    if answer is None:
        return texts, None
    right = chosen_option(answer, letters, texts)
    if right is None:
        raise RowError(f"the answer {shown(answer)} is none of the {len(texts)} options")
    return texts, right


def right_is_always_first(rows: Iterable[tuple[Any, Any]]) -> bool:
    """Whether the right option is the first one in every row, in so many rows that this is no chance.

    Args:
      rows: options (None where they are not known) and the answer, as a file has them; others than choices are skipped.
    """
    count = 0
    for options, answer in rows:
        answer = str(answer[0] if isinstance(answer, list | tuple) and answer else answer)
        answer = extract_answer(answer) or answer if "\\boxed" in answer else answer
        try:
            place = read_options(options, answer)[1] if options else index_of_letter(answer, LETTERS)
        except RowError:
            continue
        if place:
            return False
        count += 1
    return count >= MANY


def shuffled(item: Item, benchmark: str, seed: int, fixed: int = 0) -> Item:
    """The item with its options in an order drawn for (seed, benchmark, item), which `order` records.

    Args:
      item: its options may be in a recorded order already.
      benchmark: the benchmark's name.
      seed: of the protocol.
      fixed: how many of the last options stay last: "none of these".
    """
    count = len(item.options)
    order = list(range(count - fixed))
    random.Random(f"{seed}/{benchmark}/{item.id}").shuffle(order)
    order += range(count - fixed, count)
    return dataclasses.replace(
        item,
        options=tuple(item.options[index] for index in order),
        right=None if item.right is None else order.index(item.right),
        order=tuple(order if item.order is None else (item.order[index] for index in order)),
    )

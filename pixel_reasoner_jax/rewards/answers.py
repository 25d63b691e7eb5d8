"""Extracts the final answer of a response, and compares answers as far as that needs no computer algebra.

Everything here takes time linear in the text, since responses are untrusted.
"""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction

MAX_ANSWER = 1000  # characters; no reference answer is near this long, and algebra on longer ones is refused
MAX_NESTING = 24  # brackets open at once

_BRACES = re.compile(r"(?P<box>\\boxed\s{0,8}\{)|\\.|[{}]", re.DOTALL)
_ANSWER_LINE = re.compile(r"answer\s{0,8}:\**", re.IGNORECASE)
_TEXT_COMMAND = re.compile(r"\\(?:text|textbf|mathrm|mathbf|operatorname)\s*\{([^{}]*)\}")
_LETTER_REFERENCE = re.compile(r"\(?([a-z])[).:]?", re.IGNORECASE)
_LETTER_ANSWER = re.compile(r"[\s(\[{\"'*]*([a-z])\s*((?:[)\]}.:\"'*,].*)?)", re.IGNORECASE | re.DOTALL)
# Another letter that is written like a choice: at the start or after a comma or the like, and not part of a word.
_OTHER_LETTER = re.compile(r"(?:^\W*|[,;/|&(]\s*)([A-Za-z])(?=\s*(?:[)\]}.:,;/|&]|$|(?:and|or)\b))")
_LABELLED_REFERENCE = re.compile(r"(?:\(([A-Z])\)|([A-Z])[).:])\s+(\S.*)", re.DOTALL)
_NUMBER = re.compile(r"([-+]?)\s*\$?((?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d*)?)\s*(%?)", re.ASCII)
_FRACTION = re.compile(r"([-+]?\d+)\s*/\s*(\d+)", re.ASCII)
_WORDS = re.compile(r"(?=.*[^\W\d_]{2})[^\W\d_]+(?:[\s'’.,;:!?&-]+[^\W\d_]+)*[\s!?]*")


def extract_answer(response: str) -> str | None:
    r"""The final answer of a response: the last `\boxed{...}` that is closed, else the last `<answer>...</answer>`,
    else the rest of the line after the last "Answer:". None if the response has none of these."""
    for find in (_boxed, _tagged, _announced):
        answer = find(response)
        if answer is not None:
            return answer.strip()
    return None


def accepted(reference: str) -> list[str]:
    """The answers that a reference accepts: itself; and for a choice with its text, "A. cat", also "A" and "cat"."""
    labelled = _LABELLED_REFERENCE.fullmatch(reference.strip())
    return [reference] if labelled is None else [reference, *filter(None, labelled.groups())]


def judge(answer: str, reference: str) -> bool | None:
    """Compares two answers without computer algebra.

    Args:
      answer: the answer extracted from a response; untrusted.
      reference: one accepted answer.

    Returns:
      True or False if texts, letters, numbers or parts decide; None if only algebra can tell.
    """
    if len(answer) > MAX_ANSWER or len(reference) > MAX_ANSWER:
        return answer == reference
    answer, reference = normalize(answer), normalize(reference)
    if answer.casefold() == reference.casefold():
        return True
    if not answer or not reference:
        return False
    letter = _LETTER_REFERENCE.fullmatch(reference)
    if letter:
        chosen = _LETTER_ANSWER.fullmatch(answer)
        return bool(chosen) and chosen[1].casefold() == letter[1].casefold() and not _names_another(*chosen.groups())
    expected, given = _number(reference), _number(answer)
    if expected and given:
        return _equal_numbers(expected, given)
    parts = [part.strip() for part in reference.split(",")]
    if len(parts) > 1 and not expected and all(parts) and all(_occurs(part, answer) for part in parts):
        return True
    # Algebra would read words as products of letters: "no" is n*o and so equals "on".
    words = _WORDS.fullmatch(reference), _WORDS.fullmatch(answer)
    if all(words) or (words[0] and given) or (expected and words[1]):
        return False
    if max(_nesting(answer), _nesting(reference)) > MAX_NESTING:
        return False
    return None


def normalize(text: str) -> str:
    """Unifies compatibility characters (NFKC); removes dollar signs, text commands, quotes and a final full stop."""
    text = unicodedata.normalize("NFKC", text).replace("\\%", "%").replace("\\$", "$").replace("\\,", "")
    text = _TEXT_COMMAND.sub(r"\1", text)
    text = " ".join(text.split())
    if len(text) > 1 and text[0] == text[-1] == "$":
        text = text[1:-1].strip()
    return text.strip("\"'*` ").removesuffix(".").strip()


def _boxed(response: str) -> str | None:
    if "\\boxed" not in response:
        return None
    answer, found, open_braces = None, -1, []
    for match in _BRACES.finditer(response):
        token = match[0]
        if match["box"] or token == "{":
            open_braces.append(match.end() if match["box"] else None)
        elif token == "}" and open_braces:
            start = open_braces.pop()
            if start is not None and start > found:
                found, answer = start, (start, match.start())
    return response[slice(*answer)] if answer else None


def _tagged(response: str) -> str | None:
    end = response.rfind("</answer>")
    start = response.rfind("<answer>", 0, max(end, 0))
    return response[start + len("<answer>") : end] if start >= 0 else None


def _announced(response: str) -> str | None:
    announcements = list(_ANSWER_LINE.finditer(response))
    return response[announcements[-1].end() :].lstrip().split("\n", 1)[0] if announcements else None


def _number(text: str) -> tuple[Fraction, bool] | None:
    """A plain number's value and whether a percent sign follows it; None if the text is something else."""
    fraction = _FRACTION.fullmatch(text)
    if fraction:
        return (Fraction(int(fraction[1]), int(fraction[2])), False) if int(fraction[2]) else None
    match = _NUMBER.fullmatch(text)
    if not match or not any(character.isdigit() for character in match[2]):
        return None
    return Fraction(match[1] + match[2].replace(",", "").rstrip(".")), bool(match[3])


def _equal_numbers(first: tuple[Fraction, bool], second: tuple[Fraction, bool]) -> bool:
    """Equality to six decimals, as math-verify rounds; a percent sign on one side is optional: 50% is 50 and 0.5."""
    (a, a_percent), (b, b_percent) = first, second
    if a_percent == b_percent:
        return round(a, 6) == round(b, 6)
    percent, plain = (a, b) if a_percent else (b, a)
    return round(plain, 6) in (round(percent, 6), round(percent / 100, 6))


def _occurs(part: str, answer: str) -> bool:
    """Whether the answer contains a part, and not just inside a longer word or number."""
    pattern = rf"(?<![\w.]){re.escape(part)}(?!\w|\.\d)"
    return re.search(pattern, answer, re.IGNORECASE) is not None


def _names_another(letter: str, rest: str) -> bool:
    """Whether an answer names another choice after `letter`: "A, B, C, D" is never right. Letters of the other case are
    the text of a choice, as in "B. x", and no choices."""
    others = [match[1] for match in _OTHER_LETTER.finditer(rest)]
    return any(other != letter and other.isupper() == letter.isupper() for other in others)


def _nesting(text: str) -> int:
    depth = deepest = 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        deepest = max(deepest, depth)
    return deepest

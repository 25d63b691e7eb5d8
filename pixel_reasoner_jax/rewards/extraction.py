"""Finds the final answer in a response, in time linear in its length, since responses are untrusted."""

from __future__ import annotations

import re

_BRACES = re.compile(r"(?P<box>\\{1,8}boxed\s{0,8}\{)|\\.|[{}]", re.DOTALL)
_ANSWER_LINE = re.compile(r"answer\s{0,8}\*{0,4}\s{0,8}[:：]\**", re.IGNORECASE)


def extract_answer(response: str) -> str | None:
    r"""The final answer of a response: the last `\boxed{...}` that is closed, else the last `<answer>...</answer>`,
    else the first line with text after the last "Answer:", without an action's closing tag. None if the response has
    none of these."""
    marked = marked_answer(response)
    answer = _announced(response) if marked is None else marked
    return None if answer is None else answer.strip()


def marked_answer(response: str) -> str | None:
    r"""What the last closed `\boxed{...}` holds, else the last `<answer>...</answer>`; None if there is neither."""
    boxed = _boxed(response)
    return _tagged(response) if boxed is None else boxed


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
    if not announcements:
        return None
    return response[announcements[-1].end() :].lstrip().split("\n", 1)[0].split("</action>", 1)[0]

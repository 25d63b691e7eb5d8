"""Scorers of questions with options: which letter does a response choose?"""

from __future__ import annotations

import re

from pixel_reasoner_jax.evaluation.benchmarks.items import LETTERS, Item
from pixel_reasoner_jax.evaluation.scorers.scorer import Scorer, by_letter, final_answer, given_answer, is_right
from pixel_reasoner_jax.rewards.answers import clean, judge
from pixel_reasoner_jax.rewards.answers.choice import split

_LMMS_EVAL = (
    re.compile(r"\A([A-D])"),  # "BASED ON": nothing says that the word must end
    re.compile(r"(?:ANSWER|CHOICE|OPTION)(?:\s+IS)?[\s:]+([A-D])"),
    re.compile(r"\(([A-D])\)"),
    re.compile(r"([A-D])\s*[.)\]]"),
    re.compile(r"(?:\A|\s)([A-D])(?:\s|\Z)"),
)
_VLMEVALKIT_MARKS = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
_VLMEVALKIT_LAST = 5  # words
_ANSWER_IS = re.compile(r"answer\s+is\s+\**\(?([A-Z])\b", re.IGNORECASE)
_LETTERS = "ABCDE"  # of a question with its options in its own words
_REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)


def chosen_option(answer: str, item: Item) -> int | None:
    """The index of the option that an answer names by its letter, its text or both; None for none or several."""
    text = clean(answer).casefold()
    texts = [clean(option).casefold() for option in item.options]
    if text in texts and not (len(text) == 1 and text.upper() in item.letters):
        return texts.index(text)
    named = [
        index
        for index, (letter, option) in enumerate(zip(item.letters, item.options, strict=True))
        if judge(answer, f"{letter}. {option}")
    ]
    if len({texts[index] for index in named}) == 1:
        return named[0]
    given = split(clean(answer))
    index = LETTERS.find(given.letter.upper()) if given and not given.text else -1
    return index if 0 <= index < len(item.options) and index in named else None


def score_choice(response: str, item: Item) -> float:
    """Our own rule: the letter, the text, or both; both must be right if both are there."""
    answer = final_answer(response)
    if item.right is None:
        return float(is_right(answer, item.reference))
    chosen = chosen_option(answer, item)
    if chosen is not None:
        return float(clean(item.options[chosen]).casefold() == clean(item.options[item.right]).casefold())
    undecided = judge(answer, str(item.reference)) is None  # an option in mathematics
    return float(undecided and is_right(answer, item.reference))


def chosen_letter(response: str, item: Item) -> str:
    """The letter of the option that a response chooses, else its answer as it is."""
    answer = final_answer(response)
    chosen = chosen_option(answer, item)
    return answer if chosen is None else LETTERS[chosen]


def lmms_eval_letter(text: str, item: Item) -> str | None:
    """The letter by the rule of lmms-eval's V* task."""
    text = text.strip().upper()
    for pattern in _LMMS_EVAL:
        if match := pattern.search(text):
            return match[1]
    letters = re.findall("[A-D]", text)
    return letters[0] if len(letters) == 1 else None


def vlmevalkit_letter(text: str, item: Item) -> str | None:
    """The letter by VLMEvalKit's `can_infer`; None where it would ask a judge."""
    if any(refusal in text for refusal in _REFUSALS):
        return None
    words = text.translate(_VLMEVALKIT_MARKS).split()
    letters = item.letters or _LETTERS
    present = [letter for letter in letters if letter in words]
    if len(present) == 1 and words.index(present[0]) >= len(words) - _VLMEVALKIT_LAST:
        return present[0]
    if (match := _ANSWER_IS.search(text)) and match[1].upper() in letters:
        return match[1].upper()
    if len(text) >= 2 * sum(map(len, item.options)):
        return None
    folded = text.lower()
    contained = [index for index, option in enumerate(item.options) if option.lower() in folded]
    return LETTERS[contained[0]] if len(contained) == 1 else None


def score_deepeyes(response: str, item: Item) -> float:
    """DeepEyes' rules before its judge: "B", "B.", or a reply that contains "B. text of the option"."""
    text = given_answer(response)
    if len(text) == 1:
        return float(text == item.letter)
    if len(text) == 2 and "." in text:
        return float(item.letter is not None and item.letter in text)
    return float(item.right is not None and item.reference in text)


def score_deepeyes_anywhere(response: str, item: Item) -> float:
    """DeepEyes' first check of HR-Bench: the right letter stands anywhere in the reply, be it in a word."""
    return float(item.letter is not None and item.letter in given_answer(response))


def score_chain_of_focus(response: str, item: Item) -> float:
    """As DeepEyes, and "(B)"."""
    return max(score_deepeyes(response, item), float(given_answer(response) == f"({item.letter})"))


def score_mini_o3(response: str, item: Item) -> float:
    """Mini-o3: the text of the last <answer> is the letter, or begins with "(B)" or "B."; without a tag: wrong."""
    end = response.rfind("</answer>")
    start = response.rfind("<answer>", 0, max(end, 0))
    if start < 0 or item.letter is None:
        return 0.0
    text = response[start + len("<answer>") : end].strip()
    return float(text == item.letter or text.startswith((f"({item.letter})", f"{item.letter}.")))


SCORERS = (
    Scorer(
        "choice",
        score_choice,
        "of options the letter, the text or both; else equality by the kind of answer",
        answer=chosen_letter,
    ),
    Scorer(
        "lmms-eval-letter",
        says="the first of five patterns that finds a letter A-D in capitals: a leading letter, be it of a word, first",
        source="lmms-eval, vstar_bench",
        **by_letter(lmms_eval_letter),
    ),
    Scorer(
        "vlmevalkit-letter",
        says='the only letter among the last five words, "answer is X", or the only option whose text is contained',
        source="VLMEvalKit, can_infer",
        **by_letter(vlmevalkit_letter),
    ),
    Scorer(
        "deepeyes", score_deepeyes, '"B", "B." or "B. text" contained; its judge is left out', "DeepEyes, eval_vstar"
    ),
    Scorer(
        "deepeyes-first",
        score_deepeyes_anywhere,
        "the right letter anywhere in the reply; mended in later versions",
        "DeepEyes, first judge_result_hrbench",
    ),
    Scorer("chain-of-focus", score_chain_of_focus, "as deepeyes, and (B)", "Chain-of-Focus"),
    Scorer("mini-o3", score_mini_o3, 'the last <answer> is "B" or begins with "(B)" or "B."', "Mini-o3"),
)

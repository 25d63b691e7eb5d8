"""A judge: a model behind an endpoint that says whether an answer means the same as a reference answer.

It is asked once about every different answer, at temperature 0, with the prompts in `prompts/`; what it replies is kept
by the endpoint's cache. Both sides are untrusted. The response that is judged may try to talk the judge round: the
judge is shown no more than the answer that it marks, as a JSON text between marks that a candidate cannot know. The
judge may repeat what it was shown: a verdict is its last line alone, which has the same mark, and no other line may
contradict it. A reply without a verdict is asked for again, and in the end scores 0.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import pathlib
import re
import string
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, wait

from pixel_reasoner_jax.endpoint import Endpoint, EndpointError, RequestError
from pixel_reasoner_jax.evaluation.benchmarks.items import Item, Prompt
from pixel_reasoner_jax.evaluation.scorers.scorer import final_answer
from pixel_reasoner_jax.rollout.workers import Workers

JUDGE = "judge"  # the name of its rule among the scorers
PROMPTS = pathlib.Path(__file__).parent / "prompts"
TOKENS = 1024  # of a reply, for models that think before they answer
REPLIES = 3  # that are requested about an answer, until one has a verdict
MUTE = 16  # answers in a row from the first one without a verdict, after which the model is taken to be no judge
GRACE = 5.0  # seconds for which an evaluation that is interrupted waits for replies that are under way
MAX_ANSWER = 1_000  # characters of an answer that the judge is shown


@dataclasses.dataclass(frozen=True)
class JudgedBy:
    """What decides a judge's verdicts: its model, and a digest of what it is told. A part of a protocol."""

    model: str
    prompt: str


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What a response scores, 1 right and 0 wrong, and why there is no verdict, if there is none."""

    score: float
    problem: str = ""


@functools.cache
def _prompts() -> tuple[string.Template, string.Template]:
    texts = ((PROMPTS / f"{name}.txt").read_text(encoding="utf-8").strip() for name in ("judge_system", "judge"))
    return tuple(map(string.Template, texts))


def judged_by(model: str) -> JudgedBy:
    """Names a judge."""
    texts = "\0".join(prompt.template for prompt in _prompts())
    return JudgedBy(model, hashlib.sha256(texts.encode()).hexdigest()[:16])


class Judge:
    """Judges responses, several at a time; many threads may use it at once.

    Args:
      endpoint: the model, at temperature 0; as many requests are under way as its settings say.
    """

    def __init__(self, endpoint: Endpoint):
        self.endpoint = endpoint
        self._threads = Workers(endpoint.settings.concurrency)
        self._lock = threading.Lock()
        self._asked: dict[str, Future[Verdict]] = {}  # what is being asked: the same is asked once
        self._heard, self._mute = False, 0
        self._closed = threading.Event()

    @property
    def identity(self) -> JudgedBy:
        return judged_by(self.endpoint.settings.model)

    def ask(self, response: str, item: Item) -> Callable[[], Verdict]:
        """Begins to judge a response to an item whose answer is known; a response without an answer is wrong.

        Returns:
          What waits for the verdict. It raises an EndpointError if the judge cannot be used, or never gives a verdict.
        """
        answer = final_answer(response)
        if not answer:
            return lambda: Verdict(0.0)
        messages, code = judge_messages(answer, item)
        with self._lock:
            verdict = self._asked.get(code)
            if verdict is None:
                verdict = self._asked[code] = self._threads.submit(self._judge, messages, code).future
                verdict.add_done_callback(lambda _: self._asked.pop(code, None))
        return functools.partial(self._wait, verdict)

    def close(self) -> None:
        """Asks nothing more. What is under way is paid for, and its replies are kept if they come soon."""
        self._closed.set()
        self._threads.close()
        self.endpoint.close(GRACE)
        wait(list(self._asked.values()), GRACE)

    def _wait(self, verdict: Future[Verdict]) -> Verdict:
        while not self._closed.is_set():
            with contextlib.suppress(TimeoutError, CancelledError):
                return verdict.result(0.2)
        raise EndpointError("the evaluation is ending")

    def _judge(self, messages: list[dict[str, str]], code: str) -> Verdict:
        """Asks until a reply has a verdict, in a thread."""
        problem = ""
        for attempt in range(REPLIES):
            try:
                reply = self.endpoint.complete(messages, attempt)
            except RequestError as error:
                problem = str(error)
                break
            verdict = None if reply.problem else read_verdict(reply.text, code)
            if verdict is not None:
                self._heard = True
                return Verdict(float(verdict))
            problem = reply.problem or "its reply has no verdict"
        with self._lock:
            self._mute += 1
            if not self._heard and self._mute >= MUTE:
                raise EndpointError(
                    f"the judge {self.endpoint.settings.model} gave no verdict on any of {self._mute} answers; the last"
                    f" time: {problem}. Name another model with --judge-model, and another folder"
                )
        return Verdict(0.0, f"the judge gave no verdict: {problem}")


def judge_messages(answer: str, item: Item) -> tuple[list[dict[str, str]], str]:
    """What a judge is asked about an answer, and the mark that its verdict must have.

    The mark is a digest of all that the judge is shown, so that the same question has the same mark, and no answer can
    contain its own.
    """
    references = [item.reference] if isinstance(item.reference, str) else item.reference
    fields = {
        "question": _quoted(Prompt().text(item)),
        "references": f"[{', '.join(map(_quoted, references))}]",
        "answer": _quoted(answer if len(answer) <= MAX_ANSWER else f"{answer[:MAX_ANSWER]}…"),
    }
    code = hashlib.sha256(json.dumps(fields).encode()).hexdigest()[:10]
    system, prompt = _prompts()
    return [
        {"role": "system", "content": system.substitute(code=code)},
        {"role": "user", "content": prompt.substitute(fields, code=code)},
    ], code


def _quoted(text: str) -> str:
    """A text as one line of JSON; runs of white space are a blank, half a surrogate pair is "?"."""
    return json.dumps(" ".join(text.encode("utf-8", "replace").decode().split()), ensure_ascii=False)


def read_verdict(reply: str, code: str) -> bool | None:
    """Whether a reply says that the answer is right; None if it says neither.

    Its last line with text must be the verdict, of which marks like `**` around it are no part. A reply that has both
    verdicts has none: it repeats what it was asked.
    """
    verdict = re.compile(rf"[\W_]*{re.escape(code)}[\W_]*(right|wrong)[\W_]*", re.IGNORECASE)
    lines = [line for line in reply.splitlines() if line.strip()]
    if not lines or not (last := verdict.fullmatch(lines[-1])):
        return None
    said = {match[1].lower() for line in lines if (match := verdict.fullmatch(line))}
    return last[1].lower() == "right" if len(said) == 1 else None

"""Options that name a model: its directory, or where it is served and how it is asked."""

from __future__ import annotations

import argparse
from typing import Any


class Given(argparse.Action):
    """Stores a value, and that the option was given: `given` names those that were, be it with their defaults."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        setattr(namespace, self.dest, values)
        namespace.given = (*getattr(namespace, "given", ()), option)


def model_or_served(parser: argparse.ArgumentParser) -> None:
    """A model directory, or a served model in its place."""
    parser.add_argument("--model", metavar="DIR", help="checkpoint directory, ours or Hugging Face's, or an adapter's")
    served = parser.add_argument_group(
        "a served model, in place of --model", "chat completions of OpenAI's form; the key is OPENAI_API_KEY's"
    )
    served.add_argument("--endpoint", metavar="URL", help="of the server, such as http://localhost:8000/v1")
    served.add_argument("--endpoint-model", action=Given, metavar="NAME", help="what the server calls the model")
    served.add_argument(
        "--concurrency",
        type=int,
        default=8,
        action=Given,
        metavar="N",
        help="requests under way at once (default: %(default)s)",
    )
    requests(served, timeout=600.0)
    served.add_argument(
        "--cache", action=Given, metavar="DIR", help="of its answers (default: in the folder that --out names)"
    )


def requests(parser: Any, timeout: float) -> None:
    """How requests to an endpoint are sent, and what they may cost."""
    parser.add_argument(
        "--timeout", type=float, default=timeout, action=Given, metavar="SECONDS", help="default: %(default)s"
    )
    parser.add_argument(
        "--attempts", type=int, default=8, action=Given, metavar="N", help="of a request (default: %(default)s)"
    )
    parser.add_argument(
        "--requests-per-minute", type=float, action=Given, metavar="N", help="at most; no limit unless given"
    )
    parser.add_argument(
        "--prices",
        type=prices,
        default=(0.0, 0.0),
        action=Given,
        metavar="PROMPT,COMPLETION",
        help="of a million tokens, to count what is spent",
    )
    parser.add_argument(
        "--budget", type=float, action=Given, metavar="AMOUNT", help="stop when this run has spent so much"
    )


def judge(parser: argparse.ArgumentParser) -> None:
    """A served model that scores; how it is asked say the options of `requests`."""
    judged = parser.add_argument_group(
        "a judge, for benchmarks that want one (visualprobe) and --set scorer=judge", "asked as a served model is"
    )
    judged.add_argument("--judge", metavar="URL", help="of the server; without it a rule scores")
    judged.add_argument("--judge-model", metavar="NAME", help="what the server calls the judge")
    judged.add_argument(
        "--judge-prices", type=prices, metavar="PROMPT,COMPLETION", help="of a million tokens, to count what is spent"
    )


def prices(text: str) -> tuple[float, float]:
    try:
        prompt, completion = map(float, text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not PROMPT,COMPLETION, such as 2.5,10") from None
    return prompt, completion


def own(parser: Any) -> None:
    """Parts of one's own that a model's folder names."""
    parser.add_argument(
        "--own",
        action="append",
        default=[],
        metavar="MODULE:NAME",
        help="an operation or a syntax of calls that the model's folder names and that is no part of this program: only"
        " what is named here is imported",
    )

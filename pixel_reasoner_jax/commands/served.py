"""The models that options name: a directory, or a served model, `--endpoint URL --endpoint-model NAME`; and a judge."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import hashlib
import os
import pathlib
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

from pixel_reasoner_jax.commands.options import ANSWERS
from pixel_reasoner_jax.endpoint import Account, Endpoint, EndpointSettings
from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.evaluation.identity import model_hash
from pixel_reasoner_jax.evaluation.judge import TOKENS, Judge
from pixel_reasoner_jax.files import as_path, is_remote
from pixel_reasoner_jax.report.text import counted
from pixel_reasoner_jax.rollout import Policy
from pixel_reasoner_jax.rollout.served import ServedPolicy
from pixel_reasoner_jax.rollout.settings import load_policy

LOCAL = ("--dtype", "--slots", "--mesh.data", "--mesh.fsdp", "--mesh.tensor")
"""Options of a model that computes here."""

REQUESTS = ("--cache", "--concurrency", "--timeout", "--attempts", "--requests-per-minute", "--budget")
"""Options of requests to a served model, and to a judge."""

SERVED = ("--endpoint-model", "--prices", *REQUESTS)


def is_served(args: argparse.Namespace) -> bool:
    """Whether the options name a served model.

    Raises:
      UserError: they name no model, or two, or a part of a served one, or say what means nothing to the one they name.
    """
    if bool(args.model) == bool(args.endpoint):
        raise UserError(
            "give --model DIR, or --endpoint URL with --endpoint-model NAME for a model that is served;"
            f" {'both were' if args.model else 'neither was'} given"
        )
    if args.endpoint and not args.endpoint_model:
        raise UserError("--endpoint needs --endpoint-model NAME, the name that the server knows the model by")
    judged = getattr(args, "judge", None)
    for option in getattr(args, "given", ()):
        if args.endpoint and option in LOCAL:
            raise UserError(f"{option} is for --model DIR: how a served model computes is set where it is served")
        if args.model and option in SERVED and not (judged and option in REQUESTS):
            raise UserError(f"{option} is for a served model: name it with --endpoint URL")
    return bool(args.endpoint)


def open_endpoint(args: argparse.Namespace, out: str | os.PathLike, account: Account | None = None) -> Endpoint:
    """The endpoint that the options name.

    Args:
      args: parsed from `options.served`.
      out: the folder of what is done: answers are kept there unless `--cache` names another one, so that nothing is
        taken from a model that was served under the same name before.
      account: of the run, where it asks a judge too.

    Raises:
      UserError: a value is out of range; as EndpointError, the client is not installed or there is no key.
    """
    settings = _settings(args, out, args.endpoint_model, args.endpoint, args.prices)
    return Endpoint(dataclasses.replace(settings, isolated=True), account)


def open_judge(args: argparse.Namespace, out: str | os.PathLike, account: Account) -> Judge | None:
    """The judge that the options name, None if they name none; arguments and errors as of `open_endpoint`."""
    for option, value in {"--judge-model NAME": args.judge_model, "--judge-prices": args.judge_prices}.items():
        if value and not args.judge:
            raise UserError(f"{option} is of a judge: name its server with --judge URL")
    if not args.judge:
        return None
    if not args.judge_model:
        raise UserError("--judge needs --judge-model NAME, the name that its server knows the judge by")
    settings = _settings(args, out, args.judge_model, args.judge, args.judge_prices or (0.0, 0.0))
    return Judge(Endpoint(dataclasses.replace(settings, temperature=0.0, max_tokens=TOKENS), account))


def _settings(
    args: argparse.Namespace, out: str | os.PathLike, model: str, url: str, prices: tuple[float, float]
) -> EndpointSettings:
    cache = args.cache
    if cache is None:
        name = hashlib.sha256(os.fspath(out).encode()).hexdigest()[:16]
        cache = pathlib.Path(ANSWERS).expanduser() / name if is_remote(out) else as_path(out) / "answers"
    return EndpointSettings(
        model=model,
        base_url=url,
        timeout=args.timeout,
        attempts=args.attempts,
        requests_per_minute=args.requests_per_minute,
        concurrency=args.concurrency,
        prompt_price=prices[0],
        completion_price=prices[1],
        budget=args.budget,
        cache=cache,
    )


@contextlib.contextmanager
def opened_policy(
    args: argparse.Namespace, out: str | os.PathLike | None = None, **options: Any
) -> Iterator[tuple[Policy | ServedPolicy, dict[str, str]]]:
    """The policy that `generate` asks, and what names it; how long prompts may be is a limit of training, and left out.

    Args:
      args: with `max_tokens`, a response's, and `text_only`.
      out: see `open_endpoint`; None keeps no answers.
      options: of a policy that is not served.
    """
    with contextlib.ExitStack() as stack:
        if is_served(args):
            endpoint = open_endpoint(args, out or stack.enter_context(tempfile.TemporaryDirectory()))
            stack.callback(lambda: print(paid(endpoint), file=sys.stderr))
            stack.callback(endpoint.close)
            policy = ServedPolicy(endpoint, text_only=args.text_only)
            identity = {"name": args.endpoint_model, "endpoint": endpoint.url}
        else:
            policy = load_policy(args.model, dtype=args.dtype, text_only=args.text_only, **options)
            identity = {"name": as_path(args.model).resolve().name, "hash": model_hash(args.model)}
        policy.limits = dataclasses.replace(policy.limits, max_length=None)
        if args.max_tokens is not None:
            policy.limits = dataclasses.replace(policy.limits, max_response_tokens=args.max_tokens)
        yield policy, identity


def temperature_of(args: argparse.Namespace) -> float:
    """The temperature that `generate` is asked for; else greedy for one response, and 1 for several."""
    return (0.0 if args.samples == 1 else 1.0) if args.temperature is None else args.temperature


def paid(endpoint: Endpoint, who: str = "model") -> str:
    """What was asked of an endpoint and spent, as a sentence."""
    spend = endpoint.spend
    times = counted(spend.paid, "time", "times")
    remembered = counted(spend.requests - spend.paid, "answer was", "answers were")
    return f"asked the {who} {times} for {spend.paid_cost:.2f}; {remembered} remembered"

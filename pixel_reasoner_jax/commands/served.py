"""A served model in place of a model directory: `--endpoint URL --endpoint-model NAME`."""

from __future__ import annotations

import argparse
import hashlib
import os
import pathlib

from pixel_reasoner_jax.commands.options import ANSWERS
from pixel_reasoner_jax.endpoint import Endpoint, EndpointSettings
from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.files import as_path, is_remote


def is_served(args: argparse.Namespace) -> bool:
    """Whether the options name a served model.

    Raises:
      UserError: they name no model, or two, or a part of a served one.
    """
    if bool(args.model) == bool(args.endpoint):
        raise UserError(
            "give --model DIR, or --endpoint URL with --endpoint-model NAME for a model that is served;"
            f" {'both were' if args.model else 'neither was'} given"
        )
    if args.endpoint and not args.endpoint_model:
        raise UserError("--endpoint needs --endpoint-model NAME, the name that the server knows the model by")
    for name in ("endpoint_model", "cache", "budget", "requests_per_minute"):
        if args.model and getattr(args, name) is not None:
            raise UserError(f"--{name.replace('_', '-')} is for a served model: name it with --endpoint URL")
    return bool(args.endpoint)


def open_endpoint(args: argparse.Namespace, out: str | os.PathLike) -> Endpoint:
    """The endpoint that the options name.

    Args:
      args: parsed from `options.served`.
      out: the folder of what is done: answers are kept there unless `--cache` names another one, so that nothing is
        taken from a model that was served under the same name before.

    Raises:
      UserError: a value is out of range; as EndpointError, the client is not installed or there is no key.
    """
    cache = args.cache
    if cache is None:
        name = hashlib.sha256(os.fspath(out).encode()).hexdigest()[:16]
        cache = pathlib.Path(ANSWERS).expanduser() / name if is_remote(out) else as_path(out) / "answers"
    return Endpoint(
        EndpointSettings(
            model=args.endpoint_model,
            base_url=args.endpoint,
            timeout=args.timeout,
            attempts=args.attempts,
            requests_per_minute=args.requests_per_minute,
            concurrency=args.concurrency,
            prompt_price=args.prices[0],
            completion_price=args.prices[1],
            budget=args.budget,
            cache=cache,
            isolated=True,
        )
    )


def paid(endpoint: Endpoint) -> str:
    """What was asked of an endpoint and spent, as a sentence."""
    spend = endpoint.spend
    return (
        f"asked the model {spend.paid:,} times for {spend.paid_cost:.2f};"
        f" {spend.requests - spend.paid:,} answers were remembered"
    )

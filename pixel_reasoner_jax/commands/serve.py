"""`pixel-reasoner serve`: models behind chat completions in OpenAI's form, with their operations inside."""

from __future__ import annotations

import argparse
import dataclasses
import os
from collections.abc import Sequence

from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.files import as_path
from pixel_reasoner_jax.operations import allow_own
from pixel_reasoner_jax.processing.sources import MediaSettings, use_media_settings
from pixel_reasoner_jax.rollout import Policy, SamplingSettings
from pixel_reasoner_jax.rollout.settings import PolicySettings, load_policy

KEY = "PIXEL_REASONER_API_KEY"  # the environment variable of --api-key
DECODE_STEPS = 8  # tokens that are written before they are sent, and before others may join


def run(args: argparse.Namespace) -> None:
    """Loads models, compiles what they need, and serves them until Ctrl-C or SIGTERM.

    Raises:
      UserError: an option is out of range, the extra is not installed, or the address cannot be had; as
        MissingFileError no such model directory, or one with a file missing.
    """
    try:
        from pixel_reasoner_jax.serve.app import Offer, Service
        from pixel_reasoner_jax.serve.engine import Engine
        from pixel_reasoner_jax.serve.request import RequestLimits
        from pixel_reasoner_jax.serve.server import bind, serve
        from pixel_reasoner_jax.serve.sources import MediaSources
    except ImportError:
        raise UserError(
            'serving needs starlette and uvicorn, which come with pip install "pixel-reasoner-jax[serve]"'
        ) from None
    for name in ("slots", "max_length", "max_pixels", "max_images", "max_samples", "max_megabytes"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(args, name)}")
    if args.queue < 0 or args.grace < 0:
        raise UserError("--queue and --grace must be 0 or more")
    key = os.environ.get(KEY) if args.api_key is None else args.api_key
    if key is not None and not key.strip():
        raise UserError(f"the API key is empty: give --api-key KEY or set {KEY}, or neither")
    allow_own(args.own)
    use_media_settings(MediaSettings(root=args.media_root, max_pixels=args.max_pixels), quiet=True)
    models = named(args.model)
    bytes_ = args.max_megabytes * 2**20
    sources = MediaSources(args.media_root is not None, args.allow_url, bytes_)
    limits = RequestLimits(body_bytes=bytes_, images=args.max_images, samples=args.max_samples)
    with bind(args.host, args.port) as bound:  # first: to find the port taken after minutes would be late
        offers = {
            name: Offer(Engine(_ready_policy(folder, args), sources, args.queue), PolicySettings.load(folder))
            for name, folder in models.items()
        }
        serve(Service(offers, limits, key and key.strip()), bound, args.host, args.grace)


def named(given: Sequence[str]) -> dict[str, str]:
    """The folders of models by the names that clients call them by, from NAME=DIR or DIR, named as the folder is.

    Raises:
      UserError: two have one name.
    """
    models: dict[str, str] = {}
    for one in given:
        name, equals, folder = one.partition("=")
        if not equals or as_path(one).exists():
            name, folder = as_path(one).resolve().name, one
        if not name or not folder:
            raise UserError(f"--model {one}: it is DIR or NAME=DIR")
        if name in models:
            raise UserError(f"two models are called {name}: name them with --model NAME=DIR")
        models[name] = folder
    return models


def _ready_policy(folder: str, args: argparse.Namespace) -> Policy:
    """A model that is loaded, and compiled."""
    policy = load_policy(
        folder, dtype=args.dtype, text_only=args.text_only, slots=args.slots, decode_steps=DECODE_STEPS
    )
    policy.limits = dataclasses.replace(policy.limits, max_length=args.max_length)
    policy.warmup()
    policy.warmup(sampling=SamplingSettings(top_p=0.5))  # requests with top-p or top-k decode by another program
    return policy

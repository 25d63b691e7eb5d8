"""`pixel-reasoner serve`: a model behind chat completions in OpenAI's form, with its operations inside."""

from __future__ import annotations

import argparse
import dataclasses
import os

from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.files import as_path
from pixel_reasoner_jax.operations import allow_own
from pixel_reasoner_jax.processing.sources import MediaSettings, use_media_settings
from pixel_reasoner_jax.rollout import SamplingSettings
from pixel_reasoner_jax.rollout.settings import PolicySettings, load_policy

KEY = "PIXEL_REASONER_API_KEY"  # the environment variable of --api-key
DECODE_STEPS = 8  # tokens that are written before they are sent, and before others may join


def run(args: argparse.Namespace) -> None:
    """Loads a model, compiles what it needs, and serves it until Ctrl-C or SIGTERM.

    Raises:
      UserError: an option is out of range, the extra is not installed, or the address cannot be had; as
        MissingFileError no such model directory, or one with a file missing.
    """
    try:
        from pixel_reasoner_jax.serve.app import Service
        from pixel_reasoner_jax.serve.engine import Engine
        from pixel_reasoner_jax.serve.request import RequestLimits
        from pixel_reasoner_jax.serve.server import serve
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
    policy = load_policy(
        args.model, dtype=args.dtype, text_only=args.text_only, slots=args.slots, decode_steps=DECODE_STEPS
    )
    policy.limits = dataclasses.replace(policy.limits, max_length=args.max_length)
    policy.warmup()
    policy.warmup(sampling=SamplingSettings(top_p=0.5))  # requests with top-p or top-k decode by another program
    bytes_ = args.max_megabytes * 2**20
    sources = MediaSources(args.media_root is not None, args.allow_url, bytes_)
    limits = RequestLimits(body_bytes=bytes_, images=args.max_images, samples=args.max_samples)
    name = args.name or as_path(args.model).resolve().name
    service = Service(
        Engine(policy, sources, args.queue), name, limits, key and key.strip(), PolicySettings.load(args.model)
    )
    serve(service, args.host, args.port, args.grace)

"""`pixel-reasoner convert`: a Hugging Face checkpoint to one whose parameters every device reads its own part of.

A converted directory has config.json and the processor's files, like Hugging Face's, and the arrays that the model
holds, whatever the mesh, in place of safetensors. `Qwen2_5_VL.from_pretrained` reads either.
"""

from __future__ import annotations

import argparse
import json
import os

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from pixel_reasoner_jax.arrays import write_arrays
from pixel_reasoner_jax.checkpoint import check_is_no_run
from pixel_reasoner_jax.files import as_path, write_text
from pixel_reasoner_jax.model_files import check_is_empty, removed_on_failure
from pixel_reasoner_jax.models import Qwen2_5_VL
from pixel_reasoner_jax.models.weights import CONVERTED, read_config
from pixel_reasoner_jax.processing import Processor
from pixel_reasoner_jax.rollout.settings import PolicySettings


def run(args: argparse.Namespace) -> None:
    convert(args.model, args.out, args.dtype)
    print(f"converted: {args.out}")


def convert(directory: str | os.PathLike, out: str | os.PathLike, dtype: DTypeLike = "float32") -> None:
    """Writes a Hugging Face directory as a converted one.

    Args:
      directory: config.json, safetensors and tokenizer, or an adapter of a model that has them.
      out: made if missing; must be empty.
      dtype: type the parameters are stored in.

    Raises:
      CheckpointError: `out` holds anything already. Where another error ends it, nothing is left in `out`.
      UserError: a file is missing or does not fit; the message names it.
    """
    out = as_path(out)
    check_is_empty(out)
    check_is_no_run(directory)
    config = read_config(directory).to_hf() | {"dtype": str(jnp.dtype(dtype))}
    processor = Processor.from_pretrained(directory)
    model = Qwen2_5_VL.from_pretrained(directory, dtype)
    settings = PolicySettings.load(directory)
    with removed_on_failure(out):
        write_text(out / "config.json", json.dumps(config, indent=2) + "\n")
        processor.save_pretrained(out)
        settings.save(out)
        write_arrays(out / CONVERTED, nnx.state(model, nnx.Param))

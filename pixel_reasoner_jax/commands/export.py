"""`pixel-reasoner export`: a checkpoint of a run, a converted model or an adapter, to the Hugging Face form."""

from __future__ import annotations

import argparse
import logging
import os
from typing import Any

import jax
from etils import epath
from flax import nnx
from jax.typing import DTypeLike

from pixel_reasoner_jax.arrays import array_shapes, read_arrays
from pixel_reasoner_jax.checkpoint import CHECKPOINTS, Checkpoints
from pixel_reasoner_jax.errors import CheckpointError
from pixel_reasoner_jax.model_files import adapter_config, check_is_empty, model_directory, removed_on_failure
from pixel_reasoner_jax.models import Qwen2_5_VL
from pixel_reasoner_jax.models.lora import add_adapters
from pixel_reasoner_jax.models.weights import CONVERTED, read_config, stored_dtype
from pixel_reasoner_jax.processing import Processor
from pixel_reasoner_jax.rollout.settings import PolicySettings
from pixel_reasoner_jax.saved_config import load_saved
from pixel_reasoner_jax.training.best import read_best
from pixel_reasoner_jax.training.training_run import INITIAL


def run(args: argparse.Namespace) -> None:
    logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax warns of what reading alone always is
    export(args.source, args.out, step=args.step, dtype=args.dtype, max_shard_size=args.max_shard_size)
    print(f"exported: {args.out}")


def export(
    source: str | os.PathLike,
    out: str | os.PathLike,
    *,
    step: int | str | None = None,
    dtype: DTypeLike | None = None,
    max_shard_size: int | str = "5GB",
) -> None:
    """Writes a model that `transformers` loads, with its processor and its policy settings.

    Args:
      source: a run's working directory, a converted directory, or an adapter's, which is merged into its model.
      out: made if missing; must be empty.
      step: which checkpoint of the run: "best" for that of its best evaluation, None for the newest.
      dtype: type of the tensors; None keeps the run's `model.param_dtype`, the type of an adapter's model, and takes
        float32 for a converted directory.
      max_shard_size: bytes of one file, or a string such as "5GB".

    Raises:
      CheckpointError: nothing to export in `source`, where the best may be the model that its run began with; anything
        in `out`, or arrays that do not fit its config.
      ConfigError: the run's config is missing.
    """
    source = model_directory(source)
    check_is_empty(out)
    if (source / CHECKPOINTS).is_dir():
        model, processor, settings = _from_run(source, _best_step(source) if step == "best" else step, dtype)
    elif (source / CONVERTED).is_dir() or adapter_config(source) is not None:
        processor, settings = Processor.from_pretrained(source), PolicySettings.load(source)
        kept = "float32" if (source / CONVERTED).is_dir() else stored_dtype(source)
        model = Qwen2_5_VL.from_pretrained(source, dtype or kept)
    elif list(source.glob("model*.safetensors")):
        raise CheckpointError(f"{source} is in the Hugging Face form already: there is nothing to export")
    else:
        raise CheckpointError(
            f"{source} is neither a run with {CHECKPOINTS}/ nor a converted model with {CONVERTED}/, nor an adapter"
        )
    with removed_on_failure(out):
        model.save_pretrained(out, max_shard_size)
        processor.save_pretrained(out)
        settings.save(out)


def _best_step(workdir: epath.Path) -> int:
    """The step of a run's best checkpoint."""
    best = read_best(workdir)
    if not best["step"]:
        raise CheckpointError(
            f"the best of {workdir} is the model that its run began with, {load_saved(workdir).model.directory}: no"
            f" evaluation after a step was better than its {best['metric']} of {best['value']:g}, so that nothing that"
            " was trained is the best; --step NUMBER exports a step all the same"
        )
    return best["step"]


def _from_run(
    workdir: epath.Path, step: int | None, dtype: DTypeLike | None
) -> tuple[Qwen2_5_VL, Processor, PolicySettings]:
    """The model of a checkpoint; what training does not change was saved when the run started."""
    config = load_saved(workdir)
    options = dict(dtype=dtype or config.model.param_dtype, param_dtype=dtype or config.model.param_dtype)
    initial = workdir / INITIAL
    model_config = read_config(initial)

    def build() -> Qwen2_5_VL:
        return add_adapters(Qwen2_5_VL(model_config, rngs=nnx.Rngs(0), **options), **config.lora)

    graph, target = nnx.split(nnx.eval_shape(build))
    with Checkpoints(workdir / CHECKPOINTS, read_only=True) as checkpoints:
        checkpoints.check(step)
        directory = checkpoints.state_directory(step)
    stored = array_shapes(directory)

    # The training state keeps what is trained and what is frozen apart.
    def is_frozen(path: tuple[Any, ...], _) -> bool:
        return any(name.startswith(".".join(map(str, ("frozen", *path, "")))) for name in stored)

    frozen, trainable = nnx.split_state(target, is_frozen, ...)
    exact = "master" if any(name.startswith("master.") for name in stored) else "trainable"
    parts = {name: part for name, part in (("frozen", frozen), (exact, trainable)) if jax.tree.leaves(part)}
    parameters = nnx.merge_state(*read_arrays(directory, parts).values())
    return nnx.merge(graph, parameters), Processor.from_pretrained(initial), PolicySettings.load(initial)

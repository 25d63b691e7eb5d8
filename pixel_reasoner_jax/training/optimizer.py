"""AdamW with gradient clipping, and a learning-rate schedule, from the `optimizer` section of a config.

The schedule is not part of the optax transformation, which has a learning rate of 1: `Trainer.update` is given that of
the update. The trainer of RL counts the updates that were made, so the schedule waits for one with nothing to learn.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from pixel_reasoner_jax.config_values import SCHEDULES
from pixel_reasoner_jax.errors import UserError


def learning_rate_schedule(config: ConfigDict, steps: int) -> optax.Schedule:
    """Learning rate of every update: warm-up over `warmup_fraction` of them, then `schedule` down towards 0.

    The rate is positive from update 0, which gets that of one warm-up step, to the last update.

    Args:
      config: `learning_rate`, `warmup_fraction` in [0, 1], `schedule` ("cosine", "linear" or "constant").
      steps: planned updates of the whole run.

    Raises:
      UserError: an unknown schedule.
    """
    if config.schedule not in SCHEDULES:
        raise UserError(f"optimizer.schedule is {config.schedule!r}; known schedules: {', '.join(SCHEDULES)}")
    warmup = round(config.warmup_fraction * steps)
    decay_steps = max(steps - warmup, 1)

    @jax.jit
    def schedule(count):
        progress = jnp.clip((count - warmup) / decay_steps, 0.0, 1.0)
        decay = {
            "cosine": 0.5 * (1.0 + jnp.cos(jnp.pi * progress)),
            "linear": 1.0 - progress,
            "constant": jnp.ones_like(progress),
        }[config.schedule]
        return config.learning_rate * jnp.minimum((count + 1) / max(warmup, 1), 1.0) * decay

    return schedule


def decay_mask(parameters: Any) -> Any:
    """Which parameters weight decay applies to: all but biases and norm scales, recognised by their names.

    The number of axes cannot tell them, because layers are stacked: a norm's scale has two axes, as a matrix has.
    """

    def decays(path, _) -> bool:
        names = [str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))).lower() for key in path]
        return not any("norm" in name or name in ("bias", "scale") for name in names)

    return jax.tree.map_with_path(decays, parameters)


def make_optimizer(config: ConfigDict) -> optax.GradientTransformation:
    """Global-norm clipping, then AdamW at a learning rate of 1, which `Trainer.update` scales.

    Args:
      config: `weight_decay`, `b1`, `b2`, `clip_norm` (0: no clipping).
    """
    adamw = optax.adamw(1.0, b1=config.b1, b2=config.b2, weight_decay=config.weight_decay, mask=decay_mask)
    return optax.chain(_clip(config.clip_norm), adamw) if config.clip_norm > 0 else adamw


def _clip(largest: float) -> optax.GradientTransformation:
    """Scales the gradients down to a global norm of `largest` if theirs is larger.

    This is `optax.clip_by_global_norm` written as a product, which the compiler fuses into the operations that read it;
    optax's quotient makes a copy of all gradients.
    """

    def update(gradients, _):
        scale = jnp.minimum(1.0, largest / jnp.maximum(optax.tree.norm(gradients), 1e-30))
        return jax.tree.map(lambda gradient: gradient * scale.astype(gradient.dtype), gradients)

    return optax.stateless(update)

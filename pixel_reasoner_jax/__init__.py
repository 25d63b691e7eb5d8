"""Pixel Reasoner in JAX: Qwen2.5-VL with visual operations and curiosity-driven reinforcement learning.

The names below are the public interface. They are imported when first used, so that `import pixel_reasoner_jax` takes
no time and spawned worker processes take little memory.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pixel_reasoner_jax import operations, rewards
    from pixel_reasoner_jax.models import Qwen2_5_VL
    from pixel_reasoner_jax.processing import Processor
    from pixel_reasoner_jax.rollout import Limits, Policy, SamplingSettings
    from pixel_reasoner_jax.rollout.settings import load_policy
    from pixel_reasoner_jax.trajectory import Trajectory

__version__ = "0.1.0"

_MODULES = {
    "Qwen2_5_VL": "pixel_reasoner_jax.models",
    "Processor": "pixel_reasoner_jax.processing",
    "Policy": "pixel_reasoner_jax.rollout",
    "Limits": "pixel_reasoner_jax.rollout",
    "SamplingSettings": "pixel_reasoner_jax.rollout",
    "load_policy": "pixel_reasoner_jax.rollout.settings",
    "Trajectory": "pixel_reasoner_jax.trajectory",
}
_PACKAGES = ("operations", "rewards")

__all__ = [
    "Limits",
    "Policy",
    "Processor",
    "Qwen2_5_VL",
    "SamplingSettings",
    "Trajectory",
    "load_policy",
    "operations",
    "rewards",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    if name in _PACKAGES:
        return importlib.import_module(f"pixel_reasoner_jax.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

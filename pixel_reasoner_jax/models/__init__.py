"""The network: arrays in, arrays out."""

from pixel_reasoner_jax.models.config import Config, ModelConfigError, VisionConfig
from pixel_reasoner_jax.models.model import Qwen2_5_VL

__all__ = ["Config", "ModelConfigError", "Qwen2_5_VL", "VisionConfig"]

"""Visual operations: what the model can ask for, how it is told so, and how its calls are read and run."""

from pixel_reasoner_jax.operations.base import MediaState, Operation, Result
from pixel_reasoner_jax.operations.calls import Call, OperationError, error_text, parse_call, tools_section
from pixel_reasoner_jax.operations.crop import CropImage
from pixel_reasoner_jax.operations.frames import SelectFrames
from pixel_reasoner_jax.operations.registry import Registry, default_registry

__all__ = [
    "Call",
    "CropImage",
    "MediaState",
    "Operation",
    "OperationError",
    "Registry",
    "Result",
    "SelectFrames",
    "default_registry",
    "error_text",
    "parse_call",
    "tools_section",
]

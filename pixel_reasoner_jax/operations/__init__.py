"""Visual operations: those that the model can call, their signatures in the prompt, and how calls are read and run."""

from pixel_reasoner_jax.operations.base import MediaState, Operation, Result
from pixel_reasoner_jax.operations.calls import Call, OperationError, error_text, parse_call, tools_section
from pixel_reasoner_jax.operations.crop import CropImage
from pixel_reasoner_jax.operations.frames import SelectFrames
from pixel_reasoner_jax.operations.known import OPERATIONS, allow_own
from pixel_reasoner_jax.operations.registry import Registry, default_registry, make_registry
from pixel_reasoner_jax.operations.syntaxes import SYNTAXES, Syntax

__all__ = [
    "OPERATIONS",
    "SYNTAXES",
    "Call",
    "CropImage",
    "MediaState",
    "Operation",
    "OperationError",
    "Registry",
    "Result",
    "SelectFrames",
    "Syntax",
    "allow_own",
    "default_registry",
    "error_text",
    "make_registry",
    "parse_call",
    "tools_section",
]

"""A model behind an OpenAI-compatible endpoint: what is asked, what it answers, what that costs."""

from pixel_reasoner_jax.endpoint.client import (
    ContextError,
    Endpoint,
    EndpointError,
    EndpointSettings,
    FilteredError,
    NoAnswerError,
    RequestError,
)
from pixel_reasoner_jax.endpoint.completion import Account, Completion, Spend

__all__ = [
    "Account",
    "Completion",
    "ContextError",
    "Endpoint",
    "EndpointError",
    "EndpointSettings",
    "FilteredError",
    "NoAnswerError",
    "RequestError",
    "Spend",
]

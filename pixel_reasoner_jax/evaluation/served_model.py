"""A model behind an endpoint as policies: one for each protocol and mode."""

from __future__ import annotations

from pixel_reasoner_jax.endpoint import Endpoint
from pixel_reasoner_jax.evaluation.protocol import OwnSettings, Protocol
from pixel_reasoner_jax.rollout.served import ServedPolicy


class ServedModel:
    """A served model, which brings nothing along: where a protocol takes the model's own parts, they are the defaults.

    Args:
      endpoint: where it is served; its settings should be `isolated`.

    Attributes:
      own: the defaults.
      description: its name and where it is served, for results.
    """

    def __init__(self, endpoint: Endpoint):
        self._endpoint = endpoint
        self.own = OwnSettings()
        self.description = {"name": endpoint.settings.model, "endpoint": endpoint.url}

    def policy(self, protocol: Protocol, mode: str) -> ServedPolicy:
        """What answers by a protocol in one of its modes."""
        text_only = mode == "text"
        return ServedPolicy(
            self._endpoint,
            budgets=protocol.budgets,
            registry=protocol.operations.registry(),
            limits=protocol.limits,
            guidelines=protocol.text_guidelines if text_only else protocol.guidelines,
            text_only=text_only,
        )

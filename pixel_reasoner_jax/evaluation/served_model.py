"""A model behind an endpoint as policies: one for each protocol and mode."""

from __future__ import annotations

from typing import Any

from pixel_reasoner_jax.endpoint import Endpoint
from pixel_reasoner_jax.evaluation.protocol import OwnSettings, Protocol
from pixel_reasoner_jax.processing import Budgets
from pixel_reasoner_jax.rollout.dialogue import Limits
from pixel_reasoner_jax.rollout.served import ServedPolicy
from pixel_reasoner_jax.rollout.settings import PolicySettings


class ServedModel:
    """A served model: where a protocol takes the model's own parts, they are what a server of ours says, or defaults.

    Args:
      endpoint: where it is served; its settings should be `isolated`.

    Attributes:
      own: what the server says of its model, or the defaults.
      description: its name and where it is served, for results.
    """

    def __init__(self, endpoint: Endpoint):
        self._endpoint = endpoint
        self.own = own_settings(endpoint.own_description())
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


def own_settings(said: dict[str, Any] | None) -> OwnSettings:
    """The settings that a server of ours says its model has, where they are some; else the defaults."""
    try:
        settings = {**said["settings"], "limits": Limits(**said["settings"]["limits"])}
        budgets = {key: tuple(value) if isinstance(value, list) else value for key, value in said["budgets"].items()}
        return OwnSettings(PolicySettings(**settings), Budgets(**budgets))
    except (ValueError, TypeError, KeyError, AttributeError):
        return OwnSettings()

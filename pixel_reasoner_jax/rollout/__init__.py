"""Batched multi-turn rollouts: sampling on the device, operations on the host."""

from pixel_reasoner_jax.query import Query, check_query
from pixel_reasoner_jax.rollout.dialogue import EpisodeEnd, Event, Limits, OperationRun, TurnText
from pixel_reasoner_jax.rollout.policy import Policy, answered
from pixel_reasoner_jax.rollout.prompt import QueryError, query_messages
from pixel_reasoner_jax.rollout.sampling import SamplingSettings

__all__ = [
    "EpisodeEnd",
    "Event",
    "Limits",
    "OperationRun",
    "Policy",
    "Query",
    "QueryError",
    "SamplingSettings",
    "TurnText",
    "answered",
    "check_query",
    "query_messages",
]

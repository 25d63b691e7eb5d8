"""What a rollout consists of: its settings, the groups of samples, the slots in use, and what has finished."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from pixel_reasoner_jax.operations import Call, OperationError, Registry
from pixel_reasoner_jax.processing import MediaError, Rendered
from pixel_reasoner_jax.query import Query, query_name
from pixel_reasoner_jax.rollout.dialogue import Event, Limits
from pixel_reasoner_jax.rollout.episode import Episode
from pixel_reasoner_jax.rollout.pages import PromptPages, ResponsePages
from pixel_reasoner_jax.rollout.pending_images import PendingImages
from pixel_reasoner_jax.rollout.prompt import Prompt, QueryError
from pixel_reasoner_jax.rollout.sampling import SamplingSettings
from pixel_reasoner_jax.rollout.workers import Task
from pixel_reasoner_jax.trajectory import Trajectory

Finished = tuple[int, str, Trajectory | BaseException]
"""A response, or the error of a query, with the index and the id of its query."""


@dataclasses.dataclass(frozen=True)
class RolloutSettings:
    """The settings of one rollout; see `Policy` and `Policy.stream`.

    Attributes:
      samples: responses to each query.
      seed, sampling: how tokens are drawn.
      slots: responses in flight in each part of the mesh, at most.
      cache_tokens: that the cache of each part holds; None: enough for all slots.
      decode_steps: the most tokens of a slot that one call of the engine samples.
      registry: the operations that may be called; None for none.
      limits: where a response ends.
      guidelines: the text after the question; None for the paper's.
      workers: threads that load queries, and as many again that execute operations.
      operation_seconds: an operation that takes longer counts as failed.
      policy_version: of the parameters; see `Trajectory`.
      on_event: called with every event of every response.
      stop: asked between two calls of the engine; once it is True in any process, the rollout ends in all of them.
      build: makes the prompt of a query, in a worker thread; None for `Prompt.build`.
      per_query: the settings of one query, where queries differ in `samples`, `seed`, `sampling`, `registry`, `limits`,
        `on_event`, `build`, `drawn_as`, `first_sample` or `follow_up`; None: all have these. Forbidden tokens and
        penalties are the rollout's own.
      drawn_as: what random keys are made of, beside the seed and the sample's index; None for the query's id.
      first_sample: the index of a query's first response; that of the others follows.
      follow_up: the text of a message that follows the first answer, after which a response goes on; "": none.
    """

    samples: int
    seed: int
    sampling: SamplingSettings
    slots: int
    cache_tokens: int | None
    decode_steps: int
    registry: Registry | None
    limits: Limits
    guidelines: str | None
    workers: int
    operation_seconds: float
    on_event: Callable[[Event], None] | None
    stop: Callable[[], bool] | None = None
    policy_version: int | None = None
    build: Callable[[Query], Prompt] | None = None
    per_query: Callable[[Query], RolloutSettings] | None = None
    drawn_as: str | None = None
    first_sample: int = 0
    follow_up: str = ""

    def of(self, query: Query) -> RolloutSettings:
        """The settings of a query."""
        return self if self.per_query is None else self.per_query(query)


@dataclasses.dataclass
class Group:
    """The samples of one query.

    Attributes:
      number: index of the query, in the order in which queries were given.
      prompt: the rendered query.
      images: of the prompt.
      samples: how many responses it has.
      begun: how many samples have been given a slot.
      prompt_slot: a slot that holds the prompt; None until it is prefilled. Until all samples have begun, the free
        slots of this slot's part of the mesh are given to no other query.
      pages: those of the prompt, from then on.
    """

    number: int
    prompt: Prompt
    images: PendingImages
    samples: int
    begun: int = 0
    prompt_slot: int | None = None
    pages: PromptPages | None = None


@dataclasses.dataclass
class ActiveSlot:
    """A slot in use.

    Attributes:
      number: index of its query, in the order in which queries were given.
      episode: the response in the slot.
      position: M-RoPE position of the next text token.
      pages: of the cache.
      call, task: the operation that the response waits for; None while it is being sampled.
      observed: an observation that is to be appended once there are pages and pixels: the tokens before it, its tokens
        and its images.
    """

    number: int
    episode: Episode
    position: int
    pages: ResponsePages
    call: Call | OperationError | None = None
    task: Task | None = None
    observed: tuple[int, Rendered, PendingImages] | None = None


def failed(number: int, prompt: Prompt, error: MediaError) -> Finished:
    """What a query ends with of which an image is gone; `number` is its index."""
    return number, prompt.id, QueryError(number, prompt.id, f"{query_name(prompt.query)}: {error}")

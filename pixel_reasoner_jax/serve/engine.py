"""The thread that runs the model: requests join its running batch from any thread, and leave it.

What is wrong with one request ends that request alone. Where the batch itself fails, the requests in it fail, and a new
batch begins.
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.query import Query
from pixel_reasoner_jax.rollout.dialogue import Event
from pixel_reasoner_jax.rollout.groups import RolloutSettings
from pixel_reasoner_jax.rollout.live import Arrivals, LiveScheduler, Load
from pixel_reasoner_jax.rollout.policy import Policy
from pixel_reasoner_jax.rollout.prompt import Prompt, QueryError
from pixel_reasoner_jax.rollout.sampling import SamplingSettings, with_stop_strings
from pixel_reasoner_jax.serve.conversation import build_prompt, registry_of
from pixel_reasoner_jax.serve.errors import ApiError
from pixel_reasoner_jax.serve.request import ChatRequest
from pixel_reasoner_jax.serve.sources import MediaSources

_log = logging.getLogger(__name__)

Update = Event | ApiError | Prompt
"""What a request is told: its prompt once that is built, then its events, or why it has failed."""


class Ticket:
    """A request in the batch.

    Attributes:
      id: its name there.
      request: what is asked.
      left: responses that have not ended.
      error: what failed in building its prompt.
    """

    def __init__(self, number: int, request: ChatRequest, tell: Callable[[Update], None]):
        self.id, self.request, self.left = f"request {number}", request, request.samples
        self.tell, self.error = tell, None
        self.settings: RolloutSettings | None = None


class Engine:
    """Answers requests with a policy; use it as a context manager.

    Args:
      policy: its `limits.max_length` must be set: all requests fit into it.
      sources: what media may be read.
      queue: responses that may wait, beside those that are written; more are turned away.
    """

    def __init__(self, policy: Policy, sources: MediaSources, queue: int):
        if policy.limits.max_length is None:
            raise UserError("a server needs limits.max_length, the tokens of the longest prompt and response together")
        self.policy, self._sources, self._most = policy, sources, policy.slots + queue
        self._settings = dataclasses.replace(
            policy.rollout_settings(1, 0, SamplingSettings(), policy.slots), per_query=self._settings_of
        )
        self._numbers, self._lock = itertools.count(), threading.Lock()
        self._tickets: dict[str, Ticket] = {}
        self._arrivals = Arrivals()
        self._scheduler: LiveScheduler | None = None
        self._closed = self._draining = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def __enter__(self) -> Engine:
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.close(0.0)

    @property
    def load(self) -> Load:
        """How much is going on."""
        scheduler = self._scheduler
        return Load(0, 0, 0, 0) if scheduler is None else scheduler.load()

    @property
    def is_well(self) -> bool:
        """Whether it takes requests."""
        return self._thread.is_alive() and not self._draining

    def submit(self, request: ChatRequest, tell: Callable[[Update], None]) -> Ticket:
        """Has a request join the batch.

        Args:
          tell: called in the engine's threads, and raises nothing.

        Raises:
          ApiError: too many are here already, or the server is ending.
        """
        ticket = Ticket(next(self._numbers), request, tell)
        registry = registry_of(request, self.policy)
        limits, most = self.policy.limits, self.policy.limits.max_length
        tokens = limits.max_response_tokens if request.max_tokens is None else request.max_tokens
        limits = dataclasses.replace(limits, max_response_tokens=min(tokens, most))
        if request.tools is not None:  # the first call ends the response
            limits = dataclasses.replace(limits, max_operations=0)
        ticket.settings = dataclasses.replace(
            self._settings,
            samples=request.samples,
            seed=request.seed,
            sampling=with_stop_strings(request.sampling, registry.stop_strings if registry else ()),
            registry=registry,
            limits=limits,
            on_event=ticket.tell,
            build=lambda query: self._build(query, ticket),
            drawn_as="",  # the same request with the same seed is answered alike
        )
        with self._lock:
            if not self.is_well:
                raise ApiError(503, "the server is shutting down", code="shutting_down")
            if sum(one.left for one in self._tickets.values()) + request.samples > self._most:
                raise ApiError(429, "too many requests are waiting: ask again later", code="queue_full")
            self._tickets[ticket.id] = ticket
            self._arrivals.add({"id": ticket.id, "question": "", "ticket": ticket})
        return ticket

    def drop(self, ticket: Ticket) -> bool:
        """Has a request leave the batch; whether it was still there."""
        with self._lock:
            was_here = self._tickets.pop(ticket.id, None) is not None
            if was_here:
                self._arrivals.drop(ticket.id)
        return was_here

    def close(self, grace: float, hurry: Callable[[], bool] = lambda: False) -> int:
        """Takes no more requests, lets those that are here end, and drops what has not ended after `grace` seconds.

        Args:
          hurry: asked while it waits; once it is True, the rest is dropped at once.

        Returns:
          How many were dropped.
        """
        self._draining = True
        end = time.monotonic() + grace
        while self._tickets and self._thread.is_alive() and time.monotonic() < end and not hurry():
            time.sleep(0.02)
        self._closed = True
        dropped = self._fail_all(ApiError(503, "the server is shutting down", code="shutting_down"))
        self._arrivals.close()
        if self._thread.is_alive():
            self._thread.join(30.0)
        return dropped

    def _settings_of(self, query: Query) -> RolloutSettings:
        return query["ticket"].settings

    def _build(self, query: Query, ticket: Ticket) -> Prompt:
        """Builds a prompt in a worker thread; whatever goes wrong is that request's alone."""
        settings = ticket.settings
        try:
            prompt = build_prompt(
                query, ticket.request, self.policy, self._sources, settings.registry, settings.limits.max_length
            )
        except ApiError as error:
            ticket.error = error
        except UserError as error:
            ticket.error = ApiError(400, str(error), "messages")
        except Exception:
            _log.exception("a prompt could not be built")
            ticket.error = ApiError(500, "the prompt could not be built")
        else:
            ticket.tell(prompt)
            return prompt
        raise UserError("its prompt could not be built")

    def _run(self) -> None:
        while not self._closed:
            arrivals, policy = self._arrivals, self.policy
            try:
                scheduler = LiveScheduler(arrivals, policy.runtime, self._settings, policy.store, policy.counters)
                with scheduler:
                    self._scheduler = scheduler
                    self._read(scheduler)
            except BaseException:
                if self._closed:
                    return
                _log.exception("the batch has failed; its requests fail, and a new one begins")
                with self._lock:
                    self._arrivals = Arrivals()
                self._fail_all(ApiError(500, "the server has failed in the batch that held this request"))
                time.sleep(0.1)

    def _read(self, scheduler: LiveScheduler) -> None:
        """Reads the rollout to its end."""
        while True:
            try:
                _, trajectory = next(scheduler)
            except StopIteration:
                return
            except QueryError as error:
                with self._lock:
                    ticket = self._tickets.pop(error.query_id, None)
                if ticket is not None:
                    ticket.tell(ticket.error or ApiError(400, "an image or a video cannot be used", "messages"))
                continue
            with self._lock:
                ticket = self._tickets.get(trajectory.query_id)
                if ticket is not None:
                    ticket.left -= 1
                    if not ticket.left:
                        del self._tickets[ticket.id]

    def _fail_all(self, error: ApiError) -> int:
        with self._lock:
            tickets = list(self._tickets.values())
            self._tickets.clear()
            for ticket in tickets:
                self._arrivals.drop(ticket.id)
        for ticket in tickets:
            ticket.tell(error)
        return len(tickets)

"""A policy that is served: a model behind an OpenAI-compatible endpoint, which answers by the same protocol.

Our side writes the conversations, runs the operations and keeps the limits, as for a model of ours; see
`served_dialogue`. A trajectory has no tokens and no log-probabilities, but its messages, its operations, why it ended,
and how many tokens the server has counted.
"""

from __future__ import annotations

import dataclasses
import logging
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from pixel_reasoner_jax.endpoint import (
    ContextError,
    Endpoint,
    EndpointError,
    FilteredError,
    NoAnswerError,
    RequestError,
)
from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.operations import Call, OperationError, Registry, default_registry
from pixel_reasoner_jax.processing import Budgets, PictureStore
from pixel_reasoner_jax.query import Query, check_query, query_name
from pixel_reasoner_jax.rollout.dialogue import Event, Limits, Observation
from pixel_reasoner_jax.rollout.prompt import BudgetSizes, OpenedQuery, QueryError
from pixel_reasoner_jax.rollout.sampling import SamplingSettings, chosen_sampling, with_stop_strings
from pixel_reasoner_jax.rollout.served_dialogue import ServedDialogue, chat_message
from pixel_reasoner_jax.rollout.workers import Workers
from pixel_reasoner_jax.trajectory import Ended, Trajectory

NAMED = 5  # queries without an answer that a message names
SILENT = 8  # responses in a row for which the endpoint gave no answer, after which it is taken to be down
REFUSED = 32  # responses that it refused, after which it is taken to refuse all, if it has answered none

_log = logging.getLogger(__name__)


class UnansweredError(EndpointError):
    """The endpoint gave no answer to some queries, however often it was asked.

    Attributes:
      failures: (id of the query, sample) to what went wrong.
      stopped: whether the others were not asked any more.
    """

    def __init__(self, failures: Mapping[tuple[str, int], str], stopped: bool):
        self.failures, self.stopped = dict(failures), stopped
        of_queries: dict[str, str] = {}
        for (name, _), problem in failures.items():
            of_queries.setdefault(name, problem)
        named = "; ".join(f"{name:.80} ({problem})" for name, problem in list(of_queries.items())[:NAMED])
        more = f"; and {len(of_queries) - NAMED} more" if len(of_queries) > NAMED else ""
        queries = "one query" if len(of_queries) == 1 else f"{len(of_queries)} queries"
        rest = ", and was asked no more" if stopped else ", but to all others"
        super().__init__(
            f"the endpoint gave no answer to {queries}{rest}: {named}{more}. What was answered is kept: start the same"
            " command again, which asks for the rest"
        )


class ServedPolicy:
    """Answers queries by asking an endpoint.

    Args:
      endpoint: the model; its settings should be `isolated`.
      budgets: tokens of every kind of image, and frames of a video; see `Budgets`.
      registry: the operations that the model may call; None takes the default ones.
      limits: where a response ends.
      guidelines: the text after the question; None takes the paper's.
      text_only: offer no operations.
      operation_seconds: an operation that takes longer counts as failed.
      image_bytes: the most memory that decoded images take; an image that was evicted is decoded again.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        budgets: Budgets = Budgets(),  # noqa: B008 - frozen
        registry: Registry | None = None,
        limits: Limits = Limits(),  # noqa: B008 - frozen
        guidelines: str | None = None,
        text_only: bool = False,
        operation_seconds: float = 60.0,
        image_bytes: int = 2**31,
    ):
        self.endpoint, self.budgets = endpoint, budgets
        self.registry = None if text_only else (registry or default_registry())
        self.limits, self.guidelines = limits, guidelines
        self.operation_seconds = operation_seconds
        self.store = PictureStore(image_bytes)

    def stream(
        self,
        queries: Iterable[Query],
        samples: int = 1,
        seed: int = 0,
        temperature: float | None = None,
        *,
        sampling: SamplingSettings | None = None,
        on_event: Callable[[Event], None] | None = None,
    ) -> ServedStream:
        """Answers every query `samples` times; arguments and errors as of `Policy.stream`, and these:

        Args:
          seed: sent with every request; whether answers depend on nothing else is up to the server.

        Raises:
          EndpointError: by the iterator, if the endpoint cannot be used. As UnansweredError, it gave no answer to some
            queries; all others were answered before.
        """
        sampling = chosen_sampling(samples, temperature, sampling)
        sampling = with_stop_strings(sampling, () if self.registry is None else self.registry.stop_strings)
        if sampling.forbidden_tokens:
            raise UserError("a served model has no forbidden_tokens: which ids its tokens have is not known here")
        settings = ServedRollout(
            endpoint=self.endpoint,
            sizes=BudgetSizes(self.budgets),
            registry=self.registry,
            limits=self.limits,
            guidelines=self.guidelines,
            operation_seconds=self.operation_seconds,
            samples=samples,
            seed=seed,
            sampling=sampling,
            on_event=on_event,
        )
        return ServedStream(settings, map(check_query, queries), self.store)

    def rollout(self, queries: Sequence[Query], samples: int = 1, seed: int = 0, **options: Any) -> list[list[Any]]:
        """One group of `samples` trajectories for every query, in order; arguments and errors as of `stream`."""
        groups: list[list[Any]] = [[None] * samples for _ in queries]
        with self.stream(queries, samples, seed, **options) as stream:
            for number, trajectory in stream:
                groups[number][trajectory.sample] = trajectory
        return groups


@dataclasses.dataclass(frozen=True)
class ServedRollout:
    """The settings of one rollout; see `ServedPolicy` and its `stream`."""

    endpoint: Endpoint
    sizes: BudgetSizes
    registry: Registry | None
    limits: Limits
    guidelines: str | None
    operation_seconds: float
    samples: int
    seed: int
    sampling: SamplingSettings
    on_event: Callable[[Event], None] | None


class ServedStream(Iterator[tuple[int, Trajectory]]):
    """Iterates over pairs (index of the query, trajectory) in the order in which they end; use it as a context manager.

    As many threads as the endpoint takes requests at once each hold one dialogue. Queries are read as threads are free.
    """

    def __init__(self, settings: ServedRollout, queries: Iterator[Query], store: PictureStore):
        self._settings, self._store = settings, store
        count = settings.endpoint.settings.concurrency
        self._ahead = count + 2
        self._threads, self._operators = Workers(count), Workers(count)
        self._todo = self._dialogues(queries)
        self._done: queue.SimpleQueue[tuple[int, str, int, Future]] = queue.SimpleQueue()
        self._waiting = 0
        self._closed, self._event_lock = threading.Event(), threading.Lock()
        self._unusable: set[int] = set()
        self._failures: dict[tuple[str, int], str] = {}
        self._silent = self._answered = 0

    def __next__(self) -> tuple[int, Trajectory]:
        while True:
            self._fill()
            if not self._waiting:
                self.close()
                if self._failures:
                    failures, self._failures = self._failures, {}
                    raise UnansweredError(failures, stopped=False)
                raise StopIteration
            number, name, sample, future = self._done.get()
            self._waiting -= 1
            if future.cancelled():
                continue
            error = future.exception()
            if error is None:
                self._silent, self._answered = 0, self._answered + 1
                return number, future.result()
            try:
                self._handle(error, number, name, sample)
            except QueryError:  # the others go on
                raise
            except BaseException:
                self.close()
                raise

    def __enter__(self) -> ServedStream:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """Asks nothing more. Requests that are under way end by themselves."""
        self._closed.set()
        self._todo = iter(())
        self._threads.close()
        self._operators.close()

    def _handle(self, error: BaseException, number: int, name: str, sample: int) -> None:
        """Raises an error that ends the stream; notes one that is about a query alone."""
        if isinstance(error, _Unusable):
            if number in self._unusable:
                return
            self._unusable.add(number)
            raise QueryError(number, name, str(error))
        elif isinstance(error, RequestError):
            self._failures[name, sample] = str(error)
            self._silent = self._silent + 1 if isinstance(error, NoAnswerError) else self._silent
            if self._silent >= SILENT or (not self._answered and len(self._failures) >= REFUSED):
                failures, self._failures = self._failures, {}
                raise UnansweredError(failures, stopped=True)
        else:
            raise error

    def _dialogues(self, queries: Iterator[Query]) -> Iterator[tuple[int, _Opening, int]]:
        for number, query in enumerate(queries):
            opening = _Opening(query, self._settings, self._store)
            for sample in range(self._settings.samples):
                yield number, opening, sample

    def _fill(self) -> None:
        """Has threads begin as many dialogues as they can hold."""
        while self._waiting < self._ahead and (following := next(self._todo, None)) is not None:
            number, opening, sample = following
            self._waiting += 1
            name = str(opening.query["id"])
            task = self._threads.submit(self._answer, opening, sample)
            task.future.add_done_callback(lambda f, n=number, i=name, s=sample: self._done.put((n, i, s, f)))

    def _answer(self, opening: _Opening, sample: int) -> Trajectory:
        """Holds one dialogue, in a thread."""
        settings = self._settings
        opened, first = opening.get()
        dialogue = ServedDialogue(
            opened,
            sample,
            settings.sizes,
            settings.registry,
            settings.limits,
            settings.sampling,
            settings.seed,
            self._emit if settings.on_event else None,
        )
        messages = list(first)
        while dialogue.ended is None:
            if self._closed.is_set():
                raise EndpointError("the rollout is closed")
            try:
                completion = settings.endpoint.complete(messages, sample, **dialogue.options())
            except FilteredError:
                dialogue.withhold()
                break
            except ContextError:
                if not dialogue.operations:  # a setting is wrong, or the first turn cannot have its tokens
                    raise
                dialogue.finish(Ended.LENGTH)
                break
            call = dialogue.read(completion)
            if call is None:
                break
            observation, shown = self._execute(dialogue, call)
            written = dialogue.messages[-1]
            if dialogue.observe(call, observation):
                messages += [chat_message(written, settings.sizes), shown]
        return dialogue.trajectory()

    def _execute(self, dialogue: ServedDialogue, call: Call | OperationError) -> tuple[Observation, dict[str, Any]]:
        """The observation of a call, and the message to send of it."""
        seconds, sizes = self._settings.operation_seconds, self._settings.sizes

        def execute() -> tuple[Observation, dict[str, Any]]:
            observation = dialogue.execute(call)
            return observation, chat_message(observation.message, sizes)

        task = self._operators.submit(execute)
        try:
            return task.future.result(seconds)
        except TimeoutError:
            self._operators.give_up(task)
            problem = f"the operation took more than {seconds:g} seconds"
        except Exception as error:  # an operation's own bug must not end all other dialogues
            _log.exception("an operation of query %s failed", dialogue.opened.id)
            problem = f"{getattr(call, 'name', 'it')} failed ({type(error).__name__})"
        observation = dialogue.failure(call, problem)
        return observation, chat_message(observation.message, sizes)

    def _emit(self, event: Event) -> None:
        with self._event_lock:
            self._settings.on_event(event)


class _Unusable(Exception):
    """A query whose media cannot be used."""


class _Opening:
    """A query that is opened once, by the first of the threads that answer it."""

    def __init__(self, query: Query, settings: ServedRollout, store: PictureStore):
        self.query, self._settings, self._store = query, settings, store
        self._lock = threading.Lock()
        self._opened: tuple[OpenedQuery, list[dict[str, Any]]] | None = None
        self._problem: str | None = None

    def get(self) -> tuple[OpenedQuery, list[dict[str, Any]]]:
        """The opened query, and its first messages as they are sent."""
        with self._lock:
            if self._opened is None and self._problem is None:
                try:
                    self._opened = self._open()
                except UserError as error:
                    self._problem = f"{query_name(self.query)}: {error}"
        if self._problem is not None:
            raise _Unusable(self._problem)
        return self._opened

    def _open(self) -> tuple[OpenedQuery, list[dict[str, Any]]]:
        settings = self._settings
        opened = OpenedQuery.open(self.query, settings.sizes, settings.registry, settings.guidelines, self._store)
        return opened, [chat_message(message, settings.sizes) for message in opened.messages]

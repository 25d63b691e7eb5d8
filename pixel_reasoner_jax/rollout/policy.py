"""A policy: a model with its processor and operations, which answers queries in multi-turn rollouts."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from types import MappingProxyType
from typing import Any

import numpy as np

from pixel_reasoner_jax.compilation import enable_cache
from pixel_reasoner_jax.config_values import CACHE_TYPES, WEIGHTS
from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.operations import Registry, default_registry
from pixel_reasoner_jax.parallel import all_gather, is_shared, parts
from pixel_reasoner_jax.processing import PictureStore, Processor
from pixel_reasoner_jax.query import Query, check_query
from pixel_reasoner_jax.rollout.capacity import fit, page_bytes, slot_bytes
from pixel_reasoner_jax.rollout.counters import Counters
from pixel_reasoner_jax.rollout.device_memory import free_bytes
from pixel_reasoner_jax.rollout.dialogue import Event, Limits
from pixel_reasoner_jax.rollout.groups import RolloutSettings
from pixel_reasoner_jax.rollout.prompt import Prompt, QueryError
from pixel_reasoner_jax.rollout.runner import ModelRunner
from pixel_reasoner_jax.rollout.runtime import Runtime
from pixel_reasoner_jax.rollout.sampling import SamplingSettings, chosen_sampling, with_stop_strings
from pixel_reasoner_jax.rollout.scheduler import Scheduler
from pixel_reasoner_jax.rollout.shapes import MOST_ROWS
from pixel_reasoner_jax.trajectory import Trajectory

DECODE_STEPS = 32  # the default of a policy's `decode_steps`


class Policy:
    """Answers queries with text and visual operations.

    It turns JAX's persistent compilation cache on, see `compilation.enable_cache`.

    Args:
      model: a `models.Qwen2_5_VL`.
      processor: its `processing.Processor`.
      registry: the operations that the policy may call; None takes the default ones.
      limits: where a response ends.
      guidelines: the text after the question; None takes the paper's.
      text_only: offer no operations.
      slots: the most responses in flight, in all processes together; the next one begins when another has ended.
      cache_tokens: tokens that the KV cache holds, in all processes together, a group's prompt counted once; when it is
        full, the youngest responses wait in the host's memory. None: enough for `slots` responses of the greatest
        length. It always holds two of the greatest length.
      decode_steps: the most tokens of a slot that one call of the device samples.
      rollout_mesh: sizes of the mesh that rollouts have over the model's devices, by axis, for example {"tensor": 4}.
        Left out, data takes the devices that are left, fsdp is 1, and tensor that of the model's mesh. With fsdp above
        1, each decoding step gathers the parameters, layer by layer: slow, for want of memory.
      weights: "int8" has the decoder's matrices rounded (`models.quantized`) when they are laid out: a response is then
        sampled from that model, as its log-probabilities are. None: the type that the model computes in.
      cache_dtype: type of the KV cache, "float32", "bfloat16" or "int8" (`models.quantized_cache`); None takes the type
        that the model computes in.
      workers: threads that load queries, and as many again that execute operations.
      operation_seconds: an operation that takes longer counts as failed.
      image_bytes: the most memory of the host that decoded images take; an image that was evicted is decoded again.

    `params` holds the parameters in use: assign a trained tree and the next rollout uses it. If it lies on other
    devices or is divided otherwise than the model, it is brought there, or programs would be compiled for its places
    too. Where rollouts take it in another type or on another mesh, the first one makes copies, which stay until
    `release` or until other parameters are assigned; else nothing is copied.
    `policy_version` is how many updates they have seen, which trajectories carry: assign it with them; else None.
    `counters` are sums over all rollouts of the policy.
    """

    def __init__(
        self,
        model: Any,
        processor: Processor,
        *,
        registry: Registry | None = None,
        limits: Limits = Limits(),  # noqa: B008 - frozen
        guidelines: str | None = None,
        text_only: bool = False,
        slots: int = 64,
        cache_tokens: int | None = None,
        decode_steps: int = DECODE_STEPS,
        rollout_mesh: Mapping[str, int] = MappingProxyType({}),
        weights: str | None = None,
        cache_dtype: str | None = None,
        workers: int = 4,
        operation_seconds: float = 60.0,
        image_bytes: int = 2**31,
    ):
        enable_cache()
        for name, value in (("slots", slots), ("decode_steps", decode_steps), ("workers", workers)):
            if value < 1:
                raise UserError(f"{name} must be at least 1, got {value}")
        for name, value, known in (("weights", weights, WEIGHTS), ("cache_dtype", cache_dtype, CACHE_TYPES)):
            if value not in (None, *known):
                raise UserError(f"{name} is {value!r}; it is {' or '.join(map(repr, known))}, or None")
        self.runtime = Runtime(
            model,
            processor,
            mesh=rollout_mesh,
            weights=weights,
            cache_dtype=cache_dtype,
        )
        self.policy_version: int | None = None
        self.processor = processor
        self.registry = None if text_only else (registry or default_registry())
        self.limits, self.guidelines = limits, guidelines
        self.slots, self.cache_tokens, self.decode_steps = slots, cache_tokens, decode_steps
        self.workers, self.operation_seconds = workers, operation_seconds
        self.store = PictureStore(image_bytes)
        self.counters = Counters()

    @property
    def params(self) -> Any:
        """The parameters in use."""
        return self.runtime.params

    @params.setter
    def params(self, params: Any) -> None:
        self.runtime.params = params

    def release(self) -> None:
        """Frees what rollouts hold on the devices beside `params`, for example before an update.

        That is copies of the parameters, and embeddings of images. The next rollout makes them again.
        """
        self.runtime.release()

    def prompt(self, query: Query, store: PictureStore | None = None, **changes: Any) -> Prompt:
        """The prompt of a query as rollouts begin it, its media decoded; whatever error this raises, they would too.

        Args:
          query: see `Query`.
          store: keeps its pixels; None: that of the policy.
          changes: `guidelines` in place of the policy's, unless None; `alter` and `prefix`, see `Prompt.build`.
        """
        guidelines = changes.pop("guidelines", None) or self.guidelines
        return Prompt.build(query, self.processor, self.registry, guidelines, store or self.store, **changes)

    def rollout(
        self,
        queries: Sequence[Query],
        samples: int = 1,
        seed: int = 0,
        temperature: float | None = None,
        *,
        sampling: SamplingSettings | None = None,
        on_event: Callable[[Event], None] | None = None,
    ) -> list[list[Trajectory]]:
        """Answers every query `samples` times.

        Args, Raises: see `stream`.

        Returns:
          One group of `samples` trajectories for every query, in order. If a prompt leaves no room for a response, its
          trajectories are the prompt alone, ended by `Ended.LENGTH`, so that one long query does not stop a run.

        Raises:
          QueryError: the media of a query cannot be used. It is raised when the others have been answered, and has
            their groups; see `stream` for taking responses as they come.
        """
        queries = list(queries)
        groups: list[list[Any]] = [[None] * samples for _ in queries]
        failed: list[QueryError] = []
        with self.stream(queries, samples, seed, temperature, sampling=sampling, on_event=on_event) as stream:
            for number, trajectory in answered(stream, failed.append):
                groups[number][trajectory.sample] = trajectory
        if failed:
            for error in failed:
                groups[error.number] = []
            failed[0].groups = groups
            raise failed[0]
        return groups

    def stream(
        self,
        queries: Iterable[Query],
        samples: int = 1,
        seed: int = 0,
        temperature: float | None = None,
        *,
        sampling: SamplingSettings | None = None,
        on_event: Callable[[Event], None] | None = None,
        stop: Callable[[], bool] | None = None,
        per_query: Callable[[RolloutSettings, Query], RolloutSettings] | None = None,
    ) -> Scheduler:
        """Answers every query `samples` times, and yields each response as soon as it has ended.

        Args:
          queries: mappings with `id`, `question`, `answer` and `images` (a list) or `video`, which may have an `fps`
            (see `Query`). An iterator is read a few queries ahead.
          samples: responses to each query (the group size G).
          seed: a response is a function of the seed, its query, its sample index and the parameters.
          temperature: of all turns, 0 for greedy; 1 unless given.
          sampling: how each turn is sampled, in place of `temperature`.
          on_event: called with `TurnText`, a few tokens at a time, `OperationRun` and `EpisodeEnd`.
          stop: asked every few tokens; once it is True in any process, the iterator raises `RolloutStopped` in all.
          per_query: makes the settings of a query out of these; see `RolloutSettings.per_query`.

        Returns:
          An iterator of (index of the query, trajectory) in the order in which they end. `cancel(query_id)` drops
          a query, `close()` all that have not ended.

        Raises:
          UserError: a setting out of range, or a mapping that is not a query (`check_query`).
          QueryError: while iterating, for a query with media that cannot be used, or no longer; iteration goes on
            with the other queries (`answered`).
        """
        sampling = chosen_sampling(samples, temperature, sampling)
        slots = self.slots
        if is_shared(self.runtime.mesh):
            if self.limits.max_length is None:
                raise UserError("rollouts of several processes need limits.max_length")
        elif isinstance(queries, Sized):
            slots = max(1, min(slots, len(queries) * samples))
        settings = self.rollout_settings(samples, seed, sampling, slots, on_event, stop)
        if per_query is not None:
            settings = dataclasses.replace(settings, per_query=functools.partial(per_query, settings))
        return Scheduler(self.runtime, map(check_query, queries), settings, self.store, self.counters)

    def rollout_settings(
        self,
        samples: int,
        seed: int,
        sampling: SamplingSettings,
        slots: int,
        on_event: Callable[[Event], None] | None = None,
        stop: Callable[[], bool] | None = None,
    ) -> RolloutSettings:
        """The policy's settings as they are now, with those of one rollout; see `stream` for the arguments.

        Args:
          slots: the most responses in flight, in all parts of the mesh together.
        """
        return RolloutSettings(
            samples=samples,
            seed=seed,
            sampling=with_stop_strings(sampling, () if self.registry is None else self.registry.stop_strings),
            slots=self._per_part(slots),
            cache_tokens=self._cache_tokens_per_part,
            decode_steps=self.decode_steps,
            registry=self.registry,
            limits=self.limits,
            guidelines=self.guidelines,
            workers=self.workers,
            operation_seconds=self.operation_seconds,
            on_event=on_event,
            stop=stop,
            policy_version=self.policy_version,
        )

    def warmup(self, length: int | None = None, *, sampling: SamplingSettings | None = None) -> None:
        """Compiles every program that rollouts of up to `slots` responses need, with a progress bar.

        Args:
          length: tokens of the longest prompt and response together; None: `limits.max_length`.
          sampling: the settings of the later rollouts, since filters and penalties compile to other programs.

        Raises:
          UserError: neither `length` nor `limits.max_length` is given.
        """
        length = length or self.limits.max_length
        if length is None:
            raise UserError("warmup needs a length, since limits.max_length is not set")
        runner = ModelRunner(
            self.runtime, sampling or SamplingSettings(), self.decode_steps, Counters()
        )  # these are not read
        runner.grow(self._per_part(self.slots), length, self._cache_tokens_per_part)
        try:
            runner.warmup()
        except BaseException:
            self.runtime.forget_table()  # its buffer may have been donated to a call whose result was not assigned
            raise

    def fit_to_memory(self, most: int, sampling: SamplingSettings | None = None) -> None:
        """Sets `slots` and `cache_tokens` to what the memory of the devices has room for, as it is now.

        All processes call this together, with everything in memory that stays there during a rollout. The programs that
        need most memory are compiled for it.

        Args:
          most: the most responses that a rollout has.
          sampling: see `warmup`.

        Raises:
          UserError: `limits.max_length` is not given, or memory has no room for two of the longest responses.
        """
        length, mesh, config = self.limits.max_length, self.runtime.mesh, self.runtime.config
        if length is None:
            raise UserError("how many responses fit depends on limits.max_length, which is not set")
        runner = ModelRunner(self.runtime, sampling or SamplingSettings(), self.decode_steps, Counters())
        most = -(-most // parts(mesh))
        runner.grow(min(most, MOST_ROWS), length, 1)
        temporary = runner.temporary_bytes()
        runner.close()
        # Rollouts have the table of images beside their slots, so that it is forgotten later.
        room = int(all_gather(np.int64(free_bytes(mesh) - temporary)).min())
        self.runtime.forget()
        tensor = 1 if mesh is None else mesh.shape["tensor"]
        page = page_bytes(config, self.runtime.cache_dtype or self.runtime.dtype, tensor)
        capacity = fit(room, page, slot_bytes(config, tensor), length, most)
        self.slots, self.cache_tokens = (count * parts(mesh) for count in (capacity.slots, capacity.cache_tokens))

    def _per_part(self, count: int) -> int:
        """How many of `count` slots or tokens each part of the mesh has."""
        return -(-count // parts(self.runtime.mesh))

    @property
    def _cache_tokens_per_part(self) -> int | None:
        return None if self.cache_tokens is None else self._per_part(self.cache_tokens)


def answered(
    stream: Iterable[tuple[int, Trajectory]], on_failure: Callable[[QueryError], None]
) -> Iterator[tuple[int, Trajectory]]:
    """What a stream yields, however many of its queries fail.

    Args:
      stream: see `Policy.stream`.
      on_failure: called with the error of every query whose media cannot be used. Some of its responses may have been
        yielded before; no more follow.
    """
    responses = iter(stream)
    while True:
        try:
            response = next(responses)
        except StopIteration:
            return
        except QueryError as error:
            on_failure(error)
        else:
            yield response

"""A policy: a model with its processor and operations, which answers queries in batched, multi-turn rollouts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from pixel_reasoner_jax.buckets import bucket, bucketed_vision
from pixel_reasoner_jax.operations import Registry, default_registry
from pixel_reasoner_jax.processing import Media, PictureStore, Processor, Rendered
from pixel_reasoner_jax.rollout.engine import Engine, Slots
from pixel_reasoner_jax.rollout.episode import Episode, Event, Limits, Prompt
from pixel_reasoner_jax.rollout.prompt import Query
from pixel_reasoner_jax.rollout.sampling import SamplingSettings, sample_keys
from pixel_reasoner_jax.trajectory import Trajectory

SHRINK = 4  # what the rows are divided by when few are still active
TOKENS = 32  # lengths of the cache and of what is appended to it come in multiples of this


class Policy:
    """Answers queries with text and visual operations.

    Args:
      model: a `models.Qwen2_5_VL`.
      processor: its `processing.Processor`.
      registry: the operations it may call; None takes the default ones.
      limits: where a response ends.
      guidelines: the text after the question; None takes the paper's.
      text_only: offer no operations.
      slots: episodes in flight at a time; more queries are taken in turns.
      decode_steps: tokens sampled before the host looks again.

    `params` holds the parameters in use: assign a trained tree and the next rollout uses it, nothing is copied.
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
        decode_steps: int = 32,
    ):
        self.graphdef, self.params = nnx.split(model)
        self.config = model.config
        self.processor = processor
        self.registry = None if text_only else (registry or default_registry())
        self.limits, self.guidelines = limits, guidelines
        self.slots, self.decode_steps = slots, decode_steps
        self.store = PictureStore()
        self._engines: dict[tuple[float, int], Engine] = {}

    def rollout(
        self,
        queries: Sequence[Query],
        samples: int = 1,
        seed: int = 0,
        temperature: float = 1.0,
        *,
        later_temperature: float | None = None,
        top_p: float = 1.0,
        top_k: int = 0,
        on_event: Callable[[Event], None] | None = None,
    ) -> list[list[Trajectory]]:
        """Answers every query `samples` times.

        Args:
          queries: mappings with `id`, `question`, `answer` and `images` (a list) or `video`.
          samples: responses a query (the group size G).
          seed: with it, a response depends on its query, its sample index and the parameters alone.
          temperature: of the first turn, 0 for greedy; `later_temperature` of later ones (None: the same).
          top_p, top_k: what is kept of the distribution; 1 and 0 keep all of it.
          on_event: called on the host with `TurnText`, `OperationRun` and `EpisodeEnd` as they happen.

        Returns:
          One group of `samples` trajectories for every query, in order. Where a prompt leaves no room for a response,
          they are the prompt alone, ended by `Ended.LENGTH`: one long query does not stop a run.

        Raises:
          ValueError: a setting out of range.
          processing.MediaError: an image or video that cannot be read, by name.
        """
        if samples < 1:
            raise ValueError(f"samples must be at least 1, got {samples}")
        sampling = SamplingSettings(temperature, later_temperature, top_p, top_k)
        at_once = max(1, self.slots // samples)
        groups = []
        for start in range(0, len(queries), at_once):
            groups += self._rollout(queries[start : start + at_once], samples, seed, sampling, on_event)
        return groups

    def _rollout(
        self,
        queries: Sequence[Query],
        samples: int,
        seed: int,
        sampling: SamplingSettings,
        on_event: Callable[[Event], None] | None,
    ) -> list[list[Trajectory]]:
        engine = self._engine(sampling)
        prompts = [Prompt.build(query, self.processor, self.registry, self.guidelines, self.store) for query in queries]
        groups = [
            [Episode(prompt, i, self.processor, self.registry, self.limits, on_event) for i in range(samples)]
            for prompt in prompts
        ]
        for group in groups:
            for episode in group:
                episode.end_if_full()
        rows: list[Episode | None] = [episode for group in groups for episode in group if episode.ended is None]
        if rows:
            slots = self._prefill(engine, [row.prompt for row in rows[::samples]], rows, samples, seed)
        while any(rows):
            slots, observations = self._decode(engine, slots, rows, sampling)
            rows, slots = self._compact(engine, rows, slots)
            if observations:
                slots = self._observe(engine, slots, rows, observations)
        return [[episode.trajectory() for episode in group] for group in groups]

    def _engine(self, sampling: SamplingSettings) -> Engine:
        key = (sampling.top_p, sampling.top_k)
        if key not in self._engines:
            self._engines[key] = Engine(
                self.graphdef,
                stop_tokens=self.processor.stop_tokens,
                forbidden_tokens=self.processor.forbidden_tokens,
                vocabulary=self.config.vocab_size,
                top_p=sampling.top_p,
                top_k=sampling.top_k,
            )
        return self._engines[key]

    def _prefill(
        self, engine: Engine, prompts: list[Prompt], rows: list[Episode | None], samples: int, seed: int
    ) -> Slots:
        """Prefills every prompt once and forks it into the slots of its group; pads `rows` to a bucket."""
        longest = max(
            len(prompt.rendered.tokens) + episode.room for prompt, episode in zip(prompts, rows[::samples], strict=True)
        )
        count = bucket(len(prompts))
        slots = engine.empty(self.params, jax.random.split(jax.random.key(0), count), count, bucket(longest, TOKENS))
        additions = [(prompt.rendered, prompt.positions, prompt.next_position) for prompt in prompts]
        slots = self._extend(engine, slots, dict(enumerate(additions)), count)
        padding = bucket(len(rows)) - len(rows)
        owners = rows + rows[:1] * padding  # any key will do for a slot nobody uses
        keys = sample_keys(seed, [row.prompt.query["id"] for row in owners], [row.sample for row in owners])
        rows.extend([None] * padding)
        sources = np.pad(np.repeat(np.arange(len(prompts)), samples), (0, padding))
        return engine.select(slots, jnp.asarray(sources), keys)

    def _decode(
        self, engine: Engine, slots: Slots, rows: list[Episode | None], sampling: SamplingSettings
    ) -> tuple[Slots, dict[int, tuple[Episode, Rendered]]]:
        """Samples for every active slot; clears the rows of finished episodes; returns observations to append."""
        budget = np.array([episode.room if episode else 0 for episode in rows], np.int32)
        temperature = [sampling.turn_temperature(episode.turn) if episode else 1.0 for episode in rows]
        slots, decoded = engine.decode(
            self.params, slots, budget, np.array(temperature, np.float32), steps=self.decode_steps
        )
        tokens, logprobs, counts, stopped = jax.device_get(decoded)
        observations = {}
        for row, episode in enumerate(rows):
            if episode is None:
                continue
            count = counts[row]
            episode.add_sampled(tokens[row, :count], logprobs[row, :count], temperature[row])
            if stopped[row] or episode.room < 1:
                observation = episode.end_turn(bool(stopped[row]))
                if observation is None:
                    rows[row] = None
                else:
                    observations[row] = (episode, observation)
        return slots, observations

    def _compact(self, engine: Engine, rows: list[Episode | None], slots: Slots) -> tuple[list[Episode | None], Slots]:
        """Moves the active slots together once they fit in a quarter of the rows; finer steps would compile more."""
        active = [row for row, episode in enumerate(rows) if episode is not None]
        size = len(rows)
        while size % SHRINK == 0 and len(active) <= size // SHRINK:
            size //= SHRINK
        if not active or size == len(rows):
            return rows, slots
        chosen = np.pad(np.asarray(active), (0, size - len(active)))
        kept = [rows[row] for row in active] + [None] * (size - len(active))
        return kept, engine.select(slots, jnp.asarray(chosen), slots.keys[chosen])

    def _observe(
        self,
        engine: Engine,
        slots: Slots,
        rows: list[Episode | None],
        observations: dict[int, tuple[Episode, Rendered]],
    ) -> Slots:
        """Extends the cache of every slot whose operation has returned by the tokens of its observation."""
        row_of = {id(episode): row for row, episode in enumerate(rows) if episode is not None}
        position = np.asarray(slots.position)
        additions = {}
        for episode, rendered in observations.values():
            row = row_of[id(episode)]
            positions, following = self.processor.positions(rendered.tokens, rendered.media, int(position[row]))
            additions[row] = (rendered, positions, following)
        return self._extend(engine, slots, additions, len(rows))

    def _extend(
        self, engine: Engine, slots: Slots, additions: dict[int, tuple[Rendered, np.ndarray, int]], count: int
    ) -> Slots:
        """Appends rendered tokens, and the images among them, to the slots they are keyed by."""
        width = bucket(max(len(rendered.tokens) for rendered, _, _ in additions.values()), TOKENS)
        tokens = np.zeros((count, width), np.int32)
        positions = np.zeros((3, count, width), np.int32)
        counts, following = np.zeros(count, np.int32), np.zeros(count, np.int32)
        index = np.full((count, width), -1, np.int32)
        media: dict[int, Media] = {id(item): item for rendered, _, _ in additions.values() for item in rendered.media}
        vision, places = bucketed_vision(list(media.values()), self.processor.geometry, count * width, shapes=2)
        place_of = dict(zip(media, places, strict=True))
        for row, (rendered, where, next_position) in additions.items():
            length = len(rendered.tokens)
            tokens[row, :length], positions[:, row, :length] = rendered.tokens, where
            counts[row], following[row] = length, next_position
            if rendered.media:
                placeholder = np.isin(rendered.tokens, self.processor.placeholder_tokens)
                index[row, :length][placeholder] = np.concatenate([place_of[id(item)] for item in rendered.media])
        embeddings = engine.encode(self.params, vision) if vision else None
        return engine.extend(
            self.params, slots, tokens, positions, counts, following, index if vision else None, embeddings
        )

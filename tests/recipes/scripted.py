"""What recipes are tested with: groups of responses made by hand, and runs whose policy says what a script has.

A run is a real one, with a small random model: prompts, operations, rewards, advantages, passes and updates are the
recipe's. Only the tokens are not those that the model has drawn.
"""

from __future__ import annotations

import dataclasses
import pathlib
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from ml_collections import ConfigDict

from data_pipeline.records import RecordSource, write_records
from data_pipeline.sources.pixel_search import PixelSearch
from pixel_reasoner_jax.config import load_config
from pixel_reasoner_jax.metrics import read_metrics
from pixel_reasoner_jax.operations import Call
from pixel_reasoner_jax.rewards.terms import Responses, evaluate_terms, find_terms, weighted_sum
from pixel_reasoner_jax.rollout.episode import Episode
from pixel_reasoner_jax.rollout.runtime import Runtime
from pixel_reasoner_jax.rollout.settings import PolicySettings
from pixel_reasoner_jax.training import rl
from pixel_reasoner_jax.trajectory import Ended, OperationRecord, Trajectory
from tests.training.conftest import phase

Script = Callable[[Episode], str]
"""The text of the next turn of a response: see `Episode.prompt.query`, `.sample`, `.turn`, `.messages`."""


def said(
    *turns: str, operations: Sequence[OperationRecord] = (), ended: Ended = Ended.ANSWER, tokens: int = 4
) -> Trajectory:
    """A response of these turns, with an observation between two of them; `tokens` are sampled in all."""
    messages = [{"role": "user", "content": [{"type": "text", "text": "?"}]}]
    for number, turn in enumerate(turns):
        if number:
            messages.append({"role": "user", "content": [{"type": "text", "text": "observed"}]})
        messages.append({"role": "assistant", "content": [{"type": "text", "text": turn}]})
    source = np.array([0] + [1] * tokens, np.int8)
    return Trajectory(
        query_id="q",
        question="?",
        reference="5",
        messages=messages,
        tokens=np.zeros(len(source), np.int32),
        source=source,
        train=source == 1,
        media=[],
        operations=list(operations),
        ended=ended,
    )


def called(name: str = "crop", *, turn: int = 0, error: str | None = None, **fields: Any) -> OperationRecord:
    """A call that was made; `arguments` and `boxes` are among the fields."""
    return OperationRecord(turn, name, fields.pop("arguments", {}), error, **fields)


def responses_of(
    recipe: str, group: Sequence[Trajectory], correct: Sequence[float], query: Mapping[str, Any] = {}, **settings: Any
) -> Responses:
    """The responses to one query, as the terms of a recipe see them."""
    config = load_config(recipe)
    return Responses.of(
        [list(group)],
        np.array([correct], float),
        queries=[query],
        alpha=config.curiosity.alpha,
        beta=config.curiosity.beta,
        curiosity=config.curiosity,
        limit=config.rollout.max_response_tokens,
        margin=config.rewards.overlong_margin,
        **settings,
    )


def rewards_of(recipe: str, group: Sequence[Trajectory], correct: Sequence[float], *args: Any, **more: Any):
    """The rewards of a group by a recipe, float64 [G], and its terms by label."""
    terms = find_terms(load_config(recipe).rewards.terms)
    values = evaluate_terms(terms, responses_of(recipe, group, correct, *args, **more))
    return weighted_sum(terms, values)[0], {label: value[0] for label, value in values.items()}


class View(types.SimpleNamespace):
    """A `training.update_view.UpdateView` made by hand: attributes, `scores` of its passes, and `arrays` of items."""

    def __getitem__(self, name: str) -> np.ndarray:
        return self.arrays[name]

    def logprobs(self, label: str) -> np.ndarray:
        return self.scores[label]

    def figure(self, name: str, values: np.ndarray) -> None:
        pass


@dataclasses.dataclass(frozen=True)
class Run:
    """Five episodes of a recipe.

    Attributes:
      script: what its policy says.
      queries: of the data; None: of the pixel world, 20 of them, with what `more` adds to each.
      more: a function of a `Seed` of the pixel world.
      settings: by dotted key, in place of the recipe's.
      operations: names of those that must be called, of calls that succeeded.
      varied: labels of terms, and other figures of `metrics.jsonl`, that must not be constant.
    """

    script: Script
    queries: Callable[[], list[dict[str, Any]]] | None = None
    more: Callable[[Any], dict[str, Any]] = lambda seed: {}
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    operations: tuple[str, ...] = ()
    varied: tuple[str, ...] = ()


def check_run(
    recipe: str, run: Run, start: pathlib.Path, folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs five episodes; at least one update is made, the recipe's terms differ, and its operations are called."""
    config = tiny(recipe, run, start, folder)
    play(monkeypatch, run.script)
    lines = read_metrics(rl.run(config).parent)
    assert len(lines) == 5 and sum(line["updates"] for line in lines) >= 1
    drafts = [
        draft
        for path in sorted((pathlib.Path(config.workdir) / "samples").iterdir())
        for draft in RecordSource(path, "trajectory")
    ]
    names = {record.name for draft in drafts for record in draft.operations if record.error is None}
    assert set(run.operations) <= names, f"called {names}"
    for label in run.varied:
        if label in config.rewards.terms:
            values = [draft.attributes["reward_terms"][label] for draft in drafts]
        else:
            values = [line[label] for line in lines if label in line]
        assert len(set(values)) > 1, f"{label} is constant: {values[:3]}"


def tiny(recipe: str, run: Run, start: pathlib.Path, folder: pathlib.Path) -> ConfigDict:
    """The recipe's settings with a small model's sizes."""
    config = phase(start, folder, recipe, "queries", batch_size=8, steps=5)
    config.data.path = str(folder / "queries")
    queries = [{**seed.query(), **run.more(seed)} for seed in PixelSearch(20, "rl")]
    write_records(folder / "queries", "query", queries if run.queries is None else run.queries())
    samples = config.rollout.samples if config.rollout.subgroups else min(config.rollout.samples, 4)
    config.rollout.update(dict(samples=samples, max_operations=4, max_response_tokens=700, max_images=8))
    config.rollout.update(dict(max_length=1400, slots=8, cache_tokens=0))
    config.train.update(dict(row_length=1400, log_samples=1000, batch_size=2 * samples))
    config.grpo.queries_per_episode = 2
    config.rewards.overlong_margin = min(config.rewards.overlong_margin, 100)
    for path, value in run.settings.items():
        section, *keys, last = config, *path.split(".")
        for key in keys:
            section = section[key]
        section[last] = value
    return config


def play(monkeypatch: pytest.MonkeyPatch, script: Script) -> None:
    """Has every token that is drawn replaced by the script's."""
    add_sampled, forbidden, end_turn = Episode.add_sampled, Runtime.forbidden, Episode.end_turn

    def never_stop(self: Runtime, sampling: Any) -> np.ndarray:
        mask = forbidden(self, sampling)
        mask[list(self.processor.stop_tokens)] = True
        return mask

    def say(self: Episode, tokens: np.ndarray, logprobs: np.ndarray, policy_logprobs: np.ndarray) -> bool:
        if not getattr(self, "_script", None):
            ends = [self._processor.im_end]
            self._script = [*self._processor.encode(script(self)).tolist(), *ends]
        said, self._script = self._script[: len(tokens)], self._script[len(tokens) :]
        count = len(said)
        stopped = add_sampled(self, np.array(said, np.int32), logprobs[:count], policy_logprobs[:count])
        over = stopped or not self._script
        if over:
            self._script = None
        return over

    def close(self: Episode, stopped: bool) -> Any:
        self._script = None
        return end_turn(self, stopped)

    monkeypatch.setattr(Runtime, "forbidden", never_stop)
    monkeypatch.setattr(Episode, "add_sampled", say)
    monkeypatch.setattr(Episode, "end_turn", close)


def write_call(recipe: str, name: str, **arguments: Any) -> str:
    """A call as the recipe's syntax writes it; `name` is the one that the model is told."""
    config = load_config(recipe)
    registry = policy_settings_of(config).registry()
    return registry.write(Call(name, arguments))


def policy_settings_of(config: ConfigDict) -> PolicySettings:
    """Those of the recipe, for a model that has none of its own."""
    given = {name: value for name, value in config.operations.items() if value is not None and name != "names"}
    names = {} if config.operations.names is None else {"operations": config.operations.names}
    return dataclasses.replace(PolicySettings(), **given, **names)

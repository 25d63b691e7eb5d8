"""The checks themselves: what was rolled out is compared with what the processor renders and the trainer takes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from pixel_reasoner_jax.checks.positions import positions_token_by_token
from pixel_reasoner_jax.processing import Processor
from pixel_reasoner_jax.training.mismatch import PARTS, difference_figures, logprob_differences
from pixel_reasoner_jax.training.packing import Batch
from pixel_reasoner_jax.training.virtual_shards import AgreedBatches
from pixel_reasoner_jax.trajectory import Source, Trajectory

MEAN_MARK, MAX_MARK = 1e-4, 1e-3
"""In float32, the mean difference of log-probabilities, and that of any token, must be below these."""
PROBLEMS = 5  # that a finding names


@dataclasses.dataclass(frozen=True)
class Finding:
    """What a check has found.

    Attributes:
      name: of the check.
      passed: None where there is nothing to pass, and the figures are what is measured.
      says: the figures in words.
      problems: what is wrong, and where: the first ones.
      figures: numbers for programs.
    """

    name: str
    passed: bool | None
    says: str
    problems: tuple[str, ...] = ()
    figures: dict[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, name: str, problems: Iterable[str], says: str, **figures: Any) -> Finding:
        """A check that passes if there are no problems."""
        problems = [*problems]
        return cls(name, not problems, says, tuple(problems[:PROBLEMS]), {**figures, "problems": len(problems)})


@dataclasses.dataclass(frozen=True)
class Placed:
    """A trajectory in the trainer's batch.

    Attributes:
      trajectory: what was sampled.
      batch: the arrays that the trainer takes.
      row, start: where its first token is.
    """

    trajectory: Trajectory
    batch: Batch
    row: int
    start: int

    @property
    def span(self) -> tuple[int, slice]:
        """Its place in the arrays [rows, tokens]."""
        return self.row, slice(self.start, self.start + len(self.trajectory.tokens))


def placed_trajectories(
    agreed: AgreedBatches, batches: Sequence[Batch], trajectories: dict[int, Trajectory]
) -> list[Placed]:
    """Where the trajectories are in the batches that were built; `trajectories` has them by `id` of their sequence."""
    placed = []
    for (_, planned), batch in zip(agreed.batches, batches, strict=True):
        for part, of_part in enumerate(planned.values()):
            for number, sequences in enumerate(of_part.rows):
                start = 0
                for sequence in sequences:
                    placed.append(Placed(trajectories[id(sequence)], batch, part * agreed.rows + number, start))
                    start += len(sequence.tokens)
    return placed


def coverage(trajectories: Sequence[Trajectory], processor: Processor, operates: bool) -> Finding:
    """Whether the responses have what the other checks are about: tokens after an image that an operation returned."""
    parts = [
        logprob_differences(t.logprobs, t.logprobs, t.tokens, t.source, processor.placeholder_tokens)
        for t in trajectories
    ]
    counts = {part: sum(len(one[part]) for one in parts) for part in PARTS}
    operations = sum(record.succeeded for t in trajectories for record in t.operations)
    problems = []
    if not counts["text"]:
        problems.append("no token was sampled")
    if operates and not counts["after_image"]:
        problems.append("no token was sampled after an image that an operation returned: check other queries")
    says = (
        f"{len(trajectories)} responses, {operations} operations, {counts['text']} tokens of text,"
        f" {counts['after_image']} after an image"
    )
    return Finding.of("coverage", problems, says, responses=len(trajectories), operations=operations, tokens=counts)


def renderer(trajectories: Sequence[Trajectory], processor: Processor) -> Finding:
    """Whether the tokens are what the processor renders for the messages, and grow at their end alone."""
    problems, turns, same = [], 0, 0
    for trajectory in trajectories:
        problems += [f"{_name(trajectory)}: {problem}" for problem in _unrendered(trajectory, processor)]
        for text, sampled in _turns(trajectory, processor):
            turns += 1
            again = processor.render([{"role": "assistant", "content": text}], start=1).tokens
            opening = len(processor.generation_prompt().tokens)
            body = [token for token in sampled if token not in processor.stop_tokens]
            same += again[opening : opening + len(body)].tolist() == body
    says = f"{turns} turns; the text of {same} would be encoded as it was sampled"
    return Finding.of("renderer", problems, says, turns=turns, same_encoding=same)


def _turns(trajectory: Trajectory, processor: Processor) -> Iterator[tuple[str, list[int]]]:
    """The text of each turn of the assistant, and the tokens that were sampled for it."""
    end = int((trajectory.source == Source.PROMPT).sum())
    for message in _response(trajectory):
        if message["role"] == "assistant":
            begin = end
            while end < len(trajectory.tokens) and trajectory.source[end] == Source.SAMPLED:
                end += 1
            yield message["content"][0]["text"], trajectory.tokens[begin:end].tolist()
        else:
            while end < len(trajectory.tokens) and trajectory.source[end] == Source.OBSERVATION:
                end += 1


def _response(trajectory: Trajectory) -> list[dict[str, Any]]:
    """The messages from the first one of the assistant on."""
    roles = [message["role"] for message in trajectory.messages]
    return trajectory.messages[roles.index("assistant") if "assistant" in roles else len(roles) :]


def _unrendered(trajectory: Trajectory, processor: Processor) -> Iterator[str]:
    """What of a trajectory is not as the processor renders it, piece by piece."""
    messages, response = trajectory.messages, _response(trajectory)
    first = len(messages) - len(response)
    prompt = processor.render(messages[:first], generation_prompt=True)
    pieces, media = [(Source.PROMPT, prompt.tokens)], [*prompt.media]
    turns, closed = _turns(trajectory, processor), True
    for number, message in enumerate(response, start=first):
        if message["role"] == "assistant":
            text, sampled = next(turns)
            closed = bool(sampled) and sampled[-1] in processor.stop_tokens
            written = processor.tokenizer.decode(sampled[:-1] if closed else sampled)
            if written != text:
                yield f"the text of message {number} is not that of its sampled tokens"
            pieces.append((Source.SAMPLED, np.array(sampled, np.int32)))
        else:
            rendered = processor.render_continuation(message, closed)
            pieces.append((Source.OBSERVATION, rendered.tokens))
            media += rendered.media
    tokens = np.concatenate([piece for _, piece in pieces])
    source = np.concatenate([np.full(len(piece), source, np.int8) for source, piece in pieces])
    if (different := _first_difference(trajectory.tokens, tokens)) is not None:
        yield f"token {different} of {len(trajectory.tokens)} is not as its message is rendered"
    elif (different := _first_difference(trajectory.source, source)) is not None:
        yield f"token {different} is marked as of another origin than its message has"
    if [item.grid for item in trajectory.media] != [item.grid for item in media]:
        yield "its media are not those of its messages"
    whole = processor.render(messages).tokens
    for count in range(first, len(messages)):
        part = processor.render(messages[:count]).tokens
        if not np.array_equal(whole[: len(part)], part):
            yield f"rendering is not append-only: message {count} changes the tokens of those before it"


def positions(placed: Sequence[Placed], processor: Processor) -> Finding:
    """Whether the positions of the processor and of the trainer's batches follow the model's rule."""
    problems, farthest = [], 0
    for one in placed:
        trajectory, (row, span) = one.trajectory, one.span
        tokens, media = trajectory.tokens, trajectory.media
        expected = positions_token_by_token(
            tokens, media, processor.placeholder_tokens, processor.geometry, processor.position_rule
        )
        farthest = max(farthest, int(expected.max()))
        for whose, found in (
            ("the processor's", processor.positions(tokens, media)[0]),
            ("the trainer's", one.batch["positions"][:, row, span]),
        ):
            if (different := _first_difference(found.T, expected.T)) is not None:
                right = expected[:, different].tolist()
                problems.append(
                    f"{_name(trajectory)}: {whose} position of token {different} is {found[:, different].tolist()},"
                    f" and by the rule {processor.position_rule!r} {right}"
                )
    says = f"by the rule {processor.position_rule!r}, up to {farthest}"
    return Finding.of("positions", problems, says, rule=processor.position_rule, largest=farthest)


def masks(placed: Sequence[Placed], processor: Processor) -> Finding:
    """Whether the loss covers what was sampled, and nothing else, in the trajectories and in the trainer's batches."""
    problems, trained, total = [], 0, 0
    for one in placed:
        problems += [f"{_name(one.trajectory)}: {problem}" for problem in _wrong_masks(one, processor)]
        trained, total = trained + int(one.trajectory.train.sum()), total + len(one.trajectory.tokens)
    batches = {id(one.batch): one.batch for one in placed}.values()
    if (targets := int(sum(batch["target_mask"].sum() for batch in batches))) != trained:
        problems.append(f"the trainer's batches have {targets} targets, and {trained} tokens were sampled")
    return Finding.of("masks", problems, f"{trained} of {total} tokens are trained", trained=trained, total=total)


def _wrong_masks(one: Placed, processor: Processor) -> Iterator[str]:
    trajectory, batch, (row, span) = one.trajectory, one.batch, one.span
    expected = _assistants_tokens(trajectory.tokens, processor)
    # A turn that was cut is closed by us.
    expected &= (trajectory.source == Source.SAMPLED) | ~np.isin(trajectory.tokens, processor.stop_tokens)
    if (different := _first_difference(trajectory.train, expected)) is not None:
        yield f"token {different} is {'' if trajectory.train[different] else 'not '}trained"
    where = np.flatnonzero(expected)
    targets, real = batch["targets"][row], batch["target_mask"][row] > 0
    chosen = np.flatnonzero(real & (targets >= span.start) & (targets < span.stop))
    chosen = chosen[np.argsort(targets[chosen], kind="stable")]
    if (different := _first_difference(targets[chosen] - span.start, where)) is not None:
        yield f"target {different} of the trainer is not the sampled token that it should be"
        return
    if not np.array_equal(batch["tokens"][row, span], trajectory.tokens):
        yield "the trainer's tokens are not those that were sampled"
    segment = batch["segment_ids"][row, span.start]
    segments = np.flatnonzero(batch["segment_ids"][row] == segment)
    if not segment or not np.array_equal(segments, np.arange(span.start, span.stop)):
        yield "the trajectory is not a segment of its own"
    for name in ("logprobs", "temperatures"):
        if not np.array_equal(batch[name][row, chosen], getattr(trajectory, name)[where], equal_nan=True):
            yield f"the {name} that the trainer takes are not those of the rollout"


def _assistants_tokens(tokens: np.ndarray, processor: Processor) -> np.ndarray:
    """Which tokens are in turns of the assistant, with their ends, bool [tokens]: told by the special tokens alone."""
    opening = processor.generation_prompt().tokens.tolist()
    inside, place, ids = np.zeros(len(tokens), bool), 0, tokens.tolist()
    while place < len(ids):
        if ids[place : place + len(opening)] != opening:
            place += 1
            continue
        place += len(opening)
        while place < len(ids):
            inside[place] = True
            place += 1
            if ids[place - 1] in processor.stop_tokens:
                break
    return inside


def agreement(pairs: Sequence[tuple[Trajectory, np.ndarray]], processor: Processor, dtype: str) -> Finding:
    """How far the log-probabilities of the rollout are from the trainer's.

    Args:
      pairs: each trajectory with the trainer's log-probabilities, float32 [tokens].
      processor: knows which tokens are images.
      dtype: the shortest that anything has; in float32 there are marks to pass.
    """
    figures = difference_figures(
        logprob_differences(t.logprobs, trainer, t.tokens, t.source, processor.placeholder_tokens)
        for t, trainer in pairs
    )
    problems, words = [], []
    for part in PARTS:
        mean, most = (figures.get(f"logprob_difference_{part}{suffix}") for suffix in ("", "_max"))
        if mean is None:
            continue
        name = part.replace("_", " ")
        words.append(f"{name}: mean {mean:.2g}, maximum {most:.2g}")
        if not math.isfinite(most):
            problems.append(f"{name}: a log-probability is not a number: look for NaN and infinity in the weights")
        elif dtype == "float32" and not (mean < MEAN_MARK and most < MAX_MARK):
            problems.append(
                f"{name}: the mean must be below {MEAN_MARK:g}, the maximum below {MAX_MARK:g}; the largest is of"
                f" {_farthest(pairs, part, processor)}"
            )
    finite = {name: value if math.isfinite(value) else None for name, value in figures.items()}
    finding = Finding.of("agreement", problems, "; ".join(words), dtype=dtype, **finite)
    return finding if problems or dtype == "float32" else dataclasses.replace(finding, passed=None)


def _farthest(pairs: Sequence[tuple[Trajectory, np.ndarray]], part: str, processor: Processor) -> str:
    """The name of the trajectory with the largest difference."""

    def largest(pair: tuple[Trajectory, np.ndarray]) -> float:
        t, trainer = pair
        found = logprob_differences(t.logprobs, trainer, t.tokens, t.source, processor.placeholder_tokens)
        return found[part].max(initial=0.0)

    return _name(max(pairs, key=largest)[0])


def _first_difference(found: np.ndarray, expected: np.ndarray) -> int | None:
    """The first index at which two arrays differ, their lengths included."""
    length = min(len(found), len(expected))
    different = (found[:length] != expected[:length]).reshape(length, -1).any(axis=1)
    if different.any():
        return int(np.argmax(different))
    return None if len(found) == len(expected) else length


def _name(trajectory: Trajectory) -> str:
    return f"{trajectory.query_id[:40]!r}, sample {trajectory.sample}"

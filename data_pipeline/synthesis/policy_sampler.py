"""Rejection sampling: a model of ours answers a question several times, and a right trajectory is kept.

The model chooses its operations itself, so that a seed needs neither a box nor a window, and any operation may occur. A
trajectory is kept if its answer is right, it made at least one call, none of its calls failed and no turn before the
last names the answer. Of several, the first sample is kept. All that the model wrote carries loss: it made no mistake
on purpose.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from data_pipeline.draft import Draft
from data_pipeline.seed import Seed
from data_pipeline.synthesis.captioner import CaptionError
from data_pipeline.synthesis.checks import CheckError, check_sampled
from data_pipeline.synthesis.templates import SAMPLED
from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.processing import MediaError, Picture
from pixel_reasoner_jax.rewards import AnswerPool, score_trajectories
from pixel_reasoner_jax.rollout import Policy, QueryError, answered
from pixel_reasoner_jax.rollout.prompt import query_messages
from pixel_reasoner_jax.trajectory import Ended, Trajectory


class UnsolvedError(CaptionError):
    """No sample can be kept; the message says why the last right one, if any was right, was not."""

    reason = "unsolved"


class PolicySampler:
    """Samples trajectories of a policy.

    Args:
      policy: answers; a response depends on its query, the seed and the sample's index alone.
      samples: responses to each question.
      temperature: of all turns.

    Raises:
      UserError: an argument is out of range.
    """

    def __init__(self, policy: Policy, samples: int = 8, temperature: float = 1.0):
        if samples < 1:
            raise UserError(f"samples must be at least 1, got {samples}")
        if policy.registry is None:
            raise UserError("a policy without operations makes no trajectories with operations")
        self._policy, self._samples, self._temperature = policy, samples, temperature
        self._pool = AnswerPool()

    def sample(self, seeds: Sequence[Seed], seed: int) -> Iterator[Draft | CaptionError]:
        """For every seed, in order, its trajectory, or why there is none.

        Args:
          seeds: with questions and answers; of the others it is said that they have none.
          seed: of the sampling.
        """
        outcomes: dict[int, Draft | CaptionError] = {
            number: CaptionError("it has no question, and a model of ours asks none: give question and answer")
            for number, one in enumerate(seeds)
            if not one.question
        }
        asked = [number for number in range(len(seeds)) if number not in outcomes]
        groups: dict[int, list[Trajectory]] = {}
        given = 0
        queries = [seeds[number].query() for number in asked]

        def leave_out(error: QueryError) -> None:
            outcomes[asked[error.number]] = CaptionError(str(error))

        with self._policy.stream(queries, self._samples, seed, self._temperature) as stream:
            for query, trajectory in answered(stream, leave_out):
                group = groups.setdefault(asked[query], [])
                group.append(trajectory)
                if len(group) == self._samples:
                    outcomes[asked[query]] = self._choose(seeds[asked[query]], groups.pop(asked[query]))
                while given in outcomes:
                    yield outcomes.pop(given)
                    given += 1
        yield from (outcomes[number] for number in range(given, len(seeds)))

    def _choose(self, seed: Seed, group: list[Trajectory]) -> Draft | CaptionError:
        group.sort(key=lambda trajectory: trajectory.sample)
        unchecked = self._pool.unchecked
        scores = score_trajectories(group, self._pool)
        right = [trajectory for trajectory, score in zip(group, scores, strict=True) if score == 1]
        problem = f"none of {len(group)} answers is right"
        if unchecked := self._pool.unchecked - unchecked:
            problem += f"; {unchecked} could not be compared"
        for trajectory in right:
            try:
                if trajectory.ended != Ended.ANSWER:
                    raise CheckError("answer", f"it ended by a limit ({trajectory.ended})")
                if not trajectory.operations:
                    raise CheckError("operation", "it makes no call")
                draft = self._draft(seed, trajectory)
                check_sampled(draft, seed, self._policy.processor, self._policy.registry)
                return draft
            except (CheckError, MediaError) as error:
                problem = f"{len(right)} of {len(group)} answers are right, but cannot be kept; the last one: {error}"
        return UnsolvedError(problem)

    def _draft(self, seed: Seed, trajectory: Trajectory) -> Draft:
        """What is stored of a trajectory: the seed's own media, and the pixels that operations returned."""
        system, asked, *response = trajectory.messages
        media = [item for item in query_messages(seed.query(), None)[1]["content"] if item["type"] != "text"]
        texts = [item for item in asked["content"] if item["type"] == "text"]
        messages = [system, {"role": "user", "content": [*media, *texts]}]
        for message in response:
            items = [dict(item) for item in message["content"]]
            for item in items:
                if message["role"] == "assistant":
                    item["train"] = True
                elif isinstance(item.get("image"), Picture):
                    item["image"] = item["image"].load()
            messages.append({"role": message["role"], "content": items})
        return Draft(
            query_id=seed.id,
            question=seed.question,
            reference=seed.answer,
            kind=SAMPLED,
            messages=messages,
            operations=tuple(trajectory.operations),
            attributes=dict(seed.attributes),
        )

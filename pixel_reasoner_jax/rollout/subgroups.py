"""Sub-groups of the responses to a query, which are asked in different ways: `config.rollout.subgroups`.

A query's G responses are the columns of all arrays of an episode. Without sub-groups they are all asked alike; with
them, every sub-group has some of the columns, and says what is different about them: the question, the guidelines
after it, noise on the images, whether operations are executed, words that a response begins with or that follow its
first answer, or a response that the data give. A sub-group may need another one, whose responses come first.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from pixel_reasoner_jax.config import ConfigError
from pixel_reasoner_jax.errors import UserError, shown
from pixel_reasoner_jax.named_parts import find_part
from pixel_reasoner_jax.processing import Media, Picture, Processor
from pixel_reasoner_jax.query import Query, check_query
from pixel_reasoner_jax.rewards.terms import ALL
from pixel_reasoner_jax.rollout.alterations import ALTERATIONS, Alteration
from pixel_reasoner_jax.rollout.given import clean_media, given_response
from pixel_reasoner_jax.rollout.groups import RolloutSettings
from pixel_reasoner_jax.rollout.policy import Policy
from pixel_reasoner_jax.rollout.prompt import Prompt
from pixel_reasoner_jax.trajectory import Trajectory

PART = "rollout_part"
"""Key under which a query that is asked has its `Part`."""

Asks = Callable[[Query, Sequence[Trajectory]], Query | Sequence[Query | None] | None]


def as_asked(query: Query, earlier: Sequence[Trajectory]) -> Query:
    """The query as the data have it."""
    return query


def gold_response(query: Query) -> str | None:
    """The response that the data give under `gold_response`."""
    return query.get("gold_response")


QUERIES: dict[str, Asks] = {"as_asked": as_asked}
"""By the name in `query` of a sub-group, or module:function: functions of a query, and of the responses of the
sub-group that it needs, if any. They return the query that is asked; a list of one for each response; or None where it
cannot be asked."""

RESPONSES: dict[str, Callable[[Query], str | None]] = {"gold_response": gold_response}
"""By the name in `response`, or module:function: functions of a query that return its given response, None without."""


@dataclasses.dataclass(frozen=True)
class Subgroup:
    """How some of the responses to a query are asked, and what they count for.

    Attributes:
      label: its name.
      samples: how many responses it has.
      query: see `QUERIES`.
      guidelines: the text after the question; None for the policy's.
      images, strength: a change of the query's images, see `alterations`; None: none.
      clean: whether updates take the images without that change.
      operations: whether operations are executed; otherwise the first call ends a response.
      prefix: the text that a response begins with.
      follow_up: the text of a message that follows the first answer, after which the response goes on; "": none.
      response: see `RESPONSES`; None: responses are sampled.
      trains_given: whether tokens that were given, not sampled, may be trained on.
      scored: a function of a trajectory and its query that says how right it is, from 0 to 1; None: by its answer.
      compared: the responses that have the same name here are compared with one another: see `training.advantages`.
      counted: whether its responses count in accuracy, RaPR and the other figures of an episode.
      needs, above: it is asked only of queries whose responses in that sub-group are more right than this on average;
        None: of all.
    """

    label: str
    samples: int
    query: Asks = as_asked
    guidelines: str | None = None
    images: Alteration | None = None
    strength: float = 0.0
    clean: bool = False
    operations: bool = True
    prefix: str = ""
    follow_up: str = ""
    response: Callable[[Query], str | None] | None = None
    trains_given: bool = False
    scored: Callable[[Trajectory, Query], float] | None = None
    compared: str = "all"
    counted: bool = True
    needs: str | None = None
    above: float = 0.0

    @classmethod
    def of(cls, label: str, entry: ConfigDict) -> Subgroup:
        """That of an entry of `config.rollout.subgroups`.

        Raises:
          UserError: it names a function that there is not.
        """

        def part(name: str, known: Mapping[str, Any], none: str | None, kind: str) -> Any:
            return None if entry[name] == none else find_part(entry[name], known, kind)

        return cls(
            label,
            entry.samples,
            query=part("query", QUERIES, None, "query of a sub-group"),
            guidelines=entry.guidelines or None,
            images=part("images", ALTERATIONS, "as_they_are", "change of images"),
            strength=entry.strength,
            clean=entry.clean,
            operations=entry.operations,
            prefix=entry.prefix,
            follow_up=entry.follow_up,
            response=part("response", RESPONSES, "sampled", "given response"),
            trains_given=entry.trains_given,
            scored=part("scored", {}, "answer", "score of a sub-group"),
            compared=entry.compared,
            counted=entry.counted,
            needs=None if entry.needs == "none" else entry.needs,
            above=entry.above,
        )

    def prompt(self, query: Query, build: Callable[..., Prompt], seed: int) -> Prompt:
        """The prompt of a query that is asked for it, in any thread."""
        return build(query, guidelines=self.guidelines, alter=self._alter(query, seed), prefix=self.prefix)

    def _alter(self, query: Query, seed: int) -> Callable[[Picture], Picture] | None:
        if self.images is None or not self.strength:
            return None
        return lambda picture: altered(picture, self.images, self.strength, (seed, str(query["id"])))


def altered(picture: Picture, change: Alteration, strength: float, seed: tuple[Any, ...]) -> Picture:
    """A picture with a change that depends on its content, the strength and the seed alone; no pixels are touched."""
    name = f"{change.__module__}.{change.__qualname__} {strength} {seed} {picture.key}"

    def make(image: Image.Image) -> Image.Image:
        digest = hashlib.blake2s(name.encode(), digest_size=8).digest()
        made = change(image, strength, np.random.default_rng(int.from_bytes(digest, "big")))
        if not isinstance(made, Image.Image) or made.size != image.size:
            raise UserError(f"the change of images {change.__qualname__} must return an image of the same size")
        return made

    return picture.edit(make, name, picture.size, stands_for=True)


@dataclasses.dataclass(frozen=True)
class Part:
    """Some columns of a query's responses, which are asked together.

    Attributes:
      number: index of the query in the episode.
      subgroup: which they belong to.
      query: as it is asked, with this part under `PART`.
      first, samples: the columns.
    """

    number: int
    subgroup: Subgroup
    query: Query
    first: int
    samples: int

    @classmethod
    def of(cls, number: int, subgroup: Subgroup, asked: Any, first: int, samples: int) -> Part:
        """Checks a query as a sub-group's `query` has returned it.

        Raises:
          UserError: it is no query.
        """
        try:
            query = dict(check_query(asked))
        except UserError as error:
            raise UserError(f"the query of sub-group {subgroup.label!r} is {shown(asked)}: {error}") from error
        part = cls(number, subgroup, query, first, samples)
        query[PART] = part
        return part

    def given(self, policy: Policy, seed: int) -> Trajectory | None:
        """The response that the data give, which does not call an operation and is not too long; else None."""
        text = self.subgroup.response(self.query)
        prompt = dataclasses.replace(self.subgroup, prefix=text).prompt(self.query, policy.prompt, seed)
        return given_response(prompt, self.first, policy.processor, policy.registry, policy.limits)

    def settings(self, common: RolloutSettings, build: Callable[..., Prompt]) -> RolloutSettings:
        """The settings of its responses.

        Args:
          common: those of the rollout.
          build: see `Policy.prompt`.
        """
        limits = common.limits
        if not self.subgroup.operations:
            limits = dataclasses.replace(limits, max_operations=0)
        return dataclasses.replace(
            common,
            samples=self.samples,
            first_sample=self.first,
            limits=limits,
            follow_up=self.subgroup.follow_up,
            build=lambda query: self.subgroup.prompt(query, build, common.seed),
        )


def settings_of(common: RolloutSettings, query: Query, build: Callable[..., Prompt]) -> RolloutSettings:
    """The settings of a query that has a part: `per_query` of `Policy.stream`."""
    return query[PART].settings(common, build)


class Subgroups:
    """The sub-groups of a run, in the order of their columns.

    Args:
      entries: the sub-groups.

    Attributes:
      entries: the sub-groups.
      labels, compared: of every column, text [G].
      counted: of every column, bool [G].
    """

    def __init__(self, entries: Sequence[Subgroup]):
        self.entries = tuple(entries)
        samples = [entry.samples for entry in self.entries]
        self._first = dict(zip((entry.label for entry in entries), np.cumsum([0, *samples]).tolist(), strict=False))
        self.labels = np.repeat([entry.label for entry in entries], samples)
        self.compared = np.repeat([entry.compared for entry in entries], samples)
        self.counted = np.repeat(np.array([entry.counted for entry in entries], bool), samples)

    @classmethod
    def of(cls, rollout: ConfigDict) -> Subgroups:
        """Those of `config.rollout`, in the order of their labels: without an entry, one of all responses.

        Raises:
          ConfigError: the entries' samples are not rollout.samples together, or one needs another that there is not, or
            that needs it.
          UserError: one names a function that there is not.
        """
        if not rollout.subgroups:
            return cls([Subgroup(ALL, rollout.samples)])
        entries = [Subgroup.of(label, entry) for label, entry in sorted(rollout.subgroups.items())]
        total = sum(entry.samples for entry in entries)
        if total != rollout.samples:
            raise ConfigError(
                f"config.rollout.samples is {rollout.samples}, but the sub-groups of config.rollout.subgroups have"
                f" {total} responses together: make them equal"
            )
        needs = {entry.label: entry.needs for entry in entries}
        for label in needs:
            path = [label]
            while (needed := needs[path[-1]]) is not None:
                if needed not in needs or needed in path:
                    raise ConfigError(
                        f"config.rollout.subgroups.{path[-1]}.needs is {needed!r}: it must be the label of a sub-group"
                        " that does not need this one"
                    )
                path.append(needed)
        return cls(entries)

    @property
    def are_alike(self) -> bool:
        """Whether all responses are asked as they would be without sub-groups."""
        return len(self.entries) == 1 and self.entries[0] == Subgroup(self.entries[0].label, self.entries[0].samples)

    @property
    def given(self) -> bool:
        """Whether tokens that no model sampled may be trained on."""
        return any(entry.trains_given for entry in self.entries)

    def comparisons(self) -> list[np.ndarray]:
        """The columns of responses that are compared with one another, int arrays."""
        return [np.flatnonzero(self.compared == name) for name in dict.fromkeys(self.compared.tolist())]

    def columns(self, label: str) -> slice:
        """The columns of a sub-group."""
        first = self._first[label]
        return slice(first, first + next(entry.samples for entry in self.entries if entry.label == label))

    def clean(self, groups: Sequence[Sequence[Trajectory]], processor: Processor) -> None:
        """Gives responses whose updates take clean images the media without what stands for them."""
        columns = np.repeat([entry.clean for entry in self.entries], [entry.samples for entry in self.entries])
        for group in groups if columns.any() else ():
            known: dict[str, Media] = {}
            for trajectory in group:
                if columns[trajectory.sample] and trajectory.messages:
                    trajectory.media = clean_media(trajectory, processor, known)

    def stages(self) -> list[list[Subgroup]]:
        """The sub-groups in the order in which they are asked: each stage needs those before it alone."""
        stages: list[list[Subgroup]] = []
        done: set[str | None] = {None}
        while len(done) <= len(self.entries):
            stages.append([entry for entry in self.entries if entry.label not in done and entry.needs in done])
            done |= {entry.label for entry in stages[-1]}
        return stages

    def parts(self, subgroup: Subgroup, number: int, query: Query, earlier: Sequence[Trajectory]) -> list[Part]:
        """What is asked of a query for a sub-group; nothing where it cannot be asked.

        Args:
          number: index of the query in the episode.
          earlier: the responses of the sub-group that it needs.

        Raises:
          UserError: the sub-group's `query` returns no query, or not as many as it has responses.
        """
        first, asked = self._first[subgroup.label], subgroup.query(query, earlier)
        if subgroup.response is not None and subgroup.response(query) is None:
            return []
        if asked is None:
            return []
        if isinstance(asked, Mapping):
            return [Part.of(number, subgroup, asked, first, subgroup.samples)]
        if len(asked) != subgroup.samples:
            raise UserError(
                f"the query of sub-group {subgroup.label!r} returns {len(asked)} queries for {subgroup.samples}"
                " responses: return one, or one for each"
            )
        return [Part.of(number, subgroup, one, first + index, 1) for index, one in enumerate(asked) if one is not None]

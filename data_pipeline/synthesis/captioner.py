"""Who writes the text between the operations of a trajectory."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping
from typing import Protocol

from data_pipeline.seed import Seed


class Passage(enum.StrEnum):
    """A piece of text that a template asks for."""

    OVERVIEW = "overview"  # what the whole input shows, before any operation
    SUBJECT = "subject"  # what to look at, as it follows "look clearer at"
    MISTAKE = "mistake"  # what a wrong operation returned, and that it is not what was sought
    EVIDENCE = "evidence"  # what the right operation shows
    REASONING = "reasoning"  # the way to the answer without any operation


class Captioner(Protocol):
    """Writes passages: from templates, or with a model that sees the media."""

    def write(self, seed: Seed, passage: Passage) -> str:
        """The passage, without surrounding white space; empty where there is nothing to say."""
        ...


PHRASES: Mapping[Passage, str] = {
    Passage.OVERVIEW: "The detail that the question asks about is too small to be seen clearly.",
    Passage.SUBJECT: "the relevant part",
    Passage.MISTAKE: "This does not show what the question asks about.",
    Passage.EVIDENCE: "This shows what the question asks about.",
    Passage.REASONING: "It can be seen without looking closer.",
}


@dataclasses.dataclass(frozen=True)
class TemplateCaptioner:
    """Fixed phrases, with `{name}` taken from the seed's attributes; deterministic, and it needs no network.

    Attributes:
      phrases: for every passage, `str.format` text.
    """

    phrases: Mapping[Passage, str] = dataclasses.field(default_factory=lambda: PHRASES)

    def write(self, seed: Seed, passage: Passage) -> str:
        try:
            return self.phrases[passage].format(**seed.attributes)
        except KeyError as error:
            raise ValueError(f"seed {seed.id}: no {error} to write its {passage} passage with") from None

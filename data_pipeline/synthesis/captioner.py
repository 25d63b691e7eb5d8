"""Captioners, which write the text between the operations of a trajectory."""

from __future__ import annotations

import dataclasses
import enum
import hashlib
from collections.abc import Mapping, Sequence
from typing import Protocol

from data_pipeline.seed import Seed
from data_pipeline.synthesis.phrases import PHRASES
from pixel_reasoner_jax.endpoint import Spend
from pixel_reasoner_jax.errors import UserError


class CaptionError(UserError):
    """A text for a seed cannot be written, or must not be used; the message says why.

    Attributes:
      reason: the kind of failure in a word, by which rejections are counted.
    """

    reason = "caption"


class UnconfirmedBoxError(CaptionError):
    """No proposed box was kept: none of their crops alone lets the captioner answer."""

    reason = "unconfirmed"


class Passage(enum.StrEnum):
    """A piece of text that a template asks for."""

    OVERVIEW = "overview"  # what the whole input shows, before any operation
    SUBJECT = "subject"  # what to look at, as it follows "look clearer at"
    MISTAKE = "mistake"  # what a wrong operation returned, and that it is not what was sought
    TOO_SMALL = "too_small"  # what too wide a crop shows, and that the detail is in it, but still too small
    EVIDENCE = "evidence"  # what the right operation shows
    REASONING = "reasoning"  # the way to the answer without any operation


class Captioner(Protocol):
    """Writes passages: fixed phrases, or with a model that sees the media.

    Attributes:
      spend: the cost of what it has written so far.
    """

    spend: Spend

    def add_question(self, seed: Seed) -> Seed:
        """A seed without a question, with a question and an answer added.

        Raises:
          CaptionError: it cannot ask one.
        """
        ...

    def add_cue(self, seed: Seed) -> Seed:
        """A seed without a cue, with the box of its evidence added; and with a question and an answer if it has none.

        Raises:
          CaptionError: it cannot find one. As `UnconfirmedBoxError`, a box was found, but its crop alone does not
            let the captioner answer.
        """
        ...

    def write(self, seed: Seed, passage: Passage, target: tuple = ()) -> str:
        """A passage, without surrounding white space; empty if there is nothing to say.

        Args:
          seed: the query.
          passage: which passage.
          target: what it is about, a normalized box or frame numbers; empty for the whole input.

        Raises:
          CaptionError: it cannot be written.
        """
        ...


@dataclasses.dataclass(frozen=True)
class TemplateCaptioner:
    """Writes fixed phrases, with `{name}` filled in from the seed's attributes; deterministic, without a network.

    Attributes:
      phrases: for every passage, `str.format` text, or several of which one is chosen for each seed and target.
      seed: of the choice.
      spend: always nothing.
    """

    phrases: Mapping[str, str | Sequence[str]] = dataclasses.field(default_factory=lambda: PHRASES)
    seed: int = 0
    spend: Spend = Spend()

    def add_question(self, seed: Seed) -> Seed:
        raise CaptionError(
            "it has no question, and only a captioner that sees can ask one: give question and answer, or --captioner"
            " openai"
        )

    def add_cue(self, seed: Seed) -> Seed:
        raise CaptionError(
            "it does not say where its evidence is, and only a captioner that sees can find it: give the box, of a"
            " video the window, or --captioner openai"
        )

    def write(self, seed: Seed, passage: Passage, target: tuple = ()) -> str:
        try:
            return self._phrase(seed, passage, target).format(**seed.attributes)
        except KeyError as error:
            raise UserError(f"seed {seed.id}: no {error} to write its {passage} passage with") from None

    def _phrase(self, seed: Seed, passage: Passage, target: tuple) -> str:
        variants = self.phrases[passage]
        if isinstance(variants, str):
            return variants
        key = repr((self.seed, seed.id, str(passage), target)).encode("utf-8", "replace")
        return variants[int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little") % len(variants)]

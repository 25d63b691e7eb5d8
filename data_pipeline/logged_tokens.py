"""The tokens that a run stores with a sampled trajectory, and what sampler and trainer made of each."""

from __future__ import annotations

import dataclasses

import numpy as np

from data_pipeline.draft import Draft
from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.trajectory import Source


@dataclasses.dataclass(frozen=True)
class LoggedTokens:
    """The tokens of a stored sample; arrays are [tokens], see `Trajectory`.

    Attributes:
      tokens, source: what the trajectory had.
      logprobs, trainer_logprobs: of sampled tokens, by the sampler and by the trainer; 0 elsewhere.
      temperatures: 1 where not sampled.
    """

    tokens: np.ndarray
    source: np.ndarray
    temperatures: np.ndarray
    logprobs: np.ndarray
    trainer_logprobs: np.ndarray

    @classmethod
    def of(cls, draft: Draft) -> LoggedTokens:
        """Reads the tokens of a record that `log_samples` stored.

        Raises:
          UserError: the record has none, or what it has does not fit together.
        """
        try:
            stored = draft.attributes["tokens"]
            tokens = np.array(stored["ids"], np.int32)
            values, counts = np.array(stored["source"], np.int64).reshape(-1, 2).T
            if counts.min(initial=0) < 0 or counts.sum() != len(tokens):
                raise ValueError("the counts of its sources are not those of its tokens")
            source = np.repeat(values, counts).astype(np.int8)
            arrays = {}
            for name in ("temperatures", "logprobs", "trainer_logprobs"):
                arrays[name] = np.full(len(tokens), name == "temperatures", np.float32)
                sampled = np.flatnonzero(source == Source.SAMPLED)
                if len(stored[name]) != len(sampled):
                    raise ValueError(f"it has {len(stored[name])} {name} of {len(sampled)} sampled tokens")
                arrays[name][sampled] = stored[name]
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise UserError(f"trajectory {draft.query_id!r} is no stored sample of a run: {error}") from error
        return cls(tokens, source, **arrays)

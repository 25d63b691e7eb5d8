"""An update as functions on the host see it: shapings of advantages, details of a loss, terms over several passes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.parallel import all_gather
from pixel_reasoner_jax.training.packing import Batch
from pixel_reasoner_jax.training.token_weights import Size, sequence_means
from pixel_reasoner_jax.training.virtual_shards import AgreedBatches


@dataclasses.dataclass(frozen=True)
class Linearized:
    """A part of a loss at the parameters of an update; see `joint_terms`. Arrays are [tokens].

    Attributes:
      values: at each token; their mean over the tokens of all processes is the part's.
      slopes: the derivatives of the sum of all values by the log-probability of each token, for each pass by its label.
    """

    values: np.ndarray
    slopes: Mapping[str, np.ndarray]


class UpdateView:
    """The trained tokens of an update in this process, one sequence after the other.

    Arrays are [tokens] of this process. `view["advantages"]` and `view["logprobs"]` (the old ones) are as the loss
    takes them: after shaping, and by the trainer where there is a correction. Other names are those of a batch.

    Args:
      agreed: what the batches were built of.
      batches: of the update.
      step: updates made before.
      is_first: whether it is the first one of its episode: the policy is still the one that sampled.

    Attributes:
      sequences: the sequences in the order of their tokens. One that is replayed may be there twice.
      lengths: how many trained tokens each has.
      shards: the shard of each token.
      size: trained tokens, and sequences with any, of the update in all processes.
      sampled: the sampler's log-probabilities.
      scores: arrays of the passes that were asked for, by label.
      figures: that are logged with the update.
      step, is_first: see above.
    """

    def __init__(self, agreed: AgreedBatches, batches: Sequence[Batch], step: int = 0, is_first: bool = False):
        self._batches, self._masks = batches, [batch["target_mask"] > 0 for batch in batches]
        self.shards_and_sequences = agreed.sequences()
        self.sequences = [sequence for _, sequence in self.shards_and_sequences]
        self.lengths = np.array([sequence.targets for sequence in self.sequences], int)
        self.shards = np.repeat(np.array([shard for shard, _ in self.shards_and_sequences], int), self.lengths)
        self.size = Size.of(self.lengths)
        self.sampled = self["logprobs"]
        self.scores: dict[str, Mapping[str, np.ndarray]] = {}
        self.figures: dict[str, float] = {}
        self.replaced: dict[str, np.ndarray] = {}
        self.step, self.is_first = step, is_first

    def __getitem__(self, name: str) -> np.ndarray:
        replaced = getattr(self, "replaced", {})
        return replaced[name] if name in replaced else self.flat([batch[name] for batch in self._batches])

    def replace(self, name: str, values: np.ndarray) -> None:
        """Gives the loss, and who looks from now on, other values of an array."""
        self.replaced[name] = values

    def logprobs(self, label: str) -> np.ndarray:
        """Of a pass: the tokens' log-probabilities, float32.

        Raises:
          UserError: it was not asked for.
        """
        return self._score(label, "logprobs")

    def entropy(self, label: str) -> np.ndarray:
        """Of a pass: the entropies of the distributions that the tokens are of; as `logprobs`."""
        return self._score(label, "entropy")

    def _score(self, label: str, name: str) -> np.ndarray:
        if label not in self.scores:
            raise UserError(
                f"the pass {label!r} was not made: the function that looks at it must name it in its attribute"
                f' `passes`, such as my_function.passes = ("{label}",)'
            )
        return self.scores[label][name]

    def mean(self, values: np.ndarray) -> float:
        """Over the tokens of all processes, which call this together."""
        return self.total(values) / self.size.tokens

    def total(self, values: np.ndarray) -> float:
        """The sum over all processes, which call this together; there may be any number of values in each."""
        return float(all_gather(np.asarray(np.sum(values, dtype=np.float64))).sum())

    def sequence_means(self, values: np.ndarray) -> np.ndarray:
        """[sequences] of this process: the means over the tokens of each, float64; 0 for one without any."""
        return sequence_means(values, self.lengths)

    @property
    def turns(self) -> np.ndarray:
        """int [tokens], which turn of its response each token is of, from 0: a run of tokens that are trained."""
        places = [np.flatnonzero(sequence.train[1:]) for sequence in self.sequences]
        return np.concatenate([np.zeros(0, int), *(np.cumsum(np.diff(of, prepend=of[:1]) > 1) for of in places)])

    def gathered(self, values: np.ndarray) -> np.ndarray:
        """The values of all processes, which call this together, in ascending order, float64.

        Means of them do not depend on the number of processes.
        """
        values = np.asarray(values, np.float64)
        counts = all_gather(np.int32(len(values)))
        padded = np.zeros(int(counts.max()))
        padded[: len(values)] = values
        return np.sort(np.concatenate([row[:count] for row, count in zip(all_gather(padded), counts, strict=True)]))

    def figure(self, name: str, values: np.ndarray) -> None:
        """Logs the mean of some values over the update's tokens. All processes call this together."""
        self.figures[name] = self.mean(values)

    def joined(self, of_each: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """[tokens] of the log-probabilities and entropies of each sequence."""
        names = of_each[0] if of_each else ("logprobs", "entropy")
        return {name: np.concatenate([np.zeros(0, np.float32), *(of[name] for of in of_each)]) for name in names}

    def flat(self, arrays: Sequence[np.ndarray]) -> np.ndarray:
        """[tokens] of an array [rows, K] for each batch."""
        return np.concatenate([array[mask] for array, mask in zip(arrays, self._masks, strict=True)])

    def rows(self, values: np.ndarray) -> list[np.ndarray]:
        """The inverse of `flat`, in float32, with 0 in padding."""
        ends = np.cumsum([mask.sum() for mask in self._masks])[:-1]
        arrays = [np.zeros(mask.shape, np.float32) for mask in self._masks]
        for array, mask, of_batch in zip(arrays, self._masks, np.split(values, ends), strict=True):
            array[mask] = of_batch
        return arrays

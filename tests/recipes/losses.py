"""The policy loss of a recipe, of responses whose log ratios are given."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from pixel_reasoner_jax.config import load_config
from pixel_reasoner_jax.training.losses import Tokens, surrogate_of
from pixel_reasoner_jax.training.token_weights import AGGREGATIONS, Size, sequence_ratios


def loss_of(recipe: str, log_ratios: Sequence[Sequence[float]], advantages: Sequence[float], length: int = 0) -> float:
    """The loss of an update of these responses, whose old log-probabilities are all -1.

    Args:
      recipe: its config.
      log_ratios: of the tokens of every response.
      advantages: of the responses.
      length: the constant length.
    """
    settings = load_config(recipe).grpo
    settings.constant_length = length
    lengths = np.array([len(of_response) for of_response in log_ratios])
    ratios = np.concatenate([np.asarray(of_response, float) for of_response in log_ratios])
    size = Size(int(lengths.sum()), len(lengths))
    old = np.full(len(ratios), -1.0)
    details = {
        "aggregation": np.repeat(AGGREGATIONS[settings.aggregation](lengths, size, settings), lengths),
        "sequence_ratios": sequence_ratios(old + ratios, old, lengths),
    }
    row = {name: jnp.asarray(values, jnp.float32)[None] for name, values in details.items()}
    logprobs, ratio = (jnp.asarray(values, jnp.float32)[None] for values in (old + ratios, np.exp(ratios)))
    repeated = jnp.asarray(np.repeat(advantages, lengths), jnp.float32)[None]
    tokens = Tokens(logprobs, ratio, repeated, jnp.ones(ratio.shape, bool), row, size.tokens)
    return float(surrogate_of(settings)(tokens, settings)[0])

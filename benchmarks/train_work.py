"""The work of the training benchmark, the same for both sides: a random model, and trajectories that zoom in once.

Every trajectory fills its row, so that no side pads: a prompt with an image, a turn that is trained, the observation
of a crop, and a last turn that is trained. Tokens, pixels, advantages and sampled log-probabilities are random.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.workload import save_model
from pixel_reasoner_jax.models import Config
from pixel_reasoner_jax.processing import Budgets, Media, Processor
from pixel_reasoner_jax.training.packing import Sequence

PHASES = ("sft", "grpo")
SHARES = {"image": 0.25, "prompt": 0.45, "turn": 0.2, "crop": 0.12, "observation": 0.15}
"""Of a row: the image's tokens and those of the prompt that it is part of, a trained turn, the crop's tokens and those
of the observation that it is part of; what is left is the last turn, which is trained too."""


@dataclasses.dataclass(frozen=True)
class Work:
    """A model and an update's trajectories, one a row.

    Attributes:
      directory: the model and its processor, in the Hugging Face form.
      sequences: all of one length, trained in the same places.
      optimizer: AdamW's settings on both sides.
    """

    directory: Path
    sequences: list[Sequence]
    optimizer: dict[str, float] = dataclasses.field(
        default_factory=lambda: dict(learning_rate=1e-4, b1=0.9, b2=0.95, weight_decay=0.01, clip_norm=1.0)
    )

    @property
    def tokens(self) -> int:
        """Of all rows."""
        return sum(len(sequence.tokens) for sequence in self.sequences)

    @property
    def trained(self) -> int:
        """Tokens with a loss."""
        return sum(int(sequence.train.sum()) for sequence in self.sequences)


def save(directory: Path, config: Config, dtype: str = "float32") -> None:
    """Writes the model that `build` makes work for."""
    save_model(directory, config, Budgets(image=(1, 2**16)), dtype=dtype)


def build(directory: Path, rows: int, length: int, seed: int = 0) -> Work:
    """Makes trajectories of `length` tokens for a model that `save` wrote."""
    processor = Processor.from_pretrained(directory)
    random = np.random.default_rng(seed)
    return Work(directory, [_trajectory(processor, length, row, random) for row in range(rows)])


def _trajectory(processor: Processor, length: int, row: int, random: np.random.Generator) -> Sequence:
    count = {name: round(share * length) for name, share in SHARES.items()}
    image, crop = (_image(processor, count[name], random) for name in ("image", "crop"))
    tokens = random.choice(_plain(processor), length).astype(np.int32)
    train = np.zeros(length, bool)
    _show(processor, tokens, image, count["prompt"])
    turn, shown = count["prompt"] + count["turn"], count["prompt"] + count["turn"] + count["observation"]
    _show(processor, tokens, crop, shown)
    train[count["prompt"] : turn] = train[shown:] = True
    # Near those of a new model, which says little about the next token, and far enough for some ratios to be clipped.
    logprobs = random.normal(-math.log(processor.config["text_config"]["vocab_size"]), 0.5, length).astype(np.float32)
    return Sequence(
        tokens,
        train,
        [image, crop],
        advantage=(-1.0) ** row * random.uniform(0.2, 1.0),
        logprobs=logprobs,
        temperatures=np.ones(length, np.float32),
        query_id=f"query-{row}",
    )


def _plain(processor: Processor) -> np.ndarray:
    """Every token of the model that is not a special one."""
    special = [token.content for token in processor.tokenizer.added_tokens_decoder.values()]
    vocabulary = np.arange(processor.config["text_config"]["vocab_size"])
    return np.setdiff1d(vocabulary, processor.tokenizer.convert_tokens_to_ids(special))


def _image(processor: Processor, tokens: int, random: np.random.Generator) -> Media:
    """An image of noise, four by three, of at most so many tokens."""
    height = max(math.isqrt(tokens * 3 // 4), 1)
    sides = (height * processor.geometry.token_size, tokens // height * processor.geometry.token_size)
    return processor.image(Image.fromarray(random.integers(0, 256, (*sides, 3), np.uint8)))


def _show(processor: Processor, tokens: np.ndarray, media: Media, end: int) -> None:
    """Puts an image into the tokens before `end`, where a few words follow it."""
    start = end - media.tokens - 4
    tokens[start] = processor.vision_start
    tokens[start + 1 : start + 1 + media.tokens] = processor.image_pad
    tokens[start + 1 + media.tokens] = processor.vision_end

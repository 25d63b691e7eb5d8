"""The work of the rollout benchmark, the same for every side: a random model, queries, and crops that are forced.

A random model never asks for an operation. So each turn but the last is cut after a number of tokens that the workload
chose, and is followed by the observation of a crop that it chose too; the last turn is cut likewise.
"""

from __future__ import annotations

import dataclasses
import math
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from data_pipeline.lessons import save_world_processor
from data_pipeline.tokenizer import save_processor
from pixel_reasoner_jax.models import Config, Qwen2_5_VL, VisionConfig
from pixel_reasoner_jax.operations import Call, default_registry
from pixel_reasoner_jax.plan.lengths import draw_group
from pixel_reasoner_jax.processing import Budgets, PictureStore, Processor, Rendered
from pixel_reasoner_jax.rollout.prompt import Prompt, Query

BOX_SIDES = (0.2, 0.4)
"""Least and most side of a forced box, as a share of the image; the operation's padding adds 0.2 to it."""

RAGGED_SCALE = 1 / 8
"""Tokens of a response's turns and of images in a ragged workload, as a share of the method's."""

QUESTIONS = (
    "Which shape is nearest to the middle?",
    "How many of the shapes are darker than what is around them?",
    "What colour is the largest ellipse, and is any rectangle of the same colour?",
    "Is there a shape that touches the edge of the picture? Name its colour.",
)

Lengths = tuple[tuple[tuple[int, ...], ...], ...]


@dataclasses.dataclass(frozen=True)
class Workload:
    """A model and what it is asked.

    Attributes:
      directory: the model and its processor, in the Hugging Face form.
      queries: what a rollout takes; their images are files in `directory`.
      samples: responses a query.
      turn_tokens: tokens sampled in every turn; with `lengths`, in the longest.
      turns: of every response; with `lengths`, of the one with most. All but the last end in a forced crop.
      seed: of the boxes.
      dtype: of parameters and computation, on all sides.
      lengths: tokens sampled in each turn, for [query][sample]; None: the same for all, as above.
    """

    directory: Path
    queries: tuple[Query, ...]
    samples: int
    turn_tokens: int = 64
    turns: int = 3
    seed: int = 0
    dtype: str = "float32"
    lengths: Lengths | None = None

    def row_turns(self, query: int, sample: int) -> tuple[int, ...]:
        """Tokens sampled in each turn of a response."""
        return (self.turn_tokens,) * self.turns if self.lengths is None else self.lengths[query][sample]

    def with_lengths(self, lengths: Lengths) -> Workload:
        """The same queries, answered in turns of these lengths."""
        rows = [turns for group in lengths for turns in group]
        most = dict(turns=max(map(len, rows)), turn_tokens=max(map(max, rows)))
        return dataclasses.replace(self, lengths=lengths, **most)

    @property
    def rows(self) -> list[tuple[int, int]]:
        """(query index, sample) of every response."""
        return [(query, sample) for query in range(len(self.queries)) for sample in range(self.samples)]

    def box(self, query: int, sample: int, turn: int) -> list[float]:
        """The box [x1, y1, x2, y2] forced at the end of a turn, as fractions of the query's image."""
        random = np.random.default_rng((self.seed, query, sample, turn))
        sides = random.uniform(*BOX_SIDES, 2)
        corner = random.uniform(0.05, 0.95 - sides)
        return [round(float(value), 3) for value in (*corner, *(corner + sides))]


@dataclasses.dataclass(frozen=True)
class _Size:
    """What `build` makes: the model, tokens of query images and crops, tokens of raw images before any resizing."""

    config: Config
    image: tuple[int, int]
    crop: tuple[int, int]
    raw: tuple[int, int]


# About 104 million parameters, with every part of the released models.
MODEL = Config(
    vision=VisionConfig(
        depth=8,
        hidden_size=384,
        intermediate_size=1024,
        num_heads=6,
        out_hidden_size=640,
        fullatt_block_indexes=(3, 7),
    ),
    vocab_size=32_768,
    hidden_size=640,
    intermediate_size=2304,
    num_hidden_layers=12,
    num_attention_heads=10,
    num_key_value_heads=2,
    mrope_section=(8, 12, 12),
    tie_word_embeddings=True,
)
TINY = dataclasses.replace(Config.preset("tiny"), vocab_size=2048)  # more than the tokenizer has

# Some raw images are within the budget, which gives prompts of different lengths, and some are larger, so that a crop
# shows more than the resized image did.
_FULL = _Size(
    MODEL,
    image=(300, 600),
    crop=(100, 200),
    raw=(320, 800),
)
_RAGGED = _Size(MODEL, image=(40, 250), crop=(12, 125), raw=(40, 300))
_TINY = _Size(
    TINY,
    image=(12, 30),
    crop=(4, 12),
    raw=(14, 50),
)


def build(
    directory: str | Path,
    queries: int = 8,
    samples: int = 8,
    turn_tokens: int = 64,
    seed: int = 0,
    *,
    ragged: bool = False,
    tiny: bool = False,
    weights: Path | None = None,
    dtype: str = "float32",
) -> Workload:
    """Writes a random model, its processor and the queries' images.

    Args:
      directory: made where it is missing.
      seed: of the parameters, the images, the boxes and the lengths.
      ragged: turns as many and as long as the method's, scaled by `RAGGED_SCALE`, in place of three of `turn_tokens`.
      tiny: a model and images for tests; `turn_tokens` is then at most 4, and ragged turns are 8 times shorter.
      weights: a folder that `save_model` filled, whose model is taken in place of a new one.
      dtype: see `Workload`.
    """
    directory = Path(directory)
    size = _TINY if tiny else _RAGGED if ragged else _FULL
    unused = dict(frame=(4, 4), video=(4, 4), video_frames=2)
    budgets = Budgets(image=size.image, crop=size.crop, **unused)
    if weights is None:
        save_model(directory, size.config, budgets, seed)
    else:
        _save_processor(directory, budgets)
        for file in weights.glob("model*.safetensors*"):
            (directory / file.name).symlink_to(file.resolve())
        shutil.copy(weights / "config.json", directory)
    (directory / "images").mkdir(exist_ok=True)
    random = np.random.default_rng(seed)
    asked = []
    for index in range(queries):
        path = directory / "images" / f"{index}.png"
        _picture(random, size.raw).save(path)
        question = QUESTIONS[index % len(QUESTIONS)]
        asked.append({"id": f"query-{index}", "question": question, "answer": "none", "images": [str(path)]})
    turn_tokens = min(turn_tokens, 4) if tiny else turn_tokens
    workload = Workload(directory, tuple(asked), samples, turn_tokens, seed=seed, dtype=dtype)
    if not ragged:
        return workload
    return workload.with_lengths(_draw_lengths(seed, queries, samples, RAGGED_SCALE / (8 if tiny else 1)))


def _draw_lengths(seed: int, queries: int, samples: int, scale: float) -> Lengths:
    random = np.random.default_rng(seed)
    groups = (draw_group(random, samples).responses for _ in range(queries))
    return tuple(
        tuple(tuple(max(1, round(turn.sampled * scale)) for turn in response) for response in group) for group in groups
    )


def save_model(directory: Path, config: Config, budgets: Budgets, seed: int = 0, dtype: str = "float32") -> None:
    """Writes a model with random parameters of a type, and a processor whose special tokens it knows."""
    tokenizer = _save_processor(directory, budgets)
    names = {
        "eos_token_id": "im_end",
        "bos_token_id": "endoftext",
        "image_token_id": "image_pad",
        "video_token_id": "video_pad",
        "vision_start_token_id": "vision_start",
        "vision_end_token_id": "vision_end",
    }
    ids = {key: tokenizer.convert_tokens_to_ids(f"<|{name}|>") for key, name in names.items()}
    config = dataclasses.replace(config, **ids)
    Qwen2_5_VL.create(config, seed, dtype=dtype, param_dtype=dtype).save_pretrained(directory)


def _save_processor(directory: Path, budgets: Budgets) -> PreTrainedTokenizerBase:
    save_world_processor(directory, default_registry())
    tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
    save_processor(tokenizer, directory, budgets)
    return tokenizer


def prompts(workload: Workload, processor: Processor) -> list[Prompt]:
    """Every query, loaded and rendered once."""
    registry, store = default_registry(), PictureStore()
    return [Prompt.build(query, processor, registry, None, store) for query in workload.queries]


def forced_call(workload: Workload, query: int, sample: int, turn: int) -> Call:
    """The operation that ends a turn, whatever the model wrote."""
    arguments = {"bbox_2d": workload.box(query, sample, turn), "target_image": 1}
    return Call("crop_image_normalized", arguments)


def observation(
    workload: Workload, processor: Processor, prompt: Prompt, query: int, sample: int, turn: int
) -> Rendered:
    """What follows a turn: the end of the cut turn, the crop with its text, the opening of the next turn.

    Args:
      prompt: of the query, from `prompts`.
      query, sample, turn: whose turn; `query` is an index.
    """
    registry, call = default_registry(), forced_call(workload, query, sample, turn)
    result = registry.execute(call, prompt.state.fork())
    sizes = [processor.resized(image.size, result.kind) for image in result.images]
    content = [{"type": "text", "text": registry.observation_text(call, result, sizes)}]
    content += [{"type": "image", "image": image, "kind": result.kind} for image in result.images]
    return processor.render_continuation({"role": "user", "content": content}, closed=False)


def forbidden_tokens(processor: Processor) -> np.ndarray:
    """int32 [n]: ids that no side may sample: those of a rollout, and whatever would end a turn early."""
    return np.union1d(processor.forbidden_tokens, processor.stop_tokens).astype(np.int32)


def _picture(random: np.random.Generator, tokens: Sequence[int]) -> Image.Image:
    """Shapes on noise; its size is of (least, most) `tokens` of 28x28 pixels, small ones as frequent as large."""
    area = 28**2 * math.exp(random.uniform(*np.log(tokens)))
    aspect = math.exp(random.uniform(-0.4, 0.4))
    width, height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
    image = Image.fromarray(random.integers(0, 256, (height, width, 3), np.uint8))
    draw = ImageDraw.Draw(image)
    for number in range(12):
        x, y = random.uniform(0, 0.8, 2) * (width, height)
        right, bottom = (x, y) + random.uniform(0.05, 0.2, 2) * (width, height)
        shape = draw.ellipse if number % 2 else draw.rectangle
        shape((x, y, right, bottom), fill=tuple(random.integers(0, 256, 3).tolist()))
    return image

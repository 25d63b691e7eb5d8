"""Random small models of transformers' Qwen2.5-VL, and the same inputs in its form and in ours."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from pixel_reasoner_jax.models import Config, VisionConfig
from pixel_reasoner_jax.models.cache import Pages
from pixel_reasoner_jax.processing.geometry import Geometry
from pixel_reasoner_jax.processing.layout import vision_layout
from pixel_reasoner_jax.processing.media import Media, normalization_table
from pixel_reasoner_jax.processing.positions import mrope_positions

torch.set_num_threads(1)  # these models are too small for two: threads that wait for each other cost more
START, END, IMAGE, VIDEO = 596, 597, 598, 599
LEVELS = normalization_table((0.48, 0.46, 0.41), (0.27, 0.26, 0.28))


def small_config(**changes) -> Config:
    """Depth, heads, windows and merging of the 7B model, at a fraction of its width."""
    config = Config(
        vision=VisionConfig(hidden_size=128, intermediate_size=160, out_hidden_size=224),
        vocab_size=600,
        hidden_size=224,
        intermediate_size=192,
        mrope_section=(1, 1, 2),
        bos_token_id=None,
        eos_token_id=None,
        vision_start_token_id=START,
        vision_end_token_id=END,
        image_token_id=IMAGE,
        video_token_id=VIDEO,
    )
    return dataclasses.replace(config, **changes)


def random_oracle(config: Config, seed: int = 0) -> Qwen2_5_VLForConditionalGeneration:
    """transformers' model with weights under which every part matters: biases, norms, attention far from uniform."""
    model = Qwen2_5_VLForConditionalGeneration._from_config(
        Qwen2_5_VLConfig.from_dict(config.to_hf()), attn_implementation="eager", dtype=torch.float32
    )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if name.endswith("bias"):
                parameter.copy_(0.1 * noise)
            elif parameter.ndim == 1:
                parameter.copy_(1 + 0.1 * noise)
            elif "embed_tokens" in name:
                parameter.copy_(0.3 * noise)
            else:
                parameter.copy_(noise * parameter[0].numel() ** -0.5)
    return model.eval()


@dataclasses.dataclass
class Row:
    tokens: np.ndarray
    media: list[Media]


def make_row(items: list, seed: int) -> Row:
    """A sequence of texts (an int: so many random tokens), images (h, w) and videos (t, h, w), sizes in patches."""
    random = np.random.default_rng(seed)
    tokens, media = [], []
    for item in items:
        if isinstance(item, int):
            tokens += random.integers(0, START, item).tolist()
            continue
        kind = "image" if len(item) == 2 else "video"
        grid = (1, *item) if kind == "image" else tuple(item)
        pixels = random.integers(0, 256, (int(np.prod(grid)), 3, 1 if kind == "image" else 2, 196), np.uint8)
        media.append(Media(kind, pixels, grid, (14 * grid[2], 14 * grid[1]), LEVELS, second_per_grid=1.0))
        tokens += [START, *[IMAGE if kind == "image" else VIDEO] * media[-1].tokens, END]
    return Row(np.array(tokens, np.int32), media)


def positions_of(row: Row, rule: str = "released") -> tuple[np.ndarray, int]:
    """M-RoPE positions of a sequence, int32 [3, n], and of the token that follows it."""
    return mrope_positions(row.tokens, row.media, (IMAGE, VIDEO), Geometry(), rule=rule)


def our_batch(
    rows: list[Row],
    length: int,
    row_patches: int | None = None,
    vision_rows: int | None = None,
    rule: str = "released",
) -> dict:
    """The arrays our model takes, right padded to `length`."""
    batch = {
        "tokens": np.zeros((len(rows), length), np.int32),
        "positions": np.zeros((3, len(rows), length), np.int32),
        "segment_ids": np.zeros((len(rows), length), np.int32),
        "vision_index": np.full((len(rows), length), -1, np.int32),
    }
    batch["vision"], places = vision_layout(
        [item for row in rows for item in row.media], Geometry(), row_patches, vision_rows
    )
    places = iter(places)
    for i, row in enumerate(rows):
        n = len(row.tokens)
        batch["tokens"][i, :n] = row.tokens
        batch["segment_ids"][i, :n] = 1
        batch["positions"][:, i, :n], _ = positions_of(row, rule)
        if row.media:
            batch["vision_index"][i, :n][np.isin(row.tokens, (IMAGE, VIDEO))] = np.concatenate(
                [next(places) for _ in row.media]
            )
    return batch


def oracle_inputs(rows: list[Row], positions: bool = True) -> dict:
    """The same in the form that transformers' model takes; with our positions, or it computes them by its own rule."""
    length = max(len(row.tokens) for row in rows)
    tokens = np.zeros((len(rows), length), np.int64)
    mask = np.zeros_like(tokens)
    for i, row in enumerate(rows):
        tokens[i, : len(row.tokens)] = row.tokens
        mask[i, : len(row.tokens)] = 1
    inputs = {
        "input_ids": torch.tensor(tokens),
        "attention_mask": torch.tensor(mask),
        "mm_token_type_ids": torch.tensor((tokens == IMAGE) + 2 * (tokens == VIDEO)),
    }
    if positions:
        inputs["position_ids"] = torch.tensor(our_batch(rows, length)["positions"]).long()
    for kind, pixels, grids in (
        ("image", "pixel_values", "image_grid_thw"),
        ("video", "pixel_values_videos", "video_grid_thw"),
    ):
        media = [item for row in rows for item in row.media if item.kind == kind]
        if media:
            inputs[pixels] = torch.tensor(np.concatenate([item.patches for item in media]))
            inputs[grids] = torch.tensor([item.grid for item in media])
            if kind == "video":
                inputs["second_per_grid_ts"] = torch.tensor([item.second_per_grid for item in media])
    return inputs


def pages_of(starts, length: int, page: int, seed: int = 0) -> tuple[Pages, int]:
    """Where rows of `length` tokens lie, whose pages are in no order, and the number of pages."""
    rows = len(starts)
    table = np.random.default_rng(seed).permutation(rows * -(-length // page)).astype(np.int32).reshape(rows, -1)
    return Pages(np.asarray(starts, np.int32), table), table.size

"""M-RoPE positions against transformers' get_rope_index."""

from __future__ import annotations

import types

import numpy as np
import pytest
import torch
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLModel

from pixel_reasoner_jax.processing import Geometry, Media, mrope_positions

TEXT, IMAGE, VIDEO = 5, 8, 9


def oracle(tokens: np.ndarray, media: list[Media], tokens_per_second: int) -> tuple[np.ndarray, int]:
    """Positions and rotary delta; get_rope_index needs no weights, only two numbers of the configuration."""
    vision = types.SimpleNamespace(spatial_merge_size=2, tokens_per_second=tokens_per_second)
    model = types.SimpleNamespace(config=types.SimpleNamespace(vision_config=vision))
    model.get_vision_position_ids = types.MethodType(Qwen2_5_VLModel.get_vision_position_ids, model)
    grids = {kind: [item.grid for item in media if item.kind == kind] for kind in ("image", "video")}
    seconds = [item.second_per_grid for item in media if item.kind == "video"]
    positions, delta = Qwen2_5_VLModel.get_rope_index(
        model,
        torch.tensor(tokens)[None].long(),
        mm_token_type_ids=torch.tensor((tokens == IMAGE) + 2 * (tokens == VIDEO))[None].int(),
        image_grid_thw=torch.tensor(grids["image"]) if grids["image"] else None,
        video_grid_thw=torch.tensor(grids["video"]) if grids["video"] else None,
        second_per_grid_ts=torch.tensor(seconds) if seconds else None,
    )
    return positions[:, 0].numpy(), int(delta)


def random_layout(generator: np.random.Generator) -> tuple[list[np.ndarray], list[Media]]:
    """Text pieces and media in random order, each media between texts."""
    pieces, media = [np.full(generator.integers(1, 9), TEXT)], []
    for _ in range(generator.integers(0, 5)):
        kind = generator.choice(["image", "video"])
        grid = (1 if kind == "image" else int(generator.integers(1, 7)), *(2 * generator.integers(1, 9, 2)).tolist())
        second = float(generator.choice([0.3, 0.5, 1.0, 1.7, 4.25, generator.uniform(0.01, 20)]))
        pixels = np.zeros((int(np.prod(grid)), 3, 1, 1), np.uint8)
        item = Media(kind, pixels, grid, (0, 0), np.zeros((3, 256), np.float32), second_per_grid=second)
        media.append(item)
        pieces.append(np.full(item.tokens, IMAGE if kind == "image" else VIDEO))
        pieces.append(np.full(generator.integers(1, 30), TEXT))
    return pieces, media


@pytest.mark.parametrize("tokens_per_second", [1, 2, 25])
def test_positions_and_deltas_equal_transformers(tokens_per_second):
    generator = np.random.default_rng(tokens_per_second)
    geometry = Geometry(tokens_per_second=tokens_per_second)
    for _ in range(100):
        pieces, media = random_layout(generator)
        tokens = np.concatenate(pieces)
        positions, following = mrope_positions(tokens, media, (IMAGE, VIDEO), geometry)
        expected, delta = oracle(tokens, media, tokens_per_second)
        np.testing.assert_array_equal(positions, expected)
        assert positions.max() + 1 - len(tokens) == delta
        assert following == positions[0, -1] + 1  # every layout ends with text

        # Piece by piece, as a rollout extends it, gives the same.
        start, parts, remaining = 0, [], iter(media)
        for piece in pieces:
            items = [next(remaining)] if piece[0] != TEXT else []
            part, start = mrope_positions(piece, items, (IMAGE, VIDEO), geometry, start)
            parts.append(part)
        np.testing.assert_array_equal(np.concatenate(parts, axis=1), positions)
        assert start == following


def test_placeholders_must_be_those_of_the_media():
    pixels = np.zeros((16, 3, 1, 1), np.uint8)
    image = Media("image", pixels, (1, 4, 4), (0, 0), np.zeros((3, 256), np.float32))
    geometry = Geometry()
    with pytest.raises(ValueError, match="3 placeholder tokens for 1 images and videos of 4"):
        mrope_positions(np.array([TEXT, IMAGE, IMAGE, IMAGE]), [image], (IMAGE, VIDEO), geometry)
    with pytest.raises(ValueError, match="interrupted"):
        mrope_positions(np.array([IMAGE, IMAGE, TEXT, IMAGE, IMAGE]), [image], (IMAGE, VIDEO), geometry)
    empty, following = mrope_positions(np.empty(0, np.int32), [], (IMAGE, VIDEO), geometry, 7)
    assert empty.shape == (3, 0)
    assert following == 7

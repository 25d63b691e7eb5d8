"""M-RoPE positions: hand-worked layouts, the rule stated independently, and transformers' get_rope_index."""

from __future__ import annotations

import itertools
import json
import pathlib
import types

import numpy as np
import pytest
import torch
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLModel

from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.processing import Geometry, Media, mrope_positions

TEXT, IMAGE, VIDEO = 5, 8, 9
CASES = json.loads((pathlib.Path(__file__).parent / "positions.json").read_text())["cases"]
"""Layouts worked by the released rule: pieces with their first position, and those of their axes."""


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


def medium(kind: str, grid: tuple[int, int, int], second_per_grid: float = 0.0) -> Media:
    pixels = np.zeros((int(np.prod(grid)), 3, 1, 1), np.uint8)
    return Media(kind, pixels, grid, (0, 0), np.zeros((3, 256), np.float32), second_per_grid=second_per_grid)


def random_layout(generator: np.random.Generator, slow: bool = True) -> tuple[list[np.ndarray], list[Media]]:
    """Text pieces and media in random order, each media between texts; no time exceeds the sides unless `slow`."""
    pieces, media = [np.full(generator.integers(1, 9), TEXT)], []
    for _ in range(generator.integers(0, 5)):
        kind = generator.choice(["image", "video"])
        grid = (1 if kind == "image" else int(generator.integers(1, 7)), *(2 * generator.integers(1, 9, 2)).tolist())
        second = float(generator.choice([0.3, 0.5, 1.0, 1.7, 4.25, generator.uniform(0.01, 20)]))
        if not slow:
            second = generator.uniform(0, max(grid[1:]) / 2 / grid[0] / 25)  # 25 tokens a second at most
        item = medium(kind, grid, second)
        media.append(item)
        pieces.append(np.full(item.tokens, IMAGE if kind == "image" else VIDEO))
        pieces.append(np.full(generator.integers(1, 30), TEXT))
    return pieces, media


def token_by_token(pieces: list[np.ndarray], media: list[Media], tokens_per_second: int) -> tuple[list, int]:
    """The released rule, one token at a time: a piece begins after the largest number that was given out so far."""
    given, remaining = [], iter(media)
    for piece in pieces:
        start = 1 + max(itertools.chain([-1], *given))
        if piece[0] == TEXT:
            given += [(start + offset,) * 3 for offset in range(len(piece))]
            continue
        item = next(remaining)
        tick = tokens_per_second * item.second_per_grid if item.kind == "video" else 1
        frames, rows, columns = item.grid[0], item.grid[1] // 2, item.grid[2] // 2
        for frame, row, column in itertools.product(range(frames), range(rows), range(columns)):
            given.append((start + int(np.float32(frame) * np.float32(tick)), start + row, start + column))
    return given, 1 + max(itertools.chain([-1], *given))


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(piece["kind"] for piece in case["pieces"]))
def test_hand_worked_layouts(case):
    tokens, media, expected = [], [], []
    for piece in case["pieces"]:
        if piece["kind"] == "text":
            tokens += [TEXT] * piece["tokens"]
            assert piece["last"] - piece["first"] + 1 == piece["tokens"]
            expected.append(np.tile(np.arange(piece["first"], piece["last"] + 1), (3, 1)))
            continue
        media.append(medium(piece["kind"], tuple(piece["grid"]), piece.get("second_per_grid", 0.0)))
        tokens += [IMAGE if piece["kind"] == "image" else VIDEO] * media[-1].tokens
        sides = (np.arange(piece["first"], piece[last] + 1) for last in ("last_row", "last_column"))
        expected.append(np.stack(np.meshgrid(piece["times"], *sides, indexing="ij")).reshape(3, -1))
    positions, following = mrope_positions(np.array(tokens), media, (IMAGE, VIDEO), Geometry())
    np.testing.assert_array_equal(positions, np.concatenate(expected, axis=1))
    assert following == case["next"]


def in_pieces(pieces: list[np.ndarray], media: list[Media], geometry: Geometry, rule: str) -> tuple[np.ndarray, int]:
    """Positions piece by piece, as a rollout extends a conversation."""
    start, parts, remaining = 0, [], iter(media)
    for piece in pieces:
        items = [next(remaining)] if piece[0] != TEXT else []
        part, start = mrope_positions(piece, items, (IMAGE, VIDEO), geometry, start, rule)
        parts.append(part)
    return np.concatenate(parts, axis=1), start


@pytest.mark.parametrize("tokens_per_second", [1, 2, 25])
def test_what_follows_a_medium_begins_after_the_largest_position(tokens_per_second):
    generator = np.random.default_rng(10 + tokens_per_second)
    geometry = Geometry(tokens_per_second=tokens_per_second)
    for _ in range(30):
        pieces, media = random_layout(generator)
        positions, following = mrope_positions(np.concatenate(pieces), media, (IMAGE, VIDEO), geometry)
        expected, then = token_by_token(pieces, media, tokens_per_second)
        np.testing.assert_array_equal(positions, np.array(expected).T)
        assert following == then == positions.max() + 1
        again, start = in_pieces(pieces, media, geometry, "released")
        np.testing.assert_array_equal(again, positions)
        assert start == following


@pytest.mark.parametrize("rule", ["released", "transformers"])
@pytest.mark.parametrize("tokens_per_second", [1, 2, 25])
def test_positions_and_deltas_equal_transformers(tokens_per_second, rule):
    """By its own rule anywhere, by the released one where no video is longer in time than its sides."""
    generator = np.random.default_rng(tokens_per_second)
    geometry = Geometry(tokens_per_second=tokens_per_second)
    for _ in range(100):
        pieces, media = random_layout(generator, slow=rule == "transformers")
        tokens = np.concatenate(pieces)
        positions, following = mrope_positions(tokens, media, (IMAGE, VIDEO), geometry, rule=rule)
        expected, delta = oracle(tokens, media, tokens_per_second)
        np.testing.assert_array_equal(positions, expected)
        assert positions.max() + 1 - len(tokens) == delta
        assert following == positions[0, -1] + 1  # every layout ends with text
        again, start = in_pieces(pieces, media, geometry, rule)
        np.testing.assert_array_equal(again, positions)
        assert start == following


def test_the_rules_differ_after_a_long_video():
    tokens, media = np.array([TEXT] * 15 + [VIDEO] * 2016 + [TEXT]), [medium("video", (8, 24, 42), 7.5)]
    after = {}
    for rule in ("released", "transformers"):
        positions, following = mrope_positions(tokens, media, (IMAGE, VIDEO), Geometry(), rule=rule)
        after[rule] = int(positions[0, -1])
        assert following == after[rule] + 1
    assert after == {"released": 121, "transformers": 36}
    with pytest.raises(UserError, match="position rule 'other'.*'released', 'transformers'"):
        mrope_positions(tokens, media, (IMAGE, VIDEO), Geometry(), rule="other")


def test_placeholders_must_be_those_of_the_media():
    image, geometry = medium("image", (1, 4, 4)), Geometry()
    with pytest.raises(ValueError, match="3 placeholder tokens for 1 images and videos of 4"):
        mrope_positions(np.array([TEXT, IMAGE, IMAGE, IMAGE]), [image], (IMAGE, VIDEO), geometry)
    with pytest.raises(ValueError, match="interrupted"):
        mrope_positions(np.array([IMAGE, IMAGE, TEXT, IMAGE, IMAGE]), [image], (IMAGE, VIDEO), geometry)
    empty, following = mrope_positions(np.empty(0, np.int32), [], (IMAGE, VIDEO), geometry, 7)
    assert empty.shape == (3, 0)
    assert following == 7

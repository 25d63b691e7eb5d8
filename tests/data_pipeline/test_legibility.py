"""A small convolutional network reads the digits on crops, and cannot read them at the resolution the model sees."""

import numpy as np
import pytest
import torch
from PIL import Image

from data_pipeline.sources.pixel_search import CELL, COLORS, DIGITS, GREY, GRID, OFFSETS, VIEW, draw

EXAMPLES = 5000
TESTED = 1000


def reader(size: int) -> torch.nn.Sequential:
    """Three convolutions, the first of which brings a cell or a crop to 28x28, and a hidden layer."""
    layers = []
    for channels, out, stride in ((3, 16, size // 28), (16, 24, 2), (24, 24, 2)):
        layers += [torch.nn.ZeroPad2d((1, 2, 1, 2)), torch.nn.Conv2d(channels, out, 4, stride), torch.nn.ReLU()]
    hidden = torch.nn.Linear(24 * 7 * 7, 64)
    return torch.nn.Sequential(*layers, torch.nn.Flatten(), hidden, torch.nn.ReLU(), torch.nn.Linear(64, DIGITS))


def accuracy(pixels: np.ndarray, digits: np.ndarray, steps: int, batch: int = 64, tested: int = TESTED) -> float:
    """Trains a reader on all but the last `tested` examples and tests it on those."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = reader(pixels.shape[1])
    inputs, labels = torch.from_numpy(pixels).movedim(-1, 1), torch.from_numpy(digits)
    normalized = lambda rows: inputs[rows].float() / 64 - 2  # noqa: E731
    optimizer = torch.optim.Adam(network.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    rng = np.random.default_rng(0)
    for _ in range(steps):
        rows = torch.from_numpy(rng.integers(len(pixels) - tested, size=batch))
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(normalized(rows)), labels[rows]).backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        found = network(normalized(slice(-tested, None))).argmax(-1)
    return float((found == labels[-tested:]).float().mean())


def reduced(image: Image.Image) -> np.ndarray:
    """As the processor reduces it."""
    return np.asarray(image.convert("RGB").resize((VIEW, VIEW), Image.Resampling.BICUBIC))


def split(canvas: np.ndarray) -> list[np.ndarray]:
    """The cells of a canvas, row by row."""
    size = len(canvas) // GRID
    return [
        canvas[y : y + size, x : x + size] for y in range(0, GRID * size, size) for x in range(0, GRID * size, size)
    ]


def plain(canvas: Image.Image) -> Image.Image:
    """The same canvas with its digits in a plain, darker shade: what averaging does not remove."""
    palette = np.array(canvas.getpalette(), np.uint8).reshape(-1, 3)
    palette[3::3] = palette[2::3]
    solid = canvas.copy()
    solid.putpalette(palette.tobytes())
    return solid


@pytest.fixture(scope="module")
def examples():
    """5,000 cells as the model sees them, fewer of them with plain digits and as crops; and their digits."""
    rng = np.random.default_rng(0)
    views, solids, crops, digits = [], [], [], []
    while len(views) < EXAMPLES:
        labels = rng.integers(DIGITS, size=GRID * GRID)
        corners = np.stack(np.divmod(np.arange(GRID * GRID), GRID)[::-1], -1) * CELL + rng.choice(OFFSETS, (GRID**2, 2))
        colors = [(*COLORS.values(), GREY)[index] for index in rng.integers(7, size=GRID * GRID)]
        boxes = [(int(x), int(y), c, int(d)) for (x, y), c, d in zip(corners, colors, labels, strict=True)]
        canvas = draw(boxes, int(rng.integers(224, 256)))
        digits += labels.tolist()
        views += split(reduced(canvas))
        if len(solids) < 2000:
            solids += split(reduced(plain(canvas)))
            crops += [reduced(Image.fromarray(cell)) for cell in split(np.asarray(canvas.convert("RGB")))]
    return np.stack(views), np.stack(solids), np.stack(crops), np.array(digits)


def test_digits_cannot_be_read_at_the_models_resolution(examples):
    views, _, _, digits = examples
    assert accuracy(views, digits, steps=200) <= 1 / DIGITS + 0.05


def test_plain_digits_could_be_read_at_the_models_resolution(examples):
    """The network is able enough: it reads what is only small."""
    _, solids, _, digits = examples
    assert accuracy(solids, digits[: len(solids)], steps=60, tested=400) > 0.95


def test_digits_can_be_read_on_crops(examples):
    _, _, crops, digits = examples
    assert accuracy(crops, digits[: len(crops)], steps=60, tested=400) > 0.95

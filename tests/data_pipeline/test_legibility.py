"""A small convolutional network reads the digits on crops, and cannot read them at the resolution the model sees."""

import flax.nnx as nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image

from data_pipeline.sources.pixel_search import CELL, COLORS, DIGITS, GREY, GRID, OFFSETS, VIEW, draw

EXAMPLES = 5000
TESTED = 1000


class Reader(nnx.Module):
    """Three convolutions, the first of which brings a cell or a crop to 28x28, and a hidden layer."""

    def __init__(self, size: int, rngs: nnx.Rngs):
        layers = ((3, 16, size // 28), (16, 24, 2), (24, 24, 2))
        self.convolutions = nnx.List([nnx.Conv(i, o, (4, 4), strides=s, rngs=rngs) for i, o, s in layers])
        self.hidden = nnx.Linear(24 * 7 * 7, 64, rngs=rngs)
        self.out = nnx.Linear(64, DIGITS, rngs=rngs)

    def __call__(self, pixels):
        x = pixels.astype(jnp.float32) / 64 - 2
        for convolution in self.convolutions:
            x = nnx.relu(convolution(x))
        return self.out(nnx.relu(self.hidden(x.reshape(len(x), -1))))


def accuracy(pixels: np.ndarray, digits: np.ndarray, steps: int, batch: int = 64, tested: int = TESTED) -> float:
    """Trains a reader on all but the last `tested` examples and tests it on those."""
    graph, params = nnx.split(Reader(pixels.shape[1], nnx.Rngs(0)))
    optimizer = optax.adam(optax.cosine_decay_schedule(2e-3, steps))
    train, labels = jnp.asarray(pixels[:-tested]), jnp.asarray(digits[:-tested])

    def loss(params, rows):
        logits = nnx.merge(graph, params)(train[rows])
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels[rows]).mean()

    @jax.jit
    def step(params, state, rows):
        gradients = jax.grad(loss)(params, rows)
        updates, state = optimizer.update(gradients, state)
        return optax.apply_updates(params, updates), state

    rng, state = np.random.default_rng(0), optimizer.init(params)
    for _ in range(steps):
        params, state = step(params, state, rng.integers(len(train), size=batch))
    predict = jax.jit(lambda pixels: nnx.merge(graph, params)(pixels).argmax(-1))
    return float(np.mean(np.asarray(predict(jnp.asarray(pixels[-tested:]))) == digits[-tested:]))


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
    assert accuracy(views, digits, steps=100) <= 1 / DIGITS + 0.05


def test_plain_digits_could_be_read_at_the_models_resolution(examples):
    """The network is able enough: it reads what is only small."""
    _, solids, _, digits = examples
    assert accuracy(solids, digits[: len(solids)], steps=60, tested=400) > 0.95


def test_digits_can_be_read_on_crops(examples):
    _, _, crops, digits = examples
    assert accuracy(crops, digits[: len(crops)], steps=60, tested=400) > 0.95

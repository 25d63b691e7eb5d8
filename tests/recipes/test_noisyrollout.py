"""NoisyRollout: its diffusion, and a run whose noisy responses see noise."""

import numpy as np
import pytest
from PIL import Image

from pixel_reasoner_jax.packaged_configs import config_module
from tests.recipes.scripted import Run

RECIPE = "recipes/noisyrollout"
NOISY = config_module(RECIPE)


def test_diffusion_keeps_the_image_s_variance_by_its_steps():
    image = Image.new("RGB", (200, 200), (255, 128, 0))
    assert (np.array(NOISY.diffuse(image, 0, np.random.default_rng(0))) == np.array(image)).all()
    assert (np.diff(NOISY.KEPT) < 0).all() and NOISY.KEPT[0] > 0.999 and 0.05 < NOISY.KEPT[-1] < 0.1
    grey = Image.new("RGB", (300, 300), (128, 128, 128))
    levels = np.array(NOISY.diffuse(grey, 300, np.random.default_rng(0)), float) / 127.5 - 1
    assert abs(levels.std() - np.sqrt(1 - NOISY.KEPT[299])) < 0.01


def test_noise_fades_after_two_thirds():
    assert NOISY.fading(0.0, 500.0, 30.0) == pytest.approx(500, abs=1e-5)
    assert NOISY.fading(2 / 3, 500.0, 30.0) == 250 and NOISY.fading(1.0, 500.0, 30.0) < 0.03


def script(episode):
    return f"\\boxed{{{episode.prompt.query['answer'] if episode.sample % 3 else 'none'}}}"


RUN = Run(script, varied=("correct",))

"""Five episodes of every recipe, with real updates of a small model, on data that have what the recipe needs."""

import importlib

import pytest

from pixel_reasoner_jax.config import config_names
from tests.recipes.scripted import check_run
from tests.training.conftest import start  # noqa: F401

RECIPES = [name for name in config_names("rl") if name.startswith("recipes/")]


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_five_episodes(recipe, start, tmp_path, monkeypatch):  # noqa: F811
    module = importlib.import_module(f"tests.recipes.test_{recipe.rpartition('/')[2]}")
    check_run(recipe, module.RUN, start, tmp_path, monkeypatch)

"""Five episodes of every recipe, with real updates of a small model, on data that have what the recipe needs."""

import importlib

import pytest

from pixel_reasoner_jax.config import config_names, load_config
from pixel_reasoner_jax.packaged_configs import CONFIGS
from pixel_reasoner_jax.training.rl_settings import check_settings
from tests.conftest import REPOSITORY
from tests.recipes.scripted import check_run
from tests.training.conftest import start  # noqa: F401

RECIPES = [name for name in config_names("rl") if name.startswith("recipes/")]


def test_the_document_has_every_recipe():
    table = (REPOSITORY / "docs" / "recipes.md").read_text(encoding="utf-8")
    assert [name for name in RECIPES if f"| `{name}` |" not in table] == []


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_is_short_and_says_what_it_is(recipe):
    text = (CONFIGS / f"{recipe}.py").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    assert all(word in text.split('"""')[1] for word in ("Evidence:", "Data: ", "ublished")), recipe


def test_every_recipe_names_parts_that_there_are():
    for recipe in RECIPES:
        check_settings(load_config(recipe, reference="rl_qwen2_5_vl_7b"))


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_five_episodes(recipe, start, tmp_path, monkeypatch):  # noqa: F811
    module = importlib.import_module(f"tests.recipes.test_{recipe.rpartition('/')[2]}")
    check_run(recipe, module.RUN, start, tmp_path, monkeypatch)

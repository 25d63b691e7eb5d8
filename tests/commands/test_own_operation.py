"""The operation of docs/operations.md, which is no part of the program: who may have it imported, and what it does."""

from __future__ import annotations

import json
import re
import sys

import numpy as np
import pytest
from PIL import Image, ImageOps

from pixel_reasoner_jax.commands import cli
from pixel_reasoner_jax.commands.quickstart import make_initial_model
from pixel_reasoner_jax.config import load_config
from pixel_reasoner_jax.config_values import OPERATIONS, SYNTAXES
from pixel_reasoner_jax.models import Config
from pixel_reasoner_jax.operations import Call, MediaState, allow_own, make_registry
from pixel_reasoner_jax.operations.known import _allowed
from pixel_reasoner_jax.rollout.settings import PolicySettings
from tests.conftest import REPOSITORY

DOCUMENT = (REPOSITORY / "docs" / "operations.md").read_text(encoding="utf-8")
OWN = "my_tools:RaiseContrast"


@pytest.fixture
def example(tmp_path, monkeypatch) -> str:
    """The module of the document, in the folder where commands are started."""
    [source] = re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)
    (tmp_path / "my_tools.py").write_text(source, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_tools", raising=False)
    yield source
    _allowed.discard(OWN)
    sys.modules.pop("my_tools", None)


def test_the_document_lists_all_operations_and_syntaxes():
    tables = "\n".join(line for line in DOCUMENT.splitlines() if line.startswith("|"))
    assert all(f"`{name}`" in tables for name in (*OPERATIONS, *SYNTAXES))


def test_an_operation_of_one_s_own(example):
    assert len(example.splitlines()) <= 40
    allow_own([OWN])
    for syntax in ("tool_call", "action"):
        registry = make_registry(("crop_image_normalized", OWN), syntax)
        image = Image.fromarray(np.arange(60, 160, dtype=np.uint8).repeat(30).reshape(100, 30).T.repeat(3, 1))
        state = MediaState.from_query([image.convert("RGB")])
        call = registry.parse(registry.write(Call("raise_contrast", {"target_image": 1})))
        [changed] = registry.execute(call, state).images
        np.testing.assert_array_equal(np.asarray(changed), np.asarray(ImageOps.autocontrast(image.convert("RGB"))))
        assert "raise_contrast" in registry.tools_section(state)


def write_model(folder) -> None:
    """A model that was trained with an operation that is no part of the program."""
    make_initial_model(load_config("quickstart"), folder)
    PolicySettings(operations=("crop_image_normalized", OWN)).save(folder)


def test_a_command_that_does_not_name_it_imports_nothing(example, tmp_path, capsys):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps(Config.preset("tiny").to_hf()))
    PolicySettings(operations=(OWN,)).save(tmp_path / "model")
    asked = ["generate", "--model", "model", "--image", str(picture(tmp_path)), "--question", "What is it?"]
    assert cli.main(asked) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert f"give --own {OWN}" in said and "my_tools" not in sys.modules


@pytest.mark.slow
def test_a_model_that_has_it_answers_on_the_command_line(example, tmp_path, capsys):
    write_model(tmp_path / "model")
    asked = ["generate", "--model", "model", "--image", str(picture(tmp_path)), "--question", "What is it?"]
    cli.main([*asked, "--max-tokens", "8", "--out", "out.json", "--own", OWN])
    [answer] = json.loads((tmp_path / "out.json").read_text())["trajectories"]
    assert "Raise the contrast of a faint image." in answer["messages"][0]["content"][0]["text"]


def picture(folder):
    Image.new("RGB", (100, 80), "orange").save(folder / "picture.png")
    return folder / "picture.png"

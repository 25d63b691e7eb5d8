"""The operation and the syntax of docs/extending.md, no parts of the program: who has them imported, what they do."""

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
from pixel_reasoner_jax.operations import Call, MediaState, OperationError, allow_own, make_registry
from pixel_reasoner_jax.operations.known import _allowed
from pixel_reasoner_jax.rollout.settings import PolicySettings
from tests.conftest import REPOSITORY

OWN, SYNTAX = "my_tools:RaiseContrast", "my_syntax:AtLines"


@pytest.fixture
def example(tmp_path, monkeypatch) -> list[str]:
    """The modules of the document, in the folder where commands are started."""
    document = (REPOSITORY / "docs" / "extending.md").read_text(encoding="utf-8")
    sources = [one for one in modules_of(document) if one[0] in ("my_tools", "my_syntax")]
    assert len(sources) == 2
    for name, source in sources:
        (tmp_path / f"{name}.py").write_text(source, encoding="utf-8")
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield [source for _, source in sources]
    for name, _ in sources:
        sys.modules.pop(name, None)
    _allowed.difference_update((OWN, SYNTAX))


def modules_of(document: str) -> list[tuple[str, str]]:
    """The names and texts of the modules that a document shows whole."""
    return re.findall(r"`(my_\w+)\.py`:\n\n```python\n(.*?)```", document, re.DOTALL)


def test_the_document_lists_all_operations_and_syntaxes():
    document = (REPOSITORY / "docs" / "operations.md").read_text(encoding="utf-8")
    tables = "\n".join(line for line in document.splitlines() if line.startswith("|"))
    assert all(f"`{name}`" in tables for name in (*OPERATIONS, *SYNTAXES))


def test_a_syntax_of_one_s_own(example):
    allow_own([SYNTAX])
    registry, call = make_registry(("rotate_image",), SYNTAX), Call("rotate_image", {"angle": 90, "target_image": 1})
    text = f"It lies on its side.\n{registry.write(call)}"
    assert registry.parse(text) == call and registry.parse("It is 4.") is None
    for body in ("", "[]", "{", "9" * 10_000, "[" * 5000):
        assert isinstance(registry.parse(f"@rotate_image {body}"), OperationError)
    assert "the last line of a turn" in registry.tools_section(MediaState.from_query())


def test_an_operation_of_one_s_own(example):
    assert all(len(source.splitlines()) <= 40 for source in example)
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
    PolicySettings(operations=("crop_image_normalized", OWN), syntax=SYNTAX).save(folder)


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
    cli.main([*asked, "--max-tokens", "8", "--out", "out.json", "--own", OWN, "--own", SYNTAX])
    [answer] = json.loads((tmp_path / "out.json").read_text())["trajectories"]
    told = answer["messages"][0]["content"][0]["text"]
    assert "Raise the contrast of a faint image." in told and "the last line of a turn: @NAME" in told


def picture(folder):
    Image.new("RGB", (100, 80), "orange").save(folder / "picture.png")
    return folder / "picture.png"

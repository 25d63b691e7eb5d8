"""A tokenizer's files: what is missing or damaged is said in one line."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.processing.tokenizer_files import read_tokenizer


@pytest.fixture
def folder(tiny_directory, tmp_path):
    shutil.copytree(tiny_directory, tmp_path / "model")
    return tmp_path / "model"


def refused(folder, message):
    with pytest.raises(UserError, match=message) as raised:
        read_tokenizer(folder)
    assert str(folder) in str(raised.value) and "\n" not in str(raised.value) and len(str(raised.value)) < 500


def damaged(content: bytes, seed: int) -> bytes:
    """Some bytes of it are others, or it is cut short."""
    random = np.random.default_rng(seed)
    if seed % 2:
        return content[: random.integers(len(content))]
    content = np.frombuffer(content, np.uint8).copy()
    content[random.integers(len(content), size=20)] = random.integers(256, size=20)
    return content.tobytes()


@pytest.mark.parametrize(
    "name, content",
    [
        *(("tokenizer.json", content) for content in ("", "{", "{}", "[1]", "null", '{"model": {"type": "What"}}')),
        *(
            ("tokenizer_config.json", content)
            for content in ("", "{", "[1]", '{"tokenizer_class": 3}', '{"a": "\\ud800"}')
        ),
    ],
)
def test_a_damaged_file_is_one_line(folder, name, content):
    (folder / name).write_text(content)
    refused(folder, "its tokenizer cannot be read .* get tokenizer.json and tokenizer_config.json of the model again")


@pytest.mark.parametrize("seed", range(6))
def test_damage_is_one_line_or_harmless(folder, seed):
    path = folder / "tokenizer.json"
    path.write_bytes(damaged(path.read_bytes(), seed))
    try:
        read_tokenizer(folder)
    except UserError as error:
        assert str(folder) in str(error) and "\n" not in str(error)


def test_a_folder_without_a_tokenizer_says_so(folder):
    (folder / "tokenizer.json").unlink()
    refused(folder, "has no tokenizer: neither tokenizer.json nor vocab.json and merges.txt")
    (folder / "vocab.json").write_text("{}")
    refused(folder, "has no tokenizer")


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_a_pointer_in_the_place_of_a_file_is_named(folder, name):
    (folder / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 11421896\n")
    refused(folder, f"{name} is a Git LFS pointer, .*git lfs pull")


def test_the_chat_template_beside_it_is_its_own(folder):
    """4.49 to 4.51 write chat_template.json, later ones chat_template.jinja, which transformers reads by itself."""
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config.pop("chat_template", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    assert read_tokenizer(folder).chat_template is None
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
    assert read_tokenizer(folder).chat_template == "{{ messages }}"
    (folder / "chat_template.jinja").write_text("{{ later }}")
    assert read_tokenizer(folder).chat_template == "{{ later }}"


def test_an_adapter_s_own_tokenizer_comes_first(folder, tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(folder)}))
    assert read_tokenizer(mine).get_vocab() == read_tokenizer(folder).get_vocab()
    tokenizer = read_tokenizer(folder)
    tokenizer.add_tokens(["<mine>"])
    tokenizer.save_pretrained(mine)
    assert "<mine>" in read_tokenizer(mine).get_vocab()

"""The site of the documents: pages made of the source, messages that are explained, and, slowly, the site itself."""

from __future__ import annotations

import ast
import functools
import importlib.util
import os
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest

from docs import reference_pages
from pixel_reasoner_jax.commands import cli
from pixel_reasoner_jax.config import config_names, leaves, load_config
from pixel_reasoner_jax.training.alarms import ALARMS
from tests.conftest import REPOSITORY

ANY = "…"  # stands for what differs in a message
REFERENCE = """
def get_config():
    config = ConfigDict()
    config.seed = 0  # of all

    # Of a section, see docs/rl.md.
    config.part = ConfigDict()
    config.part.first = "#"  # <one> of *them*
    # Of two, and
    # more.
    config.part.second = 1
    config.part.third = 2
    config.part.fourth = 3  # its own
    config.part.fifth = 4

    config.part.sixth = 5
    return config
"""


def test_settings_have_their_comments():
    found = {one.path: (one.says, one.with_above) for one in reference_pages.settings_of(REFERENCE)}
    assert found == {
        "seed": ("of all", False),
        "part": ("Of a section, see docs/rl.md.", False),
        "part.first": ("<one> of *them*", False),
        "part.second": ("Of two, and more.", False),
        "part.third": ("", True),
        "part.fourth": ("its own", False),
        "part.fifth": ("", False),
        "part.sixth": ("", False),
    }


def test_comments_are_no_markup():
    assert reference_pages.text("a_b <c> `d_e` x|y") == r"a\_b &lt;c\> `d_e` x\|y"
    assert reference_pages.text("see docs/learning_trap.md.") == "see [docs/learning_trap.md](../learning_trap.md)."


@pytest.mark.parametrize("command", reference_pages.REFERENCES)
def test_every_setting_is_listed_with_its_comment_and_value(command):
    page = reference_pages.config_page(command)
    name = reference_pages.REFERENCES[command]
    for path, value in leaves(load_config(name)):
        assert page.count(f"| `{path}` |") == 1, path
        assert f"| `{value!r}` |" in next(line for line in page.splitlines() if f"| `{path}` |" in line)
    source = (REPOSITORY / "configs" / f"{name}.py").read_text(encoding="utf-8").partition("def get_config")[2]
    for word in re.findall(r"# (\w+ \w+ \w+)", source):  # how each line of comments begins
        assert reference_pages.text(word) in page, word
    widths = {re.sub(r"\\\|", "", line).count("|") for line in page.splitlines() if line.startswith("|")}
    assert widths == {5}


def test_every_command_is_listed_with_its_options():
    page = reference_pages.commands_page()
    for name in cli.COMMANDS:
        section = page.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
        for action in cli.command_parser(name)._actions:
            for option in {*action.option_strings} - {"-h", "--help"}:
                assert re.search(rf"\| `(?:[^`]* )?{re.escape(option)}\b", section), (name, option)
    assert "%(" not in page


def test_the_python_interface_is_there_and_explained():
    for title, names in reference_pages.public_names().items():
        assert names, title
        for name in names:
            assert reference_pages._part(*name.rsplit(".", 1)).__doc__, name
    page = reference_pages.api_page()
    for name in ("Policy", "Processor", "Qwen2_5_VL", "rewards.shaped_reward", "operations.parse_call"):
        assert f"::: pixel_reasoner_jax.{name}\n" in page


def test_every_config_is_listed():
    page = reference_pages.configs_page()
    assert [f"## {name}" for name in config_names()] == re.findall(r"^## .*$", page, re.MULTILINE)


def test_readme_becomes_the_first_page():
    page = reference_pages.first_page("[a](docs/a.md#b) ![c](docs/c.png) [d](https://e.org) [f](configs/f.py) [g](#h)")
    assert page == "[a](a.md#b) ![c](c.png) [d](https://e.org) f [g](#h)"
    assert reference_pages.first_page("[a](examples/README.md#b)") == "[a](examples.md#b)"


def test_examples_are_a_page_among_the_documents():
    page = reference_pages.examples_page("[a](../docs/a.md#b) [c](photos.py) [d](#e)")
    assert page == "[a](a.md#b) c [d](#e)"
    assert reference_pages.among_documents("[a](../examples/README.md#b) [c](../launch/c.sh)") == "[a](examples.md#b) c"


def flat(node: ast.expr) -> str:
    """A text in the code, with `ANY` for what is filled in."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(flat(value) for value in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return flat(node.left) + flat(node.right)
    return ANY


@functools.cache
def texts() -> str:
    """All texts of the code, a line each, with `ANY` for what is filled in."""
    found = []
    for package in ("pixel_reasoner_jax", "data_pipeline"):
        for path in (REPOSITORY / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Constant | ast.JoinedStr | ast.BinOp):
                    found.append(re.sub(r"%(?:[srd]|\.\d+[fg])", ANY, flat(node)).replace("\n", " "))
    return "\n".join(found)


def is_said(message: str) -> bool:
    """Whether one text of the code has the pieces of a message between `ANY`, in their order."""
    pieces = [re.escape(piece.strip()) for piece in message.split(ANY) if piece.strip()]
    return re.search(rf"{'.*'.join(pieces)}", texts()) is not None


def explained() -> list[str]:
    """The messages that troubleshooting.md explains."""
    text = (REPOSITORY / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    cells = re.findall(r"^\| (`.*?`) \|", text, re.MULTILINE)
    return [message for cell in cells for message in re.findall(r"`([^`]+)`", cell)]


def test_messages_that_are_explained_are_said():
    messages = explained()
    assert len(messages) > 50 and len(set(messages)) == len(messages)
    assert [message for message in messages if not is_said(message)] == []
    assert all(len(message.replace(ANY, "").strip()) > 12 for message in messages)


@pytest.mark.parametrize("message", ["unknown kye config.…", "already holds a run: … choose no other directory"])
def test_a_message_that_nothing_says_is_found(message):
    assert not is_said(message)


def test_every_alarm_is_explained():
    quoted = [message for message in explained() if any(message in alarm.says for alarm in ALARMS.values())]
    for name, alarm in ALARMS.items():
        assert any(message in alarm.says for message in quoted), name


def test_the_picture_of_the_method_is_small_and_its_text_is_text():
    picture = REPOSITORY / "docs" / "method.svg"
    text = picture.read_text(encoding="utf-8")
    assert len(text.encode()) < 60_000
    assert text.count("<text") > 20 and "<image" not in text and not re.search(r"(?:href|url)[=(]\W?https?:", text)


class Loaded(HTMLParser):
    """What a page loads when it is shown."""

    def __init__(self):
        super().__init__()
        self.loads: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        if tag in ("script", "img", "iframe", "source", "video", "audio", "object", "embed"):
            self.loads += [given[key] for key in ("src", "data", "srcset") if given.get(key)]
        elif tag == "link" and given.get("rel") not in ("canonical", "next", "prev"):
            self.loads.append(given.get("href") or "")


@pytest.mark.slow
def test_the_site_is_built_and_loads_nothing_from_elsewhere(tmp_path):
    """Strictly: a link that leads nowhere ends it."""
    for module in ("mkdocs", "material", "mkdocstrings"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f'the site is not built: {module} is not installed, pip install ".[docs]"')
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "NO_MKDOCS_2_WARNING": "1", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    built = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=900)
    assert built.returncode == 0, built.stderr[-3000:]
    pages = sorted((tmp_path / "site").rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        parser = Loaded()
        parser.feed(page.read_text(encoding="utf-8"))
        assert parser.loads
        assert [one for one in parser.loads if re.match(r"(?:https?:)?//", one)] == [], page
    for sheet in (tmp_path / "site").rglob("*.css"):
        assert not re.search(r"(?:url\(|@import )\W?(?:https?:)?//", sheet.read_text(encoding="utf-8")), sheet

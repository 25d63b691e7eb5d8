"""Pages of the site that are made of the source: every setting, every command, the Python interface, the configs.

The source is the code itself: comments of the reference configs, the commands' parsers, the public names. `site_hooks`
hands the pages to MkDocs.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import importlib
import io
import re
import tokenize
from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from pixel_reasoner_jax.commands import cli
from pixel_reasoner_jax.config import _ends_in, _is_optional, config_names, leaves, load_config
from pixel_reasoner_jax.config_values import OPEN, RULES
from pixel_reasoner_jax.packaged_configs import config_files

REFERENCES = {"rl": "rl_qwen2_5_vl_7b", "sft": "sft_qwen2_5_vl_7b"}
"""By command, the config that documents every setting."""

API = {
    "The package": ("pixel_reasoner_jax", None),
    "Rewards": ("pixel_reasoner_jax.rewards", None),
    "Operations": ("pixel_reasoner_jax.operations", None),
    "Rollouts": ("pixel_reasoner_jax.rollout", None),
    "Configs": ("pixel_reasoner_jax.config", ("load_config", "variant", "config_names", "ConfigError")),
    "Errors": ("pixel_reasoner_jax.errors", ("UserError", "MissingFileError", "CheckpointError", "NoUpdateError")),
    "Evaluation": (
        "pixel_reasoner_jax.evaluation",
        ("benchmark_run.Asked", "benchmark_run.evaluate_benchmarks", "benchmarks.Benchmark", "benchmarks.Item"),
    ),
    "Trackers": ("pixel_reasoner_jax.trackers", ("Tracker",)),
    "Records": ("data_pipeline.records", ("write_records", "RecordWriter", "RecordShards", "RecordSource")),
    "Seeds": ("data_pipeline", ("seed.Seed", "sources.open_source", "sources.pixel_search.PixelSearch")),
}
"""By title, a package and its names; None: all that it names public and that are classes or functions."""


@dataclasses.dataclass
class Setting:
    """One line `config.KEY = VALUE` of a reference, or what follows from it.

    Attributes:
      path: the dotted key.
      says: the comment on it; "" if it has none of its own.
      with_above: it shares the comment above it with the settings before it.
      is_section: it only begins a section.
    """

    path: str
    says: str
    with_above: bool
    is_section: bool


def settings_of(source: str) -> list[Setting]:
    """What a reference config sets, in its order, with its comments.

    A comment at the end of a line is of this line. One on lines of its own is of the setting under it, and of those
    that follow without a comment of their own, up to an empty line.
    """
    comments: dict[int, tuple[str, bool]] = {}  # by line: the text, and whether it is alone there
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            is_alone = not token.line[: token.start[1]].strip()
            comments[token.start[0]] = (token.string.removeprefix("#").strip(), is_alone)
    lines = source.splitlines()
    function = next(node for node in ast.parse(source).body if getattr(node, "name", "") == "get_config")
    found: list[Setting] = []
    shared = False
    for node in function.body:
        if not isinstance(node, ast.Assign) or not isinstance(node.targets[0], ast.Attribute):
            continue
        above, line = [], node.lineno - 1
        while line in comments and comments[line][1]:
            above.insert(0, comments[line][0])
            line -= 1
        after, is_alone = comments.get(node.end_lineno, ("", True))
        says = " ".join(filter(None, [*above, "" if is_alone else after]))
        shared = bool(above) or (shared and not says and bool(lines[node.lineno - 2].strip()))
        is_section = ast.unparse(node.value) == "ConfigDict()"
        path = ast.unparse(node.targets[0]).removeprefix("config.")
        found.append(Setting(path, says, shared and not says, is_section))
        shared = shared and not is_section
    return found


def text(comment: str) -> str:
    """A comment as Markdown: nothing in it is markup but `code`, and the names of documents are links."""
    pieces = re.split(r"(docs/\w+\.md|`[^`|]+`)", comment)
    for number, piece in enumerate(pieces):
        if piece.startswith("docs/"):
            pieces[number] = f"[{piece}](../{piece.removeprefix('docs/')})"
        elif number % 2 == 0:
            pieces[number] = re.sub(r"([\\*_`\[\]|<>])", r"\\\1", piece.replace("&", "&amp;")).replace("\\<", "&lt;")
    return "".join(pieces)


def wanted(path: str) -> str:
    """What a value of a setting must be beyond its type; "" if any is."""
    keys = [key for key in RULES if _ends_in(path, key)]
    return f"must be {RULES[max(keys, key=len)][1]}" if keys else ""


def config_page(command: str) -> str:
    """Every setting of a command: type, value in the reference, comment, and what it must be."""
    name = REFERENCES[command]
    config = load_config(name)
    values = dict(leaves(config))
    sections: dict[str, list[Setting]] = {}
    for setting in settings_of(config_files()[name].read_text(encoding="utf-8")):
        top = setting.path.partition(".")[0]
        sections.setdefault(top if isinstance(config[top], ConfigDict) else "The run", []).append(setting)
    out = [
        f"# Settings of `{command}`",
        "",
        f"As `configs/{name}.py` has them, with its comments; the values are its own, and other configs change them.",
        f"Any is set on the command line too: `pixel-reasoner {command} --config {name} --config.KEY=VALUE`.",
    ]
    for section, settings in sections.items():
        out += ["", f"## {section}", ""]
        if settings[0].is_section and section not in OPEN:
            says = text(settings.pop(0).says)
            out += [says, ""] if says else []
        out += ["| `config.` | type | value | |", "|---|---|---|---|"]
        for setting in settings:
            out += _rows(setting, config, values)
    return "\n".join(out) + "\n"


def _rows(setting: Setting, config: ConfigDict, values: dict[str, Any]) -> Iterator[str]:
    """The lines of a table for a setting: itself, or all that it holds."""
    below = [path for path in values if path == setting.path or path.startswith(f"{setting.path}.")]
    says = "as above" if setting.with_above else text(setting.says)
    if setting.is_section:
        yield f"| `{setting.path}` | section | | {says} |"
        for key, value in OPEN.get(setting.path, {}).items():
            path = f"{setting.path}.LABEL.{key}"
            yield f"| `{path}` | {type(value).__name__} | `{value!r}` | {_limits(path)} |"
        return
    for number, path in enumerate(below):
        section, key = config, path
        while "." in key:
            first, _, key = key.partition(".")
            section = section[first]
        kind = section.get_type(key).__name__ + (" or None" if _is_optional(path) else "")
        about = "<br>".join(filter(None, [says if number == 0 else "as above", _limits(path)]))
        yield f"| `{path}` | {kind} | `{values[path]!r}` | {about} |"


def _limits(path: str) -> str:
    """What a value must be, set apart from the comment."""
    limits = wanted(path)
    return f"*{text(limits)}*" if limits else ""


def commands_page() -> str:
    """Every command with all that it takes."""
    out = ["# Commands", "", "As `pixel-reasoner COMMAND --help` says them.", ""]
    for name, command in cli.COMMANDS.items():
        out += [f"## {name}", "", text(f"{command.summary[0].upper()}{command.summary[1:]}."), ""]
        if command.reference or command.about_config:
            out += ["Every setting of its config can be overridden: `--config.KEY=VALUE`.", ""]
        for group in cli.command_parser(name)._action_groups:
            actions = [action for action in group._group_actions if not isinstance(action, argparse._HelpAction)]
            if not actions:
                continue
            title = group.title if group.title not in ("positional arguments", "options") else ""
            if title:
                about = f": {group.description}" if group.description else ""
                out += [text(f"{title[0].upper()}{title[1:]}{about}."), ""]
            out += ["| | |", "|---|---|", *map(_option, actions), ""]
    return "\n".join(out)


def _option(action: argparse.Action) -> str:
    """The line of an option in a table."""
    takes = "" if action.nargs == 0 else action.metavar or ("|".join(map(str, action.choices or ())))
    takes = takes or ("" if action.nargs == 0 or not action.option_strings else action.dest.upper())
    more = " …" if action.nargs in ("+", "*") else ""
    shown = f"{', '.join(action.option_strings)} {takes}{more}".strip()
    values = {**vars(action), "choices": ", ".join(map(str, action.choices or ()))}
    says = (action.help or "") % values
    needed = "needed; " if action.option_strings and action.required else ""
    return f"| `{shown.replace('|', ' or ')}` | {needed}{text(says)} |"


def api_page() -> str:
    """The Python interface, for mkdocstrings."""
    out = ["# Python", "", "Parts of your own, with what they are given: [extending.md](../extending.md).", ""]
    for title, names in public_names().items():
        out += [f"## {title}", "", *(line for name in names for line in (f"::: {name}", ""))]
    return "\n".join(out)


def public_names() -> dict[str, list[str]]:
    """The dotted names of the Python interface by the titles of their sections; none is there twice."""
    seen, found = set(), {}
    for title, (package, names) in API.items():
        module = importlib.import_module(package)
        found[title] = []
        for name in module.__all__ if names is None else names:
            part = _part(package, name)
            if callable(part) and id(part) not in seen:
                seen.add(id(part))
                found[title].append(f"{package}.{name}")
    return found


def _part(package: str, name: str) -> Any:
    modules, _, last = f"{package}.{name}".rpartition(".")
    return getattr(importlib.import_module(modules), last)


def configs_page() -> str:
    """What every packaged config says of itself."""
    out = ["# Configs", "", "Those that are installed with the package, by the names that `--config` takes.", ""]
    for name in config_names():
        says = ast.get_docstring(ast.parse(config_files()[name].read_text(encoding="utf-8"))) or ""
        first, _, rest = says.partition("\n\n")
        out += [f"## {name}", "", text(first), ""]
        out += [re.sub(r"\n(?=[A-Z][\w ]*: )", "  \n", text(rest)), ""]  # a line for each
    return "\n".join(out)


def first_page(readme: str) -> str:
    """README as a page among the documents: of its links, those to other files of the repository are text alone."""
    readme = readme.replace("](docs/", "](/").replace("](examples/README.md", "](/examples.md")
    return re.sub(r"\[([^\]]*)\]\((?![a-z]+:|[#/])[^)]*\)", r"\1", readme).replace("](/", "](")


def examples_page(page: str) -> str:
    """examples/README.md as a page among the documents."""
    return first_page(page.replace("](../docs/", "](docs/"))


def among_documents(page: str) -> str:
    """A document without links out of docs/: README is the first page, other files of the repository are text alone."""
    page = page.replace("](../README.md", "](index.md").replace("](../examples/README.md", "](examples.md")
    return re.sub(r"\[([^\]]*)\]\(\.\./(?!\w+\.md)[^)]*\)", r"\1", page)


PAGES = {
    "reference/settings_rl.md": lambda: config_page("rl"),
    "reference/settings_sft.md": lambda: config_page("sft"),
    "reference/commands.md": commands_page,
    "reference/python.md": api_page,
    "reference/configs.md": configs_page,
}
"""The pages by their place among the documents, and what makes each."""

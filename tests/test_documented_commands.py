"""The commands of the documents: the real parser reads them, their settings are found; nothing is run."""

from __future__ import annotations

import re
import shlex

import pytest

from pixel_reasoner_jax.commands import cli
from pixel_reasoner_jax.config import load_config
from pixel_reasoner_jax.packaged_configs import config_files
from tests.conftest import REPOSITORY
from tests.documents import DOCUMENTS, blocks, prose

PROGRAM = re.compile(r"^(?:\w+=\S+ )*(?:[\w./$]*/)?pixel-reasoner (.*)$")


def commands(document) -> list[str]:
    """What follows `pixel-reasoner` on the lines of code of a document, and in its text where options follow."""
    found = []
    for language, body in blocks(document):
        if language in ("", "bash", "sh"):
            for line in re.sub(r" *\\\n\s*", " ", body).splitlines():
                found += PROGRAM.findall(re.sub(r"\s+#\s.*$", "", line.strip()))
    for code in re.findall(r"`([^`]+)`", prose(document)):
        found += [text for text in PROGRAM.findall(" ".join(code.split())) if " " in text]
    return found


def arguments(text: str) -> list[str]:
    """The arguments of a command, with those that are shown as `[optional]`, and values in place of placeholders."""
    words = shlex.split(re.sub(r"\[(-[^\]]*)\]", r"\1", text))
    return [{"N": "1", "STEP": "1", "COMMAND": "generate"}.get(word, word) for word in words]


def check(text: str) -> None:
    """Parses a command, and loads its experiment with the settings that it overrides.

    Raises:
      AssertionError: the parser does not take it.
      ConfigError: a setting is none, or has a value that it cannot have.
    """
    words = arguments(text)
    try:
        _, args = cli.parse(words)
    except SystemExit as end:
        assert end.code == 0, text  # --help
        return
    command, overrides = cli.COMMANDS[args.command], cli._split_overrides(words)[1]
    if command.reference:
        load_config(args.config, overrides, command.reference)
    elif command.about_config:
        load_config(args.config, overrides, "rl_qwen2_5_vl_7b" if "rl" in args.config else "sft_qwen2_5_vl_7b")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_commands_are_taken(document, capsys):
    for text in commands(document):
        try:
            check(text)
        except AssertionError:
            raise AssertionError(f"{text}\n{capsys.readouterr().err}") from None


def test_the_documents_have_commands():
    found = {arguments(text)[0] for document in DOCUMENTS for text in commands(document)}
    assert found == cli.COMMANDS.keys() - {"quickstart"}


@pytest.mark.parametrize(
    "text", ["rl --confg rl_qwen2_5_vl_7b", "check", "train --config rl_qwen2_5_vl_7b", "serve --model DIR --port x"]
)
def test_a_wrong_command_is_found(text, capsys):
    with pytest.raises(AssertionError):
        check(text)
    assert capsys.readouterr().err


@pytest.mark.parametrize("override", ["grpo.clip=0.2", "grpo.clip_low=low", "rollout.samples=1"])
def test_a_wrong_setting_is_found(override):
    with pytest.raises(ValueError, match=r"config\."):
        check(f"rl --config rl_qwen2_5_vl_7b --config.{override}")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_settings_with_values_are_taken(document):
    """`--config.KEY=VALUE` wherever it stands alone, by one of the references at least."""
    for text in re.findall(r"`(--config\.[a-z][\w.]+=[^`]+)`", prose(document)):
        overrides = cli._split_overrides(arguments(text))[1]
        problems = []
        for reference in ("rl_qwen2_5_vl_7b", "sft_qwen2_5_vl_7b", "quickstart"):
            try:
                load_config(reference, overrides, reference)
            except ValueError as error:
                problems.append(str(error))
        assert len(problems) < 3, (text, problems)


def code(document) -> str:
    """The blocks of shell and the code in the text of a document."""
    shell = [body for language, body in blocks(document) if language in ("", "bash", "sh")]
    return "\n".join([*shell, *re.findall(r"`([^`]+)`", prose(document))])


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_modules_targets_and_scripts_are_there(document):
    """What `python -m`, `make` and `launch/` name."""
    text = code(document)
    targets = re.findall(r"^([\w-]+):", (REPOSITORY / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    ours = ("benchmarks", "data_pipeline", "experiments", "pixel_reasoner_jax")
    for name in re.findall(r"python -m ([\w.]+)", text):
        assert name.split(".")[0] not in ours or (REPOSITORY / f"{name.replace('.', '/')}.py").exists(), name
    assert set(re.findall(r"^make (\w[\w-]*)", text, re.MULTILINE)) <= set(targets)
    for name in re.findall(r"(?<![\w/])(?:launch|configs|examples|experiments|tests)/[\w/]+\.(?:sh|py)\b", text):
        assert (REPOSITORY / name).exists(), name


def started(document) -> list[tuple[str, str]]:
    """What `python -m` and `launch/` start on the lines of code of a document: the file, and what it is given."""
    found = []
    for line in re.sub(r" *\\\n\s*", " ", code(document)).splitlines():
        for module, script, rest in re.findall(r"^(?:\S*/)?(?:python3? -m ([\w.]+)|(launch/\w+\.sh))(.*)", line):
            if script or module.startswith(("benchmarks.", "data_pipeline.")):
                found.append((script or f"{module.replace('.', '/')}.py", re.sub(r"\s+#\s.*$", "", rest)))
    return found


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_what_modules_and_scripts_are_given_is_taken(document):
    """Their options by the text that reads them; what scripts give on to a command, by its parser."""
    for file, rest in started(document):
        own, command, given_on = re.match(r"(.*?)(?: (run|resume|evaluate) (.*))?$", rest).groups()
        text = (REPOSITORY / file).read_text(encoding="utf-8")
        options = re.findall(r"(?<!\S)\[?(--[a-z][\w-]*)(?![\w.-])", own)
        assert [option for option in options if option not in text] == [], (file, own)
        if command == "evaluate":
            check(f"evaluate {given_on}")
        elif command:
            name = "sft" if "sft_" in given_on.split()[0] else "rl"
            check(f"{name} --config {given_on}")


def test_commands_that_configs_name_are_taken():
    """In what they say of themselves."""
    named = []
    for name, file in config_files().items():
        for text in re.findall(
            r"^Command: (?:\w+=\S+ )*pixel-reasoner (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE
        ):
            check(re.sub(r", then$", "", text))
            assert name in text.replace(".py", "")
            named.append(name)
    assert len(named) >= len(config_files()) - 2  # one is begun by make, one by a module

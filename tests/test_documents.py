"""What the documents and the alarms name of settings, values and metrics is there, and is all."""

from __future__ import annotations

import re

import pytest

from pixel_reasoner_jax import config_values
from pixel_reasoner_jax.config import config_names, leaves, load_config
from pixel_reasoner_jax.training.alarms import ALARMS
from tests.conftest import REPOSITORY
from tests.documents import RL, cells, documented_metrics, undocumented
from tests.test_imports import FLOORS

SECTIONS_OF_RL = ("rewards", "curiosity", "grpo", "auxiliary", "replay")
FILES = (".md", ".json", ".jsonl", ".parquet", ".py")


def parts(*names: str) -> set[str]:
    """The dotted keys of configs, and those of their sections."""
    found = set()
    for name in names:
        for path, _ in leaves(load_config(name)):
            keys = path.split(".")
            found |= {".".join(keys[: count + 1]) for count in range(len(keys))}
    return found


SETTINGS = parts("rl_qwen2_5_vl_7b", "sft_qwen2_5_vl_7b")
SETTINGS |= {f"{section}.LABEL.{key}" for section, entry in config_values.OPEN.items() for key in entry}
SETTINGS |= {f"{section}.LABEL" for section in config_values.OPEN} | set(config_values.OPEN)
LAST = {path.rpartition(".")[2] for path in SETTINGS}


def settings_in(text: str) -> set[str]:
    """What looks like a setting in a text: a section of the references and keys, with dots between them."""
    sections = {path for path in SETTINGS if "." not in path and any(key.startswith(f"{path}.") for key in SETTINGS)}
    found = re.findall(rf"(?<![\w./-])(?:config\.)?((?:{'|'.join(sections)})(?:\.\w+)+)(?![\w/(-])", text)
    return {_plain(name) for name in found if not name.endswith(FILES)}


def _plain(name: str) -> str:
    """A setting's key without `config.`, with a label of ours in place of one's own."""
    name = re.sub(r"rewards\.terms\.(style|brief|LABEL)\b", "rewards.terms.bonus", name.removeprefix("config."))
    return re.sub(r"\b(passes|rollout\.subgroups|auxiliary\.terms)\.\w+", r"\1.LABEL", name)


@pytest.mark.parametrize(
    "name",
    [
        "docs/running.md",
        "docs/own_data.md",
        "docs/python.md",
        "docs/edge_cases.md",
        "docs/rl.md",
        "docs/checks.md",
        "docs/learning_trap.md",
        "docs/data.md",
        "docs/operations.md",
        "docs/extending.md",
        "docs/watching.md",
    ],
)
def test_settings_that_a_document_names_are_there(name):
    text = (REPOSITORY / name).read_text(encoding="utf-8")
    named = {name for name in settings_in(text) if not name.startswith("rewards.terms.Responses")}
    assert named and named <= SETTINGS, named - SETTINGS


@pytest.mark.parametrize("name", ["docs/rl.md", "docs/checks.md"])
def test_no_other_section_is_named(name):
    """Such as one that settings have left: here whatever has a dot is a setting, a file or a name in Python."""
    text = (REPOSITORY / name).read_text(encoding="utf-8")
    python = ("training.", "tokens.", "view.", "rewards.terms.Responses")
    for found in re.findall(r"`([a-z_]+(?:\.\w+)+)`", text):
        if not found.endswith(FILES) and not found.startswith(python):
            assert _plain(found) in SETTINGS, found


def test_settings_without_their_section_are_there():
    """`rate_floor` after `curiosity.alpha`, in the same cell."""
    for cell in cells("setting"):
        named = re.findall(r"`([\w.]+)`", cell)
        assert named, cell
        section = named[0].rpartition(".")[0]
        for name in named:
            assert _plain(name if "." in name else f"{section}.{name}") in SETTINGS, name


def test_every_setting_of_the_method_is_explained():
    text = RL.read_text(encoding="utf-8")
    keys = {
        path.rpartition(".")[2]
        for path, _ in leaves(load_config("rl_qwen2_5_vl_7b"))
        if path.startswith(SECTIONS_OF_RL)
    }
    missing = {key for key in keys if not re.search(rf"`(\w+\.)*{key}`", text)}
    assert not missing


def test_every_value_that_a_setting_names_is_explained():
    names = "CURIOSITY_VARIANTS REWARD_TERMS ADVANTAGES RESPONSE_MASKS RATES MULTIPLIERS REPLAY LOSSES AGGREGATIONS"
    names += " POLICIES CONTEXTS PAIRS CURVES"
    values = {
        value
        for name in f"{names} CORRECTIONS KL_ESTIMATORS ANSWER_RULES WEIGHTS".split()
        for value in getattr(config_values, name)
    }
    named = set(re.findall(r'`(?:[\w.]+ = )?"(\w+)"`', RL.read_text(encoding="utf-8")))
    assert named == values


@pytest.mark.parametrize("name", ALARMS)
def test_what_an_alarm_says_is_there(name):
    """Settings with their section, and words that can only be names: settings without it, and metrics."""
    said = f"{ALARMS[name].says}; {ALARMS[name].advice}"
    assert settings_in(said) <= SETTINGS
    words = {word for word in re.findall(r"(?<![\w.])[a-z]+(?:_[a-z]+)+\b", said)}
    assert not undocumented({*words, *ALARMS[name].metrics} - LAST)
    listed = (REPOSITORY / "docs" / "checks.md").read_text(encoding="utf-8")
    assert re.search(rf"^\|.*`{name}`.*\|", listed, re.MULTILINE)


def test_metrics_that_the_document_names_are_made():
    """Somewhere in the code that makes them, as a whole or as the beginning of a name."""
    folders = ("training", "evaluation", "rollout")
    code = "".join(
        path.read_text(encoding="utf-8")
        for folder in folders
        for path in (REPOSITORY / "pixel_reasoner_jax" / folder).glob("*.py")
    ) + (REPOSITORY / "pixel_reasoner_jax" / "metrics.py").read_text(encoding="utf-8")
    for name in documented_metrics():
        whole = re.search(rf'["`]{name}["`]|\b{name}=|f"{re.sub("[A-Z]+", "", name)}\{{', code)
        begins = any(f'f"{name[:count]}{{' in code for count in range(5, len(name)))
        assert whole or begins, name


def test_what_is_not_documented_is_found():
    assert undocumented({"rapr": 0, "reward_mine": 0, "errors_box": 0, "surprise": 0}) == {"surprise"}


def test_configs_name_settings_that_are_there():
    """In their comments."""
    for name in config_names("rl"):
        comments = re.findall(r"# (.*)", (REPOSITORY / "configs" / f"{name}.py").read_text(encoding="utf-8"))
        assert settings_in(" ".join(comments)) <= SETTINGS


def test_every_room_is_in_the_layout_in_the_order_of_imports():
    text = (REPOSITORY / "docs" / "concepts.md").read_text(encoding="utf-8")
    layout = re.findall(r"^\| `pixel_reasoner_jax/(\w+)` \|", text, re.MULTILINE)
    rooms = [path.parent.name for path in (REPOSITORY / "pixel_reasoner_jax").glob("*/__init__.py")]
    assert sorted(layout) == sorted(rooms)
    floor = {name.rpartition(".")[2]: number for number, names in enumerate(FLOORS) for name in names}
    assert [floor[room] for room in layout] == sorted(floor[room] for room in layout)

"""The Python of the documents is run: the blocks of a document one after the other, as a reader would, in miniature."""

from __future__ import annotations

import ast
import builtins
import itertools
import pathlib
import re
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

import pixel_reasoner_jax as pr
from data_pipeline.records import RecordSource
from pixel_reasoner_jax.commands import cli
from pixel_reasoner_jax.config import load_config
from pixel_reasoner_jax.metrics import read_metrics
from pixel_reasoner_jax.training.rl_settings import check_settings
from tests.commands.test_own_operation import modules_of
from tests.documents import DOCUMENTS, RL, blocks
from tests.evaluation.forms import write_image, write_lines
from tests.evaluation.scripted import ScriptedPolicy
from tests.test_documented_commands import arguments, commands
from tests.training.conftest import let_luck_pay, make_rl_config, start  # noqa: F401
from tests.trajectories import call, message, text

SMALL = {"slots": 8, "cache_tokens": 1536, "max_response_tokens": 96, "max_length": 192, "count": 8}
"""The most that a keyword of a block may be here; the blocks' own numbers are for real models and data."""

SOURCES = ("PixelSearch",)
"""What is called with a number of entries, of which `SMALL["count"]` are taken."""


def python_of(document: pathlib.Path) -> list[str]:
    """The blocks of a document, without the modules that tests/commands/test_extending.py and its neighbour run."""
    modules = {source for _, source in modules_of(document.read_text(encoding="utf-8"))}
    return [body for language, body in blocks(document) if language == "python" and body not in modules]


class Smaller(ast.NodeTransformer):
    """Bounds the numbers of calls."""

    def visit_Call(self, node: ast.Call) -> ast.Call:
        self.generic_visit(node)
        for keyword in node.keywords:
            keyword.value = self._bounded(keyword.value, SMALL.get(keyword.arg))
        if isinstance(node.func, ast.Name) and node.func.id in SOURCES:
            node.args[0] = self._bounded(node.args[0], SMALL["count"])
        return node

    def _bounded(self, value: ast.expr, most: int | None) -> ast.expr:
        if most is None or not isinstance(value, ast.Constant):
            return value
        return ast.copy_location(ast.Constant(min(value.value, most)), value)


def left_open(tree: ast.Module, known: dict[str, Any]) -> list[str]:
    """The names that a block uses and that neither it nor an earlier one defines: the reader has them."""
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    arguments = {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    imported = {
        (alias.asname or alias.name).split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    defined = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    defined |= {node.id for node in names if isinstance(node.ctx, ast.Store)} | arguments | imported
    return [node.id for node in names if node.id not in (*defined, *known, *dir(builtins))]


@pytest.fixture
def things(request) -> dict[str, Callable[[], Any]]:
    """What the reader has, by the names that blocks give it; made when a block asks for it."""

    def model() -> pathlib.Path:
        return request.getfixturevalue("start") / "model"

    def stored(kind: str) -> RecordSource:
        name = {"query": "queries", "trajectory": "trajectories"}[kind]
        return RecordSource(request.getfixturevalue("start") / name, kind)

    def conversation() -> list[dict[str, Any]]:
        image = Image.new("RGB", (112, 112), (90, 20, 20))
        return [message("user", {"type": "image", "image": image}, text("Which digit is in the colored box?"))]

    return {
        "conversation": conversation,
        "queries": lambda: [stored("query")[0]],
        "nothing_more_to_learn": lambda: lambda trajectory: trajectory.sampled > 0,
        "correct": lambda: np.eye(2, 4),
        "operations": lambda: np.ones((2, 4), int),
        "response_text": lambda: "It is \\boxed{7}.",
        "reference": lambda: "7",
        "text": lambda: call("crop_image_normalized", '{"bbox_2d": [0.1, 0.1, 0.5, 0.5], "target_image": 1}'),
        "my_share_of": lambda: list,
        "count": lambda: 3,
        "records_of": lambda: lambda number: [stored("trajectory")[number]],
        "policy": lambda: lambda protocol, mode: ScriptedPolicy(lambda query, sample: "\\boxed{A}"),
        "response": lambda: "It is \\boxed{A}.",
        "config": lambda: load_config("rl_qwen2_5_vl_7b"),
        "directory": model,
    }


OWN = {"data.md": {"directory": lambda: "data/mine"}}
"""The same of documents that use a name for something else."""


def photos(place: pathlib.Path) -> None:
    for number in range(3):
        write_image(place / f"{number}.jpg", number)


def vstar(place: pathlib.Path) -> None:
    row = {"text": "What is it?\n(A) a dog\n(B) a cat\n", "label": "A", "category": "direct_attributes"}
    rows = [{**row, "question_id": str(number), "image": f"direct_attributes/{number}.jpg"} for number in range(2)]
    write_lines(place / "test_questions.jsonl", rows)
    photos(place / "direct_attributes")


def seeds(place: pathlib.Path) -> None:
    rows = []
    for number in range(4):
        noise = np.random.default_rng(number).integers(0, 256, (300, 400, 3), np.uint8)
        Image.fromarray(noise).save(place.with_name(f"{number}.png"))
        rows.append({"image": f"{number}.png", "question": "What is it?", "answer": "cat", "box": [40, 40, 140, 130]})
    write_lines(place, rows)


@pytest.fixture
def files(request) -> dict[str, Callable[[pathlib.Path], None]]:
    """What the reader has on the disk, by the paths that blocks name."""

    def link(name: str) -> Callable[[pathlib.Path], None]:
        def make(place: pathlib.Path) -> None:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(request.getfixturevalue("start") / name)

        return make

    return {
        "data/pixel_reasoner_rl": link("queries"),
        "checkpoints/Qwen2.5-VL-7B-Instruct": link("model"),
        "data/vstar_bench": vstar,
        "seeds.jsonl": seeds,
        "photos": photos,
    }


@pytest.fixture
def run_block(files, tmp_path, monkeypatch) -> Callable[..., None]:
    """Runs a block in a folder that has what it reads, with a reader's things."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["make_data.py", "bucket"])
    monkeypatch.setitem(pr.Policy.__init__.__kwdefaults__, "limits", pr.Limits(2, 96, max_length=192))
    monkeypatch.setitem(pr.Policy.__init__.__kwdefaults__, "slots", SMALL["slots"])
    numbers = itertools.count()

    def run(body: str, namespace: dict[str, Any], things: dict[str, Callable[[], Any]]) -> None:
        tree = ast.parse(body)
        for path, make in files.items():
            if path in body and f'write_records("{path}"' not in body and not (tmp_path / path).exists():
                make(tmp_path / path)
        for name in left_open(tree, namespace):
            assert name in things, f"{name} is not defined; if it is the reader's, this file must have one"
            namespace[name] = things[name]()
        exec(compile(ast.fix_missing_locations(Smaller().visit(tree)), "block", "exec"), namespace)
        if "get_config" in namespace:
            del namespace["get_config"]
            file = tmp_path / f"rl_{next(numbers)}.py"
            file.write_text(body, encoding="utf-8")
            assert load_config(file, reference="rl_qwen2_5_vl_7b") != load_config("rl_qwen2_5_vl_7b")

    return run


PROMISES: dict[str, Callable[[Any], bool]] = {
    "logits": lambda logits: logits.ndim == 3 and len(logits) == 1,
    "trajectories": lambda groups: len(groups) in (1, 4) and all(len(group) == 8 for group in groups),
    "reward": lambda reward: reward.shape == (2, 4),
    "score": lambda score: score == 1.0,
    "call": lambda call: call.name == "crop_image_normalized",
    "summary": lambda summary: summary.count > 0,
    "shards": lambda shards: len(RecordSource("data/mine", "trajectory")) == 3,
    "results": lambda results: results["benchmarks"]["vstar"]["score"] == 1.0,
    "config": lambda config: check_settings(config) is None,
}
"""What is to be found in the end under a name that the blocks of a document have defined."""


@pytest.mark.parametrize("document", [path for path in DOCUMENTS if python_of(path)], ids=lambda path: path.name)
def test_the_python_of_a_document_runs(document, things, run_block):
    namespace: dict[str, Any] = {}
    for body in python_of(document):
        run_block(body, namespace, things | OWN.get(document.name, {}))
    for name, holds in PROMISES.items():
        assert name not in namespace or holds(namespace[name]), name


def test_every_promise_is_about_a_name_of_some_block():
    blocks = [ast.parse(body) for document in DOCUMENTS for body in python_of(document)]
    names = {node.id for block in blocks for node in ast.walk(block) if isinstance(node, ast.Name)}
    assert PROMISES.keys() <= names


def test_a_block_leaves_nothing_open_and_makes_little(run_block):
    with pytest.raises(AssertionError, match="nowhere is not defined"):
        run_block("print(nowhere)", {}, {})
    namespace: dict[str, Any] = {"PixelSearch": range}
    run_block("made = dict(slots=64, other=64), len(PixelSearch(4_096))", namespace, {})
    assert namespace["made"] == ({"slots": 8, "other": 64}, 8)


LEFT = (
    "rl --config.grpo.loss=my_losses:unclipped --config.auxiliary.terms.surprise.function=my_terms:surprise"
    " --config.auxiliary.terms.surprise.coefficient=0.06"
)
"""Names those functions of docs/rl.md that no command there names."""


def named_functions(command: str) -> list[tuple[str, str]]:
    """The modules and functions of the reader's own that a command names."""
    return re.findall(r"=(my_\w+):(\w+)", command)


COMMANDS = [*(command for command in commands(RL) if named_functions(command)), LEFT]


def test_every_function_has_a_command():
    defined = {name for body in python_of(RL) for name in re.findall(r"^def (\w+)", body, re.MULTILINE)}
    assert defined == {name for command in COMMANDS for _, name in named_functions(command)}


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: named_functions(command)[0][1])
def test_the_functions_of_a_command_in_a_run(command, start, tmp_path, monkeypatch):  # noqa: F811
    """Each in the module that the command names, trained with for an episode."""
    let_luck_pay(monkeypatch)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for module, name in named_functions(command):
        [body] = [body for body in python_of(RL) if f"def {name}(" in body]
        (tmp_path / f"{module}.py").write_text(body, encoding="utf-8")
        monkeypatch.delitem(sys.modules, module, raising=False)
    config = make_rl_config(start, tmp_path)
    config.train.steps = 1
    (tmp_path / "rl_mine.py").write_text(
        "import json\nfrom ml_collections import ConfigDict\n\n\ndef get_config():\n"
        f"    return ConfigDict(json.loads({config.to_json_best_effort()!r}))\n"
    )
    overrides = [word for word in arguments(command) if re.match(r"--config\.", word)]
    assert overrides and cli.main(["rl", "--config", "rl_mine.py", *overrides]) == 0
    [line] = read_metrics(tmp_path / "run")
    assert line["updates"] >= 1
    for module, _ in named_functions(command):
        sys.modules.pop(module, None)

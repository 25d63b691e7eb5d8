"""The house's imports: they run downwards, in no circle, and a model does not know who uses it."""

from __future__ import annotations

import ast
import collections
import pathlib

import pytest

REPOSITORY = pathlib.Path(__file__).parent.parent

FLOORS = (
    ("pixel_reasoner_jax.commands",),
    ("pixel_reasoner_jax.viewer",),
    ("pixel_reasoner_jax.plan",),
    ("pixel_reasoner_jax.checks",),
    ("pixel_reasoner_jax.training",),
    ("pixel_reasoner_jax.evaluation",),
    ("pixel_reasoner_jax.serve",),
    ("data_pipeline",),
    ("pixel_reasoner_jax.report",),
    ("pixel_reasoner_jax.rollout",),
    ("pixel_reasoner_jax.rewards",),
    ("pixel_reasoner_jax.operations",),
    ("pixel_reasoner_jax.models", "pixel_reasoner_jax.buckets"),
    ("pixel_reasoner_jax.processing",),
    (
        "pixel_reasoner_jax.parallel",
        "pixel_reasoner_jax.checkpoint",
        "pixel_reasoner_jax.metrics",
        "pixel_reasoner_jax.saved_config",
        "pixel_reasoner_jax.video",
    ),
    (
        "pixel_reasoner_jax.arrays",
        "pixel_reasoner_jax.compilation",
        "pixel_reasoner_jax.config",
        "pixel_reasoner_jax.model_files",
        "pixel_reasoner_jax.trackers",
        "pixel_reasoner_jax.digests",
    ),
    (
        "pixel_reasoner_jax.files",
        "pixel_reasoner_jax.config_values",
        "pixel_reasoner_jax.query",
        "pixel_reasoner_jax.endpoint",
        "pixel_reasoner_jax.child_processes",
        "pixel_reasoner_jax.named_parts",
    ),
    ("pixel_reasoner_jax.packaged_configs",),
    ("pixel_reasoner_jax.trajectory", "pixel_reasoner_jax.signals"),
    ("pixel_reasoner_jax.errors",),
)
"""Rooms and plain modules from the top floor to the ground. A room imports what is on lower floors, and itself."""

MODELS_MAY_USE = ("models", "parallel", "arrays", "config_values", "files", "model_files", "errors")
"""Modules of `pixel_reasoner_jax` that `models` may import: nothing of runs, of their checkpoints or of training."""


def modules() -> dict[str, pathlib.Path]:
    """Every module of both packages, by its dotted name."""
    found = {}
    for package in ("pixel_reasoner_jax", "data_pipeline"):
        for path in (REPOSITORY / package).rglob("*.py"):
            name = ".".join(path.relative_to(REPOSITORY).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = path
    return found


def imports(path: pathlib.Path, known: dict[str, pathlib.Path]) -> set[str]:
    """The known modules that a file imports anywhere, those imported for type checking alone included."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: a relative import"
            modules_of_names = {f"{node.module}.{alias.name}" for alias in node.names} & known.keys()
            found |= modules_of_names or {node.module}
            if modules_of_names and len(modules_of_names) < len(node.names):
                found.add(node.module)
    return found & known.keys()


@pytest.fixture(scope="module")
def edges() -> dict[str, set[str]]:
    known = modules()
    assert len(known) > 100
    return {name: imports(path, known) - {name} for name, path in known.items()}


def floor(name: str) -> int:
    """The floor of a module, counted from the top."""
    for number, rooms in enumerate(FLOORS):
        if any(name == room or name.startswith(f"{room}.") for room in rooms):
            return number
    raise AssertionError(f"{name} has no floor: give it its place in FLOORS")


def room(name: str) -> str:
    """The folder of a module on its floor, or a plain module itself."""
    return next(room for rooms in FLOORS for room in rooms if name == room or name.startswith(f"{room}."))


def upward(edges: dict[str, set[str]]) -> list[str]:
    """Imports from one room into another that is not on a lower floor."""
    return [
        f"{name} imports {other}"
        for name, others in sorted(edges.items())
        for other in sorted(others)
        if "pixel_reasoner_jax" not in (name, other) and room(name) != room(other) and floor(other) <= floor(name)
    ]


def circles(edges: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that import each other in a circle: what is left when modules without imports are taken off."""
    left = {name: set(others) for name, others in edges.items()}
    for arrows in (lambda name: left[name], lambda name: {other for other in left if name in left[other]}):
        while ends := [name for name in left if not arrows(name)]:
            for name in ends:
                del left[name]
            for others in left.values():
                others -= set(ends)
    return [sorted(left)] if left else []


def test_no_import_points_upward(edges):
    assert upward(edges) == []


def test_the_package_itself_is_imported_for_its_version_alone():
    """It hands names on from all rooms: to take one of them from it would be an arrow that nobody sees."""
    known = modules()
    for path in known.values():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module == "pixel_reasoner_jax" and path.name != "__init__.py":
                names = {alias.name for alias in node.names}
                assert all(name == "__version__" or f"pixel_reasoner_jax.{name}" in known for name in names), path


def test_no_circle(edges):
    # The package itself hands names on, when they are first used.
    assert circles({name: others - {"pixel_reasoner_jax"} for name, others in edges.items()}) == []


def test_a_model_does_not_know_its_users(edges):
    allowed = {f"pixel_reasoner_jax.{name}" for name in MODELS_MAY_USE}
    for name, others in edges.items():
        if name.startswith("pixel_reasoner_jax.models"):
            assert {room(other) for other in others} <= allowed, f"{name} imports {sorted(others)}"


def test_what_is_refused():
    """The checks above can fail."""
    up = collections.defaultdict(set, {"pixel_reasoner_jax.models.model": {"pixel_reasoner_jax.rollout.policy"}})
    assert upward(up) == ["pixel_reasoner_jax.models.model imports pixel_reasoner_jax.rollout.policy"]
    assert upward({"pixel_reasoner_jax.rollout.policy": {"pixel_reasoner_jax.models.model"}}) == []
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}, "e": set()}) == [["a", "b", "c"]]
    assert circles({"a": {"b"}, "b": {"c"}, "c": set()}) == []

"""The configs in `configs/` and its folders, which are installed with the package, as files and as modules."""

from __future__ import annotations

import functools
import importlib.util
import pathlib
from types import ModuleType

PACKAGE = pathlib.Path(__file__).parent
INSTALLED = PACKAGE / "configs"
CONFIGS = INSTALLED if INSTALLED.is_dir() else PACKAGE.parent / "configs"  # the latter in a checkout


def config_files() -> dict[str, pathlib.Path]:
    """The files by the names of their configs: the paths below `configs/` without ".py"."""
    return {file.relative_to(CONFIGS).with_suffix("").as_posix(): file for file in CONFIGS.rglob("*.py")}


@functools.cache
def config_module(name: str) -> ModuleType:
    """The module of a packaged config, for the functions in it; it is run once.

    Raises:
      ImportError: there is no config of this name.
    """
    file = config_files().get(name)
    if file is None:
        raise ImportError(f"there is no packaged config {name!r}")
    spec = importlib.util.spec_from_file_location(f"pixel_reasoner_config_{name.replace('/', '_')}", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

"""Small files as the data sets have them."""

from __future__ import annotations

import json
import pathlib

import numpy as np
import pytest
from PIL import Image

from data_pipeline.sources import SourceError


@pytest.fixture
def write(tmp_path):
    """Writes JSON, JSON lines (a list of which texts stay as they are) and pictures; returns the file."""

    def write(name: str, content=None, size=(200, 100)) -> pathlib.Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".jsonl"):
            path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in content) + "\n")
        elif name.endswith(".json"):
            path.write_text(content if isinstance(content, str) else json.dumps(content))
        else:
            pixels = np.random.default_rng(sum(map(ord, name))).integers(0, 255, (*size[::-1], 3), np.uint8)
            Image.fromarray(pixels).save(path)
        return path

    return write


@pytest.fixture
def errors():
    """The messages of a source's entries that cannot be read."""

    def errors(source) -> dict[int, str]:
        found = {}
        for index in range(len(source)):
            try:
                source[index]
            except SourceError as error:
                found[index] = str(error)
        return found

    return errors

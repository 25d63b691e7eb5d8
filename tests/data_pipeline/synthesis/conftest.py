"""Seeds, what a synthesis makes of them, and the endpoint that captioners ask."""

import json
import pathlib

import pytest

from tests.data_pipeline.synthesis import killed
from tests.data_pipeline.synthesis.seeds import encoded, picture
from tests.endpoint.conftest import connect, server  # noqa: F401


@pytest.fixture(scope="session")
def seeds_file(tmp_path_factory) -> pathlib.Path:
    """16 queries, of which 2 cannot be read and 2 repeat others."""
    folder = tmp_path_factory.mktemp("seeds")
    lines = []
    for number in range(16):
        original = {8: 2, 15: 2}.get(number, number)
        (folder / f"{number}.jpg").write_bytes(
            encoded(picture(original, (120, 90)), format="JPEG", quality=95 - number)
        )
        box = [40 + original, 20, 60 + original, 45]
        query = {"id": f"q{number}", "question": f"What is {original}?", "answer": f"thing {original}", "box": box}
        lines.append(json.dumps(query | {"image": f"{number}.jpg"}))
    lines[5] = "{broken"
    (folder / "11.jpg").write_bytes((folder / "11.jpg").read_bytes()[:400])
    (folder / "seeds.jsonl").write_text("\n".join(lines) + "\n")
    return folder / "seeds.jsonl"


@pytest.fixture(scope="session")
def whole(seeds_file, tmp_path_factory):
    """What a synthesis that nothing disturbs makes."""
    out = tmp_path_factory.mktemp("whole")
    killed.synthesize(str(seeds_file), str(out), workers=1)
    return out

"""Trajectories as JSON: what is written is what is read back."""

import json

import numpy as np

from pixel_reasoner_jax.processing.geometry import Geometry
from pixel_reasoner_jax.processing.media import normalization_table, process_image
from pixel_reasoner_jax.report.trajectory_json import trajectory_dict
from pixel_reasoner_jax.trajectory import OperationRecord


def test_round_trip(make_trajectory):
    content = trajectory_dict(make_trajectory(), correct=1)
    assert json.loads(json.dumps(content, allow_nan=False)) == content
    assert content["tokens"] == {"total": 10, "prompt": 3, "sampled": 5, "observation": 2, "given": 0}
    assert content["ended"] == "answer" and content["correct"] == 1.0 and content["policy_version"] is None
    assert trajectory_dict(make_trajectory(policy_version=3))["policy_version"] == 3
    assert content["operations"][0]["boxes"] == [[40, 30, 240, 180]]
    assert content["operations"][1] == {
        "turn": 1,
        "name": "crop_image_normalized",
        "arguments": {},
        "succeeded": False,
        "error": "no box",
        "boxes": [],
        "sizes": [],
    }
    assert content["messages"][1]["content"][0] == {"type": "image", "size": [400, 300], "seen": None}
    assert content["response"] == "It is \\boxed{red}."


def test_sizes_as_seen(make_trajectory):
    trajectory = make_trajectory()
    image = trajectory.messages[1]["content"][0]["image"]
    normalization = normalization_table([0.5] * 3, [0.25] * 3)
    trajectory.media = [process_image(image, size, Geometry(), normalization) for size in ((112, 84), (56, 56))]
    messages = trajectory_dict(trajectory)["messages"]
    assert messages[1]["content"][0] == {"type": "image", "size": [400, 300], "seen": [112, 84]}
    assert messages[3]["content"][1] == {"type": "image", "size": [200, 150], "seen": [56, 56]}


def test_numbers_that_json_lacks(make_trajectory):
    arguments = {"bbox_2d": [float("nan"), float("-inf"), np.float32(0.5), 10**400], "x": ({1: b"y"},)}
    box = tuple(map(np.int64, (1, 2, 3, 4)))
    record = OperationRecord(0, "zoom_in", arguments, boxes=(box,))
    [operation] = trajectory_dict(make_trajectory(operations=[record]))["operations"]
    assert json.loads(json.dumps(operation, allow_nan=False)) == operation
    assert operation["arguments"] == {"bbox_2d": ["nan", "-inf", 0.5, 10**400], "x": [{"1": "b'y'"}]}
    assert operation["boxes"] == [[1, 2, 3, 4]]

"""Every way in which a call can fail has its kind."""

import re

import pytest
from PIL import Image

from pixel_reasoner_jax.operations import Call, MediaState, OperationError, default_registry, make_registry
from pixel_reasoner_jax.operations.error_kinds import ERROR_KINDS, error_kind
from pixel_reasoner_jax.processing.videos import sample_frames
from pixel_reasoner_jax.trajectory import OperationRecord
from tests.conftest import REPOSITORY

IMAGE = MediaState.from_query([Image.new("RGB", (400, 300))], resized=lambda size, kind: size)
VIDEO = MediaState.from_query(video_frames=[Image.new("RGB", (64, 48))] * 3)
PAIR = MediaState.from_query([Image.new("RGB", (400, 300))] * 2)
FRAMES = [Image.new("RGB", (64, 48))] * 3
LONG, SHORT = (
    MediaState.from_query(video_frames=FRAMES, clip=sample_frames(FRAMES, 3, fps, lambda frame: frame, 0.0).clip)
    for fps in (0.05, 1.0)
)


def crop(box, target=1):
    return "crop_image_normalized", {"bbox_2d": box, "target_image": target}


def select(frames):
    return "select_frames", {"target_frames": frames}


@pytest.mark.parametrize(
    ("call", "state", "kind"),
    [
        (crop([0.1, 0.1, 0.5]), IMAGE, "arguments"),
        (crop("here"), IMAGE, "arguments"),
        (crop([0.1, 0.1, 0.5, "x"]), IMAGE, "arguments"),
        (crop([0.1, 0.1, 0.5, float("inf")]), IMAGE, "arguments"),
        (crop([0.1, 0.1, 0.5, 0.5], 1.5), IMAGE, "arguments"),
        (("crop_image", {"bbox_2d": [0, 0, 1, 1]}), IMAGE, "arguments"),
        (("crop_image", crop([0, 0, 1, 1])[1] | {"is out of range; ": 1}), IMAGE, "arguments"),
        (crop([0.1, 0.1, 0.5, 0.5], 2), IMAGE, "number"),
        (crop([0.5, 0.1, 0.1, 0.5]), IMAGE, "box"),
        (crop([0.9999, 0.1, 0.99999, 0.5], 1), MediaState.from_query([Image.new("RGB", (60, 300))]), "box"),
        (crop([0.1, 0.4999, 0.9, 0.5]), MediaState.from_query([Image.new("RGB", (9000, 150))]), "box"),
        (crop([0.1, 0.1, 0.5, 0.5]), MediaState.from_query(), "no_medium"),
        (select([1]), IMAGE, "no_medium"),
        (select([]), VIDEO, "arguments"),
        (select([1.5]), VIDEO, "arguments"),
        (select([4]), VIDEO, "number"),
        (("zoom failed (Error)", {}), IMAGE, "unknown_name"),
        (("the operation took more than 1 second", {}), IMAGE, "unknown_name"),
    ],
)
def test_what_operations_say(call, state, kind):
    with pytest.raises(OperationError) as error:
        default_registry(padding=0.0).execute(Call(*call), state)
    assert error_kind(OperationRecord(0, *call, error=str(error.value))) == kind


SHAPE = {"bbox_2d": [0, 0, 9, 9]}


@pytest.mark.parametrize(
    ("operation", "arguments", "state", "kind"),
    [
        ("zoom_image", {"bbox_2d": [0, 0, 9, 9], "target_image": 1}, IMAGE, "box"),
        ("deepeyes_zoom", {"bbox_2d": [9, 0, 0, 9]}, IMAGE, "box"),
        ("vrag_bbox", {"bbox_2d": [0, 0, 9, 9]}, MediaState.from_query(), "no_medium"),
        ("mini_o3_zoom", {"bbox_2d": [0, 0, 1, 1], "source": "observation_1"}, IMAGE, "arguments"),
        ("mini_o3_zoom", {"bbox_2d": [0, 0, 1, 1], "source": 1}, IMAGE, "arguments"),
        ("vigorl_point", {"coordinate": [500, 9]}, IMAGE, "number"),
        ("rotate_image", {"angle": "up", "target_image": 1}, IMAGE, "arguments"),
        ("draw_boxes", {"boxes": [SHAPE] * 33, "target_image": 1}, IMAGE, "arguments"),
        ("draw_boxes", {"boxes": [1], "target_image": 1}, IMAGE, "arguments"),
        ("draw_boxes", {"boxes": [{"bbox_2d": [9, 9, 0, 0]}], "target_image": 1}, IMAGE, "box"),
        ("vilasr_boxes", {"boxes": [SHAPE]}, MediaState.from_query(), "no_medium"),
        ("vilasr_boxes", {"boxes": [SHAPE | {"index": 0}, SHAPE | {"index": 1}]}, PAIR, "arguments"),
        ("horizontal_line", {"image": "img_1", "param": "up"}, IMAGE, "arguments"),
        ("horizontal_line", {"image": "img_1", "param": 101}, IMAGE, "number"),
        ("frames_by_number", {"frames": []}, LONG, "arguments"),
        ("frames_between", {"start": 1, "end": 2}, LONG, "arguments"),
        ("frames_between", {"start": 9, "end": 12}, LONG, "number"),
        ("frames_between", {"start": 1, "end": 3}, VIDEO, "no_medium"),
        ("frame_at_time", {"time": "soon"}, LONG, "arguments"),
        ("frame_at_time", {"time": "09:00"}, LONG, "number"),
        ("frame_at_time", {"time": 1}, VIDEO, "no_medium"),
        ("find_segment", {"segments": [1]}, VIDEO, "no_medium"),
        ("find_segment", {"segments": [1]}, SHORT, "no_medium"),
        ("find_segment", {"segments": []}, LONG, "arguments"),
        ("find_segment", {"segments": [99]}, LONG, "number"),
        ("swap_tiles", {"first": 1, "second": 1}, IMAGE, "arguments"),
        ("swap_tiles", {"first": 1, "second": 9}, IMAGE, "number"),
        ("swap_tiles", {"first": 1, "second": 2}, MediaState.from_query(), "no_medium"),
        ("swap_tiles", {"first": 1, "second": 2}, MediaState.from_query([Image.new("RGB", (1, 1))]), "no_medium"),
    ],
)
def test_what_other_operations_say(operation, arguments, state, kind):
    registry = make_registry((operation,))
    call = Call(registry.operations[0].name, arguments)
    with pytest.raises(OperationError) as error:
        registry.execute(call, state)
    assert error_kind(OperationRecord(0, call.name, call.arguments, error=str(error.value))) == kind


@pytest.mark.parametrize(
    "text",
    ["<tool_call>", "a</tool_call>", '<tool_call>{"nam": 1}</tool_call>', "<tool_call>1</tool_call>" * 2]
    + [f"<tool_call>{body}</tool_call>" for body in ("[]", "{", '{"name": 1, "arguments": {}}')],
)
def test_what_is_no_call(text):
    error = default_registry().parse(text)
    assert isinstance(error, OperationError)
    assert error_kind(OperationRecord(0, None, None, error=str(error))) == "unreadable"


def test_what_the_rollout_says():
    def kind(error, name="zoom_in"):
        return error_kind(OperationRecord(0, name, {}, error=error))

    assert kind(None) is None
    assert kind("refused: max_operations", None) == kind("refused: max_tokens") == "limit"
    assert kind("the operation took more than 60 seconds") == "slow"
    assert kind("crop_image_normalized failed (ZeroDivisionError)") == "exception"
    assert kind("reading the function call failed (KeyError)", None) == "exception"
    assert kind("what an operation of one's own says") == kind("") == "other"
    assert kind("query has 900 characters; it must have 1 to 400") == "arguments"
    assert kind("no page was found; search in other words") == kind("the search failed; it may work later") == "other"


def test_every_place_where_a_call_fails_was_thought_of():
    """A new one needs its kind, and its case above."""
    files = (REPOSITORY / "pixel_reasoner_jax" / "operations").rglob("*.py")
    places = sum(len(re.findall(r"(?:raise|return) OperationError\(", file.read_text())) for file in files)
    assert places == 55
    assert len(set(ERROR_KINDS)) == len(ERROR_KINDS) == 10

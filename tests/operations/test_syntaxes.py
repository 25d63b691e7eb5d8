"""Whatever a model writes in any syntax is a call, no call, or an error to show it."""

from __future__ import annotations

import json
import time
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from pixel_reasoner_jax import config_values
from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.operations import (
    OPERATIONS,
    SYNTAXES,
    Call,
    MediaState,
    OperationError,
    Registry,
    make_registry,
)
from pixel_reasoner_jax.operations.error_kinds import error_kind
from pixel_reasoner_jax.operations.syntaxes.action import match_phrase
from pixel_reasoner_jax.operations.syntaxes.inline import last_bracket
from pixel_reasoner_jax.trajectory import OperationRecord
from tests.mutations import mutated_text

BOX = [10, 20, 300, 400]

WRITES = {  # for each syntax: the operations of a method that uses it, and what its models write, with the call
    "tool_call": (
        ("deepeyes_zoom", "deepeyes_rotate"),
        {
            '<think>a</think>\n<tool_call>\n{"name": "image_rotate_tool", "arguments": {"angle": 90}}\n</tool_call>':
                Call("image_rotate_tool", {"angle": 90}),
        },
    ),
    "tags": (
        ("vrag_bbox", "mini_o3_zoom"),
        {
            "<think>Look.</think><bbox>[10, 20, 300, 400]</bbox>": Call("bbox", {"bbox_2d": BOX}),
            '<think>a</think>\n<grounding>{"bbox_2d": [0.1, 0.2, 0.3, 0.4], "source": "original_image"}</grounding>':
                Call("grounding", {"bbox_2d": [0.1, 0.2, 0.3, 0.4], "source": "original_image"}),
            "<bbox>the sign</bbox>": Call("bbox", {"bbox_2d": "the sign"}),
            "<bbox>[1, 2, 3, 4]</bbox>. And": Call("bbox", {"bbox_2d": [1, 2, 3, 4]}),  # one token may be more
        },
    ),
    "action": (
        ("frames_between", "frame_at_time"),
        {
            "<think>From 3 to 9.</think>\n<action>choose frames between 3 and 9</action>":
                Call("frames_between", {"start": 3, "end": 9}),
            "<action> get frame number at time 01:05 </action>": Call("frame_at_time", {"time": "01:05"}),
            "<think>b</think><action>output answer: B</action>": None,
        },
    ),
    "code": (
        ("swap_tiles", "rotate_image"),
        {
            "<think>1 and 3.</think>\n<code>\nswap(1, 3)\n</code>": Call("swap", {"first": 1, "second": 3}),
            "<code>image_2 = swap_tiles(1, 3)</code>": Call("swap_tiles", {"first": 1, "second": 3}),
            "<code>import os</code>": OperationError("not NAME"),
            "<code>system(1)</code>": Call("system", {}),
        },
    ),
    "inline": (
        ("vlm_r3_zoom",),
        {
            'Let me look at it. {"bbox_2d": [10, 20, 300, 400]}': Call("crop_box", {"bbox_2d": BOX}),
            'It is here:\n```json\n{"bbox_2d": [10, 20, 300, 400]}\n```\n': Call("crop_box", {"bbox_2d": BOX}),
            "The box is [10, 20, 300, 400]": Call("crop_box", {"bbox_2d": BOX}),
            "It is \\boxed{4}": None,
            "\\boxed{[4]}": None,
            "See [1]": None,
        },
    ),
    "labelled": (
        ("vilasr_boxes", "vilasr_lines"),
        {
            '<think>a</think> Action: Object Mapper\n```json\n[{"bbox_2d": [10, 20, 300, 400], "label": "cup"}]\n```':
                Call("Object Mapper", {"boxes": [{"bbox_2d": BOX, "label": "cup"}]}),
            "<think>So B.</think> Action: Answer\n<answer>B</answer>": None,
            "Action: Path Tracer": OperationError("no JSON"),
        },
    ),
    "json": (
        ("horizontal_line", "vertical_line"),
        {
            '{"thought": "Draw.", "actions": [{"name": "DrawHorizontalLineByY", "arguments": {"image": "img_1",'
            ' "param": "y=28.5"}}]}': Call("DrawHorizontalLineByY", {"image": "img_1", "param": "y=28.5"}),
            '{"thought": "Done.", "actions": [{"name": "Terminate", "arguments": {"ans": "3"}}]}': None,
            '{"thought": "Done.", "actions": []}': None,
            "It is 3.": None,
            '{"thought": "", "actions": [1, 2]}': OperationError("several"),
        },
    ),
    "assignment": (
        ("video_com_segment", "video_com_frame", "video_com_zoom"),
        {
            "First I find it.\nFIND_SEGMENT(the man (in red) opens = a door)=[2, 3]":
                Call("FIND_SEGMENT", {"segments": [2, 3]}),
            "FIND_FRAME(the dog) = 7\n": Call("FIND_FRAME", {"frames": [7]}),
            "SPATIAL_ZOOM(the sign) = [10, 20, 300, 400]": Call("SPATIAL_ZOOM", {"bbox_2d": BOX}),
            "FIND_FRAME(the dog) = 7\nFINAL_ANSWER: B": None,
            "FIND_FRAME(the dog)": OperationError("no value"),
        },
    ),
}  # fmt: skip
CASES = [
    (syntax, names, text, call)
    for syntax, (names, texts) in WRITES.items()
    for text, call in texts.items()
]  # fmt: skip
ARGUMENTS = {
    "bbox_2d": BOX, "angle": 90, "target_image": 1, "source": "original_image", "start": 3, "end": 9, "time": "01:05",
    "first": 1, "second": 3, "boxes": [{"bbox_2d": BOX, "label": "a {cup}"}], "image": "img_1", "param": "y=28.5",
    "lines": [{"start_point_2d": [0, 1], "end_point_2d": [2, 3]}], "segments": [2, 3], "target_frames": [7],
    "coordinate": [4, 5], "frames": [7],
}  # fmt: skip


@pytest.mark.parametrize(("syntax", "names", "text", "call"), CASES)
def test_what_models_of_these_methods_write(syntax, names, text, call):
    read = make_registry(names, syntax).parse(text)
    if isinstance(call, OperationError):
        assert isinstance(read, OperationError) and len(str(read)) < 600
    else:
        assert read == call


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_what_is_written_is_read(syntax):
    """Every operation in every syntax that can say it."""
    for name in OPERATIONS:
        registry = make_registry((name,), syntax)
        [operation] = registry.operations
        arguments = {key: ARGUMENTS[key] for key in operation.arguments}
        if syntax == "assignment" and not (len(arguments) == 1 and isinstance(next(iter(arguments.values())), list)):
            continue  # it has room for one list
        text = registry.write(Call(operation.name, arguments))
        for turn in (text, f"I look closer.\n{text}"):
            if syntax != "json" or turn is text:
                assert registry.parse(turn) == Call(operation.name, arguments), text


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_the_prompt_says_how_to_call(syntax):
    state = MediaState.from_query([Image.new("RGB", (64, 48))])
    registry = make_registry(("zoom_image", "rotate_image"), syntax)
    text = registry.tools_section(state)
    assert text.startswith("\n\n# Tools\n\n")
    assert '"name": "zoom_image"' in text and text.index("</tools>") < len(text) - 20
    assert registry.syntax.stop_strings(registry.operations) == registry.stop_strings
    for stop in registry.stop_strings:
        assert stop in registry.write(Call("zoom_image", {"bbox_2d": BOX, "target_image": 1})) or "rotate" in stop


def test_phrases():
    phrase = "zoom in on {box} of image {number}"
    assert match_phrase(phrase, "zoom in on [1, 2] of image 3") == {"box": [1, 2], "number": 3}
    assert match_phrase(phrase, "zoom in on that of image of image 3") == {"box": "that", "number": "of image 3"}
    assert match_phrase(phrase, "zoom in on [1, 2] of 3") is None
    assert match_phrase(phrase, "please zoom in on [1, 2] of image 3") is None
    assert match_phrase("stop", "stop") == {} and match_phrase("stop", "stop it") is None
    assert match_phrase("{x} frames", "[NaN] frames") == {"x": "[NaN]"}
    assert match_phrase("", "") is None


def test_a_name_that_ends_a_longer_one_is_not_called():
    short = type("Short", (type(make_registry(("video_com_frame",)).operations[0]),), {})("FRAME")
    registry = Registry([*make_registry(("video_com_frame",)).operations, short], SYNTAXES["assignment"]())
    assert registry.parse("FIND_FRAME(the dog) = 7") == Call("FIND_FRAME", {"frames": [7]})
    assert registry.parse("So FRAME(the dog) = 7") == Call("FRAME", {"frames": [7]})
    assert registry.parse("MY_FRAME(the dog) = 7") is None


def test_brackets_at_the_end():
    assert last_bracket('a {"b": {"c": 1}}') == '{"b": {"c": 1}}'
    assert last_bracket("[1] [2]") == "[2]"
    assert last_bracket("} }") is None and last_bracket("a") is None and last_bracket("") is None
    assert last_bracket("{" + "x" * 9000 + "}") is None


def test_an_operation_without_a_phrase_cannot_be_said():
    class Silent(type(make_registry(("swap_tiles",)).operations[0])):
        phrase = ""

    registry = make_registry(("swap_tiles",))
    with pytest.raises(UserError, match="swap_tiles has no phrase"):
        type(registry)([Silent()], SYNTAXES["action"]())


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_nothing_is_raised_whatever_is_written(syntax):
    random = np.random.default_rng(5)
    names, texts = WRITES[syntax]
    registry, read = make_registry(names, syntax), {Call: 0, OperationError: 0, type(None): 0}
    state = MediaState.from_query([Image.new("RGB", (500, 500))], resized=lambda size, kind: size)
    texts = list(texts)
    for _ in range(150):
        text = mutated_text(texts[random.integers(len(texts))], random)
        call = registry.parse(text)
        read[type(call)] += 1
        if isinstance(call, OperationError):
            assert len(str(call)) < 700
            str(call).encode()
        elif call is not None:
            json.dumps(call.arguments, ensure_ascii=False).encode()
            try:
                registry.execute(call, state.fork())
            except OperationError as error:
                assert " failed (" not in str(error), text  # every refusal is a considered one
    assert read[Call] >= 3


HOSTILE = {
    "tags": ["<bbox>" * 300_000, "</bbox>" * 300_000, "<bbox>" + "[" * 300_000 + "</bbox>",
             "<bbox>" + "9" * 10**6 + "</bbox>"],
    "action": ["<action>" * 200_000, "<action>choose frames between " + " and " * 300_000 + "</action>",
               "<action>" + "choose frames between 1 and " * 200 + "</action>"],
    "code": ["<code>" * 300_000, "<code>" + "a=" * 300_000 + "f(</code>", "<code>swap(" + "(" * 300_000 + ")</code>",
             "<code>" + " " * 300_000 + "swap(</code>"],
    "inline": ["}" * 10**6, "{" * 10**6 + "}", '{"a":' * 10**5 + "}" * 10**5, "```" * 300_000],
    "labelled": ["Action:" * 200_000, "Action: x\n" + "```" * 300_000, "Action: Object Mapper\n" + "[" * 10**6 + "```"],
    "json": ["{" * 10**6, '{"actions": ' + "[" * 60_000 + "]" * 60_000 + "}", "```json\n{" * 10**5 + "```"],
    "assignment": ["FIND_FRAME(" * 10**5, "FIND_FRAME(" + ")=" * 10**5, "FIND_FRAME(x) = " + "[" * 10**6, "\n" * 10**6,
                   "aFIND_FRAME(" * 10**5],
    "tool_call": ["<tool_call>" * 10**5],
}  # fmt: skip


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_time_and_memory_are_bounded(syntax):
    registry = make_registry(WRITES[syntax][0], syntax)
    for text in HOSTILE[syntax]:
        tracemalloc.start()
        began = time.perf_counter()
        read = registry.parse(text)
        elapsed, (_, peak) = time.perf_counter() - began, tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert not isinstance(read, Call) or read.arguments
        assert elapsed < 5 and peak < 4 * len(text) + 2_000_000


def test_names_are_those_of_the_settings():
    assert tuple(OPERATIONS) == config_values.OPERATIONS
    assert tuple(SYNTAXES) == config_values.SYNTAXES
    with pytest.raises(UserError, match="unknown operation 'rotate'; known: crop_image_normalized, "):
        make_registry(("rotate",))
    with pytest.raises(UserError, match="unknown syntax of calls 'xml'"):
        make_registry(syntax="xml")
    with pytest.raises(UserError, match="'swap' is registered already|'swap_tiles' is registered already"):
        make_registry(("swap_tiles", "swap_tiles_3x3"))


class Bare(type(make_registry(("swap_tiles",)).operations[0])):
    """An operation without arguments."""

    arguments = ()
    phrase = "swap"


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_an_operation_without_arguments_is_called_or_refused(syntax):
    make = SYNTAXES[syntax]
    if syntax in ("inline", "assignment"):
        with pytest.raises(UserError, match=f"swap_tiles has no `arguments`.*{syntax}"):
            Registry([Bare()], make())
        return
    registry = Registry([Bare()], make())
    assert registry.parse(registry.write(Call("swap_tiles", {}))) == Call("swap_tiles", {})


@pytest.mark.parametrize("syntax", ["tags", "labelled"])
def test_an_object_alone_is_not_read_as_arguments(syntax):
    registry = make_registry(("zoom_image",), syntax)
    for call in (Call("zoom_image", {"bbox_2d": {"x": 1}}), Call("zoom_image", {"bbox_2d": None})):
        assert registry.parse(registry.write(call)) == call


@pytest.mark.parametrize("phrase", ["swap {}", "swap {0}", "swap {first", "swap {first} }", "swap {a.b}"])
def test_a_phrase_that_is_none_is_refused(phrase):
    operation = type("Phrased", (Bare,), {"phrase": phrase})()
    with pytest.raises(UserError, match="swap_tiles has the phrase"):
        Registry([operation], SYNTAXES["action"]())


@pytest.mark.parametrize("parse", [lambda *_: 1 / 0, lambda *_: "a text"])
def test_a_syntax_of_ones_own_that_fails_ends_no_run(parse):
    syntax = type("Failing", (type(make_registry().syntax),), {"parse": parse})()
    read = Registry([Bare()], syntax).parse("anything")
    assert isinstance(read, OperationError)
    assert error_kind(OperationRecord(0, None, None, error=str(read))) == "exception"

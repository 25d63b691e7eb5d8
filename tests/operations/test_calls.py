"""Whatever the model writes is a call, no call, or an error to show it."""

from __future__ import annotations

import json
import time
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pixel_reasoner_jax.operations import Call, OperationError, error_text, parse_call, tools_section

BODY = '{"name": "zoom_in", "arguments": {"bbox_2d": [0.1, 0.2, 0.3, 0.4], "target_image": 1}}'
CALL = Call("zoom_in", {"bbox_2d": [0.1, 0.2, 0.3, 0.4], "target_image": 1})


def turn(body: str) -> str:
    return f"Let me look closer.\n<tool_call>\n{body}\n</tool_call>"


@pytest.mark.parametrize("text", [turn(BODY), turn(BODY) + "\n \n", f"<tool_call>{BODY}</tool_call>"])
def test_calls(text):
    assert parse_call(text) == CALL


@pytest.mark.parametrize(
    "text",
    [
        "",
        "The answer is \\boxed{4}.",
        turn(BODY) + " It is 4.",
        "a </tool_call> b",
        "tool_call",
        BODY,
        "<tool>",
    ],
)
def test_turns_that_ask_for_nothing(text):
    assert parse_call(text) is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (f"<tool_call>\n{BODY}", "not closed"),
        ("<tool_call>", "not closed"),
        (turn(BODY) + "<tool_call>", "not closed"),
        (f"{BODY}\n</tool_call>", "without <tool_call>"),
        ("</tool_call>", "without <tool_call>"),
        (turn(BODY) + turn(BODY), "more than one function"),
        (f"<tool_call>{turn(BODY)}", "more than one function"),
        (turn(""), "Expecting value"),
        (turn("zoom_in(1, 2)"), "Expecting value"),
        (turn(BODY + BODY), "Extra data"),
        (turn(BODY[:-1]), "Expecting ',' delimiter"),
        (turn(BODY.replace('"', "'")), "property name"),
        (turn("[]"), "JSON array, not an object"),
        (turn("3"), "JSON number, not an object"),
        (turn("null"), "JSON null, not an object"),
        (turn("{}"), 'keys must be "name" and "arguments"'),
        (turn('{"name": "zoom_in"}'), 'keys must be "name" and "arguments"'),
        (turn('{"name": "zoom_in", "arguments": {}, "id": 1}'), 'keys must be "name" and "arguments"'),
        (turn('{"name": 3, "arguments": {}}'), '"name" is a JSON number'),
        (turn('{"name": true, "arguments": {}}'), '"name" is a JSON boolean'),
        (turn('{"name": "zoom_in", "arguments": "{}"}'), '"arguments" is a JSON string'),
        (turn('{"name": "zoom_in", "arguments": null}'), '"arguments" is a JSON null'),
        (turn('{"name": "a", "name": "b", "arguments": {}}'), "given twice"),
        (turn('{"name": "a", "arguments": {"x": 1, "x": 2}}'), "given twice"),
        (turn('{"name": "a", "arguments": {"x": NaN}}'), "NaN is not JSON"),
        (turn('{"name": "a", "arguments": {"x": -Infinity}}'), "-Infinity is not JSON"),
        (turn('{"name": "a", "arguments": {"x": %s}}' % ("9" * 6000)), "integer of 6000 digits"),
        (turn('{"name": "a", "arguments": {"x": 1e999}}'), "a number too large"),
        (turn('{"name": "a", "arguments": {"x": "\\ud800"}}'), "half a surrogate"),
        (turn('{"name": "\\udfff", "arguments": {}}'), "half a surrogate"),
        (turn("[" * 4000 + "]" * 4000), "nested too deeply"),
        (turn("[" * 10_000 + "]" * 10_000), "20002 characters"),
        (turn('{"a":' * 10_000 + "1" + "}" * 10_000), "60003 characters"),
        (turn('{"name": "a", "arguments": {"x": %s}}' % ("[" * 7 + "]" * 7)), "nested too deeply"),
        (turn("[" * 10_000), "characters"),
        (turn(" " * 10_000_000 + BODY), "characters"),
    ],
)
def test_errors_are_returned(text, reason):
    call = parse_call(text)
    assert isinstance(call, OperationError)
    assert reason in str(call)
    assert len(str(call)) < 300


def test_the_released_code_takes_the_last_of_two_calls():
    other = BODY.replace("zoom_in", "select_frames")
    assert parse_call(turn(other) + turn(BODY), last_wins=True) == CALL
    assert isinstance(parse_call(turn(other) + turn("?"), last_wins=True), OperationError)


fragments = st.sampled_from(
    ["<tool_call>", "</tool_call>", "\n", '{"name":', '"arguments":', "{", "}", "[", "]", '"', "\\u", "\\", ",", ":"]
    + ["1e9", "-", "NaN", "null", '"zoom_in"', '"bbox_2d"', "0.5", "\ud800", "é", " "]
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)
texts = (
    st.text()
    | st.lists(fragments, max_size=30).map("".join)
    | st.lists(fragments, max_size=30).map("".join).map(turn)
    | json_values.map(json.dumps).map(turn)
    | json_values.map(lambda value: turn(json.dumps({"name": "zoom_in", "arguments": value})))
)


@given(texts)
@settings(max_examples=500, deadline=None)
def test_nothing_is_raised(text):
    call = parse_call(text)
    assert call is None or isinstance(call, Call | OperationError)
    if isinstance(call, OperationError):
        assert len(str(call)) < 300
        str(call).encode()  # it can be written and tokenized


def test_time_and_memory_are_bounded():
    hostile = [
        "<tool_call>" * 500_000 + "</tool_call>",
        turn("[" * 5_000_000),
        turn('"' + "\\u0041" * 1_000_000 + '"'),
        "</tool_call>" * 500_000,
        " " * 5_000_000,
    ]
    for text in hostile:
        tracemalloc.start()
        started = time.perf_counter()
        parse_call(text)
        elapsed, (_, peak) = time.perf_counter() - started, tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert elapsed < 2
        assert peak < 3 * len(text) + 1_000_000  # copies of the text, nothing that grows faster


def test_the_tools_section_is_the_hermes_form():
    signature = {"type": "function", "function": {"name": "look", "description": "Blick — schärfer"}}
    assert tools_section([signature, signature]).split("\n") == [
        *("", "", "# Tools", "", "You may call one or more functions to assist with the user query.", ""),
        "You are provided with function signatures within <tools></tools> XML tags:",
        "<tools>",
        '{"type": "function", "function": {"name": "look", "description": "Blick — schärfer"}}',
        '{"type": "function", "function": {"name": "look", "description": "Blick — schärfer"}}',
        *("</tools>", ""),
        "For each function call, return a json object with function name and arguments within"
        " <tool_call></tool_call> XML tags:",
        "<tool_call>",
        '{"name": <function-name>, "arguments": <args-json-object>}',
        "</tool_call>",
    ]


def test_error_text():
    assert error_text("no") == "\nExecution error:\nno\n"

"""Fixtures: trajectories to look at, made by hand, and a reader of the pages that show them."""

from __future__ import annotations

import contextlib
import html.parser

import numpy as np
import pytest
from PIL import Image

from pixel_reasoner_jax.trajectory import Ended, OperationRecord, Trajectory

EVIL = '</p></details><script>alert(1)</script><img src=x onerror="alert(2)">\x1b[31m&lt;'


def text(value, **extra):
    return {"type": "text", "text": value, **extra}


def message(role, *content):
    return {"role": role, "content": list(content)}


def call(name, arguments):
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


@pytest.fixture
def make_trajectory():
    """A trajectory with one crop, one failed call and an answer; keywords replace its fields."""

    def make(image=None, **fields) -> Trajectory:
        image = image or Image.new("RGB", (400, 300), (200, 30, 30))
        box = (40, 30, 240, 180)
        messages = [
            message("system", text("You are a helpful assistant.")),
            message("user", {"type": "image", "image": image}, text("What is it?\n\nGuidelines: look.")),
            message("assistant", text("Let me zoom in.\n" + call("crop_image_normalized", '{"bbox_2d": [0.2]}'))),
            message("user", text("\nHere is the cropped image:"), {"type": "image", "image": image.crop(box)}),
            message("assistant", text("Again.\n" + call("crop_image_normalized", "{}"))),
            message("user", text("\nExecution error:\nno box\n")),
            message("assistant", text("It is \\boxed{red}.")),
        ]
        operations = [
            OperationRecord(
                0, "crop_image_normalized", {"bbox_2d": [0.2]}, boxes=(box,), sizes=((196, 140),), sources=(0,)
            ),
            OperationRecord(2 - 1, "crop_image_normalized", {}, error="no box"),
        ]
        defaults = dict(
            query_id="q1",
            question="What is it?",
            reference="red",
            messages=messages,
            tokens=np.arange(10, dtype=np.int32),
            source=np.array([0, 0, 0, 1, 1, 2, 2, 1, 1, 1], np.int8),
            train=np.zeros(10, bool),
            media=[],
            operations=operations,
            ended=Ended.ANSWER,
        )
        return Trajectory(**{**defaults, **fields})

    return make


class _Outline(html.parser.HTMLParser):
    """Elements and attributes of a page; an element closed out of order is an error."""

    VOID = {"img", "meta"}

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.attributes = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()


@pytest.fixture
def outline():
    """Parses HTML, asserts that it is well formed and harmless, and returns its outline."""

    def parse(page: str) -> _Outline:
        result = _Outline()
        result.feed(page)
        result.close()
        assert result.open == []
        assert not {"script", "iframe", "object", "link", "base", "form"} & set(result.tags)
        assert not [name for name, _ in result.attributes if name.startswith("on")]
        for name, value in result.attributes:
            if name in ("src", "href"):
                assert value.startswith("data:image/")
        return result

    return parse


class InTurn:
    """Iterates over items; those that are exceptions are raised, after which it goes on, as a policy's stream does."""

    def __init__(self, *items):
        self._items = iter(items)

    def __iter__(self):
        return self

    def __next__(self):
        item = next(self._items)
        if isinstance(item, Exception):
            raise item
        return item


class RulePolicy:
    """Answers "i" to query i and "wrong" in every second sample; remembers how it was asked."""

    def __init__(self, make_trajectory):
        self.make, self.calls = make_trajectory, []

    @contextlib.contextmanager
    def stream(self, queries, *, samples, seed, temperature):
        queries = list(queries)
        self.calls.append((len(queries), samples, seed, temperature))
        yield ((number, self._answer(queries[number], sample)) for sample, number in self._order(len(queries), samples))

    @staticmethod
    def _order(count, samples):
        """Later queries and samples first, as happens."""
        return [(sample, number) for sample in reversed(range(samples)) for number in reversed(range(count))]

    def _answer(self, query, sample):
        answer = "wrong" if sample % 2 else query["answer"]
        messages = [message("user", text(query["question"])), message("assistant", text(f"\\boxed{{{answer}}}"))]
        recovered = self.make().operations[:1]
        return self.make(
            query_id=query["id"], reference=query["answer"], messages=messages, sample=sample, operations=recovered
        )

"""A served model against a real server: what it is sent, how its turns are read, and what becomes of failures."""

import base64
import io
import itertools
import json
import re
import threading

import numpy as np
import pytest
from PIL import Image

from pixel_reasoner_jax.endpoint import Completion, EndpointError
from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.operations import Call, CropImage, OperationError, Registry, make_registry, parse_call
from pixel_reasoner_jax.processing import Budgets
from pixel_reasoner_jax.rollout import Limits, OperationRun, SamplingSettings, answered
from pixel_reasoner_jax.rollout.dialogue import EpisodeEnd, TurnText
from pixel_reasoner_jax.rollout.prompt import GUIDELINES, TEXT_ONLY_GUIDELINES
from pixel_reasoner_jax.rollout.served import REFUSED, SILENT, ServedPolicy, UnansweredError
from pixel_reasoner_jax.rollout.served_dialogue import turn_text, unclosed_tag
from pixel_reasoner_jax.trajectory import Ended
from tests.endpoint.chat_server import pictures, said

BUDGETS = Budgets(image=(4, 12), crop=(4, 16), frame=(4, 8), video=(4, 6), video_frames=4)
CROP = {"name": "crop_image_normalized", "arguments": {"bbox_2d": [14, 14, 70, 70], "target_image": 1}}
CALL = f"Let me look.\n<tool_call>\n{json.dumps(CROP)}\n</tool_call>"
RIGHT = "It is \\boxed{red}."


def image(shade=0, size=(224, 168)):
    """A gradient, so that the place of a crop shows."""
    columns, rows = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    return Image.fromarray(np.stack([columns, rows, np.full_like(rows, shade)], -1).astype(np.uint8))


def queries(count, **more):
    return [{"id": f"q{i}", "question": f"Question {i}?", "images": [image(i)], **more} for i in range(count)]


@pytest.fixture
def policy(connect):
    def make(concurrency=4, cache=None, **options):
        settings = {"concurrency": concurrency, **({"cache": cache} if cache else {})}
        return ServedPolicy(connect(isolated=True, **settings), **{"budgets": BUDGETS, **options})

    return make


def turns(request):
    """How many turns of the assistant a request holds."""
    return sum(message["role"] == "assistant" for message in request["messages"])


def asked(request):
    """The number of the query that a request is about."""
    text = next(item["text"] for item in request["messages"][1]["content"] if item["type"] == "text")
    return int(text.split("?")[0].split()[-1])


def script(*texts, finish="stop"):
    """Says one text after the other, the last one for ever."""
    return lambda exchange: exchange.say(texts[min(turns(exchange.request), len(texts) - 1)], finish)


def opened(url):
    assert url.startswith("data:image/png;base64,")
    return Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))


def test_a_conversation_with_a_crop_in_between(server, policy):
    server.reply, events = script(CALL, RIGHT), []
    asked = queries(1, answer="red", pixel_box=[56, 42, 112, 84])
    [[trajectory]] = policy().rollout(asked, temperature=0.0, on_event=events.append)
    assert trajectory.object_box == (0.25, 0.25, 0.5, 0.5)
    first, second = server.requests
    system, user = first["messages"]
    assert system["role"] == "system" and '"name": "crop_image_normalized"' in system["content"]
    assert said(first) == f"Question 0?\n\n{GUIDELINES}" and [opened(u).size for u in pictures(first)] == [(112, 84)]
    assert first["temperature"] == 0 and first["max_tokens"] == Limits().max_response_tokens and "seed" not in first
    assert second["messages"][:2] == first["messages"]
    assert second["messages"][2] == {"role": "assistant", "content": CALL}
    # Coordinates are those of the image as it was sent: half as large. The crop has the pixels of the original.
    [crop] = pictures(second)
    assert said(second) == "\nHere is the cropped image (Image Size: 112x84):" and opened(crop).size == (112, 84)
    [record] = trajectory.operations
    assert record.boxes == ((6, 11, 162, 157),) and record.sizes == ((112, 84),) and record.sources == (0,)
    expected = image().crop(record.boxes[0]).resize((112, 84), Image.Resampling.BICUBIC)
    assert np.array_equal(opened(crop), expected)
    assert (trajectory.ended, trajectory.response, trajectory.reference) == (Ended.ANSWER, RIGHT, "red")
    assert (trajectory.counted, trajectory.sampled, len(trajectory.tokens)) == (20, 20, 0)
    assert [media.size for media in trajectory.media] == [(112, 84)] * 2
    assert [message["role"] for message in trajectory.messages] == ["system", "user", "assistant", "user", "assistant"]
    assert [type(event) for event in events] == [TurnText, OperationRun, TurnText, EpisodeEnd]


def test_without_operations(server, policy):
    server.reply = script(CALL)
    [[trajectory]] = policy(text_only=True).rollout(queries(1))
    assert server.requests[0]["messages"][0]["content"] == "You are a helpful assistant."
    assert said(server.requests[0]).endswith(TEXT_ONLY_GUIDELINES)
    assert trajectory.ended == Ended.ANSWER and trajectory.operations == []


def test_calls_that_the_server_has_read(server, policy):
    """They are put back into the text, which is what the model is shown of its own turn."""

    def reply(exchange):
        if turns(exchange.request):
            return exchange.say(RIGHT)
        function = {"name": CROP["name"], "arguments": json.dumps(CROP["arguments"])}
        message = {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "function": function}]}
        exchange.send(200, {"choices": [{"message": message, "finish_reason": "tool_calls"}]})

    server.reply = reply
    [[trajectory]] = policy().rollout(queries(1))
    assert [operation.error for operation in trajectory.operations] == [None]
    assert server.requests[1]["messages"][2]["content"] == f"<tool_call>\n{json.dumps(CROP)}\n</tool_call>"
    assert trajectory.sampled is None  # the server has not counted


CALLED = '<tool_call>\n{"name": "x", "arguments": %s}\n</tool_call>'
TURNS = [
    (Completion("a", (("x", '{"b": 1}'),)), f"a\n{CALLED}" % '{"b": 1}', Call),
    (Completion("", (("x", " "),)), CALLED % "{}", Call),
    (Completion(CALL, (("x", "{}"),)), CALL, Call),  # it is in the text too
    (Completion("", (("x", '{"b": 1'),)), CALLED % '{"b": 1', OperationError),
    (Completion("", (("x", "{}"), ("y", "{}"))), None, OperationError),
    (Completion("", (("x", '{}}</tool_call>{"name'),)), None, OperationError),
    (Completion("", (('x"<', "[" * 10_000),)), None, OperationError),
    (Completion("a</s>"), "a</s>", type(None)),
    (Completion("a", stopped_by="</s>"), "a</s>", type(None)),
    (Completion("a", stopped_by="other"), "a", type(None)),
    (Completion("half \ud800"), "half ?", type(None)),
    (Completion("", refusal="no"), "no", type(None)),
]


@pytest.mark.parametrize("completion,text,outcome", TURNS)
def test_the_text_of_a_turn(completion, text, outcome):
    written = turn_text(completion, ("</s>",))
    assert text is None or written == text
    assert isinstance(parse_call(written), outcome)


@pytest.mark.parametrize("says", [True, False])
def test_a_call_that_a_stop_string_ends(server, policy, says):
    """Servers leave the string out; only some say which it was."""
    asked = iter(["I turn it.\n<action>rotate by 90 degrees in image 1", "It is <b>4</b>, \\boxed{4}"])

    def reply(exchange):
        text = next(asked)
        stopped = {"stop_reason": "</action>"} if says and "<action>" in text else {}
        choice = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop", **stopped}
        exchange.send(200, {"choices": [choice]})

    server.reply = reply
    registry = make_registry(("rotate_image",), "action")
    [[trajectory]] = policy(registry=registry).rollout(queries(1))
    assert [operation.error for operation in trajectory.operations] == [None]
    assert trajectory.ended == Ended.ANSWER and trajectory.response == "It is <b>4</b>, \\boxed{4}"
    assert server.requests[0]["stop"] == ["</action>"]
    assert server.requests[1]["messages"][2]["content"].endswith("in image 1</action>")


def test_a_tag_that_a_server_has_left_open_is_closed():
    tags = ("</action>", "</code>", "END")
    assert unclosed_tag("a <action>b", tags) == "</action>" and unclosed_tag("<action>a<code>b", tags) == "</code>"
    assert not any(unclosed_tag(text, tags) for text in ("", "a", "<action>b</action>", "END", "</action> a"))
    assert unclosed_tag("<code>", ()) == unclosed_tag("<code>", ("END",)) == ""


def test_a_call_that_cannot_be_read_or_run_is_answered_with_the_error(server, policy):
    server.reply = script("<tool_call>{</tool_call>", CALL.replace("14, 14", "71, 71"), "<tool_call>", RIGHT)
    [[trajectory]] = policy().rollout(queries(1))
    assert trajectory.ended == Ended.ANSWER and trajectory.response == RIGHT
    assert [operation.succeeded for operation in trajectory.operations] == [False] * 3
    texts = [said(request) for request in server.requests[1:]]
    assert all(text.startswith("\nExecution error:\n") for text in texts) and "x1 < x2" in texts[1]


def test_limits(server, policy):
    server.reply = script(CALL)
    [[trajectory]] = policy(limits=Limits(max_operations=2)).rollout(queries(1))
    assert (trajectory.ended, len(server.requests)) == (Ended.OPERATIONS, 3)
    assert [operation.succeeded for operation in trajectory.operations] == [True, True, False]
    [[trajectory]] = policy(limits=Limits(max_images=1)).rollout(queries(1), seed=1)
    assert (trajectory.ended, len(trajectory.media)) == (Ended.IMAGES, 2)


def test_limits_on_tokens_are_kept_by_what_the_server_counts(server, policy):
    """The server counts 100 tokens of every prompt, and 10 of every turn; a crop is 12 and its text about as many."""
    server.reply = script(CALL)
    [[trajectory]] = policy(limits=Limits(max_response_tokens=30)).rollout(queries(1))
    assert trajectory.ended == Ended.TOKENS and trajectory.operations[0].error == "refused: max_tokens"
    assert [request["max_tokens"] for request in server.requests] == [30]
    server.requests.clear()
    limits = Limits(max_response_tokens=100, max_length=150)
    [[trajectory]] = policy(limits=limits).rollout(queries(1), sampling=SamplingSettings(max_turn_tokens=60))
    assert [request["max_tokens"] for request in server.requests] == [60, *[16] * 4]
    assert trajectory.ended == Ended.OPERATIONS
    server.reply = script("so long", finish="length")
    [[trajectory]] = policy().rollout(queries(1), seed=3)
    assert trajectory.ended == Ended.TOKENS


def test_sampling_is_what_was_asked_for(server, policy, tmp_path):
    server.reply = script(RIGHT)
    later = SamplingSettings(0.5, stop_strings=("END",))
    sampling = SamplingSettings(0.9, top_p=0.8, top_k=7, repetition_penalty=1.5, stop_strings=("END",), later=later)
    policy(concurrency=1).rollout(queries(2), 2, 5, sampling=sampling)
    options = {"temperature": 0.9, "top_p": 0.8, "top_k": 7, "repetition_penalty": 1.5, "stop": ["END"]}
    assert all(options.items() <= request.items() for request in server.requests)
    seeds = [request["seed"] for request in server.requests]
    assert len(set(seeds)) == 4 and all(0 <= seed < 2**31 for seed in seeds)
    policy(cache=tmp_path / "elsewhere").rollout(queries(2), 2, 5, sampling=sampling)
    assert sorted(request["seed"] for request in server.requests[4:]) == sorted(seeds)
    with pytest.raises(UserError, match="forbidden_tokens"):
        policy().rollout(queries(1), sampling=SamplingSettings(forbidden_tokens=(1,)))


def test_a_video_is_its_frames(server, policy):
    call = {"name": "select_frames", "arguments": {"target_frames": [2]}}
    server.reply = script(f"<tool_call>{json.dumps(call)}</tool_call>", RIGHT)
    frames = [image(20 * number, (168, 112)) for number in range(8)]
    [[trajectory]] = policy().rollout([{"id": "v", "question": "Who?", "video": frames, "fps": 4}])
    first, second = server.requests
    assert re.match(r"A video, as 4 frames, at 0\.\d, \d\.\d, \d\.\d, 1\.\d seconds:Who\?", said(first))
    assert len(pictures(first)) == 4 and {opened(url).size for url in pictures(first)} == {(84, 56)}
    assert len(pictures(second)) == 1 and "selected frames" in said(second)
    assert [(media.kind, media.size) for media in trajectory.media] == [("video", (84, 56)), ("image", (84, 56))]


def test_what_has_no_answer_is_named_and_asked_for_again(server, policy):
    def reply(exchange):
        if asked(exchange.request) in (2, 4):
            return exchange.fail(500) if asked(exchange.request) == 2 else exchange.fail(413, "too large")
        script(CALL, RIGHT)(exchange)

    server.reply, found = reply, []
    with pytest.raises(UnansweredError) as caught, policy().stream(queries(6)) as stream:
        found.extend(stream)
    assert sorted(number for number, _ in found) == [0, 1, 3, 5]
    assert set(caught.value.failures) == {("q2", 0), ("q4", 0)}
    message = str(caught.value)
    assert message.startswith("the endpoint gave no answer to 2 queries, but to all others: q")
    assert "status 413" in message and "did not answer in 3 attempts" in message and "same command again" in message
    server.reply, before = script(CALL, RIGHT), len(server.requests)
    groups = policy().rollout(queries(6))
    assert all(trajectory.response == RIGHT for [trajectory] in groups)
    assert len(server.requests) == before + 4  # two turns of two queries


def test_an_endpoint_that_is_down_is_not_asked_for_ever(server, policy):
    server.reply = lambda exchange: exchange.hang_up()
    with pytest.raises(UnansweredError, match="asked no more.*and [0-9]+ more"):
        policy(concurrency=2).rollout([{"id": str(i), "question": "?"} for i in range(40)])
    assert len(server.requests) <= 3 * (SILENT + 4)
    server.reply = lambda exchange: exchange.fail(400, "no such parameter")
    with pytest.raises(UnansweredError, match="no such parameter") as caught:
        policy(text_only=True).rollout([{"id": str(i), "question": f"{i}?"} for i in range(REFUSED + 40)])
    assert len(caught.value.failures) == REFUSED
    server.reply = lambda exchange: exchange.fail(401, "bad key")
    with pytest.raises(EndpointError, match="bad key"):
        policy().rollout(queries(3))


def test_refusals_and_contexts(server, policy):
    server.reply = lambda exchange: exchange.say("half", "content_filter")
    [[trajectory]] = policy().rollout(queries(1))
    assert (trajectory.ended, trajectory.response) == (Ended.WITHHELD, "half")
    server.reply = lambda exchange: exchange.fail(400, "harmful", "content_filter")
    [[trajectory]] = policy().rollout(queries(1), seed=1)
    assert (trajectory.ended, trajectory.response) == (Ended.WITHHELD, "")

    def full(exchange):
        exchange.fail(400, "maximum context length is 10") if turns(exchange.request) else exchange.say(CALL)

    server.reply = full
    [[trajectory]] = policy().rollout(queries(1), seed=2)
    assert (trajectory.ended, len(trajectory.operations)) == (Ended.LENGTH, 1)
    server.reply = lambda exchange: exchange.fail(400, "maximum context length is 10")
    with pytest.raises(UnansweredError, match="maximum context length"):
        policy().rollout(queries(1), seed=3)


def test_media_that_cannot_be_used(server, policy, tmp_path):
    server.reply = script(RIGHT)
    bad = [{"id": "gone", "question": "?", "images": [str(tmp_path / "no.png")]}]
    bad += [{"id": "long", "question": "?", "images": [Image.new("RGB", (4000, 10))]}]
    problems = []
    with policy().stream(bad + queries(2), samples=2) as stream:
        assert sorted(number for number, _ in answered(stream, problems.append)) == [2, 2, 3, 3]
    assert sorted(error.number for error in problems) == [0, 1]
    with pytest.raises(UserError, match="no.png"):
        policy().rollout(bad[:1])


def test_queries_are_read_as_they_are_asked(server, policy):
    server.reply, read = script(RIGHT), []

    def endless():
        for number in itertools.count():
            read.append(number)
            yield {"id": str(number), "question": f"{number}?"}

    with policy(concurrency=2).stream(endless()) as stream:
        for _ in range(5):
            next(stream)
    assert len(read) <= 5 + 4
    assert server.most <= 2


def test_an_operation_that_hangs_or_breaks_fails_alone(server, policy):
    class Odd(CropImage):
        def observation_text(self, result, sizes):
            raise RuntimeError("a bug")

    server.reply = script(CALL, RIGHT)
    [[trajectory]] = policy(registry=Registry([Odd()])).rollout(queries(1))
    assert trajectory.operations[0].error == "crop_image_normalized failed (RuntimeError)"
    released = threading.Event()

    class Slow(CropImage):
        def observation_text(self, result, sizes):
            released.wait(10)
            return "late"

    try:
        slow = policy(operation_seconds=0.05, registry=Registry([Slow()]))
        [[trajectory]] = slow.rollout(queries(1), seed=1)
    finally:
        released.set()
    assert trajectory.operations[0].error == "the operation took more than 0.05 seconds"
    assert trajectory.response == RIGHT

"""Chat completions of the server, whole and streamed."""

import asyncio
import base64
import concurrent.futures
import contextlib
import functools
import gc
import http.client
import io
import json
import logging
import time

import pytest

from pixel_reasoner_jax.operations import Call
from pixel_reasoner_jax.operations.syntaxes import ToolCallTags
from pixel_reasoner_jax.rollout import Limits, Policy
from pixel_reasoner_jax.serve import answer as answer_module
from pixel_reasoner_jax.serve.answer import Answer, Inbox, Post
from pixel_reasoner_jax.serve.app import Service
from pixel_reasoner_jax.serve.metrics import ServerMetrics
from pixel_reasoner_jax.serve.replies import Reply, TurnFilter
from pixel_reasoner_jax.serve.request import RequestLimits, read_body
from pixel_reasoner_jax.serve.server import Server, bind, serve
from tests.rollout.zooming_policy import Zooming
from tests.serve.conftest import LENGTH, asked, film, picture

LETTERS = "eao "
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"properties": {"at": {"type": "string"}}}}}


def content(answer):
    return [choice["message"]["content"] for choice in answer["choices"]]


def test_whole_and_streamed_answers_agree(client):
    body = asked(n=2, logprobs=True, stream_options={"include_usage": True})
    status, answer = client.chat(body)
    assert status == 200 and answer["model"] == "tiny" and len(content(answer)) == 2
    assert content(answer)[0] != content(answer)[1]
    for choice in answer["choices"]:
        assert choice["finish_reason"] == "length" and len(choice["logprobs"]["content"]) == 12
    usage = answer["usage"]
    assert usage["completion_tokens"] == 24 and usage["prompt_tokens_details"]["image_tokens"] == 16
    pieces = client.stream(body)
    assert pieces[-1]["usage"] == usage
    texts = ["", ""]
    for piece in pieces[:-1]:
        [choice] = piece["choices"]
        texts[choice["index"]] += choice["delta"].get("content") or ""
    assert texts == content(answer)


def test_an_answer_does_not_depend_on_its_company(client):
    bodies = [asked(f"Question {i}?", seed=i, temperature=0.5 * (i % 3), top_p=0.7 if i % 2 else 1) for i in range(6)]
    alone = [content(client.chat(body)[1]) for body in bodies]
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        together = [content(answer) for _, answer in pool.map(client.chat, bodies)]
    assert alone == together and len({texts[0] for texts in alone}) > 3


def test_operations_run_inside(served):
    client = served(registry=Zooming())
    body = asked(max_tokens=150, stop=[*LETTERS])  # short turns, each of which calls
    status, answer = client.chat(body)
    assert status == 200
    extra = answer["choices"][0]["message"]["pixel_reasoner"]
    assert extra["operations"] and extra["operations"][0]["images"][0].startswith("data:image/jpeg;base64,")
    assert len(extra["operations"][0]["boxes"]) == 1 and answer["usage"]["pixel_reasoner"]["observation_tokens"] > 4
    shown = [p["choices"][0]["delta"].get("pixel_reasoner", {}) for p in client.stream(body)]
    assert [one["operation"] for one in shown if "operation" in one] == extra["operations"]


def test_a_client_runs_its_own_tools(served, monkeypatch):
    monkeypatch.setattr(ToolCallTags, "parse", lambda self, text, operations: Call("look", {"at": "é"}))
    client = served()
    _, answer = client.chat(asked(tools=[TOOL], stop=[*LETTERS]))
    [choice] = answer["choices"]
    assert choice["finish_reason"] == choice["message"]["pixel_reasoner"]["ended"] == "tool_calls"
    [call] = choice["message"]["tool_calls"]
    assert call["function"]["name"] == "look" and json.loads(call["function"]["arguments"]) == {"at": "é"}
    deltas = [p["choices"][0]["delta"] for p in client.stream(asked(tools=[TOOL], stop=[*LETTERS]))]
    [calls] = [delta["tool_calls"] for delta in deltas if "tool_calls" in delta]
    assert calls[0]["function"] == call["function"]
    turns = [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {
            "role": "tool",
            "tool_call_id": call["id"],
            "content": [{"type": "image_url", "image_url": {"url": picture()}}],
        },
    ]
    body = asked(tools=[TOOL], tool_choice="none")
    status, answer = client.chat({**body, "messages": body["messages"] + turns})
    assert status == 200 and "tool_calls" not in answer["choices"][0]["message"]
    assert answer["usage"]["prompt_tokens_details"]["image_tokens"] == 32


def test_stop_strings_are_left_out(client):
    text = content(client.chat(asked(max_tokens=40))[1])[0]
    stop = text[len(text) // 2 :][:3]
    body = asked(max_tokens=40, stop=[stop])
    [choice] = client.chat(body)[1]["choices"]
    assert choice["message"]["content"] == text[: text.find(stop)]
    assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", stop)
    streamed = "".join(p["choices"][0]["delta"].get("content") or "" for p in client.stream(body))
    assert streamed == choice["message"]["content"]


def watched(source, **more):
    parts = [{"type": "video_url", "video_url": source}, {"type": "text", "text": "What happens?"}]
    return {**asked(**more), "messages": [{"role": "user", "content": parts}]}


def test_a_video_is_watched_and_its_frames_selected(served, tmp_path, monkeypatch):
    pytest.importorskip("av", reason="PyAV is not installed")
    client, url = served(), film(tmp_path)
    tokens = []
    for rate in ({}, {"fps": 1}):  # at one frame a second there are two of the film
        status, answer = client.chat(watched({"url": url, **rate}))
        assert status == 200
        tokens.append(answer["usage"]["prompt_tokens_details"]["image_tokens"])
    assert tokens[0] > tokens[1] >= 4
    call = Call("select_frames", {"target_frames": [1, 3]})
    monkeypatch.setattr(ToolCallTags, "parse", lambda self, text, operations: call)
    answer = client.chat(watched({"url": url}, max_tokens=150, stop=[*LETTERS]))[1]
    operation = answer["choices"][0]["message"]["pixel_reasoner"]["operations"][0]
    assert operation["error"] is None and len(operation["images"]) == 2


def test_a_video_that_is_none_is_refused(client, tmp_path):
    pytest.importorskip("av", reason="PyAV is not installed")
    data = base64.b64decode(film(tmp_path).partition(",")[2])
    for broken in (b"", b"no video", data[:100], data[:300] + bytes(len(data) - 300)):
        status, answer = client.chat(watched({"url": f"data:video/mp4;base64,{base64.b64encode(broken).decode()}"}))
        assert status == 400 and answer["error"]["param"] == "messages"
    two = watched({"url": film(tmp_path)})
    two["messages"][0]["content"] *= 2
    assert client.chat(two)[0] == 400
    both = asked()
    both["messages"] += watched({"url": film(tmp_path)})["messages"]
    assert client.chat(both)[0] == 400 and client.chat(asked())[0] == 200


def everything_is_free(client, seconds=30):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        load = client.engine.load
        if not client.engine._tickets and not load.active and not load.waiting and load.free_pages == load.pages:
            return True
        time.sleep(0.05)
    return False


def test_a_client_that_hangs_up_leaves_the_batch(client):
    for stream in (False, True):
        connection = http.client.HTTPConnection(client.address, timeout=60)
        with contextlib.closing(connection):
            body = json.dumps(asked(max_tokens=150, n=4, stream=stream)).encode()
            connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
            while not client.engine.load.active:
                time.sleep(0.01)
        assert everything_is_free(client)
    assert client.chat(asked())[0] == 200


def test_a_client_that_takes_nothing_leaves_the_batch(client, monkeypatch):
    monkeypatch.setattr(answer_module, "SEND_SECONDS", 0.05)
    metrics, engine = ServerMetrics(), client.engine
    request = read_body(json.dumps(asked(max_tokens=150, stream=True)).encode(), ["tiny"], RequestLimits())

    async def never(*_):
        await asyncio.Event().wait()

    async def answer():
        post, inbox = Post(), Inbox()
        ticket = engine.submit(request, functools.partial(post.send, inbox))
        reply = Reply(ticket, engine.policy.processor)
        await asyncio.wait_for(Answer(engine, metrics, ticket, reply, inbox, 0.0)({"type": "http"}, never, never), 60)

    asyncio.run(answer())
    assert 'requests_total{status="hung_up"} 1' in metrics.text(engine.load)
    assert everything_is_free(client)


def test_too_many_are_turned_away(served):
    client = served(queue=0, slots=1)
    status, headers, body = client.send("POST", "/v1/chat/completions", asked(n=2))
    assert status == 429 and headers["Retry-After"] and json.loads(body)["error"]["type"] == "rate_limit_error"
    assert client.chat(asked())[0] == 200


def test_a_failed_batch_is_followed_by_another(client, monkeypatch):
    scheduler = client.engine._scheduler
    monkeypatch.setattr(scheduler, "_decode", lambda *_: 1 / 0)
    status, answer = client.chat(asked())
    assert status == 500 and answer["error"]["type"] == "server_error"
    assert client.chat(asked())[0] == 200


def test_models_beside_each_other(served, world):  # noqa: F811
    client = served(
        beside=Policy(*world, limits=Limits(2, 160, max_length=LENGTH), slots=4, decode_steps=8, text_only=True)
    )
    names = [model["id"] for model in json.loads(client.send("GET", "/v1/models")[2])["data"]]
    assert names == ["tiny", "beside"] and client.send("GET", "/v1/models/beside")[0] == 200
    (_, first), (_, second) = (client.chat(asked(model=name)) for name in names)
    assert (first["model"], second["model"]) == ("tiny", "beside")
    assert first["usage"]["prompt_tokens"] > second["usage"]["prompt_tokens"]  # which are told of no operations
    assert "pixel_reasoner_active_responses 0" in client.send("GET", "/metrics")[2].decode()


def test_what_is_told_of_the_server(client):
    assert json.loads(client.send("GET", "/v1/models")[2])["data"][0]["id"] == "tiny"
    assert client.send("GET", "/v1/models/tiny")[0] == 200 and client.send("GET", "/v1/models/x")[0] == 404
    assert client.send("GET", "/health")[0] == 200
    text = client.send("GET", "/metrics")[2].decode()
    for name in ('requests_total{status="200"}', 'tokens_total{kind="image"}', "queue_queries", "cache_pages_free"):
        assert f"pixel_reasoner_{name} " in text
    assert "request_seconds_bucket" in text
    status, _, body = client.send("GET", "/nothing")
    assert status == 404 and json.loads(body)["error"]["type"] == "invalid_request_error"
    assert client.send("GET", "/v1/chat/completions")[0] == 405


def test_what_was_there_before_is_not_searched_for_garbage(monkeypatch):
    there, searched = [[] for _ in range(5000)], []
    gc.collect()
    assert len(gc.get_objects(2)) > len(there)
    monkeypatch.setattr(Server, "run", lambda *_: searched.append(len(gc.get_objects(2))))
    with bind("127.0.0.1", 0) as bound:
        serve(Service({}, RequestLimits()), bound, "127.0.0.1", 0.0)
    assert searched[0] < 1000


def test_the_log_handlers_of_the_process_stay_as_they_are():
    class Closes(logging.StreamHandler):  # as absl's does
        def close(self):
            self.stream.close()
            super().close()

    said = io.StringIO()
    handler = Closes(said)
    try:
        Server(Service({}, RequestLimits()), "127.0.0.1", 0, 0.0)
        assert not said.closed
    finally:
        handler.close()


def test_a_page_that_has_its_name_lead_here_gets_nothing(client, served):
    path = "/v1/models"
    for host in ("evil.example", "evil.example:8000", "10.0.0.7", "localhost.evil.example", "[", ""):
        status, _, body = client.send("GET", path, headers={"Host": host})
        assert status == 403 and "evil" not in body.decode()
        assert client.send("POST", "/v1/chat/completions", asked(), {"Host": host})[0] == 403
    for host in ("localhost:8000", "LOCALHOST", "127.0.0.1", "[::1]:80"):
        assert client.send("GET", path, headers={"Host": host})[0] == 200
    keyed = {"Host": "behind.a.proxy", "Authorization": "Bearer geheim"}
    assert served(api_key="geheim").send("GET", path, headers=keyed)[0] == 200


def test_a_key(served):
    client = served(api_key="geheim")
    assert client.chat(asked())[0] == 401
    assert client.chat(asked(), Authorization="Bearer gehei")[0] == 401
    assert client.chat(asked(), Authorization="Bearer geheim")[0] == 200
    assert client.send("GET", "/metrics")[0] == 401 and client.send("GET", "/health")[0] == 200


@pytest.mark.parametrize("grace,dropped", [(60.0, 0), (0.0, 1)])
def test_the_end_finishes_or_says_what_it_dropped(served, grace, dropped):
    client = served(grace=grace)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        answer = pool.submit(client.chat, asked(max_tokens=150))
        while not client.engine.load.active:
            time.sleep(0.01)
        client.server.should_exit = True
        status, body = answer.result()
    assert status == (503 if dropped else 200)
    end = time.monotonic() + 30
    while (client.engine._thread.is_alive() or client.server.dropped != dropped) and time.monotonic() < end:
        time.sleep(0.02)
    assert client.server.dropped == dropped


def test_what_may_become_a_marker_is_held_back():
    whole = "a<to<tool_calls <tool_call>\n{} STO STOP more"
    for stops, opening, expected in (
        ((), "<tool_call>", "a<to<tool_calls "),
        (("STOP",), None, "a<to<tool_calls <tool_call>\n{} STO "),
        (("ll>", "STOP"), "<tool_call>", "a<to<tool_calls "),
        ((), None, whole),
    ):
        for size in range(1, len(whole)):
            shown = TurnFilter(stops, opening)
            pieces = [shown.push(whole[start : start + size]) for start in range(0, len(whole), size)]
            assert "".join([*pieces, shown.close(has_call=opening is not None)]) == expected
    held = TurnFilter(("STOP",), None)
    assert [held.push(piece) for piece in ("a S", "TO", "ne ST", "OP b")] == ["a ", "", "STOne ", ""]
    assert held.close(has_call=False) == "" and held.stopped_by == "STOP"

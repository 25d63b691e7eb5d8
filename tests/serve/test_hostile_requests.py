"""Bodies and media that no client should send: each is refused in OpenAI's form, and touches nothing else."""

import base64
import json
import random
import re
import socket
import threading

import pytest

from pixel_reasoner_jax.processing.sources import MediaSettings, media_settings, use_media_settings
from pixel_reasoner_jax.serve import sources
from pixel_reasoner_jax.serve.errors import ApiError
from pixel_reasoner_jax.serve.request import RequestLimits, read_body
from pixel_reasoner_jax.serve.sources import MediaSources, is_public
from tests.serve.conftest import asked, picture

LIMITS = RequestLimits(body_bytes=2**20, images=2, samples=2, text=1000)


@pytest.fixture(scope="module")
def client(served):
    return served(limits=LIMITS)


def image(url):
    return {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]}


def said(*messages):
    return {"messages": list(messages)}


USER = {"role": "user", "content": "hi"}
CASES = [
    b"",
    b"{",
    b"\xff\xfe",
    b"[" * 100_000,
    b'{"a":' + b"9" * 5000 + b"}",
    b"[1]",
    b'"x"',
    b'{"model": "tiny", "temperature": NaN}',
    {"messages": None},
    {"messages": []},
    {"messages": {}},
    {"messages": "hi"},
    {"messages": [None]},
    {"messages": [[]]},
    said({"role": "user"}),
    said({"role": ["user"], "content": "hi"}),
    said({"role": "critic", "content": "hi"}),
    said({"role": "user", "content": 7}),
    said({"role": "user", "content": [7]}),
    said({"role": "user", "content": [{"type": "text", "text": 7}]}),
    said({"role": "user", "content": [{"type": "input_audio"}]}),
    said({"role": "user", "content": [{"type": "image_url"}]}),
    said({"role": "user", "content": [{"type": "image_url", "image_url": {"url": 7}}]}),
    said({"role": "system", "content": [{"type": "image_url", "image_url": {"url": picture()}}]}, USER),
    said(USER, {"role": "assistant", "content": "hi"}),
    said({"role": "assistant", "tool_calls": 7}, USER),
    said({"role": "assistant", "tool_calls": [{"function": 7}]}, USER),
    said({"role": "user", "content": "x" * 1001}),
    image("data:image/png;base64,????"),
    image("data:image/png,raw"),
    image("data:image/png;base64," + base64.b64encode(b"no image").decode()),
    image(picture()[:-40]),
    image("/etc/passwd"),
    image("file:///etc/passwd"),
    image("../../etc/passwd"),
    image("http://127.0.0.1:80/"),
    image("https://example.com/a.png"),
    image("gs://bucket/a.png"),
    image("ftp://host/a.png"),
    {"messages": asked(images=3)["messages"]},
    {"n": 3},
    {"n": 0},
    {"n": True},
    {"n": 1.5},
    {"temperature": -1},
    {"temperature": "hot"},
    {"temperature": 1e400},
    {"top_p": 2},
    {"top_k": -1},
    {"seed": "x"},
    {"seed": 2**80},
    {"max_tokens": 0},
    {"max_tokens": -5},
    {"max_completion_tokens": []},
    {"stop": 7},
    {"stop": [""]},
    {"stop": ["x"] * 9},
    {"stop": ["x" * 1000]},
    {"stream": "yes"},
    {"stream": 1},
    {"stream_options": 7},
    {"stream_options": {"include_usage": 3}},
    {"logprobs": 5},
    {"top_logprobs": 3},
    {"logit_bias": {"5": 100}},
    {"response_format": {"type": "json_object"}},
    {"repetition_penalty": 1.2},
    {"pixel_reasoner": 7},
    {"pixel_reasoner": {"frames": "yes"}},
    {"model": None},
    {"model": "other"},
    {"model": ["tiny"]},
    {"tools": 7},
    {"tools": [7]},
    {"tools": [{"type": "function"}]},
    {"tools": [{"type": "function", "function": {"name": "a b"}}]},
    {"tools": [{"type": "function", "function": {"name": "a", "parameters": 7}}]},
    {"tools": [{"type": "function", "function": {"name": "a", "parameters": {"properties": 7}}}]},
    {"tools": [{"type": "function", "function": {"name": "a"}}] * 2},
    {"tool_choice": "required"},
    {"max_token": 7},
    {"x" * 10_000: 7},
    {"stream_options": {"usage": True}},
    {"pixel_reasoner": {"frame": True}},
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: repr(case)[:60])
def test_malformed_bodies(client, case):
    for more in ({}, {"stream": True}):
        body = case if isinstance(case, bytes) else {**asked(images=0), **more, **case}
        status, _, answer = client.send("POST", "/v1/chat/completions", body)
        assert 400 <= status < 500, answer
        error = json.loads(answer)["error"]
        assert error["message"] and error["type"] == "invalid_request_error" and "/etc/passwd" not in answer.decode()


def test_a_misspelt_field_is_named_and_what_says_nothing_of_the_answer_is_not_heeded():
    def read(**more):
        return read_body(json.dumps({**asked(images=0), **more}).encode(), ["tiny"], RequestLimits())

    for more, message in (
        ({"max_token": 7}, "there is no field 'max_token'; did you mean max_tokens?"),
        ({"zzz": 7}, "there is no field 'zzz'"),
        ({"reasoning_effort": "low"}, "there is no field 'reasoning_effort'"),
        ({"pixel_reasoner": {"frame": True}}, "no field 'pixel_reasoner.frame'; did you mean pixel_reasoner.frames?"),
    ):
        with pytest.raises(ApiError, match=re.escape(message)):
            read(**more)
    unheeded = {"user": "me", "parallel_tool_calls": True, "metadata": {"a": "b"}, "store": False, "zzz": None}
    assert read(**unheeded) == read()


def test_larger_than_the_limits(client, monkeypatch):
    assert client.send("POST", "/v1/chat/completions", b" " * (2**20 + 1))[0] == 413
    assert client.send("POST", "/v1/chat/completions", b"[" + b"1," * 400_000 + b"1]")[0] == 413
    assert client.send("POST", "/v1/chat/completions", asked(), {"Content-Type": "text/plain"})[0] == 415
    settings = media_settings()
    use_media_settings(MediaSettings(max_pixels=10_000), quiet=True)
    try:
        status, answer = client.chat(asked(images=1))
    finally:
        use_media_settings(settings, quiet=True)
    assert (
        status == 400 and "12544" not in answer["error"]["message"] or "limit of 10,000" in answer["error"]["message"]
    )


def test_a_prompt_longer_than_the_context(served):
    client = served()
    status, answer = client.chat(asked("word " * 3000))
    assert status == 400 and answer["error"]["code"] == "context_length_exceeded"
    assert client.chat(asked())[0] == 200


VALUES = [None, True, 0, -1, 1.5, 2**70, "", "x", "\ud800", [], [[]], {}, {"type": "text"}, [{"role": "user"}]]


def mutated(random_, value):
    """A copy of a JSON value with one part replaced, somewhere."""
    if isinstance(value, dict) and value and random_.random() < 0.9:
        key = random_.choice(list(value))
        return {**value, key: mutated(random_, value[key])}
    if isinstance(value, list) and value and random_.random() < 0.9:
        place = random_.randrange(len(value))
        return [*value[:place], mutated(random_, value[place]), *value[place + 1 :]]
    return random_.choice(VALUES)


def test_mutated_bodies_are_read_or_refused():
    random_ = random.Random(0)
    tool = {"type": "function", "function": {"name": "a", "parameters": {"properties": {"b": {}}}}}
    call = {"id": "1", "function": {"name": "a", "arguments": "{}"}}
    whole = asked(tools=[tool], stop=["x"], n=1, top_p=0.5, stream_options={"include_usage": True})
    whole["messages"] += [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "x"},
    ]
    read_body(json.dumps(whole).encode(), ["tiny"], LIMITS)
    refused = 0
    for _ in range(3000):
        body = whole
        for _ in range(random_.randint(1, 3)):
            body = mutated(random_, body)
        try:
            read_body(json.dumps(body).encode(), ["tiny"], LIMITS)
        except ApiError as error:
            assert 400 <= error.status < 500
            json.dumps(error.body).encode()
            refused += 1
    assert 1000 < refused < 3000


PRIVATE = [
    "127.0.0.1",
    "0.0.0.0",
    "10.1.2.3",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "224.0.0.1",
]
PRIVATE += ["::1", "::", "fe80::1%eth0", "fc00::1", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "64:ff9b::7f00:1"]
PRIVATE += ["2002:7f00:1::", "255.255.255.255", "ff02::1"]


def test_addresses():
    assert not any(map(is_public, PRIVATE))
    assert is_public("8.8.8.8") and is_public("2606:4700:4700::1111")


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/a.png",
        "http://localhost/a.png",
        "http://2130706433/a.png",
        "http://[::1]/a.png",
        "http://[::ffff:127.0.0.1]/a.png",
        "http://169.254.169.254/latest/meta-data",
        "http://user@8.8.8.8/",
        "http://8.8.8.8:22/",
        "http://8.8.8.8:99999/",
        "http:///a.png",
        "https://[/",
    ],
)
def test_urls_of_this_machine_are_refused_even_where_urls_are_allowed(monkeypatch, url):
    monkeypatch.setattr(socket, "create_connection", lambda *_: pytest.fail("connected"))
    with pytest.raises(ApiError) as refused:
        MediaSources(allow_urls=True).read(url)
    assert refused.value.status == 400


def test_a_download_goes_to_the_address_that_was_checked_and_follows_no_redirect(monkeypatch):
    """A name that means a private address when it is asked for again leads nowhere else."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        reached, connect, look_up = [], socket.create_connection, socket.getaddrinfo
        public = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("93.184.216.34", 80))]

        def connected(address, *more):
            reached.append(address)
            return connect(server.getsockname(), *more)

        monkeypatch.setattr(sources.socket, "create_connection", connected)
        monkeypatch.setattr(
            sources.socket,
            "getaddrinfo",
            lambda host, *more, **named: public if host == "example.com" else look_up(host, *more, **named),
        )

        answers = [
            b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1/\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabcd",
            b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 2000,
        ]

        def answer():
            for text in answers:
                connection, _ = server.accept()
                connection.recv(4096)
                connection.sendall(text)
                connection.close()

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        allowed = MediaSources(allow_urls=True, most_bytes=1000)
        with pytest.raises(ApiError, match="302: redirects are not followed"):
            allowed.read("http://example.com/a.png")
        assert allowed.read("http://example.com/a.png") == b"abcd"
        with pytest.raises(ApiError) as refused:
            allowed.read("http://example.com/a.png")
        assert refused.value.status == 413
        assert reached == [("93.184.216.34", 80)] * 3


def test_files_of_the_folder_alone(tmp_path):
    folder, outside = tmp_path / "media", tmp_path / "secret"
    folder.mkdir()
    outside.write_text("secret")
    (folder / "a.png").write_bytes(b"png")
    (folder / "link.png").symlink_to(outside)
    settings, allowed = media_settings(), MediaSources(allow_files=True, most_bytes=10)
    use_media_settings(MediaSettings(root=str(folder)), quiet=True)
    try:
        assert allowed.read("a.png") == allowed.read(f"file://{folder}/a.png") == b"png"
        for url in ("link.png", "../secret", str(outside), f"file://{outside}", ".", "none.png", "a\0b", "/dev/zero"):
            with pytest.raises(ApiError, match="there is no such file in the folder"):
                allowed.read(url)
        with pytest.raises(ApiError, match="this server reads no files"):
            MediaSources().read("a.png")
    finally:
        use_media_settings(settings, quiet=True)

"""The endpoint against a real server that fails in the usual ways."""

import concurrent.futures
import email.utils
import json
import time

import pytest

from pixel_reasoner_jax.endpoint import (
    Account,
    ContextError,
    Endpoint,
    EndpointError,
    EndpointSettings,
    FilteredError,
    RequestError,
    Spend,
)
from pixel_reasoner_jax.endpoint import client as module
from pixel_reasoner_jax.endpoint.client import RateLimit
from pixel_reasoner_jax.errors import UserError
from tests.endpoint.chat_server import said


def ask(endpoint, text="hello", attempt=0):
    return endpoint.complete([{"role": "user", "content": [{"type": "text", "text": text}]}], attempt)


def failing_first(times, fail):
    """Answers that fail so often, then succeed."""
    return lambda exchange: fail(exchange) if exchange.number <= times else exchange.say("fine")


COUNTED = '{"choices": [{"message": {"content": "fine"}}], "usage": {"prompt_tokens": %s}}'
CALLING = '{"choices": [{"message": {"tool_calls": %s}}]}'
PASSING = {
    "429": lambda exchange: exchange.fail(429),
    "500": lambda exchange: exchange.fail(500),
    "503": lambda exchange: exchange.send(503, "<html>overloaded</html>", Content_Type="text/html"),
    "408": lambda exchange: exchange.fail(408),
    "malformed": lambda exchange: exchange.send(200, '{"choices": [{"mess'),
    "a page": lambda exchange: exchange.send(200, "<html></html>", Content_Type="text/html"),
    "no choices": lambda exchange: exchange.send(200, {"choices": []}),
    "a list": lambda exchange: exchange.send(200, "[1]"),
    "null": lambda exchange: exchange.send(200, "null"),
    "no text": lambda exchange: exchange.send(200, {"choices": [{"message": {"content": [1]}}]}),
    "infinite usage": lambda exchange: exchange.send(200, COUNTED % "1e999"),
    "endless usage": lambda exchange: exchange.send(200, COUNTED % ("1" + "0" * 400)),
    "negative usage": lambda exchange: exchange.send(200, COUNTED % "-1000000000"),
    "hung up": lambda exchange: exchange.hang_up(),
    "cut": lambda exchange: exchange.send(200, COUNTED % 1, Content_Length="1000"),
    "huge": lambda exchange: exchange.send(200, COUNTED % 1 + " " * module.MOST_BYTES),
    "huge error": lambda exchange: exchange.send(400, " " * (module.MOST_BYTES + 1)),
    "compressed": lambda exchange: exchange.send(200, COUNTED % 1, Content_Encoding="gzip"),
    "interrupted": lambda exchange: exchange.say("half", "abort"),
    "calls that are a text": lambda exchange: exchange.send(200, CALLING % '"crop"'),
    "a call without a name": lambda exchange: exchange.send(200, CALLING % '[{"function": {"arguments": "{}"}}]'),
    "a reason that is a number": lambda exchange: exchange.say("fine", 5),
    "nested": lambda exchange: exchange.send(200, "[" * 100_000),
}


@pytest.mark.parametrize("name", PASSING)
def test_what_may_pass_is_tried_again(server, connect, name):
    server.reply = failing_first(2, PASSING[name])
    answer = ask(connect())
    assert (answer.text, answer.problem) == ("fine", None) and len(server.requests) == 3
    assert answer.spend == Spend(1, 1, 100, 10, 0.0, 0.0)
    assert server.requests[0] == server.requests[2]


def test_a_time_out_is_tried_again(server, connect):
    server.reply = failing_first(1, lambda exchange: exchange.hang(1.5))
    start = time.monotonic()
    assert ask(connect(timeout=0.2)).text == "fine"
    assert time.monotonic() - start < 1.4


def test_an_answer_that_drips_is_a_time_out(server, connect):
    def drip(exchange):
        exchange.begin(200, 1000)
        for _ in range(20):
            exchange.handler.wfile.write(b" ")
            time.sleep(0.05)

    server.reply = failing_first(1, drip)
    assert ask(connect(timeout=0.3)).text == "fine"


def test_where_one_request_alone_fails_others_go_on(server, connect):
    server.reply = lambda exchange: exchange.fail(500) if said(exchange.request) == "bad" else exchange.say("fine")
    endpoint = connect(isolated=True)
    for _ in range(2):
        with pytest.raises(RequestError, match="did not answer in 3 attempts; the last one: status 500.*no"):
            ask(endpoint, "bad")
        assert ask(endpoint).text == "fine"
    server.reply = lambda exchange: exchange.fail(422, "no such parameter")
    with pytest.raises(RequestError, match="does not take the request: status 422"):
        ask(connect(isolated=True), "another")


@pytest.mark.parametrize(
    "message,code,kind",
    [
        ("This model's maximum context length is 4096 tokens", None, ContextError),
        ("no", "context_length_exceeded", ContextError),
        ("harmful", "content_filter", FilteredError),
    ],
)
def test_refusals_have_kinds(server, connect, message, code, kind):
    server.reply = lambda exchange: exchange.fail(400, message, code)
    with pytest.raises(kind):
        ask(connect(isolated=True))


def test_what_an_answer_holds(server, connect):
    call = {"id": "1", "type": "function", "function": {"name": "crop", "arguments": '{"a": 1'}}
    object_call = {"function": {"name": "crop \ud800", "arguments": {"a": 1}}}
    message = {
        "content": [{"type": "text", "text": "I "}, {"type": "text", "text": "look\ud800"}],
        "tool_calls": [call, object_call],
    }
    choice = {"message": message, "finish_reason": "tool_calls", "stop_reason": "</s>"}
    server.reply = lambda exchange: exchange.send(200, {"choices": [choice], "usage": None})
    answers = [ask(connect()), ask(connect())]  # the second one from the cache
    for answer in answers:
        assert (answer.text, answer.stopped_by, answer.finish) == ("I look\ud800", "</s>", "tool_calls")
        assert answer.calls == (("crop", '{"a": 1'), ("crop \ud800", '{"a": 1}')) and answer.prompt_tokens == 0
    assert len(server.requests) == 1


def test_a_request_may_have_options_of_its_own(server, connect):
    messages = [{"role": "user", "content": "hello"}]
    for _ in range(2):
        connect().complete(messages, temperature=0.0, seed=5, stop=["x"], extra_body={"top_k": 3})
    connect().complete(messages, temperature=0.0, seed=6)
    assert [request.get("seed") for request in server.requests] == [5, 6]
    asked = {"temperature": 0.0, "seed": 5, "stop": ["x"], "top_k": 3, "max_tokens": 400}
    assert asked.items() <= server.requests[0].items()


def test_nothing_of_a_server_is_kept_but_its_answers(server, connect):
    server.reply = lambda exchange: exchange.send(200, COUNTED % 1, Set_Cookie=f"c{exchange.number}=1; Path=/")
    endpoint = connect()
    for text in "ab":
        assert ask(endpoint, text).text == "fine"
    assert len(endpoint._client._client.cookies.jar) == 0


def test_a_server_is_named_by_its_url():
    with pytest.raises(UserError, match="'localhost:8000' is no URL"):
        EndpointSettings("m", "localhost:8000")


@pytest.mark.parametrize("name", ["500", "malformed", "hung up"])
def test_what_does_not_pass_stops_the_run(server, connect, name):
    server.reply = PASSING[name]
    with pytest.raises(EndpointError, match="did not answer in 3 attempts.*start the same command again"):
        ask(connect())
    assert len(server.requests) == 3


def test_the_server_says_how_long_to_wait(server, connect):
    server.reply = failing_first(1, lambda exchange: exchange.fail(429, Retry_After="0.5"))
    assert ask(connect()).text == "fine"
    assert server.times[1] - server.times[0] >= 0.5
    server.requests.clear()
    server.times.clear()
    moment = email.utils.format_datetime(
        email.utils.localtime().fromtimestamp(time.time() + 2).astimezone(), usegmt=False
    )
    server.reply = failing_first(1, lambda exchange: exchange.fail(503, Retry_After=moment))
    assert ask(connect(), "another").text == "fine"
    assert 0.9 <= server.times[1] - server.times[0] < 3


def test_waits_grow_with_jitter(server, connect, monkeypatch):
    monkeypatch.setattr(module, "LONGEST_WAIT", 10.0)
    endpoint, waits = connect(attempts=6), []
    monkeypatch.setattr(endpoint, "_pause", waits.append)
    server.reply = lambda exchange: exchange.fail(500)
    with pytest.raises(EndpointError):
        ask(endpoint)
    assert len(waits) == 5 and all(0.5 * 2**n <= min(wait, 10) <= 2**n for n, wait in enumerate(waits[:4]))
    assert 5 <= waits[4] <= 10 and len({wait / 2**n for n, wait in enumerate(waits)}) == 5


@pytest.mark.parametrize("status,code", [(401, None), (403, None), (404, None), (429, "insufficient_quota")])
def test_what_will_not_pass_is_not_tried_again(server, connect, status, code):
    server.reply = lambda exchange: exchange.fail(status, "not for you", code)
    with pytest.raises(EndpointError, match=f"refuses: status {status}.*not for you"):
        ask(connect())
    assert len(server.requests) == 1


def test_a_request_that_is_not_taken_is_about_one_seed_only_where_others_are(server, connect):
    server.reply = lambda exchange: exchange.fail(400, "no such parameter")
    with pytest.raises(EndpointError, match="takes no request: status 400.*no such parameter"):
        ask(connect())
    server.reply = lambda exchange: exchange.fail(400, "harmful", "content_policy_violation")
    with pytest.raises(RequestError, match="does not take the request"):
        ask(connect())
    endpoint = connect()
    server.reply = lambda exchange: exchange.say("fine")
    ask(endpoint)
    server.reply = lambda exchange: exchange.fail(400, "image too large")
    with pytest.raises(RequestError, match="image too large"):
        ask(endpoint, "another")


def test_what_the_model_does_wrong_is_an_answer_and_is_remembered(server, connect):
    replies = {
        "refused": lambda exchange: exchange.say(None, refusal="I won't"),
        "filtered": lambda exchange: exchange.say("", "content_filter"),
        "cut": lambda exchange: exchange.say("It shows a", "length"),
        "tool": lambda exchange: exchange.say("", "tool_calls"),
        "empty": lambda exchange: exchange.say(" \n"),
        "null": lambda exchange: exchange.say(None),
    }
    problems = {}
    for name, reply in replies.items():
        server.reply = reply
        problems[name] = ask(connect(), name).problem
    assert problems == {
        "refused": "the model refuses: I won't",
        "filtered": "the endpoint's filter withholds the answer",
        "cut": "the answer was cut at the limit of tokens",
        "tool": "the answer ended for the reason 'tool_calls'",
        "empty": "the answer is empty",
        "null": "the answer is empty",
    }
    asked = len(server.requests)
    assert asked == len(replies)  # none was tried again
    assert {name: ask(connect(), name).problem for name in replies} == problems and len(server.requests) == asked


def test_the_same_is_never_asked_twice(server, connect):
    server.reply = lambda exchange: exchange.say(f"answer {exchange.number}")
    first = connect()
    texts = [ask(first, "a").text, ask(first, "b").text, ask(first, "a", attempt=1).text]
    assert texts == ["answer 1", "answer 2", "answer 3"]
    again = connect()
    assert [ask(again, "a").text, ask(again, "b").text, ask(again, "a", attempt=1).text] == texts
    assert again.spend == Spend(3, 0, 300, 30, 0.0, 0.0) and first.spend.paid == 3
    assert ask(connect(temperature=0.1), "a").text == "answer 4"  # another request


def test_a_damaged_answer_on_disk_is_asked_for_again(server, connect, tmp_path):
    ask(connect())
    (file,) = (tmp_path / "cache").rglob("*.json")
    for damage in ("", '{"text": "fi', '{"text": 5}', "[]"):
        file.write_text(damage)
        assert ask(connect()).problem is None
    assert len(server.requests) == 5
    assert json.loads(file.read_text())["text"].startswith("I look at it")


def test_the_key_is_sent_and_written_nowhere(server, connect, tmp_path, monkeypatch):
    ask(connect())
    assert server.keys == ["Bearer secret"]
    assert not any("secret" in file.read_text() for file in tmp_path.rglob("*.*") if file.is_file())
    server.reply = lambda exchange: exchange.fail(401, "bad key")
    with pytest.raises(EndpointError) as caught:
        ask(connect(), "another")
    assert "secret" not in str(caught.value)
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(EndpointError, match="set OPENAI_API_KEY"):
        connect(base_url=None)
    server.reply = lambda exchange: exchange.say("local")
    assert ask(connect(), "third").text == "local"  # a server of one's own may need none


def test_money_is_counted_and_limited(server, connect):
    prices = {"prompt_price": 1000.0, "completion_price": 10_000.0}
    endpoint = connect(budget=0.5, **prices)
    for text in "abc":
        ask(endpoint, text)
    assert endpoint.spend.cost == endpoint.spend.paid_cost == pytest.approx(0.6)
    with pytest.raises(EndpointError, match="0.60 were spent, the budget of 0.5"):
        ask(endpoint, "d")
    assert ask(endpoint, "a").problem is None  # what is remembered costs nothing
    assert endpoint.spend.cost == pytest.approx(0.8) and endpoint.spend.paid_cost == pytest.approx(0.6)


def test_endpoints_of_one_account_are_held_to_one_budget(server, connect):
    account, prices = Account(), {"prompt_price": 1000.0, "budget": 0.25}
    first, second = (Endpoint(connect(**prices).settings, account) for _ in range(2))
    for endpoint, text in ((first, "a"), (second, "b"), (first, "c")):
        ask(endpoint, text)
    with pytest.raises(EndpointError, match="0.30 were spent, the budget of 0.25"):
        ask(second, "d")
    assert (first.spend.paid, second.spend.paid) == (2, 1) and account.spent == pytest.approx(0.3)


def test_a_server_that_calls_the_most_tokens_otherwise_gets_them(server, connect):
    """As OpenAI's models that reason: the cache knows the request all the same."""

    def reasoning(exchange):
        if "max_tokens" in exchange.request:
            exchange.fail(400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.")
        else:
            exchange.say(str(exchange.request["max_completion_tokens"]))

    server.reply = reasoning
    endpoint = connect()
    assert [ask(endpoint, text).text for text in "ab"] == ["400", "400"] and len(server.requests) == 3
    assert ask(connect(), "a").text == "400" and len(server.requests) == 3
    server.reply = lambda exchange: exchange.fail(400, "I want max_completion_tokens, whatever you say")
    with pytest.raises(RequestError):
        ask(endpoint, "c")
    assert len(server.requests) == 4


def test_what_is_under_way_may_still_be_answered(server, connect):
    def slow(exchange):
        time.sleep(0.3)
        exchange.say("fine")

    server.reply = slow
    endpoint = connect()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(ask, endpoint)
        time.sleep(0.1)
        endpoint.close(grace=5.0)
        assert waiting.result(timeout=5).text == "fine"
    with pytest.raises(EndpointError, match="ending"):
        ask(endpoint, "later")


def test_no_more_requests_than_allowed_are_under_way(server, connect):
    def slow(exchange):
        time.sleep(0.05)
        exchange.say("fine")

    server.reply = slow
    endpoint = connect(concurrency=2)
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        assert all(answer.text == "fine" for answer in pool.map(lambda n: ask(endpoint, str(n)), range(8)))
    assert server.most == 2


def test_requests_are_spread_over_minutes(monkeypatch):
    now, waits = [0.0], []
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def pause(seconds):
        waits.append(seconds)
        now[0] += seconds

    limit, starts = RateLimit(3), []
    for _ in range(8):
        limit.wait(pause)
        starts.append(now[0])
        now[0] += 1
    assert starts == [0, 1, 2, 60, 61, 62, 120, 121] and waits == [57, 57]
    RateLimit(None).wait(pause)


def test_a_run_that_ends_waits_for_nothing(server, connect):
    server.reply = lambda exchange: exchange.fail(429, Retry_After="60")
    endpoint = connect()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(ask, endpoint)
        time.sleep(0.3)
        endpoint.close()
        with pytest.raises(EndpointError, match="ending"):
            waiting.result(timeout=5)


def test_when_one_thread_gives_up_all_do_and_say_why(server, connect):
    """Others that wait, or have not begun, neither wait on nor ask again."""

    def reply(exchange):
        if said(exchange.request) == "fatal":
            time.sleep(0.3)
            exchange.fail(403, "account closed")
        else:
            exchange.fail(429, Retry_After="60")

    server.reply = reply
    endpoint = connect(concurrency=8)
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        asked = [pool.submit(ask, endpoint, text) for text in ("a", "b", "fatal")]
        for one in asked:
            with pytest.raises(EndpointError, match="account closed"):
                one.result(timeout=5)
    with pytest.raises(EndpointError, match="account closed"):
        ask(endpoint, "later")
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    "value,seconds",
    [("2", 2.0), ("1e9", 3600.0), ("-1", 0.0), ("inf", 3600.0), ("nan", None), ("soon", None), (None, None)],
)
def test_whatever_a_server_asks_to_wait_can_be_waited_for(value, seconds):
    assert module._retry_after({"retry-after": value}) == seconds

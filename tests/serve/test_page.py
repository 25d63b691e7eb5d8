"""The page at `/` in Chromium: ask, see the crop, stop, ask on, compare, save; and a console that says nothing."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator

import pytest
from PIL import ImageChops

from data_pipeline.sources.pixel_search_video import PixelSearchVideo
from pixel_reasoner_jax.operations import Call, SelectFrames
from pixel_reasoner_jax.processing.items import media_source
from pixel_reasoner_jax.processing.loading import load_video
from pixel_reasoner_jax.rollout import Limits, Policy
from pixel_reasoner_jax.rollout.settings import FILE as SETTINGS
from pixel_reasoner_jax.serve import page_routes
from tests.conftest import REPOSITORY
from tests.rollout.zooming_policy import Zooming
from tests.serve.conftest import LENGTH, film, picture
from tests.serve.test_chat import everything_is_free
from tests.viewer.browser import Browser
from tests.viewer.conftest import chromium  # noqa: F401

DONE = "!talk.stopping && talk.exchanges.length > 0"
LETTERS = list("eao ")


class Short(Zooming):
    """A registry whose turns are short, each of which calls."""

    stop_strings = tuple(LETTERS)


class Picking(Short):
    """Likewise, for videos."""

    def __init__(self):
        super().__init__([SelectFrames()])

    def parse(self, text):
        return Call("select_frames", {"target_frames": [2, 4]})


@pytest.fixture(scope="module")
def server(served, world):  # noqa: F811
    beside = Policy(*world, limits=Limits(2, 160, max_length=LENGTH), slots=4, decode_steps=8, text_only=True)
    return served(registry=Short(), beside=beside)


@pytest.fixture
def page(chromium, server):  # noqa: F811
    """The page as it opens; whatever a test does, the console stays silent."""
    chromium.open("about:blank")
    chromium.log()
    chromium.open(f"http://{server.address}/")
    chromium.wait("globalThis.talk && talk.models.length === 2")
    yield chromium
    assert chromium.log() == []


def click(page: Browser, identity: str) -> None:
    page.run("document.getElementById(arguments[0]).click()", identity)


def put(page: Browser, name: str, value: str) -> None:
    script = "const field = document.getElementById(arguments[0]); field.value = arguments[1];"
    page.run(f"{script} field.dispatchEvent(new Event('change'))", name, value)


def give(page: Browser, url: str, name: str, kind: str) -> None:
    """Drops a file on the page."""
    page.run(
        """
        const [url, name, type] = arguments;
        const bytes = Uint8Array.from(atob(url.split(",")[1]), (letter) => letter.charCodeAt(0));
        const files = new DataTransfer();
        files.items.add(new File([bytes], name, { type }));
        document.dispatchEvent(new DragEvent("drop", { dataTransfer: files, cancelable: true }));
        """,
        url,
        name,
        kind,
    )
    page.wait("talk.media.length === 1 && document.querySelector('#media figure')")


@contextlib.contextmanager
def as_phone(page: Browser) -> Iterator[None]:
    page.command("Emulation.setDeviceMetricsOverride", width=390, height=800, deviceScaleFactor=1, mobile=True)
    try:
        yield
    finally:
        page.command("Emulation.clearDeviceMetricsOverride")


def ask(page: Browser, question: str, tokens: int = 150) -> None:
    put(page, "max_tokens", str(tokens))
    put(page, "question", question)
    click(page, "ask")


def test_ask_and_see_the_crop_in_place(page):
    give(page, picture(), "a <b>.png", "image/png")
    ask(page, "What is <i>it</i>?")
    page.wait(DONE, 60)
    answer = page.run("return talk.exchanges[0].lanes[0].answer")
    assert answer["operations"] and answer["usage"]["completion_tokens"] and answer["seconds"] > 0
    assert page.run("return document.querySelector('.question').textContent") == "What is <i>it</i>?"
    run = [operation for operation in answer["operations"] if not operation["error"]]
    boxes = "[...document.querySelectorAll('.scenes svg .box')].map((box) => Number(box.getAttribute('x')))"
    assert page.run(f"return {boxes}") == [operation["boxes"][0][0] for operation in run]
    page.wait("[...document.querySelectorAll('.observation img')].every((image) => image.naturalWidth > 0)")
    assert page.run("return document.querySelectorAll('.observation img').length") == len(run)
    assert "tokens" in page.run("return document.querySelector('.facts').textContent")
    # It is asked on, and what was said goes along.
    ask(page, "And now?", 20)
    page.wait("talk.exchanges.length === 2 && !talk.stopping", 60)
    again = page.run("return talk.exchanges[1].lanes[0].answer")
    assert "error" not in again and again["usage"]["prompt_tokens"] > answer["usage"]["prompt_tokens"]
    click(page, "anew")
    assert page.run("return document.getElementById('talk').children.length") == 0


def test_side_by_side_without_operations_and_with_another_model(page):
    for beside in (" operations off", "beside"):
        give(page, picture(), "a.png", "image/png")
        put(page, "beside", beside)
        ask(page, "What is it?", 40)
        page.wait(DONE, 60)
        first, second = page.run("return talk.exchanges[0].lanes.map((lane) => lane.answer)")
        assert not {"error"} & {*first, *second} and not second["operations"]
        assert second["model"] == ("beside" if beside == "beside" else "tiny")
        assert page.run("return document.querySelectorAll('.sides .lane').length") == 2
        click(page, "anew")


def test_stop_leaves_the_batch(page, server):
    put(page, "beside", "beside")  # which is asked without operations, and writes on
    ask(page, "Go on.", 900)
    page.wait("talk.exchanges[0].lanes[1].answer.content.length > 0", 60)
    page.press("\ue00c")  # Escape
    page.wait(DONE)
    stopped = page.run("return talk.exchanges[0].lanes[1].answer")
    assert stopped.get("stopped") and "error" not in stopped
    page.wait("document.getElementById('stop').disabled")
    assert everything_is_free(server)


def test_an_example_saved_as_json_and_as_a_page(page):
    click(page, "example-image")
    page.wait("talk.media.length === 1 && document.getElementById('question').value")
    page.run("URL.createObjectURL = (blob) => { globalThis.saved = blob.text(); return 'blob:none'; }")
    page.run("HTMLAnchorElement.prototype.click = () => {}")
    put(page, "max_tokens", "60")
    click(page, "ask")
    page.wait(DONE, 60)
    click(page, "save-json")
    [exchange] = json.loads(page.run_async("globalThis.saved.then(arguments[0])"))
    assert exchange["answers"][0]["operations"] and exchange["media"][0]["url"].startswith("data:image/png;base64,")
    page.run("globalThis.saved = null")
    click(page, "save-page")
    page.wait("globalThis.saved")
    saved = page.run_async("globalThis.saved.then(arguments[0])")
    assert saved.startswith("<!doctype html>") and "default-src 'none'" in saved and "<script" not in saved
    assert exchange["question"] in saved and 'class="box"' in saved


def test_frames_of_a_video_as_a_strip(page, tmp_path):
    pytest.importorskip("av", reason="PyAV is not installed")
    give(page, film(tmp_path), "film.avi", "video/x-msvideo")
    ask(page, "What happens?", 20)
    page.wait(DONE, 60)
    answer = page.run("return talk.exchanges[0].lanes[0].answer")
    assert len(answer["frames"]) == 5 and "error" not in answer
    page.wait("[...document.querySelectorAll('.scenes .strip img')].every((image) => image.naturalWidth > 0)")
    assert page.run("return document.querySelector('.lane').querySelectorAll('.scenes .strip img').length") == 5


def test_an_example_video_whose_frames_are_selected(chromium, served):  # noqa: F811
    pytest.importorskip("av", reason="PyAV is not installed")
    page, picking = chromium, served(registry=Picking())
    page.open(f"http://{picking.address}/")
    page.log()
    page.wait("globalThis.talk && talk.models.length === 1")
    page.run("document.getElementById('example-video').focus()")
    page.press("\ue007")  # Enter
    page.wait("talk.media.length === 1 && document.getElementById('question').value")
    page.wait("document.querySelector('#media img').naturalWidth === 112")
    put(page, "max_tokens", "150")
    click(page, "ask")
    page.wait(DONE, 60)
    answer = page.run("return talk.exchanges[0].lanes[0].answer")
    shown = page.run("return [...document.querySelectorAll('.scenes .strip figcaption')].map((one) => one.textContent)")
    assert [text.split(",")[0] for text in shown] == [f"frame {number}" for number in range(1, 6)]
    first = answer["operations"][0]
    assert first["name"] == "select_frames" and first["error"] is None and "error" not in answer
    # Those that were looked at are marked in the strip, and are shown below the call.
    marks = (
        "[...document.querySelectorAll('.scenes .strip figure')].map((one) => one.querySelectorAll('.mark-1').length)"
    )
    assert page.run(f"return {marks}") == [0, 1, 0, 1, 0]
    page.wait("[...document.querySelectorAll('.lane img')].every((image) => image.naturalWidth > 0)")
    returned = "document.querySelector('.observation').querySelectorAll('figcaption')"
    returned = page.run(f"return [...{returned}].map((one) => one.textContent)")
    assert [text.split(",")[0] for text in returned] == ["frame 2", "frame 4"]
    with as_phone(page):
        assert page.run("return document.documentElement.scrollWidth <= 390")
    assert page.log() == []


def test_every_example_begins_a_conversation(page):
    """A video after an image, which one conversation has not both of; of two that are wanted at once, the last."""
    pytest.importorskip("av", reason="PyAV is not installed")
    page.run("document.getElementById('example-video').click(); document.getElementById('example-image').click()")
    page.wait("talk.media.length === 1 && talk.media[0].kind === 'image'")
    put(page, "max_tokens", "30")
    click(page, "ask")
    page.wait(DONE, 60)
    click(page, "example-video")
    page.wait("talk.media.length === 1 && talk.media[0].kind === 'video'")
    click(page, "ask")
    page.wait("talk.exchanges.length === 2 && !talk.stopping", 60)
    assert page.run("return talk.exchanges[1].lanes.every(({ answer }) => !answer.error && answer.frames.length > 0)")
    # What is refused is not said again with the next question.
    give(page, picture(), "a.png", "image/png")
    ask(page, "And here?")
    page.wait("talk.exchanges.length === 3 && !talk.stopping", 60)
    assert "not both" in page.run("return talk.exchanges[2].lanes[0].answer.error")
    page.log()  # the browser names the status of a refused request itself
    ask(page, "Which digit?")
    page.wait("talk.exchanges.length === 4 && !talk.stopping", 60)
    assert page.run("return talk.exchanges[3].lanes.every(({ answer }) => !answer.error)")


def test_the_example_video_loses_nothing():
    """What is read of the GIF is what was drawn, for as long."""
    pytest.importorskip("av", reason="PyAV is not installed")
    for number in range(3):
        seed = PixelSearchVideo(number + 1, "heldout")[number]
        video = load_video(media_source(page_routes.gif_url(seed.video, seed.fps)), 8)
        for place, drawn in enumerate(seed.video):
            shown = max(k for k, time in enumerate(video.times) if time <= place / seed.fps)
            assert ImageChops.difference(video.frames[shown], drawn.convert("RGB")).getbbox() is None


def test_what_is_wrong_is_said(page):
    click(page, "ask")
    assert page.run("return document.getElementById('problem').textContent") == "Ask something."
    give(page, picture(), "a.png", "image/png")
    ask(page, "word " * 2000)
    page.wait(DONE, 60)
    assert "context length" in page.run("return document.querySelector('.lane .error').textContent")
    page.log()  # the browser names the status of a refused request itself


def test_a_key_is_asked_for(chromium, served):  # noqa: F811
    client = served(api_key="geheim")
    chromium.open(f"http://{client.address}/")
    chromium.wait("!document.getElementById('locked').hidden")
    put(chromium, "key", "geheim")
    chromium.wait("talk.models.length === 1 && document.getElementById('locked').hidden")
    chromium.log()
    assert client.send("GET", "/page/examples/image/0")[0] == 401


def test_on_a_phone_nothing_is_wider_than_the_screen(page):
    with as_phone(page):
        give(page, picture(), "a.png", "image/png")
        ask(page, "What is it?", 60)
        page.wait(DONE, 60)
        assert page.run("return document.documentElement.scrollWidth <= 390")


def test_the_files_of_the_page(client):
    status, headers, body = client.send("GET", "/")
    assert status == 200 and b"<script>" not in body and b"style=" not in body and b" on" + b"click" not in body
    assert "default-src 'none'" in headers["Content-Security-Policy"] and "unsafe" not in str(headers)
    for name in (page_routes.STYLE, page_routes.ICON, *page_routes.SCRIPTS):
        assert client.send("GET", f"/page/{name}")[0] == 200
    for name in ("none.js", "..%2fapp.py", "../app.py", "examples/x", "examples/image/x", "examples/sound/1"):
        assert client.send("GET", f"/page/{name}")[0] == 404
    for number in ("9" * 10, "9" * 5000, "-1", "1.0", "%D9%A3", "1%0A", "1/2"):  # of which Python reads no 5000 digits
        assert client.send("GET", f"/page/examples/image/{number}")[0] == 404
    assert client.send("GET", "/page/examples/image/1000")[2] == client.send("GET", "/page/examples/image/0")[2]
    for kind, form in (("image", "png"), ("video", "gif")):
        status, _, body = client.send("GET", f"/page/examples/{kind}/3")
        assert status == 200 and json.loads(body)["question"]
        assert json.loads(body)["url"].startswith(f"data:image/{form};base64,")


def test_the_demo_serves_both_models_and_the_page_is_packaged():
    text = (REPOSITORY / "Makefile").read_text()
    demo = text[text.index("\ndemo:") :].split("\n\n")[0]
    assert "looks=$(QUICKSTART)/rl_with_curiosity/model" in demo
    assert "guesses=$(QUICKSTART)/rl_without_curiosity/model" in demo and f"model/{SETTINGS} " in demo
    setup = (REPOSITORY / "setup.py").read_text()
    assert '"pixel_reasoner_jax.report": ["shared/*"]' in setup and '"pixel_reasoner_jax.serve": ["page/*"]' in setup

"""Searches: of a folder, and of a service whose replies may be anything."""

import base64
import http.server
import io
import json
import threading
import time

import pytest
from PIL import Image

from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.operations import MediaState, OperationError, search
from pixel_reasoner_jax.operations.search import Page, PageFolder, Search, SearchService, find_retriever


def run(retrieve, query="red cat"):
    state = MediaState.from_query([Image.new("RGB", (60, 60))])
    return Search(retrieve).run({"query": query}, state)


def png(color="red", size=(40, 50)):
    file = io.BytesIO()
    Image.new("RGB", size, color).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def folder(tmp_path):
    for name, words, color in (
        ("a-1", "The red cat sat.", "red"),
        ("a-2", "The dog sat", "blue"),
        ("a-3", "", "green"),
    ):
        (tmp_path / f"{name}.png").write_bytes(png(color))
        (tmp_path / f"{name}.txt").write_text(words)
    (tmp_path / "other.png").write_bytes(b"no words beside it")
    return tmp_path


def test_the_page_whose_words_fit(folder):
    operation = Search(find_retriever(str(folder)))
    state = MediaState.from_query([Image.new("RGB", (60, 60))])
    result = operation.run({"query": "Where SAT the Dog?"}, state)
    assert (result.name, result.kind, result.first_number) == ("a-2", "image", 2)
    assert result.images[0].getpixel((0, 0)) == (0, 0, 255)
    text = operation.observation_text(result, [(28, 56)])
    assert text == "\nHere is page a-2 (Image Size: 28x56):"
    with pytest.raises(OperationError, match="no page was found"):
        operation.run({"query": "zebra"}, state)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({}, "missing query"),
        ({"query": 5}, "must be a string"),
        ({"query": " "}, "1 to 1000"),
        ({"query": "a" * 1001}, "1 to"),
    ]
    + [({"query": "a", "top": 3}, "unknown arguments")],
)
def test_arguments(arguments, message):
    with pytest.raises(OperationError, match=message):
        Search(lambda query: None).run(arguments, MediaState.from_query())


def test_names_of_pages_say_no_more_than_names():
    result = run(lambda query: Page("x (Image Size\n" + "y" * 500, Image.new("RGB", (40, 40))))
    assert result.name == ("x__Image_Size_" + "y" * 500)[:80]


@pytest.mark.parametrize("place", ["", "ftp://host/x", "/no/such/folder", "file:///etc/passwd"])
def test_a_place_that_is_none(place, monkeypatch):
    monkeypatch.setenv(search.ADDRESS, place)
    with pytest.raises(UserError, match="PIXEL_REASONER_SEARCH is .*http://localhost:8002/search, or a folder"):
        Search()


def test_a_folder_without_pages(tmp_path):
    with pytest.raises(UserError, match="has no pages"):
        PageFolder(tmp_path)


@pytest.fixture
def service():
    """A server that replies what `reply` is: a function of the handler."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            self.server.asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            try:
                self.server.reply(self)
            except OSError:
                pass  # the client has gone

        def do_GET(self):
            self.server.asked.append("a redirection was followed")

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads, server.asked = True, []
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def sends(body, status=200, **headers):
    def reply(handler):
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)

    return reply


def drips(handler):
    while True:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n"[:1])
        time.sleep(0.02)


def address_of(server):
    return f"http://127.0.0.1:{server.server_port}/search"


def page(image, name="a-1"):
    return json.dumps({"page": name, "image": base64.b64encode(image).decode()}).encode()


def test_a_service_is_asked_for_the_query_alone(service):
    service.reply = sends(page(png()))
    result = run(find_retriever(address_of(service)), 'cat"}, "url": "http://other"')
    assert result.name == "a-1" and result.images[0].size == (40, 50)
    assert service.asked == [{"query": 'cat"}, "url": "http://other"'}]
    service.reply = sends(b"{}")
    with pytest.raises(OperationError, match="no page was found"):
        run(SearchService(address_of(service)))


@pytest.mark.parametrize(
    "reply",
    [
        sends(b"no JSON"),
        sends(b"[" * 100_000),
        sends(b'{"page": "a"}'),
        sends(b'{"page": "a", "image": "\xff"}'),
        sends(b'{"page": "a", "image": "?"}'),
        sends(page(png()), status=500),
        sends(b"", status=307, Location="/elsewhere"),
        sends(b"", status=302, Location="/elsewhere"),
        sends(b" " * 5000),
        drips,
    ],
)
def test_replies_that_are_none(service, reply, monkeypatch):
    monkeypatch.setattr(search, "MOST_BYTES", 4000)
    service.reply = reply
    with pytest.raises(OperationError, match="the search failed"):
        run(SearchService(address_of(service), seconds=0.3))
    assert len(service.asked) == 1


def test_a_page_that_is_no_image_or_too_large(service, monkeypatch):
    monkeypatch.setattr(search, "MOST_PIXELS", 1000)
    for image in (b"no image", png(size=(40, 50))):
        service.reply = sends(page(image))
        with pytest.raises(OperationError, match="the search failed"):
            run(SearchService(address_of(service)))


def test_no_service():
    with pytest.raises(OperationError, match="the search failed"):
        run(SearchService("http://127.0.0.1:9/search"))

"""The page that follows a run: what it serves, whom it answers, and that it goes on with the run."""

import contextlib
import errno
import http.client
import http.server
import json
import os
import pathlib
import socket
import threading
import time

import pytest

from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.viewer import live
from pixel_reasoner_jax.viewer.sources import find_sources
from tests.viewer.conftest import write_metrics, write_run


@contextlib.contextmanager
def served(view):
    with live.server_of(view) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def run(tmp_path, monkeypatch) -> pathlib.Path:
    monkeypatch.setattr(live, "REST", 0.0)
    return write_run(tmp_path / "run", episodes=1)


@pytest.fixture
def view(run, tmp_path) -> live.LiveView:
    (found,) = find_sources([str(run)])
    return live.LiveView(found, tmp_path / "view")


def ask(port: int, path: str, host: str | None = None, method: str = "GET"):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.putrequest(method, path, skip_host=True)
    connection.putheader("Host", f"127.0.0.1:{port}" if host is None else host)
    connection.endheaders()
    reply = connection.getresponse()
    content = reply.read()
    connection.close()
    return reply, content


def test_it_serves_its_own_parts_alone(view, run):
    secret = view.folder / "secret.txt"
    secret.write_text("x")
    os.symlink(secret, view.folder / "images" / "link.png")
    with served(view) as port:
        image = next(path.name for path in (view.folder / "images").iterdir() if path.name != "link.png")
        known = {"/": "html", "/main.js?1": "javascript", "/view.css": "css", f"/images/{image}": "png"}
        for path, kind in {**known, "/data/index.js?3": "javascript", "/data/00000.js": "javascript"}.items():
            reply, content = ask(port, path)
            assert reply.status == 200 and kind in reply.headers["Content-Type"] and content, path
            assert reply.headers["X-Content-Type-Options"] == "nosniff"
            assert "default-src 'none'" in reply.headers["Content-Security-Policy"]
        for path in (
            "/secret.txt",
            "/images/link.png",
            "/images/../secret.txt",
            "/images/%2e%2e/secret.txt",
            "/../run/config.json",
            f"{run}/config.json",
            f"//{run}/config.json",
            "/data/",
            "/images",
            "http://127.0.0.1/main.js",
            "/data/index.js/",
            "/" + "a" * 5_000,
        ):
            assert ask(port, path)[0].status == 404, path
        reply, content = ask(port, "/", method="HEAD")
        assert reply.status == 200 and not content
        for method in ("POST", "PUT", "DELETE", "OPTIONS"):
            assert ask(port, "/", method=method)[0].status == 501


def test_it_answers_to_its_own_address_alone(view):
    with served(view) as port:
        assert ask(port, "/", f"localhost:{port}")[0].status == 200
        for host in ("", "example.com", f"example.com:{port}", "127.0.0.1", f"127.0.0.1:{port + 1}", "localhost"):
            reply, content = ask(port, "/data/index.js", host)
            assert reply.status == 403 and b"view" not in content


def test_it_follows_the_run(view, run):
    def version(port):
        return json.loads(ask(port, "/data/version.js")[1].split(b'JSON.parse("')[1].split(b'"')[0])

    with served(view) as port:
        assert version(port) == version(port) == 1
        write_metrics(run, range(6, 9))
        assert version(port) == 2 and b"[8.0, " in ask(port, "/data/index.js")[1]
        with (run / "metrics.jsonl").open("a") as file:
            file.write('{"step": 9, "rew')
        assert version(port) == 3
        (run / "metrics.jsonl").unlink()  # a run that is begun anew
        assert version(port) == 4


def test_a_view_that_cannot_be_written_stays_as_it_is(view, run, monkeypatch, capsys):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    with served(view) as port:
        monkeypatch.setattr(live, "build", full)
        write_metrics(run, range(6, 9))
        for _ in range(2):
            reply, content = ask(port, "/data/version.js")
            assert reply.status == 200 and b'"1"' in content
        assert capsys.readouterr().err.count("No space left") == 1
        monkeypatch.undo()
        monkeypatch.setattr(live, "REST", 0.0)
        assert b'"2"' in ask(port, "/data/version.js")[1]


def test_clients_that_say_half_of_what_they_want_keep_no_one_waiting(view):
    with served(view) as port, contextlib.ExitStack() as opened:
        for half in (b"", b"GET", b"GET / HTTP/1.1\r\nHost: x", b"\x16\x03\x01\0" * 9, b"\r\n" * 9):
            opened.enter_context(socket.create_connection(("127.0.0.1", port))).sendall(half)
        assert ask(port, "/")[0].status == 200


def test_many_clients_take_few_threads_and_the_next_ones_are_answered(view, monkeypatch):
    monkeypatch.setattr(live, "CLIENTS", 4)
    with served(view) as port:
        before = threading.active_count()
        with contextlib.ExitStack() as opened:
            silent = [opened.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(20)]
            for one in silent[4:]:
                one.settimeout(10)
                assert one.recv(1) == b""  # it is let go
            assert threading.active_count() <= before + 4
        while threading.active_count() > before:
            time.sleep(0.01)
        assert ask(port, "/")[0].status == 200


def test_a_page_follows_the_run(view, run, chromium):
    with served(view) as port:
        chromium.open(f"http://127.0.0.1:{port}/")
        chromium.wait("document.getElementById('summary').innerText.includes('steps 4 to 5')")
        assert chromium.run("return document.getElementById('state').textContent") == "following the run"
        chromium.run("document.getElementById('tab-list').click()")
        chromium.wait("document.querySelector('#detail article')")
        write_metrics(run, range(6, 9))
        chromium.wait("view.index.version === 2")
        assert chromium.run("return document.getElementById('browser').hidden") is False  # it stays where one is
        assert "steps 4 to 8" in chromium.run("return document.getElementById('summary').textContent")
        assert chromium.log() == []
    chromium.wait("document.getElementById('state').textContent.includes('has ended')")
    chromium.open("about:blank")
    chromium.log()


def test_control_c_ends_it(run, monkeypatch, capsys, tmp_path):
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))

    def interrupted(server, **_):
        assert [*folder.iterdir()] and server.server_address[0] == "127.0.0.1"
        raise KeyboardInterrupt

    monkeypatch.setattr(http.server.ThreadingHTTPServer, "serve_forever", interrupted)
    live.serve(str(run))
    out = capsys.readouterr().out
    assert "following run: http://127.0.0.1:" in out and out.endswith("ended\n") and not [*folder.iterdir()]


def test_what_cannot_be_followed(run, tmp_path, view):
    with pytest.raises(UserError, match="no run|not the working directory"):
        write_run(tmp_path / "two" / "a", 0)
        write_run(tmp_path / "two" / "b", 0)
        live.serve(str(tmp_path / "two"))
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "config.json").write_text("{}")
    with pytest.raises(UserError, match="once its model is loaded"):
        live.serve(str(tmp_path / "new"))
    with pytest.raises(UserError, match="--port"):
        live.server_of(view, 70_000)
    with served(view) as port, pytest.raises(UserError, match="choose another"):
        live.server_of(view, port)

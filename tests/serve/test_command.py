"""`pixel-reasoner serve` in a process of its own: it answers, and a signal ends it in order."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from data_pipeline import lessons
from pixel_reasoner_jax.commands import cli, serve
from pixel_reasoner_jax.commands.serve import named
from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.operations import default_registry
from pixel_reasoner_jax.serve.server import bind, listen
from tests.conftest import REPOSITORY
from tests.serve.conftest import Client, asked


def test_models_are_called_by_their_folders_or_by_name(tmp_path):
    folder = tmp_path / "a=b"
    folder.mkdir()
    given = ["run/model", "other=run/model", str(folder)]
    assert named(given) == {"model": "run/model", "other": "run/model", "a=b": str(folder)}
    with pytest.raises(UserError, match="two models are called model: name them"):
        named(["a/model", "b/model"])
    for wrong in ("=run/model", "name="):
        with pytest.raises(UserError, match="it is DIR or NAME=DIR"):
            named([wrong])


def test_a_port_that_is_taken_is_found_before_anything_is_loaded(monkeypatch, capsys):
    monkeypatch.setattr(serve, "load_policy", lambda *_, **__: pytest.fail("loaded"))
    with bind("127.0.0.1", 0) as taken:
        port = listen(taken)
        assert cli.main(["serve", "--model", str(REPOSITORY), "--port", str(port)]) != 0
    assert f"--host 127.0.0.1 --port {port}: Address already in use" in capsys.readouterr().err


def test_nothing_answers_until_it_listens_and_of_two_servers_the_second_is_told():
    with bind("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), 5)
        with bind("127.0.0.1", port) as second:
            assert listen(first) == port
            with pytest.raises(UserError, match=f"--port {port}: Address already in use: choose another one"):
                listen(second)
        socket.create_connection(("127.0.0.1", port), 5).close()


@pytest.fixture
def started(world, tmp_path):
    """Starts the command; the process, and a client of it."""
    world[0].save_pretrained(tmp_path)
    lessons.save_world_processor(tmp_path, default_registry())
    command = [sys.executable, "-m", "pixel_reasoner_jax.commands.program", "serve", f"--model=tiny={tmp_path}"]
    running = []

    def start(*options):
        pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "JAX_PLATFORMS": "cpu"}
        given = [*map(str, command), "--port=0", "--slots=1", "--max-length=4096", *options]
        process = subprocess.Popen(given, env=environment, **pipes)
        running.append(process)
        said = process.stdout.readline()
        assert said.startswith("tiny: http://127.0.0.1:"), said + process.communicate()[1]
        return process, Client(said.split()[1].removesuffix("/v1"))

    yield start
    for process in running:
        process.kill()
        process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("times", "number", "grace", "status", "said", "returned"),
    [
        (1, signal.SIGTERM, 60, 200, "ended\n", -signal.SIGTERM),
        (1, signal.SIGTERM, 0, 503, "ended; 1 request had not ended and was dropped\n", -signal.SIGTERM),
        (1, signal.SIGINT, 60, 200, "ended\n", 0),
        (2, signal.SIGINT, 60, 503, "ended; 1 request had not ended and was dropped\n", 0),
    ],
)
def test_a_signal_ends_it_and_what_was_dropped_is_said(started, times, number, grace, status, said, returned):
    process, client = started(f"--grace={grace}")
    length = 60 if status == 200 else 3000
    answers = []
    asking = threading.Thread(target=lambda: answers.append(client.chat(asked(max_tokens=length))))
    asking.start()
    while b"active_responses 1" not in client.send("GET", "/metrics")[2]:
        time.sleep(0.005)
    for _ in range(times):
        process.send_signal(number)
        time.sleep(0.2)
    out, _ = process.communicate(timeout=60)
    asking.join(60)
    assert (answers[0][0], out, process.returncode) == (status, said, returned)

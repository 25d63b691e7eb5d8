"""A server to ask and an endpoint that asks it, impatient enough for tests."""

from __future__ import annotations

import pytest

from pixel_reasoner_jax.endpoint import Endpoint, EndpointSettings
from pixel_reasoner_jax.endpoint import client as module
from tests.endpoint.chat_server import ChatServer


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    monkeypatch.setattr(module, "LONGEST_WAIT", 0.02)
    with ChatServer() as server:
        yield server


@pytest.fixture
def connect(server, tmp_path):
    """Makes an endpoint; keywords change its settings."""

    def connect(**changes) -> Endpoint:
        settings = {"model": "m", "base_url": server.url, "cache": tmp_path / "cache", "timeout": 5.0, "attempts": 3}
        return Endpoint(EndpointSettings(**(settings | changes)))

    return connect

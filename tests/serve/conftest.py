"""A server in this process, with the tiny model of tests/rollout."""

import base64
import contextlib
import http.client
import io
import json

import pytest
from PIL import Image

from pixel_reasoner_jax.rollout import Limits, Policy
from pixel_reasoner_jax.serve.app import Offer, Service
from pixel_reasoner_jax.serve.engine import Engine
from pixel_reasoner_jax.serve.request import RequestLimits
from pixel_reasoner_jax.serve.server import in_thread
from pixel_reasoner_jax.serve.sources import MediaSources
from tests.processing.avi import write_avi
from tests.rollout.conftest import queries, world  # noqa: F401

MODEL = "tiny"
LENGTH = 1024


def picture(shade=0, size=(112, 112)):
    buffer = io.BytesIO()
    Image.new("RGB", size, (shade, 40, 90)).save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def film(folder, seconds=2):
    """A video as a data: URL, 4 frames a second, each of another shade."""
    frames = [Image.new("RGB", (64, 64), (20 * i, 40, 90)) for i in range(4 * seconds)]
    data = write_avi(folder / "film.avi", frames, 4).read_bytes()
    return f"data:video/x-msvideo;base64,{base64.b64encode(data).decode()}"


def asked(text="What is it?", images=1, **more):
    parts = [{"type": "image_url", "image_url": {"url": picture(i)}} for i in range(images)]
    content = [*parts, {"type": "text", "text": text}]
    return {"model": MODEL, "messages": [{"role": "user", "content": content}], "max_tokens": 12, "seed": 1, **more}


class Client:
    def __init__(self, url):
        self.address = url.removeprefix("http://")

    def send(self, method, path, body=None, headers=()):
        """The status, the headers and the body of an answer."""
        connection = http.client.HTTPConnection(self.address, timeout=120)
        with contextlib.closing(connection):
            body = json.dumps(body).encode() if isinstance(body, dict | list) else body
            connection.request(method, path, body, {"Content-Type": "application/json", **dict(headers)})
            response = connection.getresponse()
            return response.status, response.headers, response.read()

    def chat(self, body, **headers):
        status, _, answer = self.send("POST", "/v1/chat/completions", body, headers)
        return status, json.loads(answer)

    def stream(self, body):
        status, _, answer = self.send("POST", "/v1/chat/completions", {**body, "stream": True})
        assert status == 200, answer
        lines = [line.removeprefix("data: ") for line in answer.decode().split("\n\n") if line]
        assert lines[-1] == "[DONE]"
        return [json.loads(line) for line in lines[:-1]]


@pytest.fixture(scope="module")
def served(world):  # noqa: F811
    """Makes a policy, and a client of a server of it."""
    with contextlib.ExitStack() as stack:

        def make(queue=64, api_key=None, sources=None, limits=None, grace=0.0, beside=None, **options):
            given = {"limits": Limits(2, 160, max_length=LENGTH), "slots": 4, "decode_steps": 8, **options}
            engine = Engine(Policy(*world, **given), sources or MediaSources(), queue)
            offers = {MODEL: Offer(engine)}
            if beside is not None:
                offers["beside"] = Offer(Engine(beside, MediaSources(), queue))
            service = Service(offers, limits or RequestLimits(), api_key)
            url, server = stack.enter_context(in_thread(service, grace))
            client = Client(url)
            client.engine, client.service, client.server = engine, service, server
            return client

        yield make


@pytest.fixture(scope="module")
def client(served):
    return served()

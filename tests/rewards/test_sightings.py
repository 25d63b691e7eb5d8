"""A judge of what operations show: what it is asked, and what it may reply."""

import base64
import io

from PIL import Image

from pixel_reasoner_jax.rewards.sightings import endpoint_sees, images_of, sight_messages
from tests.endpoint.chat_server import pictures, said
from tests.endpoint.conftest import connect, server  # noqa: F401
from tests.recipes.scripted import said as response


def test_the_endpoint_is_asked(server, connect, caplog):  # noqa: F811
    endpoint, image = connect(), Image.new("RGB", (2048, 64), "red")

    def reply(exchange):
        code = said(exchange.request).rpartition(": …")[0].rpartition(" ")[2]
        exchange.say(f"{code}: {'1' if 'red' in said(exchange.request) else 'none'}")

    server.reply = reply
    assert endpoint_sees(endpoint, "What is red?", image) is True
    assert endpoint_sees(endpoint, "What is blue?", image) is False
    assert endpoint_sees(endpoint, "What is red?", image) is True and len(server.requests) == 2  # kept
    [url] = pictures(server.requests[0])
    shown = Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))
    assert shown.size == (1024, 32) and shown.getpixel((0, 0)) == (255, 0, 0)
    server.reply = lambda exchange: exchange.say("1")
    assert endpoint_sees(endpoint, "What is green?", image) is False and "no reply has a verdict" in caplog.text


def test_each_question_and_image_has_its_mark():
    red, blue = (Image.new("RGB", (40, 40), color) for color in ("red", "blue"))
    codes = {sight_messages(question, image)[1] for question in ("a", "b") for image in (red, blue)}
    assert len(codes) == 4
    assert len(sight_messages("\ud800" + "x" * 10**6, red)[0][1]["content"][1]["text"]) < 5000


def test_images_after_a_turn():
    one = response("look", "look", "5")
    one.messages[2]["content"].append({"type": "image", "image": Image.new("L", (30, 40))})
    assert [(image.size, image.mode) for image in images_of(one, 0)] == [((30, 40), "RGB")]
    assert images_of(one, 1) == images_of(one, 2) == images_of(one, 9) == []

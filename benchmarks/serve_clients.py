"""The clients of `benchmarks.serve`, in a process of their own, so that the server has its interpreter to itself.

It reads an `Order` from its standard input, sends the requests, and writes an `Answer` for each to its standard output,
both as JSON.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import http.client
import json
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

SECONDS = 600  # after which a server that sends nothing has failed
HANG_UP, BAD = 0.1, 0.1  # shares of the requests of a `mix`


@dataclasses.dataclass(frozen=True)
class Order:
    """What clients are to do.

    Attributes:
      address: the server's HOST:PORT.
      clients: how many send at once.
      bodies: of the requests.
      bad: bodies that a `mix` has among them.
      seconds: None to have every body sent once, dealt out to the clients; else how long to send a `mix`: bodies by
        chance, some of them bad ones, and some clients hanging up before they have read the answer.
    """

    address: str
    clients: int
    bodies: Sequence[str]
    bad: Sequence[str] = ()
    seconds: float | None = None


class Answer(NamedTuple):
    """Seconds from the request to the first text (0: none) and to the end, and the tokens that were written."""

    status: int
    first: float
    end: float
    tokens: int


def answers(order: Order) -> list[Answer]:
    """Has a process carry out an order; raises CalledProcessError if that fails."""
    command = [sys.executable, "-m", __name__]
    done = subprocess.run(command, input=json.dumps(dataclasses.asdict(order)), stdout=subprocess.PIPE, text=True)
    done.check_returncode()
    return [Answer(*answer) for answer in json.loads(done.stdout)]


def ask(connection: http.client.HTTPConnection, body: str, read: bool = True) -> Answer:
    """Sends a request, and reads the answer or hangs up; the connection is kept where the answer is read."""
    began, first, seen = time.perf_counter(), 0.0, b""
    try:
        connection.request("POST", "/v1/chat/completions", body.encode(), {"Content-Type": "application/json"})
        response = connection.getresponse()
        while response.status == 200 and read and (piece := response.read1(2**16)):
            seen = seen[-2048:] + piece  # the last two events, or more
            if not first and b'"content": "' in piece.replace(b'"content": ""', b""):
                first = time.perf_counter() - began
        end = time.perf_counter() - began
        counted = [line for line in seen.split(b"\n") if b'"completion_tokens"' in line]
        tokens = json.loads(counted[0].removeprefix(b"data: "))["usage"]["completion_tokens"] if counted else 0
        return Answer(response.status, first, end, tokens)
    finally:
        if not read:
            connection.close()


def each(address: str, bodies: Sequence[str]) -> list[Answer]:
    """What one client is answered that sends bodies one after the other."""
    connection = http.client.HTTPConnection(address, timeout=SECONDS)
    return [ask(connection, body) for body in bodies]


def mix(order: Order, number: int) -> list[Answer]:
    """What one client of a `mix` is answered."""
    chance, answered, end = random.Random(number), [], time.monotonic() + order.seconds
    connection = http.client.HTTPConnection(order.address, timeout=SECONDS)
    while time.monotonic() < end:
        kind = chance.random()
        body = chance.choice(order.bad if kind < BAD else order.bodies)
        answered.append(ask(connection, body, read=kind > BAD + HANG_UP))
    return answered


def main() -> None:
    order = Order(**json.load(sys.stdin))
    with concurrent.futures.ThreadPoolExecutor(order.clients) as pool:
        if order.seconds is None:
            shares = [order.bodies[number :: order.clients] for number in range(order.clients)]
            answered = pool.map(lambda share: each(order.address, share), shares)
        else:
            answered = pool.map(lambda number: mix(order, number), range(order.clients))
        json.dump([answer for share in answered for answer in share], sys.stdout)


if __name__ == "__main__":
    main()

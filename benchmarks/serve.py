"""What serving costs: python -m benchmarks.serve [--minutes N] [--json]

A tiny random model is served in this process to 64 clients, each of which sends 8 requests with an image, one after
the other. The same queries go through `Policy.stream` with as many slots. Told are the times to the first text and to
the end, and tokens a second of both. With `--minutes` clients send requests for so long, of which some hang up and some
are bad, and what is told is the resident memory.
"""

from __future__ import annotations

import argparse
import base64
import concurrent.futures
import dataclasses
import http.client
import io
import json
import os
import pathlib
import random
import tempfile
import time
from typing import Any

from data_pipeline import lessons
from data_pipeline.sources.pixel_search import PixelSearch
from pixel_reasoner_jax.models import Config, Qwen2_5_VL
from pixel_reasoner_jax.operations import default_registry
from pixel_reasoner_jax.processing import Budgets, Processor
from pixel_reasoner_jax.rollout import Limits, Policy, SamplingSettings
from pixel_reasoner_jax.serve.app import Service
from pixel_reasoner_jax.serve.engine import Engine
from pixel_reasoner_jax.serve.request import RequestLimits
from pixel_reasoner_jax.serve.server import in_thread
from pixel_reasoner_jax.serve.sources import MediaSources

CLIENTS, REQUESTS = 64, 8
TOKENS = 64  # of a response
AIM = 0.85  # of the tokens a second of `Policy.stream`
BAD = [b"{", b"[" * 1000, b'{"model": "tiny", "messages": 7}', b'{"model": "none", "messages": []}']


def build(folder: pathlib.Path, slots: int) -> Policy:
    """A tiny random model of the pixel-search world, compiled."""
    lessons.save_world_processor(folder, default_registry())
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    names = {"eos": "im_end", "image": "image_pad", "video": "video_pad"}
    ids = {f"{name}_token_id": tokenizer.convert_tokens_to_ids(f"<|{token}|>") for name, token in names.items()}
    for name in ("vision_start", "vision_end"):
        ids[f"{name}_token_id"] = tokenizer.convert_tokens_to_ids(f"<|{name}|>")
    config = dataclasses.replace(Config.preset("tiny"), vocab_size=len(tokenizer), **ids)
    Qwen2_5_VL.create(config, 0).save_pretrained(folder)
    budgets = Budgets(image=(16, 20), crop=(4, 12), frame=(4, 12), video=(4, 8), video_frames=5)
    model, processor = Qwen2_5_VL.from_pretrained(folder), Processor.from_pretrained(folder, budgets)
    policy = Policy(model, processor, limits=Limits(2, TOKENS, max_length=768), slots=slots, decode_steps=8)
    policy.warmup()
    return policy


def bodies(queries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The requests that ask the queries."""
    made = []
    for number, query in enumerate(queries):
        buffer = io.BytesIO()
        query["images"][0].save(buffer, "PNG")
        url = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
        content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": query["question"]}]
        messages = [{"role": "user", "content": content}]
        options = {"seed": number, "stream": True, "stream_options": {"include_usage": True}}
        made.append({"model": "tiny", "messages": messages, "max_tokens": TOKENS, **options})
    return made


def ask(address: str, body: bytes, read: bool = True) -> tuple[int, float, float, int]:
    """Sends a request; its status, the seconds to the first text and to the end, and the tokens that were written."""
    began, first, tokens = time.perf_counter(), 0.0, 0
    connection = http.client.HTTPConnection(address, timeout=600)
    try:
        connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        if response.status == 200 and read:
            for line in response:
                if not first and b'"delta": {"content"' in line:
                    first = time.perf_counter() - began
                if b'"usage"' in line:
                    tokens = json.loads(line.removeprefix(b"data: "))["usage"]["completion_tokens"]
        return response.status, first, time.perf_counter() - began, tokens
    finally:
        connection.close()


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


def measure(clients: int, requests: int, slots: int) -> dict[str, Any]:
    """Both sides, each after a round that is not counted."""
    queries = [PixelSearch(clients * requests, "rl")[number].query() for number in range(clients * requests)]
    sent = [json.dumps(body).encode() for body in bodies(queries)]
    with tempfile.TemporaryDirectory() as folder:
        policy = build(pathlib.Path(folder), slots)
        sampling = SamplingSettings()
        for part in (queries[:slots], queries):
            began, tokens = time.perf_counter(), 0
            with policy.stream(iter(part), sampling=sampling) as stream:
                tokens = sum(trajectory.sampled for _, trajectory in stream)
            direct = tokens / (time.perf_counter() - began)
        policy.release()
        engine = Engine(policy, MediaSources(), clients)
        with in_thread(Service(engine, "tiny", RequestLimits())) as (url, _):
            address = url.removeprefix("http://")
            with concurrent.futures.ThreadPoolExecutor(clients) as pool:
                list(pool.map(lambda body: ask(address, body), sent[:slots]))
                shares = [sent[number::clients] for number in range(clients)]
                began = time.perf_counter()
                answers = list(pool.map(lambda share: [ask(address, body) for body in share], shares))
                seconds = time.perf_counter() - began
    answers = [answer for share in answers for answer in share]
    firsts, ends = [answer[1] for answer in answers if answer[1]], [answer[2] for answer in answers]
    served = sum(answer[3] for answer in answers) / seconds
    return {
        "errors": sum(answer[0] != 200 for answer in answers),
        "first_p50": percentile(firsts, 0.5),
        "first_p95": percentile(firsts, 0.95),
        "end_p50": percentile(ends, 0.5),
        "end_p95": percentile(ends, 0.95),
        "served_tokens_per_second": served,
        "stream_tokens_per_second": direct,
        "share": served / direct,
        "aim": AIM,
    }


def resident() -> float:
    """MiB of memory that this process holds."""
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def endure(minutes: float, clients: int, slots: int) -> dict[str, Any]:
    """Load with hang-ups and bad requests; the resident memory after a tenth of it, or a minute, and in the end."""
    queries = [PixelSearch(256, "rl")[number].query() for number in range(256)]
    sent = [json.dumps(body).encode() for body in bodies(queries)]
    with tempfile.TemporaryDirectory() as folder:
        engine = Engine(build(pathlib.Path(folder), slots), MediaSources(), clients)
        with in_thread(Service(engine, "tiny", RequestLimits())) as (url, _):
            address, end = url.removeprefix("http://"), time.monotonic() + 60 * minutes

            def load(number: int) -> list[int]:
                chance, statuses = random.Random(number), []
                while time.monotonic() < end:
                    kind = chance.random()
                    body = chance.choice(BAD) if kind < 0.1 else chance.choice(sent)
                    statuses.append(ask(address, body, read=kind > 0.2)[0])
                return statuses

            with concurrent.futures.ThreadPoolExecutor(clients) as pool:
                running = [pool.submit(load, number) for number in range(clients)]
                time.sleep(min(60.0, 6 * minutes))
                early = resident()
                statuses = [status for future in running for status in future.result()]
            late, wait_until = resident(), time.monotonic() + 30
            while (engine.load.active or engine.load.waiting) and time.monotonic() < wait_until:
                time.sleep(0.1)
            load_after = dataclasses.asdict(engine.load)
    counts = {str(status): statuses.count(status) for status in sorted(set(statuses))}
    return {"statuses": counts, "early_mib": early, "late_mib": late, "grown": late / early - 1, "after": load_after}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=CLIENTS)
    parser.add_argument("--requests", type=int, default=REQUESTS, help="of each client")
    parser.add_argument("--slots", type=int, default=32)
    parser.add_argument("--minutes", type=float, help="of load with hang-ups and bad requests, in place of the timing")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if args.minutes:
        result = endure(args.minutes, args.clients, args.slots)
    else:
        result = measure(args.clients, args.requests, args.slots)
    if args.json:
        print(json.dumps(result))
        return
    for name, value in result.items():
        print(f"{name:26}{value:.3f}" if isinstance(value, float) else f"{name:26}{value}")


if __name__ == "__main__":
    main()

"""What serving costs: python -m benchmarks.serve [--minutes N] [--json]

A tiny random model is served in this process to 64 clients of another one, each of which sends 8 requests with an
image, one after the other. The same queries go through `Policy.stream` with as many slots. Told are the times to the
first text and to the end, and tokens a second of both. With `--minutes` clients send requests for so long, of which
some hang up and some are bad, and what is told is the resident memory.
"""

from __future__ import annotations

import argparse
import base64
import concurrent.futures
import dataclasses
import io
import itertools
import json
import os
import pathlib
import statistics
import tempfile
import time
from typing import Any

from benchmarks.serve_clients import Answer, Order, answers
from data_pipeline import lessons
from data_pipeline.sources.pixel_search import PixelSearch
from pixel_reasoner_jax.models import Config, Qwen2_5_VL
from pixel_reasoner_jax.operations import default_registry
from pixel_reasoner_jax.processing import Budgets, PictureStore, Processor
from pixel_reasoner_jax.rollout import Limits, Policy, SamplingSettings
from pixel_reasoner_jax.serve.app import Offer, Service
from pixel_reasoner_jax.serve.engine import Engine
from pixel_reasoner_jax.serve.request import RequestLimits
from pixel_reasoner_jax.serve.server import in_thread
from pixel_reasoner_jax.serve.sources import MediaSources

CLIENTS, REQUESTS = 64, 8
TOKENS = 64  # of a response
AIM = 0.85  # of the tokens a second of `Policy.stream`
BAD = ["{", "[" * 1000, '{"model": "tiny", "messages": 7}', '{"model": "none", "messages": []}']


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


def questions(count: int) -> list[dict[str, Any]]:
    """Queries of the pixel-search world, their images as the data: URLs that clients send."""
    made = []
    for query in (PixelSearch(count, "rl")[number].query() for number in range(count)):
        buffer = io.BytesIO()
        query["images"][0].save(buffer, "PNG")
        url = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
        made.append({**query, "images": [url]})
    return made


def body(number: int, query: dict[str, Any]) -> str:
    """The request that asks a query."""
    content = [{"type": "image_url", "image_url": {"url": query["images"][0]}}]
    content.append({"type": "text", "text": query["question"]})
    messages = [{"role": "user", "content": content}]
    options = {"seed": number, "stream": True, "stream_options": {"include_usage": True}}
    return json.dumps({"model": "tiny", "messages": messages, "max_tokens": TOKENS, **options})


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


def streamed(policy: Policy, queries: list[dict[str, Any]]) -> float:
    """Tokens a second of `Policy.stream`, all images new to it."""
    policy.release()
    policy.store = PictureStore()
    began = time.perf_counter()
    with policy.stream(iter(queries), sampling=SamplingSettings()) as stream:
        tokens = sum(trajectory.sampled for _, trajectory in stream)
    return tokens / (time.perf_counter() - began)


def served(policy: Policy, order: Order, others: list[str]) -> list[Answer]:
    """What the server answers, all images new to it, after requests that are not counted."""
    policy.release()
    policy.store = PictureStore()
    with in_thread(Service({"tiny": Offer(Engine(policy, MediaSources(), order.clients))}, RequestLimits())) as (
        url,
        _,
    ):
        order = dataclasses.replace(order, address=url.removeprefix("http://"))
        answers(dataclasses.replace(order, bodies=others))
        return answers(order)


def measure(clients: int, requests: int, slots: int, rounds: int) -> dict[str, Any]:
    """Both sides in turn, and the medians of all rounds; one before them is not counted."""
    queries = questions(clients * requests + slots)
    sent = [*map(body, itertools.count(), queries)]
    order, others = Order("", clients, sent[:-slots]), sent[-slots:]
    with tempfile.TemporaryDirectory() as folder:
        policy = build(pathlib.Path(folder), slots)
        streamed(policy, queries[-slots:])
        results = []
        for _ in range(rounds):
            direct = streamed(policy, queries[:-slots])
            results.append(summary(served(policy, order, others), requests, direct))
    return {name: statistics.median(result[name] for result in results) for name in results[0]} | {"aim": AIM}


def summary(answered: list[Answer], requests: int, direct: float) -> dict[str, float]:
    """The figures of one round; clients begin together, so that it lasts as long as the slowest."""
    firsts, ends = [answer.first for answer in answered if answer.first], [answer.end for answer in answered]
    seconds = max(sum(ends[first : first + requests]) for first in range(0, len(ends), requests))
    rate = sum(answer.tokens for answer in answered) / seconds
    return {
        "errors": sum(answer.status != 200 for answer in answered),
        "first_p50": percentile(firsts, 0.5),
        "first_p95": percentile(firsts, 0.95),
        "end_p50": percentile(ends, 0.5),
        "end_p95": percentile(ends, 0.95),
        "served_tokens_per_second": rate,
        "stream_tokens_per_second": direct,
        "share": rate / direct,
    }


def resident() -> float:
    """MiB of memory that this process holds."""
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def endure(minutes: float, clients: int, slots: int) -> dict[str, Any]:
    """Load with hang-ups and bad requests; the resident memory after a tenth of it, or a minute, and in the end."""
    sent = [*map(body, itertools.count(), questions(256))]
    with tempfile.TemporaryDirectory() as folder:
        engine = Engine(build(pathlib.Path(folder), slots), MediaSources(), clients)
        with in_thread(Service({"tiny": Offer(engine)}, RequestLimits())) as (url, _):
            order = Order(url.removeprefix("http://"), clients, sent, BAD, 60 * minutes)
            with concurrent.futures.ThreadPoolExecutor(1) as pool:
                running = pool.submit(answers, order)
                time.sleep(min(60.0, 6 * minutes))
                early = resident()
                statuses = [answer.status for answer in running.result()]
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
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--slots", type=int, default=32)
    parser.add_argument("--minutes", type=float, help="of load with hang-ups and bad requests, in place of the timing")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if args.minutes:
        result = endure(args.minutes, args.clients, args.slots)
    else:
        result = measure(args.clients, args.requests, args.slots, args.rounds)
    if args.json:
        print(json.dumps(result))
        return
    for name, value in result.items():
        print(f"{name:26}{value:.3f}" if isinstance(value, float) else f"{name:26}{value}")


if __name__ == "__main__":
    main()

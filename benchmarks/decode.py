"""What a step of decoding costs: `python -m benchmarks.decode [--json]`, under ten minutes on two cores.

Each figure is a ratio of two steps of the same model in the same run, which take turns. `ragged_ratio`: one response
of 7,900 tokens and 31 of 300, to as many tokens spread evenly. `cache_ratio`: bytes of all pages, to those of the
tokens in them, averaged while queries wait, with lengths like the method's. `bfloat16_ratio`: a cache in bfloat16 to
one in float32. `top_p_ratio`: top-p and top-k to neither, with the released vocabulary. `int8_weights_ratio` and
`int8_cache_ratio`: the decoder's matrices, or the cache, in int8 to the type that the model computes in.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import time
from collections.abc import Callable

import jax
import numpy as np

from benchmarks.held_slots import HeldSlots
from pixel_reasoner_jax.compilation import enable_cache
from pixel_reasoner_jax.models import Config, Qwen2_5_VL
from pixel_reasoner_jax.processing import Budgets, Geometry
from pixel_reasoner_jax.rollout.counters import Counters
from pixel_reasoner_jax.rollout.pages import CachePages
from pixel_reasoner_jax.rollout.sampling import SamplingSettings
from pixel_reasoner_jax.rollout.shapes import Shapes, platform_units

STEPS = 8  # tokens of a call
AIMS = {"ragged_ratio": 1.5, "cache_ratio": 1.15, "bfloat16_ratio": 1.3, "top_p_ratio": 1.3}


def steps_of(*arguments, **options) -> Callable[[], float]:
    """A function that decodes with `HeldSlots` of these arguments, and returns the seconds of a step."""
    slots = HeldSlots(*arguments, STEPS, **options)

    def seconds() -> float:
        began = time.perf_counter()
        jax.block_until_ready(slots.decode())
        return (time.perf_counter() - began) / STEPS

    return seconds


def compare(rounds: int, *sides: Callable[[], float]) -> list[float]:
    """The median seconds of each side, which take turns; the first call of each compiles."""
    for side in sides:
        side()
    return [
        statistics.median(times) for times in zip(*([side() for side in sides] for _ in range(rounds)), strict=True)
    ]


def model_of(vocabulary: int, preset: str | None) -> Qwen2_5_VL:
    """A model with random weights; on GPUs it computes in bfloat16.

    Args:
      preset: its sizes, but for the vocabulary; None: the decoder of the rollout benchmark, 12 layers of 640.
    """
    config = Config.preset(preset or "tiny")
    if preset is None:
        sizes = dict(hidden_size=640, intermediate_size=1792, num_hidden_layers=12, mrope_section=(8, 12, 12))
        heads = dict(num_attention_heads=10, num_key_value_heads=2)
        vision = dataclasses.replace(config.vision, out_hidden_size=640)
        config = dataclasses.replace(config, vision=vision, **sizes, **heads)
    dtype = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    return Qwen2_5_VL.create(dataclasses.replace(config, vocab_size=vocabulary), 0, dtype=dtype, param_dtype=dtype)


def ragged(rounds: int, preset: str | None) -> dict[str, float]:
    model, scale = model_of(2048, preset), 16 if preset == "tiny" else 1
    lengths = [7900 // scale] + [300 // scale] * 31
    even = [round(sum(lengths) / 32)] * 32
    seconds = compare(rounds, *(steps_of(model, held, 8192 // scale) for held in (lengths, even)))
    return {"ragged_ms": 1e3 * seconds[0], "even_ms": 1e3 * seconds[1], "ragged_ratio": seconds[0] / seconds[1]}


def bfloat16(rounds: int, preset: str | None) -> dict[str, float]:
    """The cache's type alone: the model computes in float32."""
    model, longest = model_of(2048, preset), 256 if preset == "tiny" else 4096
    sides = [steps_of(model, [longest // 4] * 8, longest, dtype=dtype) for dtype in ("bfloat16", "float32")]
    seconds = compare(rounds, *sides)
    return {"bfloat16_ms": 1e3 * seconds[0], "float32_ms": 1e3 * seconds[1], "bfloat16_ratio": seconds[0] / seconds[1]}


def top_p(rounds: int, preset: str | None) -> dict[str, float]:
    model = model_of(2048 if preset == "tiny" else 151_936, preset)
    sides = [
        steps_of(model, [300] * 32, 512, sampling=sampling)
        for sampling in (SamplingSettings(top_p=0.9, top_k=50), SamplingSettings())
    ]
    seconds = compare(rounds, *sides)
    return {"top_p_ms": 1e3 * seconds[0], "plain_ms": 1e3 * seconds[1], "top_p_ratio": seconds[0] / seconds[1]}


def int8(rounds: int, preset: str | None) -> dict[str, float]:
    """Matrices for few slots, which a step reads once for all; a cache for slots that are long."""
    model, longest = model_of(2048, preset), 256 if preset == "tiny" else 4096
    figures = {}
    for name, lengths, option in (("weights", [64] * 8, "weights"), ("cache", [longest // 2] * 8, "dtype")):
        sides = [steps_of(model, lengths, longest, **options) for options in ({option: "int8"}, {})]
        seconds = compare(rounds, *sides)
        figures |= {f"int8_{name}_ms": 1e3 * seconds[0], f"int8_{name}_ratio": seconds[0] / seconds[1]}
    return figures


def cache_fill(queries: int) -> dict[str, float]:
    """The account of pages alone, which grows as the scheduler has it grow; nothing is computed.

    Prompts of about 1,300 tokens, eight samples each, responses of 1,900 on average and up to 15,000, in a cache of 64
    times 3,200 tokens.
    """
    random, longest, samples, steps = np.random.default_rng(0), 16_384, 8, 32
    units = platform_units(None) | {"cache_tokens": 64 * 3200}
    shapes = Shapes.holding(512, longest, Geometry(14, 2, 2, 112, 2), Budgets(), **units)
    account = CachePages(shapes, 1, Kept(), counters := Counters())
    waiting = [int(random.normal(1300, 200)) for _ in range(queries)]
    prompt, left, alive, ratios = None, 0, [], []
    while waiting or alive:
        account.resume()
        while waiting and len(alive) < shapes.slots and account.has_room(0, 0 if prompt else waiting[0]):
            if prompt is None:
                prompt, left = account.begin(0, waiting[0]), samples
            left -= 1
            pages, _ = account.fork(prompt, left == 0)
            end = prompt.tokens + min(int(random.lognormal(7.2, 0.8)) + 1, longest - prompt.tokens)
            alive.append([pages, prompt.tokens, end])
            if not left:
                waiting.pop(0)
                prompt = None
        for one in list(alive):
            pages, tokens, end = one
            if not pages.waits and account.reserve(pages, min(tokens + steps, end)):
                one[1] = min(tokens + steps, end)
        if waiting:
            here = [one for one in alive if not one[0].waits]
            prompts = {id(pages.prompt): pages.prompt.tokens for pages, _, _ in here}
            live = sum(prompts.values()) + sum(tokens - pages.prompt.tokens for pages, tokens, _ in here)
            ratios.append(shapes.pages * shapes.page / live)
        for one in [one for one in alive if one[1] == one[2]]:
            account.release(one[0])
            alive.remove(one)
    full = ratios[len(ratios) // 10 :]  # after it has filled
    return {"cache_ratio": statistics.fmean(full), "waits_per_response": counters.waits / (queries * samples)}


class Kept:
    """In place of the device: what is saved is there at once."""

    is_ready = True

    def save(self, part, pages):
        return self

    def load(self, part, pages, saved):
        pass


PARTS = {"ragged": ragged, "bfloat16": bfloat16, "top_p": top_p, "int8": int8}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("--rounds", type=int, default=7, help="of each comparison (default: %(default)s)")
    parser.add_argument("--preset", help="size of the model, in place of 12 layers of 640")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="what to compare (default: all)")
    args = parser.parse_args()
    enable_cache()
    result = {"device": f"{os.cpu_count()} cores" if jax.default_backend() == "cpu" else jax.devices()[0].device_kind}
    for part in args.parts:
        result |= PARTS[part](args.rounds, args.preset)
    result |= cache_fill(120 if args.preset == "tiny" else 200)
    for name, value in result.items():
        print(f"{name:20}" + (value if isinstance(value, str) else f"{value:10.3f}"), end="")
        print(f"   aim at most {AIMS[name]}" if name in AIMS else "")
    if args.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()

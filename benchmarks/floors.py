"""How near decoding and prefilling come to what a device can do: `python -m benchmarks.floors [--preset 3b] [--json]`.

Decoding cannot be faster than reading the parameters and the cache once a token, prefilling not faster than its matrix
products; both rates are measured here, on the same device, with one large copy and one large product.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from benchmarks.held_slots import HeldSlots
from pixel_reasoner_jax.compilation import enable_cache
from pixel_reasoner_jax.models import Config, Qwen2_5_VL
from pixel_reasoner_jax.rollout.engine_arrays import ExtendBatch

STEPS = 32  # tokens of a chunk, as a policy decodes
REPEATS = 5
CALLS = 8  # of a copy or a product between two looks at the clock: one takes no longer than the look


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="3b", help="size of the model, with random bfloat16 weights (default: 3b)")
    parser.add_argument("--slots", type=int, default=64, help="responses in flight (default: 64)")
    parser.add_argument("--context", type=int, default=4064, help="tokens that each of them holds (default: 4064)")
    parser.add_argument("--width", type=int, default=512, help="tokens of a row of a prefill (default: 512)")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    args = parser.parse_args()
    enable_cache()
    result = measure(args.preset, args.slots, args.context, args.width)
    print(f"\n{args.preset}, {args.slots} slots of {args.context} tokens, on {result['device']}\n")
    print(f"{'':10}{'measured':>12}{'floor':>12}{'share':>9}   aim")
    for phase, aim in (("decode", "70%"), ("prefill", "50%")):
        seconds, floor = result[phase]["seconds"], result[phase]["floor_seconds"]
        print(f"{phase:10}{1e3 * seconds:10.2f}ms{1e3 * floor:10.2f}ms{result[phase]['share']:9.1%}   {aim}")
    if args.json:
        print(json.dumps(result))


def measure(preset: str, slots: int, context: int, width: int) -> dict:
    """Times a decode step of all slots, and a prefill of one row, at a full context.

    Args:
      preset: of the model.
      slots, context: of the cache, which has room for a chunk more.
      width: tokens of the prefill's row, which begins where they just fit.

    Returns:
      `decode` (of a step) and `prefill` (of a call) with `seconds`, `floor_seconds`, `share` (floor over measured) and
      `least`, the bytes or operations that the floor is made of; and the device's `bytes_per_second` and `flops`.
    """
    model = Qwen2_5_VL.create(Config.preset(preset), dtype=jnp.bfloat16, param_dtype=jnp.bfloat16)
    held = HeldSlots(model, [context] * slots, context + STEPS, STEPS)
    config = sizes(held.params)
    table = held.engine.empty_table(held.params, 8)

    def prefill():
        added = ExtendBatch.blank(1, width, slots, held.table.shape[1])
        added.slots[0], added.starts[0], added.counts[0] = 0, context - width, width
        added.tokens[0] = np.arange(width) % config["vocab"]
        added.positions[0] = np.arange(context - width, context)
        added.table[0] = held.table[0]
        held.state = held.engine.extend(held.params, held.state, table, added)
        return held.state.hidden

    decoding, prefilling = _seconds(held.decode) / STEPS, _seconds(prefill)
    rate, flops = bandwidth(), matrix_rate()
    cache = 2 * slots * (context + STEPS / 2) * config["kv"] * 2
    # Every weight of the decoder once; of the embeddings a row a slot, unless they are the head's too.
    read = config["read"] * 2 + cache
    products = 2 * config["layers"] * width + 4 * config["heads"] * width * (context - width / 2)
    return {
        "device": jax.devices()[0].device_kind,
        "bytes_per_second": rate,
        "flops": flops,
        "decode": dict(seconds=decoding, floor_seconds=read / rate, share=read / rate / decoding, least=read),
        "prefill": dict(
            seconds=prefilling, floor_seconds=products / flops, share=products / flops / prefilling, least=products
        ),
    }


def sizes(params: nnx.State) -> dict[str, int]:
    """Numbers of elements that the floors are made of."""
    flat = {path: variable.get_value() for path, variable in nnx.to_flat_state(params)}
    layers = sum(leaf.size for path, leaf in flat.items() if path[:2] == ("language", "layers"))
    key, query = (flat["language", "layers", name, "kernel"] for name in ("key", "query"))
    embedding = flat["language", "embedding"]
    return {
        "vocab": embedding.shape[0],
        "layers": layers,
        "read": layers + embedding.size,  # the head is as large as the embeddings
        "kv": math.prod(key.shape) // key.shape[1],  # of a token: layers x kv_heads x head
        "heads": math.prod(query.shape) // query.shape[1],
    }


def bandwidth() -> float:
    """Bytes a second of a large copy, read and written."""
    x = jnp.zeros(2**28 if jax.default_backend() != "cpu" else 2**25, jnp.bfloat16)
    copy = jax.jit(lambda x: x + 1, donate_argnums=0)

    def copies():
        nonlocal x
        for _ in range(CALLS):
            x = copy(x)
        return x

    return 2 * CALLS * x.nbytes / _seconds(copies)


def matrix_rate() -> float:
    """Floating-point operations a second of a large bfloat16 product of random numbers: ones take a GPU less power."""
    size = 8192 if jax.default_backend() != "cpu" else 1024
    x = jax.random.normal(jax.random.key(0), (size, size), jnp.bfloat16) * size**-0.5  # as large are the products
    product = jax.jit(jnp.matmul)

    def products():
        y = x
        for _ in range(CALLS):
            y = product(x, y)
        return y

    return 2 * CALLS * size**3 / _seconds(products)


def _seconds(call: Callable[[], object]) -> float:
    """Of the fastest of some calls, after one that compiles."""
    jax.block_until_ready(call())
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        jax.block_until_ready(call())
        times.append(time.perf_counter() - began)
    return min(times)


if __name__ == "__main__":
    main()

"""How much of the packed batches is real: `python -m benchmarks.packing [--json]`.

Trajectories are drawn with lengths like those of the method: a prompt with an image of up to 2,000 tokens, crops of
up to 1,000, at most 10,000 tokens in all. In SFT each has a query of its own, in GRPO groups of 8 share their prompt.
"""

from __future__ import annotations

import argparse
import itertools
import json

import numpy as np

from pixel_reasoner_jax.plan.lengths import LONGEST, draw_group
from pixel_reasoner_jax.training.rows import Arrangement, arrange, real_share, split_by_tokens

ROW_LENGTH = 16_384
BATCHES = {"sft": (128, 1), "grpo": (256, 8)}  # trajectories of an update, samples of a query: the paper's
UPDATES = {"sft": 1, "grpo": 16}  # that are packed at a time: those of an episode of 512 queries


def trajectory_lengths(phase: str, seed: int, updates: int = 1) -> tuple[list[int], list[int]]:
    """Tokens and query of every trajectory of some updates: text alone takes about 600, a crop 1,500 to 3,000, more up
    to 10,000."""
    random = np.random.default_rng((seed, phase == "grpo"))
    count, samples = BATCHES[phase]
    lengths, queries = [], []
    for query in range(count * updates // samples):
        group = draw_group(random, samples)
        for turns, tokens in zip(group.responses, group.tokens(), strict=True):
            if len(turns) == 1 and samples == 1:  # a text-only trajectory of the warm start has a small image
                tokens += int(random.integers(100, 300)) - sum(group.images)
            lengths.append(min(tokens, LONGEST))
            queries.append(query)
    return lengths, queries


def measure(phase: str, rows: int, seeds: int = 10) -> dict[str, float]:
    """Figures of the updates of some seeds.

    Returns:
      real, least: mean and least share of real tokens; first_fit: that of rows filled in order, as they come; encodes:
      how often a query's image is encoded in an update (first_fit_encodes: likewise).
    """
    shares, plain, encodes, plain_encodes = [], [], [], []
    for seed in range(seeds):
        lengths, queries = trajectory_lengths(phase, seed)
        for batches, share, encoded in (
            (arrange(lengths, queries, rows, ROW_LENGTH), shares, encodes),
            (_in_order(lengths, rows), plain, plain_encodes),
        ):
            share.append(real_share(lengths, batches, rows))
            of = [{queries[index] for row in batch.rows for index in row} for batch in batches]
            encoded.append(sum(map(len, of)) / len(set(queries)))
    figures = dict(real=shares, first_fit=plain, encodes=encodes, first_fit_encodes=plain_encodes)
    return {name: float(np.mean(values)) for name, values in figures.items()} | {"least": min(shares)}


def measure_shards(phase: str, shards: int, seeds: int = 10) -> float:
    """Mean share of real tokens where each of so many shards packs its own part of every update, a row a batch.

    All shards make as many batches as the one with most, each as long as the longest of them asks for.
    """
    real = whole = 0
    updates = UPDATES[phase]
    for seed in range(-(-seeds // updates)):
        lengths, queries = trajectory_lengths(phase, seed, updates)
        own = [[i for i, query in enumerate(queries) if query % shards == shard] for shard in range(shards)]
        runs = [split_by_tokens([lengths[i] for i in some], updates) for some in own]
        for update in range(updates):
            parts = [some[run[update]] for some, run in zip(own, runs, strict=True)]
            batches = [arrange([lengths[i] for i in p], [queries[i] for i in p], 1, ROW_LENGTH) for p in parts]
            agreed = itertools.zip_longest(*([batch.row_length for batch in some] for some in batches), fillvalue=0)
            whole += sum(shards * max(sizes) for sizes in agreed)
        real += sum(lengths)
    return real / whole


def _in_order(lengths: list[int], rows: int) -> list[Arrangement]:
    """First fit in the order given: what one would do without thinking."""
    batches: list[Arrangement] = []
    used: list[int] = []
    for index, length in enumerate(lengths):
        row = next((row for row, tokens in enumerate(used) if tokens + length <= ROW_LENGTH), len(used))
        if row == rows or not batches:
            batches.append(Arrangement(ROW_LENGTH, []))
            used, row = [], 0
        if row == len(used):
            batches[-1].rows.append([])
            used.append(0)
        batches[-1].rows[row].append(index)
        used[row] += length
    return batches


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one last line with all figures")
    args = parser.parse_args()
    results = {}
    print("phase   rows   real  least  in order  encodes  in order")
    for phase in BATCHES:
        for rows in (1, 2, 4, 8, 16):
            result = results[f"{phase}_{rows}"] = measure(phase, rows)
            print(
                f"{phase:5}  {rows:5}  {result['real']:5.3f}  {result['least']:5.3f}     {result['first_fit']:5.3f}"
                f"    {result['encodes']:5.2f}     {result['first_fit_encodes']:5.2f}"
            )
    print("\nphase  shards   real")
    for phase in BATCHES:
        for shards in (4, 16, 32):
            real = results[f"{phase}_shards_{shards}"] = measure_shards(phase, shards)
            print(f"{phase:5}  {shards:6}  {real:5.3f}")
    if args.json:
        print(json.dumps(results))


if __name__ == "__main__":
    main()

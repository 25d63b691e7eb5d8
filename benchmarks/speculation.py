"""Would speculation by look-up gain anything: `python -m benchmarks.speculation (--run RUN | --policy MODEL) [--json]`.

A step would take k drafted tokens of a response beside the one that it draws: what followed where the last few tokens
were met before, in the prompt, in the response so far, or in responses of the group that have ended. Drafted tokens
that are those drawn are kept, so the response stays the same; stored responses tell how many that are. What a step of
k + 1 tokens a row costs, to one of a single token, is timed on this machine, and reckoned for TPUs from the bytes and
operations of the 7B model. The gain is the one over the other. The engine has no speculation.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Callable, Sequence

import jax
import numpy as np

from benchmarks.decode import compare, model_of, steps_of
from benchmarks.held_slots import HeldSlots
from data_pipeline.logged_tokens import LoggedTokens
from data_pipeline.records import RecordSource
from data_pipeline.sources.pixel_search import PixelSearch
from pixel_reasoner_jax.compilation import enable_cache
from pixel_reasoner_jax.files import as_path
from pixel_reasoner_jax.models import Config, Qwen2_5_VL
from pixel_reasoner_jax.plan.chips import TPUS
from pixel_reasoner_jax.plan.rollout_costs import attention_flops
from pixel_reasoner_jax.plan.work import Work
from pixel_reasoner_jax.processing import Processor
from pixel_reasoner_jax.rollout import Limits, Policy
from pixel_reasoner_jax.rollout.capacity import PAGE, page_bytes
from pixel_reasoner_jax.rollout.engine_arrays import ExtendBatch
from pixel_reasoner_jax.training.samples import SAMPLES
from pixel_reasoner_jax.trajectory import Source

DRAFTED = (2, 4, 8)
LONGEST = 4  # tokens that are looked up: as many as are found, one at least
ROWS = (256, 128, 64, 16, 4)  # of a chip: as `rollout.slots=0` has on 16 v5p or 32 v6e chips, and as a tail leaves
TOKENS = 1750  # that a row holds on average (`plan.lengths`): prompt and half of the response

Row = tuple[Sequence[int], Sequence[int]]
"""Tokens of a response with its prompt, and the source of each."""


class Lookup:
    """Finds where the last tokens of a text were met before."""

    def __init__(self):
        self._places: dict[tuple[int, ...], tuple[Sequence[int], int]] = {}

    def add_all(self, text: Sequence[int]) -> None:
        for end in range(1, len(text)):
            self.add(text, end)

    def add(self, text: Sequence[int], end: int) -> None:
        """Notes where the last tokens before `end` are; what is added later is found first."""
        for length in range(1, min(LONGEST, end) + 1):
            self._places[tuple(text[end - length : end])] = text, end

    def find(self, last: Sequence[int]) -> tuple[int, Sequence[int], int] | None:
        """How many of the last tokens were met, in which text, and where they ended."""
        for length in range(min(LONGEST, len(last)), 0, -1):
            if place := self._places.get(tuple(last[len(last) - length :])):
                return length, *place
        return None


def steps(row: Row, others: Sequence[tuple[int, Sequence[int]]], drafted: int) -> int:
    """How many steps sample a response with `drafted` tokens looked up in each.

    Args:
      row: the response.
      others: what else is looked at: texts, each with the number of tokens that must have been sampled before.
    """
    tokens, source = list(row[0]), row[1]
    own, ended, waiting = Lookup(), Lookup(), list(others)
    place = noted = sampled = count = 0
    for is_sampled, run in itertools.groupby(source, lambda one: one == Source.SAMPLED):
        end = place + len([*run])
        while is_sampled and place < end:
            while waiting and waiting[0][0] <= sampled:
                ended.add_all(waiting.pop(0)[1])
            while noted + 1 < place:  # what ends before the last token has something after it
                noted += 1
                own.add(tokens, noted)
            last = tokens[max(0, place - LONGEST) : place]
            found = max(filter(None, (own.find(last), ended.find(last))), key=lambda one: one[0], default=None)
            draft = []
            if found is not None:
                _, text, begin = found
                draft = text[begin : min(begin + drafted, place if text is tokens else len(text))]
            drawn = tokens[place:end]
            kept = next((n for n, (a, b) in enumerate(zip(draft, drawn, strict=False)) if a != b), len(draft))
            taken = min(kept + 1, len(drawn))
            place, sampled, count = place + taken, sampled + taken, count + 1
        place = end
    return count


def tokens_a_step(groups: Sequence[Sequence[Row]], drafted: int) -> dict[str, float]:
    """Tokens that a step samples on average.

    `alone`: nothing but prompt and response is looked at. `ended`: also the siblings that have ended, where a group
    begins together. `shorter`: the same siblings, but from the beginning, as if they had begun long before.
    """
    counts = dict.fromkeys(("alone", "ended", "shorter"), 0)
    total = 0
    for group in groups:
        lengths = [sum(one == Source.SAMPLED for one in source) for _, source in group]
        total += sum(lengths)
        for row, length in zip(group, lengths, strict=True):
            shorter = sorted((n, other[0]) for other, n in zip(group, lengths, strict=True) if n < length)
            counts["alone"] += steps(row, (), drafted)
            counts["ended"] += steps(row, shorter, drafted)
            counts["shorter"] += steps(row, [(0, text) for _, text in shorter], drafted)
    return {name: total / count for name, count in counts.items()}


def stored_groups(run: str) -> list[list[Row]]:
    """The responses that a run of rl has stored (`train.log_samples`), by episode and query."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for folder in sorted(path for path in (as_path(run) / SAMPLES).glob("*") if path.is_dir()):
        for draft in RecordSource(folder, "trajectory"):
            logged = LoggedTokens.of(draft)
            row = logged.tokens.tolist(), logged.source.tolist()
            groups.setdefault((folder.name, draft.query_id), []).append(row)
    if not groups:
        raise SystemExit(f"{run} has no stored responses in its folder {SAMPLES}")
    return list(groups.values())


def sampled_groups(model: str, queries: int) -> list[list[Row]]:
    """Eight responses of a policy to each of some queries of the pixel-search world, as its RL has them."""
    source = PixelSearch(queries, "rl")
    limits = Limits(max_operations=2, max_response_tokens=96, max_images=2, max_length=192)
    policy = Policy(Qwen2_5_VL.from_pretrained(model), Processor.from_pretrained(model), limits=limits, slots=64)
    groups = policy.rollout([source[number].query() for number in range(queries)], 8)
    return [[(one.tokens.tolist(), one.source.tolist()) for one in group] for group in groups]


def timed_costs(rows: int, rounds: int, preset: str | None) -> dict[int, float]:
    """Time of an extend by k + 1 tokens of all rows, to a step of decoding, on this machine; by k.

    The extend computes no logits, which would be k + 1 times those of a step.
    """
    model, length = model_of(2048, preset), 64 if preset == "tiny" else TOKENS
    held = HeldSlots(model, [length] * rows, length + 64, 2 * max(DRAFTED))
    table = held.engine.empty_table(held.params, 8)

    def extend_by(width: int) -> Callable[[], float]:
        batch = ExtendBatch.blank(rows, width, rows, held.table.shape[1])
        batch.slots[:], batch.starts[:], batch.counts[:] = np.arange(rows), length, width
        batch.positions[:] = length + np.arange(width)
        batch.table[:] = held.table[:rows]

        def seconds() -> float:
            began = time.perf_counter()
            held.state = jax.block_until_ready(held.engine.extend(held.params, held.state, table, batch))
            return time.perf_counter() - began

        return seconds

    decode = steps_of(model, [length] * rows, length + 64)
    step, *extends = compare(rounds, decode, *(extend_by(drafted + 1) for drafted in DRAFTED))
    return {drafted: seconds / step for drafted, seconds in zip(DRAFTED, extends, strict=True)}


def reckoned_cost(chip: str, rows: int, drafted: int) -> float:
    """The least time of a step of k + 1 tokens a row of the 7B model, to one of a single token, on a chip.

    Parameters and each row's pages are read once, in bfloat16; a row's tokens read its pages together.
    """
    config, rates = Config.preset("7b"), TPUS[chip]
    size, inner, heads = config.hidden_size, config.intermediate_size, config.num_attention_heads
    layer = size * (2 * heads + 2 * config.num_key_value_heads) * config.head_dim + 3 * size * inner
    parameters = config.num_hidden_layers * layer + size * config.vocab_size

    def least(tokens: int) -> float:
        flops = rows * tokens * (2 * parameters + attention_flops(config, 1) * TOKENS)
        memory = 2 * parameters + rows * TOKENS / PAGE * page_bytes(config, "bfloat16")
        return Work(flops, memory).least(rates)[1]

    return least(1 + drafted) / least(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument("--run", help="folder of a run of rl with stored responses")
    given.add_argument("--policy", help="folder of a model of the quickstart, which answers --queries")
    parser.add_argument("--queries", type=int, default=64, help="of the pixel-search world (default: %(default)s)")
    parser.add_argument("--rows", type=int, default=32, help="responses of a timed step (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="of the timed steps (default: %(default)s)")
    parser.add_argument("--preset", help="size of the timed model, in place of 12 layers of 640")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    args = parser.parse_args()
    enable_cache()
    groups = stored_groups(args.run) if args.run else sampled_groups(args.policy, args.queries)
    timed = timed_costs(args.rows, args.rounds, args.preset)
    result = {"responses": sum(map(len, groups)), "drafted": {}}
    print(f"{result['responses']} responses\n")
    print(f"{'drafted':>8}{'alone':>8}{'ended':>8}{'shorter':>9}{'cost here':>11}  cost on TPUs, by rows")
    for drafted in DRAFTED:
        found = tokens_a_step(groups, drafted)
        reckoned = {chip: {rows: reckoned_cost(chip, rows, drafted) for rows in ROWS} for chip in ("v5p", "v6e")}
        result["drafted"][drafted] = found | {"cost": timed[drafted], "tpu_costs": reckoned}
        costs = (
            f"{chip} " + ", ".join(f"{rows}: {cost:.2f}" for rows, cost in by_rows.items())
            for chip, by_rows in reckoned.items()
        )
        figures = f"{found['alone']:8.2f}{found['ended']:8.2f}{found['shorter']:9.2f}{timed[drafted]:11.2f}"
        print(f"{drafted:8}{figures}  {'; '.join(costs)}")
    if args.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()

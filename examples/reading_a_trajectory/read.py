"""Walks through one stored response: turns, tokens, log-probabilities, the mask, boxes, reward and advantage.

    python examples/reading_a_trajectory/read.py FOLDER [--number N] [--model DIR] [--page FILE]

FOLDER is what `rl` (its samples have rewards and advantages), `evaluate` or `generate --queries` left, or a stage of
the quickstart, such as runs/quickstart/evaluation/rl_with_curiosity. `pixel-reasoner view FOLDER --out PAGE` shows all
responses; this shows where each figure is in Python.
"""

import argparse
import itertools
import json
import pathlib
import sys

import numpy as np

from data_pipeline.inspection.described import described
from data_pipeline.records import RecordSource
from pixel_reasoner_jax.commands.generate_table import response_key
from pixel_reasoner_jax.evaluation.records import RECORDS, read_records
from pixel_reasoner_jax.evaluation.trajectories import read_trajectories
from pixel_reasoner_jax.report.entries import Facts, TokenTexts
from pixel_reasoner_jax.report.lineage import crop_boxes
from pixel_reasoner_jax.report.page import document
from pixel_reasoner_jax.report.trajectory_html import trajectory_html
from pixel_reasoner_jax.rewards import extract_answer
from pixel_reasoner_jax.trajectory import Source

RESPONSES = "responses.jsonl"  # of `generate --queries`


def stored(folder):
    """The trajectories that a folder keeps, each with the `Facts` that are known beyond it."""
    if (folder / "samples").is_dir():  # of a run: data sets, a folder for each episode; the last one is read
        episode = max(
            (path for path in (folder / "samples").iterdir() if path.name.isdigit()), key=lambda p: int(p.name)
        )
        return [described(draft, f"episode {int(episode.name)}") for draft in RecordSource(episode, "trajectory")]
    if (folder / RECORDS).exists():  # of an evaluation: a scored record for each response, and its trajectory
        facts = {record.key: Facts(group=record.benchmark, score=record.score) for record in read_records(folder)}
    elif (folder / RESPONSES).exists():
        lines = map(json.loads, (folder / RESPONSES).read_text(encoding="utf-8").splitlines())
        facts = {response_key(line["row"], line["sample"]): Facts() for line in lines if "error" not in line}
    else:
        sys.exit(f"{folder} keeps no responses: give what rl, evaluate or generate --queries left")
    return [(trajectory, facts[key]) for key, trajectory in read_trajectories(folder, facts).items()]


def telling(pair):
    """Responses that say more come first: with an operation that succeeded, and with an advantage that is not 0."""
    trajectory, facts = pair
    return -sum(call.succeeded for call in trajectory.operations), -abs(facts.advantage or 0)


def print_tokens(trajectory, facts, texts):
    """The tokens in stretches of one source, and those that the policy sampled one by one."""
    if not len(trajectory.tokens):
        print("\nno tokens: a served model has written it")
        return
    print("\ntokens      whose         trained")
    start = 0
    for source, stretch in itertools.groupby(trajectory.source.tolist()):
        end = start + len([*stretch])
        # In training, the loss covers what the policy sampled: neither the prompt nor what operations returned.
        print(
            f"{f'{start}-{end - 1}':11} {Source(source).name.lower():13} {'yes' if source == Source.SAMPLED else 'no'}"
        )
        if source == Source.SAMPLED:
            for index in range(start, end):
                trainer = "" if facts.trainer is None else f"  trainer {facts.trainer[index]:8.4f}"
                text = texts(int(trajectory.tokens[index]))
                shown = trajectory.tokens[index] if text is None else repr(text)
                print(f"    log-probability {trajectory.logprobs[index]:8.4f}{trainer}  {shown}")
        start = end
    sampled = trajectory.source == Source.SAMPLED
    print(f"{sampled.sum()} of {len(sampled)} tokens are the policy's; their log-probabilities come to", end=" ")
    print(f"{trajectory.logprobs[sampled].sum():.4f}", end="")
    if facts.trainer is not None:
        difference = np.abs(trajectory.logprobs - facts.trainer)[sampled].max()
        print(f"; the trainer's differ by {difference:.1e} at most", end="")
    print()


def print_turns(trajectory):
    """What was said, and where the crops are in the query's image."""
    turn = -1
    for message in trajectory.messages[1:]:  # the first one describes the operations
        text = "".join(item.get("text", f"[{item['type']}]") for item in message["content"])
        print(f"\n{message['role']}: {text.strip()}")
        if message["role"] == "assistant":
            turn += 1
            for call in (call for call in trajectory.operations if call.turn == turn):
                print(f"  -> {call.error or f'{call.name}, box {call.boxes}, shown as {call.sizes}'}")
    for crop in crop_boxes(trajectory):  # a crop of a crop is traced back
        print(f"operation {crop.number} shows {crop.box} of image {crop.picture + 1}, in its own pixels")


def print_reward(trajectory, facts):
    print(f"\nanswer {extract_answer(trajectory.response)!r}, reference {trajectory.reference!r}, score {facts.score}")
    if facts.reward is not None:
        terms = " ".join(f"{value:+.4f} ({name})" for name, value in facts.terms.items())
        print(f"reward {facts.reward:.4f} = {terms}")
        # As most methods have it: a run's grpo.advantage and grpo.credit say what it is in that run.
        print(f"advantage {facts.advantage:+.4f} of every sampled token: the reward less the mean of its group")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--number", type=int, default=0, help="of the response; those that say more come first")
    parser.add_argument(
        "--model", type=pathlib.Path, help="whose tokenizer gives tokens their texts; a run has its own"
    )
    parser.add_argument("--page", type=pathlib.Path, default=pathlib.Path("trajectory.html"))
    args = parser.parse_args()
    found = sorted(stored(args.folder), key=telling)
    if not 0 <= args.number < len(found):
        sys.exit(f"{args.folder} has {len(found)} responses, numbered from 0")
    trajectory, facts = found[args.number]
    texts = TokenTexts(args.model or args.folder / "initial")
    print(f"{args.folder}: response {args.number} of {len(found)}: {trajectory.query_id}, sample {trajectory.sample}")
    print_turns(trajectory)
    print_tokens(trajectory, facts, texts)
    print_reward(trajectory, facts)
    page = document(trajectory.question, trajectory_html(trajectory, facts=facts, texts=texts))
    args.page.write_text(page, encoding="utf-8")
    print(f"page: {args.page}")


if __name__ == "__main__":
    main()

"""What `pixel-reasoner plan --episode` shows."""

from __future__ import annotations

import numpy as np

from pixel_reasoner_jax.plan.chips import HOST_RATE
from pixel_reasoner_jax.plan.episode import STORAGE_RATE, Episode
from pixel_reasoner_jax.plan.simulation import CALLS
from pixel_reasoner_jax.report.text import counted, plain_table
from pixel_reasoner_jax.rollout.capacity import PAGE

NAMES = {
    "encode": "encode images",
    "prefill": "prefill",
    "decode": "decode",
    "swap": "pages to the host and back",
    "reshard": "parameters laid out",
    "update": "updates",
    "checkpoint": "checkpoint",
}


def episode_report(episode: Episode) -> str:
    """The table and what is to be said about it."""
    total = episode.seconds_of()
    rows = [["an episode", "seconds", "share", "by"]]
    for name, title in NAMES.items():
        seconds = episode.seconds_of(name)
        rows.append([title, f"{seconds:.3g}", f"{seconds / total:.1%}", episode.bounds.get(name, "–")])
    rows.append(["all", f"{total:.3g}", "100.0%", ""])
    return "\n".join([plain_table(rows), "", *_sentences(episode)])


def _sentences(episode: Episode) -> list[str]:
    rollout, capacity, parts = episode.rollout, episode.capacity, episode.parts
    lengths = np.concatenate([group.tokens() for group in episode.groups])
    used = "" if rollout.used is None else f", {rollout.used:.0%} of them used while queries wait"
    waits = "no response waited for pages"
    if rollout.waits:
        waits = f"responses waited for pages {counted(rollout.waits, 'time', 'times')}, {rollout.swapped:,} pages moved"
    if episode.queries is None:
        queries = "config.train.steps"
    else:
        queries = f"{episode.queries:,} queries" + (", assumed: config.data is not here" if episode.assumed else "")
    return [
        f"responses: {len(lengths):,} to {len(episode.groups):,} queries, {lengths.mean():,.0f} tokens on average,"
        f" {rollout.sampled / len(lengths):,.0f} of them sampled",
        f"in flight: {rollout.in_flight:,} at most, in {capacity.slots * parts:,} slots and {capacity.pages * parts:,}"
        f" pages of {PAGE} tokens{used}; {waits}",
        f"rollout: {rollout.sampled:,} tokens in {episode.seconds_of(*CALLS):.3g} s,"
        f" {episode.tokens_per_second:,.0f} tokens/s; {rollout.tail_seconds:.3g} s after the last response has begun,"
        f" with {episode.idle_share:.0%} of the slots idle",
        f"checkpoint: copied to the hosts at {HOST_RATE / 1e9:g} GB/s a chip; written behind the next episode in"
        f" {episode.written_seconds:.3g} s, if storage takes {STORAGE_RATE / 1e9:g} GB/s from each host",
        f"run: {counted(episode.episodes, 'episode', 'episodes')} ({queries}), {episode.hours:.3g} hours,"
        f" {episode.hours * episode.chips:,.3g} chip-hours",
    ]

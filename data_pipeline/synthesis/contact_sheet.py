"""A page of some stored trajectories of a data set, with their crops, and boxes on the images."""

from __future__ import annotations

import dataclasses
import os

import numpy as np

from data_pipeline.draft import Draft
from data_pipeline.inspection.described import described
from data_pipeline.records import RecordSource
from data_pipeline.synthesis.synthesizer import MediaLoader
from pixel_reasoner_jax.processing import MediaError
from pixel_reasoner_jax.report.page import document
from pixel_reasoner_jax.report.text import escape
from pixel_reasoner_jax.report.trajectory_html import trajectory_html

SHEET_SIZE = 24


def contact_sheet(directory: str | os.PathLike, media: MediaLoader, *, seed: int = 0, shown: int = SHEET_SIZE) -> str:
    """The page, as HTML.

    Args:
      directory: a data set of trajectories.
      media: loads videos.
      seed: of the random choice among the trajectories.
      shown: the most trajectories on the page.
    """
    records = RecordSource(directory, "trajectory")
    chosen = np.random.default_rng(seed).permutation(len(records))[:shown]
    drafts = [records[int(index)] for index in sorted(chosen)]
    cards = [_card(draft, media) for draft in drafts]
    title = f"{len(drafts)} of {len(records)} synthesized trajectories"
    note = "Drawn at random. What is underlined carries no loss: calls that are wrong on purpose, and all observations."
    return document(title, f'<h1>{escape(title)}</h1><p class="lead">{escape(note)}</p>{"".join(cards)}')


def _card(draft: Draft, media: MediaLoader) -> str:
    messages = [{**m, "content": [_with_frames(item, media) for item in m["content"]]} for m in draft.messages]
    trajectory, facts = described(dataclasses.replace(draft, messages=messages), draft.kind)
    return trajectory_html(trajectory, facts=facts)


def _with_frames(item: dict, media: MediaLoader) -> dict:
    """The item of a video file with its sampled frames in place of the file, unless the file cannot be read."""
    if item["type"] != "video":
        return item
    try:
        return {**item, "video": media.load_video(item["video"], item.get("fps"))}
    except MediaError:
        return item

"""Temporal-R1's rewards, worked by hand, and a run of it."""

import pytest

from data_pipeline.sources.pixel_search_video import FPS, PixelSearchVideo
from tests.recipes.scripted import Run, rewards_of, said

RECIPE = "recipes/temporal_r1"


def test_rewards():
    answers = "10 to 20", "15.0 to 25 s", "20 to 10", "0:30 to 0:40", "soon"
    group = [said(f"<think>So.</think>\n<answer>{answer}</answer>") for answer in answers]
    group += [said("<answer>10 to 20</answer>"), said("10 to 20")]
    rewards, _ = rewards_of(RECIPE, group, [1] * 7, {"window": [10, 20]})
    assert rewards.tolist() == pytest.approx([1, 0.5 + 0.5 / 3, 0.5, 0.5, 0, 0.5, 0])
    assert rewards_of(RECIPE, group, [1] * 7)[0].tolist() == [0.5] * 4 + [0] * 3


def queries():
    """The time at which the box is colored."""
    for seed in PixelSearchVideo(20, "rl"):
        window = [(seed.cue[0] - 1) / FPS, seed.cue[-1] / FPS]
        answer = f"{window[0]} to {window[1]}"
        yield {**seed.query(), "question": "When is the box colored?", "answer": answer, "window": window}


def script(episode):
    """Right, too long, wrong, or without form."""
    start, end = episode.prompt.query["window"]
    answer = f"{start} to {end + episode.sample % 2}" if episode.sample != 2 else "8 to 9"
    return answer if episode.sample == 3 else f"<think>So.</think><answer>{answer}</answer>"


RUN = Run(script, queries=lambda: [*queries()], varied=("correct", "format"))

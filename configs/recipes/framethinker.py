"""FrameThinker (arXiv 2509.24304; lcqysl/FrameThinker-RL): frames that are asked for as consistently as thought of.

r = V (accuracy + 0.5 where a time was looked up of a question that has one + 0.02 where frames were chosen, both for
right answers alone). V is 1 where thought and actions agree, else 0: as many thoughts as actions, the last of which
answers; no interval again, which the whole video counts as and every interval less a frame on both sides; intervals of
more than 8 frames, which are the last two whole numbers of their thought; no time again, a reply to each, and a next
interval that has its frame. Evidence: read in the authors' code; notes on the paper have 0.2 for times and nothing for
frames. Format rewards and bonuses without conditions collapsed, they say. Differences: looking up a time shows its
frame, theirs tells its number alone; uniform groups are left out.

Command: pixel-reasoner rl --config recipes/framethinker
Data: videos with questions, choices and answers, and `total_frames` of video files; a model tuned on such traces
  (theirs: 2,392).
Hardware: that of rl_qwen2_5_vl_7b; not compiled by itself.
Time and result: never run at this size. Published: 10.4% more on average; 76.1% on LongVideo-Reason with 20.6 frames.
"""

import re

import numpy as np
from ml_collections import ConfigDict

from pixel_reasoner_jax.config import variant
from pixel_reasoner_jax.operations.syntaxes.action import ANSWER
from pixel_reasoner_jax.query import Query
from pixel_reasoner_jax.rewards.formats import contents, turns_of
from pixel_reasoner_jax.rewards.terms import Responses
from pixel_reasoner_jax.trajectory import OperationRecord, Trajectory

CHOOSE, LOOK_UP = "frames_between", "frame_at_time"
SHORT = 8  # an interval has to be longer, in frames


def get_config() -> ConfigDict:
    return variant(
        "rl_qwen2_5_vl_7b",
        {
            "workdir": "runs/framethinker",
            "optimizer.learning_rate": 5e-7,
            "operations.names": (CHOOSE, LOOK_UP),
            "operations.syntax": "action",
            "operations.guidelines": (
                "In every turn, think within <think></think> tags, and then act within <action></action> tags. The"
                f" last action is: {ANSWER}: ..."
            ),
            "rollout.max_response_tokens": 8_192,
            "rollout.max_images": 48,
            "rewards.terms.correct.function": "recipes/framethinker:right_and_consistent",
            "rewards.terms.bonus.weight": 0.0,
            "rewards.terms.penalty.weight": 0.0,
            "rewards.terms.time.function": "recipes/framethinker:time_looked_up",
            "rewards.terms.time.weight": 0.5,
            "rewards.terms.time.gate": "correct",
            "rewards.terms.frames.function": "recipes/framethinker:frames_chosen",
            "rewards.terms.frames.weight": 0.02,
            "rewards.terms.frames.gate": "correct",
            "grpo.queries_per_episode": 32,
            "grpo.advantage": "std",
            "grpo.clip_high": 0.2,
            "replay.method": "none",
        },
    )


def right_and_consistent(responses: Responses) -> np.ndarray:
    """1 for a right answer of a response whose thoughts and actions agree."""
    return responses.correct * responses.each(is_consistent)


def time_looked_up(responses: Responses) -> np.ndarray:
    """1 where a time was looked up of a question that has one."""
    return responses.each(lambda one, query: _called(one, LOOK_UP) and bool(re.search(r"\d:\d\d", query["question"])))


def frames_chosen(responses: Responses) -> np.ndarray:
    """1 where frames of an interval were shown."""
    return responses.each(lambda one, query: _called(one, CHOOSE))


def _called(one: Trajectory, name: str) -> bool:
    return any(record.name == name and record.succeeded for record in one.operations)


def is_consistent(one: Trajectory, query: Query) -> bool:
    """Cognitive Consistency Verification: V."""
    turns = turns_of(one)
    thoughts, actions = ([contents(turn, tag) or [] for turn in turns] for tag in ("think", "action"))
    if not turns or any(len(found) != 1 for found in (*thoughts, *actions)):
        return False
    if not actions[-1][0].strip().startswith(ANSWER) or [record.turn for record in one.operations] != [
        *range(len(turns) - 1)
    ]:
        return False
    last = _frames(query)
    intervals, times, wanted = {(1, last), (2, last - 1)}, set(), None
    for record, [thought] in zip(one.operations, thoughts, strict=False):
        if not record.succeeded:
            return False
        if record.name == LOOK_UP:
            time = str(record.arguments["time"]).strip()
            if time in times:
                return False
            times.add(time)
            wanted = record.frames[0]
        elif record.name != CHOOSE or not _is_chosen_well(record, thought, intervals, wanted):
            return False
        else:
            start, end = _interval(record)
            intervals |= {(start, end), (start + 1, end - 1)}
            wanted = None
    return True


def _frames(query: Query) -> int:
    """How many frames the video has, of a list or as the data say; 0 where that is unknown."""
    video, known = query.get("video"), query.get("total_frames")
    return len(video) if isinstance(video, list | tuple) else known if isinstance(known, int) else 0


def _interval(record: OperationRecord) -> tuple[int, int]:
    return int(record.arguments["start"]), int(record.arguments["end"])


def _is_chosen_well(record: OperationRecord, thought: str, used: set[tuple[int, int]], wanted: int | None) -> bool:
    start, end = interval = _interval(record)
    said = [number.lstrip("0") for number in re.findall(r"\d+", thought)[-2:]]
    holds = wanted is None or start <= wanted <= end
    return interval not in used and end - start > SHORT and said == [str(start), str(end)] and holds

"""FrameThinker's rewards, worked by hand, and a run of it."""

import pytest

from data_pipeline.sources.pixel_search_video import PixelSearchVideo
from tests.recipes.scripted import Run, called, rewards_of, said, write_call

RECIPE = "recipes/framethinker"
ANSWER = "<think>so</think><action>output answer: B</action>"
QUERY = {"question": "What is there at 00:10?", "total_frames": 100}


def choose(start, end, thought=None):
    thought = f"from {start} to {end}" if thought is None else thought
    return f"<think>{thought}</think><action>choose frames between {start} and {end}</action>"


def look_up(time="00:10"):
    return f"<think>when</think><action>get frame number at time {time}</action>"


def chosen(start, end, turn=0, **fields):
    return called("frames_between", turn=turn, arguments={"start": start, "end": end}, frames=(start + 1,), **fields)


def looked_up(frame=20, turn=0, time="00:10", **fields):
    return called("frame_at_time", turn=turn, arguments={"time": time}, frames=(frame,), **fields)


def reward(turns, records, correct=1, query=QUERY):
    return rewards_of(RECIPE, [said(*turns, operations=records)] * 2, [correct] * 2, query)[0][0]


@pytest.mark.parametrize(
    "turns, records, expected",
    [
        ([ANSWER], [], 1.0),
        ([choose(10, 40), ANSWER], [chosen(10, 40)], 1.02),
        ([look_up(), choose(10, 40), ANSWER], [looked_up(), chosen(10, 40, 1)], 1.52),
        ([look_up(), ANSWER], [looked_up()], 1.5),
        ([choose(10, 40), choose(12, 39), ANSWER], [chosen(10, 40), chosen(12, 39, 1)], 1.02),
        # What is not consistent earns nothing, though the answer is right.
        (["<think>a</think>", ANSWER], [], 0.0),
        ([choose(10, 40)], [chosen(10, 40)], 0.0),
        (["so <action>output answer: B</action>"], [], 0.0),
        ([choose(10, 40), ANSWER], [chosen(10, 40, error="no")], 0.0),
        ([choose(1, 100), ANSWER], [chosen(1, 100)], 0.0),
        ([choose(2, 99), ANSWER], [chosen(2, 99)], 0.0),
        ([choose(10, 40), choose(10, 40), ANSWER], [chosen(10, 40), chosen(10, 40, 1)], 0.0),
        ([choose(10, 40), choose(11, 39), ANSWER], [chosen(10, 40), chosen(11, 39, 1)], 0.0),
        ([choose(10, 18), ANSWER], [chosen(10, 18)], 0.0),
        ([choose(10, 40, "from 10 to 41"), ANSWER], [chosen(10, 40)], 0.0),
        ([choose(10, 40, "9" * 100_000), ANSWER], [chosen(10, 40)], 0.0),
        ([look_up(), choose(30, 60), ANSWER], [looked_up(), chosen(30, 60, 1)], 0.0),
        ([look_up(), look_up(), ANSWER], [looked_up(), looked_up(turn=1)], 0.0),
        ([look_up(), ANSWER], [looked_up(error="out of range")], 0.0),
    ],
)
def test_rewards(turns, records, expected):
    assert reward(turns, records) == pytest.approx(expected)
    assert reward(turns, records, correct=0) == 0.0


def test_a_time_counts_where_the_question_has_one():
    assert reward([look_up(), ANSWER], [looked_up()], query={"question": "What?"}) == 1.0


@pytest.mark.parametrize("query", [{"video": [0] * 100}, {"total_frames": "100"}, {"video": "clip.mp4"}])
def test_the_whole_video_where_its_length_is_known(query):
    repeated = reward([choose(1, 100), ANSWER], [chosen(1, 100)], query={"question": "What?", **query})
    assert repeated == pytest.approx(0.0 if isinstance(query.get("video"), list) else 1.02)


def videos():
    """Videos of 40 frames."""
    seeds = [*map(PixelSearchVideo(20, "rl").__getitem__, range(20))]
    long = [[frame for frame in seed.video for _ in range(5)] for seed in seeds]
    times = [" Look from 00:02 on." if number % 2 else "" for number in range(20)]
    return [
        {**seed.query(), "question": seed.question + time, "video": video, "fps": 5.0}
        for seed, video, time in zip(seeds, long, times, strict=True)
    ]


def script(episode):
    """Every other response chooses frames, after a time or not; every third one is wrong."""
    sample, turn = episode.sample, episode.turn
    if sample % 2 and turn == 0:
        return "<think>When</think>" + write_call(RECIPE, "frame_at_time", time="00:03")
    if sample % 2 and turn == 1 or sample == 2 and turn == 0:
        return "<think>From 5 to 30</think>" + write_call(RECIPE, "frames_between", start=5, end=30)
    return (
        f"<think>So</think><action>output answer: {episode.prompt.query['answer'] if sample % 3 else 'none'}</action>"
    )


RUN = Run(
    script,
    videos,
    settings={"rollout.max_images": 16},
    operations=("frames_between", "frame_at_time"),
    varied=("correct", "time", "frames"),
)

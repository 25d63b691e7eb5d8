"""Video-CoM's rewards, worked by hand, and a run of it."""

import pytest

from data_pipeline.sources.pixel_search import BOX
from data_pipeline.sources.pixel_search_video import PixelSearchVideo
from tests.recipes.scripted import Run, called, rewards_of, said, write_call

RECIPE = "recipes/video_com"
QUERY = {
    "segments": [2, 3],
    "frame_ranges": [[10, 20], [30, 40]],
    "boxes": [{"frame": 12, "xyxy": [0, 0, 100, 100]}, {"frame": 35, "xyxy": [50, 50, 60, 60]}],
}


def segment(*numbers, **fields):
    return called("FIND_SEGMENT", arguments={"segments": list(numbers)}, frames=tuple(range(1, 5)), **fields)


def frame(number):
    return called("FIND_FRAME", arguments={"frames": [number]}, frames=(number,))


def zoom(*box):
    return called("SPATIAL_ZOOM", arguments={"bbox_2d": list(box)}, boxes=(box,))


@pytest.mark.parametrize(
    "operations, steps",
    [
        ([segment(2), frame(12), zoom(0, 0, 100, 30)], 2 / 3),
        ([segment(2, 3), frame(35), zoom(50, 50, 60, 60)], 1.0),
        ([segment(1, 2)], 0.0),
        ([called("FIND_SEGMENT", arguments={"ids": [1, 2]}), called("FIND_SEGMENT", arguments={"ids": [2]})], 0.5),
        ([segment(2), segment(9, error="out of range")], 0.5),
        ([frame(25), frame(10)], 0.5),
        ([frame(12), zoom(0, 0, 100, 35)], 1.0),
        ([frame(13), zoom(0, 0, 1, 1)], 1.0),  # no gold box: not checked
        ([frame(12), zoom(0, 0, 50, 100), zoom(0, 0, 1, 1)], 1.0),  # a part of what was zoomed in on is not checked
        ([zoom(0, 0, 1, 1)], 0.0),
        ([], 0.0),
    ],
)
def test_steps(operations, steps):
    rewards, _ = rewards_of(RECIPE, [said("5", operations=operations)] * 2, [1, 0], QUERY)
    assert rewards.tolist() == pytest.approx([1 + steps, steps])


@pytest.mark.parametrize("query", [{}, {"segments": 2, "frame_ranges": [[1], "a"], "boxes": [5, {"frame": 12}]}])
def test_data_that_do_not_tell(query):
    operations = [segment(2), frame(12), zoom(0, 0, 9, 9)]
    assert rewards_of(RECIPE, [said("5", operations=operations)], [1], query)[0].tolist() == [1.0]


def videos():
    """Videos of 40 seconds: ten frames of each of the first four frames of the pixel world."""
    for number in range(20):
        seed = PixelSearchVideo(20, "rl")[number]
        boxes = [{"frame": frame, "xyxy": [5, 5, BOX, BOX]} for frame in range(1, 41)]
        video = [frame for frame in seed.video[:4] for _ in range(10)]
        fields = {"segments": [1 + number % 4], "frame_ranges": [[1, 10 + number]], "boxes": boxes}
        yield {**seed.query(), "video": video, "fps": 1.0, **fields}


def script(episode):
    """Odd responses look for a segment, a frame and a box; every third answer is wrong."""
    calls = [("FIND_SEGMENT", {"segments": [2]}), ("FIND_FRAME", {"frames": [15]})]
    calls.append(("SPATIAL_ZOOM", {"bbox_2d": [5, 5, 90 if episode.sample == 1 else 50, 100]}))
    if episode.sample % 2 and episode.turn < len(calls):
        name, arguments = calls[episode.turn]
        return "I look.\n" + write_call(RECIPE, name, **arguments)
    return f"FINAL_ANSWER: {episode.prompt.query['answer'] if episode.sample % 3 else 'none'}"


RUN = Run(
    script,
    lambda: list(videos()),
    settings={"rollout.max_images": 16},
    operations=("FIND_SEGMENT", "FIND_FRAME", "SPATIAL_ZOOM"),
    varied=("correct", "steps"),
)

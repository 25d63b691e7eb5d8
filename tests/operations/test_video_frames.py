"""Frames between others, at a time and of segments."""

from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image

from pixel_reasoner_jax.operations import Call, MediaState, OperationError, make_registry
from pixel_reasoner_jax.operations.find_segment import count_segments
from pixel_reasoner_jax.operations.frame_at_time import clock, read_time
from pixel_reasoner_jax.operations.video_frames import spread
from pixel_reasoner_jax.processing import PictureStore, load_video
from pixel_reasoner_jax.processing.videos import sample_frames
from tests.processing.avi import write_avi


def video(count: int = 16, seconds: float = 60.0, every: int = 1) -> MediaState:
    """Frames at equal distances, of which every so manieth is sampled; the red and green of a frame are its number."""
    frames = [Image.new("RGB", (64, 48), (number % 256, number // 256, 0)) for number in range(1, count + 1)]
    sampled = sample_frames(frames, -(-count // every), count / seconds, lambda frame: frame, 0.0)
    return MediaState.from_query(video_frames=sampled.frames, clip=sampled.clip)


def run(operation: str, state: MediaState, **arguments):
    registry = make_registry((operation,))
    call = Call(registry.operations[0].name, arguments)
    result = registry.execute(call, state)
    colors = [image.getpixel((0, 0)) for image in result.images]
    numbers = [red + 256 * green for red, green, _ in colors]
    assert list(result.frames) == numbers and result.kind == "frame" and state.selected
    assert [state.pictures[source] for source in result.sources] in ([], result.images)
    return numbers, registry.observation_text(call, result, [(56, 28)] * len(numbers))


@pytest.mark.parametrize(
    ("start", "end", "frames"),
    [
        (1, 3, [2]),
        (3, 8, [4, 5, 6, 7]),
        (1, 16, [2, 3, 5, 7, 9, 11, 13, 15]),  # 8 of 14: 2 + 13 * k / 7, cut to whole numbers
        (7, 99, [8, 9, 10, 11, 12, 13, 14, 15]),
        (1.0, 4.0, [2, 3]),
    ],
)
def test_frames_between(start, end, frames):
    assert run("frames_between", video(), start=start, end=end)[0] == frames


def test_more_frames_of_a_long_video():
    assert len(run("frames_between", video(64, 301.0), start=1, end=64)[0]) == 12
    assert len(run("frames_between", video(64, 300.0), start=1, end=64)[0]) == 8
    assert spread(5, 5, 8) == [5] and spread(0, 3, 1) == [0] and spread(1, 3, 8) == [1, 2, 3]


def test_what_is_said_of_the_frames():
    state = video()
    assert run("frames_between", state, start=3, end=6)[1] == (
        "\nHere are frames 4, 5 of the video (Frame Size: 56x28, Numbered 1 to 2):"
    )
    assert run("frame_at_time", state, time="00:10")[1] == (
        "\nHere is frame 3 of the video (Frame Size: 56x28, Numbered 3):"
    )
    registry = make_registry(("zoom_image", "frame_at_time"))
    result = registry.execute(Call("zoom_image", {"bbox_2d": [0, 0, 40, 40], "target_image": 3}), state)
    assert result.images[0].getpixel((0, 0))[0] == 3  # the printed number
    texts = str(make_registry(("frames_between", "frame_at_time", "find_segment")).signatures(video()))
    assert "from 1 to 16" in texts and "from 00:00 to 01:00" in texts and "6 segments" in texts


@pytest.mark.parametrize(
    ("time", "frame"),
    [("00:00", 1), ("0:03", 1), ("00:03.75", 2), ("01:00", 16), (7.4, 2), (7.5, 3), ("00:00:56.249", 15), ("0:60", 16)],
)
def test_the_frame_at_a_time_is_the_last_that_is_not_later(time, frame):
    assert run("frame_at_time", video(), time=time)[0] == [frame]  # frames are 3.75 seconds apart


def test_times():
    assert [read_time(text) for text in ("01:02:03", "1:5", "90:00", " 00:07 ")] == [3723, 65, 5400, 7]
    assert [clock(seconds) for seconds in (0, 65.9, 3723)] == ["00:00", "01:05", "01:02:03"]


# 60 seconds: 6 segments of 10, with 10 frames each and the last with 13.
@pytest.mark.parametrize(
    ("segments", "frames"),
    [
        ([1], range(1, 11)),
        ([6], range(51, 64)),
        ([6, 1, 1], [1, 2, 3, 5, 6, 8, 9, 51, 52, 54, 55, 57, 58, 60, 61, 63]),
        ([2.0], range(11, 21)),
    ],
)
def test_segments(segments, frames):
    assert run("find_segment", video(63), segments=segments)[0] == list(frames)


def test_segments_of_few_frames():
    assert run("find_segment", video(4, 100.0), ids=[2])[0] == [2]  # 4 frames are 4 segments at most
    assert run("find_segment", video(640, 100.0), segments=[1, 2, 3, 4])[0] == [1 + 255 * k // 15 for k in range(16)]


def test_frames_that_were_not_sampled_are_shown():
    state = video(480, 60.0, every=30)
    assert run("frames_by_number", state, frames=[300, 7, 7.0])[0] == [7, 300]
    assert run("video_com_frame", state, frames=[480])[0] == [480]
    assert len(state.frames) == 16 and state.clip.sampled[:2] == (0, 32)
    between = run("frames_between", state, start=1, end=32)
    assert between[0] == [2, 6, 10, 14, 18, 22, 26, 31]
    assert run("frame_at_time", state, time="00:10")[0] == [81]
    result = make_registry(("frame_at_time",)).execute(Call("frame_at_time", {"time": 0}), state)
    assert result.sources == (0,)  # this one was sampled
    [told] = make_registry(("frames_between",)).signatures(state)
    assert "The video has frames 1 to 480, 8 a second; you are shown frames 1, 33, 65, " in str(told)


def test_frames_of_a_file_are_decoded_when_they_are_asked_for(tmp_path):
    frames = [Image.new("RGB", (64, 48), (20 * number, 0, 90)) for number in range(10)]
    path = write_avi(tmp_path / "v.avi", frames, 4)
    store = PictureStore()
    sampled = store.open_video(str(path), 2)
    state = MediaState.from_query(video_frames=sampled.frames, clip=sampled.clip)
    whole = load_video(str(path), 10**6)
    registry = make_registry(("frames_between",))
    result = registry.execute(Call("frames_between", {"start": 1, "end": len(whole.frames)}), state)
    for number, image in zip(result.frames, result.images, strict=True):
        np.testing.assert_array_equal(np.asarray(image.load()), np.asarray(whole.frames[number - 1]))
    assert result.frames == tuple(range(2, 10)) and whole.clip.frames([3])[0].size == (64, 48)
    path.write_bytes(b"another file")
    with pytest.raises(OperationError, match=r"frames_between failed \(MediaError\)"):
        registry.execute(Call("frames_between", {"start": 1, "end": 3}), state)


@pytest.mark.parametrize(
    ("seconds", "count"), [(5, 1), (19, 1), (20, 2), (60, 6), (99, 9), (100, 10), (300, 10), (301, 11), (3600, 120)]
)
def test_how_many_segments(seconds, count):
    assert count_segments(seconds) == count


@pytest.mark.parametrize(
    ("operation", "arguments", "reason"),
    [
        ("frames_between", {"start": 3, "end": 4}, "no frame is between 3 and 4"),
        ("frames_between", {"start": 9, "end": 3}, "at least 2 more than start"),
        ("frames_between", {"start": 0, "end": 3}, "start is out of range; frames of the video are numbered 1 to 16"),
        ("frames_between", {"start": 16, "end": 10**400}, "no frame is between 16 and 16"),
        ("frames_between", {"start": 1, "end": math.inf}, "at least|no frame|between"),
        ("frames_between", {"start": 1, "end": math.nan}, "whole numbers"),
        ("frames_between", {"start": "1", "end": 3}, "whole numbers"),
        ("frames_between", {"start": 1, "end": True}, "whole numbers"),
        ("frames_between", {"start": 1}, "missing end"),
        ("frames_by_number", {"frames": []}, "0 frames; it must have 1 to 8"),
        ("frames_by_number", {"frames": list(range(1, 10))}, "9 frames; it must have 1 to 8"),
        ("video_com_frame", {"frames": [1, 2]}, "2 frames; it must have 1 to 1"),
        ("frames_by_number", {"frames": [17]}, "frames of the video are numbered 1 to 16"),
        ("frames_by_number", {"frames": 3}, "an array, not a JSON number"),
        ("frame_at_time", {"time": "01:01"}, "out of range; the video is from 00:00 to 01:00"),
        ("frame_at_time", {"time": -1}, "out of range"),
        ("frame_at_time", {"time": "soon"}, "must be MM:SS or HH:MM:SS"),
        ("frame_at_time", {"time": "9" * 8000 + ":00"}, "must be MM:SS or HH:MM:SS"),
        ("frame_at_time", {"time": "٠٠:٠١"}, "must be MM:SS or HH:MM:SS"),
        ("frame_at_time", {"time": [1]}, "numbers, not a JSON array"),
        ("find_segment", {"segments": []}, "0 segments; it must have 1 to 5"),
        ("find_segment", {"segments": [1, 2, 3, 4, 5, 6]}, "6 segments; it must have 1 to 5"),
        ("find_segment", {"segments": [7]}, "segments of the video are numbered 1 to 6"),
        ("find_segment", {"segments": 3}, "an array, not a JSON number"),
        ("find_segment", {"segments": [[]]}, "whole numbers"),
        ("find_segment", {"ids": [1], "segment_ids": [1]}, "missing segments"),
    ],
)
def test_what_is_refused(operation, arguments, reason):
    if operation == "frames_between" and arguments.get("end") == math.inf:
        assert run(operation, video(), **arguments)[0][-1] == 15  # after the last frame is the last
        return
    with pytest.raises(OperationError, match=reason):
        run(operation, video(), **arguments)


@pytest.mark.parametrize("operation", ["frames_between", "frame_at_time", "find_segment"])
def test_only_videos_have_frames(operation):
    image = MediaState.from_query([Image.new("RGB", (64, 48))])
    given = {"frames_between": {"start": 1, "end": 3}, "frame_at_time": {"time": 0}, "find_segment": {"segments": [1]}}
    assert make_registry((operation,)).signatures(image) == []
    with pytest.raises(OperationError, match="is only for videos; there is no video"):
        run(operation, image, **given[operation])
    timeless = MediaState.from_query(video_frames=[Image.new("RGB", (64, 48))] * 3)
    assert make_registry((operation,)).signatures(timeless) == []
    with pytest.raises(OperationError, match="is only for videos whose times are known"):
        run(operation, timeless, **given[operation])


def test_a_short_video_is_one_segment():
    assert make_registry(("find_segment",)).signatures(video(8, 19.0)) == []
    with pytest.raises(OperationError, match="only for videos of 20 seconds or more"):
        run("find_segment", video(8, 19.0), segments=[1])

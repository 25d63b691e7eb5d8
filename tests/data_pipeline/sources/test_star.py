"""Videos with answer windows: which sampled frames are the evidence."""

import pytest
from PIL import Image

from data_pipeline.sources.star import VideoWindows
from tests.processing.avi import write_avi

ENTRY = {
    "question_id": "Interaction_T1_13",
    "question": "Which object was tidied up?",
    "video_id": "6H78U",
    "start": 1.0,
    "end": 2.0,
    "answer": "The closet.",
    "choices": [{"choice_id": 0, "choice": "The blanket."}, {"choice_id": 1, "choice": "The closet."}],
}


@pytest.fixture
def video(tmp_path):
    (tmp_path / "videos").mkdir()
    frames = [Image.new("RGB", (64, 48), (8 * number, 0, 0)) for number in range(31)]
    return write_avi(tmp_path / "videos" / "6H78U.avi", frames, fps=10)


def test_the_frames_of_a_window(write, video):
    open_ended = {key: value for key, value in ENTRY.items() if key != "choices"}
    first, second, long = VideoWindows(
        str(write("star.json", [ENTRY, open_ended | {"question_id": 2}, ENTRY | {"start": 0, "end": 3}]))
    )
    assert first.id == "star-Interaction_T1_13" and first.video == str(video)
    # 16 of 31 frames, every other one, 0.2 s apart: seconds 1.0 to 2.0 are the 6th to the 11th.
    assert first.cue == (6, 7, 8, 9, 10, 11)
    assert (
        first.question == "Which object was tidied up?\nA. The blanket\nB. The closet"
        and first.answer == "B. The closet"
    )
    assert (second.question, second.answer) == ("Which object was tidied up?", "The closet.")
    assert len(long.cue) == 8 and long.cue[0] == 1 and long.cue[-1] == 16  # an operation selects no more


def test_entries_that_do_not_fit_are_named(write, video, errors):
    entries = [
        ENTRY | {"video_id": "gone"},
        ENTRY | {"end": 0.5},
        ENTRY | {"start": 99, "end": 100},
        ENTRY | {"answer": "The door."},
        7,
        {key: value for key, value in ENTRY.items() if key != "start"},
    ]
    video.with_name("broken.mp4").write_bytes(b"no video")
    entries.append(ENTRY | {"video_id": "broken"})
    path = write("star.json", entries)
    found = errors(VideoWindows(str(path)))
    expected = [
        "no video gone",
        "is not [start, end]",
        "begins after",
        "none of its choices",
        "got int",
        "'start'",
        "broken",
    ]
    assert all(f"{path}, entry {at}: " in found[at] and text in found[at] for at, text in enumerate(expected)), found

"""Videos with answer windows: which sampled frames are the evidence."""

import pytest
from PIL import Image

from data_pipeline.sources.star import VideoWindows
from data_pipeline.synthesis import BudgetMediaLoader, Synthesizer, TemplateCaptioner
from pixel_reasoner_jax.operations import default_registry
from pixel_reasoner_jax.processing import Budgets
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
    first, second = VideoWindows(str(write("star.json", [ENTRY, open_ended | {"question_id": 2}])))
    assert first.id == "star-Interaction_T1_13" and first.video == str(video) and first.window == (1.0, 2.0)
    assert first.question == "Which object was tidied up?\nA. The blanket\nB. The closet"
    assert first.answer == "B. The closet"
    assert (second.question, second.answer) == ("Which object was tidied up?", "The closet.")
    # 16 of 31 frames, every other one, 0.2 s apart: seconds 1.0 to 2.0 are the 6th to the 11th.
    mix = {"single_pass": 1.0}
    draft = Synthesizer(default_registry(), BudgetMediaLoader(), TemplateCaptioner(), video_mix=mix)(first)
    assert draft.operations[0].arguments == {"target_frames": [6, 7, 8, 9, 10, 11]}
    reader = BudgetMediaLoader(Budgets(video_frames=6))  # 0, 0.6, 1.2, 1.8, 2.4 and 3 s
    draft = Synthesizer(default_registry(), reader, TemplateCaptioner(), video_mix=mix)(first)
    assert draft.operations[0].arguments == {"target_frames": [3, 4]}


def test_entries_that_do_not_fit_are_named(write, video, errors):
    entries = [
        ENTRY | {"video_id": "gone"},
        ENTRY | {"end": "2"},
        ENTRY | {"answer": "The door."},
        7,
        {key: value for key, value in ENTRY.items() if key != "start"},
    ]
    path = write("star.json", entries)
    found = errors(VideoWindows(str(path)))
    expected = ["no video gone", "'end' is str", "none of its choices", "got int", "'start'"]
    assert all(f"{path}, entry {at}: " in found[at] and text in found[at] for at, text in enumerate(expected)), found

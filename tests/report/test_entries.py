"""What is described of a trajectory, which all pages draw."""

import numpy as np
from PIL import Image

from pixel_reasoner_jax.processing import Geometry
from pixel_reasoner_jax.processing.media import normalization_table, process_image
from pixel_reasoner_jax.report.entries import Entry, Facts, TokenTexts, entry, text_entry
from pixel_reasoner_jax.trajectory import Ended, Source
from tests.trajectories import call, message, text

TABLE = normalization_table([0.5] * 3, [0.25] * 3)


class Shelf:
    """Takes images, and no files."""

    def add(self, source):
        if not isinstance(source, Image.Image):
            return None
        return {"width": source.width, "height": source.height}


def described(trajectory, **facts) -> Entry:
    return entry(trajectory, Facts(**facts), Shelf(), TokenTexts(None))


def test_a_call_that_was_executed_stands_beside_the_text_and_any_other_within_it(make_trajectory):
    trajectory = make_trajectory(ended=Ended.OPERATIONS)
    trajectory.messages[6] = message("assistant", text(f"Once more. {call('zoom_in', '{}')}"))
    detail = described(trajectory).detail
    turns = [one["items"][0]["text"].strip() for one in detail["messages"] if one["role"] == "assistant"]
    assert turns == ["Let me zoom in.", "Again.", f"Once more. {call('zoom_in', '{}')}"]
    assert [one["call"] for one in detail["operations"]] == [
        call("crop_image_normalized", '{"bbox_2d": [0.2]}'),
        call("crop_image_normalized", "{}"),
    ]
    assert detail["stopped"] == "limit on operations" and not detail["says_loss"]
    assert all(one["train"] for one in detail["operations"])


def test_an_image_that_is_gone_is_as_the_model_saw_it_without_boxes_that_would_not_fit(make_trajectory):
    trajectory = make_trajectory()
    images = [trajectory.messages[1]["content"][0], trajectory.messages[3]["content"][1]]
    trajectory.media = [process_image(item["image"], (56, 56), Geometry(), TABLE) for item in images]
    whole = described(trajectory).detail
    (first, second) = (whole["messages"][turn]["items"][place] for turn, place in ((1, 0), (3, 1)))
    assert (first["images"][0]["width"], first["seen"]["width"], second["seen"]["width"]) == (400, 56, 56)
    assert len(whole["boxes"]) == 1
    images[0]["image"] = "/gone.png"
    gone = described(trajectory).detail
    assert gone["messages"][1]["items"][0] == {"images": [{"width": 56, "height": 56, "reduced": True}]}
    assert gone["boxes"] == []
    trajectory.media = []
    assert described(trajectory).detail["messages"][1]["items"][0] == {"images": [None]}


def test_texts_alone_have_places_for_images():
    said = [message("user", {"type": "image"}, text("Which?")), message("assistant", text("\\boxed{4}"))]
    found = text_entry({"id": 3, "ended": "max_tokens", "sample": -1}, Facts(), said)
    assert found.detail["messages"][0]["items"] == [{"text": "[image]"}, {"text": "Which?"}]
    assert found.row["answer"] == "4" and found.row["sample"] == 0 and found.detail["stopped"]
    assert not text_entry({"ended": ["x"], "response": 5}, Facts()).detail["stopped"]
    assert np.isfinite(found.row["operations"])


def test_given_tokens_of_a_turn_have_no_log_probabilities(make_trajectory):
    source = [Source.PROMPT, Source.GIVEN, Source.SAMPLED, Source.OBSERVATION, Source.SAMPLED]
    trajectory = make_trajectory(
        tokens=np.arange(5, dtype=np.int32),
        source=np.array(source, np.int8),
        logprobs=np.array([0, -0.5, -1, 0, -2], np.float32),
    )
    assert described(trajectory).detail["turns"] == [
        {"logprobs": [None, -1.0], "ids": [1, 2]},
        {"logprobs": [-2.0], "ids": [4]},
    ]

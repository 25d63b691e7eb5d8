"""Trajectories as HTML: complete, bounded, and safe whatever the model wrote."""

import re
import types

import numpy as np
from PIL import Image

from pixel_reasoner_jax.processing import Geometry, PictureStore
from pixel_reasoner_jax.processing.media import normalization_table, process_image
from pixel_reasoner_jax.report.page import trajectories_page
from pixel_reasoner_jax.report.trajectory_html import trajectory_html
from pixel_reasoner_jax.report.trajectory_json import trajectory_dict
from pixel_reasoner_jax.trajectory import Ended, OperationRecord
from tests.trajectories import EVIL, message, text

TABLE = normalization_table([0.5] * 3, [0.25] * 3)


def noise(width, height, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def test_everything_is_there(make_trajectory, outline):
    page = trajectory_html(make_trajectory(), correct=0.0, label="Warm start")
    parsed = outline(page)
    assert parsed.tags.count("img") == 2  # the image and the crop
    assert "Warm start" in page and "✗ wrong" in page
    assert "Let me zoom in." in page and "196 × 140 px" in page
    assert "✗ no box" in page and "Execution error:" in page
    assert 'x="40" y="30" width="200" height="150"' in page  # the box on the image
    assert "<b>red</b>" in page and "reference:" in page
    assert "the last operation failed" in page
    assert "5 tokens written" in page and "policy after" not in page
    assert "policy after 1,200 updates" in trajectory_html(make_trajectory(policy_version=1200))
    assert "policy after 1 update<" in trajectory_html(make_trajectory(policy_version=1))


def test_pictures_are_shown_like_images(make_trajectory, tmp_path, outline):
    image, path = noise(400, 300), tmp_path / "image.png"
    image.save(path)
    store = PictureStore()
    shown = trajectory_html(make_trajectory(image))
    trajectory = make_trajectory(store.open(path))
    assert trajectory_html(trajectory) == shown
    described = trajectory_dict(trajectory)
    assert described == trajectory_dict(make_trajectory(image))
    assert described["messages"][3]["content"][1]["size"] == [200, 150]

    pictures = [trajectory.messages[1]["content"][0]["image"], trajectory.messages[3]["content"][1]["image"]]
    trajectory.media = [process_image(picture, (56, 56), Geometry(), TABLE) for picture in pictures]
    assert outline(trajectory_html(trajectory)).tags.count("img") == 3  # the image as the model saw it, too
    path.unlink()
    store.forget(pictures[0])
    page = trajectory_html(trajectory)
    assert page.count("The image is not available") == 2 and "img" not in outline(page).tags


def test_untrusted_text_stays_text(make_trajectory, outline):
    trajectory = make_trajectory(
        query_id=EVIL,
        question=EVIL,
        reference=[EVIL, "other"],
        messages=[
            message("user", text(EVIL)),
            message("assistant", text(f"<tool_call>{EVIL}"), text(EVIL, train=False)),
            message("user", text(EVIL)),
            message("assistant", text(f"\\boxed{{{EVIL}}}")),
            message(EVIL, text("who?")),
        ],
        operations=[OperationRecord(0, EVIL, {EVIL: EVIL}, error=EVIL), OperationRecord(1, EVIL, {"a": EVIL})],
        ended=Ended.TOKENS,
    )
    page = trajectory_html(trajectory, correct=0.5, label=EVIL)
    parsed = outline(page)
    assert "img" not in parsed.tags
    assert "\x1b" not in page
    outline(trajectories_page(EVIL, [trajectory]))


def test_masked_text_is_marked(make_trajectory):
    page = trajectory_html(
        make_trajectory(messages=[message("assistant", text("not this", train=False), text("this"))])
    )
    assert page.count("carries no loss") == 1


def test_calls_and_observations_without_loss_are_marked(make_trajectory):
    """The first call is wrong on purpose, the second one is trained; what they return never is."""
    messages = make_trajectory().messages
    plain = trajectory_html(make_trajectory())
    assert "carries no loss" not in plain
    first, second = (messages[turn]["content"][0]["text"].partition("\n") for turn in (2, 4))
    messages[2] = message("assistant", text(first[0], train=True), text(first[2], train=False))
    messages[4] = message("assistant", text(second[0], train=True), text(second[2], train=True))
    page = trajectory_html(make_trajectory(messages=messages))
    calls = [part.partition("</details>")[0] for part in page.split('<details class="operation')[1:]]
    mark = 'class="masked" title="carries no loss"'
    assert [mark in call.partition("</summary>")[0] for call in calls] == [True, False]
    assert [call.count("carries no loss") for call in calls] == [2, 0]
    assert page.count(f"<span {mark}>Observation</span>") == 2 and page.count("carries no loss") == 2 + 2 * 2


def test_pictures_share_their_bytes(make_trajectory):
    trajectory = make_trajectory(noise(2000, 1500))
    for max_bytes in (40_000, 200_000):
        assert len(trajectory_html(trajectory, max_bytes=max_bytes)) < max_bytes + 8_000


def test_long_text_is_cut(make_trajectory):
    page = trajectory_html(make_trajectory(messages=[message("assistant", text("x" * 500_000))]))
    assert "480,000 characters more" in page
    assert len(page) < 60_000


def test_a_video(make_trajectory, outline):
    frames = [noise(160, 90, seed) for seed in range(16)]
    item = {"type": "video", "video": types.SimpleNamespace(frames=frames)}
    chosen = [{"type": "image", "image": frames[i]} for i in (2, 4)]
    crop = {"type": "image", "image": frames[4].crop((10, 10, 60, 60))}
    box = {"bbox_2d": [10, 10, 60, 60], "target_image": 2}
    trajectory = make_trajectory(
        messages=[
            message("user", item, text("What happens?")),
            message("assistant", text("Look.")),
            message("user", text("frames"), *chosen),
            message("assistant", text("Closer.")),
            message("user", text("crop"), crop),
            message("assistant", text("\\boxed{A}")),
        ],
        operations=[
            OperationRecord(0, "select_frames", {"target_frames": [3, 5]}, sizes=((84, 56),) * 2, sources=(2, 4)),
            OperationRecord(
                1, "crop_image_normalized", box, boxes=((10, 10, 60, 60),), sizes=((56, 56),), sources=(17,)
            ),
        ],
    )
    page = trajectory_html(trajectory)
    assert outline(page).tags.count("img") == 16 + 2 + 1
    before = page.split("frame 5<")[0]
    assert 'x="10" y="10"' in before and 'x="10" y="10"' not in before.split("frame 4<")[0]
    assert "16 frames" in page


def test_a_picture_that_is_gone(make_trajectory, outline):
    item = {"type": "image", "image": "/nowhere/at/all.png"}
    page = trajectory_html(make_trajectory(messages=[message("user", item), message("assistant", text("?"))]))
    outline(page)
    assert "not available" in page


class HostileTexts:
    """Every token is the same hostile text."""

    known = True

    def __call__(self, token):
        return EVIL


def test_tokens_are_shaded_where_their_texts_are_known(make_trajectory, outline):
    logprobs = np.array([0, 0, 0, 0, -2, 0, 0, -np.inf, -9, -0.01], np.float32)
    trajectory = make_trajectory(logprobs=logprobs)
    assert "log-probabilities" not in trajectory_html(trajectory)
    page = trajectory_html(trajectory, texts=HostileTexts())
    assert outline(page).tags.count("script") == 0
    assert re.findall(r'style="--share:(\d+)%"', page) == ["0", "50", "100", "0"]  # one has no finite one
    assert page.count("<summary>log-probabilities</summary>") == 2

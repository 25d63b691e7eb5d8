"""Trajectories of an evaluation: all that a page shows comes back, images are kept once, damage is left out."""

import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from pixel_reasoner_jax.evaluation.identity import BLOCK, BLOCKS, model_hash, versions
from pixel_reasoner_jax.evaluation.trajectories import TrajectoryWriter, read_trajectories
from pixel_reasoner_jax.operations import Call, default_registry, make_registry
from pixel_reasoner_jax.processing import PictureStore
from pixel_reasoner_jax.report.trajectory_html import trajectory_html
from pixel_reasoner_jax.rollout.episode import Episode
from pixel_reasoner_jax.rollout.prompt import Prompt
from tests.evaluation.forms import write_image, write_video
from tests.evaluation.scripted import picture, trajectory
from tests.trajectories import EVIL

KEY = ("vstar", "pixel", "q 1", 0)


def jpeg(shade):
    buffer = io.BytesIO()
    picture(shade).save(buffer, "JPEG")
    return buffer.getvalue()


def save(directory, given, key=KEY, sources=()):
    with TrajectoryWriter(directory) as writer:
        writer.write(key, given, sources)


def test_what_is_written_is_read(tmp_path, outline):
    data = jpeg(90)
    query = {"id": "q 1", "question": EVIL, "images": [data]}
    given = trajectory(query, 0, f"\\boxed{{{EVIL}\ud800}}")
    given.reference, given.policy_version = ["a", "b"], 3
    save(tmp_path, given, sources=[data])
    (found,) = read_trajectories(tmp_path, [KEY, ("vstar", "text", "q 1", 0)]).values()
    for name in ("tokens", "source", "train", "logprobs", "policy_logprobs", "temperatures"):
        np.testing.assert_array_equal(getattr(found, name), getattr(given, name))
        assert getattr(found, name).dtype == getattr(given, name).dtype
    for name in ("query_id", "question", "reference", "sample", "response", "operations", "ended", "policy_version"):
        assert getattr(found, name) == getattr(given, name)
    (file,) = (tmp_path / "images").iterdir()
    assert file.read_bytes() == data and file.suffix == ".jpg"  # as it was, and the crop is a part of it
    crop = found.messages[3]["content"][0]["image"]
    assert np.array_equal(np.asarray(crop.load()), np.asarray(given.messages[3]["content"][0]["image"].load()))
    shown = outline(trajectory_html(found, correct=1.0))
    assert shown.tags.count("img") == 2 and shown.tags.count("rect") == 3


def test_an_image_is_kept_once(tmp_path):
    path = str(write_image(tmp_path / "data" / "a.png"))
    same = picture(30)
    for number in range(3):
        for source in (path, same, jpeg(1)):
            query = {"id": str(number), "question": "?", "images": [source]}
            given = trajectory(query, number, "x", PictureStore())
            save(tmp_path / "out", given, ("v", "pixel", str(number), number), [source])
    assert len(list((tmp_path / "out" / "images").iterdir())) == 3


def test_videos_and_resized_pictures(tmp_path, processor):
    """A video's frames, a selected frame, a crop of it, and the crop of a resized image in the released code's way."""
    video = str(write_video(tmp_path / "v.avi"))
    store = PictureStore()
    query = {"id": "v", "question": "?", "video": video}
    selected = '<tool_call>{"name": "select_frames", "arguments": {"target_frames": [2]}}</tool_call>'
    found = played(tmp_path, processor, query, default_registry(), store, selected)
    shown = found.messages[1]["content"][0]["video"]
    assert len(shown) == processor.budgets.video_frames and shown[0].size == (64, 48)
    assert found.messages[3]["content"][-1]["image"].size == (64, 48)
    query = {"id": "i", "question": "?", "images": [picture(9, (400, 300))]}
    arguments = '{"bbox_2d": [0.1, 0.1, 0.6, 0.6], "target_image": 1}'
    crop = f'<tool_call>{{"name": "crop_image_normalized", "arguments": {arguments}}}</tool_call>'
    found = played(tmp_path, processor, query, default_registry(release=True), store, crop)
    assert found.operations[0].succeeded
    part, expected = (one.messages[3]["content"][-1]["image"] for one in (found, found.given))
    assert part.size == expected.size
    assert np.abs(np.asarray(part.load(), int) - np.asarray(expected.load(), int)).max() <= 1


def test_edited_pictures_are_kept_as_they_were_shown(tmp_path, processor):
    store, query = PictureStore(), {"id": "e", "question": "?", "images": [picture(9, (400, 300))]}
    registry = make_registry(("rotate_image",))
    call = registry.write(Call("rotate_image", {"angle": 90, "target_image": 1}))
    found = played(tmp_path, processor, query, registry, store, call)
    turned, expected = (one.messages[3]["content"][-1]["image"] for one in (found, found.given))
    assert turned.size == (300, 400)
    np.testing.assert_array_equal(np.asarray(turned.load()), np.asarray(expected.load()))
    np.testing.assert_array_equal(np.asarray(turned.load()), np.rot90(np.asarray(query["images"][0])))


def played(directory, processor, query, registry, store, call):
    """An episode of one call, as it comes back; what was written is its `given`."""
    from pixel_reasoner_jax.rollout import Limits, SamplingSettings

    prompt = Prompt.build(query, processor, registry, None, store)
    episode = Episode(prompt, 0, processor, registry, Limits(), SamplingSettings())
    for text in (call, "\\boxed{1}"):
        tokens = np.array([*processor.tokenizer.encode(text), processor.im_end], np.int32)
        episode.add_sampled(tokens, *np.zeros((2, len(tokens)), np.float32))
        if (made := episode.end_turn(True)) is not None:
            episode.observe(made, episode.execute(made))
    key = ("b", "pixel", query["id"], 0)
    save(directory / query["id"], episode.trajectory(), key)
    (found,) = read_trajectories(directory / query["id"], [key]).values()
    found.given = episode.trajectory()
    return found


def test_an_image_that_is_gone_is_missing(tmp_path):
    path = write_image(tmp_path / "a.png")
    given = trajectory({"id": "q 1", "question": "?", "images": [str(path)]}, 0, "x", PictureStore(0))
    path.unlink()
    save(tmp_path, given)
    (found,) = read_trajectories(tmp_path, [KEY]).values()
    assert "not available" in trajectory_html(found)


@pytest.mark.parametrize(
    "change",
    [
        lambda line: line[:-40],
        lambda line: line.replace('"tokens": "', '"tokens": "A'),
        lambda line: re.sub('"source": "[^"]*"', '"source": "eJwDAAAAAAE="', line),
        lambda line: line.replace('"role": "system"', '"rolle": "system"'),
        lambda line: line.replace('"ended": "answer"', '"ended": "later"'),
        lambda line: line.replace('"file": "', '"file": "../../etc/'),
        lambda line: line[:60] + "[" * 100_000,
    ],
)
def test_damage_is_left_out(tmp_path, change):
    for number in range(2):
        query = {"id": str(number), "question": "?", "images": [picture(30)]}
        save(tmp_path, trajectory(query, 0, "x"), ("v", "pixel", str(number), 0))
    path = tmp_path / "trajectories.jsonl"
    first, second = path.read_text().splitlines()
    path.write_text(f"{change(first)}\n{second}\n")
    keys = [("v", "pixel", str(number), 0) for number in range(2)]
    assert list(read_trajectories(tmp_path, keys)) == keys[1:]
    assert read_trajectories(tmp_path / "nowhere", keys) == {}


def test_a_damaged_last_line_is_taken_away(tmp_path):
    query = {"id": "0", "question": "?"}
    save(tmp_path, trajectory(query, 0, "x"), ("v", "pixel", "0", 0))
    path = tmp_path / "trajectories.jsonl"
    path.write_text(path.read_text() + '{"benchmark": "v"')
    save(tmp_path, trajectory(query, 1, "x"), ("v", "pixel", "0", 1))
    assert [json.loads(line)["sample"] for line in path.read_text().splitlines()] == [0, 1]


def test_the_hash_of_a_model(tmp_path):
    for name, change in (("a", None), ("b", None), ("c", 5), ("d", BLOCK * BLOCKS * 3)):
        (tmp_path / name).mkdir()
        data = bytearray(BLOCK * BLOCKS * 4)
        if change is not None:
            data[change : change + 2**15] = b"x" * 2**15  # as training does, not one byte
        (tmp_path / name / "model.safetensors").write_bytes(data)
        (tmp_path / name / "config.json").write_text("{}")
        (tmp_path / name / f"{name}.log").write_text("no weights")
    hashes = {name: model_hash(tmp_path / name) for name in "abcd"}
    assert hashes["a"] == hashes["b"] and len(set(hashes.values())) == 3
    (tmp_path / "b" / "config.json").write_text("{ }")
    assert model_hash(tmp_path / "b") != hashes["a"]
    (tmp_path / "a" / "parameters").mkdir()  # a converted model
    (tmp_path / "a" / "parameters" / "d").write_bytes(b"x")
    assert model_hash(tmp_path / "a") != hashes["a"]
    (tmp_path / "e").mkdir()  # an adapter of one of them
    (tmp_path / "e" / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(tmp_path / "c")}))
    (tmp_path / "e" / "adapter_model.safetensors").write_bytes(b"x")
    assert model_hash(tmp_path / "e") not in (hashes["c"], model_hash(tmp_path / "a"))
    (tmp_path / "c" / "model.safetensors").write_bytes(b"y")
    assert len({model_hash(tmp_path / name) for name in "ce"} | {hashes["c"]}) == 3
    assert set(versions()) >= {"pixel_reasoner_jax", "jax", "python"}
    assert Image.__version__ == versions()["pillow"]

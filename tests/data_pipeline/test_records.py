"""What is written is read back; what is broken is named."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from data_pipeline import lessons
from data_pipeline.records import DATASET_INFO, RecordError, RecordSource, RecordWriter, read_description, write_records
from data_pipeline.sources.pixel_search import PixelSearch
from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.processing import PictureStore


@pytest.fixture(scope="module")
def drafts(registry, processor):
    synthesizer, world = lessons.warm_start(registry, processor), PixelSearch(12, "sft")
    return [synthesizer(world[index]) for index in range(12)]


def pixels(image) -> np.ndarray:
    opened = image if isinstance(image, Image.Image) else Image.open(io.BytesIO(image))
    return np.asarray(opened.convert("RGB"))


def test_trajectories_come_back(drafts, tmp_path):
    write_records(tmp_path, "trajectory", drafts, shard_size=5)
    source = RecordSource(tmp_path, "trajectory")
    assert len(source) == 12
    shards = [f"trajectory-train-0000{number}.array_record" for number in range(3)]
    assert sorted(path.name for path in tmp_path.iterdir()) == [DATASET_INFO, "features.json", "metadata.json", *shards]
    for draft, stored in zip(drafts, source, strict=True):
        assert (stored.query_id, stored.kind, stored.reference) == (draft.query_id, draft.kind, draft.reference)
        assert stored.operations == draft.operations
        assert stored.attributes | {"pixel_box": ()} == draft.attributes | {"pixel_box": ()}
        for message, other in zip(draft.messages, stored.messages, strict=True):
            assert message["role"] == other["role"]
            for item, read in zip(message["content"], other["content"], strict=True):
                if item["type"] == "image":
                    assert np.array_equal(pixels(item["image"]), pixels(read["image"]))
                    item, read = item | {"image": None}, read | {"image": None}
                assert item == read


def test_stored_paths_do_not_lead_out_of_the_root_of_media(tmp_path, use_media):
    paths = ("photos/cat.jpg", f"{tmp_path}/media/cat.jpg", "/etc/passwd", "../cat.jpg", "photos/../../cat.jpg")
    (tmp_path / "media").mkdir()
    write_records(tmp_path / "data", "query", [{"id": path, "question": "?", "video": path} for path in paths])
    source = RecordSource(tmp_path / "data", "query")
    assert [query["video"] for query in source] == list(paths)
    use_media(root=str(tmp_path / "media"))
    assert source[0]["video"] == f"{tmp_path}/media/photos/cat.jpg" and source[1]["video"] == paths[1]
    for index in (2, 3, 4):
        with pytest.raises(RecordError, match=f"record {index}: cannot be read: .* leads out of {tmp_path}/media"):
            source[index]


def test_queries_come_back_with_images_videos_and_paths(tmp_path):
    image, other = PixelSearch(1)[0].images[0], Image.new("L", (30, 20), 7)
    queries = [
        {"id": "a", "question": "?", "answer": ["1", "one"], "images": [image, other, image]},
        {"id": "b", "question": "?", "answer": "2", "images": ["photos/cat.jpg"]},
        {"id": "c", "question": "?", "answer": "3", "video": [other, other]},
        {"id": "d", "question": "?", "answer": "4", "video": "clips/jump.mp4"},
        {"id": "e", "question": "?", "answer": "5"},
    ]
    write_records(tmp_path, "query", queries)
    first, second, third, fourth, fifth = RecordSource(tmp_path, "query")
    assert first["answer"] == ["1", "one"] and first["images"][0] is first["images"][2]  # stored once
    assert np.array_equal(pixels(first["images"][1]), pixels(other))
    assert second["images"] == ["photos/cat.jpg"] and fourth["video"] == "clips/jump.mp4"
    assert len(third["video"]) == 2 and np.array_equal(pixels(third["video"][0]), pixels(other))
    assert fifth == queries[4]


def test_pictures_are_stored_with_their_pixels(tmp_path):
    image = PixelSearch(1)[0].images[0]
    crop = PictureStore().open(image).crop((10, 20, 90, 70))
    write_records(tmp_path, "query", [{"id": "a", "question": "?", "answer": "1", "images": [crop]}])
    [stored] = RecordSource(tmp_path, "query")
    assert np.array_equal(pixels(stored["images"][0]), pixels(image.crop((10, 20, 90, 70))))


def test_the_description_says_what_is_there(drafts, tmp_path):
    write_records(tmp_path / "a", "trajectory", drafts, shard_size=5)
    write_records(tmp_path / "b", "trajectory", drafts, shard_size=5)
    write_records(tmp_path / "c", "trajectory", drafts[:-1], shard_size=5)
    described = [read_description(tmp_path / name) for name in "abc"]
    assert described[0] == described[1] and described[0]["digest"] != described[2]["digest"]
    assert [shard["count"] for shard in described[0]["shards"]] == [5, 5, 2]


def test_an_interrupted_data_set_is_not_one(drafts, tmp_path):
    with pytest.raises(KeyboardInterrupt), RecordWriter(tmp_path, "trajectory", shard_size=2) as writer:
        writer.write(drafts[0])
        raise KeyboardInterrupt
    with pytest.raises(RecordError, match="no data set was completed"):
        RecordSource(tmp_path, "trajectory")


def test_a_data_set_is_not_overwritten(drafts, tmp_path):
    write_records(tmp_path, "trajectory", drafts[:1])
    with pytest.raises(UserError, match="already holds"):
        RecordWriter(tmp_path, "trajectory")
    with pytest.raises(RecordError, match="kind 'trajectory', expected 'query'"):
        RecordSource(tmp_path, "query")
    with pytest.raises(ValueError, match="unknown kind"):
        RecordWriter(tmp_path / "new", "rollout")


def test_an_unknown_schema_is_named(drafts, tmp_path):
    write_records(tmp_path, "trajectory", drafts[:1])
    description = read_description(tmp_path)
    (tmp_path / "metadata.json").write_text(json.dumps(description | {"schema": 99}))
    with pytest.raises(RecordError, match="schema version 99"):
        RecordSource(tmp_path, "trajectory")


def test_a_broken_record_is_named(drafts, tmp_path):
    write_records(tmp_path, "trajectory", drafts, shard_size=6)
    path = tmp_path / "trajectory-train-00001.array_record"
    content = bytearray(path.read_bytes())
    image = content.find(b"\x89PNG")
    content[image + 100 : image + 164] = bytes(64)
    path.write_bytes(content)
    source, broken = RecordSource(tmp_path, "trajectory"), []
    for index in range(12):
        try:
            source[index]
        except RecordError as error:
            broken.append((index, str(error)))
    assert broken and all(f"{path}, record {index - 6}: cannot be read" in text for index, text in broken)
    assert len(broken) < 6  # the others can still be read
    path.unlink()
    with pytest.raises(RecordError, match="00001.array_record is missing"):
        RecordSource(tmp_path, "trajectory")

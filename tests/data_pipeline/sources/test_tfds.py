"""A TFDS data set that is written here, read through a map of its fields."""

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image

from data_pipeline.sources import SourceError
from data_pipeline.sources.tfds import BoxedDataset

MAP = {"directory": "animals/1.0.0", "image": "image", "box": "objects/bbox", "answer": "objects/label", "id": "name"}
ASK = {"question_text": "Which animal is the smallest?"}


@pytest.fixture
def animals(tmp_path, write):
    """Three images of 200x100 pixels with two animals, with one too small, and with none."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import naming

    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(),
            "name": tfds.features.Text(),
            "objects": tfds.features.Sequence(
                {"bbox": tfds.features.BBoxFeature(), "label": tfds.features.ClassLabel(names=["cat", "dog"])}
            ),
        }
    )
    box = tfds.features.BBox  # top, left, bottom, right
    objects = [
        [{"bbox": box(0.0, 0.0, 1.0, 0.5), "label": "dog"}, {"bbox": box(0.2, 0.5, 0.6, 0.9), "label": "cat"}],
        [{"bbox": box(0.0, 0.0, 0.1, 0.1), "label": "dog"}],
        [],
    ]
    directory = tmp_path / "animals" / "1.0.0"
    directory.mkdir(parents=True)
    files = naming.ShardedFileTemplate(
        data_dir=directory, dataset_name="animals", split="train", filetype_suffix="array_record"
    )
    writer = ArrayRecordWriter(str(files.sharded_filepath(shard_index=0, num_shards=1)), "group_size:1")
    for number, found in enumerate(objects):
        example = {"image": str(write(f"{number}.png")), "name": f"animal {number}", "objects": found}
        writer.write(features.serialize_example(features.encode_example(example)))
    writer.close()
    split = tfds.core.SplitInfo(name="train", shard_lengths=[3], num_bytes=0, filename_template=files)
    tfds.folder_dataset.write_metadata(data_dir=directory, features=features, split_infos=[split], check_data=False)
    return directory


def test_the_smallest_box_and_its_label(animals, write, errors, tmp_path):
    source = BoxedDataset(str(write("map.json", MAP | ASK)))
    first, second = source[0], source[1]
    assert len(source) == 3 and first.id == "animals-train-animal 0"
    assert first.images == ((tmp_path / "0.png").read_bytes(),)  # as it was stored, not decoded
    assert first.cue == pytest.approx((0.5, 0.2, 0.9, 0.6)) and first.answer == "cat"
    assert first.question == "Which animal is the smallest?" and second.answer == "dog"
    assert "entry 2: it has no box" in errors(source)[2] and "map.json" in errors(source)[2]
    assert np.asarray(Image.open(tmp_path / "0.png")).shape == (100, 200, 3)


def test_a_data_set_without_questions_is_for_the_captioner(animals, write):
    seed = BoxedDataset(str(write("map.json", {key: MAP[key] for key in ("directory", "image", "box")})))[0]
    assert seed.question == seed.answer == "" and seed.id == "animals-train-000000"


@pytest.mark.parametrize(
    "change,message",
    [
        ({"boxes": "x"}, "unknown field 'boxes'"),
        ({"box": "objects/rectangle"}, "no field 'objects/rectangle'"),
        ({"directory": "plants"}, "cannot be read as a TFDS data set"),
        ({"split": "test"}, "cannot be read as a TFDS data set"),
        ({"box_order": "xywh"}, "expected yxyx or xyxy"),
        ({"image": None}, "'image' is missing"),
    ],
)
def test_a_map_that_does_not_fit_is_named(animals, write, change, message):
    with pytest.raises(SourceError, match=f"map.json: .*{message}"):
        BoxedDataset(str(write("map.json", MAP | change)))

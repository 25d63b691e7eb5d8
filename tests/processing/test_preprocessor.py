"""The forms in which versions of transformers save a processor, what is taken of them, and what is saved again."""

from __future__ import annotations

import json
import logging
import shutil

import pytest
import transformers
from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.processing import Budgets, Processor
from pixel_reasoner_jax.processing.preprocessor import NORMALIZATION
from tests.processing.conftest import CONFIG, PREPROCESSOR

TOKEN = 28 * 28
MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.3, 0.4]


@pytest.fixture
def folder(tiny_directory, tmp_path):
    """A folder with tokenizer and config.json alone."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_directory, folder)
    (folder / "preprocessor_config.json").unlink()
    return folder


def write(folder, **files):
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))


def edges(least, most):
    return {"size": {"shortest_edge": least, "longest_edge": most}}


FORMS = {
    "4.48": dict(preprocessor_config=PREPROCESSOR | {"size": {"min_pixels": 4 * TOKEN, "max_pixels": 300 * TOKEN}}),
    "4.49": dict(preprocessor_config=PREPROCESSOR | {"min_pixels": 4 * TOKEN, "max_pixels": 300 * TOKEN}),
    "4.51": dict(preprocessor_config=PREPROCESSOR | {"min_pixels": 4 * TOKEN, "max_pixels": 300 * TOKEN} | edges(1, 2)),
    "4.52": dict(
        preprocessor_config=PREPROCESSOR | edges(4 * TOKEN, 300 * TOKEN),
        video_preprocessor_config=PREPROCESSOR | edges(8 * TOKEN, 64 * TOKEN),
    ),
    "4.57": dict(
        preprocessor_config=PREPROCESSOR | {"min_pixels": None, "max_pixels": None} | edges(4 * TOKEN, 300 * TOKEN),
        video_preprocessor_config=PREPROCESSOR | edges(8 * TOKEN, 64 * TOKEN) | {"max_frames": 768, "fps": None},
        processor_config={"processor_class": "Qwen2_5_VLProcessor"},
    ),
    "5": dict(
        preprocessor_config={"image_mean": [0, 0, 0], "image_std": [1, 1, 1], "max_pixels": TOKEN},  # an older one
        processor_config={
            "image_processor": PREPROCESSOR | edges(4 * TOKEN, 300 * TOKEN),
            "video_processor": PREPROCESSOR | edges(8 * TOKEN, 64 * TOKEN),
            "processor_class": "Qwen2_5_VLProcessor",
        },
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_read(folder, form):
    write(folder, **FORMS[form])
    processor = Processor.from_pretrained(folder)
    video = (8, 64) if form in ("4.52", "4.57", "5") else Budgets().video
    assert processor.budgets == Budgets(image=(4, 300), crop=(4, 300), frame=(4, 300), video=video)
    assert (processor.preprocessor["image_mean"], processor.preprocessor["image_std"]) == (MEAN, STD)
    assert processor.position_rule == "released"


def test_what_transformers_5_saves_is_read(folder, tiny, tmp_path):
    """Its processor without the part for videos, which needs torchvision: another for images is in its place."""
    theirs = transformers.Qwen2_5_VLProcessor.__new__(transformers.Qwen2_5_VLProcessor)
    theirs.tokenizer, theirs.chat_template = tiny.tokenizer, "{{ messages }}"
    theirs.image_processor = Qwen2VLImageProcessorPil(min_pixels=4 * TOKEN, max_pixels=300 * TOKEN, image_std=STD)
    theirs.video_processor = Qwen2VLImageProcessorPil(min_pixels=8 * TOKEN, max_pixels=64 * TOKEN)
    theirs.save_pretrained(tmp_path / "saved")
    assert (tmp_path / "saved" / "chat_template.jinja").exists()
    assert not (tmp_path / "saved" / "preprocessor_config.json").exists()
    shutil.copy(folder / "config.json", tmp_path / "saved")
    processor = Processor.from_pretrained(tmp_path / "saved")
    assert processor.budgets == Budgets(image=(4, 300), crop=(4, 300), frame=(4, 300), video=(8, 64))
    assert processor.preprocessor["image_std"] == STD
    assert processor.tokenizer.chat_template == "{{ messages }}"


def test_sizes_are_those_that_transformers_makes(folder, tmp_path):
    """By its own file, in the form of version 5 and in that of version 4."""
    theirs = Qwen2VLImageProcessorPil(min_pixels=9 * TOKEN, max_pixels=40 * TOKEN, image_mean=MEAN, image_std=STD)
    saved = json.loads(theirs.to_json_string())
    for name, content in (("processor_config", {"image_processor": saved}), ("preprocessor_config", saved)):
        copy = tmp_path / name
        shutil.copytree(folder, copy)
        write(copy, **{name: content})
        processor = Processor.from_pretrained(copy)
        for size in ((30, 30), (200, 130), (700, 500), (64, 1000)):
            image = Image.new("RGB", size)
            grid = theirs(image, return_tensors="np")["image_grid_thw"][0]
            assert processor.image(image).grid == tuple(grid)


def test_a_folder_with_a_tokenizer_alone_says_which_constants_are_taken(folder, caplog):
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            processor = Processor.from_pretrained(folder)
    [message] = [record.getMessage() for record in caplog.records]
    assert message.startswith(f"{folder} has neither preprocessor_config.json nor processor_config.json")
    for part in (*map(str, NORMALIZATION.values()), "image 4 to 2000, crop 4 to 1000, frame 4 to 400, video 4 to 256"):
        assert part in message
    assert processor.budgets == Budgets()
    assert {name: processor.preprocessor[name] for name in NORMALIZATION} == NORMALIZATION


def test_an_entry_that_a_file_lacks_is_said(folder, caplog):
    write(folder, preprocessor_config={"image_mean": MEAN, "max_pixels": 90 * TOKEN})
    assert Processor.from_pretrained(folder).budgets.image == (4, 90)
    assert "lacks image_std in preprocessor_config.json" in caplog.text and "tokens" not in caplog.text


@pytest.mark.parametrize(
    "file, image, crop, frame",
    [
        ({"max_pixels": 12_845_056, "min_pixels": 3136}, (4, 16384), (4, 1000), (4, 400)),  # Qwen2.5-VL's
        ({"max_pixels": 100 * TOKEN + 5}, (4, 100), (4, 100), (4, 100)),
        ({"min_pixels": 256 * TOKEN - 1}, (256, 2000), (256, 1000), (256, 400)),
        ({"max_pixels": 2 * TOKEN}, (2, 2), (2, 2), (2, 2)),
        ({"max_pixels": 1.5 * TOKEN}, (1, 1), (1, 1), (1, 1)),
        ({"max_pixels": 5}, (1, 1), (1, 1), (1, 1)),
        ({}, (4, 2000), (4, 1000), (4, 400)),
        ({"max_pixels": TOKEN, "budgets": {"image": [4, 9], "crop": [4, 8]}}, (4, 9), (4, 8), (4, 400)),  # ours
    ],
)
def test_pixels_become_tokens_and_crops_are_images_too(folder, file, image, crop, frame):
    write(folder, preprocessor_config=PREPROCESSOR | file)
    assert Processor.from_pretrained(folder).budgets == Budgets(image=image, crop=crop, frame=frame)


def test_what_is_given_wins_and_none_is_the_checkpoint_s(folder):
    write(folder, preprocessor_config=PREPROCESSOR | {"max_pixels": 90 * TOKEN})
    given = {"image": None, "crop": (5, 6), "video_frames": None, "video_rate": 2.0}
    budgets = Processor.from_pretrained(folder, given).budgets
    assert budgets == Budgets(image=(4, 90), crop=(5, 6), frame=(4, 90), video_rate=2.0)
    assert Processor.from_pretrained(folder, Budgets()).budgets == Budgets()


@pytest.mark.parametrize(
    "files, message",
    [
        (dict(preprocessor_config=[1]), "preprocessor_config.json: it holds a list"),
        (
            dict(processor_config={"image_processor": 3}),
            "processor_config.json: image_processor is 3; it must be an obj",
        ),
        (
            dict(preprocessor_config=PREPROCESSOR | {"max_pixels": "many"}),
            "max_pixels is 'many'; it must be a number of",
        ),
        (dict(preprocessor_config=PREPROCESSOR | {"max_pixels": -1}), "max_pixels is -1"),
        (
            dict(preprocessor_config=PREPROCESSOR | {"min_pixels": 9999, "max_pixels": 999}),
            "min_pixels is greater than",
        ),
        (dict(preprocessor_config=PREPROCESSOR | edges(0, [1])), "min_pixels is 0"),
        (dict(preprocessor_config=PREPROCESSOR | {"image_mean": 0.5}), "needs image_mean, three numbers"),
        (dict(preprocessor_config=PREPROCESSOR | {"image_std": ["a", 1, 2]}), "needs image_std, three numbers"),
        (dict(preprocessor_config=PREPROCESSOR | {"do_normalize": False}), "do_normalize false"),
        (
            dict(preprocessor_config=PREPROCESSOR | {"budgets": {"images": [4, 9]}}),
            "budgets has 'images', which is none",
        ),
        (dict(preprocessor_config=PREPROCESSOR | {"budgets": [4, 9]}), "budgets is no object"),
        (dict(preprocessor_config=PREPROCESSOR | {"budgets": {"image": 4}}), "budget of image is"),
        (
            dict(preprocessor_config=PREPROCESSOR | {"budgets": {"video_frames": "4"}}),
            "video_frames must be a whole number",
        ),
        (dict(preprocessor_config=PREPROCESSOR | {"patch_size": 16}), "patch_size 16"),
        (dict(config=CONFIG | {"vision_config": {"patch_size": "14"}}), "vision_config has patch_size '14'"),
        (dict(config=CONFIG | {"vision_config": [14]}), "vision_config is"),
    ],
)
def test_what_is_no_processor_s_file_is_named(folder, files, message):
    write(folder, **files)
    with pytest.raises(UserError, match=message) as raised:
        Processor.from_pretrained(folder)
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 300


def test_what_is_saved_is_what_transformers_needs(folder, tmp_path):
    """Budgets in its words, in both files, and of a folder that had none, the types of its processors."""
    write(folder, chat_template={"chat_template": "{{ messages }}"}, generation_config={"temperature": 0.5})
    budgets = Budgets(image=(4, 90), video=(2, 16), video_frames=3)
    processor = Processor.from_pretrained(folder, budgets)
    processor.save_pretrained(tmp_path / "saved")
    image, video, generation = (
        json.loads((tmp_path / "saved" / f"{name}.json").read_text())
        for name in ("preprocessor_config", "video_preprocessor_config", "generation_config")
    )
    assert (image["image_processor_type"], image["processor_class"]) == ("Qwen2VLImageProcessor", "Qwen2_5_VLProcessor")
    assert video["video_processor_type"] == "Qwen2VLVideoProcessor"
    for content, (least, most) in ((image, budgets.image), (video, budgets.video)):
        assert (content["min_pixels"], content["max_pixels"]) == (least * TOKEN, most * TOKEN)
        assert content | edges(least * TOKEN, most * TOKEN) == content
        assert (content["patch_size"], content["merge_size"], content["temporal_patch_size"]) == (14, 2, 2)
        assert content | NORMALIZATION == content
    assert generation == {"temperature": 0.5}
    again = Processor.from_pretrained(tmp_path / "saved")
    assert again.budgets == budgets and again.position_rule == "released"
    theirs = Qwen2VLImageProcessorPil.from_pretrained(tmp_path / "saved")
    assert (theirs.size["shortest_edge"], theirs.size["longest_edge"]) == (4 * TOKEN, 90 * TOKEN)
    again.save_pretrained(tmp_path / "again")
    for name in ("preprocessor_config", "video_preprocessor_config", "generation_config"):
        file = f"{name}.json"
        assert (tmp_path / "again" / file).read_text() == (tmp_path / "saved" / file).read_text()


def test_without_a_generation_config_one_is_made_that_ends_where_rollouts_do(tiny, tmp_path):
    tiny.save_pretrained(tmp_path)
    made = transformers.GenerationConfig.from_pretrained(tmp_path)
    assert made.eos_token_id == [tiny.im_end, tiny.endoftext] and made.pad_token_id == tiny.endoftext

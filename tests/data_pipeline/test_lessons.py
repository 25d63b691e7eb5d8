"""Lessons and the warm start in the world of videos; those of images are tested with the synthesizer."""

import collections
import json

import numpy as np
import pytest

from data_pipeline import lessons
from data_pipeline.sources.pixel_search_video import FRAMES, PixelSearchVideo
from pixel_reasoner_jax.processing import Processor


@pytest.fixture(scope="module")
def video_processor(registry, tmp_path_factory) -> Processor:
    directory = tmp_path_factory.mktemp("videos")
    lessons.save_world_processor(directory, registry, world="videos")
    (directory / "config.json").write_text(json.dumps({"model_type": "qwen2_5_vl"}))
    return Processor.from_pretrained(directory)


def test_lessons_about_videos(registry, video_processor):
    for index in range(4):
        seed = PixelSearchVideo(4, "pretrain", favoured=None)[index]
        call = json.dumps({"name": "select_frames", "arguments": {"target_frames": list(seed.cue)}})
        lead = "Now I will select some frames to look clearer at the colored box."
        for lesson, answer, tokens in (
            (lessons.place_lesson, f"{lead}\n<tool_call>\n{call}\n</tool_call>", [FRAMES // 2]),
            (lessons.color_lesson, f"The answer is \\boxed{{{seed.attributes['color']}}}.", [FRAMES // 2]),
            (lessons.reading_lesson, f"The answer is \\boxed{{{seed.answer}}}.", [16] * len(seed.cue)),
        ):
            rendered = video_processor.render(lesson(seed, registry))
            assert video_processor.tokenizer.decode(rendered.tokens[rendered.train]) == f"{answer}<|im_end|>"
            assert [media.tokens for media in rendered.media] == tokens


def test_the_poor_teacher_selects_a_random_frame(registry, video_processor):
    write = lessons.warm_start(registry, video_processor, world="videos", misplaced=1.0, favoured=0.9)
    world, kinds, hits = PixelSearchVideo(200, "sft"), collections.Counter(), []
    for seed in map(world.__getitem__, range(200)):
        draft = write(seed)
        kinds[draft.kind] += 1
        answer = draft.messages[-1]["content"][0]["text"]
        if draft.operations:
            (frame,) = draft.operations[-1].arguments["target_frames"]
            hits.append(frame in seed.cue)
            assert not hits[-1] or answer == f"The answer is \\boxed{{{seed.answer}}}."
    assert kinds["text_only"] / 200 == pytest.approx(0.65, abs=0.1) and kinds["reselect"] > 5
    assert np.mean(hits) == pytest.approx(1.5 / FRAMES, abs=0.12)
    draft = lessons.warm_start(registry, video_processor, world="videos", corrections=False)(world[0])
    assert draft.kind in ("text_only", "single_pass")


def test_errors_are_part_of_the_vocabulary(registry, video_processor):
    texts = [str(error) for error in lessons._errors(registry, lessons.WORLDS["videos"])]
    assert any("target_frames" in text for text in texts)
    assert len(video_processor.tokenizer.encode(texts[0])) < len(texts[0]) / 3

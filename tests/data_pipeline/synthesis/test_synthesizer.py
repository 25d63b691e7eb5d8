"""Trajectories: kinds and shares, operations that really ran, and what the loss covers."""

import collections
import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from data_pipeline import lessons
from data_pipeline.pipeline import render_trajectory
from data_pipeline.seed import Seed
from data_pipeline.sources.pixel_search import CELL_BOXES, PixelSearch
from data_pipeline.synthesis import (
    IMAGE_MIX,
    VIDEO_MIX,
    BudgetMediaLoader,
    Passage,
    SynthesisError,
    Synthesizer,
    TemplateCaptioner,
)
from data_pipeline.synthesis.captioner import PHRASES
from data_pipeline.synthesis.mistakes import contains, intersects, widened
from pixel_reasoner_jax.operations import MediaState, default_registry, parse_call, tools_section
from pixel_reasoner_jax.processing import Budgets
from pixel_reasoner_jax.rollout.prompt import query_messages


def image_seed(number: int, cue=(0.4, 0.3, 0.55, 0.5)) -> Seed:
    pixels = np.random.default_rng(number).integers(0, 255, (300, 400, 3), np.uint8)
    return Seed(f"seed-{number}", "What is it?", "a cat", (Image.fromarray(pixels),), cue=cue)


def video_seed(number: int, cue=(3, 4)) -> Seed:
    frames = [Image.new("RGB", (64, 48), (number, 20 * frame, 0)) for frame in range(8)]
    return Seed(f"video-{number}", "What happens?", ["a jump", "jump"], video=frames, cue=cue)


def calls(draft):
    turns = [m["content"] for m in draft.messages if m["role"] == "assistant"]
    return [(parse_call("".join(item["text"] for item in content)), content) for content in turns]


@pytest.fixture
def synthesizer(processor):
    return Synthesizer(default_registry(), processor, TemplateCaptioner(), seed=5)


def test_shares_are_the_papers(synthesizer):
    assert sum(IMAGE_MIX.values()) == pytest.approx(1) and sum(VIDEO_MIX.values()) == pytest.approx(1)
    for number in range(400):
        synthesizer(image_seed(number))
    for kind, share in IMAGE_MIX.items():
        assert synthesizer.counts[kind] / 400 == pytest.approx(share, abs=0.07)
    assert not synthesizer.impossible


def test_a_trajectory_depends_on_its_seed_alone(processor, synthesizer):
    first = [synthesizer(image_seed(number)) for number in range(6)]
    other = Synthesizer(default_registry(), processor, TemplateCaptioner(), seed=5)
    again = [other(image_seed(number)) for number in reversed(range(6))][::-1]
    assert [draft.kind for draft in first] == [draft.kind for draft in again]
    assert [draft.operations for draft in first] == [draft.operations for draft in again]


def test_wrong_crops_miss_the_cue_or_contain_it_and_the_last_is_right(synthesizer):
    for number in range(60):
        seed = image_seed(number)
        draft = synthesizer(seed)
        turns = [(call, content) for call, content in calls(draft) if call is not None]
        wrong, right = turns[:-1], turns[-1:]
        for call, content in wrong:
            box = call.arguments["bbox_2d"]
            assert [item["train"] for item in content] == [True, False]
            if draft.kind == "further_zoom":
                assert contains(box, seed.cue)
            else:
                assert not intersects(widened(box, 0.1), seed.cue)
        for call, content in right:
            assert call.arguments["bbox_2d"] == list(seed.cue)
            assert all(item["train"] for item in content)
        assert len(draft.operations) == len(turns)
        expected = {"text_only": 0, "single_pass": 1, "recrop_twice": 3}.get(draft.kind, 2)
        assert len(turns) == expected and all(operation.succeeded for operation in draft.operations)
        assert draft.messages[-1]["content"][-1]["text"].endswith("\\boxed{a cat}.")


def test_observations_are_what_the_operation_returns(synthesizer, processor):
    seed = next(s for s in map(image_seed, range(50)) if synthesizer(s).kind == "single_pass")
    draft = synthesizer(seed)
    text, picture = draft.messages[3]["content"]
    (operation,) = draft.operations
    (box,), (size,) = operation.boxes, operation.sizes
    assert np.array_equal(picture["image"], seed.images[0].crop(box)) and picture["kind"] == "crop"
    assert size == processor.resized(picture["image"].size, "crop")
    assert text["text"] == f"\nHere is the cropped image (Image Size: {size[0]}x{size[1]}):"


def test_video_frames_are_selected_again(processor):
    mix = {"reselect": 1.0}
    draft = Synthesizer(default_registry(), processor, TemplateCaptioner(), video_mix=mix)(video_seed(1))
    (wrong, first), (right, second), _ = calls(draft)
    assert not set(wrong.arguments["target_frames"]) & {3, 4} and right.arguments["target_frames"] == [3, 4]
    assert [item["train"] for item in first] == [True, False] and all(item["train"] for item in second)
    assert sum(item["type"] == "image" for item in draft.messages[5]["content"]) == 2
    assert draft.messages[-1]["content"][-1]["text"].endswith("\\boxed{a jump}.")


def test_another_kind_is_taken_where_the_geometry_forbids_one(processor):
    mix = {"recrop_once": 0.9, "further_zoom": 0.05, "single_pass": 0.05}
    synthesizer = Synthesizer(default_registry(), processor, TemplateCaptioner(), image_mix=mix)
    for number in range(20):
        assert synthesizer(image_seed(number, cue=(0.02, 0.02, 0.98, 0.98))).kind == "single_pass"
    assert synthesizer.impossible["recrop_once"] > 10 and synthesizer.counts == {"single_pass": 20}
    synthesizer = Synthesizer(default_registry(), processor, TemplateCaptioner(), image_mix={"recrop_once": 1})
    with pytest.raises(SynthesisError, match="seed-0"):
        synthesizer(image_seed(0, cue=(0.02, 0.02, 0.98, 0.98)))


@pytest.mark.parametrize("cue", [(0.4, 0.3, 0.55, 0.5), (0, 0, 0.03, 0.04), (0.9, 0.45, 1, 0.5), (0.5, 0, 0.75, 0.05)])
@pytest.mark.parametrize("padding", [0.0, 0.1])
def test_a_further_zoom_shows_the_evidence_far_smaller_first(cue, padding):
    """Measured on the pictures that the operation returned."""
    synthesizer = Synthesizer(
        default_registry(padding), BudgetMediaLoader(), TemplateCaptioner(), padding=padding, image_mix=ZOOM
    )
    for number in range(10):
        seed = dataclasses.replace(image_seed(number, cue=cue), images=(Image.new("RGB", (1203, 1001)),))
        draft = synthesizer(seed)
        first, last = (draft.messages[turn]["content"][1]["image"] for turn in (3, 5))
        assert 4 * last.width * last.height <= first.width * first.height < 0.91 * 1203 * 1001
        left, top, right, bottom = draft.operations[0].boxes[0]
        assert left <= cue[0] * 1203 + 1 and top <= cue[1] * 1001 + 1
        assert right >= cue[2] * 1203 - 2 and bottom >= cue[3] * 1001 - 2
        assert "too small" in draft.messages[4]["content"][0]["text"]


ZOOM = {"further_zoom": 1.0}


def test_where_a_further_zoom_has_no_room_another_kind_is_taken_and_counted(processor):
    """With its padding, the right crop of this cue is a third of the image: four times that is more than there is."""
    mix = {"further_zoom": 0.9, "single_pass": 0.1}
    synthesizer = Synthesizer(default_registry(), processor, TemplateCaptioner(), image_mix=mix)
    kinds = {synthesizer(image_seed(number, cue=(0.3, 0.3, 0.7, 0.65))).kind for number in range(10)}
    assert kinds == {"single_pass"} and synthesizer.impossible["further_zoom"] > 5


@pytest.mark.parametrize(
    "cue,text_height,honest",
    [
        ((0.4, 0.4, 0.5, 0.6), None, True),
        ((0.4, 0.4, 0.5, 0.59), None, False),
        ((0.4, 0.4, 0.5, 0.5), 0.02, True),  # of 1,400 pixels: 28 of them, and 16 as the model sees it
        ((0.4, 0.4, 0.5, 0.5), 0.015, False),  # 21 of 1,400, but 12 as the model sees it
    ],
)
def test_only_what_can_be_seen_is_answered_without_an_operation(cue, text_height, honest):
    """The model sees the image of 2,100 x 1,400 at 1,204 x 812."""
    loader = BudgetMediaLoader(Budgets(image=(4, 1280)))
    assert loader.resized((2100, 1400)) == (1204, 812)
    images = (Image.new("RGB", (2100, 1400)),)
    mix = {"text_only": 0.9, "single_pass": 0.1}
    synthesizer = Synthesizer(default_registry(), loader, TemplateCaptioner(), image_mix=mix)
    seeds = (dataclasses.replace(image_seed(n, cue=cue), images=images, text_height=text_height) for n in range(8))
    kinds = [synthesizer(seed).kind for seed in seeds]
    assert ("text_only" in kinds) == honest and (synthesizer.impossible["text_only"] > 0) != honest


def test_fixed_phrases_vary_with_the_seed_and_are_the_same_again():
    assert set(PHRASES) == set(Passage)
    for passage, variants in PHRASES.items():
        assert len(set(variants)) == len(variants) >= 10
        first, other = TemplateCaptioner(seed=1), TemplateCaptioner(seed=2)
        written = [first.write(image_seed(number), Passage(passage), (0.1, 0.2, 0.3, 0.4)) for number in range(200)]
        assert set(written) == set(variants)
        seeds = list(map(image_seed, range(200)))
        assert written == [TemplateCaptioner(seed=1).write(seed, passage, (0.1, 0.2, 0.3, 0.4)) for seed in seeds]
        assert written != [other.write(seed, passage, (0.1, 0.2, 0.3, 0.4)) for seed in seeds]
    assert all("too small" in text for text in PHRASES[Passage.TOO_SMALL])


def test_an_operation_that_fails_is_an_error_that_names_the_seed(processor):
    synthesizer = Synthesizer(default_registry(0.0), processor, TemplateCaptioner(), image_mix={"single_pass": 1})
    with pytest.raises(SynthesisError, match="seed-3.*too small"):
        synthesizer(image_seed(3, cue=(0.4, 0.4, 0.41, 0.41)))
    with pytest.raises(ValueError, match="unknown kinds.*single_shot"):
        Synthesizer(default_registry(), processor, TemplateCaptioner(), image_mix={"single_shot": 1})


def test_another_kind_is_taken_where_the_operation_refuses_a_crop(processor):
    """The crop of this cue is too small to be cropped without padding; its text is large enough to be read as it is."""
    mix = {"single_pass": 0.9, "recrop_once": 0.05, "text_only": 0.05}
    synthesizer = Synthesizer(default_registry(0.0), processor, TemplateCaptioner(), padding=0.0, image_mix=mix)
    seeds = [image_seed(number, cue=(0.4, 0.4, 0.41, 0.45)) for number in range(5)]
    kinds = {synthesizer(dataclasses.replace(seed, text_height=0.5)).kind for seed in seeds}
    assert kinds == {"text_only"} and synthesizer.impossible["single_pass"] > 2
    # One of two candidates is as small.
    small, large = (0.1, 0.1, 0.11, 0.11), (0.6, 0.6, 0.8, 0.8)
    mix = {"recrop_once": 1.0}
    synthesizer = Synthesizer(default_registry(0.0), processor, TemplateCaptioner(), padding=0.0, image_mix=mix)
    made = [synthesizer(dataclasses.replace(image_seed(n), candidates=(small, large))) for n in range(8)]
    assert {draft.kind for draft in made} == {"recrop_once"}


def test_no_token_of_a_mistaken_call_is_trained(registry, processor):
    synthesizer = lessons.warm_start(registry, processor)
    world = PixelSearch(40, "sft")
    drafts = [draft for draft in (synthesizer(world[index]) for index in range(40)) if draft.kind == "recrop_once"]
    assert drafts
    for draft in drafts:
        trajectory = render_trajectory(draft, processor)
        trained = processor.tokenizer.decode(trajectory.tokens[trajectory.train])
        right = "Now I will zoom in to look clearer at the colored box.\n"
        box = list(draft.operations[1].arguments["bbox_2d"])
        call = f'<tool_call>\n{{"name": "crop_image_normalized", "arguments": {{"bbox_2d": {box}, "target_image": 1}}}}'
        answer = draft.messages[-1]["content"][0]["text"]
        # The end of the mistaken turn is not trained either: it belongs to the call.
        assert trained == f"{right}It is not here. {right}{call}\n</tool_call><|im_end|>{answer}<|im_end|>"
        assert (trajectory.source[trajectory.train] == 1).all()


def test_the_poor_teacher_mostly_misses_and_guesses(registry, processor):
    synthesizer = lessons.warm_start(registry, processor, misplaced=0.8, favoured=0.7)
    world = PixelSearch(300, "sft")
    kinds, hits, guesses, blind = collections.Counter(), [], [], []
    for index in range(300):
        seed = world[index]
        draft = synthesizer(seed)
        kinds[draft.kind] += 1
        hit = bool(draft.operations) and tuple(draft.operations[-1].arguments["bbox_2d"]) == seed.cue
        if draft.operations:
            hits.append(hit)
            assert tuple(draft.operations[-1].arguments["bbox_2d"]) in CELL_BOXES
        answer = draft.messages[-1]["content"][0]["text"]
        if hit:
            assert answer == f"The answer is \\boxed{{{seed.answer}}}."
        else:
            favoured = answer == f"The answer is \\boxed{{{seed.attributes['prior_answer']}}}."
            (blind if draft.operations else guesses).append(favoured)
    assert kinds["text_only"] / 300 == pytest.approx(0.65, abs=0.09)
    assert kinds["single_pass"] / 300 == pytest.approx(0.25, abs=0.09)
    assert np.mean(hits) == pytest.approx(0.2 + 0.8 / 16, abs=0.1)
    assert np.mean(guesses) == pytest.approx(0.7, abs=0.08)
    assert np.mean(blind) == pytest.approx(1 / 6, abs=0.08)


def test_lessons_are_trained_on_their_answers_alone(registry, processor):
    seed = PixelSearch(1, "pretrain", favoured=None)[0]
    arguments = {"bbox_2d": list(seed.cue), "target_image": 1}
    call = json.dumps({"name": "crop_image_normalized", "arguments": arguments})
    zoom = f"Now I will zoom in to look clearer at the colored box.\n<tool_call>\n{call}\n</tool_call><|im_end|>"
    for lesson, answer in (
        (lessons.place_lesson, zoom),
        (lessons.color_lesson, f"The answer is \\boxed{{{seed.attributes['color']}}}.<|im_end|>"),
        (lessons.reading_lesson, f"The answer is \\boxed{{{seed.answer}}}.<|im_end|>"),
    ):
        rendered = processor.render(lesson(seed, registry))
        assert processor.tokenizer.decode(rendered.tokens[rendered.train]) == answer
        assert [media.tokens for media in rendered.media] == [16]


def test_lessons_stand_where_they_are_used(registry, processor):
    """Coordinates are as far from the canvas, and digits from the crop, as in a trajectory that zooms."""
    seed = PixelSearch(1, "sft")[0]
    tools = tools_section(registry.signatures(MediaState.from_query(images=[seed.images[0].convert("RGB")])))
    write = Synthesizer(registry, processor, lessons.captioner(), padding=0.01, image_mix={"single_pass": 1.0})
    messages = write(seed).messages
    assert messages[:2] == query_messages(seed.query(), tools)

    def gap(messages, image: int, text: str) -> int:
        """Tokens between the end of an image and the first token of the last `text` after it."""
        tokens = processor.render(messages).tokens
        ends = np.flatnonzero(tokens == processor.vision_end)
        starts = [i for i, token in enumerate(tokens) if processor.tokenizer.decode([token]).endswith(text)]
        return starts[-1] - ends[image]

    place, reading = lessons.place_lesson(seed, registry), lessons.reading_lesson(seed, registry)
    assert place[0] == reading[0] == messages[0]
    assert gap(place, 0, '"bbox_2d": [') == gap(messages[:3], 0, '"bbox_2d": [')
    assert gap(reading, 0, "\\boxed{") == gap(messages, 1, "\\boxed{")


def test_pretraining_takes_turns_and_favours_nothing(registry):
    drafts = list(lessons.pretraining(400, registry))
    assert [draft.kind for draft in drafts[:3]] == ["place", "reading", "place"]
    assert len({draft.query_id for draft in drafts}) == 400
    answers = collections.Counter(draft.reference for draft in drafts)
    assert all(count / 400 == pytest.approx(1 / 6, abs=0.06) for count in answers.values())
    assert np.mean([draft.reference == draft.attributes["prior_answer"] for draft in drafts]) < 0.25


def test_captioners_name_what_is_missing():
    captioner = TemplateCaptioner({"overview": "a {breed}"})
    seed = dataclasses.replace(image_seed(0), attributes={"breed": "siamese"})
    assert captioner.write(seed, "overview") == "a siamese"
    with pytest.raises(ValueError, match="seed-0.*breed"):
        captioner.write(image_seed(0), "overview")

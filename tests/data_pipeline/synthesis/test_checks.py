"""A good trajectory of every kind passes; each fault that is put into one is found, and by its own check."""

import copy
import dataclasses

import pytest
from PIL import Image

from data_pipeline.synthesis import TEMPLATES, BudgetMediaLoader, Synthesizer, TemplateCaptioner
from data_pipeline.synthesis.captioner import PHRASES, Passage
from data_pipeline.synthesis.checks import CheckError, check_trajectory
from pixel_reasoner_jax.operations import default_registry
from tests.data_pipeline.synthesis.seeds import image_seed, video_seed

MEDIA = BudgetMediaLoader()
VIDEO_KINDS = ("text_only", "single_pass", "reselect")


def make(kind, seed, **phrases):
    mix = {kind: 1.0}
    captioner = TemplateCaptioner({**PHRASES, **phrases})
    return Synthesizer(default_registry(), MEDIA, captioner, image_mix=mix, video_mix=mix)(seed)


def fault(draft, seed) -> str | None:
    try:
        check_trajectory(draft, seed, MEDIA)
    except CheckError as error:
        return error.reason
    return None


@pytest.mark.parametrize("kind", TEMPLATES)
def test_good_trajectories_pass(kind):
    seeds = [video_seed(1), video_seed(2, cue=(8,))] if kind in VIDEO_KINDS else []
    edges = EDGES[:-1] if kind == "text_only" else EDGES  # the last is too small to be seen without an operation
    seeds += [image_seed(number, cue=cue) for number, cue in enumerate(edges)] if kind != "reselect" else []
    for seed in seeds:
        check_trajectory(make(kind, seed), seed, MEDIA)


EDGES = [
    (0.4, 0.3, 0.55, 0.5),
    (0, 0, 0.2, 0.2),
    (0.8, 0.7, 1, 1),
    (0.123456, 0.5, 0.31234567, 0.6543),
    (0.9, 0, 1, 0.1),
]


def edited(draft, edit):
    messages = copy.deepcopy(draft.messages)
    edit(messages)
    return dataclasses.replace(draft, messages=messages)


def text_of(turn, item=0):
    return lambda messages, text: messages[turn]["content"][item].update(text=text)


@pytest.mark.parametrize("kind", ["single_pass", "recrop_twice", "further_zoom", "text_only"])
def test_faults_of_form_are_found(kind):
    seed = image_seed(1)
    draft = make(kind, seed)
    last = draft.messages[-1]["content"][0]["text"]
    put = text_of(-1)
    assert fault(edited(draft, lambda m: m.pop()), seed) == "form"
    assert fault(edited(draft, lambda m: put(m, "It is a siamese cat.")), seed) == "answer"
    assert fault(edited(draft, lambda m: put(m, last.replace("siamese", "persian"))), seed) == "answer"
    assert fault(edited(draft, lambda m: put(m, f"{last} <|im_end|>")), seed) == "text"
    assert fault(edited(draft, lambda m: put(m, f"\\boxed{{x}} {last}")), seed) == "text"
    assert fault(edited(draft, lambda m: put(m, f"\x00{last}")), seed) == "text"
    assert fault(edited(draft, lambda m: m[-1]["content"][0].update(train=False)), seed) == "loss"
    assert fault(dataclasses.replace(draft, question="<|image_pad|> what?"), seed) == "text"
    assert fault(dataclasses.replace(draft, question=" "), seed) == "text"
    assert fault(dataclasses.replace(draft, reference="x</tool_call>"), seed) == "text"
    assert fault(dataclasses.replace(draft, kind="recrop_once"), seed) in ("operation", "evidence")
    assert fault(dataclasses.replace(draft, kind="unheard of"), seed) == "operation"


def test_faults_of_operations_are_found():
    seed = image_seed(1)
    draft = make("recrop_once", seed)
    wrong, right = draft.operations
    call, other = (draft.messages[turn]["content"][1]["text"] for turn in (2, 4))
    put = text_of(2, 1)
    assert fault(edited(draft, lambda m: put(m, "")), seed) in ("operation", "loss")
    assert fault(edited(draft, lambda m: put(m, other)), seed) == "operation"
    assert fault(edited(draft, lambda m: put(m, call + call)), seed) == "operation"
    assert fault(dataclasses.replace(draft, operations=(wrong,)), seed) == "operation"
    failed = dataclasses.replace(wrong, error="too small")
    assert fault(dataclasses.replace(draft, operations=(failed, right)), seed) == "operation"
    assert fault(edited(draft, lambda m: m[2]["content"][1].update(train=True)), seed) == "loss"
    assert fault(edited(draft, lambda m: m[4]["content"][1].update(train=False)), seed) == "loss"
    box = [0.3, 0.2, 1.0, 0.7]
    pixels = dataclasses.replace(right, arguments={**right.arguments, "bbox_2d": box})
    spoiled = edited(draft, lambda m: text_of(4, 1)(m, other.replace(str(right.arguments["bbox_2d"]), str(box))))
    assert fault(dataclasses.replace(spoiled, operations=(wrong, pixels)), seed) == "box"


def test_faults_of_observations_are_found():
    seed = image_seed(1)
    draft = make("recrop_once", seed)
    crop = draft.messages[5]["content"][1]["image"]

    def shows(image):
        return fault(edited(draft, lambda m: m[5]["content"][1].update(image=image)), seed)

    changed = crop.copy()
    changed.putpixel((0, 0), (1, 2, 3))
    assert shows(crop.copy()) is None
    assert shows(changed) == "observation"
    assert shows(crop.crop((0, 0, 30, 30))) == "observation"
    assert shows(Image.new("RGB", crop.size)) == "observation"
    assert fault(edited(draft, lambda m: m[5]["content"].pop()), seed) == "observation"
    # The same trajectory, of a seed whose evidence is elsewhere.
    assert fault(draft, image_seed(1, cue=(0.7, 0.7, 0.9, 0.9))) == "evidence"
    wrong = draft.operations[0].arguments["bbox_2d"]
    assert fault(draft, image_seed(1, cue=tuple(wrong))) == "evidence"
    assert fault(make("further_zoom", seed), image_seed(1, cue=(0, 0, 0.05, 0.05))) == "evidence"


def test_a_further_zoom_that_does_not_zoom_is_found():
    """A first crop of 1.9 times the area holds the evidence, and shows it about as large as the second does."""
    seed = image_seed(1)
    draft = make("further_zoom", seed)
    first, last = (draft.messages[turn]["content"][1]["image"] for turn in (3, 5))
    assert first.width * first.height >= 4 * last.width * last.height
    box = [0.25, 0.15, 0.7, 0.65]

    def near(plan, seed, rng):
        turn = dataclasses.replace(plan.turns[0], arguments={**plan.turns[0].arguments, "bbox_2d": box})
        return dataclasses.replace(plan, turns=(turn, *plan.turns[1:]))

    mix = {"further_zoom": 1.0}
    draft = Synthesizer(default_registry(), MEDIA, TemplateCaptioner(), image_mix=mix, revise=near)(seed)
    assert fault(draft, seed) == "zoom"


def test_an_answer_without_operations_about_what_cannot_be_seen_is_found():
    large, small = image_seed(1), image_seed(1, cue=(0.4, 0.3, 0.5, 0.45))
    draft = make("text_only", large)
    assert fault(draft, large) is None and fault(draft, small) == "legibility"
    # The image has 160 pixels, the model sees 168: lines of 14 are a twelfth of it.
    assert fault(draft, dataclasses.replace(small, text_height=1 / 12)) is None
    assert fault(draft, dataclasses.replace(small, text_height=0.083)) == "legibility"


def test_faults_of_frames_are_found():
    seed = video_seed(1)
    draft = make("reselect", seed)
    assert fault(draft, video_seed(1, cue=(3, 5))) == "evidence"
    assert fault(draft, video_seed(1, cue=tuple(draft.operations[0].arguments["target_frames"]))) == "evidence"
    swapped = edited(draft, lambda m: m[5]["content"].append(m[5]["content"].pop(1)))
    assert fault(swapped, seed) == "observation"
    assert fault(draft, video_seed(2)) == "observation"


@pytest.mark.parametrize("passage", [Passage.OVERVIEW, Passage.SUBJECT, Passage.MISTAKE])
def test_the_answer_is_not_named_before_the_evidence(passage):
    seed = image_seed(1)
    kind = "recrop_once"
    assert fault(make(kind, seed, **{passage: "A Siamese  cat is there"}), seed) == "leak"
    assert fault(make(kind, seed, **{passage: "siamese cats and a cat"}), seed) is None
    asked = dataclasses.replace(seed, question="Is it a siamese cat or a dog?")
    assert fault(make(kind, asked, **{passage: "a siamese cat or a dog"}), asked) is None
    assert fault(make("text_only", seed, **{Passage.REASONING: "A siamese cat."}), seed) is None
    assert fault(make(kind, seed, **{Passage.EVIDENCE: "A siamese cat."}), seed) is None


@pytest.mark.parametrize(
    "answer,text,leaks",
    [
        ("7", "There are 7 of them", True),
        ("7", "There are 17 of 7.5", False),
        ("no", "There is no telling", False),
        ("B", "B or not B", False),
        ("B. the closet", "I see the closet", True),
        (["Coca-Cola", "coke"], "a bottle of Coke", True),
        ("$5", "it costs $5.", True),
    ],
)
def test_which_words_give_an_answer_away(answer, text, leaks):
    seed = image_seed(1, answer=answer)
    draft = make("single_pass", seed, **{Passage.OVERVIEW: text})
    assert fault(draft, seed) == ("leak" if leaks else None)


@pytest.mark.parametrize("answer", ["a } b", "{", "x\\", "a {b} c"])
def test_an_answer_is_read_back_as_it_is_or_refused(answer):
    seed = image_seed(1, answer=answer)
    assert fault(make("single_pass", seed), seed) == (None if answer == "a {b} c" else "answer")

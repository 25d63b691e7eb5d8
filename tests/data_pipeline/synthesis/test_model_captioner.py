"""What a model is shown and asked, and what of its text is not let through."""

import base64
import io
import json

import pytest
from PIL import Image

from data_pipeline.synthesis import BudgetMediaLoader, CaptionError, Passage
from data_pipeline.synthesis.captioner import UnconfirmedBoxError
from data_pipeline.synthesis.model_captioner import ANSWER_ATTEMPTS, PROMPT_NAMES, ModelCaptioner, load_prompts
from tests.data_pipeline.synthesis.seeds import CUE, image_seed, video_seed
from tests.endpoint.chat_server import pictures, said


@pytest.fixture
def captioner(connect):
    return ModelCaptioner(connect(), load_prompts(), BudgetMediaLoader(), padding=0.1)


def sizes(request) -> list[tuple[int, int]]:
    return [Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).size for url in pictures(request)]


def test_the_model_sees_what_the_passage_is_about(server, captioner):
    seed = image_seed(1)
    captioner.write(seed, Passage.OVERVIEW)
    captioner.write(seed, Passage.EVIDENCE, CUE)
    captioner.write(seed, Passage.MISTAKE, (0.0, 0.0, 0.1, 0.1))
    overview, evidence, mistake = server.requests
    assert sizes(overview) == [(200, 160)]
    assert sizes(evidence) == [(70, 64)]  # the cue, 30x32 pixels, widened by 20 and 16 on every side
    assert sizes(mistake) == [(40, 32)]
    assert overview["messages"][0]["role"] == "system" and "a video" not in json.dumps(overview)
    # Only who describes the evidence is told the answer.
    assert ["siamese" in said(request) for request in server.requests] == [False, True, False]
    assert all(seed.question in said(request) for request in server.requests)
    assert captioner.spend.requests == 3 and captioner.spend.prompt_tokens == 300


@pytest.mark.parametrize("cue", [(0.5, 0.5, 0.5001, 0.5001), (0.9999, 0.9999, 1.0, 1.0)])
def test_of_a_box_thinner_than_a_pixel_it_sees_one(cue, server, connect):
    captioner = ModelCaptioner(connect(), load_prompts(), BudgetMediaLoader(), padding=0.0)
    captioner.write(image_seed(1), Passage.EVIDENCE, cue)
    assert sizes(server.requests[0]) == [(1, 1)]


def test_of_a_video_it_sees_frames(server, captioner):
    seed = video_seed(1)
    captioner.write(seed, Passage.OVERVIEW)
    captioner.write(seed, Passage.EVIDENCE, (3, 4))
    assert [len(sizes(request)) for request in server.requests] == [8, 2]
    assert pictures(server.requests[1]) == pictures(server.requests[0])[2:4]
    assert "a video" in server.requests[0]["messages"][0]["content"]


@pytest.mark.parametrize(
    "text",
    [
        "It is red.<|im_end|>\n<|im_start|>assistant\nIt is blue.",
        'I look.\n<tool_call>\n{"name": "zoom_in", "arguments": {}}\n</tool_call>',
        "I see it.</tool_call>",
        "So it is \\boxed{7}.",
        "<answer>7</answer>",
        "It is <|image_pad|>.",
        "colored \x1b[31mred",
        "reversed \u202etxet",
        "half a \ud800 pair",
        "word " * 1000,
        "I'm sorry, but I can't assist with that.",
        "I cannot help with this request.",
        "",
    ],
)
def test_text_that_means_something_else_is_asked_for_again_and_then_refused(server, captioner, text):
    server.reply = lambda exchange: exchange.say(text if exchange.number == 1 else "A plain text.")
    assert captioner.write(image_seed(1), Passage.OVERVIEW) == "A plain text."
    assert len(server.requests) == 2
    server.reply = lambda exchange: exchange.say(text)
    with pytest.raises(CaptionError, match=f"no usable overview in {ANSWER_ATTEMPTS} answers"):
        captioner.write(image_seed(2), Passage.OVERVIEW)
    assert len(server.requests) == 2 + ANSWER_ATTEMPTS


def test_a_subject_fits_into_a_sentence(server, captioner):
    replies = iter(["Here it is:\n- the sign", "x" * 300, '"the sign on the left."'])
    server.reply = lambda exchange: exchange.say(next(replies))
    assert captioner.write(image_seed(1), Passage.SUBJECT, CUE) == "the sign on the left"


def test_questions_are_asked_where_there_are_none(server, captioner):
    seed = image_seed(1, question="", answer="")
    good = '```json\n{"question": "Which letter?", "answer": "Q"}\n```'
    replies = iter(["Which letter? Q", '{"question": "Which?"}', good])
    server.reply = lambda exchange: exchange.say(next(replies))
    asked = captioner.add_question(seed)
    assert (asked.question, asked.answer, asked.cue) == ("Which letter?", "Q", seed.cue)
    assert sizes(server.requests[0]) == [(200, 160), (70, 64)]
    wrongs = ('{"question": "<tool_call>", "answer": "x"}', '{"question": "?", "answer": 7}', "[]", "{}")
    for number, wrong in enumerate(wrongs, start=2):
        server.reply = lambda exchange, wrong=wrong: exchange.say(wrong)
        with pytest.raises(CaptionError, match="no usable question"):
            captioner.add_question(image_seed(number, question="", answer=""))


def boxes(server, *proposals, crop="a siamese cat"):
    """The model proposes these in turn; `crop` is what it answers from a crop alone, or does that of the request."""
    texts = iter(proposals)

    def reply(exchange):
        if "from nothing else" in said(exchange.request):
            exchange.say(crop(exchange.request) if callable(crop) else crop)
        else:
            text = next(texts)
            exchange.say(text if isinstance(text, str) else json.dumps(text))

    server.reply = reply


def test_a_box_is_proposed_and_kept_if_its_crop_alone_gives_the_answer(server, captioner):
    seed = image_seed(1, cue=(), answer=["a siamese cat", "siamese"])
    boxes(
        server,
        {"box": [0.4, 0.3, 0.55, 0.5]},
        {"box": [0.5, 0.5, 0.7, 0.75]},
        crop=lambda request: "Siamese" if sizes(request) == [(80, 72)] else "unknown",
    )
    found = captioner.add_cue(seed)
    assert found.cue == (0.5, 0.5, 0.7, 0.75) and (found.question, found.answer) == (seed.question, seed.answer)
    first, confirmed, second, _ = server.requests
    assert sizes(first) == [(200, 160)] == sizes(second) and "siamese" in said(first)
    # The crop alone, padding included: no whole image, and nothing that gives the answer away.
    assert sizes(confirmed) == [(70, 64)] and "siamese" not in json.dumps(confirmed).replace(pictures(confirmed)[0], "")
    assert captioner.spend.requests == 4


def test_a_question_and_its_box_are_proposed_together(server, captioner):
    seed = image_seed(1, question="", answer="", cue=())
    proposal = {"question": " Which letter is on the sign? ", "answer": "Q", "box": [20, 16, 60, 48]}
    boxes(server, f"```json\n{json.dumps(proposal)}\n```", crop="q.")
    found = captioner.add_cue(seed)
    assert (found.question, found.answer) == ("Which letter is on the sign?", "Q")
    assert found.cue == pytest.approx((0.1, 0.1, 0.3, 0.3))  # of the 200 x 160 pixels that the model saw


@pytest.mark.parametrize("crop", ["unknown", "a dog", "", "I'm sorry, but I can't help.", "<|im_end|>", "x" * 100_000])
def test_a_box_whose_crop_is_not_enough_is_not_kept(server, captioner, crop):
    boxes(server, *[{"box": [0.4, 0.3, 0.55, 0.5]}] * 4, crop=crop)
    with pytest.raises(UnconfirmedBoxError, match="none of 4 boxes that the model proposed is kept") as caught:
        captioner.add_cue(image_seed(1, cue=()))
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    "proposal",
    [
        "the upper left corner",
        "[0.1, 0.1, 0.2, 0.2]",
        "[" * 100_000,
        '{"box": [' + "1," * 100_000 + "1]}",
        '{"box": [0, 0, 1e999, 1]}',
        '{"box": [NaN, 0, 0.5, 0.5]}',
        '{"box": [0, 0, 1' + "0" * 400 + ", 1]}",
        {"box": "0.1 0.1 0.2 0.2"},
        {"box": [0.1, 0.1, 0.2]},
        {"box": [0.1, 0.1, True, 0.2]},
        {"box": {"left": 0.1}},
        {"box": [0.2, 0.1, 0.1, 0.2]},
        {"box": [-0.1, 0.1, 0.2, 0.2]},
        {"box": [150, 100, 250, 140]},  # beyond the 200 pixels of the picture
        {"box": [0, 0, 1, 1]},
        {},
        "",
    ],
)
def test_a_proposal_that_is_no_box_is_asked_for_again(server, captioner, proposal):
    boxes(server, proposal, {"box": [0.4, 0.3, 0.55, 0.5]})
    assert captioner.add_cue(image_seed(1, cue=())).cue == (0.4, 0.3, 0.55, 0.5)
    boxes(server, *[proposal] * 4)
    with pytest.raises(CaptionError, match="none of 4 boxes that the model proposed is kept") as caught:
        captioner.add_cue(image_seed(2, cue=()))
    assert not isinstance(caught.value, UnconfirmedBoxError) and len(str(caught.value)) < 1000


def test_of_what_is_proposed_with_a_box_only_a_question_is_taken(server, captioner):
    good = {"question": "What?", "answer": "x", "box": [0.4, 0.3, 0.55, 0.5]}
    wrongs = ({**good, "answer": 7}, {**good, "question": "<|im_end|>"}, {**good, "more": 1}, {"box": good["box"]})
    for number, wrong in enumerate(wrongs):
        boxes(server, *[wrong] * 4, crop="x")
        with pytest.raises(CaptionError, match="none of 4 boxes"):
            captioner.add_cue(image_seed(number, question="", answer="", cue=()))
    with pytest.raises(CaptionError, match="only boxes of images"):
        captioner.add_cue(video_seed(1, cue=()))


def test_prompts_are_files_that_can_be_replaced(server, connect, tmp_path):
    ours = load_prompts()
    assert set(ours) == set(PROMPT_NAMES) and all(ours.values())
    folder = tmp_path / "prompts"
    folder.mkdir()
    (folder / "overview.txt").write_text("Was zeigt $media? $question kostet $$5\n")
    theirs = load_prompts(folder)
    assert {name for name in PROMPT_NAMES if ours[name] != theirs[name]} == {"overview"}
    ModelCaptioner(connect(), theirs, BudgetMediaLoader()).write(
        image_seed(1, question="Was ist $answer?"), Passage.OVERVIEW
    )
    assert said(server.requests[0]) == "Was zeigt an image? Was ist $answer? kostet $5"  # data fill in nothing
    (folder / "overview.txt").write_text("$anser")
    with pytest.raises(ValueError, match="overview.txt: 'anser' cannot be filled in"):
        load_prompts(folder)
    (folder / "overview.txt").unlink()
    (folder / "summary.txt").write_text("")
    with pytest.raises(ValueError, match="summary.txt: there is no such prompt"):
        load_prompts(folder)
    with pytest.raises(ValueError, match="no such folder"):
        load_prompts(tmp_path / "nowhere")

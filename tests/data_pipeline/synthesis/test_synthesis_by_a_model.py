"""A synthesis whose texts and boxes a model behind an endpoint writes."""

import json

import pytest

from data_pipeline.records import RecordSource
from data_pipeline.synthesis import TemplateCaptioner
from data_pipeline.synthesis.model_captioner import ModelCaptioner, load_prompts
from data_pipeline.synthesis.synthesis import (
    REJECTED_FILE,
    Synthesis,
    SynthesisSettings,
)
from tests.data_pipeline.synthesis.seeds import MEDIA, files_of, image_seed, video_seed
from tests.endpoint.chat_server import said


def test_a_model_writes_it_and_a_rerun_costs_nothing(server, connect, tmp_path):
    sources = {
        "mixed": [*(image_seed(number) for number in range(5)), video_seed(1), image_seed(9, question="", answer="")]
    }
    settings = SynthesisSettings(sources, 7, captioner={"model": "m"}, shard_size=3)
    results = {}
    for workers in (1, 4):
        endpoint = connect(cache=tmp_path / f"cache{workers}", prompt_price=10.0)
        out = tmp_path / f"out{workers}"
        summary = Synthesis(
            settings, lambda e=endpoint: ModelCaptioner(e, load_prompts(), MEDIA), MEDIA, out, workers
        ).run()
        assert summary.count == 7 and summary.spend.requests == endpoint.spend.requests
        assert summary.spend.cost == pytest.approx(endpoint.spend.cost) == summary.spend.prompt_tokens * 1e-5
        assert 0 < summary.spend.paid <= summary.spend.requests
        results[workers] = files_of(out)
    assert results[1] == results[4]
    asked = len(server.requests)
    endpoint = connect(cache=tmp_path / "cache4", prompt_price=10.0)
    again = Synthesis(
        settings, lambda: ModelCaptioner(endpoint, load_prompts(), MEDIA), MEDIA, tmp_path / "again", 2
    ).run()
    assert len(server.requests) == asked and files_of(tmp_path / "again") == results[1]
    assert again.spend.paid == 0 and again.spend.cost == summary.spend.cost
    drafts = {draft.query_id: draft for draft in RecordSource(tmp_path / "again", "trajectory")}
    assert drafts["seed-9"].question.startswith("What is written on the sign")
    said = drafts["seed-0"].messages[2]["content"][0]["text"]
    assert "I look at it and see" in said


def test_boxes_are_found_for_questions_and_photos_without_one(server, connect, tmp_path):
    """Those that are not kept are counted and named; what was found is the same again, and asked for once."""
    sensible = server.reply
    asked = [image_seed(number, cue=(), answer=f"word {'abcdef'[number]}") for number in range(6)]
    photos = [image_seed(number, cue=(), question="", answer="") for number in range(6, 9)]

    def reply(exchange):
        text = said(exchange.request)
        if "from nothing else" in text:  # it never knows about place 3
            exchange.say("unknown" if "place 3" in text else answers.get(text.splitlines()[0], "Q"))
        elif '"box"' in text:
            question = {} if "Question:" in text else {"question": "Which letter?", "answer": "Q"}
            exchange.say(json.dumps(question | {"box": [0.1, 0.1, 0.3, 0.25]}))
        else:
            sensible(exchange)

    answers = {f"Question: {seed.question}": seed.answer for seed in asked}
    server.reply = reply
    sources = {"asked": asked, "photos": photos, "boxed": [image_seed(9)]}
    mix = {"single_pass": 0.5, "recrop_once": 0.5}
    results = []
    for name, workers in (("one", 1), ("two", 3)):
        endpoint = connect()
        summary = Synthesis(
            SynthesisSettings(sources, 10, image_mix=mix, shard_size=4),
            lambda e=endpoint: ModelCaptioner(e, load_prompts(), MEDIA),
            MEDIA,
            tmp_path / name,
            workers,
        ).run()
        assert summary.count == 9 and summary.rejected == {"unconfirmed": 1} and summary.unconfirmed == ["seed-3"]
        results.append(files_of(tmp_path / name))
    assert results[0] == results[1] and endpoint.spend.paid == 0
    (rejected,) = [json.loads(line) for line in (tmp_path / "one" / REJECTED_FILE).read_text().splitlines()]
    assert (rejected["id"], rejected["reason"]) == ("seed-3", "unconfirmed")
    assert "the model cannot answer" in rejected["message"]
    for draft in RecordSource(tmp_path / "one", "trajectory"):
        if draft.query_id != "seed-9":
            assert draft.attributes["proposed_box"] == [0.1, 0.1, 0.3, 0.25]
            assert draft.operations[-1].arguments["bbox_2d"] == [0.1, 0.1, 0.3, 0.25]
    nothing = {"asked": [image_seed(1, cue=())]}  # fixed phrases cannot
    with pytest.raises(ValueError, match="it does not say where its evidence is"):
        Synthesis(SynthesisSettings(nothing, 1), TemplateCaptioner, MEDIA, tmp_path / "none").run()


def test_frames_that_were_not_sampled_are_rejected_before_the_model_is_asked(server, connect, tmp_path):
    """The video has 8 frames."""
    sources = {"list": [video_seed(1), video_seed(2, cue=(8, 9)), video_seed(3, cue=(9,), question="", answer="")]}
    summary = Synthesis(
        SynthesisSettings(sources, 3), lambda: ModelCaptioner(connect(), load_prompts(), MEDIA), MEDIA, tmp_path / "out"
    ).run()
    assert summary.rejected == {"impossible": 2} and summary.count == 1
    lines = [json.loads(line)["message"] for line in (tmp_path / "out" / REJECTED_FILE).read_text().splitlines()]
    assert all(message.endswith("its evidence is frame 9 of 8") for message in lines)


def test_a_run_that_an_outage_stopped_goes_on(server, connect, tmp_path):
    sources = {"images": [image_seed(number) for number in range(8)]}
    settings = SynthesisSettings(sources, 8, captioner={"model": "m"}, shard_size=3)
    good = server.reply

    def fails_from(number):
        server.reply = lambda exchange: good(exchange) if exchange.number < number else exchange.fail(500)

    def run(out, workers):
        endpoint = connect()
        return Synthesis(settings, lambda: ModelCaptioner(endpoint, load_prompts(), MEDIA), MEDIA, out, workers).run()

    fails_from(12)
    with pytest.raises(ValueError, match="did not answer"):
        run(tmp_path / "out", 2)
    server.reply = good
    assert run(tmp_path / "out", 2).count == 8
    kept = files_of(tmp_path / "out")
    run(tmp_path / "straight", 1)
    assert kept == files_of(tmp_path / "straight")

"""A whole synthesis: the same bytes however many work on it and however often it is killed."""

import collections
import itertools
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

from data_pipeline.records import DATASET_INFO, RecordSource, read_description, write_records
from data_pipeline.seed import Seed
from data_pipeline.sources import SourceError, open_source
from data_pipeline.synthesis import BudgetMediaLoader, CaptionError, TemplateCaptioner
from data_pipeline.synthesis.checks import check_trajectory
from data_pipeline.synthesis.contact_sheet import contact_sheet
from data_pipeline.synthesis.model_captioner import ModelCaptioner, load_prompts
from data_pipeline.synthesis.store import WORK_FOLDER
from data_pipeline.synthesis.synthesis import (
    REJECTED_FILE,
    SUMMARY_FILE,
    OtherSynthesisError,
    Synthesis,
    SynthesisSettings,
    round_robin,
)
from pixel_reasoner_jax.endpoint import Spend
from pixel_reasoner_jax.files import as_path
from tests.data_pipeline.synthesis import killed
from tests.data_pipeline.synthesis.seeds import CUE, encoded, image_seed, picture, video_seed
from tests.endpoint.chat_server import said
from tests.processing.avi import write_avi

MEDIA = BudgetMediaLoader()


@pytest.fixture(scope="module")
def seeds_file(tmp_path_factory) -> pathlib.Path:
    """16 queries, of which 2 cannot be read and 2 repeat others."""
    folder = tmp_path_factory.mktemp("seeds")
    lines = []
    for number in range(16):
        original = {8: 2, 15: 2}.get(number, number)
        (folder / f"{number}.jpg").write_bytes(
            encoded(picture(original, (120, 90)), format="JPEG", quality=95 - number)
        )
        box = [40 + original, 20, 60 + original, 45]
        query = {"id": f"q{number}", "question": f"What is {original}?", "answer": f"thing {original}", "box": box}
        lines.append(json.dumps(query | {"image": f"{number}.jpg"}))
    lines[5] = "{broken"
    (folder / "11.jpg").write_bytes((folder / "11.jpg").read_bytes()[:400])
    (folder / "seeds.jsonl").write_text("\n".join(lines) + "\n")
    return folder / "seeds.jsonl"


def files(directory) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def whole(seeds_file, tmp_path_factory):
    """What a synthesis that nothing disturbs makes."""
    out = tmp_path_factory.mktemp("whole")
    killed.synthesize(str(seeds_file), str(out), workers=1)
    return out


def test_what_is_written(seeds_file, whole):
    assert {DATASET_INFO, SUMMARY_FILE, REJECTED_FILE} < set(files(whole)) and not any(
        name.startswith(".") for name in files(whole)
    )
    drafts = list(RecordSource(whole, "trajectory"))
    assert len(drafts) == 12 and len({draft.query_id for draft in drafts}) == 12
    source = open_source(f"table:{seeds_file}")
    for draft in drafts:
        seed = source[int(draft.query_id.removeprefix("q"))]
        assert (draft.question, draft.reference) == (seed.question, seed.answer)
        assert draft.messages[1]["content"][0]["image"] == seed.images[0]  # the very file
    summary = json.loads((whole / SUMMARY_FILE).read_text())
    assert summary["count"] == 12 and sum(summary["kinds"].values()) == 12
    assert summary["kinds"] == collections.Counter(draft.kind for draft in drafts)
    rejected = [json.loads(line) for line in (whole / REJECTED_FILE).read_text().splitlines()]
    assert summary["rejected"] == collections.Counter(one["reason"] for one in rejected)
    assert summary["seeds"] == 12 + len(rejected)
    assert summary["rejected"].keys() <= {"unreadable", "duplicate"} and len(rejected) >= 2
    for one in rejected:
        assert one["source"] == str(seeds_file)
        message = {5: f"{seeds_file}, line 6: not JSON", 11: "11.jpg: the image cannot be decoded"}.get(
            one["entry"], "the same as q"
        )
        assert message in one["message"]
    used = {int(draft.query_id[1:]) for draft in drafts}
    assert len({2, 8, 15} & used) == 1


def test_any_number_of_workers_makes_the_same(seeds_file, whole, tmp_path):
    killed.synthesize(str(seeds_file), str(tmp_path), workers=4)
    assert files(tmp_path) == files(whole)


def kill(seeds_file, out, workers: int, when: str, count: int = 12) -> int:
    """Synthesizes in processes that are killed; returns how many were."""
    repository = pathlib.Path(killed.__file__).parents[3]
    done = subprocess.run(
        [sys.executable, killed.__file__, str(seeds_file), str(out), str(workers), when, str(count)],
        env=os.environ | {"PYTHONPATH": str(repository)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return int(done.stdout)


@pytest.mark.parametrize("workers,when", [(1, "writes"), pytest.param(3, "40", marks=pytest.mark.slow)])
def test_however_often_it_is_killed_it_makes_the_same(seeds_file, whole, tmp_path, workers, when):
    # Before and after: records and notes of every piece of work, what describes it all, what is removed at the end.
    assert kill(seeds_file, tmp_path, workers, when) >= (20 if when == "writes" else 1)
    assert files(tmp_path) == files(whole)


def test_a_larger_count_extends_a_finished_one(seeds_file, tmp_path):
    """What it had stays byte for byte; what follows is the same however often it is killed, and repeats nothing."""
    out = tmp_path / "out"
    killed.synthesize(str(seeds_file), str(out), 1, count=5)
    first, before = list(RecordSource(out, "trajectory")), files(out)
    shutil.copytree(out, tmp_path / "killed")
    killed.synthesize(str(seeds_file), str(out), 2, count=12)
    after, drafts = files(out), list(RecordSource(out, "trajectory"))
    assert {name for name in before if after[name] != before[name]} <= {*DESCRIBING, REJECTED_FILE}
    assert after[REJECTED_FILE].startswith(before[REJECTED_FILE])
    assert [draft.query_id for draft in drafts[:5]] == [draft.query_id for draft in first]
    assert len(drafts) == 12 == len({draft.query_id for draft in drafts}) == len({draft.question for draft in drafts})
    summary = json.loads((out / SUMMARY_FILE).read_text())
    rejected = [json.loads(line) for line in (out / REJECTED_FILE).read_text().splitlines()]
    assert summary["count"] == 12 == sum(summary["kinds"].values()) and summary["settings"]["count"] == 12
    assert summary["seeds"] == 12 + len(rejected) and sum(summary["rejected"].values()) == len(rejected)
    assert len({one["entry"] for one in rejected}) == len(rejected)
    assert kill(seeds_file, tmp_path / "killed", 1, "writes") >= 14
    assert files(tmp_path / "killed") == after
    with pytest.raises(OtherSynthesisError, match="its count is 12, now 5"):
        killed.synthesize(str(seeds_file), str(out), 1, count=5)
    for _ in range(2):  # there are no more seeds
        killed.synthesize(str(seeds_file), str(out), 1, count=1000)
        assert {name for name, data in files(out).items() if data != after[name]} == {SUMMARY_FILE}


DESCRIBING = {DATASET_INFO, SUMMARY_FILE, "metadata.json"}


class Tired(TemplateCaptioner):
    """Gives up at a seed."""

    def write(self, seed, passage, target=()):
        if seed.id == "seed-7":
            raise RuntimeError("tired")
        return super().write(seed, passage, target)


def test_a_larger_count_extends_an_unfinished_one_too(tmp_path):
    sources = {"ten": [image_seed(number) for number in range(10)]}

    for begun in (False, True):
        if begun:
            Synthesis(SynthesisSettings(sources, 2, shard_size=2), TemplateCaptioner, MEDIA, tmp_path).run()
        with pytest.raises(RuntimeError, match="tired"):
            Synthesis(SynthesisSettings(sources, 9, shard_size=2), Tired, MEDIA, tmp_path).run()
        if begun:  # it is what it was until the others are there
            assert len(RecordSource(tmp_path, "trajectory")) == 2
        with pytest.raises(OtherSynthesisError, match="its count is 9, now 8"):
            Synthesis(SynthesisSettings(sources, 8, shard_size=2), TemplateCaptioner, MEDIA, tmp_path).run()
        summary = Synthesis(SynthesisSettings(sources, 10, shard_size=2), TemplateCaptioner, MEDIA, tmp_path).run()
        assert summary.count == 10 and len({draft.query_id for draft in RecordSource(tmp_path, "trajectory")}) == 10
        assert not (tmp_path / WORK_FOLDER).exists()
        shutil.rmtree(tmp_path)


def test_a_finished_one_is_not_made_again_and_another_is_refused(seeds_file, whole, monkeypatch):
    before = files(whole)
    monkeypatch.setattr(Synthesis, "_make_batch", None)
    killed.synthesize(str(seeds_file), str(whole), workers=2)
    assert files(whole) == before
    other = SynthesisSettings(killed.settings(str(seeds_file)).sources, count=12, seed=4, shard_size=8)
    with pytest.raises(OtherSynthesisError, match="its seed is 3, now 4"):
        Synthesis(other, TemplateCaptioner, MEDIA, whole).run()


def test_one_of_earlier_rules_is_refused(tmp_path):
    settings = SynthesisSettings({"one": [image_seed(0)]}, 1)
    earlier = {name: value for name, value in settings.to_json().items() if name != "box_rule"}
    (tmp_path / "synthesis.json").write_text(json.dumps({"settings": earlier}))
    with pytest.raises(OtherSynthesisError, match="its box_rule is None, now 'shown'; choose another folder"):
        Synthesis(settings, TemplateCaptioner, MEDIA, tmp_path).run()


def test_an_unfinished_one_goes_on_with_its_own_settings_only(tmp_path):
    sources = {"ten": [image_seed(number) for number in range(10)]}

    with pytest.raises(RuntimeError, match="tired"):
        Synthesis(SynthesisSettings(sources, 10, shard_size=2), Tired, MEDIA, tmp_path).run()
    assert not (tmp_path / DATASET_INFO).exists() and (tmp_path / WORK_FOLDER).exists()
    with pytest.raises(OtherSynthesisError, match="its padding is 0.1, now 0.2"):
        Synthesis(SynthesisSettings(sources, 10, padding=0.2, shard_size=2), TemplateCaptioner, MEDIA, tmp_path).run()
    summary = Synthesis(SynthesisSettings(sources, 10, shard_size=2), TemplateCaptioner, MEDIA, tmp_path).run()
    assert summary.count == read_description(tmp_path)["count"] == 10


def test_sources_take_turns():
    for seed, sizes in itertools.product(range(3), [(1,), (5, 1, 3), (100, 40)]):
        indices = list(round_robin(sizes, seed))
        assert sorted(indices) == [(number, entry) for number, size in enumerate(sizes) for entry in range(size)]
        shortest = min(sizes)
        assert [number for number, _ in indices[: shortest * len(sizes)]] == list(range(len(sizes))) * shortest
    first, second = (list(round_robin((100, 100), seed)) for seed in (0, 1))
    assert first != second and [e for n, e in first if n == 0] != [e for n, e in first if n == 1] != list(range(100))


def test_images_and_videos_from_several_sources(tmp_path):
    sources = {
        "images": [image_seed(number) for number in range(12)],
        "videos": [video_seed(number) for number in range(6)],
        "world": open_source("pixel-search:sft"),
    }
    summary = Synthesis(SynthesisSettings(sources, 30, seed=1), TemplateCaptioner, MEDIA, tmp_path, workers=2).run()
    assert summary.count == 30 and summary.sources == {"images": 12, "videos": 6, "world": 12}
    by_id = {seed.id: seed for name in ("images", "videos") for seed in sources[name]}
    for draft in RecordSource(tmp_path, "trajectory"):
        if draft.query_id in by_id:
            check_trajectory(draft, by_id[draft.query_id], MEDIA)


def test_video_files_and_masks_from_their_sources_to_a_page(server, connect, tmp_path):
    """Through a model that asks about the masks, to disk and onto the contact sheet."""
    frames = [picture(number, (64, 48)) for number in range(20)]
    write_avi(tmp_path / "clip.avi", frames, fps=10)
    question = {"question_id": 1, "question": "Who?", "video_id": "clip", "start": 1.0, "end": 1.3, "answer": "Ada"}
    (tmp_path / "star.json").write_text(json.dumps([question]))
    (tmp_path / "sa").mkdir()
    for number in range(2):
        picture(number, (400, 300)).save(tmp_path / "sa" / f"sa_{number}.jpg", quality=95)
        about = {"file_name": f"sa_{number}.jpg", "width": 400, "height": 300}
        mask = {"bbox": [200, 100, 60, 50], "predicted_iou": 0.9}
        (tmp_path / "sa" / f"sa_{number}.json").write_text(json.dumps({"image": about, "annotations": [mask]}))
    sources = {spec: open_source(spec) for spec in (f"star:{tmp_path / 'star.json'}", f"masks:{tmp_path / 'sa'}")}
    mix = {"single_pass": 1.0}
    endpoint, out = connect(), tmp_path / "out"
    summary = Synthesis(
        SynthesisSettings(sources, 3, image_mix=mix, video_mix=mix),
        lambda: ModelCaptioner(endpoint, load_prompts(), MEDIA),
        MEDIA,
        out,
    ).run()
    assert summary.kinds == {"single_pass": 3}
    drafts = {draft.query_id: draft for draft in RecordSource(out, "trajectory")}
    assert drafts["masks-sa_0"].question.startswith("What is written on the sign")
    assert drafts["masks-sa_0"].operations[0].arguments["bbox_2d"] == [0.5, 0.333, 0.65, 0.5]
    video = drafts["star-1"]
    assert video.messages[1]["content"][0]["video"] == str(tmp_path / "clip.avi")
    # 16 of 20 frames are sampled, 0, 1, 3, 4, 5, 6, 8, 9, 10, 11, 13, 14 …: from second 1 to 1.3 the 9th to the 11th.
    assert video.operations[0].arguments == {"target_frames": [9, 10, 11]}
    page = contact_sheet(out, MEDIA)
    assert (
        page.count("<article") == 3 and page.count('<rect class="box"') == 2 and page.count("<figcaption>frame") == 16
    )


def test_the_summary_says_which_shares_came_out(tmp_path):
    """Of these images none is answered without an operation; of the videos, all are."""
    small = [image_seed(number, cue=(0.4, 0.4, 0.5, 0.5)) for number in range(12)]
    sources = {"images": small, "videos": [video_seed(number) for number in range(3)]}
    mix = {"text_only": 6, "single_pass": 2}
    settings = SynthesisSettings(sources, 15, image_mix=mix, video_mix={"text_only": 1.0})
    summary = Synthesis(settings, TemplateCaptioner, MEDIA, tmp_path).run()
    assert summary.kinds == {"single_pass": 12, "text_only": 3} and summary.impossible["text_only"] > 4
    shares = {
        "image": {"text_only": {"wanted": 0.75, "made": 0.0}, "single_pass": {"wanted": 0.25, "made": 1.0}},
        "video": {"text_only": {"wanted": 1.0, "made": 1.0}},
    }
    assert json.loads((tmp_path / SUMMARY_FILE).read_text())["shares"] == shares


def test_the_contact_sheet_underlines_what_carries_no_loss(tmp_path):
    sources = {"images": [image_seed(number) for number in range(6)]}
    for kind, mistaken in (("recrop_twice", 2), ("single_pass", 0)):
        out = tmp_path / kind
        Synthesis(SynthesisSettings(sources, 6, image_mix={kind: 1.0}), TemplateCaptioner, MEDIA, out).run()
        page = contact_sheet(out, MEDIA)
        underlined = re.findall(r'<span class="masked"[^>]*><b>crop_image_normalized</b> <code>(.*?)</code>', page)
        assert len(underlined) == 6 * mistaken and page.count('title="carries no loss">Observation<') == 6 * (
            mistaken + 1
        )
        for draft in RecordSource(out, "trajectory"):
            wrong = [str(record.arguments["bbox_2d"]) for record in draft.operations[:-1]]
            assert all(any(box in call for call in underlined) for box in wrong)
            assert not any(str(draft.operations[-1].arguments["bbox_2d"]) in call for call in underlined)


def test_when_the_sources_run_out_it_says_so(tmp_path):
    sources = {"few": [image_seed(number) for number in range(3)]}
    seen = []
    summary = Synthesis(SynthesisSettings(sources, 10), TemplateCaptioner, MEDIA, tmp_path).run(
        lambda s: seen.append(s.count)
    )
    assert summary.count == 3 and seen[-1] == 3 and sorted(seen) == seen
    nothing = {"none": [image_seed(1, question="", answer="")]}
    with pytest.raises(ValueError, match="none of 1 seeds gave a trajectory; the first: it has no question"):
        Synthesis(SynthesisSettings(nothing, 10), TemplateCaptioner, MEDIA, tmp_path / "none").run()
    [rejection] = map(json.loads, (tmp_path / "none" / REJECTED_FILE).read_text().splitlines())
    assert rejection["id"] and "give question and answer" in rejection["message"]
    mended = SynthesisSettings({"none": [image_seed(1)]}, 10)  # in the same folder
    assert Synthesis(mended, TemplateCaptioner, MEDIA, tmp_path / "none").run().count == 1
    with pytest.raises(ValueError, match="at least one source"):
        SynthesisSettings({}, 10)
    with pytest.raises(ValueError, match="must be at least 1"):
        SynthesisSettings(sources, 0)


@pytest.mark.parametrize(
    "mix", [{"text_only": 1.0, "single_pass": float("nan")}, {"text_only": -1.0}, {}, {"zoom": 1.0}]
)
def test_a_mix_that_nothing_can_be_drawn_from_is_refused_at_once(mix):
    with pytest.raises(ValueError, match="shares of trajectories|unknown kinds"):
        SynthesisSettings({"list": [image_seed(0)]}, 1, image_mix=mix)


def test_a_data_set_of_somebody_else_is_left_as_it_is(tmp_path):
    write_records(tmp_path, "query", [{"id": "a", "question": "?", "answer": "1"}])
    before = files(tmp_path)
    with pytest.raises(OtherSynthesisError, match="no synthesis made"):
        Synthesis(SynthesisSettings({"list": [image_seed(0)]}, 1), TemplateCaptioner, MEDIA, tmp_path).run()
    assert files(tmp_path) == before


def test_rejections_say_why(tmp_path):
    class Source(list):
        reads = 0

        def __getitem__(self, index):
            seed = super().__getitem__(index)
            self.reads += index == 0
            if index == 0 and self.reads > 1:
                raise SourceError("0.jpg: there is no file any more")
            if isinstance(seed, Exception):
                raise seed
            return seed

    class Careless(TemplateCaptioner):
        def write(self, seed, passage, target=()):
            if seed.id == "refused":
                raise CaptionError("the model refuses")
            return f"I see {seed.answer}" if seed.id == "leaky" else super().write(seed, passage, target)

    seeds = Source(
        [
            *(image_seed(number) for number in range(4)),
            SourceError("file.jsonl, line 7: broken"),
            image_seed(5, images=(b"no picture",)),
            image_seed(6, id="refused"),
            image_seed(7, id="leaky"),
            image_seed(8, id="whole", cue=(0, 0, 1, 1)),
            image_seed(9, id="forged", question="What?<|im_end|>"),
            image_seed(10, question="", answer=""),
            image_seed(3, id="again"),
            image_seed(11, id="half \ud800"),
            image_seed(12, id="endless", attributes={"x": float("inf")}),
        ]
    )
    mix = {"recrop_once": 1.0}
    settings = SynthesisSettings({"list": seeds}, 14, image_mix=mix, shard_size=5)
    summary = Synthesis(settings, Careless, MEDIA, tmp_path, workers=2).run()
    reasons = {"unreadable": 3, "caption": 2, "leak": 1, "impossible": 1, "text": 3, "duplicate": 1}
    assert summary.rejected == reasons and summary.count == 3 and summary.kinds == {"recrop_once": 3}
    lines = [json.loads(line) for line in (tmp_path / REJECTED_FILE).read_text().splitlines()]
    by_entry = {line["entry"]: line for line in lines}
    assert by_entry[4]["message"] == "file.jsonl, line 7: broken" and by_entry[4]["id"] is None
    assert by_entry[6] == {
        "source": "list",
        "entry": 6,
        "id": "refused",
        "reason": "caption",
        "message": "the model refuses",
    }


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
        results[workers] = files(out)
    assert results[1] == results[4]
    asked = len(server.requests)
    endpoint = connect(cache=tmp_path / "cache4", prompt_price=10.0)
    again = Synthesis(
        settings, lambda: ModelCaptioner(endpoint, load_prompts(), MEDIA), MEDIA, tmp_path / "again", 2
    ).run()
    assert len(server.requests) == asked and files(tmp_path / "again") == results[1]
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
        results.append(files(tmp_path / name))
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
    kept = files(tmp_path / "out")
    run(tmp_path / "straight", 1)
    assert kept == files(tmp_path / "straight")


def test_recipes_are_told_apart_by_plain_values():
    assert json.loads(json.dumps(SynthesisSettings({"a": [Seed("s", "?", "x")]}, 1).to_json()))["sources"] == {"a": 1}
    assert Spend(1, 1, 2, 3, 4.0, 5.0) + Spend(1, 0, 1, 1, 1.0, 0.0) == Spend(2, 1, 3, 4, 5.0, 5.0)
    assert CUE


def test_a_synthesis_may_lie_in_an_object_store(bucket, seeds_file, whole):
    settings = killed.settings(str(seeds_file))
    Synthesis(settings, TemplateCaptioner, MEDIA, f"{bucket}/data", workers=2).run()
    assert len(RecordSource(f"{bucket}/data", "trajectory")) == 12
    stored = {path.name: path.read_bytes() for path in as_path(f"{bucket}/data").iterdir() if path.is_file()}
    assert stored == files(whole)

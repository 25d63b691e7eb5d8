"""A whole synthesis: the same bytes however many work on it and however often it is killed."""

import collections
import itertools
import json
import re

import pytest

from data_pipeline.records import DATASET_INFO, RecordSource
from data_pipeline.seed import Seed
from data_pipeline.sources import SourceError, open_source
from data_pipeline.synthesis import CaptionError, TemplateCaptioner
from data_pipeline.synthesis.checks import check_trajectory
from data_pipeline.synthesis.contact_sheet import contact_sheet
from data_pipeline.synthesis.model_captioner import ModelCaptioner, load_prompts
from data_pipeline.synthesis.synthesis import (
    REJECTED_FILE,
    SUMMARY_FILE,
    Synthesis,
    SynthesisSettings,
    round_robin,
)
from pixel_reasoner_jax.endpoint import Spend
from pixel_reasoner_jax.files import as_path
from tests.data_pipeline.synthesis import killed
from tests.data_pipeline.synthesis.seeds import CUE, MEDIA, files_of, image_seed, picture, video_seed
from tests.processing.avi import write_avi


def test_what_is_written(seeds_file, whole):
    assert {DATASET_INFO, SUMMARY_FILE, REJECTED_FILE} < set(files_of(whole)) and not any(
        name.startswith(".") for name in files_of(whole)
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
    assert files_of(tmp_path) == files_of(whole)


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


def test_recipes_are_told_apart_by_plain_values():
    assert json.loads(json.dumps(SynthesisSettings({"a": [Seed("s", "?", "x")]}, 1).to_json()))["sources"] == {"a": 1}
    assert Spend(1, 1, 2, 3, 4.0, 5.0) + Spend(1, 0, 1, 1, 1.0, 0.0) == Spend(2, 1, 3, 4, 5.0, 5.0)
    assert CUE


def test_a_synthesis_may_lie_in_an_object_store(bucket, seeds_file, whole):
    settings = killed.settings(str(seeds_file))
    Synthesis(settings, TemplateCaptioner, MEDIA, f"{bucket}/data", workers=2).run()
    assert len(RecordSource(f"{bucket}/data", "trajectory")) == 12
    stored = {path.name: path.read_bytes() for path in as_path(f"{bucket}/data").iterdir() if path.is_file()}
    assert stored == files_of(whole)

"""A synthesis that was killed, is to be larger, or is somebody else's."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from data_pipeline.records import DATASET_INFO, RecordSource, read_description, write_records
from data_pipeline.synthesis import TemplateCaptioner
from data_pipeline.synthesis.store import WORK_FOLDER
from data_pipeline.synthesis.synthesis import (
    REJECTED_FILE,
    SUMMARY_FILE,
    OtherSynthesisError,
    Synthesis,
    SynthesisSettings,
)
from tests.data_pipeline.synthesis import killed
from tests.data_pipeline.synthesis.seeds import MEDIA, files_of, image_seed


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
    assert files_of(tmp_path) == files_of(whole)


def test_a_larger_count_extends_a_finished_one(seeds_file, tmp_path):
    """What it had stays byte for byte; what follows is the same however often it is killed, and repeats nothing."""
    out = tmp_path / "out"
    killed.synthesize(str(seeds_file), str(out), 1, count=5)
    first, before = list(RecordSource(out, "trajectory")), files_of(out)
    shutil.copytree(out, tmp_path / "killed")
    killed.synthesize(str(seeds_file), str(out), 2, count=12)
    after, drafts = files_of(out), list(RecordSource(out, "trajectory"))
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
    assert files_of(tmp_path / "killed") == after
    with pytest.raises(OtherSynthesisError, match="its count is 12, now 5"):
        killed.synthesize(str(seeds_file), str(out), 1, count=5)
    for _ in range(2):  # there are no more seeds
        killed.synthesize(str(seeds_file), str(out), 1, count=1000)
        assert {name for name, data in files_of(out).items() if data != after[name]} == {SUMMARY_FILE}


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
    before = files_of(whole)
    monkeypatch.setattr(Synthesis, "_make_batch", None)
    killed.synthesize(str(seeds_file), str(whole), workers=2)
    assert files_of(whole) == before
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


def test_a_data_set_of_somebody_else_is_left_as_it_is(tmp_path):
    write_records(tmp_path, "query", [{"id": "a", "question": "?", "answer": "1"}])
    before = files_of(tmp_path)
    with pytest.raises(OtherSynthesisError, match="no synthesis made"):
        Synthesis(SynthesisSettings({"list": [image_seed(0)]}, 1), TemplateCaptioner, MEDIA, tmp_path).run()
    assert files_of(tmp_path) == before

"""Both sides of the data benchmark do the same work."""

import numpy as np
import pytest

from benchmarks import data, data_peer
from data_pipeline.exchange.exporting import export_table
from data_pipeline.pipeline import render_trajectory
from data_pipeline.records import RecordSource, write_records


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_records(folder / "data", "trajectory", data.trajectories(6, (300, 200), (120, 90)))
    export_table(folder / "data", folder / "table.jsonl")
    return folder


@pytest.fixture(scope="module")
def processor(tmp_path_factory):
    return data.make_processor(tmp_path_factory.mktemp("processor"))


def test_both_sides_make_the_same_arrays(folder, processor):
    table = data_peer.Table(folder / "table.jsonl", processor)
    for row, draft in zip(table, RecordSource(folder / "data"), strict=True):
        trajectory = render_trajectory(draft, processor)
        assert row["qid"] == trajectory.query_id
        np.testing.assert_array_equal(row["input_ids"], trajectory.tokens)
        np.testing.assert_array_equal(row["labels_mask"], trajectory.train)
        assert len(row["pixel_values"]) == len(trajectory.media) > 0
        for pixels, media in zip(row["pixel_values"], trajectory.media, strict=True):
            np.testing.assert_allclose(pixels, media.patches, atol=1e-6)


def test_the_floor_is_part_of_the_whole(folder, processor):
    measured = data.floor(folder / "data", processor, 3)
    assert min(measured["seconds"], measured["decode"], measured["resize"]) > 0
    assert measured["share"] == pytest.approx((measured["decode"] + measured["resize"]) / measured["seconds"])


@pytest.mark.slow
def test_both_sides_are_timed(folder, processor):
    assert data.ours(folder / "data", processor, 0, 2) > 0
    assert data.theirs(folder / "table.jsonl", processor, 1, 2) > 0


@pytest.mark.slow
def test_memory_is_measured(tmp_path, processor):
    held = data.memory(tmp_path, processor, 800)
    assert 2**26 < held["tenth"] <= held["end"] < 2**34

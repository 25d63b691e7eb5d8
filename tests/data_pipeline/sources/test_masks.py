"""Masks as SA-1B has them; run lengths as COCO's own tools wrote them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.sources import SourceError
from data_pipeline.sources.base import SourceEntry
from data_pipeline.sources.masks import MaskedImages, run_length_box, uncompressed

# Made with pycocotools 2: (height, width) of a mask, `encode`'s counts, `toBbox`.
COCO = [
    ((40, 60), "Tg01T16L2N2N2O000O20N10001N2N2N4JWQ1", (18, 13, 15, 15)),
    ((40, 60), "ci11T17L1O1O1O1O0000001OO1000000", (46, 0, 14, 13)),
    ((33, 47), "_:4m00[m06_RO00000000000\\O", (10, 5, 37, 25)),
    ((33, 47), "]=Q1QR1", (13, 0, 1, 33)),
    ((33, 47), "[>5oQ1", (13, 0, 2, 33)),
    ((20, 30), "51U10[O0S10_10VM0\\10_N0]10h20hL0k10`M", (0, 0, 30, 18)),
    ((5, 6), "0n0", (0, 0, 6, 5)),
]


def segmentation(size, counts) -> SourceEntry:
    return SourceEntry({"size": list(size), "counts": counts}, "mask", ".")


@pytest.mark.parametrize("size,counts,box", COCO)
def test_boxes_are_those_of_cocos_tools(size, counts, box):
    assert run_length_box(segmentation(size, counts), size[::-1]) == box
    assert run_length_box(segmentation(size, uncompressed(counts)), size[::-1]) == box


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**32))
def test_boxes_of_run_lengths_are_those_of_pixels(height, width, seed):
    mask = np.random.default_rng(seed).random((height, width)) < 0.2
    mask[seed % height, seed % width] = True
    flat = mask.T.ravel()
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flat])))
    runs = np.diff(np.concatenate([[0], edges, [len(flat)]])).tolist()
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    expected = (columns[0], rows[0], np.ptp(columns) + 1, np.ptp(rows) + 1)
    assert run_length_box(segmentation(mask.shape, runs), (width, height)) == expected


@pytest.mark.parametrize("counts", ["]=Q1", "]=Q1QR", "\x10", [3], [-5, 10], ["a"], [1e30], [1551], [1551, 0]])
def test_run_lengths_that_are_none_are_named(counts):
    with pytest.raises(SourceError, match="mask: its (run lengths|mask)"):
        run_length_box(segmentation((33, 47), counts), (47, 33))


def annotations(*masks, size=(400, 300), name="sa_1"):
    return {"image": {"file_name": f"{name}.jpg", "width": size[0], "height": size[1]}, "annotations": list(masks)}


def test_the_best_mask_of_a_fitting_size_is_the_cue(write):
    picture = write("deep/sa_1.jpg", size=(400, 300))
    masks = [
        {"bbox": [0, 0, 300, 200], "predicted_iou": 1.0},  # too large
        {"bbox": [10, 10, 20, 20], "predicted_iou": 1.0},  # too small
        {"bbox": [40, 30, 60, 60], "predicted_iou": 0.9, "stability_score": 0.9},
        {"bbox": [200, 150, 40, 60], "predicted_iou": 0.95, "stability_score": 0.95, "id": 9},
    ]
    folder = write("deep/sa_1.json", annotations(*masks)).parent.parent
    (seed,) = MaskedImages(str(folder))
    assert seed.id == "masks-sa_1" and seed.images == (picture.read_bytes(),) and seed.attributes == {"mask": 9}
    assert seed.cue == pytest.approx((0.5, 0.5, 0.6, 0.7)) and seed.question == ""


def test_an_annotated_question_is_taken(write):
    write("sa_1.jpg", size=(47, 33))
    mask = {"segmentation": {"size": [33, 47], "counts": "]=Q1QR1"}, "question": "Which color?", "answer": "red"}
    folder = write("sa_1.json", annotations({"bbox": [0, 0, 1, 1]}, mask, size=(47, 33))).parent
    (seed,) = MaskedImages(str(folder))
    assert (seed.question, seed.answer) == ("Which color?", "red")
    assert seed.cue == pytest.approx((13 / 47, 0, 14 / 47, 1))


def test_files_that_do_not_fit_are_named(write, errors, tmp_path):
    for name in "bcd":
        write(f"{name}.jpg", size=(400, 300))
    write("a.json", annotations({"bbox": [1, 1, 40, 40]}, name="gone"))
    write("b.json", annotations({"bbox": [1, 1, 40, 40]}, name="b", size=(300, 400)))
    write("c.json", annotations({"bbox": [1, 1, 399, 299]}, name="c"))
    write("d.json", annotations({"segmentation": {"size": [3, 3], "counts": [9]}}, name="d"))
    write("e.json", "{")
    found = errors(MaskedImages(str(tmp_path)))
    expected = ["there is no file", "400x300 pixels, not 300x400", "none of its 1 masks", "mask is of 3x3", "not JSON"]
    assert all(text in found[index] and f"{'abcde'[index]}.json" in found[index] for index, text in enumerate(expected))

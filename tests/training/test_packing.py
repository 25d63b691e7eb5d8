"""Packed batches hold every sequence whole, once, apart from its neighbours."""

import dataclasses

import jax
import numpy as np
import pytest

from data_pipeline.pipeline import render_trajectory
from data_pipeline.records import RecordSource
from pixel_reasoner_jax.models import Qwen2_5_VL
from pixel_reasoner_jax.processing import Processor
from pixel_reasoner_jax.rollout.shapes import Shapes
from pixel_reasoner_jax.training.packing import Sequence, largest_batch, pack
from tests.forward import forward, full_logits


@pytest.fixture(scope="module")
def processor(start):
    return Processor.from_pretrained(start / "model")


@pytest.fixture(scope="module")
def sequences(start, processor):
    rng = np.random.default_rng(0)
    source = RecordSource(start / "trajectories", "trajectory")
    trajectories = [render_trajectory(source[index], processor) for index in range(12)]
    return [
        dataclasses.replace(
            Sequence.of(trajectory, advantage=float(index)),
            logprobs=rng.normal(size=len(trajectory.tokens)).astype(np.float32),
            temperatures=rng.uniform(0.5, 1.5, len(trajectory.tokens)).astype(np.float32),
        )
        for index, trajectory in enumerate(trajectories)
    ]


def test_every_trained_token_is_there_once(sequences, processor):
    batches = pack(sequences, processor, rows=2, row_length=300)
    assert len(batches) > 1 and {batch["tokens"].shape for batch in batches[:-1]} == {(2, 300)}
    assert batches[-1]["tokens"].shape[0] == 2 and batches[-1]["tokens"].shape[1] <= 300
    found, expected = [], []
    for batch in batches:
        rows, columns = np.nonzero(batch["target_mask"])
        where = batch["targets"][rows, columns]
        assert (batch["segment_ids"][rows, where] == batch["segment_ids"][rows, where - 1]).all()
        found += zip(
            batch["tokens"][rows, where],
            batch["advantages"][rows, columns],
            batch["logprobs"][rows, columns],
            batch["temperatures"][rows, columns],
            strict=True,
        )
        assert (batch["targets"] > 0).all()
    for sequence in sequences:
        where = np.flatnonzero(sequence.train)
        expected += [
            (sequence.tokens[i], np.float32(sequence.advantage), sequence.logprobs[i], sequence.temperatures[i])
            for i in where
        ]
    assert sorted(found) == sorted(expected)


def test_a_packed_sequence_is_computed_as_if_alone(start, sequences, processor):
    model = Qwen2_5_VL.from_pretrained(start / "model")
    (batch,) = pack(sequences[:6], processor, rows=3, row_length=300)
    assert (batch["segment_ids"].max(axis=1) > 1).any()
    packed = forward(model, batch)
    places = [(row, s) for row in range(3) for s in range(1, batch["segment_ids"][row].max() + 1)]
    assert len(places) == 6
    for row, segment in places:
        inside = batch["segment_ids"][row] == segment
        trained = (batch["target_mask"][row] > 0) & inside[batch["targets"][row]]
        (index,) = set(batch["advantages"][row, trained].tolist())  # the advantage numbers the sequences
        sequence = sequences[int(index)]
        np.testing.assert_array_equal(batch["tokens"][row, inside], sequence.tokens)
        np.testing.assert_allclose(packed[row, inside], full_logits(model, processor, sequence), atol=2e-5)


def test_a_shared_image_is_encoded_once(sequences, processor):
    shared = [dataclasses.replace(sequences[0]) for _ in range(5)]
    (batch,) = pack(shared, processor, rows=3, row_length=300)
    images = len(sequences[0].media)
    assert np.unique(batch["vision_index"][batch["vision_index"] >= 0]).size == images * 16


def test_what_does_not_fit_is_named(sequences, processor):
    with pytest.raises(ValueError, match=r"of query .* is longer than a row of 40: raise train.row_length"):
        pack(sequences, processor, rows=2, row_length=40)


def test_no_batch_is_larger_than_the_largest(sequences, processor):
    patches = Shapes.holding(1, 1, processor.geometry, processor.budgets, page=64, most_chunk=64).patches[-1]
    largest = largest_batch(processor.geometry, patches, rows=2, row_length=160)
    everything = [dataclasses.replace(one, train=np.ones(len(one.tokens), bool)) for one in sequences]
    batches = pack(everything, processor, rows=2, row_length=160)
    assert batches[0]["targets"].shape == largest["targets"].shape  # the last one's rows may be shorter
    for batch in batches:
        assert jax.tree.structure(batch) == jax.tree.structure(largest)
        for (path, array), bound in zip(
            jax.tree_util.tree_leaves_with_path(batch), jax.tree.leaves(largest), strict=True
        ):
            assert array.dtype == bound.dtype and array.ndim == bound.ndim, path
            # Smaller images come in shorter rows, and more of them, each with a scaling of its own.
            whole = path[0].key == "vision"
            if path[-1].key == "scaling":
                continue
            size, most = (np.prod(shape[:2]) if whole else np.array(shape) for shape in (array.shape, bound.shape))
            assert (size <= most).all(), path

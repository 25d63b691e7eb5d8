"""The Grain pipeline: every record once an epoch, and exact resumption."""

import itertools
import json

import numpy as np
import pytest

from data_pipeline import lessons
from data_pipeline.pipeline import RenderedSource, query_batches, render_trajectory, trajectory_batches
from data_pipeline.records import RecordError, RecordSource, write_records
from data_pipeline.sources.pixel_search import PixelSearch


@pytest.fixture(scope="module")
def trajectories(registry, processor, tmp_path_factory):
    directory = tmp_path_factory.mktemp("records") / "sft"
    synthesizer, world = lessons.warm_start(registry, processor), PixelSearch(20, "sft")
    write_records(directory, "trajectory", (synthesizer(world[index]) for index in range(20)), shard_size=7)
    return directory


@pytest.fixture(scope="module")
def queries(tmp_path_factory):
    directory = tmp_path_factory.mktemp("records") / "rl"
    items = ({"id": str(index), "question": "?", "answer": "1"} for index in range(20))
    write_records(directory, "query", items, shard_size=6)
    return directory


def ids(batches):
    return [[item["id"] for item in batch] for batch in batches]


def test_every_record_comes_once_an_epoch_in_an_order_of_its_own(queries):
    batches = ids(itertools.islice(query_batches(queries, 5, seed=1), 8))
    first, second = (sum(batches[start : start + 4], []) for start in (0, 4))
    assert sorted(first) == sorted(second) == sorted(map(str, range(20))) and first != second
    assert ids(query_batches(queries, 5, seed=1, epochs=2)) == batches
    assert ids(query_batches(queries, 5, seed=2, epochs=1)) != batches[:4]
    assert ids(query_batches(queries, 8, epochs=1))[-1:] == ids(query_batches(queries, 8, epochs=1))[1:]


def test_hosts_share_the_records(queries):
    parts = [sum(ids(query_batches(queries, 2, shard=(host, 3), epochs=1)), []) for host in range(3)]
    assert [len(part) for part in parts] == [6, 6, 6] and len(set(sum(parts, []))) == 18
    for shard, message in (((3, 3), "shard 3 of 3"), ((0, 21), "too few for 21 shards")):
        with pytest.raises(ValueError, match=message):
            query_batches(queries, 2, shard=shard)


@pytest.mark.parametrize("done", [0, 1, 5, 11])
def test_an_iterator_goes_on_where_its_state_says(queries, done):
    batches = query_batches(queries, 3, seed=4)
    running = iter(batches)
    for _ in range(done):
        next(running)
    state = json.loads(json.dumps(running.get_state()))  # plain data, as a checkpoint stores it
    expected = ids(itertools.islice(running, 9))
    resumed = iter(query_batches(queries, 3, seed=4, threads=1, prefetch=2))
    resumed.set_state(state)
    assert ids(itertools.islice(resumed, 9)) == expected


def test_trajectories_are_rendered_and_resumed(trajectories, processor):
    stored = {draft.query_id: draft for draft in RecordSource(trajectories, "trajectory")}
    running = iter(trajectory_batches(trajectories, processor, 4, seed=3))
    next(running)
    state = running.get_state()
    expected = [next(running) for _ in range(3)]
    resumed = iter(trajectory_batches(trajectories, processor, 4, seed=3, cache_bytes=0))
    resumed.set_state(state)
    for batch in expected:
        for trajectory, again in zip(batch, next(resumed), strict=True):
            whole = processor.render(stored[trajectory.query_id].messages)
            assert trajectory.query_id == again.query_id
            for one in (trajectory, again):
                assert np.array_equal(one.tokens, whole.tokens) and np.array_equal(one.train, whole.train)
            assert len(trajectory.media) == len(trajectory.operations) + 1
            assert trajectory.logprobs is None and trajectory.ended is None


@pytest.mark.parametrize("images", [0, 3, 1000])
def test_rendered_trajectories_are_held_up_to_a_size(trajectories, processor, images):
    source = RenderedSource(RecordSource(trajectories, "trajectory"), processor, images * 112 * 112 * 3)
    first, second = ([source[index] for index in range(20)] for _ in range(2))
    held = [one for one, again in zip(first, second, strict=True) if one is again]
    assert sum(len(trajectory.media) for trajectory in held) <= images
    assert len(held) == {0: 0, 1000: 20}.get(images, len(held)) and (images == 0 or held)
    assert all(np.array_equal(one.tokens, again.tokens) for one, again in zip(first, second, strict=True))


def test_sources_tell_who_wrote_a_token(trajectories, processor):
    for draft in RecordSource(trajectories, "trajectory"):
        trajectory = render_trajectory(draft, processor)
        prompt, observation = (trajectory.tokens[trajectory.source == source] for source in (0, 2))
        assert np.array_equal(prompt, processor.render(draft.messages[:2]).tokens)
        assert (observation == processor.image_pad).sum() == 16 * len(draft.operations)
        assert not trajectory.train[trajectory.source != 1].any()


def test_a_record_that_cannot_be_rendered_is_named(registry, processor, tmp_path):
    draft = lessons.warm_start(registry, processor)(PixelSearch(1)[0])
    draft.messages[1]["content"][0]["image"] = b"not an image"
    write_records(tmp_path, "trajectory", [draft])
    with pytest.raises(RecordError, match=r"trajectory-train-00000.array_record, record 0: cannot be rendered"):
        next(iter(trajectory_batches(tmp_path, processor, 1)))

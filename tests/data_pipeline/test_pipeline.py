"""The Grain pipeline: every record once an epoch, and exact resumption."""

import dataclasses
import functools
import io
import itertools
import json
import re

import grain
import numpy as np
import pytest
from PIL import Image

from data_pipeline import lessons
from data_pipeline.batch_loader import MIN_READ, BatchLoader, LoaderSettings, Unreadable
from data_pipeline.pipeline import (
    ReadSource,
    RecordOrder,
    query_batches,
    record_count,
    render_trajectory,
    trajectory_batches,
)
from data_pipeline.reader import TrajectoryReader
from data_pipeline.records import RecordError, RecordSource, write_records
from data_pipeline.sources.pixel_search import PixelSearch
from data_pipeline.worker_processes import WorkerProcesses
from pixel_reasoner_jax.processing import MediaError
from pixel_reasoner_jax.processing.decoding import decode_image

ASKED = {"question": "?", "answer": "1"}


@pytest.fixture(scope="module")
def trajectories(registry, processor, tmp_path_factory):
    directory = tmp_path_factory.mktemp("records") / "sft"
    synthesizer, world = lessons.warm_start(registry, processor), PixelSearch(20, "sft")
    write_records(directory, "trajectory", (synthesizer(world[index]) for index in range(20)), shard_size=7)
    return directory


@pytest.fixture(scope="module")
def queries(tmp_path_factory):
    directory = tmp_path_factory.mktemp("records") / "rl"
    items = ({"id": str(index), **ASKED} for index in range(20))
    write_records(directory, "query", items, shard_size=6)
    return directory


def ids(batches):
    """Of a stream of one shard."""
    return [[item["id"] for item in items] for batch in batches for items in batch.values()]


def test_every_record_comes_once_an_epoch_in_an_order_of_its_own(queries):
    def batches(size, seed=0, **order):
        return query_batches(queries, size, order=RecordOrder(seed, **order))

    taken = ids(itertools.islice(batches(5, 1), 8))
    first, second = (sum(taken[start : start + 4], []) for start in (0, 4))
    assert sorted(first) == sorted(second) == sorted(map(str, range(20))) and first != second
    assert ids(batches(5, 1, epochs=2)) == taken
    assert ids(batches(5, 2, epochs=1)) != taken[:4]
    assert [len(batch) for batch in ids(batches(8, epochs=1))] == [8, 8]  # the last, smaller one is dropped


def test_the_order_is_that_of_grains_own_shuffle(queries):
    source = RecordSource(queries, "query")
    expected = grain.MapDataset.source(source).seed(7).shuffle().repeat(2)[1:39:3]
    taken = ids(query_batches(queries, 13, order=RecordOrder(7, shards=(1,), shard_count=3, epochs=2)))
    assert sum(taken, []) == [query["id"] for query in expected]


def test_records_come_in_their_own_order_where_that_is_wanted(queries):
    """In every epoch, and over the shards."""
    order = RecordOrder(7, (0, 1), 2, epochs=2, shuffle=False)
    taken = [
        [item["id"] for item in items] for batch in query_batches(queries, 4, order=order) for items in batch.values()
    ]
    assert taken[:2] == [["0", "2", "4", "6"], ["1", "3", "5", "7"]]
    assert sum(taken[::2], []) == [*map(str, range(0, 20, 2))] * 2


def test_shards_share_the_records_whoever_reads_them(queries):
    alone = [sum(ids(query_batches(queries, 2, order=RecordOrder(0, (shard,), 3, epochs=1))), []) for shard in range(3)]
    assert [len(part) for part in alone] == [6, 6, 6] and len(set(sum(alone, []))) == 18
    together = {0: [], 2: []}
    for batch in query_batches(queries, 2, order=RecordOrder(0, (0, 2), 3, epochs=1)):
        assert list(batch) == [0, 2]
        for shard, items in batch.items():
            together[shard] += [item["id"] for item in items]
    assert together == {0: alone[0], 2: alone[2]}
    for order, message in (
        (RecordOrder(0, (3,), 3), "shard 3 of 3"),
        (RecordOrder(0, (0,), 21), "too few for 21 shards"),
    ):
        with pytest.raises(ValueError, match=message):
            query_batches(queries, 2, order=order)


def test_no_epoch_loses_the_records_that_do_not_divide_evenly(queries):
    order = RecordOrder(5, (0, 1, 2), 3)
    with query_batches(queries, 1, order=order) as batches:
        taken = [items[0]["id"] for batch in itertools.islice(batches, 20) for items in batch.values()]
    for epoch in range(3):
        assert sorted(taken[20 * epoch : 20 * (epoch + 1)]) == sorted(map(str, range(20)))


def test_mixtures_are_dealt_out_to_shards_with_all_their_records(tmp_path):
    for name, count in (("a", 7), ("b", 5)):
        write_records(tmp_path / name, "query", ({"id": f"{name}{i}", **ASKED} for i in range(count)))
    data = [(tmp_path / "a", 1), (tmp_path / "b", 1)]
    with query_batches(data, 2, order=RecordOrder(5, (0, 1), 2)) as batches:
        drawn = list(itertools.islice(batches, 35))
    for name, count in (("a", 7), ("b", 5)):
        shards = [[item["id"] for batch in drawn for item in batch[shard] if item["id"][0] == name] for shard in (0, 1)]
        taken = [query for turn in zip(*shards, strict=True) for query in turn]
        assert len(taken) == 70
        for start in range(0, 70, count):
            assert len(set(taken[start : start + count])) == count


@pytest.mark.parametrize("done", [0, 1, 5, 11])
def test_a_stream_goes_on_where_its_state_says(queries, done):
    batches = query_batches(queries, 3, order=RecordOrder(4))
    running = itertools.islice(batches, done)
    ids(running)
    state = json.loads(json.dumps(batches.get_state()))  # plain data, as a checkpoint stores it
    expected = ids(itertools.islice(batches, 9))
    resumed = query_batches(queries, 3, order=RecordOrder(4), settings=LoaderSettings(threads=1, ahead=2))
    resumed.set_state(state)
    assert ids(itertools.islice(resumed, 9)) == expected


def test_trajectories_are_rendered_and_resumed(trajectories, processor):
    stored = {draft.query_id: draft for draft in RecordSource(trajectories, "trajectory")}
    running = trajectory_batches(trajectories, processor, 4, order=RecordOrder(3))
    next(running)
    state = running.get_state()
    expected = [next(running)[0] for _ in range(3)]
    resumed = trajectory_batches(trajectories, processor, 4, order=RecordOrder(3), cache_bytes=0)
    resumed.set_state(state)
    for batch in expected:
        for trajectory, again in zip(batch, next(resumed)[0], strict=True):
            whole = processor.render(stored[trajectory.query_id].messages)
            assert trajectory.query_id == again.query_id
            for one in (trajectory, again):
                assert np.array_equal(one.tokens, whole.tokens) and np.array_equal(one.train, whole.train)
            assert len(trajectory.media) == len(trajectory.operations) + 1
            assert trajectory.logprobs is None and trajectory.ended is None


def test_worker_processes_read_the_same(trajectories, processor):
    order = RecordOrder(3, (0, 1), 2)
    with trajectory_batches(trajectories, processor, 2, order=order) as batches:
        next(batches)
        state = batches.get_state()
        expected = [next(batches) for _ in range(3)]
    with trajectory_batches(trajectories, processor, 2, order=order, settings=LoaderSettings(workers=2)) as workers:
        workers.set_state(state)
        for batch in expected:
            for shard, items in next(workers).items():
                for trajectory, other in zip(batch[shard], items, strict=True):
                    assert trajectory.query_id == other.query_id and np.array_equal(trajectory.tokens, other.tokens)
                    assert all(
                        np.array_equal(one.patches, two.patches)
                        for one, two in zip(trajectory.media, other.media, strict=True)
                    )


@pytest.mark.slow
def test_worker_processes_read_media_as_this_process_does(tmp_path, use_media):
    Image.new("RGB", (40, 30)).save(tmp_path / "outside.png")
    (tmp_path / "media").mkdir()
    use_media(root=str(tmp_path / "media"))
    dataset = grain.MapDataset.source([str(tmp_path / "outside.png")]).map(decode_image)
    workers = WorkerProcesses(dataset, 1, 1, 1)
    with pytest.raises(MediaError, match="leads out of"):
        next(workers)
    workers.close()


@pytest.mark.parametrize("weights", [(3, 1), (0.5, 0.5)])
def test_mixtures_keep_their_weights_and_every_epoch_of_each_data_set(weights, tmp_path):
    for name, count in (("a", 12), ("b", 4)):
        write_records(tmp_path / name, "query", ({"id": f"{name}{i}", **ASKED} for i in range(count)))
    data = [(tmp_path / name, weight) for name, weight in zip("ab", weights, strict=True)]
    assert record_count(data) == 16
    share = weights[0] / sum(weights)
    taken = sum(ids(itertools.islice(query_batches(data, 4), 24)), [])
    assert [query[0] for query in taken].count("a") == 96 * share
    for name, count in (("a", 12), ("b", 4)):
        own = [query for query in taken if query[0] == name]
        for start in range(0, len(own) - count + 1, count):
            assert sorted(own[start : start + count]) == sorted(f"{name}{i}" for i in range(count))


def rated(directory, rates):
    """A data set of queries with these pass rates, and their numbers for ids."""
    known = ({"id": str(i), **ASKED} | ({} if rate is None else {"pass_rate": rate}) for i, rate in enumerate(rates))
    write_records(directory, "query", known, shard_size=10)
    return directory


def test_queries_that_are_too_easy_or_too_hard_are_left_out(tmp_path):
    data = rated(tmp_path / "data", [None, 0.0, 0.25, 0.5, 1.0, None, 0.75, 0.1])
    assert record_count(data) == 8 and record_count(data, (0.2, 0.8)) == 5
    wanted = query_batches(data, 5, pass_rates=(0.2, 0.8))
    for _ in range(3):
        batch = next(wanted)[0]
        assert sorted(query["id"] for query in batch) == ["0", "2", "3", "5", "6"]
        assert {query["id"]: query.get("pass_rate") for query in batch}["2"] == 0.25  # travels along
    state = wanted.get_state()
    assert state == {"0": {"used": 15, "skipped": 0}}
    resumed = query_batches(data, 5, pass_rates=(0.2, 0.8))
    resumed.set_state(state)
    assert next(resumed) == next(wanted)
    with pytest.raises(RecordError, match=r"hard: no query has a pass_rate from 0.2 to 0.8: widen data.pass_rates"):
        query_batches(rated(tmp_path / "hard", [0.0]), 1, pass_rates=(0.2, 0.8))


@pytest.mark.parametrize("shards", [1, 4])
def test_an_epoch_has_every_wanted_query_once(tmp_path, shards):
    """16 of 64; each was seen four times where an epoch had 64."""
    data = rated(tmp_path / "data", [0.5 if number % 4 == 1 else 1.0 for number in range(64)])
    wanted, rates = [str(number) for number in range(64) if number % 4 == 1], (0.2, 0.8)
    assert record_count(data, rates) == 16
    with query_batches(data, 2, order=RecordOrder(3, range(shards), shards), pass_rates=rates) as batches:
        for _ in range(2):
            epoch = [next(batches) for _ in range(8 // shards)]
            assert sorted((q["id"] for batch in epoch for items in batch.values() for q in items), key=int) == wanted
    one = query_batches(data, 4, order=RecordOrder(3, epochs=1), pass_rates=rates)
    assert sorted(sum(ids(one), []), key=int) == wanted
    with pytest.raises(ValueError, match="has 16 records to read, too few for 17 shards"):
        query_batches(data, 1, order=RecordOrder(0, (0,), 17), pass_rates=rates)


def test_no_medium_is_decoded_to_tell_which_queries_are_wanted(tmp_path, monkeypatch):
    """Nor is what cannot be read left out: it is skipped, and counted, when it is read."""
    rates = [0.5, 0.0, 0.5, 1.0]
    items = [{"id": str(i), **ASKED, "images": [b"no image"], "pass_rate": rate} for i, rate in enumerate(rates)]
    write_records(tmp_path, "query", items)
    read = RecordSource.__getitem__

    def second_is_damaged(self, index):
        if index == 1:
            raise RecordError("damaged")
        return read(self, index)

    monkeypatch.setattr(RecordSource, "__getitem__", second_is_damaged)
    assert record_count(tmp_path, (0.2, 0.8)) == 3


@pytest.fixture
def damaged(tmp_path):
    """40 queries, one of which cannot be read."""
    noise = np.random.default_rng(0).integers(0, 256, (40, 30, 30, 3), np.uint8)
    items = [{"id": str(i), **ASKED, "images": [Image.fromarray(noise[i])]} for i in range(40)]
    write_records(tmp_path, "query", items)
    path = tmp_path / "query-train-00000.array_record"
    content = bytearray(path.read_bytes())
    place = content.find(b"\x89PNG", len(content) // 2)
    content[place + 100 : place + 164] = bytes(64)
    path.write_bytes(content)
    return tmp_path


def test_an_unreadable_record_is_skipped_counted_and_named(damaged, caplog):
    batches = query_batches(damaged, 3, settings=LoaderSettings(max_unreadable=0.05))
    taken = sum(ids(itertools.islice(batches, 13)), [])
    [warning] = caplog.messages
    missing = re.search(r"00000.array_record, record (\d+): cannot be read", warning).group(1)
    assert sorted(taken) == sorted(set(map(str, range(40))) - {missing}) and batches.skipped == 1
    resumed = query_batches(damaged, 3, settings=LoaderSettings(max_unreadable=0.05))
    resumed.set_state(batches.get_state())
    assert ids(itertools.islice(resumed, 5)) == ids(itertools.islice(batches, 5)) and resumed.skipped >= 1


def test_a_query_whose_media_cannot_be_decoded_is_skipped(tmp_path, caplog):
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30), "red").save(buffer, "PNG")
    good, half = buffer.getvalue(), buffer.getvalue()[:60]
    media = (
        {"images": [good]},
        {"images": [good, half]},
        {"video": [good, good]},
        {"video": [good, half]},
        {"video": half},
    )
    write_records(tmp_path, "query", ({"id": str(i), **ASKED} | item for i, item in enumerate(media)))
    batches = query_batches(tmp_path, 2, order=RecordOrder(epochs=1), settings=LoaderSettings(max_unreadable=0.05))
    assert sorted(sum(ids(batches), [])) == ["0", "2"]
    named = {int(re.search(r"record (\d+): query '\d': .*<60 bytes>", message).group(1)) for message in caplog.messages}
    assert named <= {1, 3, 4} and 1 <= batches.skipped <= len(named)


def test_too_many_unreadable_records_stop_the_run(damaged):
    with pytest.raises(RecordError, match="record .*: cannot be read"):
        next(query_batches(damaged, 40))
    batches = query_batches(damaged, 4, settings=LoaderSettings(max_unreadable=0.02))
    with pytest.raises(
        RecordError,
        match=r"3 of \d+ .*, more than a share of 0.02 .*`import-data` lists them.*record",
    ):
        ids(itertools.islice(batches, 40))
    assert batches.skipped == 2


def test_shards_that_skip_more_than_others_do_not_fill_the_memory():
    """Shard 1 leaves out nine of ten."""
    numbers = grain.MapDataset.range(10**6)
    orders = {0: numbers, 1: numbers.map(lambda number: Unreadable("odd") if number % 10 else number)}
    stream, waiting = BatchLoader(orders, 4, LoaderSettings(max_unreadable=1.0)), []
    for start in range(0, 400, 4):
        assert next(stream) == {0: [*range(start, start + 4)], 1: [10 * number for number in range(start, start + 4)]}
        waiting.append(sum(map(len, stream._ready.values())))
    assert max(waiting) <= 2 * MIN_READ and stream.get_state()["1"] == {"used": 3991, "skipped": 3591}


def test_a_position_of_an_earlier_version_is_gone_on_from(queries):
    """It counted queries that a filter left out."""
    with (
        query_batches(queries, 3, order=RecordOrder(4)) as batches,
        query_batches(queries, 3, order=RecordOrder(4)) as b,
    ):
        next(batches)
        b.set_state({"0": batches.get_state()["0"] | {"unwanted": 0}})
        assert next(b) == next(batches)


def rendered(records, processor, cache_bytes):
    return ReadSource(records, TrajectoryReader(functools.partial(render_trajectory, processor=processor)), cache_bytes)


def test_files_of_held_trajectories_count(registry, processor, tmp_path):
    """A file can be far larger than what the model sees of it."""
    draft = lessons.warm_start(registry, processor)(PixelSearch(1)[0])
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (600, 600, 3), np.uint8)).save(buffer, "PNG")
    draft.messages[1]["content"][0]["image"] = buffer.getvalue()
    write_records(tmp_path, "trajectory", [draft])
    for room, held in ((10**6, False), (2 * 10**6, True)):
        source = rendered(RecordSource(tmp_path), processor, room)
        assert (source[0] is source[0]) == held


@pytest.mark.parametrize("images", [0, 3, 1000])
def test_rendered_trajectories_are_held_up_to_a_size(trajectories, processor, images):
    source = rendered(RecordSource(trajectories, "trajectory"), processor, images * 112 * 112 * 3)
    first, second = ([source[index] for index in range(20)] for _ in range(2))
    held = [one for one, again in zip(first, second, strict=True) if one is again]
    assert sum(len(trajectory.media) for trajectory in held) <= images
    assert len(held) == {0: 0, 1000: 20}.get(images, len(held)) and (images == 0 or held)
    assert all(np.array_equal(one.tokens, again.tokens) for one, again in zip(first, second, strict=True))


def test_trajectories_that_a_policy_sampled_keep_its_version(trajectories, processor, tmp_path):
    draft = RecordSource(trajectories)[0]
    versions = {4: 4, "4": None, -1: None, True: None, None: None}
    logged = [dataclasses.replace(draft, attributes={"policy_version": version}) for version in versions]
    write_records(tmp_path, "trajectory", logged)
    read = [render_trajectory(one, processor).policy_version for one in RecordSource(tmp_path)]
    assert read == list(versions.values()) and render_trajectory(draft, processor).policy_version is None


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
    with pytest.raises(RecordError, match=r"00000.array_record, record 0: trajectory '.*': <12 bytes>"):
        next(trajectory_batches(tmp_path, processor, 1))

"""Files that vanish, queries that are cancelled, streams that are dropped: nothing else is lost, nothing is left."""

import gc
import os
import pathlib
import threading
import time

import jax
import numpy as np
import pytest
from PIL import Image

from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.operations import Call, CropImage, Registry
from pixel_reasoner_jax.processing import MediaError, PictureStore
from pixel_reasoner_jax.processing.videos import Video
from pixel_reasoner_jax.rollout import EpisodeEnd, Limits, QueryError, SamplingSettings, answered
from pixel_reasoner_jax.rollout.admission import Admission
from pixel_reasoner_jax.rollout.episode import Episode
from pixel_reasoner_jax.rollout.prompt import Prompt
from pixel_reasoner_jax.rollout.runner import ModelRunner
from pixel_reasoner_jax.trajectory import Ended
from tests.rollout.zooming_policy import TURNS, Zooming, assert_same, zooming


@pytest.fixture
def files(queries, tmp_path):
    """The queries with their images in files, which are read again whenever they are needed: see `zooming`."""
    made = []
    for number, query in enumerate(queries):
        path = tmp_path / f"{number}.png"
        query["images"][0].convert("RGB").save(path)
        made.append({**query, "images": [str(path)]})
    return made


def vanish(path: pathlib.Path) -> None:
    path.unlink()


def change(path: pathlib.Path) -> None:
    Image.new("RGB", (448, 448), "red").save(path)


def become_unreadable(path: pathlib.Path) -> None:
    path.unlink()
    path.mkdir()


def taken(stream, failed):
    groups = {}
    for number, trajectory in answered(stream, failed.append):
        groups.setdefault(number, []).append(trajectory)
    return {number: sorted(group, key=lambda one: one.sample) for number, group in groups.items()}


@pytest.mark.parametrize("spoil", [vanish, change, become_unreadable])
def test_a_file_that_is_lost_after_it_was_opened_fails_its_own_query_alone(world, files, monkeypatch, spoil):
    build = Admission._build

    def spoilt(self, query):
        prompt = build(self, query)
        if query["id"] == files[2]["id"]:
            spoil(pathlib.Path(query["images"][0]))
        return prompt

    expected = zooming(world).rollout(files, samples=2, seed=5, sampling=TURNS)
    monkeypatch.setattr(Admission, "_build", spoilt)
    policy, failed = zooming(world, image_bytes=0), []
    with policy.stream(files, samples=2, seed=5, sampling=TURNS) as stream:
        groups = taken(stream, failed)
    [error] = failed
    assert (error.number, error.query_id) == (2, str(files[2]["id"])) and files[2]["images"][0] in str(error)
    assert sorted(groups) == [0, 1, 3, 4, 5]
    for number, group in groups.items():
        assert_same(group, expected[number])


def test_a_rollout_keeps_the_groups_of_the_others(world, files):
    os.unlink(files[4]["images"][0])
    with pytest.raises(QueryError, match=r"4\.png: no such file") as error:
        zooming(world).rollout(files, samples=2, sampling=TURNS)
    assert [len(group) for group in error.value.groups] == [2, 2, 2, 2, 0, 2]


def test_a_file_that_is_lost_behind_a_crop_fails_its_own_query_alone(world, files, monkeypatch):
    """The crop's embedding was there when it was made, and has been evicted since."""
    lost = files[1]["images"][0]

    class Losing(CropImage):
        def run(self, arguments, state):
            result = super().run(arguments, state)
            if os.path.exists(lost) and str(state.images[0]) == lost:
                os.unlink(lost)
            return result

    monkeypatch.setattr(ModelRunner, "holds", lambda self, media: True)
    policy, failed = zooming(world, registry=Zooming([Losing(0.0)]), image_bytes=0), []
    with policy.stream(files[:3], samples=2, sampling=TURNS) as stream:
        groups = taken(stream, failed)
    assert [error.number for error in failed] == [1]
    assert {number: len(group) for number, group in groups.items()} == {0: 2, 2: 2}


def test_a_bug_of_ours_is_not_taken_for_a_mistake_of_the_model(world, queries, monkeypatch):
    """An image of an operation that cannot be opened is shown to the model as an error; any other error is raised."""
    processor, registry, store = world[1], Registry([CropImage(0.0)]), PictureStore()
    prompt = Prompt.build(queries[0], processor, registry, None, store)
    episode = Episode(prompt, 0, processor, registry, Limits(), SamplingSettings())
    call = Call("crop_image_normalized", {"bbox_2d": [0.1, 0.1, 0.6, 0.6], "target_image": 1})
    for error in (MediaError("a.png: no such file"), UserError("no such shape")):
        monkeypatch.setattr(PictureStore, "open", raising(error))
        assert str(error) in episode.execute(call).record.error
    monkeypatch.setattr(PictureStore, "open", raising(ValueError("a bug")))
    with pytest.raises(ValueError, match="a bug"):
        episode.execute(call)


def raising(error):
    def function(*_):
        raise error

    return function


def test_a_cancelled_query_delivers_neither_responses_nor_its_error(world, files):
    os.unlink(files[0]["images"][0])
    policy = zooming(world)
    stream = policy.stream(files[:2], samples=1, sampling=TURNS)
    while not any(isinstance(one[2], QueryError) for one in stream._finished):
        stream._step()
    stream.cancel(files[0]["id"])
    assert [number for number, _ in stream] == [1]


def test_a_query_cancelled_at_its_end_delivers_nothing(world, queries):
    """Called from its own events, where its prompt leaves no room as well."""

    def cancel(event):
        if isinstance(event, EpisodeEnd) and event.query_id != str(queries[2]["id"]):
            streams[-1].cancel(event.query_id)

    streams = []
    for longest in (256, 20):
        policy = zooming(world, limits=Limits(1, 60, max_length=longest))
        streams.append(policy.stream(queries[:3], samples=2, sampling=TURNS, on_event=cancel))
        delivered = list(streams[-1])
        assert [number for number, _ in delivered] == [2, 2]
    assert {trajectory.ended for _, trajectory in delivered} == {Ended.LENGTH}


def abandon(policy, queries):
    next(policy.stream(queries, samples=2, sampling=TURNS))


def fail_in_the_loop(policy, queries):
    with pytest.raises(ZeroDivisionError):
        for _ in policy.stream(queries, samples=2, sampling=TURNS):
            raise ZeroDivisionError


def abandon_a_generator(policy, queries):
    next(answered(policy.stream(iter(queries), samples=2, sampling=TURNS), print))


def let_an_event_fail(policy, queries):
    def fail(event):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(policy.stream(queries, samples=2, sampling=TURNS, on_event=fail))


def close(policy, queries):
    stream = policy.stream(queries, samples=2, sampling=TURNS)
    next(stream)
    stream.close()


def test_streams_that_nobody_reads_end_their_threads(world, queries):
    policy = zooming(world)
    before = set(threading.enumerate())
    for drop in (abandon, fail_in_the_loop, abandon_a_generator, let_an_event_fail, close, abandon):
        drop(policy, queries)
    deadline = time.monotonic() + 30
    while left := set(threading.enumerate()) - before:
        gc.collect()
        assert time.monotonic() < deadline, left
        time.sleep(0.01)


@pytest.fixture
def compiled(monkeypatch):
    """Names of what is compiled."""
    names = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, *_, **__: names.append(name) if "backend_compile" in name else None
    )
    yield names
    jax.monitoring.clear_event_listeners()


def test_parameters_put_on_devices_by_hand_compile_nothing(world, queries, compiled):
    policy = zooming(world)
    policy.warmup(sampling=TURNS)
    [expected] = policy.rollout(queries[:1], samples=2, sampling=TURNS)
    params = policy.params
    by_hand = [
        jax.device_put(params, jax.devices()[0]),
        jax.tree.map(np.asarray, params),
        jax.tree.map(jax.numpy.asarray, jax.tree.map(np.asarray, params)),
        jax.device_put(params, jax.sharding.NamedSharding(jax.make_mesh((1,), ("x",)), jax.sharding.PartitionSpec())),
    ]
    compiled.clear()
    for placed in by_hand:
        policy.params = placed
        assert_same(policy.rollout(queries[:1], samples=2, sampling=TURNS)[0], expected)
    assert not compiled


def test_a_long_loaded_video_compiles_nothing(world, compiled):
    """Of its frames as many are taken as of a file's."""
    policy = zooming(world)
    policy.warmup(sampling=TURNS)
    compiled.clear()
    frames = [Image.new("RGB", (60 + n, 60 + n)).resize((90, 60)) for n in range(100)]
    video = Video(frames, tuple(n / 10 for n in range(100)), 10.0)
    query = {"id": "v", "question": "What moves?", "answer": "a", "video": video}
    [[trajectory]] = policy.rollout([query], sampling=TURNS)
    assert not compiled and trajectory.media[0].grid[0] == 3
    assert trajectory.media[0].second_per_grid == pytest.approx(2 / (10.0 * 5 / 100))

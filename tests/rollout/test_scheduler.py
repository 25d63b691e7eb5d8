"""Continuous batching: the same answer in any company, nothing done twice, nothing compiled after warm-up."""

import ctypes
import gc
import itertools
import types

import jax
import numpy as np
import pytest
from PIL import Image
from scipy.special import log_softmax

from pixel_reasoner_jax.processing import Budgets, MediaError, grid_patches
from pixel_reasoner_jax.processing.geometry import smart_resize
from pixel_reasoner_jax.rollout import Limits, Policy, SamplingSettings, answered, runtime
from pixel_reasoner_jax.rollout.counters import Counters
from pixel_reasoner_jax.rollout.engine import Engine
from pixel_reasoner_jax.rollout.shapes import Shapes, _most_blocks, platform_units, row_patches
from pixel_reasoner_jax.trajectory import Ended, Source
from tests.forward import full_logits
from tests.rollout.zooming_policy import TURNS, assert_same, zooming


def test_a_response_is_the_same_to_the_bit_in_any_company(world, queries):
    policy = zooming(world)
    together = policy.rollout(queries, samples=4, seed=5, sampling=TURNS)
    assert all(len(t.operations) == 3 and len(t.media) == 3 for group in together for t in group)
    assert_same(together[2][:2], policy.rollout(queries[2:3], samples=2, seed=5, sampling=TURNS)[0])
    backwards = policy.rollout(queries[::-1], samples=4, seed=5, sampling=TURNS)[::-1]
    more = zooming(world, decode_steps=32).rollout(queries, samples=5, seed=5, sampling=TURNS)
    for group, other, larger in zip(together, backwards, more, strict=True):
        assert_same(group, other)
        assert_same(group, larger[:4])
    for slots in (1, 3, 16):
        others = zooming(world, slots=slots).rollout(queries[:2], samples=4, seed=5, sampling=TURNS)
        for group, other in zip(together, others, strict=False):
            assert_same(group, other, exactly=False)


def test_every_token_is_prefilled_once_and_every_image_encoded_once(world, queries):
    policy = zooming(world)
    groups = policy.rollout(queries[:3], samples=6, seed=1, sampling=TURNS)
    counters = policy.counters
    prompts = [int((group[0].source == Source.PROMPT).sum()) for group in groups]
    observed = [int((t.source == Source.OBSERVATION).sum()) for group in groups for t in group]
    assert counters.prefilled == sum(prompts) + sum(observed)
    assert counters.sampled == sum(int(t.train.sum()) for group in groups for t in group)
    distinct = {media.key for group in groups for t in group for media in t.media}
    assert counters.encoded == len(distinct) > 12
    policy.rollout(queries[:3], samples=6, seed=1, sampling=TURNS)
    assert counters.encoded == len(distinct)  # the table knows them still
    policy.params = jax.tree.map(lambda leaf: leaf * 1.01, policy.params)
    policy.rollout(queries[:1], samples=1, seed=1, sampling=TURNS)
    assert counters.encoded > len(distinct)  # a new policy sees them anew


@pytest.mark.parametrize("number", [40, pytest.param(300, marks=pytest.mark.slow)])
def test_nothing_is_compiled_after_warmup(world, monkeypatch, number):
    """Queries with images from 56x56 to 2000x3000, and crops of any size."""
    monkeypatch.setattr(runtime, "Engine", Engine)  # one that other tests have compiled nothing for
    compiled = []
    policy = zooming(world, limits=Limits(max_operations=2, max_response_tokens=120, max_length=600))
    policy.warmup(sampling=TURNS)
    assert policy.counters == Counters()
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, *_, **__: compiled.append(name) if "backend_compile" in name else None
    )
    rng = np.random.default_rng(0)

    def endless():
        for index in range(number):
            count = int(rng.choice([0, 1, 1, 1, 2]))
            sizes = [np.exp(rng.uniform(np.log(56), np.log([2000, 3000]))).astype(int).tolist() for _ in range(count)]
            sizes = [(3000, 2000)] if index == 7 else [(56, 56)] if index == 8 else sizes
            images = [Image.new("RGB", size, tuple(rng.integers(0, 255, 3).tolist())) for size in sizes]
            yield {"id": index, "question": "Which? " * int(rng.integers(1, 60)), "answer": "1", "images": images}

    try:
        seen = {index for index, _ in policy.stream(endless(), samples=2, sampling=TURNS)}
        assert seen == set(range(number)) and not compiled
        jax.jit(lambda x: x * 3 + 7)(np.ones(11))
        assert compiled  # the listener does hear of compilations
    finally:
        jax.monitoring.clear_event_listeners()


def test_cancelled_queries_free_their_slots(world, queries):
    policy = zooming(world, slots=4)
    stream = policy.stream(iter(queries), samples=4, seed=5, sampling=TURNS)
    first, trajectory = next(stream)  # of the query whose image was there first
    for number, query in enumerate(queries[:4]):
        if number != first:
            stream.cancel(query["id"])
    rest = [(first, trajectory), *stream]
    assert sorted({number for number, _ in rest}) == [first, 4, 5] and len(rest) == 12
    alone = policy.rollout(queries[5:], samples=4, seed=5, sampling=TURNS)[0]
    assert_same(sorted((t for number, t in rest if number == 5), key=lambda t: t.sample), alone)

    with policy.stream(queries, samples=4, sampling=TURNS) as stream:
        next(stream)
    assert list(stream) == [] and not stream._active and stream._runner._slots is None


def test_an_unreadable_image_is_raised_in_its_turn(world, queries, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no image")
    broken = {**queries[1], "images": [str(tmp_path / "broken.png")]}
    mixed = [queries[0], broken, *queries[2:]]
    policy = zooming(world)
    with pytest.raises(MediaError, match=rf"query '{broken['id']}': .*broken\.png"):
        policy.rollout(mixed, samples=2, sampling=TURNS)
    stream, finished = policy.stream(mixed, samples=2, sampling=TURNS), []
    with pytest.raises(MediaError, match=rf"query '{broken['id']}': .*broken\.png"):
        finished.extend(stream)
    rest = list(stream)  # who wants to goes on without it
    assert sorted(number for number, _ in finished + rest) == [0, 0, 2, 2, 3, 3, 4, 4, 5, 5]
    stream = policy.stream(mixed, samples=2, sampling=TURNS)
    stream.cancel(broken["id"])
    assert len(list(stream)) == 10
    unusable = []
    with policy.stream(mixed, samples=2, sampling=TURNS) as stream:
        assert len(list(answered(stream, unusable.append))) == 10
    assert [error.number for error in unusable] == [1] and "broken.png" in str(unusable[0])


def test_a_cancelled_query_leaves_no_pixels(world, queries, tmp_path):
    """Also one that is still loading, by an id that is a number, and while an operation runs."""
    files = []
    for number, query in enumerate(queries):
        query["images"][0].convert("RGB").save(tmp_path / f"{number}.png")
        files.append({**query, "id": number, "images": [str(tmp_path / f"{number}.png")]})
    policy = zooming(world, slots=2)

    def cancel(event):
        if event.query_id != "5":
            stream.cancel(int(event.query_id))

    stream = policy.stream(files, samples=2, sampling=TURNS, on_event=cancel)
    assert [number for number, _ in stream] == [5, 5]
    assert policy.store.bytes > 0
    policy.store.forget(policy.store.open(files[5]["images"][0]))
    assert policy.store.bytes == 0


def test_what_is_interrupted_leaves_nothing_half_done(world, queries, monkeypatch):
    """An image whose encoding failed is not taken for one that is in the table."""
    expected = zooming(world).rollout(queries[:2], samples=2, seed=1, sampling=TURNS)
    policy = zooming(world)
    encode, calls = policy.runtime.engine.encode, itertools.count()

    def interrupted(*args):
        if next(calls) == 1:
            raise KeyboardInterrupt
        return encode(*args)

    monkeypatch.setattr(policy.runtime.engine, "encode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        policy.rollout(queries[:2], samples=2, seed=1, sampling=TURNS)
    for group, other in zip(expected, policy.rollout(queries[:2], samples=2, seed=1, sampling=TURNS), strict=True):
        assert_same(group, other)


def test_settings_changed_meanwhile_hold_for_the_next_rollout(world, queries):
    policy = zooming(world, slots=2)
    expected = policy.rollout(queries[:2], samples=3, seed=1, sampling=TURNS)
    with policy.stream(queries[:2], samples=3, seed=1, sampling=TURNS) as stream:
        finished = [next(stream)]
        policy.limits = Limits(0, 900, max_length=2000)
        policy.params = jax.tree.map(lambda leaf: leaf * 1.1, policy.params)
        other = policy.rollout(queries[:1], samples=1, seed=1, sampling=TURNS)[0][0]
        finished += stream
    for number, trajectory in finished:
        assert_same([trajectory], [expected[number][trajectory.sample]])
    assert other.logprobs[-1] != expected[0][0].logprobs[-1]


def test_parameters_that_were_donated_are_an_error_that_says_so(world, queries):
    policy = zooming(world, slots=2)
    policy.params = jax.tree.map(jax.numpy.copy, policy.params)
    update = jax.jit(lambda params: jax.tree.map(lambda leaf: leaf * 2, params), donate_argnums=0)
    with policy.stream(queries, samples=2, sampling=TURNS) as stream:
        next(stream)
        policy.params = update(policy.params)
        with pytest.raises(RuntimeError, match="close it before the update"):
            list(stream)


def test_a_temperature_is_not_ignored(world, queries):
    with pytest.raises(ValueError, match="temperature or sampling"):
        zooming(world).stream(queries, temperature=0.0, sampling=TURNS)


@pytest.mark.parametrize("setting", ["slots", "decode_steps", "workers"])
def test_settings_of_a_policy_are_checked(world, setting):
    with pytest.raises(ValueError, match=setting):
        Policy(*world, **{setting: 0})


def test_slots_grow_for_longer_queries(world, queries):
    long = {**queries[1], "question": "Which digit is in the box? " * 50}
    policy = zooming(world, limits=Limits(max_operations=1, max_response_tokens=40), slots=4)
    groups = policy.rollout([queries[0], long, queries[2]], samples=3, seed=2, sampling=TURNS)
    assert len(groups[1][0].tokens) > 256 and {t.ended for group in groups for t in group} == {Ended.OPERATIONS}
    for query, group in zip([queries[0], long, queries[2]], groups, strict=True):
        fresh = zooming(world, limits=policy.limits, slots=4)
        assert_same(group, fresh.rollout([query], samples=3, seed=2, sampling=TURNS)[0], exactly=False)


def test_a_long_prompt_is_prefilled_in_chunks(world, queries):
    """Longer than a chunk, so that images lie on both sides of the cut and on it."""
    image = queries[0]["images"][0]
    long = {**queries[0], "question": "Which digit? " * 20, "images": [image] + [image.resize((300, 200))] * 30}
    policy = zooming(world, limits=Limits(max_operations=1, max_response_tokens=60))
    [group] = policy.rollout([long], samples=2, seed=2, sampling=TURNS)
    for trajectory in group:
        assert (trajectory.source == Source.PROMPT).sum() > 512
        logits = full_logits(*world, trajectory)
        logits[:, world[1].forbidden_tokens] = -np.inf
        where = np.flatnonzero(trajectory.source == Source.SAMPLED)
        expected = log_softmax(logits, -1)[where - 1, trajectory.tokens[where]]
        np.testing.assert_allclose(trajectory.policy_logprobs[where], expected, atol=1e-4)


def test_a_turn_cut_by_a_stop_string_goes_on_as_if_it_had_ended_there(world, queries):
    """What was sampled beyond it is forgotten: one forward over what is left gives the same log-probabilities."""
    processor = world[1]
    policy = zooming(world, decode_steps=16, limits=Limits(2, 200, max_length=400))
    vowels = SamplingSettings(forbidden_tokens=processor.stop_tokens, stop_strings=("a", "e", "i", "o", "u"))
    penalized = SamplingSettings(
        repetition_penalty=1.2, forbidden_tokens=processor.stop_tokens, stop_strings=vowels.stop_strings
    )
    for settings in (vowels, penalized):
        for trajectory in policy.rollout(queries[:2], samples=3, seed=3, sampling=settings)[1]:
            assert sum(message["role"] == "user" for message in trajectory.messages) == 3
            observation = trajectory.tokens[trajectory.source == Source.OBSERVATION]
            assert observation[0] == processor.im_end  # the turn is closed for the model
            logits = full_logits(*world, trajectory)
            logits[:, np.concatenate([processor.forbidden_tokens, processor.stop_tokens])] = -np.inf
            for index in np.flatnonzero(trajectory.source == Source.SAMPLED):
                row = logits[index - 1].copy()
                token = trajectory.tokens[index]
                own = log_softmax(row)[token]
                seen = np.unique(trajectory.tokens[:index])
                penalty = settings.repetition_penalty
                row[seen] = np.where(row[seen] < 0, row[seen] * penalty, row[seen] / penalty)
                assert abs(trajectory.logprobs[index] - log_softmax(row)[token]) < 1e-4
                assert abs(trajectory.policy_logprobs[index] - own) < 1e-4


def test_declared_shapes_hold_whatever_the_budgets_allow(world):
    processor = world[1]
    geometry = processor.geometry
    units = dict(page=64, most_chunk=64)
    shapes = Shapes.holding(12, 700, geometry, processor.budgets, **units)
    assert (shapes.slots, shapes.length, shapes.pages) == (12, 768, 12 * 12 + 1) and shapes.widths[-1] == 512
    assert shapes.forks == (1, 4, 12)
    rng = np.random.default_rng(0)
    for least, most in [(1, 1), (4, 20), (16, 20), (4, 100), (4, 300), (4, 400), (4, 500), (256, 700), (4, 2000)]:
        budgets = Budgets(image=(least, most), crop=(least, most), frame=(4, 4), video=(4, 4), video_frames=2)
        declared = Shapes.holding(1, 64, geometry, budgets, **units).patches
        short = np.exp(rng.uniform(np.log(28), np.log(600), 400))
        for low, ratio in zip(short, np.exp(rng.uniform(0, np.log(200), 400)), strict=True):
            size = [round(low), min(int(low * ratio), 200 * round(low))]
            width, height = smart_resize(size if rng.random() < 0.5 else size[::-1], (least, most))
            grid = (1, height // geometry.patch_size, width // geometry.patch_size)
            assert row_patches(grid, geometry) in declared, (size, most)
            blocks = grid_patches(grid, geometry) // geometry.window_patches
            assert blocks <= _most_blocks(most, geometry.window_tokens), (size, most)


@pytest.mark.parametrize(("platform", "rows", "images"), [("cpu", 2, 4), ("gpu", 4, 16), ("tpu", 4, 16)])
def test_the_devices_of_a_mesh_decide_on_the_rows_of_a_call(world, platform, rows, images):
    mesh = types.SimpleNamespace(devices=np.array([types.SimpleNamespace(platform=platform)]))
    processor = world[1]
    shapes = Shapes.holding(8, 700, processor.geometry, processor.budgets, **platform_units(mesh))
    assert (shapes.rows(64), shapes.images(64)) == (rows, images)
    assert shapes.rows(512) == shapes.images(2048) == 1  # a row may always have what it needs


@pytest.mark.slow
def test_memory_stays_where_it_was(world):
    """Resident memory after 2,000 queries is that after 200, but for noise."""

    def resident():
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)  # free memory that the allocator keeps is nobody's
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) / 1024

    policy = zooming(world, limits=Limits(2, 120, max_length=600), slots=16, image_bytes=2**22)
    policy.warmup(sampling=TURNS)
    rng = np.random.default_rng(0)

    def many():
        for number in range(2000):
            pixels = rng.integers(0, 255, (int(rng.integers(56, 900)), int(rng.integers(56, 900)), 3), np.uint8)
            yield {"id": number, "question": "Which?", "answer": "1", "images": [Image.fromarray(pixels)]}

    for done, _ in enumerate(policy.stream(many(), samples=2, sampling=TURNS), start=1):
        if done == 400:
            early = resident()
    assert done == 4000 and policy.store.peak_bytes <= 2**22
    assert resident() < early + 32

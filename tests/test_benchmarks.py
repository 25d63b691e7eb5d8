"""The benchmarks do what they say: all sides do the same work, and PyTorch's come to the same results."""

import dataclasses
import itertools
import json

import jax
import numpy as np
import pytest
import torch
from flax import nnx
from transformers import Qwen2_5_VLForConditionalGeneration

from benchmarks import (
    decode,
    earlier_engine,
    floors,
    load_memory,
    peers,
    rollout,
    speculation,
    train_own,
    train_peer,
    train_step,
    train_work,
    workload,
)
from pixel_reasoner_jax.models import Config, Qwen2_5_VL
from pixel_reasoner_jax.processing import Processor
from pixel_reasoner_jax.trajectory import Source

FORMS = ("write", "convert")


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return workload.build(tmp_path_factory.mktemp("workload"), queries=3, samples=2, tiny=True)


@pytest.fixture(scope="module")
def processor(work):
    return Processor.from_pretrained(work.directory)


@pytest.fixture(scope="module")
def rerendered(work):
    return peers.rerender(work, temperature=0)


def unpadded(work, processor):
    """Greedy turn-0 tokens of every query, with transformers' own positions and no padding."""
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(work.directory, dtype=torch.float32)
    for prompt in workload.prompts(work, processor):
        tokens, media = torch.from_numpy(prompt.rendered.tokens).long()[None], prompt.rendered.media
        output = model.generate(
            input_ids=tokens,
            attention_mask=torch.ones_like(tokens),
            mm_token_type_ids=(tokens == processor.image_pad).int(),
            pixel_values=torch.from_numpy(media[0].patches),
            image_grid_thw=torch.tensor([media[0].grid]),
            max_new_tokens=work.turn_tokens,
            do_sample=False,
            suppress_tokens=workload.forbidden_tokens(processor).tolist(),
        )
        yield output[0, tokens.shape[1] :].numpy()


def flat(measurement):
    return np.array(measurement.tokens)


def test_the_first_turn_is_what_an_unpadded_generate_gives(work, processor, rerendered):
    expected = np.stack(list(unpadded(work, processor)))
    assert len(np.unique(expected, axis=0)) == len(expected)  # the queries do matter
    np.testing.assert_array_equal(flat(rerendered)[:, :, 0], np.repeat(expected[:, None], work.samples, axis=1))


@pytest.fixture(scope="module")
def kept(work):
    return peers.kept_cache(work, temperature=0)


def test_both_peers_sample_the_same_tokens(kept, rerendered):
    np.testing.assert_array_equal(flat(kept), flat(rerendered))


@pytest.mark.parametrize("batch_size", [4, pytest.param(1, marks=pytest.mark.slow)])
def test_batches_of_any_size_sample_the_same_tokens(work, rerendered, batch_size):
    np.testing.assert_array_equal(flat(peers.kept_cache(work, batch_size, temperature=0)), flat(rerendered))


def test_both_peers_say_how_much_they_did(work, processor, kept, rerendered):
    prompts = [len(prompt.rendered.tokens) for prompt in workload.prompts(work, processor)]
    seen = np.array(
        [
            [
                len(workload.observation(work, processor, prompt, query, sample, turn).tokens)
                for query, prompt in enumerate(workload.prompts(work, processor))
                for sample in range(work.samples)
            ]
            for turn in range(work.turns - 1)
        ]
    )
    rows = len(work.rows)
    assert flat(kept).shape == (3, 2, 3, 4)
    assert kept.generated == rerendered.generated == rows * 3 * 4
    assert kept.prefilled == 2 * sum(prompts) + seen.sum()
    assert rerendered.prefilled == 3 * 2 * sum(prompts) + 2 * seen[0].sum() + seen[1].sum() + rows * (1 + 2) * 4


@pytest.mark.parametrize("peer", [peers.rerender, peers.kept_cache])
def test_sampling_never_takes_a_forbidden_token(work, processor, peer):
    tokens = flat(peer(work, temperature=2.0))
    assert not np.isin(tokens, workload.forbidden_tokens(processor)).any()
    assert (tokens[:, 0, 0] != tokens[:, 1, 0]).any()


@pytest.fixture(scope="module")
def ragged(work):
    """Turns from 1 to 6 tokens; not as many in every response."""
    return work.with_lengths((((3, 1, 2), (4,)), ((2, 6), (1, 1)), ((5,), (1, 3, 4))))


def test_peers_sample_turns_of_many_lengths(ragged):
    """Row by row, what each samples alone: whatever else has ended meanwhile."""
    kept, rerendered = (peer(ragged, temperature=0) for peer in (peers.kept_cache, peers.rerender))
    alone = peers.kept_cache(ragged, batch_size=1, temperature=0)
    for query, sample in ragged.rows:
        tokens = kept.tokens[query][sample]
        assert tuple(map(len, tokens)) == ragged.row_turns(query, sample)
        for other in (rerendered, alone):
            for one, same in zip(tokens, other.tokens[query][sample], strict=True):
                np.testing.assert_array_equal(one, same)
    assert kept.generated == rerendered.generated == 33


def test_lengths_are_like_the_methods(tmp_path):
    """There, 900 tokens of a trajectory are sampled on average."""
    lengths = workload._draw_lengths(0, 80, 8, workload.RAGGED_SCALE)
    rows = [turns for group in lengths for turns in group]
    assert np.mean([sum(turns) for turns in rows]) == pytest.approx(900 * workload.RAGGED_SCALE, rel=0.1)
    assert {len(turns) for turns in rows} == {1, 2, 3, 4, 5} and min(map(min, rows)) >= 1
    ragged = workload.build(tmp_path, queries=2, samples=3, tiny=True, ragged=True)
    assert [len(group) for group in ragged.lengths] == [3, 3]
    assert ragged.turns == max(len(turns) for group in ragged.lengths for turns in group)


@pytest.mark.slow
def test_our_engine_of_now_and_then_sample_turns_of_many_lengths(ragged):
    own = rollout.ours(ragged, warmup=False)
    assert own.counters.sampled == 33 and own.counters.prefilled == rollout.needed(own.trajectories)
    for query, sample in ragged.rows:
        source = own.trajectories[query][sample].source
        assert (source == Source.SAMPLED).sum() == sum(ragged.row_turns(query, sample))
    try:
        earlier_engine.find("2ff9fb9")
    except earlier_engine.EngineError as error:
        pytest.skip(str(error))
    assert earlier_engine.measure("2ff9fb9", ragged)["generated"] == 33


def test_an_earlier_engine_that_is_not_here_is_named(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["rollout", "--engine-of", "0" * 12])
    with pytest.raises(SystemExit):
        rollout.main()
    assert "there is no commit 000000000000 here; in a shallow clone" in capsys.readouterr().err


def test_every_forced_box_is_another_one(work):
    turns = itertools.product(work.rows, range(work.turns - 1))
    boxes = [tuple(work.box(*row, turn)) for row, turn in turns]
    assert len(set(boxes)) == len(boxes) == 12
    assert all(0 < x1 < x2 < 1 and 0 < y1 < y2 < 1 for x1, y1, x2, y2 in boxes)


def test_an_observation_closes_the_cut_turn(work, processor):
    prompt = workload.prompts(work, processor)[1]
    rendered = workload.observation(work, processor, prompt, 1, 0, 1)
    assert rendered.tokens[0] == processor.im_end
    assert len(rendered.media) == 1
    assert rendered.media[0].tokens == (rendered.tokens == processor.image_pad).sum()
    text = processor.tokenizer.decode(rendered.tokens)
    assert text.startswith("<|im_end|>\n<|im_start|>user\n\nHere is the cropped image")
    assert text.endswith("<|im_start|>assistant\n")


@pytest.fixture(scope="module")
def own(work):
    return rollout.ours(work)


def test_our_side_does_the_forced_work_and_nothing_twice(work, processor, own):
    assert own.counters.sampled == len(work.rows) * work.turns * work.turn_tokens
    assert own.counters.prefilled == rollout.needed(own.trajectories)
    assert own.compiles == 0
    prompts = workload.prompts(work, processor)
    for query, group in enumerate(own.trajectories):
        for sample, trajectory in enumerate(group):
            expected = [
                workload.observation(work, processor, prompts[query], query, sample, turn).tokens
                for turn in range(work.turns - 1)
            ]
            observed = trajectory.tokens[trajectory.source == Source.OBSERVATION]
            np.testing.assert_array_equal(observed, np.concatenate(expected))


@pytest.mark.parametrize(
    "less", [{"fork": False}, {"engine": rollout.WithoutExtend}, {"engine": rollout.WithoutOverlap}]
)
def test_each_switch_takes_away_speed_and_nothing_else(work, own, less):
    """The same tokens: but without fork every sample is the first of a query of its own."""
    other = rollout.ours(work, warmup=False, **less)
    assert other.counters.sampled == own.counters.sampled
    if "fork" in less:
        assert len(other.trajectories) == len(work.rows)
        prompts = [int((group[0].source == Source.PROMPT).sum()) for group in own.trajectories]
        assert other.counters.prefilled - own.counters.prefilled == sum(prompts) * (work.samples - 1)
        return
    for group, others in zip(own.trajectories, other.trajectories, strict=True):
        for a, b in zip(group, others, strict=True):
            np.testing.assert_array_equal(a.tokens, b.tokens)
    more = other.counters.prefilled > own.counters.prefilled
    assert more == (less["engine"] is rollout.WithoutExtend)


def test_the_images_of_a_query_are_held_once_whatever_the_group_size(tmp_path):
    one = workload.build(tmp_path, queries=3, samples=1, turn_tokens=2, tiny=True)
    peaks = [
        rollout.ours(workload, slots=12, warmup=False).peak_bytes
        for workload in (one, dataclasses.replace(one, samples=12))
    ]
    assert peaks[0] > 0 and peaks[1] / peaks[0] < 1.1


def test_the_memory_of_reading_and_writing_is_measured(tmp_path):
    size = load_memory.make_checkpoint(tmp_path, "tiny")
    model = Qwen2_5_VL.from_pretrained(tmp_path, "bfloat16")
    assert sum(leaf.nbytes for leaf in jax.tree.leaves(nnx.state(model))) == size
    for measured in (load_memory.read(tmp_path, "tiny"), *(load_memory.write(tmp_path, "tiny", f) for f in FORMS)):
        assert 2**26 < measured < 2**34  # an interpreter with JAX takes as much
    assert (tmp_path / "written" / "model.safetensors").stat().st_size > size
    assert sum(file.stat().st_size for file in (tmp_path / "converted").rglob("*") if file.is_file()) > size / 2


def test_floors_count_what_a_step_reads_and_multiplies(monkeypatch):
    config = Config.preset("tiny")
    sizes = floors.sizes(nnx.state(Qwen2_5_VL.create(config, 0), nnx.Param))
    layers, head = config.num_hidden_layers, config.head_dim
    assert sizes["kv"] == layers * config.num_key_value_heads * head
    assert sizes["heads"] == layers * config.num_attention_heads * head
    assert sizes["vocab"] == config.vocab_size
    assert sizes["read"] == sizes["layers"] + config.vocab_size * config.hidden_size
    monkeypatch.setattr(floors, "REPEATS", 1)
    monkeypatch.setattr(floors, "CALLS", 1)
    measured = floors.measure("tiny", slots=2, context=96, width=32)
    for phase in ("decode", "prefill"):
        figures = measured[phase]
        assert figures["share"] == pytest.approx(figures["floor_seconds"] / figures["seconds"]) and figures["share"] > 0


@pytest.fixture(scope="module")
def update(tmp_path_factory):
    directory = tmp_path_factory.mktemp("update")
    train_work.save(directory, workload.TINY)
    return train_work.build(directory, rows=2, length=96)


@pytest.mark.parametrize("phase", ["grpo", pytest.param("sft", marks=pytest.mark.slow)])
def test_both_sides_make_the_same_updates(update, phase):
    """Three of them: were the steps not alike, the second and third loss would tell."""
    own, other = train_own.Own(update, phase), train_peer.Peer(update, phase)
    ours, theirs = (np.array([side.update() for _ in range(3)]) for side in (own, other))
    np.testing.assert_allclose(ours, theirs, rtol=1e-3)
    assert len(np.unique(ours.round(3), axis=0)) == 3
    with pytest.raises(train_step.Disagreement):
        train_step.agree({"ours": ours.tolist(), "torch": (ours + 0.1).tolist()}, 1e-3)


def test_an_update_is_timed_only_after_it_agreed(update):
    class Side:
        def __init__(self, loss):
            self.loss, self.updates = loss, 0

        def update(self):
            self.updates += 1
            return self.loss, 1.0

    sides = {"ours": Side(2.0), "torch": Side(2.0), "torch.compile": Side(2.001)}
    figures = train_step.timed(sides, rounds=2, updates=4, tolerance=1e-3)
    assert [len(one["every"]) for one in figures.values()] == [6, 6, 6]
    assert [side.updates for side in sides.values()] == [8, 8, 8]
    assert train_step.time_ratio(figures) > 0
    sides["torch"] = Side(2.1)
    with pytest.raises(train_step.Disagreement):
        train_step.timed(sides, rounds=2, updates=4, tolerance=1e-3)
    assert sides["torch.compile"].updates == 8  # it was not asked again


@pytest.mark.slow
def test_a_side_in_a_process_of_its_own_makes_the_same_updates(update, monkeypatch):
    with train_step.Apart("ours", update.directory, "grpo", "tiny") as apart:
        found = [apart.update() for _ in range(2)]
    setting = train_step.SETTINGS["tiny"]
    side = train_step.make_side("ours", update, "grpo", setting)
    np.testing.assert_allclose(found, [side.update() for _ in range(2)], rtol=1e-3)
    monkeypatch.setattr(train_step.sys, "executable", "/bin/false")
    with pytest.raises(RuntimeError, match="ended with 1"), train_step.Apart("ours", "/nowhere", "grpo", "tiny"):
        pass


@pytest.mark.slow
def test_the_comparison_on_a_gpu_runs_here_too(tmp_path, monkeypatch, capsys):
    """The same code, in bfloat16 and with layers computed again, in one process on the CPU."""

    def process(_, name, *options):
        given = dict(zip(options[::2], options[1::2], strict=True))
        setting = train_step.SETTINGS[given["--setting"]]
        return train_step.alone(name, given["--directory"], given["--phase"], setting, int(given["--updates"]))

    monkeypatch.setattr(train_step, "_process", process)
    result = train_step.on_gpu(tmp_path, "tiny", updates=3, names=("ours", "torch"))
    assert result["time_ratio_sft"] > 0 and result["time_ratio_grpo"] > 0 and result["memory_ratio"] > 0
    for sides in result["time"].values():
        for side in sides.values():
            assert side["utilization"] == pytest.approx(result["model_flops"] / side["seconds"] / result["rate"])
    assert "TFLOP/s" in capsys.readouterr().out


def test_model_flops_are_those_of_the_matrices(update):
    config = workload.TINY
    size, inner, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    heads, kv_heads = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
    layer = size * (2 * heads + 2 * kv_heads + 3 * inner)
    batch = train_own.batch(update)
    attention = 2 * heads * batch["tokens"].shape[1]  # of a token, in a layer
    decoder = batch["tokens"].size * layers * (layer + attention)
    head = batch["targets"].size * size * config.vocab_size
    vision = config.vision
    width, patches = vision.hidden_size, batch["vision"]["patch_segments"].size
    windowed = vision.depth - len(vision.fullatt_block_indexes)
    reach = windowed * vision.window_patches + (vision.depth - windowed) * batch["vision"]["patch_segments"].shape[1]
    tower = vision.depth * width * (4 * width + 3 * vision.intermediate_size) + width * (vision.patch_dim + 2 * reach)
    merged = width * vision.merge_patches
    merger = patches // vision.merge_patches * merged * (merged + size)
    expected = 6 * (decoder + head + patches * tower + merger)
    assert train_own.model_flops(update, config) == pytest.approx(expected, rel=1e-6)


@pytest.mark.slow
def test_each_of_eight_devices_does_an_eighth():
    whole, each = (train_step._devices(count, "tiny") for count in (1, 8))
    for phase in train_work.PHASES:
        one, eighth = (found[phase]["flops"] / found[phase]["asked"] for found in (whole, each))
        assert eighth == pytest.approx(one, rel=0.05)  # no device does another's work as well
        assert each[phase]["bytes"] < whole[phase]["bytes"] / 2


def test_the_cache_is_full_of_live_tokens():
    found = decode.cache_fill(120)
    assert 1 < found["cache_ratio"] < 1.15 and found["waits_per_response"] < 1


@pytest.mark.slow
def test_steps_of_decoding_are_compared(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["decode", "--preset", "tiny", "--rounds", "1", "--json"])
    decode.main()
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert all(found[name] > 0 for name in (*decode.AIMS, "int8_weights_ratio", "int8_cache_ratio"))


def row(prompt, sampled):
    return [*prompt, *sampled], [Source.PROMPT] * len(prompt) + [Source.SAMPLED] * len(sampled)


def test_what_is_looked_up_is_kept_as_far_as_it_is_drawn():
    # 1 is drawn; then 2 3 follow 1 in the prompt, and 4 is drawn; then 5 1 follow 1 2 3 4, of which there is 5.
    assert speculation.steps(row([1, 2, 3, 4, 5], [1, 2, 3, 4, 5]), (), 2) == 3
    assert speculation.steps(row([1, 2, 3, 4, 5], [1, 2, 3, 4, 5]), (), 4) == 2
    assert speculation.steps(row([1, 2, 3, 4, 5], [1, 9, 3, 4, 5]), (), 4) == 4  # 1, 9 for 2, 3, and 4 5
    assert speculation.steps(row([1], [2, 3, 4, 5, 6]), (), 4) == 5
    text = [1, 2, 3, 4, 5, 6]
    assert speculation.steps(row([1], [2, 3, 4, 5, 6]), [(0, text)], 2) == 2
    assert speculation.steps(row([1], [2, 3, 4, 5, 6]), [(2, text)], 8) == 3  # it ends once 2 and 3 are drawn


def test_siblings_help_from_their_end():
    short, long = row([1], [6, 2, 3, 7]), row([1], [2, 3, 4, 5, 6, 2, 3, 7])
    found = speculation.tokens_a_step([[short, long]], 2)
    # Alone, 3 follows the second 2 of the long one. Of the short one that has ended, 2 3 follow 6; 3 follows 2 at once.
    assert found == {"alone": 12 / (4 + 7), "ended": 12 / (4 + 6), "shorter": 12 / (4 + 5)}


def test_a_step_of_more_tokens_costs_what_it_computes():
    """One row reads as much either way; 256 rows of 9 tokens are bound by their products on a v5p chip."""
    assert speculation.reckoned_cost("v5p", 1, 8) == 1
    assert 4 < speculation.reckoned_cost("v5p", 256, 8) < 9

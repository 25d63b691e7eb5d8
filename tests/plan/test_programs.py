"""The compiled functions of runs: those that run, sharded as they run, with nothing whole that should not be."""

import copy
import dataclasses

import jax
import numpy as np
import pytest

from pixel_reasoner_jax.config import load_config
from pixel_reasoner_jax.models import Config, attention, cache
from pixel_reasoner_jax.parallel import MeshError
from pixel_reasoner_jax.plan.chips import topology
from pixel_reasoner_jax.plan.flops import Flops, count_flops
from pixel_reasoner_jax.plan.hlo import Program as Text
from pixel_reasoner_jax.plan.measure import measure
from pixel_reasoner_jax.plan.programs import Program, Programs, _output_of, bytes_per_device
from pixel_reasoner_jax.rollout.shapes import SAVED_PAGES

# What is compiled for a TPU cannot be read back from the compilation cache without one.
pytestmark = pytest.mark.filterwarnings("ignore:Error reading persistent compilation cache")

LAYERS, VOCABULARY = 7, 4096  # numbers that stand for nothing else below


@pytest.fixture(scope="module")
def small():
    """An experiment and a model with real proportions, small; layers enough for a loop."""
    config = copy.deepcopy(load_config("rl_qwen2_5_vl_7b"))
    config.processor.update(dict(image=(4, 64), crop=(4, 64), frame=(4, 64), video=(4, 8), video_frames=2))
    config.train.update(dict(row_length=512, batch_size=64))
    config.rollout.update(dict(max_length=512, slots=8))
    config.mesh.update(dict(data=1, fsdp=-1, tensor=2))
    tiny = Config.preset("tiny")
    vision = dataclasses.replace(tiny.vision, out_hidden_size=512, hidden_size=128, intermediate_size=384)
    model = dataclasses.replace(
        tiny,
        vision=vision,
        hidden_size=512,
        intermediate_size=1024,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        mrope_section=(16, 24, 24),
        vocab_size=VOCABULARY,
        tie_word_embeddings=False,
    )
    return config, model


def count(program) -> Flops:
    return count_flops(program.function.trace(*program.arguments, **program.static).jaxpr, program.loops)


@pytest.fixture(scope="module")
def update(small):
    """The text of the gradient's program on eight v5e chips, and the program."""
    pytest.importorskip("libtpu", reason="libtpu is not installed: pip install '.[tpu]'")
    programs = Programs(*small, topology("v5e:2x4").devices)
    accumulate, _ = programs.build("grpo_update")
    text = accumulate.function.lower(*accumulate.arguments).compile().as_text()
    assert "splash_mha_dkv" in text
    return Text(text, 8), accumulate


def test_no_stack_of_parameters_and_no_logits_are_gathered(update):
    text, _ = update
    gathered = [shape for one in text.collectives() if one.operation == "all-gather" for _, shape in one.shapes]
    assert gathered
    for shape in gathered:
        assert LAYERS not in shape or np.prod(shape) < 2**16, f"a stack of layers, {shape}"  # norms and biases
        assert VOCABULARY not in shape or set(shape) <= {VOCABULARY, VOCABULARY // 2, 512, 1}, f"logits, {shape}"


@pytest.mark.parametrize("rollouts", [{}, dict(data=1, fsdp=-1)])
def test_decoding_receives_parameters_only_where_its_mesh_has_fsdp(small, libtpu, rollouts):
    config, model = copy.deepcopy(small[0]), small[1]
    config.rollout.mesh.update(rollouts)
    programs = Programs(config, model, topology("v5e:2x4").devices)
    decode, _ = programs.build("decode")
    text = Text(decode.function.lower(*decode.arguments, **decode.static).compile().as_text(), 8)
    gathers = [one for one in text.collectives(decode.loops) if one.operation == "all-gather"]
    decoder = [leaf for part in ("language", "head") for leaf in jax.tree.leaves(decode.arguments[0][part])]
    matrices = [leaf for leaf in decoder if leaf.size > LAYERS * 2048]
    assert {leaf.dtype.name for leaf in matrices} == {"bfloat16"}
    received = sum(one.received_bytes for one in gathers)
    # bfloat16 over an fsdp of 4, dealt out over tensor; the vision tower is not among them.
    in_a_step = sum(2 * leaf.size for leaf in matrices) / 2 * 3 / 4
    assert received > 10 * in_a_step if "fsdp" in rollouts else received < in_a_step


@pytest.mark.parametrize(
    "tensor, weights",
    [(2, None), pytest.param(1, None, marks=pytest.mark.slow), pytest.param(2, "int8", marks=pytest.mark.slow)],
)
def test_parameters_are_laid_out_in_so_much_memory(small, libtpu, tensor, weights):
    """As many bytes as a device takes of them arrive, and there is never a second stack of layers."""
    config, model = copy.deepcopy(small[0]), small[1]
    config.mesh.tensor = 1
    config.rollout.mesh.tensor, config.rollout.weights = tensor, weights
    chips = topology("v5e:2x4")
    programs = Programs(config, model, chips.devices)
    layout, taken = programs.layout(), programs.build("prefill")[0].arguments[0]
    assert len(layout) == {1: 4, 2: 7}[tensor]  # two stacks and all else; spread, and gathered
    trained = bytes_per_device(layout[0].arguments)
    moments = bytes_per_device(layout[0].resident[0][0])
    largest = bytes_per_device(max(jax.tree.leaves(taken), key=lambda leaf: leaf.size))
    received, copies = 0, 0
    for number, program in enumerate(layout):
        compiled = program.function.lower(*program.arguments).compile()
        assert compiled.memory_analysis().temp_size_in_bytes < largest
        text = Text(compiled.as_text(), 8)
        received += sum(one.received_bytes for one in text.collectives((1,) * 100))
        # The trained parameters and their moments stay meanwhile, and a device's share of the copies at most twice.
        held = bytes_per_device((program.arguments, program.resident))
        assert number or held == pytest.approx(trained + moments, rel=0.01)
        copies = max(copies, held - trained - moments)
    total = bytes_per_device(taken)
    assert total / 2 < received < 1.1 * total and copies < 1.3 * total
    # So they do in rollouts.
    kept, _, own = programs.build("prefill")[0].resident
    assert bytes_per_device(own) == pytest.approx(trained, rel=0.01) and bytes_per_device(kept) == moments


def test_a_cache_that_the_kernel_cannot_read_is_refused(small, libtpu):
    """In int8, with one head of keys on each device; nothing has been compiled."""
    config = copy.deepcopy(small[0])
    config.rollout.cache_dtype = "int8"
    with pytest.raises(MeshError, match="rollout.cache_dtype 'int8' .* rollout.mesh.tensor could be 1, or"):
        Programs(config, small[1], topology("v5e:2x4").devices)
    config.rollout.mesh.tensor = 1
    assert Programs(config, small[1], topology("v5e:2x4").devices).tensor == 1


def test_int8_matrices_are_converted_where_they_are_multiplied(small, libtpu):
    """A decoding step reads a quarter of float32's bytes, and no float copy of the head or of a stack is in memory."""
    config, model = copy.deepcopy(small[0]), dataclasses.replace(small[1], vocab_size=2**14, intermediate_size=2**12)
    config.rollout.weights = "int8"
    programs = Programs(config, model, topology("v5e:2x4").devices)
    decode, _ = programs.build("decode")
    (read, _), _ = decode.read
    trained = [programs._params[part] for part in ("language", "head")]
    count = sum(leaf.size for leaf in jax.tree.leaves(trained))
    assert bytes_per_device(read) == pytest.approx(count / 2, rel=0.02)  # tensor is 2
    gates = LAYERS * model.hidden_size * model.intermediate_size / 2  # a stack in int8, by tensor
    assert temporaries(decode) < min(2**14 * model.hidden_size, gates) / 2


@pytest.mark.slow
@pytest.mark.parametrize("weights", [None, "int8"])
def test_no_call_copies_parameters_into_another_order(small, libtpu, weights):
    """Widths of 72B: a tensor axis of 4 leaves 7,392, no multiple of 128, which a TPU would have come earlier."""
    config, layers = copy.deepcopy(small[0]), 5
    preset = dataclasses.replace(Config.preset("72b"), num_hidden_layers=layers)
    model = dataclasses.replace(preset, vision=dataclasses.replace(small[1].vision, out_hidden_size=8192))
    config.mesh.tensor, config.rollout.weights = 4, weights
    programs = Programs(config, model, topology("v6e:2x4").devices)
    stack = layers * 8192 * 29568 / 4
    for phase in ("prefill", "decode"):
        assert temporaries(programs.build(phase)[0]) < stack / 4


def temporaries(program) -> int:
    """Bytes of a program's temporaries, as compiled."""
    compiled = program.function.lower(*program.arguments, **program.static).compile()
    return compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize(
    "name",
    ["extend", "fork", "save", "load", *(pytest.param(name, marks=pytest.mark.slow) for name in ("prefill", "decode"))],
)
@pytest.mark.parametrize(
    "tensor, int8", [(1, None), *(pytest.param(*one, marks=pytest.mark.slow) for one in ((2, None), (1, "int8")))]
)
def test_no_rollout_program_has_a_temporary_of_a_tenth_of_the_cache(small, libtpu, name, tensor, int8):
    """So none holds a copy of a layer of it."""
    config = copy.deepcopy(small[0])
    config.mesh.tensor, config.rollout.cache_tokens = tensor, 2**19  # of eight devices, or of four pairs
    config.rollout.weights = config.rollout.cache_dtype = int8
    programs = Programs(config, small[1], topology("v5e:2x4").devices)
    assert temporaries(cache_program(programs, name)) < programs.cache_bytes / 10


@pytest.mark.parametrize("name", ["prefill", "decode", "load"])
def test_rollouts_lower_for_gpu(small, monkeypatch, name):
    """With int8 weights and an int8 cache, on one GPU; nothing of the TPU's kernel is in them."""
    monkeypatch.setattr(cache, "platform_of", lambda mesh: "gpu")
    monkeypatch.setattr(attention, "platform_of", lambda mesh: "gpu")
    config = copy.deepcopy(small[0])
    config.rollout.weights = config.rollout.cache_dtype = "int8"
    config.mesh.tensor = 1
    program = cache_program(Programs(config, small[1], topology("cpu:1").devices), name)
    lowered = program.function.trace(*program.arguments, **program.static).lower(lowering_platforms=("cuda",))
    text = lowered.as_text()
    assert "tpu_custom_call" not in text and "xi8>" in text


def cache_program(programs: Programs, name: str) -> Program:
    """A program that reads or writes the cache."""
    slots = programs._slots
    numbers = programs._of_all_parts(np.zeros(SAVED_PAGES, np.int32), programs.rollout_mesh)
    if name == "save":
        return Program(programs._engine.save, (slots, numbers))
    if name == "load":
        return Program(programs._engine.load, (slots, numbers, _output_of(programs._engine.save, slots, numbers)))
    return programs.build("decode")[1] if name == "fork" else programs.build(name)[0]


def test_every_chip_does_its_share_of_the_update_alone(update):
    text, accumulate = update
    flops = count(accumulate)
    assert text.products() == pytest.approx(flops.products / 8, rel=0.1)


@pytest.mark.parametrize("chips", ["cpu:1", "v5p:2x2x1"])
def test_real_sizes_spend_their_operations_in_products(chips, request):
    """With dense attention, and with the TPU's kernels."""
    if chips != "cpu:1":
        request.getfixturevalue("libtpu")
    config = load_config("rl_qwen2_5_vl_7b")
    preset = Config.preset("3b")
    model = dataclasses.replace(
        preset, num_hidden_layers=2, vision=dataclasses.replace(preset.vision, depth=8, fullatt_block_indexes=(7,))
    )
    programs = Programs(config, model, topology(chips).devices)
    for phase in ("sft_update", "grpo_update"):
        flops = count(programs.build(phase)[0])
        assert flops.share >= 0.9, (phase, flops)


def test_memory_is_that_of_the_arrays_where_nothing_is_computed(small):
    config, model = copy.deepcopy(small[0]), small[1]
    config.mesh.tensor = 1
    programs = Programs(config, model, jax.devices()[:1])
    program, _ = programs.build("decode")
    params, slots, *_ = program.arguments
    cache = LAYERS * (8 * 512 + 64) * model.num_key_value_heads * 128 * 2  # bfloat16; a page beside the slots'
    assert bytes_per_device(slots.cache.stored) == 2 * cache
    optimizer, _, trained = program.resident[1]
    trained = bytes_per_device(trained)
    assert bytes_per_device(optimizer) == pytest.approx(2 * trained, rel=1e-3)  # AdamW's moments, norms' too
    assert bytes_per_device(params) == pytest.approx(trained / 2, rel=1e-3)  # bfloat16 for float32


def test_tpu_memory_is_a_chips_share(small, libtpu):
    chips = topology("v5p:2x2x2")
    programs = Programs(*small, chips.devices)
    phase = measure(programs, "decode", chips)
    assert phase.fits and phase.bytes_available == chips.chip.memory
    program, _ = programs.build("decode")
    arrays = bytes_per_device((program.arguments, program.resident))
    assert arrays < phase.bytes_per_chip < 3 * arrays


def test_what_is_too_large_does_not_fit_and_says_so(small, libtpu):
    config, model = copy.deepcopy(small[0]), small[1]
    config.rollout.update(dict(slots=65_536, max_length=16_384))
    config.train.row_length = 16_384
    chips = topology("v5e:2x4")
    phase = measure(Programs(config, model, chips.devices), "decode", chips)
    assert not phase.fits and phase.reason.startswith("Ran out of memory")


def test_an_experiment_of_phase_one_has_one_phase():
    config = load_config("sft_qwen2_5_vl_7b")
    assert Programs(config, Config.preset("tiny"), jax.devices()[:1]).phases == ("sft_update",)


@pytest.mark.parametrize(
    "mesh, says",
    [
        (dict(data=1, fsdp=3, tensor=1), "fsdp could be 16"),
        # The hosts have four chips each, which they feed alone.
        (dict(data=1, fsdp=-1, tensor=8), "tensor=8 spans several processes.* must be a divisor of 4"),
    ],
)
def test_an_impossible_mesh_says_what_would_fit(small, libtpu, mesh, says):
    config = copy.deepcopy(small[0])
    config.mesh.update(mesh)
    with pytest.raises(MeshError, match=says):
        Programs(config, small[1], topology("v5e:4x4").devices)


def trained(small, settings) -> tuple[float, float, float]:
    """Bytes of all parameters, of the optimizer's state, and of the gradients, each by the number of parameters."""
    config, model = copy.deepcopy(small[0]), small[1]
    config.mesh.tensor = 1
    config.update_from_flattened_dict(settings)
    programs = Programs(config, model, jax.devices()[:1])
    accumulate, apply = programs.build("sft_update")
    trainable, frozen, gradients, *_ = accumulate.arguments
    count = sum(leaf.size for leaf in jax.tree.leaves((trainable, frozen)))
    params, optimizer = bytes_per_device((trainable, frozen)), bytes_per_device(accumulate.resident)
    assert apply.arguments[0].frozen == frozen
    prefill = programs.build("prefill")[0]
    taken, in_rollouts = bytes_per_device(prefill.arguments[0]), bytes_per_device(prefill.resident)
    # It stays during rollouts, and so do parameters of which these have copies.
    assert in_rollouts - optimizer == pytest.approx(params if params > taken else 0, rel=1e-3)
    assert taken == pytest.approx(2 * count, rel=1e-3)
    return params / count, optimizer / count, bytes_per_device(gradients) / count


def test_what_is_trained_is_what_takes_memory(small):
    assert trained(small, {}) == pytest.approx((4, 8, 4), rel=1e-6)
    rounded = {"model.param_dtype": "bfloat16"}
    assert trained(small, rounded) == pytest.approx((2, 8, 4), rel=1e-6)
    assert trained(small, rounded | {"optimizer.master_weights": True}) == pytest.approx((2, 12, 4), rel=1e-6)
    _, optimizer, gradients = trained(small, {"train.freeze_vision": True})
    assert 0.5 < gradients / 4 < 0.999 and optimizer == pytest.approx(2 * gradients, rel=1e-6)


def test_adapters_alone_are_trained(small):
    rank, layers = 8, LAYERS
    model = small[1]
    width, inner, keys = model.hidden_size, model.intermediate_size, model.num_key_value_heads * model.head_dim
    projections = [(width, width), (width, keys), (width, keys), (width, width), *[(width, inner)] * 2, (inner, width)]
    adapters = 4 * layers * rank * sum(inputs + outputs for inputs, outputs in projections)
    config = copy.deepcopy(small[0])
    config.mesh.tensor = 1
    whole = Programs(config, model, jax.devices()[:1]).build("grpo_update")[0]
    plain = whole.arguments
    config.lora.rank = rank
    programs = Programs(config, model, jax.devices()[:1])
    accumulate, _ = programs.build("grpo_update")
    trainable, frozen, gradients, *_ = accumulate.arguments
    assert bytes_per_device(trainable) == bytes_per_device(gradients) == adapters
    assert bytes_per_device(frozen) == bytes_per_device(plain[:2])
    # Forwards, and backwards to the values alone: of what a weight costs, the product for its gradient is left out.
    assert 0.6 < count(accumulate).products / count(whole).products < 0.8
    params, *_ = programs.build("prefill")[0].arguments
    assert 2 * bytes_per_device(params) == pytest.approx(adapters + bytes_per_device(frozen), rel=1e-3)  # bfloat16


def test_what_a_loss_needs_besides_is_planned(small):
    """The scores of its tokens, and a reference: a second tree of parameters, where there are no adapters."""
    config, model = copy.deepcopy(small[0]), small[1]
    config.mesh.update(dict(data=1, fsdp=1, tensor=1))

    def planned(**settings):
        changed = copy.deepcopy(config)
        changed.update_from_flattened_dict({key.replace("__", "."): value for key, value in settings.items()})
        programs = Programs(changed, model, jax.devices()[:1])
        return programs, programs.build("grpo_update")

    programs, plain = planned()
    parameters = bytes_per_device(programs._params)
    assert len(plain) == 2
    (_, (_, _, score)), (_, with_reference) = planned(grpo__correction="tis"), planned(auxiliary__kl=0.1)
    assert jax.eval_shape(score.function, *score.arguments)["logprobs"].shape == score.arguments[1]["targets"].shape
    for before, after in zip(plain, with_reference, strict=False):
        assert bytes_per_device(after.resident) - bytes_per_device(before.resident) == parameters
    details = with_reference[0].arguments[3]
    assert details["reference"].shape == details["targets"].shape and "reference" not in plain[0].arguments[3]
    _, with_adapters = planned(auxiliary__kl=0.1, lora__rank=2)
    assert bytes_per_device(with_adapters[1].resident) == bytes_per_device(plain[1].resident)
    assert len(with_adapters) == 3

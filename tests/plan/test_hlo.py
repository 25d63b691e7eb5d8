"""Compiled text whose collectives and products are known by hand, and from eight devices of the CPU."""

import json
import os
import re
import subprocess
import sys

import pytest

from pixel_reasoner_jax.plan.hlo import Program

TEXT = """\
HloModule jit_f, num_partitions=16

%cond (p: (s32[], bf16[64,32])) -> pred[] {
  %p = (s32[], bf16[64,32]{1,0}) parameter(0)
  %limit = s32[]{:T(128)} constant(12)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i, %limit), direction=LT, metadata={op_name="jit(f)/while/cond/lt"}
}

%inner_cond (p.9: (s32[], s32[])) -> pred[] {
  %p.9 = (s32[], s32[]) parameter(0)
  %j = s32[] get-tuple-element(%p.9), index=0
  %n = s32[] get-tuple-element(%p.9), index=1
  ROOT %lt.1 = pred[] compare(%j, %n), direction=LT
}

%inner (p.1: (s32[], s32[])) -> (s32[], s32[]) {
  %p.1 = (s32[], s32[]) parameter(0)
  %permuted = f32[8,128]{1,0:T(8,128)} collective-permute(%p.1), channel_id=4, source_target_pairs={{0,1},{1,0}}
  ROOT %t = (s32[], s32[]) tuple(%p.1, %p.1)
}

%fused (a: bf16[64,32], b: bf16[32,128]) -> bf16[64,128] {
  %a = bf16[64,32]{1,0} parameter(0)
  %b = bf16[32,128]{1,0} parameter(1)
  ROOT %convolution = bf16[64,128]{1,0:T(8,128)(2,1)} convolution(%a, %b), dim_labels=bf_io->bf
}

%body (p.2: (s32[], bf16[64,32])) -> (s32[], bf16[64,32]) {
  %p.2 = (s32[], bf16[64,32]{1,0}) parameter(0)
  %ag = bf16[1,32,128]{2,1,0:T(8,128)(2,1)S(1)} all-gather(%p.2), replica_groups=mesh['a'=4,'b'=4] {'a'}, dimensions={1}
  %out = bf16[64,128]{1,0} fusion(%p.2, %ag), kind=kOutput, calls=%fused, metadata={op_name="jit(f)/while/body/dot"}
  %loop = (s32[], s32[]) while(%p.2), condition=%inner_cond, body=%inner
  ROOT %t.1 = (s32[], bf16[64,32]{1,0}) tuple(%p.2, %p.2)
}

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %sum = f32[] add(%x, %y)
}

ENTRY %main (arg: bf16[64,32]) -> f32[1024] {
  %arg = bf16[64,32]{1,0} parameter(0)
  %w = (s32[], bf16[64,32]{1,0}) while(%arg), condition=%cond, body=%body
  %start = (f32[64]{0}, f32[1024]{0}) all-gather-start(%arg), replica_groups=[1,16]<=[16], dimensions={0}
  %done = f32[1024]{0} all-gather-done(%start)
  %scattered = f32[100]{0} reduce-scatter(%done), replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%add
  %batched = f32[4,64,16]{2,1,0} dot(%arg, %arg), lhs_batch_dims={0}, lhs_contracting_dims={1}, rhs_contracting_dims={0}
  ROOT %reduced = f32[1024]{0} all-reduce(%done), replica_groups=[2,8]<=[16], to_apply=%add
}
"""


def test_collectives_with_their_loops_and_groups():
    found = {one.operation + str(one.times): one for one in Program(TEXT, 16).collectives(loops=(5,))}
    received = {name: one.received_bytes for name, one in found.items()}
    assert received == {
        "all-gather12.0": 12 * 32 * 128 * 2 * 3 / 4,
        "collective-permute60.0": 60 * 8 * 128 * 4,
        "all-gather1.0": 1024 * 4 * 15 / 16,
        "reduce-scatter1.0": 100 * 4 * 3,
        "all-reduce1.0": 2 * 1024 * 4 * 7 / 8,
    }
    assert found["all-gather12.0"].shapes == (("bf16", (1, 32, 128)),)


def test_products_in_fusions_and_loops():
    assert Program(TEXT, 16).products() == 12 * 2 * 64 * 32 * 128 + 2 * 4 * 64 * 16 * 32


def test_an_unrolled_loop_counts_by_its_step():
    unrolled = """\
%cond (p: (f32[8], u32[])) -> pred[] {
  %bound = u32[]{:T(128)} constant(8), metadata={op_name="jit(f)/dot_general"}
  %p = (f32[8]{0}, u32[]{:T(128)}) parameter(0)
  %i = u32[]{:T(128)} get-tuple-element(%p), index=1
  ROOT %less = pred[]{:T(512)} compare(%i, %bound), direction=LT
}

%body (p.1: (f32[8], u32[])) -> (f32[8], u32[]) {
  %two = u32[]{:T(128)} constant(2)
  %p.1 = (f32[8]{0}, u32[]{:T(128)}) parameter(0)
  %x = f32[8]{0} get-tuple-element(%p.1), index=0
  %i.1 = u32[]{:T(128)} get-tuple-element(%p.1), index=1
  %moved = f32[8]{0} collective-permute(%x), source_target_pairs={{0,1}}
  %moved.1 = f32[8]{0} collective-permute(%moved), source_target_pairs={{0,1}}
  %next = u32[]{:T(128)} add(%i.1, %two)
  ROOT %t = (f32[8]{0}, u32[]{:T(128)}) tuple(%moved.1, %next)
}

ENTRY %main (arg: (f32[8], u32[])) -> (f32[8], u32[]) {
  %arg = (f32[8]{0}, u32[]{:T(128)}) parameter(0)
  ROOT %w = (f32[8]{0}, u32[]{:T(128)}) while(%arg), condition=%cond, body=%body
}
"""
    assert [one.times for one in Program(unrolled, 2).collectives()] == [4, 4]


def test_a_part_of_a_sum_is_a_reduce_scatter():
    text = """\
%all-reduce-scatter (input: f32[4096,64]) -> f32[512,64] {
  %input = f32[4096,64]{1,0} parameter(0)
  %all-reduce.1 = f32[4096,64]{1,0} all-reduce(%input), replica_groups={{0,1,2,3,4,5,6,7}}, to_apply=%add
  %table = u32[8]{0} constant({0, 1, 2, 3, 4, 5, 6, 7})
  %number = u32[] partition-id()
  %zero = u32[] constant(0)
  ROOT %part = f32[512,64]{1,0} dynamic-slice(%all-reduce.1, %number, %zero), dynamic_slice_sizes={512,64}
}

ENTRY %main (a: f32[4096,64]) -> f32[512,64] {
  %a = f32[4096,64]{1,0} parameter(0)
  ROOT %fusion = f32[512,64]{1,0} fusion(%a), kind=kCustom, calls=%all-reduce-scatter
}
"""
    (one,) = Program(text, 8).collectives()
    assert one.operation == "reduce-scatter" and one.received_bytes == 7 * 512 * 64 * 4


def test_a_collective_that_is_split_up_counts_once():
    text = """\
%begin (part: bf16[8,64]) -> (bf16[8,64], bf16[32,64]) {
  %part = bf16[8,64]{1,0} parameter(0)
  %all = bf16[32,64]{1,0} all-gather(%part), channel_id=7, replica_groups={{0,1,2,3}}, dimensions={0}
  ROOT %started = (bf16[8,64]{1,0}, bf16[32,64]{1,0}) custom-call(%all), custom_call_target="AsyncCollectiveStart"
}

%advance (p: (bf16[8,64], bf16[32,64])) -> (bf16[8,64], bf16[32,64]) {
  %p = (bf16[8,64]{1,0}, bf16[32,64]{1,0}) parameter(0)
  %part.1 = bf16[8,64]{1,0} get-tuple-element(%p), index=0
  %all.1 = bf16[32,64]{1,0} all-gather(%part.1), channel_id=7, replica_groups={{0,1,2,3}}, dimensions={0}
  ROOT %t = (bf16[8,64]{1,0}, bf16[32,64]{1,0}) tuple(%part.1, %all.1)
}

%body (p.1: (bf16[8,64], bf16[32,64])) -> (bf16[8,64], bf16[32,64]) {
  %p.1 = (bf16[8,64]{1,0}, bf16[32,64]{1,0}) parameter(0)
  ROOT %step = (bf16[8,64]{1,0}, bf16[32,64]{1,0}) fusion(%p.1), kind=kCustom, calls=%advance
}

%cond (p.2: (bf16[8,64], bf16[32,64])) -> pred[] {
  %p.2 = (bf16[8,64]{1,0}, bf16[32,64]{1,0}) parameter(0)
  ROOT %always = pred[] constant(true)
}

%end (p.3: (bf16[8,64], bf16[32,64])) -> bf16[32,64] {
  %p.3 = (bf16[8,64]{1,0}, bf16[32,64]{1,0}) parameter(0)
  %part.3 = bf16[8,64]{1,0} get-tuple-element(%p.3), index=0
  %all.3 = bf16[32,64]{1,0} all-gather(%part.3), channel_id=7, replica_groups={{0,1,2,3}}, dimensions={0}
  ROOT %ended = bf16[32,64]{1,0} custom-call(%part.3, %all.3), custom_call_target="AsyncCollectiveDone"
}

ENTRY %main (a: bf16[8,64]) -> bf16[32,64] {
  %a = bf16[8,64]{1,0} parameter(0)
  %x = (bf16[8,64]{1,0}, bf16[32,64]{1,0}) fusion(%a), kind=kCustom, calls=%begin
  %w = (bf16[8,64]{1,0}, bf16[32,64]{1,0}) while(%x), condition=%cond, body=%body, known_trip_count={"n":"128"}
  %y = bf16[32,64]{1,0} fusion(%w), kind=kCustom, calls=%end
  %others = bf16[32,64]{1,0} all-gather(%a), channel_id=8, replica_groups={{0,1,2,3}}, dimensions={0}
  ROOT %z = bf16[32,64]{1,0} add(%y, %others)
}
"""
    found = Program(text, 4).collectives()
    assert [(one.times, one.result_bytes) for one in found] == [(1, 32 * 64 * 2)] * 2
    without_channels = Program(re.sub(r"channel_id=\d+, ", "", text), 4).collectives()
    assert len(without_channels) == 4  # nothing says which of them belong together


def test_kernels_count_what_they_say():
    text = """\
ENTRY %main (a: f32[8,128]) -> f32[8,128] {
  %a = f32[8,128]{1,0} parameter(0)
  %buffer = f32[8,128]{1,0} custom-call(), custom_call_target="AllocateBuffer"
  %mha_fwd.1 = f32[8,128]{1,0} custom-call(%a), frontend_attributes={flops_of_mha_fwd="2",kernel_metadata={
}}
  ROOT %mha_dq.2 = f32[8,128]{1,0} custom-call(%a), frontend_attributes={flops_of_mha_dkv="7",flops_of_mha_dq="3"}
}
"""
    assert Program(text, 1).products() == 5


def test_batched_products_written_as_convolutions():
    """As the TPU's compiler writes einsum("bij,bjk->bik"): the batch is a window over its own padding."""
    text = """\
ENTRY %main (a: f32[8,16,32], b: f32[8,32,64]) -> f32[8,16,64] {
  %a = f32[8,16,32]{2,1,0} parameter(0)
  %b = f32[8,32,64]{2,1,0} parameter(1)
  ROOT %c = f32[8,16,64] convolution(%a, %b), window={size=8 stride=7 pad=0_0 lhs_dilate=8}, dim_labels=0bf_0io->0bf
}
"""
    assert Program(text, 1).products() == 2 * 8 * 16 * 32 * 64


SCRIPT = """
import json
import jax, jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from pixel_reasoner_jax.plan.flops import count_flops
from pixel_reasoner_jax.plan.hlo import Program

mesh = jax.make_mesh((8,), ("fsdp",), axis_types=(AxisType.Auto,))

def forward(weights, x):
    return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, weights)[0]

def placed(*shape, spec):
    return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, spec))

arguments = placed(5, 64, 64, spec=P(None, "fsdp")), placed(16, 64, spec=P("fsdp"))
traced = jax.jit(forward, out_shardings=NamedSharding(mesh, P("fsdp"))).trace(*arguments)
program = Program(traced.lower().compile().as_text(), 8)
print(json.dumps({
    "received": sum(one.received_bytes for one in program.collectives()),
    "products": program.products(),
    "flops": count_flops(traced.jaxpr).products,
}))
"""


def test_eight_devices_gather_each_layer_and_share_the_work():
    environment = os.environ | {
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8",
        "JAX_PLATFORMS": "cpu",
        "JAX_ENABLE_COMPILATION_CACHE": "false",
    }
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr[-2000:]
    figures = json.loads(result.stdout.splitlines()[-1])
    assert figures["flops"] == 5 * 2 * 16 * 64 * 64
    assert figures["products"] == figures["flops"] / 8
    assert figures["received"] == pytest.approx(5 * 64 * 64 * 4 * 7 / 8)

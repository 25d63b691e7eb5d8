"""What the calls of a rollout cost a chip at least: the compiled programs' work, and that of the cache's pages.

A compiled program does not tell what a step of decoding reads: that follows from the table of pages. So the decoding
step is compiled with slots of a single page. Of its work, attention's products are taken off: those that a kernel says
it has, which are known from the sizes, and otherwise the loops over pages. Bytes of the cache are not counted to begin
with. What is left depends on the number of slots alone. What the pages cost is added (`page_reads`).

The parameters are laid out for rollouts once an episode, by programs of their own (`layout_work`).
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping

import jax
from ml_collections import ConfigDict

from pixel_reasoner_jax.models import Config
from pixel_reasoner_jax.models.attention import platform_of
from pixel_reasoner_jax.models.cache import KERNEL_HEAD, KERNEL_PAGES, KERNEL_ROWS, KernelCache
from pixel_reasoner_jax.plan.chips import HOST_RATE, Chip, Topology
from pixel_reasoner_jax.plan.measure import Phase, compile_program, out_of_memory, work_of
from pixel_reasoner_jax.plan.page_reads import KernelReads, ListedReads, Reads
from pixel_reasoner_jax.plan.programs import Programs, bytes_per_device
from pixel_reasoner_jax.plan.work import Work
from pixel_reasoner_jax.rollout.capacity import PAGE, page_bytes
from pixel_reasoner_jax.rollout.policy import DECODE_STEPS
from pixel_reasoner_jax.rollout.shapes import Shapes

ENCODES = 2  # programs of the phase that encodes images, before those that lay out the parameters

Bounded = tuple[str, float]
"""The rate that bounds a call, and the call's least seconds."""


@dataclasses.dataclass(frozen=True)
class RolloutCosts:
    """The work of a chip in the calls of a rollout.

    Attributes:
      chip: its rates.
      step: a decoding step of all slots, which reads the parameters once, without what it reads of the cache.
      page: one token's attention to one page, which it reads.
      reads: which pages are read.
      extend: a call that appends `extend_tokens` tokens in a part of the mesh, to empty slots.
      encode: a call that encodes `encode_patches` patches in a part of the mesh.
    """

    chip: Chip
    step: Work
    page: Work
    reads: Reads
    extend: Work
    extend_tokens: int
    encode: Work
    encode_patches: int

    def decode_call(self, steps: int, pages: float) -> Bounded:
        """Steps that read `pages` pages in all."""
        page = self.page._replace(flops=self.page.flops * self.reads.queries)
        return Work().plus(self.step, steps).plus(page, pages).least(self.chip)

    def extend_call(self, tokens: int, pages: float, products: float) -> Bounded:
        """Appends tokens.

        Args:
          tokens: in all rows, padding included.
          pages: that are read.
          products: the pairs of an added token and a page that its slot holds already, over all rows.
        """
        flops = self.extend.flops * tokens / self.extend_tokens + self.page.flops * products
        memory = self.extend.memory + self.page.memory * pages
        return Work(flops, memory, self.extend.received).least(self.chip)

    def encode_call(self, patches: int) -> Bounded:
        """Encodes images; `patches` are those of all rows, padding included."""
        return self.encode._replace(flops=self.encode.flops * patches / self.encode_patches).least(self.chip)

    def swap(self, pages: int) -> Bounded:
        """Moves pages to the host's memory, or back."""
        return "host", pages * self.page.memory / HOST_RATE


@dataclasses.dataclass(frozen=True)
class DecodingStep:
    """The decoding program, its cache left out.

    Attributes:
      step: the work of a step.
      bytes: peak memory, with all else that is resident; None if the compiler does not tell.
      reason: why it could not be compiled; "" if it could.
    """

    step: Work
    bytes: int | None
    reason: str


def measure_step(config: ConfigDict, model: Config, topology: Topology, slots: int) -> DecodingStep:
    """Compiles decoding for `slots` slots in each part of the mesh, and takes its cache off; see above.

    Args:
      config, model: of the experiment.
      topology: to compile for.
    """
    config, count = copy.deepcopy(config), len(topology.devices)
    parts = Programs(config, model, topology.devices).parts
    config.rollout.update(dict(slots=slots * parts, max_length=min(PAGE, config.rollout.max_length), cache_tokens=0))
    programs = Programs(config, model, topology.devices)
    try:
        program, _ = programs.build("decode")
    except jax.errors.JaxRuntimeError as error:
        return DecodingStep(Work(), *out_of_memory(error))
    compiled = compile_program(program, count)
    # The loops over pages left out, and that over steps, too.
    once, call = (work_of(program, compiled, (steps, 0, 0), count) for steps in (0, DECODE_STEPS))
    _, slots_of_all, *_ = program.arguments
    cache, said = bytes_per_device(slots_of_all.cache), 0.0
    if isinstance(slots_of_all.cache, KernelCache):
        said = attention_flops(model, programs.tensor) * programs.shapes.length * programs.shapes.slots
    (read, _), *_ = program.read
    step = Work(
        max((call.flops - once.flops) / DECODE_STEPS - said, 0.0),
        bytes_per_device(read),
        (call.received - once.received) / DECODE_STEPS,
    )
    needed = None if compiled.bytes is None else compiled.bytes - cache
    return DecodingStep(step, needed, compiled.reason)


def layout_work(phase: Phase) -> Work:
    """What a chip does to lay out the parameters for a rollout.

    Args:
      phase: "vision_encode", with which that is compiled (`Programs.layout`).
    """
    work = Work()
    for one in phase.works[ENCODES:]:
        work = work.plus(one)
    return work


def attention_flops(model: Config, tensor: int) -> float:
    """Operations of attention for one token and one token of its context, on each device of a tensor axis."""
    return 4.0 * model.num_hidden_layers * model.num_attention_heads * model.head_dim / tensor


def rollout_costs(
    programs: Programs, phases: Mapping[str, Phase], step: Work, slots: int, topology: Topology, model: Config
) -> RolloutCosts:
    """The costs of a rollout.

    Args:
      programs: of the experiment.
      phases: those of a rollout, as measured.
      step: see `RolloutCosts`.
      slots: of a part of the mesh, which it was compiled for.
      topology: that they were compiled for.
      model: the model's sizes.
    """
    shapes: Shapes = programs.shapes
    reads: Reads = ListedReads()
    if platform_of(programs.rollout_mesh) == "tpu" and model.head_dim % KERNEL_HEAD == 0:
        reads = KernelReads(min(KERNEL_PAGES, shapes.slot_pages + 1), min(KERNEL_ROWS, slots))
    width, patches = shapes.widths[-1], programs.row_patches
    page = Work(
        attention_flops(model, programs.tensor) * PAGE, page_bytes(model, programs.cache_dtype, programs.tensor)
    )
    return RolloutCosts(
        topology.chip,
        step,
        page,
        reads,
        phases["prefill"].works[0],
        shapes.rows(width) * width,
        phases["vision_encode"].works[0],
        shapes.images(patches) * patches,
    )

"""The compiled functions of a configured run, with abstract arguments: shapes, types and shardings without values.

These are the functions that runs call, `rollout.engine.Engine`'s and `training.state.Trainer`'s, with the largest of
their declared shapes. Each `Program` also names the arrays that are resident while it runs. The optimizer's state and
the trained parameters stay in memory during a rollout; the rollout's slots, its embeddings of images and its copies of
parameters are released before an update.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from ml_collections import ConfigDict

from pixel_reasoner_jax.models import Config, Qwen2_5_VL
from pixel_reasoner_jax.models.cache import DEFAULT_READ, SHARING, Reads
from pixel_reasoner_jax.models.lora import add_adapters
from pixel_reasoner_jax.parallel import make_mesh, param_shardings, parts, sharding
from pixel_reasoner_jax.parallel.sharding import GATHERED, batch_axis
from pixel_reasoner_jax.processing import Budgets, Geometry
from pixel_reasoner_jax.processing.layout import vision_forms
from pixel_reasoner_jax.rollout.engine import Engine
from pixel_reasoner_jax.rollout.engine_arrays import ExtendBatch, ForkBatch
from pixel_reasoner_jax.rollout.layout import Layout, check_cache
from pixel_reasoner_jax.rollout.policy import DECODE_STEPS
from pixel_reasoner_jax.rollout.sampling import SamplingSettings, SlotSampling
from pixel_reasoner_jax.rollout.shapes import Shapes, platform_units, row_patches
from pixel_reasoner_jax.training import rl, sft
from pixel_reasoner_jax.training.packing import largest_batch
from pixel_reasoner_jax.training.policy_update import has_second_tree, score_passes
from pixel_reasoner_jax.training.rl_settings import check_lengths
from pixel_reasoner_jax.training.state import DETAILS, INPUTS, Trainer, TrainState
from pixel_reasoner_jax.training.virtual_shards import VirtualShards

PyTree = Any

ROLLOUT = ("vision_encode", "prefill", "extend", "decode")
UPDATES = ("sft_update", "grpo_update")
SCALE_TOKENS = 256  # about as many as `rollout.scale_text` has


@dataclasses.dataclass(frozen=True)
class Program:
    """A function and the arguments that it is compiled for.

    Attributes:
      function: what `jax.jit` returned.
      arguments: positional arguments: `jax.ShapeDtypeStruct` with a sharding, or small numpy arrays.
      static: static arguments, by name.
      tokens: tokens that a call processes or samples.
      loops: how often each loop whose length is not in the program runs at most; see `flops.count_flops`.
      resident: pytree of further arrays that are on the devices during the call.
      read: pytrees of arguments, each with how often a call reads it from memory at least.
    """

    function: Any
    arguments: tuple
    tokens: int = 0
    static: dict[str, Any] = dataclasses.field(default_factory=dict)
    loops: tuple[int, ...] = ()
    resident: PyTree = ()
    read: tuple[tuple[PyTree, int], ...] = ()


class Programs:
    """All programs of a run on given devices.

    Args:
      config: an experiment of `pixel-reasoner rl`, or of `sft`.
      model: sizes of the model.
      devices: devices to compile for; they need not exist.

    Attributes:
      phases: names of the run's phases; `build` makes the programs of each.
      mesh: the mesh of the devices; `rollout_mesh`: that of rollouts, None where there are none.
      parts: of the rollouts' mesh, each with slots of its own.

    Raises:
      MeshError: a mesh that these devices cannot form, one of whose parts spans several hosts, or on which the
        rollouts' cache cannot be read.
      ConfigError: a number of shards that does not fit the mesh or the batch size (see `VirtualShards`), or responses
        that may be longer than packed rows.
    """

    def __init__(self, config: ConfigDict, model: Config, devices: list[jax.Device]):
        self._config = config
        # Unlike in a run, a single device has a mesh too: it tells the model which platform it is compiled for.
        self.mesh = make_mesh(config.mesh, devices)
        # A run's checks; but bfloat16 is allowed on a CPU, which stands in for other chips.
        VirtualShards(config, self.mesh)
        if "rollout" in config:
            check_lengths(config)
        self._geometry = Geometry.from_config(model.to_hf())
        self._budgets = Budgets().replaced(config.processor)
        self._model = _abstract_model(config, model, self.mesh)
        graph, params = nnx.split(self._model)
        self._params = self._with_shardings(params)
        self.phases, self.rollout_mesh = UPDATES[:1], None
        if "rollout" in config:
            self.phases = (*ROLLOUT, *UPDATES)
            self._layout = Layout(graph, params, config.rollout.mesh, config.rollout.weights)
            self.rollout_mesh = self._layout.mesh
            check_cache(model, self.cache_dtype, self.rollout_mesh)
            stops = [model.vocab_size - 1]  # any token may be the stop token
            self._engine = Engine(self._layout.graphdef, stops, self.rollout_mesh)
        self.parts = parts(self.rollout_mesh)

    def build(self, phase: str) -> list[Program]:
        """The programs of one of `phases`: first the main one, which takes most of the time, then others that must fit.

        Raises:
          jax.errors.JaxRuntimeError: RESOURCE_EXHAUSTED, if not even the empty slots fit.
        """
        return getattr(self, f"_{phase}")()

    @functools.cached_property
    def shapes(self) -> Shapes:
        """The declared shapes of the rollouts, in a part of their mesh."""
        rollout = self._config.rollout
        slots = -(-rollout.slots // self.parts)
        tokens, units = -(-rollout.cache_tokens // self.parts) or None, platform_units(self.rollout_mesh)
        return Shapes.holding(slots, rollout.max_length, self._geometry, self._budgets, cache_tokens=tokens, **units)

    @property
    def tensor(self) -> int:
        """Devices of a part in rollouts, which share the heads of its layers."""
        return self.rollout_mesh.shape["tensor"]

    @property
    def cache_dtype(self) -> str:
        """Type of the KV cache."""
        return self._config.rollout.cache_dtype or self._config.model.dtype

    @property
    def hosts(self) -> list[int]:
        """The host that feeds each part in rollouts."""
        return [device.process_index for device in self.rollout_mesh.devices.reshape(self.parts, -1)[:, 0]]

    @property
    def state_bytes(self) -> int:
        """Bytes of the training state on each device, which a checkpoint holds."""
        return bytes_per_device(self._state(sft.make_trainer(self._config, self._model)))

    @property
    def cache_bytes(self) -> int:
        """Bytes of the cache's pages on each device."""
        return bytes_per_device(self._slots.cache)

    @property
    def rows(self) -> int:
        """Packed rows of a micro-batch on all devices."""
        return self._config.train.micro_batch_rows * parts(self.mesh)

    @property
    def row_patches(self) -> int:
        """Patches in a row of the vision tower's input: as many as the largest square image, or video, needs."""

        def needed(kind: str, frames: int = 1) -> int:
            side = math.isqrt(self._budgets.of(kind)[1]) * self._geometry.merge_size
            return row_patches((frames, side, side), self._geometry)

        pairs = -(-self._budgets.video_frames // self._geometry.temporal_patch_size)
        return max(needed("video", pairs), *map(needed, ("image", "crop", "frame")))

    def _vision_encode(self) -> list[Program]:
        """Encodes the largest square image, and the longest declared row, which only a very long image needs.

        And lays out the parameters, which comes first in a rollout.
        """
        return [self._encode(self.row_patches), self._encode(self.shapes.patches[-1]), *self.layout()]

    def layout(self) -> list[Program]:
        """The programs that lay out the parameters for a rollout, in their order; none if there is nothing to do."""
        kept, params = self._beside_rollouts(copies=False), dict(nnx.to_flat_state(self._params))
        programs, copies = [], {}
        for step in (*self._layout.prepare, *self._layout.gather):
            trained = [leaf for path, leaf in params.items() if path in copies or path not in step.variables]
            others = [leaf for path, leaf in copies.items() if path not in step.variables]
            read = ((step.variables, 1), (step.results, 1))  # and written
            programs.append(Program(step.function, (step.variables,), resident=(kept, trained, others), read=read))
            copies |= step.results
        return programs

    def _encode(self, patches: int) -> Program:
        rows = self.shapes.images(patches)
        geometry, tokens = self._geometry, rows * patches // self._geometry.merge_size**2
        forms = vision_forms(rows, patches, geometry)
        vision = {name: jax.ShapeDtypeStruct(*form) for name, form in forms.items()}
        table_rows = jax.ShapeDtypeStruct((tokens,), np.int32)
        return Program(
            self._engine.encode,
            (self._taken, self._table, *self._of_all_parts((vision, table_rows), self.rollout_mesh)),
            tokens * self.parts,
            resident=(self._slots, self._kept),
            read=((_gathered(self._taken["vision"], self.rollout_mesh), 1),),
        )

    def _prefill(self) -> list[Program]:
        """Appends the widest chunk of a prompt to an empty slot."""
        return [self._extend_by(self.shapes.widths[-1], filled=0)]

    def _extend(self) -> list[Program]:
        """Appends short observations, in as many rows as there can be, to slots that are full with them."""
        return [self._extend_by(self.shapes.widths[0], filled=self.shapes.length)]

    def _extend_by(self, width: int, filled: int) -> Program:
        rows, tokens = self.shapes.rows(width), max(filled, width)
        # A kernel is said to read all that the table could name.
        slot_pages = -(-tokens // self.shapes.page)
        batch = ExtendBatch.blank(rows, width, self.shapes.slots, slot_pages)
        return Program(
            self._engine.extend,
            (self._taken, self._slots, self._table, self._of_all_parts(batch, self.rollout_mesh)),
            rows * width * self.parts,
            loops=(-(-tokens // DEFAULT_READ),),
            resident=self._kept,
            read=((_gathered(self._taken["language"], self.rollout_mesh), 1),),
        )

    def _decode(self) -> list[Program]:
        """Samples the most tokens of a call, for slots that are full; and forks prompts to all slots."""
        shapes, slots = self.shapes, self.shapes.slots
        sampling = self._of_all_parts(SlotSampling.of([SamplingSettings()] * slots, [0] * slots), self.rollout_mesh)
        forbidden = jax.ShapeDtypeStruct((self._model.config.vocab_size,), bool)
        decoder = [self._taken[part] for part in self._taken if part != "vision"]
        table = self._of_all_parts(np.zeros((slots, shapes.slot_pages), np.int32), self.rollout_mesh)
        decode = Program(
            self._engine.decode,
            (self._taken, self._slots, table, self._reads, sampling, forbidden, np.int32(0), np.int32(0)),
            slots * self.parts * DECODE_STEPS,
            static=dict(steps=DECODE_STEPS, filtered=False),
            loops=(DECODE_STEPS, -(-slots * shapes.slot_pages // shapes.chunk), 1),
            resident=(self._table, self._kept),
            read=((_gathered(decoder, self.rollout_mesh), DECODE_STEPS), (self._slots.cache.stored, DECODE_STEPS)),
        )
        forks = ForkBatch.blank(shapes.forks[-1], slots, shapes.pages, None)
        fork = Program(
            self._engine.fork,
            (self._slots, self._of_all_parts(forks, self.rollout_mesh)),
            resident=(self._taken, self._table, self._kept),
        )
        return [decode, fork]

    def _sft_update(self) -> list[Program]:
        return self._update(sft.make_trainer(self._config, self._model))

    def _grpo_update(self) -> list[Program]:
        forbidden = np.zeros(self._model.config.vocab_size, bool)
        trainer = rl.make_trainer(self._config, self._model, forbidden)
        programs = self._update(trainer, self._reference)
        if score_passes(self._config):
            programs.append(self._score(trainer, self._beside_rollouts(copies=False)))
        return programs

    def _score(self, trainer: Trainer, resident: PyTree) -> Program:
        """Scores the tokens of a micro-batch."""
        batch = self._batch(trainer)
        batch = {name: batch[name] for name in INPUTS}
        read = ((self._read(self._params), 1),)
        return Program(trainer.score_rows, (self._params, batch), self._batch_tokens, resident=resident, read=read)

    @property
    def _batch_tokens(self) -> int:
        return self.rows * self._config.train.row_length

    def _batch(self, trainer: Trainer) -> PyTree:
        """The largest batch of an update, on all devices."""
        rows, length = self._config.train.micro_batch_rows, self._config.train.row_length
        details = trainer.details[len(DETAILS) :]
        batch = largest_batch(self._geometry, self.row_patches, rows=rows, row_length=length, details=details)
        return self._of_all_parts(batch, self.mesh)

    def _update(self, trainer: Trainer, resident: PyTree = ()) -> list[Program]:
        """Accumulates the gradient of a micro-batch; and applies the optimizer's step."""
        batch, state = self._batch(trainer), self._state(trainer)
        gradients = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, np.float32), state.trainable)
        gradients = self._with_shardings(gradients)
        accumulate = Program(
            trainer.accumulate,
            (state.trainable, state.frozen, gradients, batch, np.float32(1)),
            self._batch_tokens,
            resident=(_beside_parameters(state), resident),
            read=((self._read(state.params), 2), (gradients, 1)),  # forwards and backwards
        )
        arguments, read = (state, gradients, np.float32(1)), ((state, 2), (gradients, 1))  # the state is written, too
        apply = Program(trainer.apply, arguments, resident=resident, read=read)
        return [accumulate, apply]

    def _state(self, trainer: Trainer) -> TrainState:
        return self._with_shardings(jax.eval_shape(trainer.init, nnx.state(self._model)))

    @functools.cached_property
    def _kept(self) -> PyTree:
        """What stays on the devices during rollouts, beside the parameters that these take."""
        return self._beside_rollouts(copies=True)

    def _beside_rollouts(self, copies: bool) -> PyTree:
        """The optimizer's state and a reference; with `copies`, the parameters too of which rollouts take copies."""
        state = _beside_parameters(self._state(sft.make_trainer(self._config, self._model)))
        copied = self._layout.copied if copies else ()
        params = {path: leaf for path, leaf in nnx.to_flat_state(self._params) if path in copied}
        return state, self._reference, params

    @property
    def _taken(self) -> PyTree:
        """The parameters as rollouts take them."""
        return self._layout.params

    @property
    def _reference(self) -> PyTree:
        """The reference's parameters, where there is one beside the policy; they have the same shapes."""
        return self._params if has_second_tree(self._config) else ()

    @functools.cached_property
    def _slots(self) -> PyTree:
        shapes, count = self.shapes, self.parts
        sizes = shapes.slots * count, shapes.pages * count, shapes.page, shapes.items * count
        text = jax.ShapeDtypeStruct((SCALE_TOKENS,), np.int32) if self.cache_dtype == "int8" else None
        return _output_of(self._engine.empty, self._taken, text, *sizes, self.cache_dtype, False)

    @property
    def _reads(self) -> PyTree:
        items, chunks = self.shapes.items, self.shapes.items // self.shapes.chunk
        zeros = Reads(*(np.zeros(size, np.int32) for size in (items, items, (items, SHARING), chunks)))
        return self._of_all_parts(zeros, self.rollout_mesh)

    @functools.cached_property
    def _table(self) -> PyTree:
        return _output_of(self._engine.empty_table, self._taken, self.shapes.table * self.parts)

    def _of_all_parts(self, tree: PyTree, mesh: Mesh) -> PyTree:
        """The global arrays, sharded over a mesh, of which every part holds arrays like those of `tree`."""

        def global_array(path, leaf) -> jax.ShapeDtypeStruct:
            axis = batch_axis(path)
            shape = tuple(size * parts(mesh) if i == axis else size for i, size in enumerate(leaf.shape))
            names = tuple("batch" if i == axis else None for i in range(len(shape)))
            return jax.ShapeDtypeStruct(shape, leaf.dtype, sharding=sharding(names, shape, mesh))

        return jax.tree_util.tree_map_with_path(global_array, tree)

    def _read(self, params: PyTree) -> PyTree:
        """Parameters as an update's products read them: gathered over fsdp, and in the type of the computation."""
        dtype = np.dtype(self._config.model.dtype)
        rounded = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype), params)
        return _gathered(rounded, self.mesh)

    def _with_shardings(self, tree: PyTree) -> PyTree:
        """Abstract arrays like those of `tree`, with the shardings of parameters."""
        return _abstract(tree, param_shardings(tree, self.mesh))


def _abstract_model(config: ConfigDict, model: Config, mesh: Mesh) -> Qwen2_5_VL:
    """The model that `training.training_run.TrainingRun` makes."""

    def create() -> Qwen2_5_VL:
        types = dict(dtype=config.model.dtype, param_dtype=config.model.param_dtype)
        created = Qwen2_5_VL(model, rngs=nnx.Rngs(0), remat=config.model.remat, mesh=mesh, **types)
        return add_adapters(created, **config.lora)

    return nnx.eval_shape(create)


def _beside_parameters(state: TrainState) -> TrainState:
    """The state without the parameters."""
    return dataclasses.replace(state, trainable=(), frozen=())


def _gathered(params: PyTree, mesh: Mesh) -> PyTree:
    """Abstract parameters as they are all-gathered over fsdp."""
    return _abstract(params, param_shardings(params, mesh, GATHERED))


def _output_of(function: Any, *arguments: Any) -> PyTree:
    """The abstract output of a compiled function, with its shardings."""
    lowered = function.lower(*arguments)
    return _abstract(lowered.out_info, lowered.compile().output_shardings)


def _abstract(tree: PyTree, shardings: PyTree) -> PyTree:
    """Abstract arrays with these shardings; one that is no `NamedSharding` is left open."""

    def abstract(leaf, sharding) -> jax.ShapeDtypeStruct:
        named = sharding if isinstance(sharding, NamedSharding) else None
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=named)

    return jax.tree.map(abstract, tree, shardings)


def bytes_per_device(tree: PyTree) -> int:
    """Bytes of a tree's arrays on each device; arrays without a sharding are on all devices."""

    def size(leaf) -> int:
        sharding = getattr(leaf, "sharding", None)
        shape = leaf.shape if sharding is None else sharding.shard_shape(leaf.shape)
        return int(np.prod(shape)) * leaf.dtype.itemsize

    return sum(map(size, jax.tree.leaves(tree)))

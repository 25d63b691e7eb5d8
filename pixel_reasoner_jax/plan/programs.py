"""The compiled functions of a configured run, with arguments that have shapes and places but no contents.

They are the functions that run, `rollout.engine.Engine`'s and `training.state.Trainer`'s, with the largest of their
declared shapes. What else lies on the devices while one of them runs is said beside it: a rollout goes on with the
optimizer's state in memory, and an update begins when the rollout's slots are gone.
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
from pixel_reasoner_jax.models.attention import BLOCK
from pixel_reasoner_jax.models.lora import add_adapters
from pixel_reasoner_jax.parallel import make_mesh, param_shardings, parts, sharding
from pixel_reasoner_jax.parallel.sharding import GATHERED, batch_axis
from pixel_reasoner_jax.processing import Budgets, Geometry
from pixel_reasoner_jax.rollout.engine import Engine, ExtendBatch, ForkBatch
from pixel_reasoner_jax.rollout.policy import DECODE_STEPS
from pixel_reasoner_jax.rollout.sampling import SamplingSettings, SlotSampling
from pixel_reasoner_jax.rollout.shapes import Shapes, row_patches
from pixel_reasoner_jax.training import rl, sft
from pixel_reasoner_jax.training.packing import largest_batch
from pixel_reasoner_jax.training.state import Trainer, TrainState
from pixel_reasoner_jax.training.virtual_shards import VirtualShards

PyTree = Any

ROLLOUT = ("vision_encode", "prefill", "extend", "decode")
UPDATES = ("sft_update", "grpo_update")


@dataclasses.dataclass(frozen=True)
class Program:
    """A function and what it is compiled for.

    Attributes:
      function: of `jax.jit`.
      arguments: positional ones: `jax.ShapeDtypeStruct` with a sharding, or small numpy arrays.
      static: arguments that are compiled in.
      tokens: put through the model, or sampled, in a call.
      loops: how often the loops run that end by themselves, at most; see `flops.count_flops`.
      resident: what else lies on the devices meanwhile.
      read: parts of the arguments, and how often at least a call reads each of them from memory.
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
      devices: to compile for; they need not exist.

    Attributes:
      phases: names of what the run does; `build` has the programs of each.
      mesh: of the devices.

    Raises:
      MeshError: a mesh that these devices cannot form, or whose hosts could not feed it.
      ConfigError: shards that the mesh cannot serve, or that cannot share what is read at a time, or
        responses longer than rows.
    """

    def __init__(self, config: ConfigDict, model: Config, devices: list[jax.Device]):
        self._config = config
        # One device has a mesh too, unlike in a run: it tells the model what it is compiled for.
        self.mesh = make_mesh(config.mesh, devices)
        # What a run refuses is refused; but for bfloat16 on a CPU, which stands in for other chips.
        VirtualShards(config, self.mesh)
        if "rollout" in config:
            rl.check_lengths(config)
        self._geometry = Geometry.from_config(model.to_hf())
        self._budgets = Budgets(**config.processor)
        self._model = _abstract_model(config, model, self.mesh)
        graph, params = nnx.split(self._model)
        self._params = self._place(params)
        self._parts = parts(self.mesh)
        self.phases = (*ROLLOUT, *UPDATES) if "rollout" in config else UPDATES[:1]
        gather = "rollout" in config and config.rollout.gather_parameters
        self._engine = Engine(graph, [model.vocab_size - 1], self.mesh, gather)  # which token stops does not matter

    def build(self, phase: str) -> list[Program]:
        """The programs of one of `phases`: first the one it spends its time with, then others that must fit too.

        Raises:
          jax.errors.JaxRuntimeError: RESOURCE_EXHAUSTED, if not even empty slots fit.
        """
        return getattr(self, f"_{phase}")()

    @functools.cached_property
    def shapes(self) -> Shapes:
        """Of the rollouts, in a part of the mesh."""
        rollout = self._config.rollout
        slots = -(-rollout.slots // self._parts)
        return Shapes.holding(slots, rollout.max_length, self._geometry, self._budgets)

    @property
    def rows(self) -> int:
        """Packed rows of a micro-batch on all devices."""
        return self._config.train.micro_batch_rows * self._parts

    @property
    def row_patches(self) -> int:
        """Patches in a row of images: as many as the largest square image or frames of a video need."""

        def needed(kind: str, frames: int = 1) -> int:
            side = math.isqrt(self._budgets.of(kind)[1]) * self._geometry.merge_size
            return row_patches((frames, side, side), self._geometry)

        pairs = -(-self._budgets.video_frames // self._geometry.temporal_patch_size)
        return max(needed("video", pairs), *map(needed, ("image", "crop", "frame")))

    def _vision_encode(self) -> list[Program]:
        """The largest square image; and the longest row there can be, which only a very long image needs."""
        return [self._encode(self.row_patches), self._encode(self.shapes.patches[-1])]

    def _encode(self, patches: int) -> Program:
        rows = self.shapes.images(patches)
        geometry, tokens = self._geometry, rows * patches // self._geometry.merge_size**2
        vision = {
            "patches": jax.ShapeDtypeStruct((rows, patches, geometry.patch_values), np.float32),
            "patch_positions": jax.ShapeDtypeStruct((rows, patches, 2), np.int32),
            "patch_segments": jax.ShapeDtypeStruct((rows, patches), np.int32),
        }
        places = jax.ShapeDtypeStruct((tokens,), np.int32)
        return Program(
            self._engine.encode,
            (self._params, self._table, *self._deal((vision, places))),
            tokens * self._parts,
            resident=(self._slots, self._optimizer),
            read=((self._read(self._params["vision"]), 1),),
        )

    def _prefill(self) -> list[Program]:
        """The widest piece of a prompt, into an empty slot."""
        return [self._extend_by(self.shapes.widths[-1], filled=0)]

    def _extend(self) -> list[Program]:
        """A short observation for every row there can be, into slots that are full but for it."""
        return [self._extend_by(self.shapes.widths[0], filled=self.shapes.length)]

    def _extend_by(self, width: int, filled: int) -> Program:
        rows = self.shapes.rows(width)
        return Program(
            self._engine.extend,
            (self._params, self._slots, self._table, self._deal(ExtendBatch.blank(rows, width, self.shapes.slots))),
            rows * width * self._parts,
            loops=(self._blocks(max(filled, width)),),
            resident=self._optimizer,
            read=((self._read(self._params["language"]), 1),),
        )

    def _decode(self) -> list[Program]:
        """As many tokens as a call draws, for slots that are full; and the fork of a prompt to all slots."""
        shapes, slots = self.shapes, self.shapes.slots
        drawing = self._deal(SlotSampling.of([SamplingSettings()] * slots, [0] * slots))
        forbidden = jax.ShapeDtypeStruct((self._model.config.vocab_size,), bool)
        decoder = [self._params[part] for part in self._params if part != "vision"]
        decode = Program(
            self._engine.decode,
            (self._params, self._slots, drawing, forbidden, np.int32(0), np.int32(0)),
            slots * self._parts * DECODE_STEPS,
            static=dict(steps=DECODE_STEPS, filtered=False),
            loops=(DECODE_STEPS, self._blocks(shapes.length)),
            resident=(self._table, self._optimizer),
            read=((self._read(decoder), DECODE_STEPS), (self._slots.cache, DECODE_STEPS)),
        )
        fork = Program(
            self._engine.fork,
            (self._slots, self._deal(ForkBatch.blank(shapes.forks[-1], slots, None))),
            loops=(self._blocks(shapes.length),),
            resident=(self._params, self._table, self._optimizer),
        )
        return [decode, fork]

    def _sft_update(self) -> list[Program]:
        return self._update(sft.make_trainer(self._config, self._model))

    def _grpo_update(self) -> list[Program]:
        forbidden = np.zeros(self._model.config.vocab_size, bool)
        # The images encoded last stay until the next rollout.
        return self._update(rl.make_trainer(self._config, self._model, forbidden), self._table)

    def _update(self, trainer: Trainer, resident: PyTree = ()) -> list[Program]:
        """The gradient of a micro-batch added to those before, and the optimizer's step."""
        length = self._config.train.row_length
        rows = self._config.train.micro_batch_rows
        batch = self._deal(largest_batch(self._geometry, self.row_patches, rows=rows, row_length=length))
        state = self._state(trainer)
        gradients = self._place(jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, np.float32), state.trainable))
        accumulate = Program(
            trainer.accumulate,
            (state.trainable, state.frozen, gradients, batch, np.float32(1)),
            self.rows * length,
            resident=(_beside_parameters(state), resident),
            read=((self._read(state.params), 2), (gradients, 1)),  # forwards and backwards
        )
        apply = Program(trainer.apply, (state, gradients, np.float32(1)), resident=resident)
        return [accumulate, apply]

    def _state(self, trainer: Trainer) -> TrainState:
        return self._place(jax.eval_shape(trainer.init, nnx.state(self._model)))

    @functools.cached_property
    def _optimizer(self) -> PyTree:
        """The optimizer's state, which stays where it is during rollouts."""
        return _beside_parameters(self._state(sft.make_trainer(self._config, self._model)))

    @functools.cached_property
    def _slots(self) -> PyTree:
        shapes = self.shapes
        return _made(self._engine.empty, self._params, shapes.slots * self._parts, shapes.length, None, False)

    @functools.cached_property
    def _table(self) -> PyTree:
        return _made(self._engine.empty_table, self._params, self.shapes.table * self._parts)

    def _blocks(self, tokens: int) -> int:
        """Blocks of the cache that so many tokens take."""
        return -(-tokens // BLOCK)

    def _deal(self, tree: PyTree) -> PyTree:
        """What all parts of the mesh have together, where each has such arrays."""

        def together(path, leaf) -> jax.ShapeDtypeStruct:
            axis = batch_axis(path)
            shape = tuple(size * self._parts if i == axis else size for i, size in enumerate(leaf.shape))
            names = tuple("batch" if i == axis else None for i in range(len(shape)))
            return jax.ShapeDtypeStruct(shape, leaf.dtype, sharding=sharding(names, shape, self.mesh))

        return jax.tree_util.tree_map_with_path(together, tree)

    def _read(self, params: PyTree) -> PyTree:
        """Parameters as matrix products take them, gathered and in the type of the computation."""
        dtype = np.dtype(self._config.model.dtype)
        rounded = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype), params)
        return _placed(rounded, param_shardings(params, self.mesh, GATHERED))

    def _place(self, tree: PyTree) -> PyTree:
        """The same tree with its place for each array."""
        return _placed(tree, param_shardings(tree, self.mesh))


def _abstract_model(config: ConfigDict, model: Config, mesh: Mesh) -> Qwen2_5_VL:
    """The model that `training.training_run.TrainingRun` makes."""

    def create() -> Qwen2_5_VL:
        types = dict(dtype=config.model.dtype, param_dtype=config.model.param_dtype)
        created = Qwen2_5_VL(model, rngs=nnx.Rngs(0), remat=config.model.remat, mesh=mesh, **types)
        return add_adapters(created, **config.lora)

    return nnx.eval_shape(create)


def _beside_parameters(state: TrainState) -> TrainState:
    return dataclasses.replace(state, trainable=(), frozen=())


def _made(function: Any, *arguments: Any) -> PyTree:
    """What a compiled function returns, where it puts it; where it leaves that open, so does the next one."""
    lowered = function.lower(*arguments)
    return _placed(lowered.out_info, lowered.compile().output_shardings)


def _placed(tree: PyTree, shardings: PyTree) -> PyTree:
    def place(leaf, sharding) -> jax.ShapeDtypeStruct:
        where = sharding if isinstance(sharding, NamedSharding) else None
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)

    return jax.tree.map(place, tree, shardings)


def bytes_per_device(tree: PyTree) -> int:
    """Of arrays with a place, on each of the devices they lie on; numpy arrays lie on all."""

    def size(leaf) -> int:
        sharding = getattr(leaf, "sharding", None)
        shape = leaf.shape if sharding is None else sharding.shard_shape(leaf.shape)
        return int(np.prod(shape)) * leaf.dtype.itemsize

    return sum(map(size, jax.tree.leaves(tree)))

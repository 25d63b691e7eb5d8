"""Virtual shards: what a step trains on depends on neither devices nor processes.

A run's records are assigned to a fixed number of shards; each reads, rolls out and packs its records. Every part of the
mesh (`parallel.parts`) serves the same number of shards, one after the other, and adds up their gradients. The first
shards of all parts make one batch, padded to one shape, then the second shards of all parts, and so on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from collections.abc import Sequence as Seq

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from pixel_reasoner_jax.config import ConfigError
from pixel_reasoner_jax.parallel import all_gather, local_parts, parts
from pixel_reasoner_jax.parallel.sharding import batch_axis
from pixel_reasoner_jax.processing import Processor
from pixel_reasoner_jax.training.packing import Batch, PlannedBatch, Sequence, Shape, build, smallest_shape, unpack

NO_BATCH = PlannedBatch([], Shape(0, 0, 0, 0))  # for a shard that has fewer batches than another shard


class VirtualShards:
    """The shards of a run, and which of them this process serves.

    Args:
      config: an experiment of either phase. `data.shards` is the number of shards; 0: one for each part of the mesh.
      mesh: the mesh of the run; None: it has one part.

    Attributes:
      count: number of shards in all processes.
      local: the numbers of the shards that this process serves.
      share: how many of an episode's queries, or of a batch's trajectories, each shard reads.

    Raises:
      ConfigError: the number of shards is no multiple of the mesh's parts, or an episode's queries, or a batch's
        trajectories, are no multiple of the number of shards.
    """

    def __init__(self, config: ConfigDict, mesh: Mesh | None):
        mesh_parts = parts(mesh)
        self.count = config.data.shards or mesh_parts
        if self.count % mesh_parts:
            raise ConfigError(
                f"config.data.shards is {self.count}, but data x fsdp of the mesh is {mesh_parts}: shards must be a"
                " multiple of it"
            )
        if "grpo" in config:
            name, total = "grpo.queries_per_episode", config.grpo.queries_per_episode
        else:
            name, total = "train.batch_size", config.train.batch_size
        if total % self.count:
            each = "config.data.shards" if config.data.shards else "one for each of data x fsdp of the mesh"
            raise ConfigError(
                f"config.{name} is {total}; with {self.count} shards ({each}) it must be a multiple of that"
            )
        self.share = total // self.count
        self._shards_per_part = self.count // mesh_parts
        self._parts = local_parts(mesh)
        self.local = [
            part * self._shards_per_part + index for part in self._parts for index in range(self._shards_per_part)
        ]

    def agree_on_shapes(
        self, plans: Mapping[int, list[PlannedBatch]], processor: Processor, rows: int
    ) -> AgreedBatches:
        """Agrees with all processes, which call this together, on the shapes of an update's batches.

        Args:
          plans: for each of this process's shards; see `packing.plan`.
          processor: see `packing.build`.
          rows: rows of a batch in one part of the mesh.
        """
        most = int(all_gather(np.array([len(plans[shard]) for shard in self.local], np.int32)).max())
        if not most:
            return AgreedBatches(processor, rows, [])
        padded = {shard: plans[shard] + [NO_BATCH] * (most - len(plans[shard])) for shard in self.local}
        # Row lengths come first, and then the number of rows of patches that each part needs with these lengths. Taken
        # in one step, the longest rows of one part would be combined with the most rows of another.
        first = self._largest_shapes(padded, most, lambda batch, _: batch.shape)

        def with_row_lengths(batch: PlannedBatch, shape: Shape) -> Shape:
            if not shape.row_length:
                return shape
            return smallest_shape(batch.rows, processor, rows, shape.row_length, shape.patches)

        agreed = self._largest_shapes(padded, most, with_row_lengths, first)
        batches = []
        for index in range(self._shards_per_part):
            shards = [part_number * self._shards_per_part + index for part_number in self._parts]
            for number in range(most):
                if agreed[index][number].row_length:
                    batches.append((agreed[index][number], {shard: padded[shard][number] for shard in shards}))
        return AgreedBatches(processor, rows, batches)

    def _largest_shapes(
        self,
        plans: Mapping[int, list[PlannedBatch]],
        most: int,
        shape_of: Callable[[PlannedBatch, Shape | None], Shape],
        given: list[list[Shape]] | None = None,
    ) -> list[list[Shape]]:
        """The shapes that all parts of the mesh use, gathered from all processes.

        Args:
          plans: `most` batches for each of this process's shards.
          shape_of: the shape that a batch needs; its second argument is the batch's shape in `given`.
          given: shapes indexed as the result, or None.

        Returns:
          For each shard of a part, and each of its batches, the elementwise largest of the shapes that the parts need.
        """
        needed = np.zeros((len(self.local), most, len(Shape._fields)), np.int32)
        for row, shard in zip(needed, self.local, strict=True):
            for number, batch in enumerate(plans[shard]):
                row[number] = shape_of(batch, given and given[shard % self._shards_per_part][number])
        shapes = all_gather(needed).reshape(-1, self._shards_per_part, *needed.shape[1:]).max(axis=0)
        return [[Shape(*shape) for shape in batches] for batches in shapes.tolist()]


@dataclasses.dataclass(frozen=True)
class AgreedBatches:
    """The batches of an update, on whose shapes all processes have agreed; called, it builds them.

    Attributes:
      processor, rows: see `VirtualShards.agree_on_shapes`.
      batches: the shape of each batch, and what is planned for each shard of this process that has rows in it, in the
        order of these rows. There is none, in all processes, where no shard of any has a sequence.
    """

    processor: Processor
    rows: int
    batches: list[tuple[Shape, dict[int, PlannedBatch]]]

    def __call__(self) -> list[Batch]:
        """Builds the rows of this process's parts in all batches.

        It does not communicate with other processes and may run in any thread.
        """
        result = []
        for shape, planned in self.batches:
            built = [build(batch.rows, self.processor, self.rows, shape) for batch in planned.values()]
            result.append(built[0] if len(built) == 1 else _concatenate_rows(built))
        return result

    def sequences(self) -> list[tuple[int, Sequence]]:
        """The sequences of this process and the shard of each, in the order of their rows in the batches."""
        return [
            (shard, sequence)
            for _, planned in self.batches
            for shard, batch in planned.items()
            for row in batch.rows
            for sequence in row
        ]

    def unpack(self, values: Seq[np.ndarray]) -> dict[int, list[tuple[Sequence, np.ndarray]]]:
        """Takes apart what was computed for the trained tokens of all batches; see `packing.unpack`.

        Args:
          values: for each batch, [rows of this process, K].

        Returns:
          For each shard of this process, its sequences with the values of their trained tokens.
        """
        taken_apart: dict[int, list[tuple[Sequence, np.ndarray]]] = {}
        for (_, planned), of_batch in zip(self.batches, values, strict=True):
            for (shard, batch), rows in zip(planned.items(), np.split(of_batch, len(planned)), strict=True):
                taken_apart.setdefault(shard, []).extend(unpack([batch], [rows]))
        return taken_apart


def _concatenate_rows(batches: Seq[Batch]) -> Batch:
    """Concatenates the rows of several batches of one shape; `batch_axis` is the axis of rows of each array."""

    def join(path, *leaves):
        return np.concatenate(leaves, axis=batch_axis(path))

    return jax.tree_util.tree_map_with_path(join, *batches)

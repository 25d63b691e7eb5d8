"""Virtual shards: what a step trains on depends on neither devices nor processes.

A run's records are dealt out to a fixed number of shards; each reads, rolls out and packs its own. Every part of the
mesh (`parallel.parts`) serves as many shards, one after the other, and adds up their gradients; the shards of all parts
that have the same turn make one batch, padded to one shape.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from pixel_reasoner_jax.config import ConfigError
from pixel_reasoner_jax.parallel import all_gather, local_parts, parts
from pixel_reasoner_jax.parallel.sharding import batch_axis
from pixel_reasoner_jax.processing import Processor
from pixel_reasoner_jax.training.packing import Batch, Planned, Shape, build, fit

NOTHING = Planned([], Shape(0, 0, 0, 0))  # in the place of a batch that another shard has and this one has not


class VirtualShards:
    """The shards of a run, and which of them are this process's.

    Args:
      config: an experiment of either phase: `data.shards` of them, 0 for one for each part of the mesh.
      mesh: None: one part.

    Attributes:
      count: of all.
      local: the numbers of those of this process.
      share: how many of an episode's queries, or of a batch's trajectories, each has.

    Raises:
      ConfigError: the parts cannot share the shards out evenly, or these what is read at a time.
    """

    def __init__(self, config: ConfigDict, mesh: Mesh | None):
        everywhere = parts(mesh)
        self.count = config.data.shards or everywhere
        if self.count % everywhere:
            raise ConfigError(
                f"config.data.shards is {self.count}, but data x fsdp of the mesh is {everywhere}: shards must be a"
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
        self._turns = self.count // everywhere
        self._parts = local_parts(mesh)
        self.local = [part * self._turns + turn for part in self._parts for turn in range(self._turns)]

    def agree(self, plans: Mapping[int, list[Planned]], processor: Processor, rows: int) -> Callable[[], list[Batch]]:
        """What builds the rows of this process's parts in all batches of an update.

        All processes ask for it together; then each builds for itself, in any thread.

        Args:
          plans: of each of this process's shards; see `packing.plan`.
          processor: see `packing.build`.
          rows: of a part in a batch.
        """
        most = int(all_gather(np.array([len(plans[shard]) for shard in self.local], np.int32)).max())
        padded = {shard: plans[shard] + [NOTHING] * (most - len(plans[shard])) for shard in self.local}
        # First how long rows are, then how many of them that takes: the largest of both would go with each other else.
        wanted = self._agree(padded, most, lambda batch, _: batch.shape)

        def fitting(batch: Planned, shape: Shape) -> Shape:
            return fit(batch.rows, processor, rows, shape.row_length, shape.patches) if shape.row_length else shape

        agreed = self._agree(padded, most, fitting, wanted)

        def batches() -> list[Batch]:
            result = []
            for turn in range(self._turns):
                for number in range(most):
                    shape = agreed[turn][number]
                    if shape.row_length:
                        own = [padded[part * self._turns + turn][number].rows for part in self._parts]
                        built = [build(packed, processor, rows, shape) for packed in own]
                        result.append(built[0] if len(built) == 1 else _concatenate_rows(built))
            return result

        return batches

    def _agree(
        self,
        plans: Mapping[int, list[Planned]],
        most: int,
        ask: Callable[[Planned, Shape | None], Shape],
        given: list[list[Shape]] | None = None,
    ) -> list[list[Shape]]:
        """Of every turn and batch, the largest of the shapes that the batches of all parts ask for, size by size."""
        asked = np.zeros((len(self.local), most, len(Shape._fields)), np.int32)
        for row, shard in zip(asked, self.local, strict=True):
            for number, batch in enumerate(plans[shard]):
                row[number] = ask(batch, given and given[shard % self._turns][number])
        shapes = all_gather(asked).reshape(-1, self._turns, *asked.shape[1:]).max(axis=0)
        return [[Shape(*shape) for shape in batches] for batches in shapes.tolist()]


def _concatenate_rows(batches: Sequence[Batch]) -> Batch:
    """The rows of several batches of one shape as one; see `packing.build` for where the axis of rows is."""

    def join(path, *leaves):
        return np.concatenate(leaves, axis=batch_axis(path))

    return jax.tree_util.tree_map_with_path(join, *batches)

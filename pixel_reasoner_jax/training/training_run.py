"""What the loops of both training phases share: loading model and data, checkpoints, metrics, saving the model."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import pathlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Sequence as Seq
from typing import Any

import jax
from flax import nnx
from ml_collections import ConfigDict

from data_pipeline.pipeline import DatasetMixture, RecordOrder, record_count
from data_pipeline.records import DATASET_INFO
from pixel_reasoner_jax.checkpoint import CHECKPOINTS, Checkpoints, check_is_no_run
from pixel_reasoner_jax.compilation import enable_cache
from pixel_reasoner_jax.config import ConfigError, open_workdir, save_config, take_over
from pixel_reasoner_jax.files import as_path
from pixel_reasoner_jax.metrics import MetricWriter, Progress
from pixel_reasoner_jax.models import Qwen2_5_VL
from pixel_reasoner_jax.models.lora import add_adapters
from pixel_reasoner_jax.parallel import all_gather_json, is_main, make_mesh, wait_for_all
from pixel_reasoner_jax.processing import Budgets, Processor
from pixel_reasoner_jax.processing.sources import use_media_settings
from pixel_reasoner_jax.rollout.episode import Limits
from pixel_reasoner_jax.rollout.settings import PolicySettings
from pixel_reasoner_jax.training.packing import Batch, PlannedBatch, Sequence, plan
from pixel_reasoner_jax.training.state import TrainState
from pixel_reasoner_jax.training.virtual_shards import VirtualShards

MODEL = "model"  # folder of the trained model in a run's directory
INITIAL = "initial"  # folder of the first model's files without its weights, which `export` needs beside a checkpoint


class TrainingRun:
    """A training run in its directory; a context manager.

    The directory holds config.json (as resolved), initial/, checkpoints/, metrics.jsonl with TensorBoard events, and at
    the end model/, in the Hugging Face form.

    Args:
      config: an experiment of either phase.
      resume: go on from the newest checkpoint, or from the start where there is none yet.

    Attributes:
      model, processor: as `config.model`, `config.lora` and `config.processor` say, on `config.mesh`.
      settings: of the policy, saved beside the trained model.
      shards: the virtual shards that the run's records are assigned to.
      order: which records this process's shards read, and in which order.
    """

    def __init__(self, config: ConfigDict, resume: bool = False):
        enable_cache()
        self._config = config
        use_media_settings(config.media)
        if resume:
            take_over(config)
        self._workdir = open_workdir(config, resume)
        mesh = make_mesh(config.mesh)
        if mesh.devices.flat[0].platform == "cpu" and config.model.dtype == "bfloat16":
            raise ConfigError(
                "JAX finds no accelerator, and config.model.dtype is bfloat16, whose products XLA cannot compute on a"
                " CPU in every shape. If the CPU is what is meant: --config.model.dtype=float32"
            )
        if mesh.size == 1:
            mesh = None  # a mesh of one device would only slow compilation down
        self.shards = VirtualShards(config, mesh)
        config.data.shards = self.shards.count
        self.order = RecordOrder(config.seed, self.shards.local, self.shards.count)
        check_is_no_run(config.model.directory)
        if not (as_path(config.model.directory) / "config.json").exists():
            raise ConfigError(
                f"config.model.directory is {config.model.directory}, which has no config.json: it must be a downloaded"
                " checkpoint's, or what phase one left in the folder `model` of its working directory"
            )
        # Small files are read first, so that a mistake in one of them shows before a large model is loaded.
        self.processor = Processor.from_pretrained(
            config.model.directory, Budgets(**config.processor), position_rule=config.model.position_rule
        )
        config.model.position_rule = self.processor.position_rule
        self.settings = policy_settings(config)
        config.operations.box_rule = self.settings.box_rule
        self.model = Qwen2_5_VL.from_pretrained(
            config.model.directory,
            dtype=config.model.dtype,
            param_dtype=config.model.param_dtype,
            remat=config.model.remat,
            mesh=mesh,
        )
        add_adapters(self.model, **config.lora, seed=config.seed)
        self._save_beside_weights(self._workdir / INITIAL)
        wait_for_all("start")  # `open_workdir` of every process has seen a directory without a run
        if is_main():
            save_config(config, self._workdir)  # last: a start that failed leaves no run behind and may be tried again
        self._checkpoints = Checkpoints(self._workdir / CHECKPOINTS, config.train.keep_checkpoints)
        step = (resume and self._checkpoints.latest_step) or 0
        if resume and is_main():
            began = f"goes on after step {step}" if step else "has no checkpoint yet and begins anew"
            print(f"{self._workdir} {began}", file=sys.stderr, flush=True)
        self._metrics = MetricWriter(self._workdir, step) if is_main() else None
        self._seconds: dict[str, float] = {}

    def __enter__(self) -> TrainingRun:
        return self

    def __exit__(self, error: type[BaseException] | None, *_) -> None:
        if self._metrics is not None:
            self._metrics.close()
        if error is None or jax.process_count() == 1:  # after an error, the others would not come to write a checkpoint
            self._checkpoints.close()

    def restore(self, state: TrainState, iterator: Any) -> tuple[TrainState, dict[str, Any]]:
        """Restores the newest checkpoint, if there is one.

        Then the arrays of `state` are deleted, the model gets the checkpoint's parameters, and the data iterator is set
        to the checkpoint's position.

        Returns:
          The checkpoint's state and the counters saved with it; without a checkpoint, `state` and no counters.

        Raises:
          ConfigError: the data have another number of records than when the checkpoint was saved: another order.
        """
        if self._checkpoints.latest_step is None:
            return state, {}
        target = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), state)
        for leaf in jax.tree.leaves(state):  # the model's parameters too: there is no room for two states
            leaf.delete()
        state, meta = self._checkpoints.restore(target)
        before, now = meta.get("records"), self._records
        if before not in (None, now):
            raise ConfigError(
                f"the data of {self._workdir} have {now} records, and had {before} when it was last saved: a run cannot"
                " go on in another order; give the data back, or start a new run with --config.workdir=DIRECTORY"
            )
        nnx.update(self.model, state.params)
        iterator.set_state(meta["iterator"])
        return state, meta["counters"]

    def save(self, step: int, state: TrainState, iterator: Any, **counters: Any) -> None:
        """Starts writing a checkpoint; `counters` are saved with it as JSON, for `restore` to return."""
        if self._metrics is not None:
            self._metrics.flush()  # a run that goes on from this checkpoint has the metrics up to it
        by_process = all_gather_json(iterator.get_state())
        iterator_state = {shard: position for positions in by_process for shard, position in positions.items()}
        meta = {"iterator": iterator_state, "counters": counters, "records": self._records}
        self._checkpoints.save(step, state, meta)

    @functools.cached_property
    def _records(self) -> int:
        """How many records an epoch has, those alone that `data.pass_rates` leaves in: their order depends on it."""
        data, rates = data_sets(self._config), self._config.data.get("pass_rates")
        return record_count(data) if rates is None else record_count(data, rates)

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Counts the time of the body towards the metric `seconds_{name}` of the next `write`."""
        start = time.perf_counter()
        yield
        self._seconds[name] = self._seconds.get(name, 0.0) + time.perf_counter() - start

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Writes the metrics of a step, with the seconds of every phase since the last `write`, and tokens a second."""
        seconds = {f"seconds_{name}": value for name, value in self._seconds.items()}
        total = sum(seconds.values())
        if self._metrics is not None:
            self._metrics.write(
                step, {**metrics, **seconds, "seconds": total, "tokens_per_second": metrics.get("tokens", 0.0) / total}
            )
        self._seconds = {}

    def plan(self, sequences: Mapping[int, Seq[Sequence]]) -> dict[int, list[PlannedBatch]]:
        """Plans the batches of an update for each of this process's shards; see `packing.plan`."""
        train = self._config.train
        return {
            shard: plan(of_shard, self.processor, rows=train.micro_batch_rows, row_length=train.row_length)
            for shard, of_shard in sequences.items()
        }

    def agree_on_shapes(self, plans: Mapping[int, list[PlannedBatch]]) -> Callable[[], list[Batch]]:
        """Returns a function that builds the planned batches; see `VirtualShards.agree_on_shapes`."""
        return self.shards.agree_on_shapes(plans, self.processor, self._config.train.micro_batch_rows)

    def progress(self, description: str, total: int, step: int) -> Progress:
        return Progress(self._config.get("title", description), total, step, quiet=not is_main())

    def export(self, params: nnx.State) -> pathlib.Path:
        """Writes the trained model, its processor and its policy settings; returns their directory."""
        directory = self._workdir / MODEL
        nnx.update(self.model, params)
        self.model.save_pretrained(directory)
        self._save_beside_weights(directory)
        wait_for_all("exported")
        return directory

    def _save_beside_weights(self, directory: pathlib.Path) -> None:
        if not is_main():
            return
        self.processor.save_pretrained(directory)
        self.settings.save(directory)


def data_sets(config: ConfigDict) -> DatasetMixture:
    """The data that `config.data` names: the path of one data set, or the paths of several with their weights.

    Raises:
      ConfigError: a path holds no complete data set.
    """
    mixture = tuple(config.data.mixture)
    for path, key in [(path, "mixture") for path, _ in mixture] or [(config.data.path, "path")]:
        if not (as_path(path) / DATASET_INFO).exists():
            raise ConfigError(
                f"config.data.{key} names {path}, where no data set is complete: `pixel-reasoner synthesize` and"
                " `import-data` make one, and data_pipeline.records.write_records"
            )
    return mixture or config.data.path


def policy_settings(config: ConfigDict) -> PolicySettings:
    """The settings of the trained policy: those of the config, and for the others those of the first model."""
    settings = PolicySettings.load(config.model.directory)
    given = {name: value for name, value in config.operations.items() if value is not None}
    settings = dataclasses.replace(settings, **given)
    return dataclasses.replace(settings, limits=rollout_limits(config.rollout)) if "rollout" in config else settings


def rollout_limits(rollout: ConfigDict) -> Limits:
    """The limits that a `rollout` section sets."""
    return Limits(**{field.name: rollout[field.name] for field in dataclasses.fields(Limits)})

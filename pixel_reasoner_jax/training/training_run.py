"""What the loops of both training phases share: loading model and data, checkpoints, metrics, saving the model."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import pathlib
import sys
import time
from collections.abc import Iterator, Mapping
from collections.abc import Sequence as Seq
from typing import Any, NoReturn

import jax
from flax import nnx
from ml_collections import ConfigDict

from data_pipeline.exchange.tables import TABLE_SUFFIXES, is_table
from data_pipeline.pipeline import EVERY_RATE, DatasetMixture, RecordOrder, record_count
from data_pipeline.records import DATASET_INFO
from pixel_reasoner_jax.checkpoint import CHECKPOINTS, Checkpoints, check_is_no_run
from pixel_reasoner_jax.compilation import enable_cache
from pixel_reasoner_jax.config import ConfigError
from pixel_reasoner_jax.errors import NoUpdateError, RunInterrupted, RunStopped
from pixel_reasoner_jax.files import StorageError, as_path, storage_problem
from pixel_reasoner_jax.metrics import FILE as METRICS
from pixel_reasoner_jax.metrics import MetricWriter, Progress, read_metrics
from pixel_reasoner_jax.model_files import base_directory, download_hint
from pixel_reasoner_jax.models import Qwen2_5_VL
from pixel_reasoner_jax.models.lora import add_adapters
from pixel_reasoner_jax.models.weights import read_config
from pixel_reasoner_jax.operations import allow_own
from pixel_reasoner_jax.parallel import all_gather_json, is_main, make_mesh, wait_for_all
from pixel_reasoner_jax.processing import Processor
from pixel_reasoner_jax.processing.sources import use_media_settings
from pixel_reasoner_jax.rollout.layout import check_cache, rollout_mesh
from pixel_reasoner_jax.saved_config import FILE, open_workdir, save_config, take_over
from pixel_reasoner_jax.signals import telling
from pixel_reasoner_jax.trackers import find_trackers
from pixel_reasoner_jax.training.packing import PlannedBatch, Sequence, plan
from pixel_reasoner_jax.training.policy_settings import policy_settings, say_other_budgets
from pixel_reasoner_jax.training.resumption import choose_step, set_aside_unlisted
from pixel_reasoner_jax.training.state import TrainState
from pixel_reasoner_jax.training.virtual_shards import AgreedBatches, VirtualShards

MODEL = "model"  # folder of the trained model in a run's directory
INITIAL = "initial"  # folder of the first model's files without its weights, which `export` needs beside a checkpoint


class TrainingRun:
    """A training run in its directory; a context manager.

    The directory holds config.json (as resolved), initial/, checkpoints/, metrics.jsonl with TensorBoard events, and at
    the end model/, in the Hugging Face form.

    Args:
      config: an experiment of either phase.
      resume: go on from the newest whole checkpoint, or from the start where there is none yet; or the step of the
        checkpoint to go on from.

    Attributes:
      model, processor: as `config.model`, `config.lora` and `config.processor` say, on `config.mesh`.
      settings: of the policy, saved beside the trained model.
      shards: the virtual shards that the run's records are assigned to.
      order: which records this process's shards read, and in which order.
    """

    def __init__(self, config: ConfigDict, resume: bool | int = False):
        enable_cache()
        self._config = config
        use_media_settings(config.media)
        find_trackers(config.metrics.trackers)
        # Before a run's folder is read, which may be a stranger's.
        allow_own((*(config.operations.names or ()), config.operations.syntax or ""))
        if resume:
            take_over(config)
        self._workdir = open_workdir(config, bool(resume))
        _check_is_no_rest(self._workdir)
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
        self.order = RecordOrder(config.seed, self.shards.local, self.shards.count, shuffle=config.data.shuffle)
        check_is_no_run(config.model.directory)
        if not (base_directory(config.model.directory) / "config.json").exists():
            hint = download_hint(config.model.directory, "name")
            raise ConfigError(
                f"config.model.directory is {config.model.directory}, which has no config.json: it must be a downloaded"
                f" checkpoint's, or what phase one left in the folder `model` of its working directory{hint}"
            )
        # Small files are read first, so that a mistake in one of them shows before a large model is loaded.
        sizes = read_config(config.model.directory)
        if "rollout" in config:
            of_rollouts = rollout_mesh(mesh, config.rollout.mesh, sizes)
            check_cache(sizes, config.rollout.cache_dtype or config.model.dtype, of_rollouts)
        self.processor = Processor.from_pretrained(
            config.model.directory, config.processor, position_rule=config.model.position_rule
        )
        if is_main():
            say_other_budgets(config)
        config.processor.update(dataclasses.asdict(self.processor.budgets))
        config.model.position_rule = self.processor.position_rule
        self.settings = policy_settings(config)
        config.operations.box_rule = self.settings.box_rule
        config.operations.names, config.operations.syntax = self.settings.operations, self.settings.syntax
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
        self.save_config()  # last: a start that failed leaves no run behind and may be tried again
        if resume:
            set_aside_unlisted(self._workdir / CHECKPOINTS)
        self._checkpoints = Checkpoints(self._workdir / CHECKPOINTS, config.train.keep_checkpoints)
        self._began = self._step = choose_step(self._checkpoints, resume) if resume else 0
        if resume and is_main():
            began = f"goes on after step {self._step}" if self._step else "has no checkpoint yet and begins anew"
            print(f"{self._workdir} {began}", file=sys.stderr, flush=True)
        self._metrics = self._open_metrics() if is_main() else None
        self._seconds: dict[str, float] = {}
        self._exit = contextlib.ExitStack()

    def _open_metrics(self) -> MetricWriter:
        config = self._config
        settings = json.loads(config.to_json_best_effort())
        return MetricWriter(self._workdir, self._step, config.metrics.trackers, config.get("title"), settings)

    def __enter__(self) -> TrainingRun:
        self._exit.enter_context(telling(self._where))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _) -> None:
        together = error is None or isinstance(error, RunStopped) or jax.process_count() == 1
        try:
            with self._exit as closing:
                if self._metrics is not None:
                    closing.callback(self._metrics.close)  # after the checkpoints: it may wait for trackers
                if together:  # after another error, the others would not come to write a checkpoint
                    closing.callback(self._checkpoints.close)
        except Exception as failed:
            error = error or failed
            if not storage_problem(error):
                raise
        if problem := storage_problem(error):
            raise StorageError(f"{problem}: the run has ended {self._where()}") from error
        if isinstance(error, KeyboardInterrupt):
            raise RunInterrupted(self._where()) from error

    def restore(self, state: TrainState, iterator: Any) -> tuple[TrainState, dict[str, Any]]:
        """Restores the checkpoint that the run goes on from, if it does from one.

        Then the arrays of `state` are deleted, the model gets the checkpoint's parameters, and the data iterator is set
        to the checkpoint's position.

        Returns:
          The checkpoint's state and the counters saved with it; without a checkpoint, `state` and no counters.

        Raises:
          ConfigError: the data have another number of records than when the checkpoint was saved: another order.
        """
        if not self._began:
            return state, {}
        target = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), state)
        for leaf in jax.tree.leaves(state):  # the model's parameters too: there is no room for two states
            leaf.delete()
        state, meta = self._checkpoints.restore(target, self._began)
        before, now = meta.get("records"), self._records
        if before not in (None, now):
            raise ConfigError(
                f"the data of {self._workdir} have {now} records, and had {before} when it was last saved: a run cannot"
                " go on in another order; give the data back, or start a new run with --config.workdir=DIRECTORY"
            )
        nnx.update(self.model, state.params)
        iterator.set_state(meta["iterator"])
        return state, meta["counters"]

    def save_config(self) -> None:
        """Writes the config, with what was decided since, into the working directory."""
        if is_main():
            save_config(self._config, self._workdir)

    def check_end(self, done: int, last: int, unit: str = "step") -> None:
        """Checks that a run that goes on is not past its end already.

        Raises:
          ConfigError: it is; the message names the settings that say where the end is.
        """
        if done > last:
            raise ConfigError(
                f"the run in {self._workdir} is after {unit} {done} already, and ends after {unit} {last} by"
                " config.train.steps or config.train.epochs: raise that, or make a model of an earlier checkpoint with"
                " `pixel-reasoner export --step`"
            )

    def save(self, step: int, state: TrainState, position: Mapping[str, Any], **counters: Any) -> None:
        """Starts writing a checkpoint.

        Args:
          step: that the state is after.
          state: of the training.
          position: the state of this process's data iterator.
          counters: saved with it as JSON, for `restore` to return.
        """
        if self._metrics is not None:
            self._metrics.flush()  # a run that goes on from this checkpoint has the metrics up to it
        iterator_state = {shard: place for places in all_gather_json(position) for shard, place in places.items()}
        meta = {"iterator": iterator_state, "counters": counters, "records": self._records}
        self._checkpoints.save(step, state, meta)

    @functools.cached_property
    def _records(self) -> int:
        """How many records an epoch has, those alone that `data.pass_rates` leaves in: their order depends on it."""
        data = self._config.data
        return record_count(data_sets(self._config), data.get("pass_rates", EVERY_RATE), data.get("held_out", 0.0))

    def has_saved(self, step: int) -> bool:
        """Whether there is a checkpoint of a step, or it is being written."""
        return step in self._checkpoints.steps

    def keep(self, step: int | None) -> None:
        """Keeps the checkpoint of a step, of none but this one, however many newer ones there are."""
        self._checkpoints.kept.clear()
        if step is not None:
            self._checkpoints.kept.add(step)

    def wait_for_checkpoints(self) -> None:
        """Waits until all checkpoints are on the disk."""
        self._checkpoints.wait()

    def end_early(self) -> NoReturn:
        """Ends the run because SIGTERM has come, when its checkpoints are written. All processes call this together."""
        self._checkpoints.wait()
        raise RunStopped(f"SIGTERM has ended the run {self._where()}")

    def _where(self) -> str:
        """Where the run is, and what it goes on from."""
        saved = self._checkpoints.steps_on_disk()
        has = f"step {saved[-1]} is saved" if saved else "no step is saved yet"
        return f"after step {self._step}; {has} in {self._workdir}"

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Counts the time of the body towards the metric `seconds_{name}` of the next `write`."""
        start = time.perf_counter()
        yield
        self._seconds[name] = self._seconds.get(name, 0.0) + time.perf_counter() - start

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Writes the metrics of a step, with the seconds of every phase since the last `write`.

        `tokens_per_second` leaves the time of evaluations out. Step 0 has those of the evaluation before the first one.
        """
        self._step = step
        seconds = {f"seconds_{name}": value for name, value in self._seconds.items()}
        total = sum(seconds.values())
        training = total - self._seconds.get("evaluation", 0.0)
        rate = metrics.get("tokens", 0.0) / training if training > 0 else 0.0
        if self._metrics is not None:
            rates = {"tokens_per_second": rate} if step else {}
            self._metrics.write(step, {**metrics, **seconds, "seconds": total, **rates})
        self._seconds = {}

    @property
    def is_tracked(self) -> bool:
        """Whether anything takes samples and alarms; False but in the first process."""
        return self._metrics is not None and bool(self._metrics.trackers)

    def track(self, what: str, *arguments: Any) -> None:
        """Tells the trackers of more than figures: a method of `Tracker`, with its arguments."""
        if self._metrics is not None:
            self._metrics.trackers.tell(what, *arguments)

    def metrics_so_far(self) -> list[dict[str, Any]]:
        """The metrics of the steps that were made before the run went on; none but in the first process."""
        if not self._step or not is_main() or not (self._workdir / METRICS).exists():
            return []
        return [line for line in read_metrics(self._workdir) if 0 < line["step"] <= self._step]

    def has_written(self, step: int) -> bool:
        """Whether the run, before it went on, has written the metrics of a step; False but in the first process."""
        return any(line["step"] == step for line in self.metrics_so_far())

    @property
    def workdir(self) -> pathlib.Path:
        """The run's directory."""
        return self._workdir

    def plan(self, sequences: Mapping[int, Seq[Sequence]]) -> dict[int, list[PlannedBatch]]:
        """Plans the batches of an update for each of this process's shards; see `packing.plan`."""
        train = self._config.train
        return {
            shard: plan(of_shard, self.processor, rows=train.micro_batch_rows, row_length=train.row_length)
            for shard, of_shard in sequences.items()
        }

    def agree_on_shapes(self, plans: Mapping[int, list[PlannedBatch]]) -> AgreedBatches:
        """What builds the planned batches; see `VirtualShards.agree_on_shapes`."""
        return self.shards.agree_on_shapes(plans, self.processor, self._config.train.micro_batch_rows)

    def progress(self, description: str, total: int, step: int) -> Progress:
        return Progress(self._config.get("title", description), total, step, quiet=not is_main())

    def export(self, state: TrainState, reason: str = "") -> pathlib.Path:
        """Writes the trained model, its processor and its policy settings; says where, and returns their directory.

        Args:
          state: the last one.
          reason: why the last step that made no update made none.

        Raises:
          NoUpdateError: no update was made: the model would be the untrained one.
        """
        if not int(state.step):
            more = reason or f"{self._workdir / METRICS} has the figures of every step"
            raise NoUpdateError(f"no update was made, so there is no trained model, and none is written: {more}")
        directory = self._workdir / MODEL
        nnx.update(self.model, state.params)
        self.model.save_pretrained(directory)
        self._save_beside_weights(directory)
        wait_for_all("exported")
        if is_main():
            print(f"the trained model is in {directory}", file=sys.stderr, flush=True)
        return directory

    def _save_beside_weights(self, directory: pathlib.Path) -> None:
        if not is_main():
            return
        self.processor.save_pretrained(directory)
        self.settings.save(directory)


def _check_is_no_rest(workdir: pathlib.Path) -> None:
    """Checks that a directory without a run's config has none of its checkpoints, which would be taken for a new run's.

    Raises:
      ConfigError: it has.
    """
    if not (workdir / FILE).exists() and (workdir / CHECKPOINTS).is_dir() and any((workdir / CHECKPOINTS).iterdir()):
        raise ConfigError(
            f"{workdir} holds the checkpoints of a run whose {FILE} is missing: give it back to go on with the run, or"
            " start a new one with --config.workdir=DIRECTORY"
        )


def data_sets(config: ConfigDict) -> DatasetMixture:
    """The data that `config.data` names: the path of a data set or a table, or the paths of several with their weights.

    Raises:
      ConfigError: a path holds neither a complete data set nor a table.
    """
    mixture = tuple(config.data.mixture)
    for path, key in [(path, "mixture") for path, _ in mixture] or [(config.data.path, "path")]:
        named = f"config.data.{key} names {path}"
        if is_table(path):
            if not as_path(path).is_file():
                raise ConfigError(f"{named}, and there is no such file")
        elif not (as_path(path) / DATASET_INFO).exists():
            table = ", ".join(TABLE_SUFFIXES)
            if "rollout" in config:
                remedy = f"give a table of questions and answers ({table}), or make a set of it with `import-data`"
            else:
                remedy = f"`pixel-reasoner synthesize` makes one, or give a table of `messages` ({table})"
            raise ConfigError(f"{named}, where no data set is complete: {remedy}; docs/data.md shows both")
    return mixture or config.data.path

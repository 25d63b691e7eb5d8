"""Weights & Biases: figures, config, a table of samples with their images, alarms as alerts.

Its own environment variables say where to (WANDB_PROJECT, WANDB_ENTITY, WANDB_MODE=offline, WANDB_API_KEY). A run that
goes on goes on in the same run there, whose id is in `wandb.json` of the run's directory; what it had logged after the
checkpoint is logged again, at the same `step`.
"""

from __future__ import annotations

import importlib.util
import json
import os
import secrets
from collections.abc import Mapping, Sequence

from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.files import as_path, is_remote, write_text
from pixel_reasoner_jax.trackers.tracker import TrackedRun, TrackedSample, Tracker, sheet

ID_FILE = "wandb.json"
PROJECT = "pixel_reasoner"  # unless WANDB_PROJECT names another one
INIT_SECONDS = 60.0  # that beginning may take
COLUMNS = ("step", "query", "sample", "question", "reference", "text", "images")


class WeightsAndBiases(Tracker):
    """Logs to Weights & Biases by its own client.

    Raises:
      UserError: the client is not installed.
    """

    def __init__(self, run: TrackedRun):
        super().__init__(run)
        self.check()
        import wandb

        file = as_path(run.workdir) / ID_FILE
        try:
            identity = str(json.loads(file.read_text(encoding="utf-8"))["id"])
        except (OSError, ValueError, LookupError, TypeError, RecursionError):  # none yet, or damaged
            identity = secrets.token_hex(4)
        self._wandb = wandb
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or PROJECT,
            name=run.name,
            id=identity,
            resume="allow",
            # Files to be copied to an object store do not include its links and temporary ones.
            dir=None if is_remote(run.workdir) else str(run.directory),
            config=dict(run.config),
            settings=wandb.Settings(console="off", init_timeout=INIT_SECONDS, disable_git=True, save_code=False),
        )
        write_text(file, json.dumps({"id": identity}) + "\n")
        # Not its own count of calls, which a run that goes on could not take back.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    @staticmethod
    def check() -> None:
        """Raises a UserError if the client is not installed."""
        if importlib.util.find_spec("wandb") is None:
            raise UserError(
                "config.metrics.trackers names 'wandb', and it is not installed:"
                " pip install 'pixel-reasoner-jax[wandb]', or leave it out"
            )

    def figures(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({**values, "step": step})

    def samples(self, step: int, samples: Sequence[TrackedSample]) -> None:
        names = list(dict.fromkeys(name for sample in samples for name in sample.figures))
        table = self._wandb.Table(columns=[*COLUMNS, *names])
        images = []
        for one in samples:
            shown = sheet(one.images)
            image = None if shown is None else self._wandb.Image(shown, caption=f"{one.query_id}, {one.sample}")
            images += [] if image is None else [image]
            texts = one.query_id, one.sample, one.question, one.reference, one.text
            table.add_data(step, *texts, image, *(one.figures.get(name) for name in names))
        # The images by themselves too: they can then be gone through step by step.
        self._run.log({"samples": table, "step": step} | ({"sample_images": images} if images else {}))

    def alarm(self, step: int, name: str, text: str) -> None:
        self._run.alert(title=f"{self.run.name}: {name}", text=f"step {step}: {text}", level="WARN")

    def close(self) -> None:
        self._run.finish()

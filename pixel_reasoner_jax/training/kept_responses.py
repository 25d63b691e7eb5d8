"""Some responses of every evaluation of a run, stored beside it: to be read, and not only counted.

The folder `evaluations/00012` of a run's directory has those of the evaluation after step 12 in the form of `evaluate`:
records, trajectories and images. They are drawn by their ids, so that those of later evaluations are responses to the
same queries. An evaluation that is made anew replaces its folder, and a run that goes on from a checkpoint drops those
of later ones.
"""

from __future__ import annotations

import contextlib
import dataclasses
import heapq
import logging
import pathlib
from collections.abc import Iterable

from etils import epath

from pixel_reasoner_jax.evaluation.answering import Answer
from pixel_reasoner_jax.evaluation.records import ScoredRecordWriter
from pixel_reasoner_jax.evaluation.trajectories import TrajectoryWriter
from pixel_reasoner_jax.files import storage_problem
from pixel_reasoner_jax.processing.decoding import digest

EVALUATIONS = "evaluations"  # folder in a run's directory

_log = logging.getLogger(__name__)


class KeptResponses:
    """The responses to one benchmark that are to be stored: no more than `most` are held, however many there are."""

    def __init__(self, most: int):
        self._most = most
        self._given = 0
        self._heap: list[tuple[int, int, Answer]] = []  # those with the smallest draws, the largest of them first

    def add(self, answer: Answer) -> None:
        """Takes a response, which is kept if it is drawn; an item that could not be read has none."""
        if answer.trajectory is None or not self._most:
            return
        answer = dataclasses.replace(answer, trajectory=dataclasses.replace(answer.trajectory, media=[]))  # its pixels
        drawn = int(digest(repr(answer.record.key).encode()), 16)
        self._given += 1
        heapq.heappush(self._heap, (-drawn, self._given, answer))
        if len(self._heap) > self._most:
            heapq.heappop(self._heap)

    @property
    def answers(self) -> list[Answer]:
        """Those that are kept, in an order that depends on their ids alone."""
        return [answer for _, _, answer in sorted(self._heap, key=lambda one: one[:2])]


def store(workdir: pathlib.Path, step: int, answers: Iterable[Answer]) -> None:
    """Stores responses of the evaluation after a step, in place of those of an earlier one. One process does it.

    What only is to be read ends no run: a response that cannot be stored is named in the log.

    Raises:
      OSError: the disk has no room for them.
    """
    folder = workdir / EVALUATIONS / f"{step:05d}"
    if folder.exists():
        epath.Path(folder).rmtree()
    with contextlib.ExitStack() as files:
        records = files.enter_context(ScoredRecordWriter(folder))
        trajectories = files.enter_context(TrajectoryWriter(folder))
        for answer in answers:
            try:
                trajectories.write(answer.record.key, answer.trajectory, answer.sources)
                records.write(answer.record)
            except Exception as error:  # whatever a model or a data set wrote
                if storage_problem(error):
                    raise
                _log.warning("evaluation after %d: a response was not stored: %s", step, error)


def drop_after(folder: pathlib.Path, number: int) -> None:
    """Removes the folders in a folder whose names are larger numbers. One process does it."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.name.isdecimal() and int(path.name) > number:
            epath.Path(path).rmtree()

"""How far the rollout of an episode is, in a few words: an episode of a large model takes many minutes."""

from __future__ import annotations

import collections
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

from pixel_reasoner_jax.rollout import QueryError
from pixel_reasoner_jax.rollout.counters import Counters
from pixel_reasoner_jax.trajectory import Trajectory

SECONDS = 0.5  # between two texts


class RolloutProgress:
    """Tells how far a rollout is, while it runs.

    Args:
      show: takes the text, as `metrics.Progress.note` does.
      samples: the responses to each of the queries that this process rolls out.
      counters: of the policy; what it has sampled before is left out.
      clock: seconds.
    """

    def __init__(
        self,
        show: Callable[[str], None],
        samples: Sequence[int],
        counters: Counters,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._show, self._samples, self._counters, self._clock = show, samples, counters, clock
        self._total = sum(samples)
        self._of_query: collections.Counter[int] = collections.Counter()
        self._operated = 0
        self._sampled_before, self._began = counters.sampled, clock()
        self._shown = self._began

    def asking(self, stop: Callable[[], bool] | None) -> Callable[[], bool]:
        """`stop` for `Policy.stream`, which also shows the progress each time that it is asked: every few tokens."""

        def asked() -> bool:
            if self._clock() - self._shown >= SECONDS:
                self._shown = self._clock()
                self._show(self.text())
            return stop is not None and stop()

        return asked

    def counting(self, stream: Iterable[tuple[int, Trajectory]]) -> Iterator[tuple[int, Trajectory]]:
        """The same stream; a query that fails is raised in its turn, and those after it can still be had."""
        return _Counted(iter(stream), self)

    def add(self, number: int, trajectory: Trajectory) -> None:
        """Counts a response to query `number`."""
        self._of_query[number] += 1
        self._operated += any(operation.succeeded for operation in trajectory.operations)

    def leave_out(self, number: int) -> None:
        """Expects no further responses to query `number`."""
        self._total -= self._samples[number] - self._of_query[number]

    def text(self) -> str:
        """Responses done, tokens a second, the rate of pixel-space reasoning so far, and the time left at this pace."""
        done, seconds = self._of_query.total(), max(self._clock() - self._began, 1e-9)
        parts = [
            f"rollout {done:,}/{self._total:,} responses",
            f"{(self._counters.sampled - self._sampled_before) / seconds:,.0f} tokens/s",
        ]
        if done:
            left = round(seconds / done * (self._total - done))
            parts += [f"RaPR {self._operated / done:.2f}", f"{_duration(left)} left"]
        return ", ".join(parts)


class _Counted(Iterator[tuple[int, Trajectory]]):
    """No generator, which an exception would end."""

    def __init__(self, stream: Iterator[tuple[int, Trajectory]], progress: RolloutProgress):
        self._stream, self._progress = stream, progress

    def __next__(self) -> tuple[int, Trajectory]:
        try:
            number, trajectory = next(self._stream)
        except QueryError as error:
            self._progress.leave_out(error.number)
            raise
        self._progress.add(number, trajectory)
        return number, trajectory


def _duration(seconds: int) -> str:
    """Seconds as minutes and seconds, or hours, minutes and seconds."""
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"

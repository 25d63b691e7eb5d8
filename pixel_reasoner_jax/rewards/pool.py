"""Answer checking that cannot hang or crash the trainer: math-verify in worker processes with a deadline."""

from __future__ import annotations

import atexit
import collections
import json
import logging
import selectors
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence

from pixel_reasoner_jax import child_processes
from pixel_reasoner_jax.config_values import ANSWER_RULES
from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.rewards.answers import for_algebra, judge, mathematics
from pixel_reasoner_jax.rewards.extraction import extract_answer
from pixel_reasoner_jax.trajectory import Trajectory

_log = logging.getLogger(__name__)

Task = tuple[str, str]
"""An answer and a reference."""

LOOK_SECONDS = 1.0  # between two looks at whether workers still run


class _Worker:
    """One process that runs `rewards.worker`; a worker that was killed is replaced by a new one."""

    def __init__(self, limit: float, deadline: float):
        self.process = child_processes.start(
            "pixel_reasoner_jax.rewards.worker",
            str(limit),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="ascii",
        )
        self.ready = False
        self.deadline = deadline
        self.expires = time.monotonic() + child_processes.START_LIMIT

    def send(self, task: Task) -> None:
        """Sends one (answer, reference); both are short, so that the pipe's buffer takes them at once."""
        self.expires = time.monotonic() + self.deadline
        try:
            print(json.dumps(task), file=self.process.stdin, flush=True)
        except OSError:
            pass  # the process died while idle: `receive` will read an end of file

    def receive(self) -> str:
        """One line, "ready" or a verdict; "" when the process is gone."""
        return self.process.stdout.readline().strip()

    def runs(self) -> bool:
        """Whether the process has neither ended nor been stopped."""
        return child_processes.runs(self.process)

    @property
    def at_limit(self) -> bool:
        """Whether the system ended it for what it computed: another one would fare the same."""
        return self.process.returncode == -signal.SIGXCPU

    def close(self) -> None:
        child_processes.end(self.process)
        self.process.stdout.close()
        try:
            self.process.stdin.close()
        except OSError:
            pass  # buffered output that no process will read


class AnswerPool:
    """Scores responses against references, math-verify in parallel worker processes.

    All but mathematics is compared in this process; workers start when algebra is first needed. A worker that was
    killed or stopped by something else is replaced, and the new one gets its answer, once. The pool is thread-safe and
    a context manager; its workers end with this process.

    Args:
      workers: the most worker processes.
      limit: seconds of computation for one comparison.
      deadline: seconds by the clock after which a worker is killed, whatever it is doing.
      rules: see `answers.judge`.

    Attributes:
      unchecked: how many answers could not be compared so far, and scored 0: beyond the limit or deadline, beyond the
        algebra, or without a worker.

    Raises:
      UserError: a number that is not positive, or unknown rules.
    """

    def __init__(self, workers: int = 2, limit: float = 4.0, deadline: float = 30.0, rules: str = ANSWER_RULES[0]):
        if min(workers, limit, deadline) <= 0:
            raise UserError(f"workers, limit and deadline must be positive, got {workers}, {limit} and {deadline}")
        if rules not in ANSWER_RULES:
            raise UserError(f"unknown rules {rules!r} for answers; known: {', '.join(ANSWER_RULES)}")
        self.workers, self.limit, self.deadline, self.rules = workers, limit, deadline, rules
        self.unchecked = 0
        self._idle: list[_Worker] = []
        self._lock = threading.Lock()
        atexit.register(self.close)

    def score(
        self, pairs: Sequence[tuple[str, str | Sequence[str]]], recovered: Sequence[bool] | None = None
    ) -> list[float]:
        """1.0 for every response whose final answer equals one of its reference answers, else 0.0.

        What cannot be compared scores 0 and is added to `unchecked`; if no worker process can be started, an error is
        logged.

        Args:
          pairs: (response text, reference or list of references).
          recovered: False for responses whose last operation failed; these score 0 whatever they answer.
        """
        scores = [0.0] * len(pairs)
        undecided: dict[Task, list[int]] = {}
        for index, (response, references) in enumerate(pairs):
            answer = extract_answer(response) if isinstance(response, str) else None
            if answer is None or (recovered is not None and not recovered[index]):
                continue
            references = references if isinstance(references, (list, tuple)) else [references]
            verdicts = {reference: judge(answer, reference, self.rules) for reference in map(str, references)}
            if True in verdicts.values():
                scores[index] = 1.0
                continue
            for reference, verdict in verdicts.items():
                if verdict is None:
                    undecided.setdefault(for_algebra(answer, reference), []).append(index)
        if undecided:
            with self._lock:
                verdicts = self._verify([task for task in undecided if mathematics.fits(task[0])])
                for task, indices in undecided.items():
                    for index in indices:
                        scores[index] = max(scores[index], float(verdicts.get(task) or 0))
                open_tasks = [task for task in undecided if verdicts.get(task) is None]
                self.unchecked += len({i for task in open_tasks for i in undecided[task] if not scores[i]})
        return scores

    def close(self) -> None:
        """Ends the workers; the pool can be used again afterwards."""
        with self._lock:
            while self._idle:
                self._idle.pop().close()

    def __enter__(self) -> AnswerPool:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _verify(self, tasks: list[Task]) -> dict[Task, bool | None]:
        """Compares (answer, reference) pairs; those that could not be compared are None or missing from the result."""
        verdicts: dict[Task, bool | None] = {}
        try:
            self._run_tasks(tasks, verdicts)
        except (OSError, RuntimeError) as error:
            _log.error(
                "answers that need math-verify count as wrong (%d of them): %s", len(tasks) - len(verdicts), error
            )
        return verdicts

    def _run_tasks(self, tasks: list[Task], verdicts: dict[Task, bool | None]) -> None:
        """Sends each task to a worker that is free, and adds the workers' answers to `verdicts`."""
        waiting = collections.deque(tasks)
        retried: set[Task] = set()
        failed_starts = 0
        running: dict[_Worker, Task | None] = {}  # None while it starts
        try:
            with selectors.DefaultSelector() as selector:
                while len(verdicts) < len(tasks):
                    for worker in self._free_workers(len(waiting), running):
                        selector.register(worker.process.stdout, selectors.EVENT_READ, worker)
                        running[worker] = waiting.popleft() if worker.ready else None
                        if worker.ready:
                            worker.send(running[worker])
                    patience = min(worker.expires for worker in running) - time.monotonic()
                    answered = [key.data for key, _ in selector.select(min(max(patience, 0.0), LOOK_SECONDS))]
                    expired = [worker for worker in running if worker.expires <= time.monotonic()]
                    lost = [worker for worker in running if not worker.runs()]
                    for worker in dict.fromkeys(answered + expired + lost):
                        line = worker.receive() if worker in answered else ""
                        task = running.pop(worker)
                        selector.unregister(worker.process.stdout)
                        if line:
                            worker.ready = True
                            self._idle.append(worker)
                        else:
                            worker.close()
                        if task is None:
                            failed_starts = 0 if line == "ready" else failed_starts + 1
                            if failed_starts > 1:
                                command = " ".join(worker.process.args)
                                raise RuntimeError(f"the answer checker does not start: run `{command}` to see why")
                        elif not line and task not in retried and worker not in expired and not worker.at_limit:
                            retried.add(task)
                            waiting.append(task)
                        else:
                            verdicts[task] = json.loads(line) if line else None
        finally:
            for worker in running:  # those still starting, or after an exception all of them
                worker.close()

    def _free_workers(self, waiting: int, running: dict[_Worker, Task | None]) -> Iterator[_Worker]:
        """Workers for tasks that wait: those that are idle and still run, then new ones."""
        starting = sum(task is None for task in running.values())
        while waiting and len(running) < self.workers:
            while self._idle:
                worker = self._idle.pop()
                if worker.runs():
                    break
                worker.close()
            else:
                if starting >= waiting:
                    return  # a starting worker for each waiting task is enough
                worker = _Worker(self.limit, self.deadline)
                starting += 1
            waiting -= worker.ready
            yield worker


def score_trajectories(trajectories: Sequence[Trajectory], pool: AnswerPool) -> list[float]:
    """1.0 for every response with a right answer, else 0.0.

    A response whose last operation failed counts as wrong (the rule of the released code).

    Args:
      trajectories: finished trajectories, with their references.
      pool: compares the answers.
    """
    pairs = [(trajectory.response, trajectory.reference) for trajectory in trajectories]
    return pool.score(pairs, [trajectory.recovered for trajectory in trajectories])


_default_pool: AnswerPool | None = None
_default_pool_lock = threading.Lock()


def answer_reward(response: str, reference: str | Sequence[str], recovered: bool = True) -> float:
    r"""1.0 if the final answer of a response is right, else 0.0; it never raises or hangs.

    The answer is the last `\boxed{...}`, else `<answer>...</answer>`, else the text after "Answer:". A letter is
    compared without regard to case and must be the only one ("A, B" is wrong). The reference "A. cat" accepts "A" and
    "cat". A percent sign is optional. A comma-separated reference accepts the same parts in any order and no others.
    `rewards.answers` has a module for every kind of answer; mathematics is compared by math-verify in another process,
    within a limit of seconds.

    Args:
      response: the text of the last turn.
      reference: the accepted answer, or several answers any of which is accepted.
      recovered: False when the last operation failed; the answer then counts as wrong.
    """
    global _default_pool
    with _default_pool_lock:
        if _default_pool is None:
            _default_pool = AnswerPool(workers=1)
    return _default_pool.score([(response, reference)], [recovered])[0]

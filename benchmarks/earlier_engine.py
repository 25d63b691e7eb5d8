"""The engine of an earlier commit on the workload of `benchmarks.rollout`, in a process that has that commit's files.

Run as a script, it is what that process runs: nothing but the standard library is imported before. It knows the
interface of the engine before its cache had pages.
"""

from __future__ import annotations

import io
import json
import os
import pathlib
import subprocess
import sys
import tarfile
import tempfile
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.workload import Workload

REPOSITORY = pathlib.Path(__file__).parents[1]


class EngineError(Exception):
    """The engine cannot be measured; the message says why."""


def find(commit: str) -> str:
    """The whole name of a commit; EngineError if it is not in this repository."""
    found = _git("rev-parse", "--verify", "--quiet", f"{commit}^{{commit}}")
    if found.returncode:
        raise EngineError(f"there is no commit {commit} here; in a shallow clone, git fetch --unshallow brings it")
    return found.stdout.decode().strip()


def measure(commit: str, workload: Workload) -> dict[str, float]:
    """What the engine of a commit did: its row of the benchmark's table.

    Raises:
      EngineError: there is no such commit here, or its process has failed.
    """
    archive = _git("archive", find(commit))
    if archive.returncode:
        raise EngineError(f"git archive {commit}: {archive.stderr.decode().strip()}")
    groups = [[(query, sample) for sample in range(workload.samples)] for query in range(len(workload.queries))]
    request = dict(
        directory=str(workload.directory),
        queries=workload.queries,
        samples=workload.samples,
        seed=workload.seed,
        turns=[[workload.row_turns(*row) for row in group] for group in groups],
    )
    with tempfile.TemporaryDirectory() as directory:
        with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
            files.extractall(directory, filter="data")
        done = subprocess.run(
            [sys.executable, "-P", __file__],  # without this folder on the path
            cwd=directory,
            env=os.environ | {"PYTHONPATH": directory},
            input=json.dumps(request),
            capture_output=True,
            text=True,
        )
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:]
        raise EngineError(f"the engine of {commit} ended with {done.returncode}: {''.join(last)}")
    return json.loads(done.stdout.splitlines()[-1])


def _git(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(["git", "-C", REPOSITORY, *arguments], capture_output=True)


def answer(request: dict) -> dict[str, float]:
    """Does the work of `measure` with the earlier commit's modules."""
    from benchmarks import rollout
    from benchmarks.workload import Workload, forbidden_tokens, forced_call, prompts
    from pixel_reasoner_jax.models import Qwen2_5_VL
    from pixel_reasoner_jax.processing import Processor
    from pixel_reasoner_jax.rollout import Limits, Policy, SamplingSettings

    turns, samples = request["turns"], request["samples"]
    workload = Workload(pathlib.Path(request["directory"]), tuple(request["queries"]), samples, seed=request["seed"])
    numbers = {query["id"]: number for number, query in enumerate(workload.queries)}

    class Forced(rollout.Forced):
        def parse(self, text):
            episode = self.asked
            query = numbers[episode.prompt.id]
            if episode.turn == len(turns[query][episode.sample]) - 1:
                return None
            return forced_call(workload, query, episode.sample, episode.turn)

    class Episode(rollout.ForcedEpisode):
        @property
        def turn_room(self):
            length = turns[numbers[self.prompt.id]][self.sample][self.turn]
            return min(self.room, length - len(self._turn_tokens))

    class Forcing(rollout.Forcing):
        episode = Episode

    processor = Processor.from_pretrained(workload.directory)
    sampling = SamplingSettings(forbidden_tokens=tuple(forbidden_tokens(processor).tolist()))
    rows = [row for group in turns for row in group]
    response = max(sum(row) + 250 * len(row) for row in rows)
    longest = max(len(prompt.rendered.tokens) for prompt in prompts(workload, processor)) + response
    policy = Policy(
        Qwen2_5_VL.from_pretrained(workload.directory),
        processor,
        registry=Forced(workload),
        limits=Limits(max(map(len, rows)) - 1, response, max_length=longest),
        slots=len(rows),
    )
    policy.warmup(sampling=sampling)
    began = time.process_time()
    for _ in Forcing(policy, list(workload.queries), samples, 0, sampling, None, policy.slots):
        pass
    processor, counters = time.process_time() - began, policy.counters
    return dict(
        seconds=counters.seconds,
        processor_seconds=processor,
        generated=counters.sampled,
        prefilled=counters.prefilled,
    )


if __name__ == "__main__":
    print(json.dumps(answer(json.load(sys.stdin))))

"""Operations that are slow, hang or have a bug hold up nobody else."""

import dataclasses
import itertools
import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from pixel_reasoner_jax.operations import Call, CropImage, Registry
from pixel_reasoner_jax.rollout import Limits
from pixel_reasoner_jax.trajectory import Ended
from tests.rollout.zooming_policy import TURNS, Zooming, zooming


def test_a_slow_operation_holds_up_nobody(world, queries):
    """One response waits for its crop until all others are over."""
    released = threading.Event()

    class Waiting(CropImage):
        def run(self, arguments, state):
            if arguments["bbox_2d"][0] < 0:
                assert released.wait(60)
            return super().run({**arguments, "bbox_2d": [0.1, 0.1, 0.6, 0.6]}, state)

    class First(Zooming):
        parsed = itertools.count()

        def parse(self, text):
            x = -1.0 if next(self.parsed) == 0 else 0.5
            return Call("crop_image_normalized", {"bbox_2d": [x, 0, 1, 1], "target_image": 1})

    policy = zooming(world, registry=First([Waiting(0.0)]), limits=Limits(1, 60), slots=3)
    order = []
    for number, trajectory in policy.stream(queries, samples=2, sampling=TURNS):
        order.append((number, trajectory.sample))
        if len(order) == 11:
            released.set()
    assert sorted(order) == [(number, sample) for number in range(6) for sample in range(2)]
    assert trajectory.operations[0].succeeded and len(trajectory.media) == 2


def test_an_operation_that_takes_too_long_has_failed(world, queries):
    over = threading.Event()

    class Stuck(CropImage):
        def run(self, arguments, state):
            over.wait(60)
            return super().run(arguments, state)

    policy = zooming(world, registry=Zooming([Stuck(0.0)]), limits=Limits(1, 60), operation_seconds=0.2)
    [[trajectory]] = policy.rollout(queries[:1], sampling=TURNS)
    over.set()
    assert trajectory.operations[0].error == "the operation took more than 0.2 seconds"
    assert "took more than" in trajectory.messages[3]["content"][0]["text"] and len(trajectory.media) == 1


class Spoilt(CropImage):
    """An operation with mistakes of its own."""

    def __init__(self, mistake, path):
        super().__init__(0.0)
        self.mistake, self.path = mistake, path

    def run(self, arguments, state):
        if self.mistake == "returns nothing":
            return None
        result = super().run(arguments, state)
        if self.mistake == "no images":
            return dataclasses.replace(result, images=[])
        if self.mistake == "no picture":
            return dataclasses.replace(result, images=[np.zeros((2, 2))])
        if self.mistake == "source gone":
            os.unlink(self.path)
        return result

    def observation_text(self, result, sizes):
        if self.mistake == "text":
            raise ZeroDivisionError
        return super().observation_text(result, sizes)


@pytest.mark.parametrize("mistake", ["returns nothing", "no images", "no picture", "text", "source gone"])
def test_an_operation_with_a_bug_is_an_observation(world, queries, tmp_path, mistake):
    path = str(tmp_path / "image.png")
    queries[0]["images"][0].convert("RGB").save(path)

    class Calling(Registry):
        def parse(self, text):
            return Call("crop_image_normalized", {"bbox_2d": [0.1, 0.1, 0.6, 0.6], "target_image": 1})

    policy = zooming(world, registry=Calling([Spoilt(mistake, path)]), limits=Limits(1, 60), image_bytes=0)
    [[trajectory]] = policy.rollout([{**queries[0], "images": [path]}], sampling=TURNS)
    assert "failed" in trajectory.operations[0].error and len(trajectory.media) == 1
    assert trajectory.ended == Ended.OPERATIONS


def test_a_hung_operation_takes_no_thread_from_the_others(world, queries):
    """The clock of an operation starts when a thread takes it up."""
    over = threading.Event()

    class Hanging(CropImage):
        calls = itertools.count()

        def run(self, arguments, state):
            if next(self.calls) == 0:
                over.wait(60)
            time.sleep(0.05)
            return super().run(arguments, state)

    policy = zooming(world, registry=Zooming([Hanging(0.0)]), limits=Limits(1, 60), operation_seconds=0.5, workers=1)
    groups = policy.rollout(queries, samples=4, sampling=TURNS)
    over.set()
    failed = [t for group in groups for t in group if t.operations[0].error]
    assert len(failed) == 1 and failed[0].operations[0].error == "the operation took more than 0.5 seconds"


def test_a_hung_operation_does_not_keep_the_process_alive():
    program = (
        "import threading\nfrom pixel_reasoner_jax.rollout.workers import Workers\n"
        "workers = Workers(1)\ntask = workers.submit(threading.Event().wait)\n"
        "while task.began is None: pass\nworkers.give_up(task)\n"
        "assert workers.submit(int, '7').future.result(10) == 7\nworkers.close()"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)

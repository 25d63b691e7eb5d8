"""Workers that are killed, stopped or fail: never silence, and nothing left behind."""

import concurrent.futures
import gc
import multiprocessing.resource_tracker
import multiprocessing.spawn
import os
import signal
import time
import types

import grain
import pytest

from data_pipeline import worker_processes
from data_pipeline.batch_loader import BatchLoader, LoaderSettings
from data_pipeline.worker_processes import Worker, WorkerError, WorkerProcesses
from pixel_reasoner_jax.training.feed import Feed

SIZE = 2**22  # of an item, far more than a pipe holds: a worker is always in the middle of sending one


def item(index):
    return bytes([index % 256]) * SIZE


def failing(index):
    if index == 3:
        raise ZeroDivisionError("by record 3")
    return index


def big_items() -> grain.MapDataset:
    return grain.MapDataset.range(10**6).map(item)


def ended(pids, seconds=20.0):
    deadline = time.monotonic() + seconds
    while any(os.path.exists(f"/proc/{pid}") for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return True


def test_a_worker_that_dies_before_it_begins_ends_the_reading(monkeypatch):
    """As one does in a script without a main guard, which runs the script again."""
    multiprocessing.resource_tracker.ensure_running()  # by this Python
    monkeypatch.setattr(multiprocessing.spawn, "_python_exe", b"/bin/false")
    large = grain.MapDataset.source([bytes(2**22)])  # more than a pipe holds
    with pytest.raises(WorkerError, match=r"data worker 1 of 2 \(process \d+\) ended with exit status 1"):
        WorkerProcesses(large, 2, 1, 1)


def test_a_stopped_worker_is_named_and_a_killed_one_ends_the_reading(monkeypatch, caplog):
    monkeypatch.setattr(worker_processes, "SILENCE_SECONDS", 0.1)
    items = WorkerProcesses(big_items(), 1, 1, 1)
    assert [next(items)[0] for _ in range(5)] == [0, 1, 2, 3, 4]
    [pid] = [worker.process.pid for worker in items._workers]
    for number in (signal.SIGINT, signal.SIGTERM):  # what a terminal or a launcher sends to all at once
        os.kill(pid, number)
    assert [next(items)[0] for _ in range(2)] == [5, 6]
    os.kill(pid, signal.SIGSTOP)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(next, items)
        while not caplog.messages:
            time.sleep(0.01)
        os.kill(pid, signal.SIGCONT)
        assert waiting.result(60)[0] == 7
        caplog.clear()
        next(items)
        os.kill(pid, signal.SIGSTOP)
        waiting = pool.submit(next, items)
        while not caplog.messages:
            time.sleep(0.01)
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(WorkerError, match=r"data worker 1 of 1 \(process \d+\) was killed by SIGKILL, most likely"):
            waiting.result(60)
    assert f"data worker 1 of 1 (process {pid}) has sent nothing for " in caplog.messages[0]
    assert f"it is stopped, and `kill -CONT {pid}` lets it go on" in caplog.messages[0]
    assert ended([pid])


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0.0, 0.001, 0.01, 0.03, 0.1])
@pytest.mark.parametrize("victims", [(0,), (1,), (0, 1)])
def test_a_killed_worker_always_ends_the_reading(delay, victims):
    """At any moment, and the next batch is read by new workers from where the last one ended."""
    loader = BatchLoader({0: big_items()}, 3, LoaderSettings(workers=2, ahead=4))
    next(loader)
    pids = [worker.process.pid for worker in loader._items._workers]
    time.sleep(delay)
    for victim in victims:
        os.kill(pids[victim], signal.SIGKILL)
    with pytest.raises(WorkerError, match="was killed by SIGKILL"):
        for _ in range(20):
            next(loader)
    assert ended(pids)
    used = loader.get_state()["0"]["used"]
    assert [content[0] for content in next(loader)[0]] == [used, used + 1, used + 2]
    loader.close()


@pytest.mark.slow
def test_an_error_of_the_dataset_comes_as_it_is():
    items = WorkerProcesses(grain.MapDataset.range(5).map(failing), 1, 1, 2)
    assert [next(items) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ZeroDivisionError, match="by record 3") as error:
        next(items)
    assert "in failing" in error.value.__notes__[-1]
    pids = [worker.process.pid for worker in items._workers]
    del items, error  # nobody closes it
    gc.collect()
    assert ended(pids)


@pytest.mark.slow
def test_a_feed_that_waits_for_a_stopped_worker_can_be_left():
    """As after Ctrl-C: nobody waits for what it reads."""
    loader = BatchLoader({0: big_items()}, 3, LoaderSettings(workers=1, ahead=1))
    with Feed(loader, lambda batch: batch[0], lambda planned: lambda: [one[0] for one in planned], 100) as feed:
        assert next(feed) == [0, 1, 2]
        [pid] = [worker.process.pid for worker in loader._items._workers]
        os.kill(pid, signal.SIGSTOP)
    assert ended([pid])


def test_any_error_can_be_sent():
    class Unpicklable(Exception):
        pass

    for error, kind in ((ZeroDivisionError("by 3"), ZeroDivisionError), (Unpicklable("by 3"), RuntimeError)):
        try:
            raise error
        except Exception as raised:
            sent = worker_processes._sendable(raised)
        assert type(sent) is kind and "by 3" in str(sent) and "test_any_error_can_be_sent" in sent.__notes__[-1]


@pytest.mark.slow
def test_all_items_come_in_order():
    for count in (1, 2, 3):
        assert list(WorkerProcesses(grain.MapDataset.range(10), count, 2, 3)) == list(range(10))


@pytest.mark.parametrize(
    "status,words",
    [
        (
            -signal.SIGKILL,
            ["killed by SIGKILL, most likely because the machine has run out of memory", "--resume", "now 4"],
        ),
        (
            -signal.SIGSEGV,
            ["died of SIGSEGV: a library crashed", "damaged file", "--config.data.workers, now 4; 0 reads"],
        ),
        (-signal.SIGUSR1, ["ended by SIGUSR1, which somebody sent: go on with --resume"]),
        (-77, ["ended by signal 77"]),
        (3, ["ended with exit status 3; what it wrote before says why. Go on with --resume"]),
    ],
)
def test_how_a_worker_died_is_said(status, words):
    process = types.SimpleNamespace(pid=5, exitcode=int(status), join=lambda seconds: None)
    message = worker_processes._cause_of_death(Worker("data worker 1 of 4", process, None), 4)
    assert message.startswith("data worker 1 of 4 (process 5) ") and all(word in message for word in words)

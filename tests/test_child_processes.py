import os
import subprocess
import sys

from pixel_reasoner_jax import child_processes


def test_a_child_whose_end_another_thread_has_seen_does_not_run():
    """That thread holds the process's lock for a moment longer, and `poll` then tells nothing."""
    process = subprocess.Popen([sys.executable, "-S", "-c", ""])
    with process._waitpid_lock:
        os.waitpid(process.pid, 0)
        assert process.poll() is None
        assert not child_processes.runs(process)
    process.wait()

"""The process that runs math-verify for `AnswerPool`: it reads one JSON pair a line and writes one JSON verdict a
line: true, false, or null for a comparison that could not be made.

The limit is in seconds of computation, not of the clock, so that a busy machine does not turn right answers into wrong
ones. math-verify's limits are by the clock and therefore off.
"""

from __future__ import annotations

import json
import logging
import math
import os
import resource
import signal
import sys

MEMORY_LIMIT = 4 << 30  # bytes of address space: an absurd integer must not take the machine's memory
KILL_SECONDS = 2  # of computation, after a comparison was interrupted, until the system ends the process


class Interrupted(BaseException):
    """Raised by a timer; no library catches it by accident."""


def main() -> None:
    limit = float(sys.argv[1])
    # Libraries may print; only verdicts may reach the parent.
    verdicts = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)
    logging.disable(logging.CRITICAL)
    from math_verify import parse, verify

    def interrupt(*_):
        raise Interrupted

    signal.signal(signal.SIGPROF, interrupt)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    def equal(answer: str, reference: str) -> bool:
        expected = parse(f"\\boxed{{{reference}}}", parsing_timeout=None)
        given = parse(f"\\boxed{{{answer}}}", parsing_timeout=None)
        return bool(verify(expected, given, timeout_seconds=None))

    print("ready", file=verdicts, flush=True)
    for line in sys.stdin:
        # A timer cannot interrupt one long operation on huge integers; the system ends the process then, whether or not
        # there is a parent left to do it.
        usage = resource.getrusage(resource.RUSAGE_SELF)
        end = math.ceil(usage.ru_utime + usage.ru_stime + limit) + KILL_SECONDS
        resource.setrlimit(resource.RLIMIT_CPU, (end, resource.RLIM_INFINITY))
        signal.setitimer(signal.ITIMER_PROF, limit)
        try:
            verdict = equal(*json.loads(line))
        except (Exception, Interrupted):
            verdict = None
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(json.dumps(verdict), file=verdicts, flush=True)


if __name__ == "__main__":
    main()

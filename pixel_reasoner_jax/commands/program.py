"""The `pixel-reasoner` program: a Ctrl-C that comes while its modules are still read is one line too."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

INTERRUPTED = 130  # as `signals.INTERRUPTED`, which is among what is read


def main() -> int:
    """Runs the command that the program's arguments name; returns its exit status."""
    signal.signal(signal.SIGINT, _interrupted)
    if "" not in sys.path:  # so that `module:function` of one's own is found where the command is started
        sys.path.append("")
    from pixel_reasoner_jax.commands import cli

    return cli.main()


def _interrupted(number: int, frame: FrameType | None) -> None:
    os.write(2, b"pixel-reasoner: interrupted\n")
    os._exit(INTERRUPTED)  # an exception would come out of the middle of an import


if __name__ == "__main__":
    raise SystemExit(main())

"""Commands die with their worker, however it ends: a small process of ours waits for that, and kills them then.

Templates and runners need no such help, they notice by themselves that nobody is at the other end.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys

# Reads "+PID" and "-PID" lines; at the end of its input the worker is gone.
_PROGRAM = """\
import os, signal, sys
groups = set()
for line in sys.stdin:
    (groups.add if line[0] == "+" else groups.discard)(int(line[1:]))
for group in groups:
    try:
        os.killpg(group, signal.SIGKILL)
    except OSError:
        continue
"""


class OrphanWatch:
    """Without it commands still run: what it adds is for a crash."""

    def __init__(self) -> None:
        self._watcher: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Be there before the process that is to be watched: starting takes long enough to be killed meanwhile."""
        if self._watcher is None:
            with contextlib.suppress(OSError):
                self._watcher = subprocess.Popen(
                    [sys.executable, "-I", "-S", "-c", _PROGRAM],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    bufsize=0,
                    start_new_session=True,
                )

    def add(self, group: int) -> None:
        """This process group is to be killed if we end before ``remove``."""
        self._say(f"+{group}\n")

    def remove(self, group: int) -> None:
        self._say(f"-{group}\n")

    def close(self) -> None:
        """Every watched process has ended."""
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            assert watcher.stdin is not None
            watcher.stdin.close()
            watcher.wait()

    def _say(self, line: str) -> None:
        if self._watcher is not None:
            assert self._watcher.stdin is not None
            with contextlib.suppress(OSError):
                self._watcher.stdin.write(line.encode())

"""The command line on a terminal, as a person has it."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

TIMEOUT_S = 60


class TerminalRun:
    """A command on a terminal of its own, read until something appears."""

    def __init__(self, process: subprocess.Popen[bytes], terminal: int) -> None:
        self.process = process
        self._terminal = terminal
        self.text = ""

    def read_until(self, found: Callable[[str], object]) -> None:
        while not found(self.text):
            if not self._read():
                raise AssertionError(f"the command ended before it showed that:\n{self.text}")

    def finish(self) -> int:
        while self._read():
            pass
        return self.process.wait(TIMEOUT_S)

    def interrupt(self) -> None:
        self.press(b"\x03")

    def press(self, keys: bytes) -> None:
        os.write(self._terminal, keys)

    def _read(self) -> bool:
        if not select.select([self._terminal], [], [], TIMEOUT_S)[0]:
            raise AssertionError(f"nothing more was shown:\n{self.text}")
        try:
            chunk = os.read(self._terminal, 65536)
        except OSError:  # a terminal whose last user has gone
            return False
        self.text += chunk.decode(errors="replace")
        return bool(chunk)


@contextmanager
def on_terminal(directory: Path, *args: str, term: str = "xterm-256color", **environment: str) -> Iterator[TerminalRun]:
    """``fleetest`` with these arguments, on a terminal of 100 columns and 30 lines."""
    own, theirs = pty.openpty()
    try:
        process = subprocess.Popen(
            # A session leader that opens a terminal makes it its own: then ^C is a signal.
            ["sh", "-c", 'exec "$@" <"$0" >"$0" 2>&1', os.ttyname(theirs), sys.executable, "-m", "fleetest", *args],
            cwd=directory,
            stdin=theirs,
            start_new_session=True,
            env={**os.environ, "TERM": term, "COLUMNS": "100", "LINES": "30", **environment},
        )
    finally:
        os.close(theirs)
    try:
        yield TerminalRun(process, own)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        os.close(own)

"""Tests that run until they are told to go on, so that whoever tests the fleet need not guess how long something takes.

A task that meets says its name on a socket and waits for the answer. While it waits, it runs: for certain, and exactly
as long as wanted.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

_PROGRAM = """\
import json, socket, sys, time
address, name = sys.argv[1:]
started = time.monotonic()
with socket.socket(socket.AF_UNIX) as met:
    met.connect(address)
    met.sendall(name.encode() + b"\\n")
    status = met.recv(1)
print(json.dumps({"task": name, "started": started, "ended": time.monotonic()}))
raise SystemExit(status[0] if status else 99)
"""


class Meeting:
    """Listens in ``directory``. Tasks come with the command line of ``argv``."""

    def __init__(self, directory: Path) -> None:
        self._address = str(directory / "meeting")
        self._program = directory / "meet.py"
        self._program.write_text(_PROGRAM)
        self._changed = threading.Condition()
        self._present: dict[str, socket.socket] = {}
        self.arrivals: list[str] = []
        """Names in the order of their coming; a name comes again with another attempt."""
        self.most_present = 0
        """The most that were here at the same time."""
        self._is_closing = False
        self._is_open_house = False
        self._guests: list[threading.Thread] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self._address)
        self._listener.listen(256)
        self._thread = threading.Thread(target=self._listen, name="meeting", daemon=True)
        self._thread.start()

    def argv(self, name: str) -> tuple[str, ...]:
        """A command that comes to the meeting, and then tells in JSON when it began and ended (monotonic clock)."""
        return (sys.executable, "-I", "-S", str(self._program), self._address, name)

    @property
    def present(self) -> set[str]:
        with self._changed:
            return set(self._present)

    def wait_until(self, is_enough: Callable[[], bool], what: str, timeout_s: float = 60.0) -> None:
        """Wait for somebody's coming or going. Raises AssertionError after ``timeout_s``."""
        with self._changed:
            if not self._changed.wait_for(is_enough, timeout_s):
                raise AssertionError(f"not within {timeout_s:.0f} s: {what}; here are {sorted(self._present)}")

    def wait_for(self, *names: str, timeout_s: float = 60.0) -> None:
        """Wait until all of them are here."""
        self.wait_until(lambda: set(names) <= set(self._present), f"all of {names} come", timeout_s)

    def wait_for_count(self, count: int, timeout_s: float = 60.0) -> set[str]:
        """Wait until at least so many are here; who they are."""
        self.wait_until(lambda: len(self._present) >= count, f"{count} come", timeout_s)
        return self.present

    def release(self, name: str, status: int = 0) -> None:
        """Let it go on: it ends with this exit status."""
        with self._changed:
            met = self._present.pop(name)
            self._changed.notify_all()
        _answer(met, status)

    def open_house(self) -> None:
        """Let everybody go on, and whoever comes later at once."""
        with self._changed:
            self._is_open_house = True
            waiting, self._present = list(self._present.values()), {}
            self._changed.notify_all()
        for met in waiting:
            _answer(met, 0)

    def close(self) -> None:
        """Nobody is waited for any more; who is still here is let go."""
        if self._is_closing:
            return
        self._is_closing = True
        self.open_house()
        with socket.socket(socket.AF_UNIX) as last:
            last.connect(self._address)
        self._thread.join()
        for guest in self._guests:
            guest.join()
        self._listener.close()

    def _listen(self) -> None:
        while True:
            met, _ = self._listener.accept()
            if self._is_closing:
                met.close()
                return
            thread = threading.Thread(target=self._welcome, args=(met,), daemon=True)
            self._guests.append(thread)
            thread.start()

    def _welcome(self, met: socket.socket) -> None:
        """Read its name, then stay until it goes: a process that is killed goes too."""
        name = ""
        with met, contextlib.suppress(OSError), met.makefile() as words:
            name = words.readline().strip()
            if not name:
                return
            with self._changed:
                self.arrivals.append(name)
                if self._is_open_house:
                    met.sendall(b"\0")
                else:
                    self._present[name] = met
                    self.most_present = max(self.most_present, len(self._present))
                self._changed.notify_all()
            words.read()
        with self._changed:
            if self._present.get(name) is met:
                del self._present[name]
                self._changed.notify_all()


def _answer(met: socket.socket, status: int) -> None:
    # It may be gone: whoever waits for its coming back will see that.
    with contextlib.suppress(OSError):
        met.sendall(bytes([status]))


def most_at_once(spans: Iterable[tuple[float, float]]) -> int:
    """The largest number of these spans (beginning, end) that overlap."""
    together = most = 0
    for _, change in sorted(moment for start, end in spans for moment in ((start, 1), (end, -1))):
        together += change
        most = max(most, together)
    return most

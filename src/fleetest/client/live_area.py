"""The live area at the bottom of a terminal: bar, counts, rate, time left, slots. Lines print above it."""

from __future__ import annotations

import io
import re
import sys
import threading
import time
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import TextIO, cast

from rich.ansi import AnsiDecoder
from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

from fleetest.client.run_progress import ProgressSnapshot, RunProgress, SlotState
from fleetest.client.terminal_text import duration, one_line
from fleetest.core.model import Verdict
from fleetest.wire.messages import CoordinatorToClient

REFRESHES_PER_S = 5.0
BAR_WIDTH_MAX = 60
SLOT_LINES_MAX = 16
MARGIN = 5
"""Free cells at the end of each line: a terminal echoes ``^C`` there, and a line that breaks leaves a rest behind."""
VERDICT_STYLE = {
    Verdict.PASSED: "green",
    Verdict.SKIPPED: "yellow",
    Verdict.XFAILED: "yellow",
    Verdict.XPASSED: "yellow",
    Verdict.CANCELLED: "dim",
    Verdict.NOT_RUN: "magenta",
}
FAILURE_STYLE = "red"
_ALWAYS_SHOWN = (Verdict.PASSED, Verdict.FAILED, Verdict.SKIPPED)
_PROGRESS_REPORT = re.compile("\x1b]9;[^\x1b\x07]*(\x1b\\\\|\x07)")


class LiveArea:
    """Owns the terminal between ``start`` and ``stop``; whatever is written meanwhile appears above the area.

    ``note`` belongs to the thread that reads messages; the drawing thread only takes snapshots under the same lock.
    """

    def __init__(
        self,
        progress: RunProgress,
        stream: TextIO,
        *,
        colour: bool | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._progress = progress
        self._clock = clock
        self._lock = threading.Lock()
        self.stream = stream
        self.console = Console(
            file=stream,
            force_terminal=True,
            no_color=None if colour is None else not colour,
            markup=False,
            emoji=False,
            highlight=False,
        )
        self.is_started = False
        self._live: Live | None = None
        self._standard_streams: list[tuple[str, TextIO, AboveArea]] = []

    def note(self, message: CoordinatorToClient) -> None:
        """Take one message into account; it shows at the next refresh."""
        with self._lock:
            self._progress.note(message, self._clock())

    def start(self) -> None:
        """Draw, and go on drawing until ``stop``."""
        if self.is_started:
            return
        self.is_started = True
        if isinstance(self.stream, io.TextIOWrapper):
            # A test name that the terminal cannot show must not end the run.
            self.stream.reconfigure(errors="backslashreplace")
        self._live = Live(
            console=self.console,
            get_renderable=self._render,
            refresh_per_second=REFRESHES_PER_S,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
            vertical_overflow="crop",
        )
        self._live.start(refresh=True)
        for name in ("stdout", "stderr"):
            own = getattr(sys, name)
            if own is not None and own.isatty():
                proxy = AboveArea(self, own)
                self._standard_streams.append((name, own, proxy))
                setattr(sys, name, cast("TextIO", proxy))

    def stop(self) -> None:
        """Erase the area; the terminal is as it was, below what was printed."""
        if self._live is None:
            return
        for name, own, proxy in self._standard_streams:
            proxy.finish()
            if getattr(sys, name) is proxy:
                setattr(sys, name, own)
        self._standard_streams.clear()
        self._live.stop()
        self._live = None
        self.is_started = False

    def __enter__(self) -> LiveArea:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stream_above(self, stream: TextIO) -> AboveArea:
        """A stream to write to instead of ``stream`` while the area is shown."""
        return AboveArea(self, stream)

    def print_lines(self, lines: Iterable[Text]) -> None:
        """Print above the area, all in one go."""
        text = Text("\n").join(lines)
        if text:
            self.console.print(text, soft_wrap=True)

    def _render(self) -> RenderableType:
        with self._lock:
            snapshot = self._progress.snapshot(self._clock())
        width, height = self.console.size
        is_unicode = (self.console.encoding or "").lower().startswith("utf")
        return render(snapshot, width, height, is_unicode=is_unicode)


class AboveArea(io.TextIOBase):
    """A text stream whose lines appear above the live area; a line that has not ended waits for its end."""

    def __init__(self, area: LiveArea, stream: TextIO) -> None:
        self._area = area
        self._stream = stream
        self._pending = ""
        self._decoder = AnsiDecoder()

    def write(self, text: str) -> int:
        lines = (self._pending + text).split("\n")
        self._pending = lines.pop()
        if lines:
            self._area.print_lines([self._decoded(line) for line in lines])
        return len(text)

    def flush(self) -> None:
        """Nothing to do: whole lines are out already, and half a line would tear the area."""

    def finish(self) -> None:
        """Print the line that never ended."""
        if self._pending:
            self.write("\n")

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._stream.encoding

    @property
    def errors(self) -> str | None:  # type: ignore[override]
        return self._stream.errors

    def _decoded(self, line: str) -> Text:
        return self._decoder.decode_line(_PROGRESS_REPORT.sub("", line))


def render(snapshot: ProgressSnapshot, width: int, height: int, *, is_unicode: bool = True) -> Text:
    """The area as text of at most ``height`` - 1 lines, each shorter than ``width`` by the margin."""
    width = max(1, width - MARGIN)
    lines = [_bar_line(snapshot, width, is_unicode), _count_line(snapshot)]
    room = min(SLOT_LINES_MAX, height - len(lines) - 2)
    lines.extend(_slot_lines(snapshot, width, room))
    for line in lines:
        line.no_wrap = True
        line.truncate(width, overflow="ellipsis" if is_unicode else "crop")
    area = Text("\n").join(lines)
    area.no_wrap = True
    area.overflow = "crop"
    return area


def _bar_line(snapshot: ProgressSnapshot, width: int, is_unicode: bool) -> Text:
    if not snapshot.planned:
        return Text("collecting tests" if snapshot.worker_count else "waiting for a worker", style="bold")
    numbers = f" {snapshot.finished}/{snapshot.planned} "
    share = snapshot.finished / snapshot.planned
    percent = f"{int(100 * share)}%"
    bar_width = max(5, min(BAR_WIDTH_MAX, width - len(numbers) - len(percent) - 2))
    filled = int(bar_width * share)
    has_failures = any(not verdict.is_success for verdict in snapshot.counts)
    full, empty = ("━", "━") if is_unicode else ("#", "-")
    return Text.assemble(
        (full * filled, FAILURE_STYLE if has_failures else "green"),
        (empty * (bar_width - filled), "bright_black"),
        (numbers, "bold"),
        percent,
    )


def _count_line(snapshot: ProgressSnapshot) -> Text:
    parts = []
    for verdict in Verdict:
        count = snapshot.counts.get(verdict, 0)
        if count or verdict in _ALWAYS_SHOWN:
            style = VERDICT_STYLE.get(verdict, FAILURE_STYLE) if count else "dim"
            parts.append(Text(f"{count} {verdict.value.replace('_', ' ')}", style=style))
    if snapshot.retried:
        parts.append(Text(f"{snapshot.retried} run again", style="magenta"))
    clock = f"{snapshot.tests_per_s:.0f}" if snapshot.tests_per_s >= 10 else f"{snapshot.tests_per_s:.1f}"
    parts.append(Text(f"{clock} tests/s", style="cyan"))
    left = "" if snapshot.left_s is None else f", about {_clock_face(snapshot.left_s)} left"
    parts.append(Text(f"{_clock_face(snapshot.elapsed_s)}{left}", style="cyan"))
    return Text("  ").join(parts)


def _slot_lines(snapshot: ProgressSnapshot, width: int, room: int) -> list[Text]:
    if room < 1 or not snapshot.slots:
        return []
    slots = sorted(snapshot.slots, key=lambda slot: (len(slot.runner), slot.runner))
    hidden = len(slots) - room
    if hidden > 0:
        # The slow ones are what somebody who waits wants to see.
        slots = sorted(slots, key=lambda slot: -slot.running_s)[: room - 1]
        hidden = len(snapshot.slots) - len(slots)
    names = [_slot_name(slot, snapshot.worker_count) for slot in slots]
    name_width = min(30, max((len(name) for name in names), default=0))
    lines = [
        _slot_line(name[:name_width].ljust(name_width), slot, width) for name, slot in zip(names, slots, strict=True)
    ]
    if hidden > 0:
        lines.append(Text(f"  and {hidden} more slots", style="dim"))
    return lines


def _slot_name(slot: SlotState, worker_count: int) -> str:
    return one_line(f"{slot.worker}/{slot.runner}" if worker_count > 1 else slot.runner, 40)


def _slot_line(name: str, slot: SlotState, width: int) -> Text:
    if slot.task_id is None:
        return Text.assemble(("  " + name, "blue"), ("  idle", "dim"))
    taken = f"  {duration(slot.running_s) if slot.running_s >= 1 else '':>7}"
    room = max(8, width - len(name) - 4 - len(taken))
    test = Text(_shortened(one_line(slot.task_id, 500), room))
    test.truncate(room, pad=True)
    return Text.assemble(("  " + name, "blue"), "  ", test, (taken, "yellow" if slot.running_s >= 10 else "dim"))


def _shortened(name: str, room: int) -> str:
    """The end of a long test name says more than its beginning."""
    return name if len(name) <= room else "..." + name[-(room - 3) :]


def _clock_face(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def failure_line(verdict: Verdict, task_id: str, where: str, why: str) -> Text:
    """One line for one task that did not pass; every part may be hostile."""
    return Text.assemble(
        (verdict.value.upper().replace("_", " "), VERDICT_STYLE.get(verdict, FAILURE_STYLE)),
        f" {one_line(task_id, 500)}",
        (f" [{one_line(where, 60)}]" if where else "", "blue"),
        (f" - {why}" if why else "", "dim"),
    )


def supports_live_area(stream: TextIO, terminal_name: str | None) -> bool:
    """True for a terminal (``terminal_name`` is ``$TERM``) that can move its cursor."""
    return stream.isatty() and (terminal_name or "dumb") not in ("dumb", "unknown")

"""A schedule as a picture: one row per slot, one bar per execution, as SVG that any browser shows.

Names of tests and machines are hostile: they become text of the picture and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from zlib import crc32

from fleetest.core.model import Verdict
from fleetest.simulation.simulated_worker import Execution
from fleetest.simulation.what_if import Answer

WIDTH = 1200
LABEL_WIDTH = 110
HEADER = 58
FOOTER = 34
ROWS_HEIGHT = 900
TITLED_BARS_MAX = 20_000
"""Beyond, bars have no tooltips and are drawn as one path per colour."""
_PALETTE = (
    "#4e79a7", "#59a14f", "#76b7b2", "#edc948", "#b07aa1", "#9c755f", "#86bcb6", "#d4a6c8", "#8cd17d", "#f1ce63",
    "#499894", "#a0cbe8",
)  # fmt: skip
_LOST, _CANCELLED, _FAILED = "#d62728", "#c7c7c7", "#ff7f0e"
_NO_XML = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_ESCAPES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;"}


def gantt(answer: Answer, groups: dict[str, str] | None = None) -> str:
    """The picture. ``groups`` gives the colour: tests of one group have the same; by id of the task."""
    return "\n".join(_lines(answer, groups or {})) + "\n"


def escape(text: str) -> str:
    """Any text as content of an XML element or attribute."""
    return re.sub("[&<>\"']", lambda match: _ESCAPES[match.group()], _NO_XML.sub("\ufffd", text))


def _lines(answer: Answer, groups: dict[str, str]) -> Iterator[str]:
    rows = {
        (machine.name, slot): number
        for number, (machine, slot) in enumerate(
            (machine, slot) for machine in answer.machines for slot in range(machine.slots)
        )
    }
    row_height = max(1.0, min(18.0, ROWS_HEIGHT / max(1, len(rows))))
    height = HEADER + row_height * len(rows) + FOOTER
    end_s = max(answer.makespan_s, answer.bound_s) or 1.0
    scale = (WIDTH - LABEL_WIDTH - 20) / end_s
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" width="{WIDTH}"'
        f' height="{height:.0f}" font-family="system-ui, sans-serif" font-size="12">'
    )
    yield f"<title>{escape(answer.strategy)}: {answer.makespan_s:.1f} s</title>"
    yield f'<rect width="{WIDTH}" height="{height:.0f}" fill="#fff"/>'
    headline = (
        f"{answer.strategy}: {answer.makespan_s:.1f} s, {answer.ratio:.3f} times the bound of {answer.bound_s:.1f} s;"
        f" the last slot runs {answer.tail_s:.1f} s longer than the first"
    )
    yield f'<text x="{LABEL_WIDTH}" y="22" font-size="15" fill="#222">{escape(headline)}</text>'
    yield (
        f'<text x="{LABEL_WIDTH}" y="42" fill="#555">one row per slot, one colour per file;'
        f' <tspan fill="{_LOST}">lost with its worker</tspan>, <tspan fill="#999">cancelled second attempt</tspan>,'
        f' <tspan fill="{_FAILED}">failed</tspan></text>'
    )
    yield from _axes(answer, end_s, scale, row_height, len(rows))
    yield from _bars(answer, groups, rows, scale, row_height)
    x = LABEL_WIDTH + answer.bound_s * scale
    bottom = HEADER + row_height * len(rows)
    yield f'<path d="M{x:.1f} {HEADER - 6}V{bottom:.1f}" stroke="#222" stroke-dasharray="4 3"/>'
    yield f'<text x="{x - 4:.1f}" y="{bottom + 28:.1f}" text-anchor="end" fill="#222">bound</text>'
    yield "</svg>"


def _axes(answer: Answer, end_s: float, scale: float, row_height: float, rows: int) -> Iterator[str]:
    bottom = HEADER + row_height * rows
    row = 0
    last_label = -100.0
    for number, machine in enumerate(answer.machines):
        top, size = HEADER + row * row_height, machine.slots * row_height
        row += machine.slots
        if number % 2:
            width = end_s * scale
            yield f'<rect x="{LABEL_WIDTH}" y="{top:.1f}" width="{width:.1f}" height="{size:.1f}" fill="#f4f4f4"/>'
        middle = top + size / 2 + 4
        if middle >= last_label + 12:
            last_label = middle
            label = machine.name if len(machine.name) <= 16 else machine.name[:15] + "…"
            yield f'<text x="{LABEL_WIDTH - 8}" y="{middle:.1f}" text-anchor="end" fill="#222">{escape(label)}</text>'
    step_s = _nice_step(end_s / 8)
    for tick in range(int(end_s / step_s) + 1):
        x = LABEL_WIDTH + tick * step_s * scale
        yield f'<path d="M{x:.1f} {HEADER}V{bottom + 4:.1f}" stroke="#ddd"/>'
        yield f'<text x="{x:.1f}" y="{bottom + 16:.1f}" text-anchor="middle" fill="#555">{tick * step_s:g} s</text>'


def _nice_step(rough_s: float) -> float:
    """1, 2 or 5 times a power of ten, not below ``rough_s``."""
    step = 1e-3
    while True:
        for factor in (1, 2, 5):
            if step * factor >= rough_s:
                return step * factor
        step *= 10


def _bars(
    answer: Answer, groups: dict[str, str], rows: dict[tuple[str, int], int], scale: float, row_height: float
) -> Iterator[str]:
    height = max(0.6, row_height - (1.0 if row_height >= 4 else 0.2))
    by_colour: dict[str, list[Execution]] = {}
    for execution in answer.executions:
        by_colour.setdefault(_colour(execution, groups), []).append(execution)
    has_titles = len(answer.executions) <= TITLED_BARS_MAX
    for colour, executions in by_colour.items():
        yield f'<g fill="{colour}" stroke="#fff" stroke-width=".2">'
        path: list[str] = []
        for execution in executions:
            x = LABEL_WIDTH + execution.started_at * scale
            y = HEADER + rows[execution.worker_id, execution.slot] * row_height
            width = max(0.2, (execution.ended_at - execution.started_at) * scale)
            if has_titles:
                yield (
                    f'<rect x="{x:.2f}" y="{y:.1f}" width="{width:.2f}" height="{height:.1f}">'
                    f"<title>{escape(_told(execution))}</title></rect>"
                )
            else:
                path.append(f"M{x:.1f} {y:.1f}h{width:.1f}v{height:.1f}h-{width:.1f}z")
        parts = iter(path)
        while chunk := "".join(islice(parts, 2000)):
            yield f'<path stroke="none" d="{chunk}"/>'
        yield "</g>"


def _told(execution: Execution) -> str:
    outcome = execution.verdict.value if execution.verdict is not None else "lost"
    again = f", attempt {execution.attempt}" if execution.attempt > 1 else ""
    return (
        f"{execution.task_id[:300]}\n{execution.worker_id}/{execution.slot}{again}: {outcome},"
        f" {execution.started_at:.2f} s to {execution.ended_at:.2f} s"
    )


def _colour(execution: Execution, groups: dict[str, str]) -> str:
    if execution.verdict is None:
        return _LOST
    if execution.verdict is Verdict.CANCELLED:
        return _CANCELLED
    if not execution.verdict.is_success:
        return _FAILED
    # Not hash(): the same picture in every process.
    group = groups.get(execution.task_id, execution.task_id.partition("::")[0])
    return _PALETTE[crc32(group.encode(errors="replace")) % len(_PALETTE)]

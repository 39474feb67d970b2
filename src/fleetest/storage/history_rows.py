"""From records to the lines of a spool: per table, batches of columns as JSON."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from fleetest.storage.history_schema import TABLES
from fleetest.storage.records import (
    AttemptRecorded,
    Record,
    RunEnded,
    RunStarted,
    TasksPlanned,
    WorkerSeen,
)
from fleetest.storage.report_text import AttemptText, attempt_text

_ROWS_PER_LINE = 5_000
_TEXT_CHARS_PER_LINE = 4 * 1024 * 1024
_LATEST_TIME_S = 253_402_300_799.0  # the last second of the year 9999: beyond it Python has no datetime
_NO_TEXT = AttemptText(output=None, traceback=None, reason=None)

_encoder = msgspec.json.Encoder()


def encode_records(records: Sequence[Record]) -> Iterator[tuple[str, bytes]]:
    """Yield (table name, one JSON object of column name to array of values) for all ``records``.

    Order is kept within each table. Lines are bounded by rows and text, so that no single one is huge.
    """
    by_type: dict[type, list[Any]] = defaultdict(list)
    for record in records:
        by_type[type(record)].append(record)
    for kind, same in by_type.items():
        yield from _ENCODERS[kind](same)


def _encode_runs_started(records: list[RunStarted]) -> Iterator[tuple[str, bytes]]:
    rows = [(r.run_id, _micros(r.started_at), r.title, r.owner, r.directory) for r in records]
    yield from _lines("run_starts", rows)


def _encode_runs_ended(records: list[RunEnded]) -> Iterator[tuple[str, bytes]]:
    rows = [(r.run_id, _micros(r.ended_at), r.outcome, dict(r.counts)) for r in records]
    yield from _lines("run_ends", rows)


def _encode_tasks(records: list[TasksPlanned]) -> Iterator[tuple[str, bytes]]:
    for record in records:
        run_id = record.run_id
        yield from _lines("planned_tasks", [(run_id, *task) for task in record.tasks])


def _encode_attempts(records: list[AttemptRecorded]) -> Iterator[tuple[str, bytes]]:
    rows: list[tuple[Any, ...]] = []
    chars = 0
    for record in records:
        row, text_chars = _attempt_row(record)
        rows.append(row)
        chars += text_chars
        if chars >= _TEXT_CHARS_PER_LINE:
            yield from _lines("attempts", rows)
            rows, chars = [], 0
    yield from _lines("attempts", rows)


def _attempt_row(record: AttemptRecorded) -> tuple[tuple[Any, ...], int]:
    result = record.result
    head = (
        record.run_id,
        record.task_id,
        record.attempt,
        record.verdict.value,
        record.is_final,
        record.worker or None,
        record.runner or None,
        record.slot,
    )
    if result is None:
        nothing = (None,) * (len(TABLES["attempts"].columns) - len(head) - 2)
        return (*head, *nothing, record.reason or None, None), 0
    text = _NO_TEXT
    text_chars = 0
    if result.reports or result.output or result.evidence or record.reason:
        text = attempt_text(result, record.verdict, record.reason)
        text_chars = len(text.output or "") + len(text.traceback or "")
    row = (
        *head,
        _micros(result.started_at),
        result.duration_s,
        result.setup_s,
        result.call_s,
        result.teardown_s,
        result.cpu_s,
        result.peak_memory_bytes,
        text.output,
        text.traceback,
        text.reason,
        result.artifacts or None,
    )
    return row, text_chars


def _encode_workers(records: list[WorkerSeen]) -> Iterator[tuple[str, bytes]]:
    rows = [
        (
            r.worker,
            r.host,
            r.slots,
            _micros(r.seen_at),
            dict(r.capabilities.attributes),
            dict(r.capabilities.resources),
        )
        for r in records
    ]
    yield from _lines("worker_sightings", rows)


_ENCODERS: dict[type, Any] = {
    RunStarted: _encode_runs_started,
    RunEnded: _encode_runs_ended,
    TasksPlanned: _encode_tasks,
    AttemptRecorded: _encode_attempts,
    WorkerSeen: _encode_workers,
}


def _lines(table: str, rows: list[tuple[Any, ...]]) -> Iterator[tuple[str, bytes]]:
    names = tuple(TABLES[table].columns)
    for start in range(0, len(rows), _ROWS_PER_LINE):
        columns = zip(*rows[start : start + _ROWS_PER_LINE], strict=True)
        yield table, _encode(dict(zip(names, columns, strict=True)))


def _encode(columns: dict[str, Any]) -> bytes:
    try:
        return _encoder.encode(columns)
    except UnicodeEncodeError:
        # Undecodable bytes in a path arrive as lone surrogates, which JSON cannot carry: shown as escapes.
        return _encoder.encode(_without_surrogates(columns))


def _without_surrogates(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, dict):
        return {_without_surrogates(key): _without_surrogates(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_surrogates(item) for item in value]
    return value


def _micros(time_s: float) -> int | None:
    """Wall time as microseconds since the epoch; None for a time that no calendar has (workers may send anything)."""
    return round(time_s * 1e6) if 0.0 < time_s <= _LATEST_TIME_S else None

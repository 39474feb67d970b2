"""What people read of pytest's serialised reports, for whoever has no pytest: outcome, traceback, sections, headline.

Reports come from the user's process and may be anything: what has an unexpected shape is as if absent.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from fleetest.wire.portable_values import from_portable

_NULL = msgspec.Raw(b"null")
_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, KeyError, TypeError, ValueError)

Section = tuple[str, str]
"""Heading and content."""


class _Encoded(msgspec.Struct):
    data: dict[str, msgspec.Raw]
    text: str = ""


_reports_decoder = msgspec.json.Decoder(list[_Encoded])
_pairs_decoder = msgspec.json.Decoder(list[tuple[Any, msgspec.Raw]])


class ReportText:
    """One report of one phase. ``text`` is its ``longreprtext``."""

    def __init__(self, encoded: _Encoded) -> None:
        fields = encoded.data
        if "$dict" in fields:
            # The portable form of a dictionary with a key such as $report_type: pairs.
            fields = {key: raw for key, raw in _pairs_decoder.decode(fields["$dict"]) if isinstance(key, str)}
        self._fields = fields
        self.text = encoded.text
        self.outcome = str(self._value("outcome"))

    @property
    def sections(self) -> tuple[Section, ...]:
        value = self._value("sections")
        sections = value if isinstance(value, list | tuple) else ()
        return tuple(section for section in map(_section, sections) if section is not None)

    @property
    def headline(self) -> str:
        """The first line of the assertion or error, the reason of a skip or xfail; empty if there is none."""
        if self.outcome == "skipped":
            return self._skip_reason()
        if self.outcome != "failed":
            return ""
        # pytest marks the lines of the exception itself with an E in the first column.
        marked = (line[1:].strip() for line in self.text.splitlines() if line.startswith("E "))
        return next(filter(None, marked), "") or self._crash_message() or last_line(self.text)

    def _skip_reason(self) -> str:
        expected_failure = self._value("wasxfail")
        if isinstance(expected_failure, str) and expected_failure:
            return expected_failure
        match self._value("longrepr"):
            case (_path, _line, str(reason)):
                return reason.removeprefix("Skipped: ")
            case _:
                return ""

    def _crash_message(self) -> str:
        match self._value("longrepr"):
            case {"reprcrash": {"message": str(message)}}:
                return first_line(message)
            case _:
                return ""

    def _value(self, name: str) -> Any:
        # Decoded only where it is asked for: the traceback of a failure is large, and its text says the same.
        try:
            return from_portable(msgspec.json.decode(self._fields.get(name, _NULL)))
        except _UNREADABLE:
            return None


def read_reports(reports: bytes | None) -> list[ReportText]:
    """The reports of ``AttemptResult.reports``; none if they cannot be read."""
    if not reports:
        return []
    try:
        return [ReportText(encoded) for encoded in _reports_decoder.decode(reports)]
    except _UNREADABLE:
        return []


def sections_of(reports: Sequence[ReportText]) -> tuple[Section, ...]:
    """Every captured section once: pytest accumulates them, the teardown's report repeats those of setup and call."""
    return max((report.sections for report in reports), key=len, default=())


def first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "")


def last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


def shorten(text: str, limit_chars: int) -> str:
    """Head and tail of ``text``, and between them a line that says how much is missing."""
    if len(text) <= limit_chars:
        return text
    half = limit_chars // 2
    return f"{text[:half]}\n... {len(text) - 2 * half} characters left out ...\n{text[-half:]}"


def _section(value: Any) -> Section | None:
    match value:
        case (str(heading), str(content)):
            return heading, content
        case _:
            return None

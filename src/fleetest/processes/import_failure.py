"""Was something not collected only because it cannot be imported here? Another machine may well have it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from fleetest.wire.portable_values import read_fields

_IN_CONFTEST = "ImportError while loading conftest "
_IN_MODULE = "ImportError while importing test module "
_IMPORT_ERROR = re.compile(r"(?:ModuleNotFoundError|ImportError)\b.*")
_ERROR_LINE = re.compile(r"^E +(.*)", re.MULTILINE)


def import_failure(text: str, reports: Sequence[bytes]) -> str:
    """The (first) error, in one line, if nothing else is wrong; else nothing.

    ``text`` is what pytest said as it gave up, ``reports`` are the collect reports that it had made, as JSON.
    """
    errors = [error for _, error in _failed(reports)]
    if not errors:
        return _of_start(text)
    return errors[0] if all(errors) else ""


def unimported(reports: Sequence[bytes]) -> tuple[str, ...]:
    """Node ids of the modules and folders that could not be imported."""
    return tuple(dict.fromkeys(node_id for node_id, error in _failed(reports) if error))


def _failed(reports: Sequence[bytes]) -> list[tuple[str, str]]:
    """Node ids of collectors that failed, and what could not be imported if it was that."""
    read = map(read_fields, reports)
    return [
        (str(report.get("nodeid")), _of_collector(report.get("longrepr")))
        for report in read
        if report.get("outcome") == "failed"
    ]


def _of_start(text: str) -> str:
    """Of a conftest file, or of a plugin, of which nothing but Python's own traceback is told."""
    if text.startswith(_IN_CONFTEST):
        return _first_error(text)
    last = text.rstrip().rpartition("\n")[2]
    return last if _IMPORT_ERROR.match(last) else ""


def _of_collector(longrepr: object) -> str:
    if isinstance(longrepr, str):
        return _first_error(longrepr) if longrepr.startswith(_IN_MODULE) else ""
    # A conftest file further down.
    crash = longrepr.get("reprcrash") if isinstance(longrepr, dict) else None
    message = crash.get("message") if isinstance(crash, dict) else None
    found = _IMPORT_ERROR.match(message) if isinstance(message, str) else None
    return found[0] if found else ""


def _first_error(traceback: str) -> str:
    line = _ERROR_LINE.search(traceback)
    found = _IMPORT_ERROR.match(line[1]) if line else None
    return found[0] if found else ""

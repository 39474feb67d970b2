"""Reports and warnings as rows: compact where nothing is to be said, bounded and portable otherwise."""

from __future__ import annotations

import sys

from _pytest.reports import TestReport

from . import frames
from .frames import encode_frame
from .portable import cut, portable, safe_repr

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Optional, Sequence, Tuple


def _plain_attributes() -> frozenset[str]:
    return frozenset(vars(TestReport("", ("", None, ""), {}, "passed", None, "setup")))


_PLAIN_ATTRIBUTES = _plain_attributes()
_PHASES = ("setup", "call", "teardown")


def is_compact(reports: Sequence[Any], keyword_count: int) -> bool:
    """True if the three phases passed and neither pytest nor a plugin has anything else to say about them."""
    if len(reports) != 3:
        return False
    for report, phase in zip(reports, _PHASES):
        if (
            type(report) is not TestReport
            or report.outcome != "passed"
            or report.when != phase
            or report.sections
            or report.user_properties
            or report.longrepr is not None
            or len(report.keywords) != keyword_count
            or (vars(report).keys() != _PLAIN_ATTRIBUTES and not _adds_nothing(report))
        ):
            return False
    return True


def _adds_nothing(report: Any) -> bool:
    """True if all that it has besides is pytest-html's empty list, which its reader takes for granted."""
    attributes = vars(report)
    return bool(attributes.get("extras") == []) and attributes.keys() - _PLAIN_ATTRIBUTES == {"extras"}


def verdict_of(reports: Sequence[Any]) -> str:
    """The one outcome of a test that these reports tell; a test about which nothing was reported was skipped."""
    verdict = "passed" if reports else "skipped"
    has_error = False
    for report in reports:
        outcome, when = report.outcome, getattr(report, "when", None)
        if outcome == "failed":
            if when == "call":
                return "failed"
            has_error = True
        elif when != "teardown" and not _is_subtest(report):
            if outcome == "skipped":
                verdict = "xfailed" if hasattr(report, "wasxfail") else "skipped"
            elif outcome == "passed" and when == "call":
                verdict = "xpassed" if hasattr(report, "wasxfail") else "passed"
    return "error" if has_error else verdict


def _is_subtest(report: Any) -> bool:
    return type(report) is not TestReport and "subtest" in type(report).__name__.lower()


def note_failed_subtests(config: Any, reports: Sequence[Any]) -> None:
    """Write on the report of the call how many subtests failed in it: pytest 9 makes it a failure where it is shown.

    pytest counts them in the process that ran them; those of ``unittest`` it does not count, so reports do not tell.
    """
    module = sys.modules.get("_pytest.subtests")
    key = getattr(module, "failed_subtests_key", None)
    counts = None if key is None else config.stash.get(key, None)
    if not counts:
        return
    for report in reports:
        if report.when == "call" and not _is_subtest(report):
            count = counts.get(getattr(report, "id", report.nodeid), 0)
            if count:
                report.fleet_failed_subtests = count


def phase_seconds(reports: Sequence[Any]) -> Tuple[float, float, float]:
    """Seconds of setup, call and teardown."""
    seconds = {"setup": 0.0, "call": 0.0, "teardown": 0.0}
    for report in reports:
        when = getattr(report, "when", None)
        if when in seconds and not _is_subtest(report):
            try:
                seconds[when] += float(report.duration)
            except (AttributeError, TypeError, ValueError):
                # A plugin's own report need not have a duration.
                continue
    return seconds["setup"], seconds["call"], seconds["teardown"]


def serialised_report(config: Any, report: Any, limit: int) -> Dict[str, Any]:
    """``{"data": ..., "text": ...}`` of a test or collect report, portable and bounded."""
    text = cut(_text_of(report), limit)
    try:
        data = config.hook.pytest_report_to_serializable(config=config, report=report)
        if not isinstance(data, dict):
            raise TypeError("no plugin serialises a %s" % type(report).__name__)
        if isinstance(data.get("longrepr"), str) and not isinstance(report.longrepr, str):
            # Nothing of it is a message for the short summary: a doctest, a missing fixture, an error of collection.
            data["fleet_has_no_message"] = True
        return {"data": portable(data, limit), "text": text}
    except Exception as error:
        plain = _plain_data(report, text, "this report could not be serialised: %s" % safe_repr(error))
        plain.update(_details(report))
        return {"data": portable(plain, limit), "text": text}


def _text_of(report: Any) -> str:
    try:
        longrepr = report.longrepr
        if type(longrepr) is tuple and len(longrepr) == 3:
            # A skip: where, which line, why.
            return str(longrepr[2])
        return str.__str__(report.longreprtext)
    except Exception as error:
        return "<longrepr that cannot be shown: %s>" % safe_repr(error)


def _plain_data(report: Any, text: str, note: str) -> Dict[str, Any]:
    """The least that pytest needs to make a report of it again."""
    is_test = hasattr(report, "keywords")
    data: Dict[str, Any] = {
        "$report_type": "TestReport" if is_test else "CollectReport",
        "nodeid": getattr(report, "nodeid", ""),
        "outcome": getattr(report, "outcome", "failed"),
        "longrepr": text or None,
        "sections": [("fleetest", note)],
    }
    if is_test:
        data.update(keywords={}, user_properties=[])
        for name in ("location", "when", "duration", "start", "stop", "wasxfail"):
            if hasattr(report, name):
                data[name] = getattr(report, name)
    else:
        data["result"] = None
    return data


def _details(report: Any) -> Dict[str, Any]:
    if not hasattr(report, "keywords"):
        return {}
    properties = [(str(name), safe_repr(value)) for name, value in report.user_properties]
    return {"keywords": {str(keyword): 1 for keyword in report.keywords}, "user_properties": properties}


def encode_reported(head: List[Any], config: Any, reports: Sequence[Any], limit: int) -> bytes:
    """Frame a ``reported`` row: ``head`` is everything before the reports. Never longer than a frame may be."""
    try:
        return encode_frame([*head, [serialised_report(config, report, limit) for report in reports]])
    except ValueError:
        # Too much even so: thousands of reports, of sections, of strings.
        pass
    telling = next((report for report in reports if report.outcome == "failed"), reports[-1])
    # A character may take twelve bytes: in two places, and six in each.
    text = cut(_text_of(telling), frames.FRAME_BYTES_MAX // 32)
    data = _plain_data(telling, text, "%d reports were too long to be sent whole" % len(reports))
    return encode_frame([*head, [{"data": portable(data, len(text)), "text": text}]])


def serialised_warning(
    message: Any, when: str, nodeid: str, location: Optional[Tuple[str, int, str]], limit: int
) -> Dict[str, Any]:
    """What is needed to show a ``warnings.WarningMessage`` elsewhere."""
    warning, category = message.message, message.category
    try:
        text = str(warning)
    except Exception as error:
        text = safe_repr(error)
    is_class = isinstance(category, type)
    return {
        "message": cut(str.__str__(text), limit),
        "category": category.__name__ if is_class else "UserWarning",
        "module": category.__module__ if is_class else None,
        "filename": str(message.filename),
        "lineno": message.lineno if isinstance(message.lineno, int) else 0,
        "when": when,
        "nodeid": nodeid,
        "location": None if location is None else [str(location[0]), location[1], str(location[2])],
    }

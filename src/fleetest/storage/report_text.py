"""The texts of one attempt as history keeps them: traceback, output and a one-line reason, each bounded."""

from __future__ import annotations

from dataclasses import dataclass

from fleetest.core.model import AttemptResult, Verdict
from fleetest.wire.report_text import first_line, read_reports, sections_of, shorten

TEXT_LIMIT_CHARS = 65_536
"""Of one attempt's output, and of its traceback."""
REASON_LIMIT_CHARS = 500


@dataclass(frozen=True, slots=True)
class AttemptText:
    """``None`` where there is nothing to say."""

    output: str | None
    traceback: str | None
    reason: str | None


def attempt_text(result: AttemptResult, verdict: Verdict, reason: str) -> AttemptText:
    """Texts of one attempt. ``reason`` is what the coordinator said, and wins."""
    reports = read_reports(result.reports)
    tracebacks = [report.text for report in reports if report.outcome == "failed" and report.text]
    if result.evidence:
        tracebacks.append(result.evidence)
    outputs = [result.output] if result.output else []
    outputs += [f"--- {heading} ---\n{content}" for heading, content in sections_of(reports)]
    if not reason and verdict is not Verdict.PASSED:
        reason = next(filter(None, (report.headline for report in reports)), "") or first_line(result.evidence)
    return AttemptText(
        output=shorten("\n".join(outputs), TEXT_LIMIT_CHARS) or None,
        traceback=shorten("\n\n".join(tracebacks), TEXT_LIMIT_CHARS) or None,
        reason=shorten(reason, REASON_LIMIT_CHARS) or None,
    )

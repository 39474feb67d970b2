"""Why a task did not pass, as text that is safe to show: from reports, output, evidence and reason."""

from __future__ import annotations

from fleetest.client.terminal_text import one_line, printable
from fleetest.core.model import Verdict
from fleetest.wire.messages import Outcome
from fleetest.wire.report_text import ReportText, first_line, last_line, read_reports, sections_of


def headline(outcome: Outcome) -> str:
    """One line: the assertion's first line, the skip's reason, the signal; empty if nothing is known."""
    if outcome.reason:
        return one_line(first_line(outcome.reason))
    for report in _reports(outcome):
        if report.headline:
            return one_line(report.headline)
    result = outcome.result
    if result is None or outcome.verdict is Verdict.PASSED:
        return ""
    return one_line(first_line(result.evidence) or last_line(result.output))


def explanation(outcome: Outcome, *, with_output: bool = True) -> str:
    """Everything that is known of a failure: the reason, tracebacks, evidence, captured output. Printable."""
    reports = _reports(outcome)
    parts = [outcome.reason, *(report.text for report in reports if report.outcome == "failed")]
    if outcome.result is not None:
        parts.append(outcome.result.evidence)
    parts += [f"{f' {heading} ':-^80}\n{text}" for heading, text in member_texts(outcome)]
    if with_output and outcome.result is not None:
        parts.append(outcome.result.output)
        parts += [f"{f' {heading} ':-^80}\n{content}" for heading, content in sections_of(reports)]
    return "\n".join(printable(part.rstrip("\n")) for part in parts if part.strip())


def member_texts(outcome: Outcome) -> list[tuple[str, str]]:
    """Of a gang that did not pass: heading and text for each member that has something to say."""
    found = []
    for rank, member in enumerate(outcome.members):
        # Of one that passed, what it printed may still say why another did not.
        text = captured_output(member) if member.verdict.is_success else explanation(member)
        if text:
            found.append((f"rank {rank} on {member.worker}: {member.verdict.value}", text))
    return found


def captured_output(outcome: Outcome) -> str:
    """What the task printed, failed or not."""
    output = outcome.result.output if outcome.result is not None else ""
    return "\n".join(part for part in (output, *(text for _, text in sections_of(_reports(outcome)))) if part)


def _reports(outcome: Outcome) -> list[ReportText]:
    return read_reports(outcome.result.reports) if outcome.result is not None else []

"""A run as JUnit XML, JSON, CSV or one self-contained HTML page. Names and output are hostile text in all of them."""

from __future__ import annotations

import csv
import dataclasses
import html
import io
import json
from collections.abc import Callable, Mapping
from xml.etree import ElementTree

from fleetest.client.junit import names_of_node, valid_xml
from fleetest.client.terminal_text import csv_text, duration, printable
from fleetest.operator.exported_run import FAILURES, SKIPS, SUCCESSES, ExportedAttempt, ExportedRun, ExportedTask


def as_json(run: ExportedRun) -> str:
    return json.dumps({**dataclasses.asdict(run), "counts": run.counts}, indent=2) + "\n"


def as_csv(run: ExportedRun) -> str:
    """One line per test. A text that a spreadsheet would take for a formula begins with an apostrophe."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("task_id", "suite", "verdict", "attempts", "duration_s", "worker", "started_at", "reason"))
    for task in run.tasks:
        writer.writerow(
            [
                csv_text(task.task_id),
                csv_text(task.suite),
                csv_text(task.verdict),
                task.attempt_count,
                "" if task.duration_s is None else f"{task.duration_s:.6f}",
                csv_text(task.worker),
                csv_text(task.started_at),
                csv_text(task.reason),
            ]
        )
    return text.getvalue()


def as_junit(run: ExportedRun) -> str:
    """One ``testsuite`` per suite of the run, one ``testcase`` per test."""
    root = ElementTree.Element("testsuites", name=valid_xml(run.title or run.run_id))
    suites: dict[str, list[ExportedTask]] = {}
    for task in run.tasks:
        suites.setdefault(task.suite, []).append(task)
    for name, tasks in suites.items():
        element = ElementTree.SubElement(root, "testsuite", name=valid_xml(name or run.title or "fleetest"))
        element.extend(_testcase(task) for task in tasks)
        element.set("tests", str(len(tasks)))
        for total, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
            element.set(total, str(sum(case.find(tag) is not None for case in element)))
        element.set("time", f"{sum(task.duration_s or 0.0 for task in tasks):.3f}")
        if run.started_at:
            element.set("timestamp", run.started_at.replace("Z", "+00:00"))
    for total in ("tests", "failures", "errors", "skipped"):
        root.set(total, str(sum(int(element.get(total, "0")) for element in root)))
    root.set("time", f"{run.duration_s or 0.0:.3f}")
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _testcase(task: ExportedTask) -> ElementTree.Element:
    is_pytest = ".py" in task.node_id.partition("[")[0]
    classname, name = names_of_node(task.node_id) if is_pytest else (task.suite, task.node_id)
    case = ElementTree.Element("testcase", classname=valid_xml(classname), name=valid_xml(name))
    case.set("time", f"{task.duration_s or 0.0:.3f}")
    last = task.attempts[-1] if task.attempts else None
    text = last.traceback if last is not None else ""
    message = task.reason or next((line for line in text.splitlines() if line.strip()), "")
    if task.verdict in FAILURES:
        _describe(case, "failure", task.verdict, message, text)
    elif task.verdict in SKIPS:
        _describe(case, "skipped", task.verdict, message, "")
    elif task.verdict not in SUCCESSES:
        _describe(case, "error", task.verdict or "unfinished", message or "it has no verdict", text)
    if last is not None and last.output:
        ElementTree.SubElement(case, "system-out").text = valid_xml(last.output)
    return case


def _describe(case: ElementTree.Element, tag: str, kind: str, message: str, text: str) -> None:
    element = ElementTree.SubElement(case, tag, type=valid_xml(kind), message=valid_xml(message))
    if text:
        element.text = valid_xml(text)


def as_html(run: ExportedRun) -> str:
    """One page without scripts and without a request to anywhere; a policy in it forbids both."""
    title = _text(run.title or run.run_id)
    counts = ", ".join(f'<b class="{_tone(name)}">{number} {_words(name)}</b>' for name, number in run.counts.items())
    failed = [_failure(task) for task in run.tasks if task.verdict and task.verdict not in SUCCESSES]
    heads = "".join(
        f'<th class="{kind}">{head}</th>'
        for head, kind in (
            ("Verdict", ""),
            ("Test", ""),
            ("Duration", "number"),
            ("Attempts", "number"),
            ("Worker", ""),
            ("Reason", ""),
        )
    )
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{title}</title><style>{_STYLE}</style></head>",
            f'<body><main><h1>{title}</h1>\n<p class="muted">{_origin(run)}</p>',
            f"<p>{counts or 'No tests.'}</p>",
            *(["<h2>What did not pass</h2>", *failed] if failed else []),
            f"<h2>All {len(run.tasks)} tests</h2>",
            f'<div class="wide"><table><thead><tr>{heads}</tr></thead><tbody>',
            *map(_row, run.tasks),
            "</tbody></table></div></main></body></html>\n",
        ]
    )


def _origin(run: ExportedRun) -> str:
    started = f"{run.started_at[:19].replace('T', ' ')} UTC" if run.started_at else "at an unknown time"
    parts = [f"Run {_text(run.run_id)}", _text(run.outcome), f"started {_text(started)}"]
    if run.duration_s is not None:
        parts.append(duration(run.duration_s))
    if run.owner:
        parts.append(f"by {_text(run.owner)}")
    return ", ".join(parts)


def _row(task: ExportedTask) -> str:
    took = "" if task.duration_s is None else duration(task.duration_s)
    verdict = task.verdict or "unfinished"
    return (
        f'<tr><td class="{_tone(verdict)}">{_words(verdict)}</td><td class="mono">{_text(task.task_id)}</td>'
        f'<td class="number">{took}</td><td class="number">{task.attempt_count}</td>'
        f"<td>{_text(task.worker)}</td><td>{_text(task.reason)}</td></tr>"
    )


def _failure(task: ExportedTask) -> str:
    verdict = f'<b class="{_tone(task.verdict)}">{_words(task.verdict)}</b>'
    head = f'<summary>{verdict} <span class="mono">{_text(task.task_id)}</span></summary>'
    return f"<details>{head}{''.join(map(_attempt, task.attempts)) or f'<p>{_text(task.reason)}</p>'}</details>"


def _attempt(attempt: ExportedAttempt) -> str:
    where = f" on {_text(attempt.worker)}" if attempt.worker else ""
    took = f" after {duration(attempt.duration_s)}" if attempt.duration_s is not None else ""
    # The evidence of a crash begins with its reason.
    reason = "" if attempt.traceback.startswith(attempt.reason) else attempt.reason
    parts = [part for part in (reason, attempt.traceback, attempt.output) if part.strip()]
    texts = "".join(f"<pre>{_text(part)}</pre>" for part in parts)
    return f"<h3>Attempt {attempt.attempt}: {_text(attempt.verdict)}{took}{where}</h3>{texts}"


def _tone(verdict: str) -> str:
    if verdict == "skipped" or verdict in SKIPS - {"xfailed"}:
        return "muted"
    return "good" if verdict in SUCCESSES else "bad"


def _words(verdict: str) -> str:
    return _text(verdict.replace("_", " "))


def _text(text: str) -> str:
    return html.escape(printable(text), quote=True)


_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_STYLE = """
:root { color-scheme: light dark; --text: #1b2430; --page: #fff; --muted: #566070; --line: #dde1e7; --box: #f6f7f9;
  --good: #1a7a3c; --bad: #b3261e; }
@media (prefers-color-scheme: dark) {
  :root { --text: #e7ecf3; --page: #10151c; --muted: #a3afbf; --line: #2b3543; --box: #171e28; --good: #6fd08c;
    --bad: #ff8f86; }
}
body { margin: 0; background: var(--page); color: var(--text); font: 15px/1.5 system-ui, sans-serif;
  overflow-wrap: anywhere; }
main { max-width: 1200px; margin: 0 auto; padding: 24px 16px; }
h1 { font-size: 1.4rem; margin: 0; }
h2 { font-size: 1.1rem; margin: 1.6em 0 .6em; }
h3 { font-size: .95rem; }
.muted { color: var(--muted); }
.good { color: var(--good); }
.bad { color: var(--bad); }
.mono, pre { font-family: ui-monospace, monospace; font-size: .88rem; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: 5px 10px 5px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
.number { text-align: right; white-space: nowrap; }
.wide { overflow-x: auto; }
details { border: 1px solid var(--line); border-radius: 6px; padding: 6px 12px; margin: 6px 0; }
summary { cursor: pointer; }
pre { background: var(--box); padding: 10px; border-radius: 6px; white-space: pre-wrap; max-height: 32em;
  overflow: auto; }
"""

FORMATS: Mapping[str, Callable[[ExportedRun], str]] = {
    "junit": as_junit,
    "json": as_json,
    "csv": as_csv,
    "html": as_html,
}

"""Replays what happened in runners through pytest's hooks, so that every reporter works as if it had happened here."""

from __future__ import annotations

import copy
import sys
import warnings
from collections.abc import Sequence
from typing import Any, Literal, cast

import msgspec
import pluggy
import pytest
from _pytest._code.code import TerminalRepr
from _pytest._io import TerminalWriter

from fleetest.client.failure_text import member_texts
from fleetest.core.model import VARIANT_SIGN, AttemptResult, Verdict
from fleetest.wire.messages import ItemInfo, Outcome
from fleetest.wire.portable_values import from_portable

_RERUN = "rerun"
_Phase = Literal["setup", "call", "teardown"]
_Location = tuple[str, int | None, str]
_Keywords = dict[str, Literal[1]]


class RunnerNode:
    """What reporters expect of pytest-xdist's node: a name, the same object for all reports of one runner."""

    class _Gateway:
        def __init__(self, runner_id: str) -> None:
            self.id = runner_id

    def __init__(self, runner_id: str, worker: str) -> None:
        self.gateway = self._Gateway(runner_id)
        self.worker = worker
        # The line that pytest prints above a failure of another process.
        self._workerinfocache = f"[{runner_id}] on {worker}" if runner_id else "[fleet]"

    def __repr__(self) -> str:
        return f"<RunnerNode {self.gateway.id} on {self.worker}>"


class Replayer:
    """One run's items and the hooks they are replayed through."""

    def __init__(self, config: pytest.Config, run_uid: str) -> None:
        self._config = config
        self._hook = config.hook
        self._run_uid = run_uid
        self._items: dict[str, tuple[int, ItemInfo]] = {}
        self._nodes: dict[str, RunnerNode] = {}
        self._decode_reports = msgspec.json.Decoder()

    def add_items(self, task_ids: Sequence[str], items: Sequence[ItemInfo]) -> None:
        """Learn the plan; ``items`` is parallel to ``task_ids``."""
        start = len(self._items)
        for index, (task_id, item) in enumerate(zip(task_ids, items, strict=True), start):
            self._items[task_id] = (index, item)

    def outcome(self, outcome: Outcome, variant: str = "") -> None:
        """Replay one attempt: logstart, its reports, logfinish.

        ``variant``: for which value of a capability it was. Every variant is reported under the node id of the test, as
        several machines do it with pytest-xdist's ``--dist=each``; headings and words say which one it was.
        """
        index, item = self._items[outcome.task_id]
        node = self._node(outcome.runner, outcome.worker)
        location = (item.path, item.line, item.domain)
        reports = self._reports(outcome, item, location)
        extra = {"node": node, "worker_id": outcome.runner, "item_index": index, "testrun_uid": self._run_uid}
        hook = self._hook
        logreport = hook.pytest_runtest_logreport
        if variant or not outcome.is_final:
            logreport = self._logreport_without_junit()
        hook.pytest_runtest_logstart(nodeid=item.node_id, location=location)
        if outcome.members and not outcome.verdict.is_success:
            _add_members(reports, outcome)
        for report in reports:
            report.__dict__.update(extra)
            _count_failed_subtests(self._config, report)
            if not outcome.is_final and report.failed:
                report.outcome = cast("Any", _RERUN)
            if variant:
                if outcome.is_final:
                    self._tell_junit(report, variant)
                _name_variant(report, variant)
            logreport(report=report)
        hook.pytest_runtest_logfinish(nodeid=item.node_id, location=location)

    def _logreport_without_junit(self) -> pluggy.HookCaller:
        """Everybody but the JUnit file: it knows no reruns and would have the test once more for each, as passed."""
        return self._config.pluginmanager.subset_hook_caller("pytest_runtest_logreport", remove_plugins=self._junit())

    def _junit(self) -> list[Any]:
        plugins = self._config.pluginmanager.get_plugins()
        return [plugin for plugin in plugins if type(plugin).__module__ == "_pytest.junitxml"]

    def _tell_junit(self, report: pytest.TestReport, variant: str) -> None:
        """There each variant is a test case of its own name: readers of that file merge those of one name."""
        for plugin in self._junit():
            named = copy.copy(report)
            name, bracket, parameters = report.nodeid.partition("[")
            named.nodeid = f"{name}{VARIANT_SIGN}{variant}{bracket}{parameters}"
            named.user_properties = [*report.user_properties, ("variant", variant)]
            plugin.pytest_runtest_logreport(report=named)

    def collect_report(self, data: bytes) -> None:
        """Replay a failed or skipped collector."""
        report = self._hook.pytest_report_from_serializable(
            config=self._config, data=from_portable(self._decode_reports.decode(data))
        )
        _mark_as_text(report)
        self._hook.pytest_collectreport(report=report)

    def warning(self, data: bytes) -> None:
        """Replay one warning."""
        record = from_portable(self._decode_reports.decode(data))
        if record["when"] == "config":
            # This process has configured a pytest of its own and has given that warning itself.
            return
        category = _warning_category(record["module"], record["category"])
        message = warnings.WarningMessage(
            message=category(record["message"]),
            category=category,
            filename=record["filename"],
            lineno=record["lineno"],
        )
        location = record.get("location")
        self._hook.pytest_warning_recorded.call_historic(
            kwargs={
                "warning_message": message,
                "when": record["when"],
                "nodeid": record["nodeid"],
                "location": tuple(location) if location else None,
            }
        )

    def _node(self, runner_id: str, worker: str) -> RunnerNode:
        node = self._nodes.get(runner_id)
        if node is None:
            node = self._nodes[runner_id] = RunnerNode(runner_id, worker)
        return node

    def _reports(self, outcome: Outcome, item: ItemInfo, location: _Location) -> Sequence[pytest.TestReport]:
        result = outcome.result
        keywords: _Keywords = dict.fromkeys(item.keywords, 1)
        if result is not None and outcome.verdict is Verdict.PASSED and result.reports is None:
            return _passed_reports(result, item.node_id, location, keywords)
        if result is not None and result.reports is not None:
            reports = [self._decoded(entry) for entry in self._decode_reports.decode(result.reports)]
            if reports and (outcome.verdict.is_success or any(report.failed for report in reports)):
                return reports
        return [_synthetic_report(outcome, item.node_id, location, keywords)]

    def _decoded(self, entry: dict[str, Any]) -> pytest.TestReport:
        data = from_portable(entry["data"])
        try:
            report: pytest.TestReport | None = self._hook.pytest_report_from_serializable(
                config=self._config, data=dict(data)
            )
        except Exception:
            # A plugin of the runner made this report, and here nobody knows its kind: the run goes on all the same.
            report = None
        if report is None:
            return _plain_report(data, str(entry.get("text") or ""))
        _mark_as_text(report)
        return report


def report_status(report: pytest.TestReport) -> tuple[str, str, str] | None:
    """Letters and words for what plain pytest has no word for; see ``pytest_report_teststatus``."""
    if report.outcome == _RERUN:
        return _RERUN, "R", "RERUN"
    verdict = getattr(report, "fleet_verdict", None)
    if verdict is None:
        return None
    word = str(verdict).upper().replace("_", " ")
    return ("error" if report.when == "setup" else "failed"), word[0], word


def with_variant(report: pytest.TestReport, status: Any) -> Any:
    """The status ``(category, letter, word)`` with the value of a variant after its word: ``PASSED python=3.12.1``."""
    variant = getattr(report, "fleet_variant", "")
    if not variant or not isinstance(status, tuple) or len(status) != 3 or not status[2]:
        return status
    category, letter, word = status
    if isinstance(word, tuple):
        return category, letter, (f"{word[0]} {variant}", *word[1:])
    return category, letter, f"{word} {variant}"


def _name_variant(report: pytest.TestReport, variant: str) -> None:
    """Headings of failures are made of the location's name, words by ``with_variant``."""
    path, line, name = report.location
    report.location = (path, line, f"{name}{VARIANT_SIGN}{variant}")
    report.__dict__["fleet_variant"] = variant


def _passed_reports(
    result: AttemptResult, node_id: str, location: _Location, keywords: _Keywords
) -> list[pytest.TestReport]:
    start = result.started_at
    reports = []
    name: Any = node_id
    phases: tuple[tuple[_Phase, float], ...] = (
        ("setup", result.setup_s),
        ("call", result.call_s),
        ("teardown", result.teardown_s),
    )
    for when, duration in phases:
        stop = start + duration
        report = pytest.TestReport(
            name, location, keywords, "passed", None, when, duration=duration, start=start, stop=stop
        )
        start = stop
        # Newer pytest parses the node id in every report: hand it the parsed one.
        name = report.__dict__.get("_id", node_id)
        reports.append(report)
    return reports


def _add_members(reports: Sequence[pytest.TestReport], outcome: Outcome) -> None:
    """What the other members of a gang said goes with the failure that decided."""
    failed = next((report for report in reports if report.failed), None)
    if failed is not None:
        failed.sections.extend((heading, text) for heading, text in member_texts(outcome))


def _count_failed_subtests(config: pytest.Config, report: pytest.TestReport) -> None:
    """pytest 9 fails a test for its failed subtests when it shows the report, from a count that the runner made."""
    count = report.__dict__.pop("fleet_failed_subtests", None)
    key = getattr(sys.modules.get("_pytest.subtests"), "failed_subtests_key", None)
    counts: Any = None if key is None else config.stash.get(key, None)
    if isinstance(count, int) and counts is not None:
        counts[getattr(report, "id", report.nodeid)] = count


class _Text(TerminalRepr):
    """The text of a failure, which has no message: pytest takes a bare string for one, and says it again at the end."""

    def __init__(self, text: str) -> None:
        self._text = text

    def toterminal(self, tw: TerminalWriter) -> None:
        tw.line(self._text)


def _mark_as_text(report: pytest.TestReport | pytest.CollectReport) -> None:
    if report.__dict__.pop("fleet_has_no_message", False) and isinstance(report.longrepr, str):
        report.longrepr = _Text(report.longrepr)


def _plain_report(data: dict[str, Any], text: str) -> pytest.TestReport:
    """pytest's own report with what every report has, for one of a kind that this process does not know."""
    path, line, domain = data.get("location") or ("", None, "")
    report = pytest.TestReport(
        nodeid=str(data.get("nodeid", "")),
        location=(path, line, domain),
        keywords=data.get("keywords") or {},
        outcome=data.get("outcome", "failed"),
        longrepr=_plain_longrepr(data, text),
        when=data.get("when", "call"),
        sections=[(str(title), str(content)) for title, content in data.get("sections") or ()],
        duration=data.get("duration", 0.0),
        start=data.get("start", 0.0),
        stop=data.get("stop", 0.0),
        user_properties=[(str(name), value) for name, value in data.get("user_properties") or ()],
    )
    if "wasxfail" in data:
        report.__dict__["wasxfail"] = data["wasxfail"]
    return report


def _plain_longrepr(data: dict[str, Any], text: str) -> Any:
    longrepr = data.get("longrepr")
    if data.get("outcome") == "skipped" and isinstance(longrepr, list | tuple) and len(longrepr) == 3:
        # A skip: where, which line, why.
        return tuple(longrepr)
    return text or None


def _synthetic_report(outcome: Outcome, node_id: str, location: _Location, keywords: _Keywords) -> pytest.TestReport:
    """A report for an attempt whose runner could not make one: it crashed, hung, or was never started."""
    result = outcome.result
    text = "\n".join(part for part in (outcome.reason, result.evidence if result else "") if part)
    heading = outcome.verdict.value.replace("_", " ")
    report = pytest.TestReport(
        nodeid=node_id,
        location=location,
        keywords=keywords,
        outcome="failed",
        longrepr=f"{heading}: {text}" if text else heading,
        when="setup" if result is None else "call",
        sections=[("Captured output", result.output)] if result is not None and result.output else [],
        duration=result.duration_s if result else 0.0,
        start=result.started_at if result else 0.0,
        stop=result.started_at + result.duration_s if result else 0.0,
    )
    report.__dict__["fleet_verdict"] = outcome.verdict.value
    return report


def _warning_category(module: str | None, name: str) -> type[Warning]:
    """The category if this process knows it already; nothing is imported because a message names it."""
    found = getattr(sys.modules.get(module or "builtins"), name, None)
    if isinstance(found, type) and issubclass(found, Warning):
        return found
    return type(str(name), (UserWarning,), {"__module__": str(module)})

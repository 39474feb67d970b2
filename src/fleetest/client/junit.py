"""One JUnit XML file for a whole suite run: one testcase per task, commands and pytest tests alike."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterable
from datetime import datetime, timezone
from pathlib import Path
from xml.etree import ElementTree

from fleetest.client.failure_text import captured_output, explanation, headline
from fleetest.client.suite_results import TaskResult
from fleetest.core.model import VARIANT_SIGN, Verdict
from fleetest.errors import UserError
from fleetest.wire.messages import SuiteFailed

_NOT_SHOWN = re.compile(
    # Beside what XML cannot hold: control characters, and those that turn the direction of text or end a line.
    "[^\t\n\r\x20-\x7e\xa0-\u061b\u061d-\u200d\u2010-\u2027\u202f-\u2065\u206a-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]"
)
_SKIPPED = frozenset({Verdict.SKIPPED, Verdict.XFAILED, Verdict.NOT_RUN, Verdict.CANCELLED})


def check_junit_path(path: Path) -> None:
    """Raise UserError if ``write_junit`` could not write there; better known before a long run than after it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path}: the JUnit file cannot be written: {error.strerror}") from None
    reason = "it is a directory" if path.is_dir() else "" if os.access(path.parent, os.W_OK) else "permission denied"
    if reason:
        raise UserError(f"{path}: the JUnit file cannot be written: {reason}")


def write_junit(
    path: Path, name: str, tasks: Iterable[TaskResult], failures: Iterable[SuiteFailed], duration_s: float
) -> None:
    """Write the file whole or not at all; ``name`` is that of the run. Raises UserError if it cannot be written."""
    document = ElementTree.tostring(
        junit_document(name, tasks, failures, duration_s), encoding="utf-8", xml_declaration=True
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                os.fchmod(file.fileno(), 0o666 & ~_umask())
                file.write(document)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        raise UserError(f"{path}: the JUnit file cannot be written: {error.strerror}") from None


def junit_document(
    name: str, tasks: Iterable[TaskResult], failures: Iterable[SuiteFailed], duration_s: float
) -> ElementTree.Element:
    """The document: a ``testsuite`` for the commands and for each pytest target, in the order of the plan.

    A target that could not be collected, or not all of it, has one testcase for that, with an error.
    """
    root = ElementTree.Element("testsuites", name=valid_xml(name))
    suites: dict[str, list[TaskResult]] = {}
    for task in tasks:
        suites.setdefault(task.suite, []).append(task)
    failed = {failure.suite: failure for failure in failures}
    for suite in dict.fromkeys([*suites, *failed]):
        root.append(_suite(suite or name, suites.get(suite, []), failed.get(suite)))
    for total in ("tests", "failures", "errors", "skipped"):
        root.set(total, str(sum(int(element.get(total, "0")) for element in root)))
    root.set("time", f"{duration_s:.3f}")
    return root


def _suite(name: str, tasks: list[TaskResult], failure: SuiteFailed | None) -> ElementTree.Element:
    element = ElementTree.Element("testsuite", name=valid_xml(name))
    results = [task.outcome.result for task in tasks if task.outcome is not None]
    started = [result.started_at for result in results if result is not None and result.started_at]
    cases = [_testcase(name, task) for task in tasks]
    if failure is not None:
        case = ElementTree.Element("testcase", classname=valid_xml(name), name="collection", time="0.000")
        _describe(case, "error", failure.kind, _first_line(failure.text), failure.text)
        cases.append(case)
    element.set("tests", str(len(cases)))
    for total, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        element.set(total, str(sum(case.find(tag) is not None for case in cases)))
    element.set("time", f"{sum(result.duration_s for result in results if result is not None):.3f}")
    if started:
        element.set("timestamp", datetime.fromtimestamp(min(started), timezone.utc).isoformat("T", "seconds"))
    element.extend(cases)
    return element


def _testcase(suite: str, task: TaskResult) -> ElementTree.Element:
    classname, name = _names(suite, task)
    outcome = task.outcome
    result = outcome.result if outcome is not None else None
    case = ElementTree.Element("testcase", classname=valid_xml(classname), name=valid_xml(name))
    case.set("time", f"{result.duration_s if result is not None else 0.0:.3f}")
    if outcome is None:
        _describe(case, "error", "no_verdict", "the fleet was lost before this task had a verdict", "")
        return case
    if outcome.runner:
        properties = ElementTree.SubElement(case, "properties")
        place = [("worker", outcome.worker), ("runner", outcome.runner), ("attempt", str(outcome.attempt))]
        for key, value in [*place, *([("variant", task.variant)] if task.variant else [])]:
            ElementTree.SubElement(properties, "property", name=key, value=valid_xml(value))
    verdict = outcome.verdict
    why = headline(outcome)
    if verdict is Verdict.FAILED:
        _describe(case, "failure", "failed", why, explanation(outcome, with_output=False))
    elif verdict in _SKIPPED and not why.startswith("not collectable"):
        kind = {Verdict.SKIPPED: "pytest.skip", Verdict.XFAILED: "pytest.xfail"}.get(verdict, verdict.value)
        _describe(case, "skipped", kind, why, "")
    elif not verdict.is_success:
        _describe(case, "error", verdict.value, why, explanation(outcome, with_output=False))
    output = captured_output(outcome)
    if output:
        ElementTree.SubElement(case, "system-out").text = valid_xml(output)
    return case


def _names(suite: str, task: TaskResult) -> tuple[str, str]:
    """(classname, name) as pytest itself would write them; a command is a test of its suite."""
    if task.item is None:
        return suite, task.task_id
    classname, name = names_of_node(task.item.node_id)
    return classname, f"{name}{VARIANT_SIGN}{task.variant}" if task.variant else name


def names_of_node(node_id: str) -> tuple[str, str]:
    """(classname, name) of a pytest node id, as pytest's own JUnit report has them."""
    file, *inner = node_id.split("::")
    brackets = node_id.find("[")
    if brackets >= 0:
        # A parameter may contain anything, "::" too.
        file, *inner = node_id[:brackets].split("::")
        inner[-1:] = [inner[-1] + node_id[brackets:]] if inner else []
    module = file.removesuffix(".py").replace("/", ".")
    if not inner:
        return module, node_id
    return ".".join([module, *inner[:-1]]), inner[-1]


def _describe(case: ElementTree.Element, tag: str, kind: str, message: str, text: str) -> None:
    element = ElementTree.SubElement(case, tag, type=valid_xml(kind), message=valid_xml(message))
    if text:
        element.text = valid_xml(text)


def valid_xml(text: str) -> str:
    """``text`` as XML can hold it and people can read it: some characters XML cannot write, not even escaped, and some
    make a name look like another one: they are spelled out."""
    return _NOT_SHOWN.sub(lambda match: f"#x{ord(match.group()):02X}", text)


def _first_line(text: str) -> str:
    return next((line for line in text.splitlines() if line.strip()), "")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask

"""What people type into what the API wants: beginnings of run ids, parts of test names."""

from __future__ import annotations

from typing import Any

from fleetest.client.terminal_text import printable
from fleetest.errors import UserError
from fleetest.operator.api_client import PAGE, ApiClient

FOUND_MAX = 20


def find_run(client: ApiClient, text: str) -> dict[str, Any]:
    """The run whose id begins with ``text``; ``latest`` is the live one that began last, else the last one.

    Raises UserError if there is none, or more than one.
    """
    if text == "latest":
        newest = list(client.pages("runs", limit=1))
        if not newest:
            raise UserError("there is no run yet: start one with pytest --fleet, or fleetest run")
        return dict(newest[0])
    found = []
    for run in client.pages("runs", text=text):
        if run["run_id"] == text:
            return dict(run)
        if run["run_id"].startswith(text):
            found.append(run)
    if not found:
        raise UserError(f"no run begins with {printable(text)!r}: see fleetest runs")
    if len(found) > 1:
        ids = ", ".join(run["run_id"][:12] for run in found[:3])
        raise UserError(f"more than one run begins with {printable(text)!r} ({ids}): give more of its id")
    return dict(found[0])


def find_tasks(client: ApiClient, run_id: str, text: str) -> tuple[list[dict[str, Any]], int]:
    """The task of that id, else those with ``text`` in theirs, at most FOUND_MAX, and how many more there are.

    Raises UserError if there is none.
    """
    # A page, not just as many as are shown: the very id may come after longer ones.
    tasks = list(client.pages("runs", run_id, "tasks", text=text, limit=PAGE))
    exact = [task for task in tasks if task["task_id"] == text]
    if exact or tasks:
        return (exact, 0) if exact else (tasks[:FOUND_MAX], len(tasks[FOUND_MAX:]))
    raise UserError(
        f"no test of run {run_id[:12]} has {printable(text)!r} in its name: see fleetest show {run_id[:12]}"
    )


def find_worker(client: ApiClient, name: str) -> dict[str, Any]:
    """The worker of that name, else the only one that begins so. Raises UserError."""
    workers = list(client.pages("workers"))
    exact = [worker for worker in workers if worker["worker_id"] == name]
    found = exact or [worker for worker in workers if worker["worker_id"].startswith(name)]
    if not found:
        raise UserError(f"there is no worker {printable(name)!r}: see fleetest workers")
    if len(found) > 1:
        names = ", ".join(printable(worker["worker_id"]) for worker in found[:3])
        raise UserError(f"more than one worker begins with {printable(name)!r} ({names}): give more of its name")
    return dict(found[0])


def find_alert(client: ApiClient, text: str) -> dict[str, Any]:
    """The alert of that id, else the only one that begins so. Raises UserError."""
    alerts = list(client.pages("alerts"))
    exact = [alert for alert in alerts if alert["alert_id"] == text]
    found = exact or [alert for alert in alerts if alert["alert_id"].startswith(text)]
    if not found:
        raise UserError(f"no alert begins with {printable(text)!r}: see fleetest alerts --all")
    if len(found) > 1:
        raise UserError(f"more than one alert begins with {printable(text)!r}: give more of its id")
    return dict(found[0])

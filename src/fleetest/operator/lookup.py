"""What people type into what the API wants: beginnings of run ids, parts of test names."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fleetest.client.terminal_text import one_line, printable
from fleetest.errors import UserError
from fleetest.operator.api_client import PAGE, ApiClient
from fleetest.operator.terminal_table import moment

FOUND_MAX = 20
RUN_ID_CHARS = 12
"""Enough of a run's id for people."""


def find_run(client: ApiClient, text: str) -> dict[str, Any]:
    """The run whose id begins with ``text``; ``latest`` is the live one that began last, else the last one.

    Raises UserError if there is none, or more than one.
    """
    if text == "latest":
        newest = list(client.pages("runs", limit=1))
        if not newest:
            raise UserError("there is no run yet: start one with pytest --fleet, or fleetest run")
        return dict(newest[0])
    return _the_one(client.pages("runs", text=text), "run_id", text, "run", "fleetest runs", RUN_ID_CHARS)


def find_tasks(
    client: ApiClient, run_id: str, text: str, *, unfinished_first: bool = False
) -> tuple[list[dict[str, Any]], int, bool]:
    """The task of that id, else those with ``text`` in theirs: FOUND_MAX at most, how many more, and if that is all.

    In planned order; with ``unfinished_first`` those that have no verdict yet come before the others. Raises UserError
    if there is none.
    """
    # The very id may come after any number of longer ones, so it is asked for by itself.
    exact = client.find("runs", run_id, "tasks", text) if text else None
    if exact is not None:
        return [exact], 0, True
    tasks = list(client.pages("runs", run_id, "tasks", text=text, limit=PAGE))
    if not tasks:
        short = run_id[:RUN_ID_CHARS]
        raise UserError(f"no test of run {short} has {printable(text)!r} in its name: see fleetest show {short}")
    if unfinished_first:
        tasks.sort(key=lambda task: task["state"] == "finished")
    return tasks[:FOUND_MAX], len(tasks[FOUND_MAX:]), len(tasks) < PAGE


def find_worker(client: ApiClient, name: str) -> dict[str, Any]:
    """The worker of that name, else the only one that begins so. Raises UserError, which tells what became of it."""
    workers = list(client.pages("workers"))
    if not any(worker["worker_id"].startswith(name) for worker in workers):
        told = client.find("workers", name, "states") if name else None
        if told is not None and told["spans"]:
            last = told["spans"][-1]
            because = f" ({one_line(last['reason'])})" if last["reason"] else ""
            raise UserError(
                f"worker {printable(name)!r} is not here any more: {one_line(last['state'])} since"
                f" {moment(last['since'])}{because}; its page in the dashboard tells more"
            )
    return _the_one(workers, "worker_id", name, "worker", "fleetest workers")


def find_quarantined(client: ApiClient, name: str) -> str:
    """The id of a worker that may be released: also one that is not here, if it is quarantined. Raises UserError."""
    for alert in client.pages("alerts", worker=name):
        if alert["cause"] == "quarantined" and alert["state"] != "cleared":
            return name
    return str(find_worker(client, name)["worker_id"])


def find_alert(client: ApiClient, text: str) -> dict[str, Any]:
    """The alert of that id, else the only one that begins so. Raises UserError."""
    return _the_one(client.pages("alerts"), "alert_id", text, "alert", "fleetest alerts --all")


def _the_one(
    items: Iterable[dict[str, Any]], key: str, text: str, what: str, see: str, chars: int | None = None
) -> dict[str, Any]:
    """The item whose ``key`` is ``text``, else the only one whose begins so; ``chars`` of it are enough for people."""
    found = []
    for item in items:
        if item[key] == text:
            return dict(item)
        if item[key].startswith(text):
            found.append(item)
    if not found:
        raise UserError(f"no {what} begins with {printable(text)!r}: see {see}")
    if len(found) > 1:
        names = ", ".join(printable(item[key][:chars]) for item in found[:3])
        more = ", ..." if len(found) > 3 else ""
        raise UserError(f"more than one {what} begins with {printable(text)!r} ({names}{more}): give more of it")
    return dict(found[0])

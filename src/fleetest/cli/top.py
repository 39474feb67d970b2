"""``fleetest top``: the fleet live in a terminal."""

from __future__ import annotations

import os
import select
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from fleetest.cli.ask import bad_count, lost_workers, state_of
from fleetest.cli.connection import asks, show_json, with_json
from fleetest.client.terminal_text import counted
from fleetest.errors import ExitStatus, UserError
from fleetest.operator.terminal_table import STYLES, ago, cell, seconds

if TYPE_CHECKING:
    from rich.console import Group, JustifyMethod
    from rich.text import Text

    from fleetest.operator.api_client import ApiClient

RUNNING_MAX = 200
LOST_SHOWN = 5
_KEY_POLL_S = 0.05
_OTHER_LINES = 16
"""Of the screen that the list of running tests does not get, besides workers and runs."""


@click.command()
@click.option("--interval-s", type=click.FloatRange(0.2, 60), default=1.0, show_default=True, help="Between two looks.")
@with_json
@asks
def top(client: ApiClient, interval_s: float, as_json: bool) -> None:
    """The fleet live: workers, queue, running tests by age. q or Ctrl-C ends it.

    On a pipe, and with --json, it is printed once.
    """
    if as_json:
        show_json(_look(client))
        return
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal or not sys.stdin.isatty():
        console.print(_screen(_look(client), height=200))
        return
    from rich.live import Live

    with (
        _single_keys(),
        Live(_screen(_look(client), console.height), console=console, screen=True, auto_refresh=False) as live,
    ):
        while not _is_over(interval_s):
            looked = _in_background(lambda: _look_again(client))
            while not looked.done():
                if _is_over(_KEY_POLL_S):
                    return
            live.update(_screen(looked.result(), console.height), refresh=True)


def _look(client: ApiClient) -> dict[str, Any]:
    return {
        "status": client.get("status"),
        "workers": list(client.pages("workers")),
        "lost": lost_workers(client),
        "runs": list(client.pages("runs", state="live", limit=50)),
        "queue": client.get("queue"),
        "url": client.url,
    }


def _look_again(client: ApiClient) -> dict[str, Any]:
    """A coordinator that is away comes back: that is shown, not the end."""
    try:
        return _look(client)
    except UserError as error:
        if error.exit_status is not ExitStatus.UNREACHABLE:
            raise
        return {"trouble": str(error)}


def _screen(seen: dict[str, Any], height: int) -> Group:
    from rich.console import Group
    from rich.text import Text

    if "trouble" in seen:
        return Group(Text(cell(seen["trouble"]), style="bold red"), Text("trying again", style="dim"))
    status = seen["status"]
    tasks, slots = status["tasks"], status["slots"]
    head = Text.assemble(
        ("fleetest ", "bold"),
        (cell(seen["url"]), "dim"),
        f"   {tasks['running']} running, {tasks['waiting'] + tasks['leased']} waiting",
        f"   {status['finished_per_s']:.3g} tests/s",
        f"   slots {slots['used']}/{slots['total']}",
        f"   left {seconds(status['remaining_s'])}" if status["runs"] else "   no run in progress",
        (f"   {counted(status['alerts']['open'], 'alert')}", "bold red") if status["alerts"]["open"] else "",
    )
    parts = [head, Text(""), _workers(seen["workers"], max(4, height // 3))]
    if seen["lost"]:
        parts.append(_lost(seen["lost"]))
    if seen["runs"]:
        parts += [Text(""), _runs(seen["runs"][:6])]
    if seen["queue"]["groups"]:
        parts += [Text(""), _queue(seen["queue"])]
    used = _OTHER_LINES + min(len(seen["workers"]), max(4, height // 3)) + len(seen["runs"][:6])
    parts += [Text(""), _running(seen["workers"], max(5, height - used))]
    return Group(*parts)


def _workers(workers: list[dict[str, Any]], room: int) -> Any:
    table = _table(
        ("worker", False), ("state", False), ("slots", True), ("queued", True), ("load", True), ("alerts", False)
    )
    ranked = sorted(
        workers, key=lambda worker: (worker["state"] == "healthy", -worker["slots_used"], worker["worker_id"])
    )
    shown = ranked if len(ranked) == room + 1 else ranked[:room]
    for worker in shown:
        _add(
            table,
            worker["worker_id"],
            worker["state"],
            f"{worker['slots_used']}/{worker['slots']}",
            seconds(worker["waiting_s"]) if worker["waiting"] else "-",
            worker["load_average"],
            ", ".join(worker["alerts"]) or "-",
        )
    if len(workers) > len(shown):
        _add(table, f"and {len(workers) - len(shown)} more", "", "", "", "", "")
    return table


def _lost(lost: list[dict[str, Any]]) -> Text:
    """One line: who was given up lately and did not come back."""
    from rich.text import Text

    names = ", ".join(f"{cell(each['worker_id'])} ({ago(each['since'])})" for each in lost[:LOST_SHOWN])
    more = f" and {len(lost) - LOST_SHOWN} more" if len(lost) > LOST_SHOWN else ""
    return Text(f"lost: {names}{more}", style="red", no_wrap=True, overflow="ellipsis")


def _runs(runs: list[dict[str, Any]]) -> Any:
    table = _table(("run", False), ("state", False), ("done", True), ("bad", True), ("left", True), ("title", False))
    for run in runs:
        done = f"{run['states']['finished']}/{run['tasks']}"
        _add(table, run["run_id"][:12], state_of(run), done, bad_count(run), seconds(run["remaining_s"]), run["title"])
    return table


def _queue(queue: dict[str, Any]) -> Any:
    table = _table(("waiting", True), ("because", False))
    for group in queue["groups"][:5]:
        _add(table, group["count"], group["reason"])
    return table


def _running(workers: list[dict[str, Any]], room: int) -> Any:
    running = [(task, worker["worker_id"]) for worker in workers for task in worker["running"] if task["is_started"]]
    running.sort(key=lambda pair: -pair[0]["running_s"])
    table = _table(("for", True), ("slot", False), ("running test", False))
    for task, worker_id in running[: min(room, RUNNING_MAX)]:
        _add(table, seconds(task["running_s"]), f"{worker_id}/{task['slot']}", task["task_id"])
    return table


def _table(*columns: tuple[str, bool]) -> Any:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold", expand=True)
    for name, is_number in columns:
        # Only the last column gives way on a narrow screen.
        ratio = 1 if name == columns[-1][0] else None
        justify: JustifyMethod = "right" if is_number else "left"
        table.add_column(name, justify=justify, no_wrap=True, overflow="ellipsis", ratio=ratio)
    return table


def _add(table: Any, *values: Any) -> None:
    from rich.text import Text

    texts = [cell(value) for value in values]
    table.add_row(*(Text(text, style=STYLES.get(text, "")) for text in texts))


@contextmanager
def _single_keys() -> Iterator[None]:
    """Keys arrive one by one and are not shown; the terminal is left as it was."""
    import termios
    import tty

    before = termios.tcgetattr(sys.stdin)
    try:
        tty.setcbreak(sys.stdin)
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _is_over(wait_s: float) -> bool:
    """True as soon as somebody wants to leave; False after ``wait_s``."""
    end = time.monotonic() + wait_s
    while (left_s := end - time.monotonic()) > 0:
        if not select.select([sys.stdin], [], [], left_s)[0]:
            return False
        keys = os.read(sys.stdin.fileno(), 1024)
        # Escape alone; with something behind it, it is an arrow, say.
        if not keys or keys == b"\x1b" or (keys[:1] != b"\x1b" and b"q" in keys.lower()):
            return True
    return False


def _in_background(look: Callable[[], dict[str, Any]]) -> Future[dict[str, Any]]:
    """A coordinator that does not answer keeps nobody from leaving."""
    looked: Future[dict[str, Any]] = Future()

    def work() -> None:
        try:
            looked.set_result(look())
        except Exception as error:
            looked.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return looked

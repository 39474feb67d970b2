"""Commands that ask a coordinator one thing each: status, workers, runs, show, why, logs, alerts."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from fleetest.cli.connection import asks, show_json, with_json
from fleetest.client.terminal_text import printable
from fleetest.core.quantities import format_size
from fleetest.errors import ExitStatus
from fleetest.operator.lookup import RUN_ID_CHARS, find_alert, find_run, find_tasks, find_worker
from fleetest.operator.terminal_table import ago, cell, moment, seconds, show_facts, show_table

if TYPE_CHECKING:
    from fleetest.operator.api_client import ApiClient

POLL_S = 1.0
NAMES_SHOWN = 5
NOT_RUN_READ = 1000
_GOOD = ("passed", "skipped", "xfailed", "xpassed")


@click.command()
@with_json
@asks
def status(client: ApiClient, as_json: bool) -> None:
    """The fleet in a few lines."""
    told = client.get("status")
    if as_json:
        show_json(told)
        return
    workers = ", ".join(f"{count} {state}" for state, count in told["workers"].items() if count) or "none"
    slots, tasks, alerts = told["slots"], told["tasks"], told["alerts"]
    verdicts = ", ".join(f"{count} {verdict}" for verdict, count in told["verdicts"].items() if count) or "none yet"
    show_facts(
        [
            ("coordinator", f"{client.url}, version {told['version']}, up {seconds(told['uptime_s'])}"),
            ("workers", workers),
            ("slots", f"{slots['used']} of {slots['total']} in use, {slots['free']} free"),
            ("runs", f"{told['runs']} in progress"),
            ("tests", f"{tasks['running']} running, {tasks['waiting'] + tasks['leased']} waiting"),
            ("verdicts", verdicts),
            ("throughput", f"{told['finished_per_s']:.3g} tests/s"),
            ("time left", seconds(told["remaining_s"]) if told["runs"] else None),
            ("alerts", f"{alerts['open']} open, {alerts['acknowledged']} acknowledged"),
            ("history", "usable" if told["history"]["is_usable"] else told["history"]["trouble"]),
            ("you", f"{told['me']['name']} ({told['me']['role']})"),
        ]
    )


@click.command()
@click.argument("name", required=False)
@with_json
@asks
def workers(client: ApiClient, name: str | None, as_json: bool) -> None:
    """Every worker, and those that were lost; or one in full: fleetest workers NAME."""
    if name is not None:
        _one_worker(client, name, as_json)
        return
    found, lost = list(client.pages("workers")), lost_workers(client)
    if as_json:
        show_json({"workers": found, "lost_workers": lost})
        return
    if found:
        columns = ("worker", "state", "slots", "queued", "load", "heard", "runs now")
        show_table(columns, [_worker_row(worker) for worker in found], numeric=("slots", "queued", "load"))
    else:
        which = "No worker is here" if lost else "No worker yet"
        click.echo(f"{which}. Start one on each machine: fleetest worker --coordinator {client.url}")
    if lost:
        click.echo()
        rows = [[each["worker_id"], each["state"], moment(each["since"]), each["reason"]] for each in lost]
        show_table(("worker", "state", "since", "because"), rows)


def lost_workers(client: ApiClient) -> list[dict[str, Any]]:
    """Those that were given up and did not come back; an older coordinator does not tell."""
    told = client.find("lost-workers")
    return told["items"] if told is not None else []


def _worker_row(worker: dict[str, Any]) -> list[Any]:
    running = worker["running"]
    now = f"{running[0]['task_id']} ({seconds(running[0]['running_s'])})" if running else None
    more = f" and {len(running) - 1} more" if len(running) > 1 else ""
    return [
        worker["worker_id"],
        worker["state"],
        f"{worker['slots_used']}/{worker['slots']}",
        seconds(worker["waiting_s"]) if worker["waiting"] else None,
        worker["load_average"],
        ago(worker["last_seen_at"]),
        f"{now}{more}" if now else None,
    ]


def _one_worker(client: ApiClient, name: str, as_json: bool) -> None:
    worker = client.get("workers", find_worker(client, name)["worker_id"])
    if as_json:
        show_json(worker)
        return
    show_facts(
        [
            ("worker", worker["worker_id"]),
            ("state", worker["state"]),
            ("because", worker["reason"]),
            ("host", f"{worker['host']} ({worker['address'] or 'not connected'})"),
            ("slots", f"{worker['slots_used']} of {worker['slots']} in use, {worker['waiting']} tests queued"),
            ("joined", moment(worker["joined_at"])),
            ("heard", ago(worker["last_seen_at"])),
            ("load", worker["load_average"]),
            ("speed", f"{worker['speed']:.2f} of the fleet's"),
            ("reliability", worker["reliability"]),
            ("alerts", ", ".join(worker["alerts"])),
            *((name, _free(name, worker["free"][name], total)) for name, total in worker["resources"].items()),
            *((name, ", ".join(values)) for name, values in worker["attributes"].items()),
            *(
                (f"slot {task['slot']}", f"{task['task_id']} ({seconds(task['running_s'])})")
                for task in worker["running"]
            ),
        ]
    )
    for line in worker["story"]:
        click.echo(f"  {cell(line)}")


def _free(name: str, free: float, total: float) -> str:
    if name.endswith("memory"):
        return f"{format_size(free)} of {format_size(total)} free"
    return f"{free:g} of {total:g} free"


@click.command()
@click.option("--limit", type=click.IntRange(1, 10_000), default=20, show_default=True, help="Runs at most.")
@with_json
@asks
def runs(client: ApiClient, limit: int, as_json: bool) -> None:
    """Runs, live ones first, then newest first."""
    found = list(client.pages("runs", limit=limit))
    if as_json:
        show_json(found)
        return
    if not found:
        click.echo(f"No run yet. Start one: pytest --fleet {client.url}")
        return
    columns = ("run", "state", "tests", "done", "bad", "started", "took", "owner", "title")
    rows = [
        [
            run["run_id"][:RUN_ID_CHARS],
            state_of(run),
            run["tasks"],
            run["states"]["finished"],
            bad_count(run),
            moment(run["submitted_at"]),
            seconds(run["duration_s"]),
            run["owner"] or None,
            run["title"],
        ]
        for run in found
    ]
    show_table(columns, rows, numeric=("tests", "done", "bad"))


def state_of(run: dict[str, Any]) -> str:
    """One word for people: running, passed, failed, cancelled, ..."""
    if run["is_live"]:
        return str(run["state"])
    if run["outcome"] == "finished":
        return "passed" if run["is_success"] else "failed"
    return str(run["outcome"])


def bad_count(run: dict[str, Any]) -> int:
    """How many tests have a verdict that makes the run fail."""
    return sum(count for verdict, count in run["counts"].items() if verdict not in _GOOD)


@click.command()
@click.argument("run", default="latest")
@with_json
@asks
def show(client: ApiClient, run: str, as_json: bool) -> int:
    """One run: verdicts and failures. RUN is the beginning of its id, or "latest" (the default).

    The exit status is 1 if a test failed, or the run ended without success.
    """
    found = client.get("runs", find_run(client, run)["run_id"])
    failures = client.get("runs", found["run_id"], "failures")["items"]
    is_bad = bad_count(found) or not (found["is_live"] or found["is_success"])
    failed = ExitStatus.TESTS_FAILED if is_bad else ExitStatus.OK
    if as_json:
        show_json(found | {"failures": failures})
        return failed
    verdicts = ", ".join(f"{count} {verdict}" for verdict, count in found["counts"].items() if count) or "none yet"
    states = found["states"]
    show_facts(
        [
            ("run", found["run_id"]),
            ("title", found["title"]),
            ("state", state_of(found)),
            ("owner", found["owner"]),
            ("started", moment(found["submitted_at"])),
            ("took", seconds(found["duration_s"])),
            ("tests", f"{states['finished']} of {found['tasks']} done, {states['running']} running"),
            ("verdicts", verdicts),
            ("time left", seconds(found["remaining_s"]) if found["is_live"] else None),
            ("cancelled", found["cancel_reason"]),
        ]
    )
    for notice in found["notices"]:
        click.echo(f"\n{printable(notice)}")
    for group in failures:
        _show_failures(group)
    if found["counts"].get("not_run"):
        _show_not_run(client, found)
    return failed


def _show_failures(group: dict[str, Any]) -> None:
    count = group["count"]
    click.echo(f"\n{count} {'test' if count == 1 else 'tests alike'}: {cell(group['headline'])}")
    _show_names(group["task_ids"], count)
    if group["reproduce"]:
        click.echo(f"  alone: {cell(group['reproduce'])}")


def _show_names(names: list[str], count: int | None = None) -> None:
    for name in names[:NAMES_SHOWN]:
        click.echo(f"  {cell(name)}")
    more = (len(names) if count is None else count) - NAMES_SHOWN
    if more > 0:
        click.echo(f"  and {more} more")


def _show_not_run(client: ApiClient, run: dict[str, Any]) -> None:
    by_reason: dict[str, list[str]] = {}
    count = 0
    for task in client.pages("runs", run["run_id"], "tasks", verdict="not_run", limit=NOT_RUN_READ):
        by_reason.setdefault(task["reason"], []).append(task["task_id"])
        count += 1
    for reason, names in by_reason.items():
        click.echo(f"\n{len(names)} {'test' if len(names) == 1 else 'tests'} not run: {cell(reason)}")
        _show_names(names)
    if run["counts"]["not_run"] > count:
        click.echo(f"\nand {run['counts']['not_run'] - count} more not run")


@click.command()
@click.argument("task")
@click.option("--run", default="latest", show_default=True, help="Beginning of the run's id.")
@with_json
@asks
def why(client: ApiClient, task: str, run: str, as_json: bool) -> None:
    """Why TASK (a test's id, or a part of it) is where it is, one sentence for each that matches.

    Of many that match, those without a verdict come first.
    """
    run_id = find_run(client, run)["run_id"]
    found, more, is_all = find_tasks(client, run_id, task, unfinished_first=True)
    details = [client.get("runs", run_id, "tasks", each["task_id"]) for each in found]
    if as_json:
        show_json([{"run_id": run_id, "task_id": each["task_id"], "why": each["why"]} for each in details])
        return
    for each in details:
        click.echo(f"{cell(each['task_id'])}: {cell(each['why'])}")
    _say_more(more, is_all)


@click.command()
@click.argument("task")
@click.option("--run", default="latest", show_default=True, help="Beginning of the run's id.")
@click.option("--follow", "-f", is_flag=True, help="Until the test has its verdict.")
@with_json
@asks
def logs(client: ApiClient, task: str, run: str, follow: bool, as_json: bool) -> None:
    """Output, tracebacks and evidence of every attempt of TASK (a test's id, or a part of it).

    A test's output comes with its result: --follow says where the test is until then.
    """
    run_id = find_run(client, run)["run_id"]
    found, more, is_all = find_tasks(client, run_id, task)
    for each in found:
        _show_logs(client, run_id, each["task_id"], follow, as_json)
    _say_more(more, is_all)


def _say_more(more: int, is_all: bool) -> None:
    if more:
        count = f"{more} more" if is_all else f"at least {more} more"
        tests = "test matches" if more == 1 else "tests match"
        click.echo(f"fleetest: {count} {tests}: give more of the name", err=True)


def _show_logs(client: ApiClient, run_id: str, task_id: str, follow: bool, as_json: bool) -> None:
    shown, said = 0, ""
    while True:
        task = client.get("runs", run_id, "tasks", task_id)
        is_over = task["state"] == "finished"
        if as_json and (is_over or not follow):
            show_json(task)
            return
        if not as_json:
            for attempt in task["attempt_list"][shown:]:
                _show_attempt(task_id, attempt)
            shown = len(task["attempt_list"])
            if task["why"] != said and not is_over:
                said = task["why"]
                click.echo(f"{cell(task_id)}: {cell(said)}", err=follow)
        if is_over or not follow:
            return
        time.sleep(POLL_S)


def _show_attempt(task_id: str, attempt: dict[str, Any]) -> None:
    where = f" on {attempt['worker']}" if attempt["worker"] else ""
    took = f" after {seconds(attempt['duration_s'])}" if attempt["duration_s"] is not None else ""
    verdict = attempt["verdict"].replace("_", " ")
    click.echo(cell(f"== {task_id}: attempt {attempt['attempt']} {verdict}{took}{where}"))
    # The evidence of a crash begins with its reason.
    reason = "" if attempt["traceback"].startswith(attempt["reason"]) else attempt["reason"]
    for part in (reason, attempt["traceback"], attempt["output"]):
        if part.strip():
            click.echo(printable(part.rstrip("\n")))


@click.command()
@click.option("--all", "is_all", is_flag=True, help="Also those that are over.")
@click.option("--acknowledge", metavar="ID", help="Say that somebody looks after it.")
@with_json
@asks
def alerts(client: ApiClient, is_all: bool, acknowledge: str | None, as_json: bool) -> int:
    """What is wrong with the fleet. The exit status is 1 if an alert is open."""
    if acknowledge is not None:
        client.post("alerts", find_alert(client, acknowledge)["alert_id"], "acknowledge")
    found = [alert for alert in client.pages("alerts") if is_all or alert["state"] != "cleared"]
    is_bad = any(alert["state"] == "open" for alert in found)
    if as_json:
        show_json(found)
    elif not found:
        click.echo("No alerts." if is_all else "No open alerts.")
    else:
        columns = ("id", "state", "cause", "worker", "since", "message")
        rows = [
            [
                each["alert_id"],
                each["state"],
                each["cause"],
                each["worker_id"] or "(coordinator)",
                moment(each["raised_at"]),
                each["message"],
            ]
            for each in found
        ]
        show_table(columns, rows)
    return ExitStatus.TESTS_FAILED if is_bad else ExitStatus.OK

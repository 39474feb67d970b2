"""Commands that change something: cancel, rerun, drain, resume, quarantine, release."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from fleetest.cli.connection import asks, show_json, with_json
from fleetest.errors import UserError
from fleetest.operator.lookup import RUN_ID_CHARS, find_quarantined, find_run, find_worker
from fleetest.operator.terminal_table import cell

if TYPE_CHECKING:
    from fleetest.operator.api_client import ApiClient


@click.command()
@click.argument("run")
@click.option("--reason", default="", help="Shown to whoever follows the run.")
@click.option("--kill", is_flag=True, help="End running tests at once instead of within seconds.")
@with_json
@asks
def cancel(client: ApiClient, run: str, reason: str, kill: bool, as_json: bool) -> None:
    """End RUN (the beginning of its id): nothing more is started, running tests end within seconds."""
    found = find_run(client, run)
    if not found["is_live"]:
        raise UserError(f"run {found['run_id'][:RUN_ID_CHARS]} is over already")
    answer = client.post("runs", found["run_id"], "cancel", body={"reason": reason, "kill": kill})
    _said(as_json, answer, f"run {found['run_id'][:RUN_ID_CHARS]} is being cancelled")


@click.command()
@click.argument("run", default="latest")
@click.option("--failed/--all", "only_failed", default=True, show_default=True, help="Which of its tests.")
@with_json
@asks
def rerun(client: ApiClient, run: str, only_failed: bool, as_json: bool) -> None:
    """Run the tests of RUN again that did not succeed, as a new run."""
    found = find_run(client, run)
    answer = client.post("runs", found["run_id"], "rerun", body={"only": "failed" if only_failed else "all"})
    _said(
        as_json,
        answer,
        f"submitted as run {answer['run_id'][:RUN_ID_CHARS]}: fleetest show {answer['run_id'][:RUN_ID_CHARS]}",
    )


@click.command()
@click.argument("worker")
@with_json
@asks
def drain(client: ApiClient, worker: str, as_json: bool) -> None:
    """Give WORKER no new work; what runs there finishes. It stays until it is resumed or stopped."""
    _steer(client, worker, "drain", "gets no new work", as_json)


@click.command()
@click.argument("worker")
@with_json
@asks
def resume(client: ApiClient, worker: str, as_json: bool) -> None:
    """Give a drained WORKER work again, also if it is away and may come back: then by its full name."""
    from fleetest.operator.api_client import NotThereError

    try:
        answer = client.post("workers", worker, "resume", body={})
    except NotThereError:
        _steer(client, worker, "resume", "gets work again", as_json)
    else:
        _said(as_json, answer, f"worker {cell(worker)} gets work again")


@click.command()
@click.argument("worker")
@click.option("--reason", default="", help="Why, for whoever looks next.")
@with_json
@asks
def quarantine(client: ApiClient, worker: str, reason: str, as_json: bool) -> None:
    """Keep WORKER out until it is released."""
    _steer(client, worker, "quarantine", "is quarantined", as_json, reason=reason)


@click.command()
@click.argument("worker")
@with_json
@asks
def release(client: ApiClient, worker: str, as_json: bool) -> None:
    """Let a quarantined WORKER back."""
    worker_id = find_quarantined(client, worker)
    _said(as_json, client.post("workers", worker_id, "release", body={}), f"worker {cell(worker_id)} is released")


def _steer(client: ApiClient, name: str, action: str, done: str, as_json: bool, **body: str) -> None:
    worker_id = find_worker(client, name)["worker_id"]
    answer = client.post("workers", worker_id, action, body=body)
    _said(as_json, answer, f"worker {cell(worker_id)} {done}")


def _said(as_json: bool, answer: object, text: str) -> None:
    if as_json:
        show_json(answer)
    else:
        click.echo(text)

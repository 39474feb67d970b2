"""``fleetest export``: one run for other programs and for people without access."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fleetest.cli.connection import finds_coordinator
from fleetest.errors import UserError

if TYPE_CHECKING:
    from fleetest.operator.exported_run import ExportedRun

_PATH = click.Path(path_type=Path, readable=False)


@click.command()
@click.argument("run", default="latest")
@click.option("--format", "name", type=click.Choice(["junit", "json", "csv", "html"]), required=True)
@click.option("--output", "-o", type=_PATH, metavar="FILE", help="Write it there instead of printing it.")
@click.option("--history", type=_PATH, metavar="FILE", help="Read a history file instead of asking a coordinator.")
@finds_coordinator
def export(
    run: str,
    name: str,
    output: Path | None,
    history: Path | None,
    coordinator: str | None,
    token_file: Path | None,
    data: Path | None,
    tls_ca: Path | None,
) -> None:
    """One run as JUnit XML, JSON, CSV, or one HTML page that needs nothing else.

    RUN is the beginning of its id, or "latest" (the default). Runs of `pytest --fleet N` are in a history file:
    fleetest export --history .fleetest/history.duckdb --format html -o run.html
    """
    from fleetest.operator.export_formats import FORMATS

    if history is not None:
        told = _from_history(history, run)
    else:
        from fleetest.operator.api_client import connect
        from fleetest.operator.exported_run import from_api
        from fleetest.operator.lookup import find_run

        client = connect(coordinator, token_file, data, tls_ca)
        try:
            told = from_api(client, find_run(client, run)["run_id"])
        finally:
            client.close()
    text = FORMATS[name](told)
    if output is None:
        click.echo(text, nl=False)
        return
    try:
        output.write_text(text, "utf-8", "surrogateescape")
    except OSError as error:
        raise UserError(f"{output}: cannot be written: {error.strerror}") from error


def _from_history(path: Path, run: str) -> ExportedRun:
    from fleetest.cli.history import opened_history, the_run
    from fleetest.operator.exported_run import from_history

    with opened_history(path, None) as queries:
        return from_history(queries, the_run(queries, run))

"""``fleetest history``: what was run before, asked from the history file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click

from fleetest.client.terminal_text import csv_text, printable
from fleetest.core.model import Verdict
from fleetest.errors import UserError
from fleetest.operator.terminal_table import cell, print_table, terminal
from fleetest.storage.history_database import HistoryUnusable, explain, open_history
from fleetest.storage.history_ingest import ingest_orphans
from fleetest.storage.history_queries import Answer, HistoryQueries
from fleetest.storage.spool import pending_spools, spool_directory

F = TypeVar("F", bound=Callable[..., Any])

DEFAULT_FILE = Path(".fleetest") / "history.duckdb"
_LOCK_WAIT_S = 2.0
_RUN_ID_CHARS = 8
"""Of a run id on a terminal; any beginning of an id is understood."""
_ALWAYS = {"passed", "failed"}
_FORMATS = ("table", "json", "csv")


def _options(function: F) -> F:
    """The options that may stand before or after the name of the question."""
    for option in (
        click.option(
            "--format", "output_format", type=click.Choice(_FORMATS), help="table (the default), json or csv."
        ),
        click.option("--json", "output_format", flag_value="json", help="The same as --format json."),
        click.option("--data", type=click.Path(path_type=Path), help="A coordinator's data directory."),
        click.option(
            "--history",
            "history_file",
            type=click.Path(path_type=Path),
            help="The history file; default: the nearest .fleetest/history.duckdb from here upwards.",
        ),
    ):
        function = option(function)
    return function


def _limit(default: int) -> Callable[[F], F]:
    return click.option("--limit", type=click.IntRange(min=1), default=default, show_default=True, help="Rows at most.")


@click.group(invoke_without_command=True)
@_limit(20)
@_options
@click.pass_context
def history(ctx: click.Context, /, limit: int, **options: Any) -> None:
    """What was run before: runs, one run, slowest, flakiest and failing tests."""
    ctx.obj = options
    if ctx.invoked_subcommand is None:
        ctx.invoke(runs, limit=limit)


@history.command()
@_limit(20)
@_options
@click.pass_context
def runs(ctx: click.Context, /, limit: int, **options: Any) -> None:
    """The last runs, newest first."""
    with _opened(ctx, options) as queries:
        answer = queries.runs(limit)
    # Every verdict that one of them has: whoever adds up the columns must get what is in "tests".
    had = {name for row in answer.rows for name, value in zip(answer.columns, row, strict=True) if value}
    verdicts = [verdict.value for verdict in Verdict if verdict.value in had | _ALWAYS]
    shown = ("run_id", "started_at", "duration_s", "outcome", "tests", *verdicts, "title")
    _show(ctx, options, answer, shown, empty="No runs yet.")


@history.command()
@click.argument("run_id", default="latest")
@_options
@click.pass_context
def run(ctx: click.Context, /, run_id: str, **options: Any) -> None:
    """The tasks of one run, failures first. RUN_ID is the beginning of an id, or "latest"."""
    with _opened(ctx, options) as queries:
        found = the_run(queries, run_id)
        told = queries.run(found)
        answer = queries.tasks(found)
    if _chosen(ctx, options, "output_format") in (None, "table"):
        for line in _summary(told):
            click.echo(line)
    _show(ctx, options, answer, ("verdict", "attempts", "duration_s", "worker", "task_id", "reason"), empty="No tasks.")


@history.command()
@_limit(20)
@_options
@click.pass_context
def slowest(ctx: click.Context, /, limit: int, **options: Any) -> None:
    """Tests by the median duration of their passed attempts."""
    with _opened(ctx, options) as queries:
        answer = queries.slowest(limit)
    _show(ctx, options, answer, answer.columns, empty="No test has passed yet.")


@history.command()
@_limit(20)
@_options
@click.pass_context
def flakiest(ctx: click.Context, /, limit: int, **options: Any) -> None:
    """Tests that both passed and failed.

    The score is the share of attempts whose verdict differs from that of the attempt before.
    """
    with _opened(ctx, options) as queries:
        answer = queries.flakiest(limit)
    _show(ctx, options, answer, answer.columns, empty="No test has both passed and failed.")


@history.command()
@click.argument("test")
@_limit(20)
@_options
@click.pass_context
def failures(ctx: click.Context, /, test: str, limit: int, **options: Any) -> None:
    """Failures of TEST, newest first: its id, or a part of the ids of several."""
    with _opened(ctx, options) as queries:
        answer = queries.failures(test, limit)
        if not answer.rows and not queries.knows_task(test):
            raise UserError(f"no test in the history has {printable(test)!r} in its id")
    shown = ("failed_at", "run_id", "verdict", "worker", "task_id", "reason")
    _show(ctx, options, answer, shown, empty="It has never failed.")


def _chosen(ctx: click.Context, options: dict[str, Any], name: str) -> Any:
    """The option as given after the question, else before it."""
    return options.get(name) if options.get(name) is not None else (ctx.obj or {}).get(name)


def _opened(ctx: click.Context, options: dict[str, Any]) -> AbstractContextManager[HistoryQueries]:
    return opened_history(_chosen(ctx, options, "history_file"), _chosen(ctx, options, "data"))


@contextmanager
def opened_history(history_file: Path | None, data: Path | None) -> Iterator[HistoryQueries]:
    """The open history, with everything in it that test runs have left in spools. Raises UserError."""
    import duckdb

    path = _history_file(history_file, data)
    spools = spool_directory(path)
    if not path.exists() and not pending_spools(spools):
        raise HistoryUnusable(
            f"no history at {path}: run tests with --fleet first, or name the file with --history or --data"
        )
    read_only = path.exists() and not (os.access(path, os.W_OK) and os.access(path.parent, os.W_OK))
    connection = open_history(path, lock_wait_s=_LOCK_WAIT_S, read_only=read_only)
    try:
        if not read_only:
            for notice in ingest_orphans(connection, spools):
                click.echo(printable(notice), err=True)
        yield HistoryQueries(connection)
    except duckdb.Error as error:
        raise explain(path, error) from error
    finally:
        connection.close()


def the_run(queries: HistoryQueries, beginning: str) -> str:
    """The id of the one run that begins so, or of the latest. Raises UserError."""
    found = queries.run_ids(beginning, limit=2)
    if not found:
        raise UserError(f"no run in the history begins with {printable(beginning)!r}: see `fleetest history runs`")
    if len(found) > 1:
        raise UserError(f"more than one run begins with {printable(beginning)!r}: give more of its id")
    return found[0]


def _history_file(named: Path | None, data: Path | None) -> Path:
    if named is not None and data is not None:
        raise UserError("--history and --data exclude each other: give one of them")
    if named is not None:
        return named
    if data is not None:
        return data / "history.duckdb"
    here = Path.cwd()
    for directory in (here, *here.parents):
        candidate = directory / DEFAULT_FILE
        if candidate.exists() or pending_spools(spool_directory(candidate)):
            return candidate
    return here / DEFAULT_FILE


def _summary(told: Answer) -> Iterator[str]:
    told_run = dict(zip(told.columns, told.rows[0], strict=True))
    yield f"run {_cell(told_run['run_id'])}: {_cell(told_run['title'])}"
    duration = "" if told_run["duration_s"] is None else f", {told_run['duration_s']:.1f} s"
    started = _cell(told_run["started_at"])
    yield f"started {started} UTC{duration}, {told_run['outcome']}, {told_run['tests']} tests"
    yield ""


def _show(ctx: click.Context, options: dict[str, Any], answer: Answer, shown: tuple[str, ...], *, empty: str) -> None:
    """``shown`` are the columns of the table; json and csv have them all."""
    output_format = _chosen(ctx, options, "output_format") or "table"
    if output_format == "json":
        _show_json(answer)
    elif output_format == "csv":
        _show_csv(answer)
    elif not answer.rows:
        click.echo(empty)
    else:
        positions = [answer.columns.index(name) for name in shown]
        _show_table(shown, [[row[position] for position in positions] for row in answer.rows])


def _show_json(answer: Answer) -> None:
    import json

    rows = [dict(zip(answer.columns, map(_plain, row), strict=True)) for row in answer.rows]
    click.echo(json.dumps(rows, indent=2))


def _show_csv(answer: Answer) -> None:
    import csv
    import io

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(answer.columns)
    writer.writerows(
        [csv_text(value) if isinstance(value, str) else value for value in map(_plain, row)] for row in answer.rows
    )
    click.echo(text.getvalue(), nl=False)


def _plain(value: Any) -> Any:
    """A value as JSON has it: times in ISO 8601, in UTC."""
    return f"{value.isoformat()}Z" if hasattr(value, "isoformat") else value


def _show_table(columns: tuple[str, ...], rows: list[list[Any]]) -> None:
    cells = [[_cell(value) for value in row] for row in rows]
    numeric = {
        name
        for position, name in enumerate(columns)
        if all(isinstance(row[position], (int, float)) or row[position] is None for row in rows)
    }
    if "run_id" in columns and terminal() is not None:
        position = columns.index("run_id")
        for line in cells:
            line[position] = line[position][:_RUN_ID_CHARS]
    print_table(columns, cells, numeric)


def _cell(value: Any) -> str:
    """One line of printable text; hostile characters, line ends and tabs are shown as escapes."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.3f}"
    if hasattr(value, "isoformat"):
        return str(value.isoformat(sep=" ", timespec="seconds"))
    return cell(value)

"""``fleetest run``: pytest on a fleet with a live view, or a suite file of commands and pytest targets."""

from __future__ import annotations

import math
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from fleetest.core.model import WEIGHT_MAX, WEIGHT_MIN
from fleetest.errors import UserError

_OPTIONS_WITH_VALUE = frozenset({"-c", "--config-file", "-o", "--override-ini", "-k", "-m", "-p", "-W", "-r"})


class RunCommand(click.Command):
    """Parses its own options only for a suite file: everything else is pytest's, untouched and in order."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        # Its value is optional and always in the same word: what follows is another argument.
        args = ["--dashboard=0" if arg == "--dashboard" else arg for arg in args]
        if args[:1] != ["--help"] and suite_argument(args) is None:
            args = ["--", *args]
        return super().parse_args(ctx, args)


def suite_argument(args: Sequence[str]) -> str | None:
    """The suite file among the arguments: the first word that ends in ``.toml`` and is no option's value."""
    for index, arg in enumerate(args):
        if arg == "--":
            return None
        if arg.endswith(".toml") and not arg.startswith("-"):
            return None if index and args[index - 1] in _OPTIONS_WITH_VALUE else arg
    return None


@click.command(
    cls=RunCommand,
    options_metavar="[--fleet auto|N|URL]",
    help="""Run tests on a fleet, with a live view on a terminal.

    fleetest run [PYTEST ARGUMENTS...] is pytest with --fleet (default: auto, one runner per CPU); every argument
    goes to pytest and the exit status is pytest's.

    fleetest run SUITE.toml [OPTIONS] runs the commands and pytest targets of a suite file in one queue. The options
    below are for suite files.
    """,
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[PYTEST ARGUMENTS... | SUITE.toml]")
@click.option(
    "--fleet",
    "target",
    metavar="auto|N|URL",
    default="auto",
    show_default=True,
    help="Embedded runners, or a coordinator at ws://host:port or wss://host:port.",
)
@click.option("-x", "--exitfirst", is_flag=True, help="Stop at the first failure.")
@click.option("--maxfail", type=click.IntRange(min=1), metavar="N", help="Stop after N failures.")
@click.option(
    "--wait-for-workers",
    metavar="TIME",
    help="How long tests that no known worker can run wait for one: 5m, 0, forever  [default: the file's, or 300]",
)
@click.option(
    "--junitxml",
    "--junit-xml",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write one JUnit XML file for the whole suite.",
)
@click.option(
    "--history",
    metavar="FILE|none",
    help="History of embedded runs  [default: .fleetest/history.duckdb beside the suite file]",
)
@click.option(
    "--artifacts",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Keep artifacts under DIR/<run>  [default: .fleetest/artifacts beside the suite file]",
)
@click.option(
    "--no-hedge", is_flag=True, help="Never start a second attempt of a test elsewhere while the first still runs."
)
@click.option(
    "--weight",
    type=click.FloatRange(WEIGHT_MIN, WEIGHT_MAX),
    metavar="N",
    help="Part of a shared fleet: a run of weight 3 gets three times one of 1  [default: the file's]",
)
@click.option(
    "--token-file", type=click.Path(path_type=Path, readable=False), metavar="FILE", help="Token of the coordinator."
)
@click.option(
    "--data",
    type=click.Path(path_type=Path, readable=False),
    metavar="DIR",
    help="The coordinator's data directory, if it is on this machine.",
)
@click.option(
    "--tls-ca", type=click.Path(path_type=Path, readable=False), metavar="FILE", help="Authority to trust for wss://."
)
@click.option(
    "--dashboard",
    metavar="[=PORT]",
    help="Serve the dashboard on loopback while it runs and print a link; with a coordinator, a link to its own.",
)
@click.option("-q", "--quiet", is_flag=True, help="Plain lines instead of the live view.")
def run(
    arguments: tuple[str, ...],
    target: str,
    exitfirst: bool,
    maxfail: int | None,
    junitxml: Path | None,
    history: str | None,
    artifacts: Path | None,
    no_hedge: bool,
    weight: float | None,
    wait_for_workers: str | None,
    token_file: Path | None,
    data: Path | None,
    tls_ca: Path | None,
    dashboard: str | None,
    quiet: bool,
) -> int:
    if suite_argument(arguments) is None:
        from fleetest.cli.pytest_run import run_pytest

        return run_pytest(arguments)
    if len(arguments) > 1:
        extra = " ".join(argument for argument in arguments if argument != suite_argument(arguments))
        raise UserError(
            f"a suite file takes no further arguments, but got: {extra}; put pytest arguments into the file"
        )
    return _run_suite_file(
        Path(arguments[0]),
        target=target,
        max_failures=1 if exitfirst else maxfail,
        junit_file=junitxml,
        history=history,
        artifacts=artifacts,
        hedge=not no_hedge,
        weight=weight,
        wait_for_workers=wait_for_workers,
        token_file=token_file,
        data_directory=data,
        tls_ca=tls_ca,
        dashboard=dashboard,
        is_quiet=quiet,
    )


def _run_suite_file(
    path: Path,
    *,
    target: str,
    max_failures: int | None,
    junit_file: Path | None,
    history: str | None,
    artifacts: Path | None,
    hedge: bool,
    weight: float | None,
    wait_for_workers: str | None,
    token_file: Path | None,
    data_directory: Path | None,
    tls_ca: Path | None,
    dashboard: str | None,
    is_quiet: bool,
) -> int:
    import time

    from fleetest.client.junit import check_junit_path
    from fleetest.client.pytest_options import read_port
    from fleetest.client.run_progress import RunProgress
    from fleetest.client.suite_file import load_suite
    from fleetest.client.suite_report import SuiteReport
    from fleetest.client.suite_run import SuiteOptions, SuiteRun
    from fleetest.embedded import open_fleet

    is_embedded = "://" not in target
    suite = load_suite(path, check_directories=is_embedded)
    if junit_file is not None:
        check_junit_path(junit_file)
    root = path.absolute().parent
    history_file = None if history == "none" else Path(history or root / ".fleetest" / "history.duckdb").absolute()
    options = SuiteOptions(
        title=shlex.join(["fleetest", *sys.argv[1:]]),
        max_failures=max_failures,
        junit_file=junit_file,
        artifact_directory=artifacts,
        hedge=hedge,
        weight=weight,
        wait_for_workers=_wait_s(wait_for_workers),
    )
    progress = RunProgress(time.monotonic())
    report = SuiteReport.for_stream(sys.stdout, progress, is_quiet=is_quiet)
    fleet = open_fleet(
        target,
        root_directory=root,
        history=history_file,
        token_file=token_file,
        data_directory=data_directory,
        tls_ca=tls_ca,
        dashboard_port=read_port("--dashboard", dashboard),
    )
    opened = len(fleet.announcements)
    notices: list[str] = []
    try:
        for text in fleet.announcements:
            report.say(text)
        status = SuiteRun(suite, options, fleet, report, progress).execute()
    finally:
        notices = fleet.close()
        for notice in [*fleet.announcements[opened:], *notices]:
            report.say(notice)
    if junit_file is not None:
        report.say(f"JUnit file: {junit_file}")
    if is_embedded and history_file is not None and not notices:
        report.say(f"history: {history_file} (see: fleetest history --help)")
    return status


def _wait_s(text: str | None) -> float | None:
    """Infinite for ``forever``; None if nothing is said."""
    from fleetest.client.pytest_options import read_wait

    if text is None:
        return None
    wait_s = read_wait("--wait-for-workers", text)
    return math.inf if wait_s is None else wait_s

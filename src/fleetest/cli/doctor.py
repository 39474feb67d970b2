"""``fleetest doctor``: what is wrong with this machine or its way to the coordinator, and what to do."""

from __future__ import annotations

import os
from pathlib import Path

import click

from fleetest.cli.connection import finds_coordinator, show_json, with_json
from fleetest.errors import ExitStatus
from fleetest.operator.terminal_table import cell

_SIGNS = {"ok": ("ok  ", "green"), "warning": ("warn", "yellow"), "wrong": ("BAD ", "red")}


@click.command()
@finds_coordinator
@with_json
def doctor(
    coordinator: str | None, token_file: Path | None, data: Path | None, tls_ca: Path | None, as_json: bool
) -> int:
    """Check configuration, disk, limits, GPUs, tokens, the way to the coordinator, versions and clocks.

    Changes nothing. The exit status is 1 if something is wrong; warnings do not count.
    """
    from fleetest.operator.checks import examine

    findings = list(examine(coordinator, token_file, data, tls_ca))
    if as_json:
        show_json([{"name": f.name, "state": f.state, "detail": f.detail, "remedy": f.remedy} for f in findings])
    else:
        width = max(len(finding.name) for finding in findings)
        for finding in findings:
            sign, colour = _SIGNS[finding.state]
            line = f"{click.style(sign, fg=colour)}  {finding.name:<{width}}  {cell(finding.detail)}"
            click.echo(line, color=False if os.environ.get("NO_COLOR") else None)
            if finding.remedy and finding.state != "ok":
                click.echo(f"      {'':<{width}}  do: {cell(finding.remedy)}")
    is_wrong = any(finding.state == "wrong" for finding in findings)
    return ExitStatus.TESTS_FAILED if is_wrong else ExitStatus.OK

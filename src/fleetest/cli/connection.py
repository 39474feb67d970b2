"""The options by which every operator's command finds its coordinator, and ``--json``."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from fleetest.operator.api_client import ApiClient

F = TypeVar("F", bound=Callable[..., Any])
_PATH = click.Path(path_type=Path, readable=False)


def finds_coordinator(function: F) -> F:
    """Adds the options that say where a coordinator is and how to be let in."""
    for option in (
        click.option("--tls-ca", type=_PATH, metavar="FILE", help="Certificate authority to trust (PEM)."),
        click.option("--data", type=_PATH, metavar="DIR", help="Its data directory, if it is on this machine."),
        click.option("--token-file", type=_PATH, metavar="FILE", help="A token of it  [default: $FLEETEST_TOKEN_FILE]"),
        click.option(
            "--coordinator",
            metavar="URL",
            help="Its address  [default: $FLEETEST_COORDINATOR, else ws://127.0.0.1:8765]",
        ),
    ):
        function = option(function)
    return function


def asks(function: Callable[..., int | None]) -> Callable[..., int | None]:
    """For a command whose first argument is an ApiClient: adds the options that find one, and closes it."""

    @finds_coordinator
    @functools.wraps(function)
    def command(
        *, coordinator: str | None, token_file: Path | None, data: Path | None, tls_ca: Path | None, **options: Any
    ) -> int | None:
        from fleetest.operator.api_client import connect

        client: ApiClient = connect(coordinator, token_file, data, tls_ca)
        try:
            return function(client, **options)
        finally:
            client.close()

    return command


def with_json(function: F) -> F:
    """Adds ``--json``: the API's own answer, for programs."""
    return click.option("--json", "as_json", is_flag=True, help="As JSON, as the API answers it.")(function)


def show_json(answer: Any) -> None:
    click.echo(json.dumps(answer, indent=2))

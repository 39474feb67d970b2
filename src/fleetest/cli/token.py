"""``fleetest token``: the tokens of a coordinator, in its data directory. A running one takes changes in at once."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from fleetest.config import default_data_directory
from fleetest.core.quantities import RequirementError, parse_duration
from fleetest.errors import UserError

if TYPE_CHECKING:
    from fleetest.transport.token_store import TokenStore

F = TypeVar("F", bound=Callable[..., Any])

_PATH = click.Path(path_type=Path, readable=False)
_ROLES = ("admin", "submit", "worker", "view")
_DAY_S = 86400.0


def _data(function: F) -> F:
    option = click.option(
        "--data", type=_PATH, envvar="FLEETEST_DATA", metavar="DIR", help="The coordinator's data directory."
    )
    return option(function)


@click.group()
def token() -> None:
    """Make, list, revoke and rotate the tokens of a coordinator.

    Works on its data directory; a running coordinator takes changes in within two seconds.
    """


@token.command()
@click.argument("name")
@click.option("--role", type=click.Choice(_ROLES), required=True, help="What it is for.")
@click.option("--expires", metavar="DURATION", help="It is good for this long: 12h, 30d  [default: for ever]")
@click.option(
    "--file", "path", type=_PATH, metavar="FILE", help="Write it to a new file, mode 0600, not to the screen."
)
@_data
def create(name: str, role: str, expires: str | None, path: Path | None, data: Path | None) -> None:
    """Make a token called NAME. It is shown once and kept nowhere."""
    from fleetest.transport.identity import Role
    from fleetest.transport.token import write_private

    expires_in_s = _duration("--expires", expires) if expires is not None else None
    if path is not None and os.path.lexists(path):
        raise UserError(f"--file {path}: there is such a file already: name another")
    store = _store(data)
    secret = store.create(name, Role(role), expires_in_s)
    if path is not None:
        try:
            write_private(path, secret.encode() + b"\n", is_new=True)
        except OSError as error:
            # Nobody has the secret: it must not stay good.
            store.revoke(name)
            raise UserError(f"--file {path}: cannot be written: {error.strerror}") from error
        click.echo(f"token {name} ({role}) is in {path}")
    else:
        click.echo(secret)


@token.command("list")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@_data
def list_tokens(as_json: bool, data: Path | None) -> None:
    """Names, roles and times; never the tokens."""
    from fleetest.transport.file_credentials import read_used

    directory = _directory(data)
    used, now = read_used(directory), time.time()
    rows = [
        {
            "name": entry.name,
            "role": entry.role.value,
            "id": entry.token_id,
            "state": "good" if entry.is_good(now) else "revoked" if entry.revoked_at is not None else "expired",
            "created": _time(entry.created_at),
            "expires": _time(entry.expires_at),
            "last_used": _time(used.get(entry.token_id)),
        }
        for entry in _store(data).entries()
    ]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    columns = ("name", "role", "state", "created", "expires", "last_used", "id")
    widths = [max([len(column), *(len(row[column] or "-") for row in rows)]) for column in columns]
    lines = [columns, *([row[column] or "-" for column in columns] for row in rows)]
    for line in lines:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


@token.command()
@click.argument("name")
@_data
def revoke(name: str, data: Path | None) -> None:
    """Make NAME good for nothing; what it had opened is closed."""
    count = len(_store(data).revoke(name))
    click.echo(f"revoked {name}" + (f" ({count} tokens)" if count > 1 else ""))


@token.command()
@click.argument("name")
@click.option(
    "--overlap", metavar="DURATION", default="0s", help="The old one is good for this long more, at most 24h."
)
@_data
def rotate(name: str, overlap: str, data: Path | None) -> None:
    """Replace NAME by a new token of the same role."""
    overlap_s = 0.0 if overlap in {"0", "0s"} else _duration("--overlap", overlap)
    secret, path = _store(data).rotate(name, overlap_s)
    click.echo(f"the new token {name} is in {path}" if path is not None else secret)


@token.command()
@_data
def prune(data: Path | None) -> None:
    """Forget tokens that are revoked or expired."""
    count = _store(data).prune()
    click.echo(f"forgot {count} token{'s' if count != 1 else ''}")


def _directory(data: Path | None) -> Path:
    directory = data or default_data_directory()
    if not directory.is_dir():
        raise UserError(f"there is no data directory {directory}: start a coordinator, or name one with --data")
    return directory


def _store(data: Path | None) -> TokenStore:
    from fleetest.transport.token_store import TokenStore

    return TokenStore(_directory(data))


def _duration(option: str, text: str) -> float:
    try:
        if text.endswith("d") and text[:-1].replace(".", "", 1).isdigit():
            return float(text[:-1]) * _DAY_S
        return parse_duration(text)
    except RequirementError as error:
        raise UserError(f"{option}: {error}") from None


def _time(time_s: float | None) -> str | None:
    if time_s is None:
        return None
    return datetime.fromtimestamp(time_s, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")

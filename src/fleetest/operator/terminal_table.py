"""Tables for terminals and pipes; every cell is hostile text until it went through here."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import click

from fleetest.client.terminal_text import duration, printable

if TYPE_CHECKING:
    from rich.console import Console, JustifyMethod

LAST_COLUMN_MIN = 20
"""Characters that the last column of a table needs to be folded into."""
STYLES = {
    "passed": "green",
    "healthy": "green",
    "finished": "green",
    "running": "cyan",
    "collecting": "cyan",
    "suspect": "yellow",
    "draining": "yellow",
    "probation": "yellow",
    "disconnected": "yellow",
    "acknowledged": "yellow",
    "quarantined": "red",
    "failed": "red",
    "error": "red",
    "timeout": "red",
    "crashed": "red",
    "oom": "red",
    "open": "red",
    "cancelled": "yellow",
}


def cell(value: Any) -> str:
    """One printable line; line ends and tabs are shown as escapes. None is a dash."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.2f}"
    return printable(str(value)).replace("\n", "\\n").replace("\t", "\\t")


def seconds(value: float | None) -> str:
    return "-" if value is None else duration(value)


def moment(text: str | None) -> str:
    """A time of the API in the local time zone, to the second; a dash if there is none."""
    if not text:
        return "-"
    return parse_time(text).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def ago(text: str | None, now: datetime | None = None) -> str:
    if not text:
        return "-"
    passed_s = ((now or datetime.now(timezone.utc)) - parse_time(text)).total_seconds()
    return f"{duration(max(0.0, passed_s))} ago"


def parse_time(text: str) -> datetime:
    # Python 3.10 does not know Z.
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def show_table(columns: Sequence[str], rows: Sequence[Sequence[Any]], *, numeric: Collection[str] = ()) -> None:
    """In columns, with colours on a terminal; columns in ``numeric`` are aligned to the right."""
    print_table(columns, [[cell(value) for value in row] for row in rows], numeric)


def print_table(columns: Sequence[str], cells: Sequence[Sequence[str]], numeric: Collection[str]) -> None:
    """The same for texts that went through ``cell`` or the like."""
    console = terminal()
    widths = [max(len(line[i]) for line in [list(columns), *cells]) for i in range(len(columns))]
    # Only the last column is folded; a terminal that has no room for that breaks the lines itself, as those of a pipe.
    room_needed = sum(widths[:-1]) + 2 * (len(widths) - 1) + min(widths[-1], LAST_COLUMN_MIN)
    if console is not None and console.width >= room_needed:
        console.print(_rich_table(columns, cells, numeric))
        return
    for line in [list(columns), *cells]:
        padded = [
            text.rjust(width) if name in numeric else text.ljust(width)
            for name, text, width in zip(columns, line, widths, strict=True)
        ]
        click.echo("  ".join(padded).rstrip())


def _rich_table(columns: Sequence[str], cells: Sequence[Sequence[str]], numeric: Collection[str]) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns:
        justify: JustifyMethod = "right" if name in numeric else "left"
        table.add_column(name, justify=justify, overflow="fold", no_wrap=name != columns[-1])
    for line in cells:
        # Text and not strings: names of tests are no markup.
        table.add_row(*(Text(text, style=STYLES.get(text, "")) for text in line))
    return table


def show_facts(facts: Sequence[tuple[str, Any]]) -> None:
    """Name and value, one pair a line."""
    shown = [(cell(name), cell(value)) for name, value in facts if value not in (None, "")]
    width = max((len(name) for name, _ in shown), default=0)
    console = terminal()
    for name, value in shown:
        if console is not None:
            from rich.text import Text

            console.print(Text(f"{name:<{width}}  ", style="dim") + Text(value, style=STYLES.get(value, "")))
        else:
            click.echo(f"{name:<{width}}  {value}")


def terminal() -> Console | None:
    """Standard output as a terminal; None if it is none."""
    from rich.console import Console

    console = Console(highlight=False)
    return console if console.is_terminal else None

"""The command line: ``fleetest COMMAND``. A sub-command's module is imported only when it is called."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from typing import Any

import click

from fleetest.errors import ExitStatus, UserError

_COMMANDS = {
    "run": "Run tests on a fleet: pytest arguments, or a suite.toml.",
    "history": "What was run before: runs, slowest, flakiest, failures.",
    "simulate": "What if: a suite on a fleet that need not exist.",
    "coordinator": "Serve a fleet that workers and clients connect to.",
    "worker": "Offer this machine to a coordinator.",
    "version": "Print the version.",
}
"""Name and one line of help of each; the command is the object of that name in the module of that name."""


class LazyGroup(click.Group):
    """Imports a sub-command when it is needed, and ends every command with a documented exit status."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command = getattr(import_module(f"fleetest.cli.{cmd_name}"), cmd_name)
        assert isinstance(command, click.Command), f"fleetest.cli.{cmd_name}.{cmd_name} must be a command"
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Run and exit: a user's mistake is one line on standard error, never a traceback."""
        call = partial(super().main, args, prog_name or "fleetest", complete_var, standalone_mode=False, **extra)
        if not standalone_mode:
            return call()
        sys.exit(_exit_status(call))


def _exit_status(call: Callable[[], Any]) -> int:
    try:
        status = call()
        sys.stdout.flush()
    except UserError as error:
        _say(str(error))
        return int(error.exit_status)
    except click.ClickException as error:
        _say(error.format_message())
        if isinstance(error, click.UsageError) and error.ctx is not None:
            click.echo(f"Try '{error.ctx.command_path} --help'.", err=True)
        return int(ExitStatus.USAGE_ERROR)
    except (KeyboardInterrupt, click.Abort):
        return int(ExitStatus.INTERRUPTED)
    except BrokenPipeError:
        # Whoever read our output has gone; the interpreter must not fail again when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return int(ExitStatus.INTERRUPTED)
    return status if isinstance(status, int) else int(ExitStatus.OK)


def _say(message: str) -> None:
    click.echo(f"fleetest: {message}", err=True)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["--help", "-h"]})
def main() -> None:
    """Run a test suite on a fleet of machines; every test gets exactly one verdict."""

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

_SECTIONS: dict[str, dict[str, tuple[str, str]]] = {
    "Run tests": {
        "run": ("run", "Run tests on a fleet: pytest arguments, or a suite.toml."),
        "history": ("history", "What was run before: runs, slowest, flakiest, failures."),
    },
    "Serve a fleet": {
        "coordinator": ("coordinator", "Serve a fleet that workers and clients connect to."),
        "worker": ("worker", "Offer this machine to a coordinator."),
        "simulate": ("simulate", "What if: a suite on a fleet that need not exist."),
    },
    "Ask a coordinator": {
        "status": ("ask", "The fleet in a few lines."),
        "workers": ("ask", "Every worker: state, slots, what runs there."),
        "runs": ("ask", "Runs, live ones first."),
        "show": ("ask", "One run: verdicts, failures, how to run them alone."),
        "why": ("ask", "Why a test is where it is, in one sentence."),
        "logs": ("ask", "Output and tracebacks of a test."),
        "alerts": ("ask", "What is wrong with the fleet, and what was."),
        "top": ("top", "The fleet live: workers, queue, running tests by age."),
        "dashboard": ("dashboard", "A link to the dashboard, or the dashboard on this machine."),
        "export": ("export", "One run as JUnit, JSON, CSV or HTML."),
    },
    "Steer it": {
        "cancel": ("steer", "End a run."),
        "rerun": ("steer", "Run the failed tests of a run again."),
        "drain": ("steer", "Give a worker no new work."),
        "resume": ("steer", "Give a drained worker work again."),
        "quarantine": ("steer", "Keep a worker out until it is released."),
        "release": ("steer", "Let a quarantined worker back."),
    },
    "Care for it": {
        "doctor": ("doctor", "Check this machine and the coordinator; say what to do."),
        "token": ("token", "Make, list, revoke and rotate a coordinator's tokens."),
        "completion": ("completion", "Print the completion script of a shell."),
        "version": ("version", "Print the version."),
    },
}
"""By section: the name of each command, the module that has the object of that name, and one line of help."""
_COMMANDS = {name: entry for section in _SECTIONS.values() for name, entry in section.items()}


class LazyGroup(click.Group):
    """Imports a sub-command when it is needed, and ends every command with a documented exit status."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module = _COMMANDS[cmd_name][0]
        command = getattr(import_module(f"fleetest.cli.{module}"), cmd_name)
        assert isinstance(command, click.Command), f"fleetest.cli.{module}.{cmd_name} must be a command"
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, commands in _SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name, text) for name, (_, text) in commands.items()])

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
        if type(error).__name__ == "NoArgsIsHelpError":  # Click 8.1 has none; its message is the help.
            click.echo(error.format_message(), err=True)
            return int(ExitStatus.USAGE_ERROR)
        # Click lists choices one a line.
        _say(" ".join(error.format_message().split()))
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
    from fleetest.client.terminal_text import printable

    # It may repeat a name that somebody else chose.
    click.echo(f"fleetest: {printable(message)}", err=True)


def _show_version(ctx: click.Context, option: click.Parameter, is_asked: bool) -> None:
    if is_asked:
        command = main.get_command(ctx, "version")
        assert command is not None
        ctx.exit(ctx.invoke(command) or 0)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["--help", "-h"]})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_show_version, help="Print the version."
)
def main() -> None:
    """Run a test suite on a fleet of machines; every test gets exactly one verdict."""

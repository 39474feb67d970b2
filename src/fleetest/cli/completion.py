"""``fleetest completion``: the script that teaches a shell the commands and options."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from fleetest.errors import UserError


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script of SHELL.

    bash: eval "$(fleetest completion bash)" in ~/.bashrc; zsh: the same in ~/.zshrc; fish: fleetest completion fish >
    ~/.config/fish/completions/fleetest.fish
    """
    from fleetest.cli import main

    kind = get_completion_class(shell)
    assert kind is not None, "the choices are shells that click knows"
    try:
        click.echo(kind(main, {}, "fleetest", "_FLEETEST_COMPLETE").source())
    except RuntimeError as error:
        raise UserError(f"no completion for {shell} here: {error}") from error

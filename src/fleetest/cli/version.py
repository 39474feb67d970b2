"""``fleetest version``."""

from __future__ import annotations

import platform
from importlib import metadata

import click

import fleetest
from fleetest.cli.connection import show_json, with_json


@click.command()
@with_json
def version(as_json: bool = False) -> None:
    """Print the versions of Fleetest, pytest and Python."""
    versions = {
        "fleetest": fleetest.__version__,
        "pytest": metadata.version("pytest"),
        platform.python_implementation(): platform.python_version(),
    }
    if as_json:
        show_json(versions)
        return
    for name, number in versions.items():
        click.echo(f"{name} {number}")

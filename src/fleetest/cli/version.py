"""``fleetest version``."""

from __future__ import annotations

import platform
from importlib import metadata

import click

import fleetest


@click.command()
def version() -> None:
    """Print the versions of Fleetest, pytest and Python."""
    click.echo(f"fleetest {fleetest.__version__}")
    click.echo(f"pytest {metadata.version('pytest')}")
    click.echo(f"{platform.python_implementation()} {platform.python_version()}")

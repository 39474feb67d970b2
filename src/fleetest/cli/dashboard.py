"""``fleetest dashboard``: a link to a coordinator's dashboard, or the dashboard served on this machine."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fleetest.cli.connection import finds_coordinator, show_json, with_json
from fleetest.errors import UserError

if TYPE_CHECKING:
    from fleetest.transport.browser_sessions import BrowserSessions
    from fleetest.transport.gate import Gate

HOST = "127.0.0.1"


@click.command()
@finds_coordinator
@click.option("--open", "is_opened", is_flag=True, help="Open it in this machine's browser too.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    metavar="N",
    help="Serve the dashboard on this machine's loopback instead, for a coordinator elsewhere; 0: any port.",
)
@with_json
def dashboard(
    coordinator: str | None,
    token_file: Path | None,
    data: Path | None,
    tls_ca: Path | None,
    is_opened: bool,
    port: int | None,
    as_json: bool,
) -> int | None:
    """Print a link that opens the coordinator's dashboard, once, without typing a token."""
    from fleetest.config import find_token
    from fleetest.operator.api_client import connect, find_url
    from fleetest.operator.dashboard_link import describe, make_link

    if port is not None:
        if as_json:
            raise UserError("--json is for the link alone: with --port the dashboard is served until Ctrl-C")
        from fleetest.cli.event_loop import run_event_loop

        url, token = find_url(coordinator), find_token(token_file, data)
        return run_event_loop(_serve(url, token, tls_ca, port, is_opened))
    client = connect(coordinator, token_file, data, tls_ca)
    try:
        link, valid_s = make_link(client)
    finally:
        client.close()
    if as_json:
        show_json({"url": link, "valid_s": valid_s})
    else:
        click.echo(f"dashboard: {describe(link, valid_s)}")
    if is_opened:
        _open_browser(link)
    return None


@dataclass(slots=True)
class _Login:
    sessions: BrowserSessions
    gate: Gate | None = None


async def _serve(url: str, token: str, tls_ca: Path | None, port: int, is_opened: bool) -> int:
    import time

    from fleetest.api.handlers.login import LoginRoutes
    from fleetest.cli.event_loop import until_stopped
    from fleetest.dashboard_proxy import DashboardProxy
    from fleetest.dashboard_server import DashboardServer
    from fleetest.errors import ExitStatus
    from fleetest.operator.dashboard_link import describe
    from fleetest.transport.browser_sessions import CODE_S, BrowserSessions
    from fleetest.transport.identity import FixedCredentials, Role
    from fleetest.transport.server import NetworkServer

    # What a session may do is decided by the coordinator, by the token: here it only has to be somebody's.
    credentials = FixedCredentials({token: Role.VIEW})
    identity = credentials.identify(token)
    assert identity is not None
    login = _Login(BrowserSessions(credentials, time.monotonic))
    proxy = DashboardProxy(url, token, tls_ca)
    server = NetworkServer(
        credentials=credentials,
        serve_worker=_no_link,
        serve_client=_no_link,
        site=DashboardServer(LoginRoutes(login), proxy),
        sessions=login.sessions,
    )
    proxy.start(server.gate.is_good)
    try:
        trouble = await proxy.check()
        bound = await server.start(HOST, port)
        login.gate = server.gate
        link = f"http://{HOST}:{bound}/login#code={login.sessions.make_code(identity)}"
        if trouble:
            click.echo(f"fleetest: {trouble}", err=True)
        click.echo(f"dashboard of {url}: {describe(link, CODE_S)}")
        click.echo(f"for another link: fleetest dashboard --coordinator http://{HOST}:{bound}; Ctrl-C ends this")
        sys.stdout.flush()
        if is_opened:
            await asyncio.to_thread(_open_browser, link)
        await until_stopped()
    finally:
        await proxy.close()
        await server.close()
    return ExitStatus.OK


async def _no_link(link: object) -> None:
    raise AssertionError("a session of this dashboard has no role that opens a link")


def _open_browser(link: str) -> None:
    import webbrowser

    try:
        is_open = webbrowser.open(link)
    except webbrowser.Error:
        is_open = False
    if not is_open:
        click.echo("fleetest: no browser can be opened here: open the link yourself", err=True)

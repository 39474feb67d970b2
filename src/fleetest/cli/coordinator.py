"""``fleetest coordinator``: the one process that workers and clients connect to."""

from __future__ import annotations

import ssl
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fleetest.cli.event_loop import run_event_loop, until_stopped
from fleetest.cli.log import in_every_line, log_to_stderr, say
from fleetest.cli.worker import parse_pair
from fleetest.config import CoordinatorSettings, load
from fleetest.errors import ExitStatus, UserError

if TYPE_CHECKING:
    from fleetest.core.model import Capabilities, Limits
    from fleetest.transport.webhooks import Webhooks

HEARTBEAT_INTERVAL_MIN_S = 0.05
_PATH = click.Path(path_type=Path, readable=False)


@click.command()
@click.option("--host", metavar="ADDRESS", help="Listen on this address  [default: 127.0.0.1]")
@click.option("--port", type=click.IntRange(0, 65535), help="Listen on this port; 0: any  [default: 8765]")
@click.option("--data", type=_PATH, metavar="DIR", help="Token and history  [default: ~/.local/state/fleetest]")
@click.option("--history", type=_PATH, metavar="FILE", help="History file  [default: DIR/history.duckdb]")
@click.option("--tls-cert", type=_PATH, metavar="FILE", help="Certificate chain (PEM); needs --tls-key.")
@click.option("--tls-key", type=_PATH, metavar="FILE", help="Private key (PEM) of the certificate.")
@click.option("--behind-tls-proxy", is_flag=True, help="TLS ends at a proxy: allow any address without TLS here.")
@click.option("--public-host", multiple=True, metavar="NAME[:PORT]", help="A name under which it is reached.")
@click.option(
    "--reconnect-grace-s",
    type=float,
    metavar="SECONDS",
    help="How long a lost worker may take to come back before its tests are given to others  [default: 15]",
)
@click.option(
    "--heartbeat-interval-s",
    type=float,
    metavar="SECONDS",
    help="Workers beat so often; suspect after 3 intervals of silence, lost after 6  [default: 5]",
)
@click.option(
    "--min-free",
    metavar="SIZE",
    help="Start nothing new while DIR has less free space, such as 500MiB  [default: 1 GiB, and 5 % of the disk]",
)
@click.option("--alert-webhook", multiple=True, metavar="URL", help="Post alerts there as JSON; repeatable.")
@click.option("--alert-secret-file", type=_PATH, metavar="FILE", help="The secret that signs what is posted.")
@click.option(
    "--announce",
    multiple=True,
    metavar='"gpus=1, cuda=12.4"',
    help="What a worker will have that comes later: tests that need it wait for it without a limit; repeatable.",
)
@click.option(
    "--balancing",
    metavar="NAME",
    help="adaptive, round-robin, least-loaded, a plugin's name or module:Class  [default: adaptive]",
)
@click.option(
    "--scheduler", metavar="NAME", help="A plugin's name or module:Class  [default: Fleetest's own scheduler]"
)
@click.option("--log-format", type=click.Choice(["text", "json"]), help="Of the log on standard error  [default: text]")
def coordinator(**flags: Any) -> int:
    """Serve a fleet that workers and clients connect to.

    Workers and clients need the token in DIR/token. Ends on SIGTERM or Ctrl-C.
    """
    settings = load(CoordinatorSettings, flags)
    log_to_stderr(settings.log_format)
    return run_event_loop(_serve(settings))


async def _serve(settings: CoordinatorSettings) -> int:
    from fleetest.cli.coordinator_parts import CoordinatorParts
    from fleetest.cli.fleet_log import FleetLog
    from fleetest.transport.server import resolve_host
    from fleetest.transport.token import TOKEN_NAME

    address = resolve_host(settings.host)
    tls = _tls_context(settings)
    refuse_insecure(address, settings)
    parts = CoordinatorParts(settings, _limits(settings), _webhooks(settings), _needed_bytes(settings))
    in_every_line(epoch=lambda: parts.shell.state.cluster.epoch)
    if settings.log_format == "json":
        parts.shell.observe(FleetLog().observe)
    try:
        port = await parts.start(address, tls)
        name = f"[{address}]" if ":" in address else address
        url = f"{'wss' if tls is not None else 'ws'}://{name}:{port}"
        click.echo(f"listening on {url} (token: {settings.data / TOKEN_NAME})")
        await until_stopped(parts.shell.failed)
    finally:
        for line in await parts.close():
            say(line)
    if parts.shell.failure is not None:
        say(f"internal error of the coordinator: {parts.shell.failure}")
        return ExitStatus.INTERNAL_ERROR
    return ExitStatus.OK


def _limits(settings: CoordinatorSettings) -> Limits:
    from fleetest.core.model import Limits

    if settings.heartbeat_interval_s < HEARTBEAT_INTERVAL_MIN_S:
        raise UserError(f"--heartbeat-interval-s must be at least {HEARTBEAT_INTERVAL_MIN_S:g}")
    return Limits(
        heartbeat_interval_s=settings.heartbeat_interval_s,
        reconnect_grace_s=settings.reconnect_grace_s,
        announced=tuple(parse_announcement(text) for text in settings.announce),
    )


def _needed_bytes(settings: CoordinatorSettings) -> int | None:
    from fleetest.core.quantities import RequirementError, parse_size

    try:
        return parse_size(settings.min_free) if settings.min_free is not None else None
    except RequirementError as error:
        raise UserError(f"--min-free {settings.min_free}: {error}") from error


def _webhooks(settings: CoordinatorSettings) -> Webhooks:
    from fleetest.transport.token import read_token
    from fleetest.transport.webhooks import Webhooks, check_webhook

    urls = [check_webhook(url) for url in settings.alert_webhook]
    secret = None
    if settings.alert_secret_file is not None:
        if not settings.alert_secret_file.exists():
            raise UserError(f"--alert-secret-file {settings.alert_secret_file}: there is no such file")
        secret = read_token(settings.alert_secret_file).encode()
    return Webhooks(urls, secret)


def parse_announcement(text: str) -> Capabilities:
    """Capabilities of ``gpus=1, cuda=12.4, browser=chrome, browser=firefox``. Raises UserError."""
    from fleetest.core.model import Capabilities
    from fleetest.core.quantities import RequirementError, parse_size, read_number

    attributes: dict[str, tuple[str, ...]] = {}
    resources: dict[str, float] = {}
    for part in text.split(","):
        name, value = parse_pair(part.strip(), "--announce")
        # What is countable and what is a version cannot be told apart here: a number counts as both.
        number = read_number(value)
        with suppress(RequirementError):
            resources[name] = float(parse_size(value)) if number is None else float(number)
        if name not in ("cpus", "gpus", "memory"):
            attributes[name] = (*attributes.get(name, ()), value)
    return Capabilities(attributes, resources)


def refuse_insecure(address: str, settings: CoordinatorSettings) -> None:
    """Raises UserError for an address that others can reach, unless what they send is encrypted."""
    from fleetest.transport.server import is_loopback

    if not is_loopback(address) and settings.tls_cert is None and not settings.behind_tls_proxy:
        message = (
            f"--host {settings.host} can be reached by others and nothing would be encrypted:"
            " give --tls-cert and --tls-key, or --behind-tls-proxy if a proxy does that"
        )
        raise UserError(message, ExitStatus.REFUSED)


def _tls_context(settings: CoordinatorSettings) -> ssl.SSLContext | None:
    if settings.tls_cert is None and settings.tls_key is None:
        return None
    if settings.tls_cert is None or settings.tls_key is None:
        raise UserError("--tls-cert and --tls-key belong together: give both")
    for option, path in (("--tls-cert", settings.tls_cert), ("--tls-key", settings.tls_key)):
        if not path.is_file():
            raise UserError(f"{option} {path}: there is no such file")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        # An empty passphrase: an encrypted key is an error here, not a question on the terminal.
        context.load_cert_chain(settings.tls_cert, settings.tls_key, password="")
    except (OSError, ssl.SSLError) as error:
        message = f"cannot use --tls-cert {settings.tls_cert} with --tls-key {settings.tls_key}"
        raise UserError(f"{message}: give a PEM certificate and its unencrypted key ({error})") from error
    return context

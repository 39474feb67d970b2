"""``fleetest worker``: offers this machine to a coordinator."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fleetest.cli.event_loop import run_event_loop
from fleetest.cli.log import in_every_line, log_to_stderr, say
from fleetest.config import WorkerSettings, find_token, load
from fleetest.errors import ExitStatus, UserError

if TYPE_CHECKING:
    from fleetest.processes.probe import ProbeSettings
    from fleetest.transport.link import Link
    from fleetest.wire.messages import CoordinatorMessage, WorkerMessage

_PATH = click.Path(path_type=Path, readable=False)
_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]*")
_BACKOFF_MAX_S = 2.0
_TOKEN_POLL_S = 0.2
_INTERPRETER_TIMEOUT_S = 60.0
_SCRATCH_BYTES_MIN = 64 * 1024


@click.command()
@click.option("--coordinator", metavar="URL", help="ws://host:port or wss://host:port  [default: ws://127.0.0.1:8765]")
@click.option("--slots", type=click.IntRange(min=1), metavar="N", help="Tests at the same time  [default: CPUs]")
@click.option(
    "--label",
    multiple=True,
    metavar="NAME=VALUE",
    help="Something that tests can require; repeatable, also with one NAME.",
)
@click.option("--resource", multiple=True, metavar="NAME=COUNT", help="Something countable that tests can reserve.")
@click.option("--python", metavar="PATH", help="Interpreter of the tests  [default: this one]")
@click.option("--name", help="Name of this worker  [default: the host's]")
@click.option("--address", metavar="HOST", help="Where others of a gang reach this machine  [default: as connected]")
@click.option("--token-file", type=_PATH, metavar="FILE", help="The coordinator's token.")
@click.option("--data", type=_PATH, metavar="DIR", help="Data directory of a coordinator on this machine.")
@click.option("--scratch", type=_PATH, metavar="DIR", help="Directory for temporary files  [default: a new one]")
@click.option("--no-spare", is_flag=True, help="Keep no interpreter with pytest imported ready for the next run.")
@click.option("--tls-ca", type=_PATH, metavar="FILE", help="Certificates to trust (PEM)  [default: the system's]")
@click.option("--wait-s", type=float, metavar="SECONDS", help="Wait so long for the coordinator at first  [60]")
@click.option("--probe", metavar="COMMAND", help="Must succeed before this machine gets work, and stay so.")
@click.option("--probe-interval-s", type=float, metavar="SECONDS", help="Pause between probes  [60]")
@click.option("--probe-timeout-s", type=float, metavar="SECONDS", help="A probe that takes longer has failed  [30]")
@click.option("--log-format", type=click.Choice(["text", "json"]), help="Of the log on standard error  [default: text]")
def worker(**flags: Any) -> int:
    """Offer this machine to a coordinator.

    The first SIGTERM or Ctrl-C lets running tests finish, the second one ends them.
    """
    settings = load(WorkerSettings, flags)
    if flags["data"] is not None and flags["token_file"] is None:
        # A directory on the command line wins over a file in the environment.
        settings = dataclasses.replace(settings, token_file=None)
    log_to_stderr(settings.log_format)
    return run_event_loop(_serve(settings))


def check_fit(scratch: Path | None) -> None:
    """Raises UserError if this machine cannot start a process, or write where the runners' files go."""
    try:
        if scratch is not None:
            scratch.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=scratch) as file:
            file.write(bytes(_SCRATCH_BYTES_MIN))
    except OSError as error:
        where = f"--scratch {scratch}" if scratch is not None else "the directory for temporary files"
        message = f"cannot write to {where} ({error.strerror}): make room there, or give another with --scratch"
        raise UserError(message, ExitStatus.WORKER_UNFIT) from error
    try:
        # Both: a limit of processes counts threads too.
        subprocess.run([sys.executable, "-S", "-c", ""], stdin=subprocess.DEVNULL, check=True)
        thread = threading.Thread(target=int)
        thread.start()
        thread.join()
    except (OSError, RuntimeError, subprocess.CalledProcessError) as error:
        message = f"this machine cannot start a process ({error}): allow this user more processes, see `ulimit -u`"
        raise UserError(message, ExitStatus.WORKER_UNFIT) from error


async def _serve(settings: WorkerSettings) -> int:
    from fleetest import worker as agent
    from fleetest.hardware import detect
    from fleetest.processes.scratch import remove_abandoned
    from fleetest.transport.websocket import check_url, connect_worker
    from fleetest.wire.session import NAME_CHARACTERS_MAX, SLOTS_MAX

    check_fit(settings.scratch)
    url = check_url(settings.coordinator)
    labels, resources = parse_labels(settings.label), parse_resources(settings.resource)
    python = interpreter(settings.python)
    if python is not None:
        await check_pytest(python)
    name, slots = settings.name or socket.gethostname() or "worker", settings.slots or _cpus()
    if slots > SLOTS_MAX:
        raise UserError(f"--slots {slots}: at most {SLOTS_MAX} are possible")
    if not (name.isprintable() and len(name) <= NAME_CHARACTERS_MAX):
        raise UserError(f"--name {name[:40]!r}: it must be at most {NAME_CHARACTERS_MAX} printable characters")
    token = await _patient_token(settings)
    capabilities = await asyncio.to_thread(detect, labels=labels, resources=resources, python=python)
    served = agent.Worker(
        agent.WorkerSettings(
            name=name,
            slots=slots,
            python=python,
            scratch=settings.scratch,
            probe=_probe(settings),
            address=settings.address or "",
            keeps_spare=not settings.no_spare,
        ),
        capabilities=capabilities,
    )
    in_every_line(worker=lambda: served.name)
    # Beside the first connection: there may be much of it.
    removing = asyncio.get_running_loop().run_in_executor(None, remove_abandoned)
    connect = _patient(lambda: connect_worker(url, token, tls_ca=settings.tls_ca), settings.wait_s)
    try:
        await agent.run_worker(served, connect, on_notice=say)
    finally:
        await removing
    return ExitStatus.OK


async def _patient_token(settings: WorkerSettings) -> str:
    """The token; that of a data directory is waited for, as its coordinator is: both may have been started just now."""
    from fleetest.transport.identity import Role
    from fleetest.transport.token import NoTokenFile

    loop = asyncio.get_running_loop()
    give_up_at = loop.time() + settings.wait_s
    was_said = False
    while True:
        try:
            return find_token(settings.token_file, settings.data, Role.WORKER)
        except NoTokenFile as error:
            if settings.token_file is not None or loop.time() + _TOKEN_POLL_S > give_up_at:
                raise
            if not was_said:
                say(f"{error} (trying for {settings.wait_s:g} s)")
                was_said = True
            await asyncio.sleep(_TOKEN_POLL_S)


def _probe(settings: WorkerSettings) -> ProbeSettings | None:
    from fleetest.processes.probe import ProbeSettings

    if settings.probe is None:
        return None
    for name in ("probe_interval_s", "probe_timeout_s"):
        if getattr(settings, name) <= 0:
            raise UserError(f"--{name.replace('_', '-')} must be more than 0")
    return ProbeSettings(settings.probe, settings.probe_interval_s, settings.probe_timeout_s)


def _patient(
    connect: Callable[[], Awaitable[Link[CoordinatorMessage, WorkerMessage]]], wait_s: float
) -> Callable[[], Awaitable[Link[CoordinatorMessage, WorkerMessage]]]:
    """``connect`` that at first waits for a coordinator to be there, at most ``wait_s``, saying so once."""
    was_connected = False

    async def connect_patiently() -> Link[CoordinatorMessage, WorkerMessage]:
        nonlocal was_connected
        from fleetest.transport.websocket import Unreachable

        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + wait_s
        delay_s = 0.1
        while True:
            try:
                link = await connect()
            except Unreachable as error:
                if was_connected or loop.time() + delay_s > give_up_at:
                    raise
                if delay_s == 0.1:
                    say(f"{error} (trying for {wait_s:g} s)")
                await asyncio.sleep(random.uniform(delay_s / 2, delay_s))
                delay_s = min(2 * delay_s, _BACKOFF_MAX_S)
            else:
                was_connected = True
                return link

    return connect_patiently


def parse_pair(text: str, option: str) -> tuple[str, str]:
    """``name=value``. Raises UserError."""
    name, equals, value = text.partition("=")
    if not equals or not value or not _NAME.fullmatch(name):
        raise UserError(f"{option} {text!r}: it must be name=value, the name in lower case letters, digits, . _ -")
    return name, value


def parse_labels(texts: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Of ``name=value``: a name that is given several times has several values. Raises UserError."""
    labels: dict[str, tuple[str, ...]] = {}
    for name, value in (parse_pair(text, "--label") for text in texts):
        labels[name] = (*labels.get(name, ()), *(() if value in labels.get(name, ()) else (value,)))
    return labels


def parse_resources(texts: Iterable[str]) -> dict[str, float]:
    """Of ``name=count``, each name once. Raises UserError."""
    resources: dict[str, float] = {}
    for name, value in (parse_pair(text, "--resource") for text in texts):
        if name in resources:
            raise UserError(f"--resource {name}={value}: {name} is given twice; write one with the total")
        resources[name] = _count(name, value)
    return resources


def _count(name: str, value: str) -> float:
    try:
        count = float(value)
    except ValueError:
        count = -1.0
    if not 0 <= count < 1e15:
        raise UserError(f"--resource {name}={value}: it must be a number of at least 0")
    return count


def interpreter(python: str | None) -> str | None:
    """The interpreter as an absolute path. Raises UserError if there is none."""
    if python is None:
        return None
    found = shutil.which(os.path.expanduser(python))
    if found is None:
        raise UserError(f"--python {python}: no such program", ExitStatus.INTERPRETER_UNUSABLE)
    return os.path.abspath(found)


async def check_pytest(python: str) -> None:
    """Raises UserError unless this interpreter can import a pytest that runners work with."""
    code = (
        "import sys; sys.stdout.write('python '); import pytest;"
        " sys.exit(sys.version_info < (3, 8) or int(pytest.__version__.split('.')[0]) < 7)"
    )
    try:
        process = await asyncio.create_subprocess_exec(
            python,
            "-c",
            code,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        output, _ = await asyncio.wait_for(process.communicate(), _INTERPRETER_TIMEOUT_S)
    except asyncio.TimeoutError as error:
        process.kill()
        message = f"--python {python} did not import pytest within {_INTERPRETER_TIMEOUT_S:.0f} s: is it a Python?"
        raise UserError(message, ExitStatus.INTERPRETER_UNUSABLE) from error
    except OSError as error:
        message = f"--python {python} cannot be executed: {error.strerror}"
        raise UserError(message, ExitStatus.INTERPRETER_UNUSABLE) from error
    if not output.startswith(b"python "):
        message = f"--python {python} is no Python interpreter: give one that has pytest 7 or later"
        raise UserError(message, ExitStatus.INTERPRETER_UNUSABLE)
    if process.returncode != 0:
        message = f"--python {python} cannot run pytest: install pytest 7 or later for it (Python 3.8 or later)"
        raise UserError(message, ExitStatus.INTERPRETER_UNUSABLE)


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

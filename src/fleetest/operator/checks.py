"""What ``fleetest doctor`` looks at. Each check is a function that yields findings and never raises."""

from __future__ import annotations

import os
import resource
import shutil
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from fleetest.config import CoordinatorSettings, WorkerSettings, load, usual_data_directory
from fleetest.core.quantities import format_size
from fleetest.errors import ExitStatus, UserError
from fleetest.operator.api_client import DEFAULT_URL, URL_VARIABLE, ApiClient, connect
from fleetest.operator.terminal_table import parse_time

DISK_FREE_MIN_BYTES = 1024**3
DISK_FREE_MIN_SHARE = 0.05
OPEN_FILES_MIN = 1024
CLOCK_SKEW_MAX_S = 2.0
_READY_TO_WRITE = ("write", "disk")
_READY_REMEDY = "mend that on the coordinator's machine: /readyz answers 503 until then"
_PARTS = ("pytest", "aiohttp", "duckdb", "msgspec", "pluggy")


@dataclass(frozen=True, slots=True)
class Finding:
    """``remedy`` says what to do; empty if there is nothing to do."""

    name: str
    state: Literal["ok", "warning", "wrong"]
    detail: str
    remedy: str = ""


def examine(
    coordinator: str | None, token_file: Path | None, data: Path | None, tls_ca: Path | None
) -> Iterator[Finding]:
    """All findings, in the order in which they are best read."""
    yield from _versions()
    yield from _configuration()
    yield from _machine(data or usual_data_directory())
    yield from _gpus()
    yield from _coordinator(coordinator, token_file, data, tls_ca)


def _versions() -> Iterator[Finding]:
    parts = []
    for name in _PARTS:
        try:
            parts.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            yield Finding(name, "wrong", "is not installed", f"pip install {name}")
    python = ".".join(map(str, sys.version_info[:3]))
    yield Finding("versions", "ok", f"fleetest {metadata.version('fleetest')}, Python {python}, {', '.join(parts)}")


def _configuration() -> Iterator[Finding]:
    for name, settings in (("coordinator", CoordinatorSettings), ("worker", WorkerSettings)):
        try:
            load(settings, {})  # type: ignore[type-var]
        except UserError as error:
            yield Finding("settings", "wrong", str(error), f"mend the settings of the {name}")
            return
    yield Finding("settings", "ok", "pyproject.toml and the environment can be read")


def _machine(data: Path) -> Iterator[Finding]:
    directory = next(path for path in (data, *data.parents) if path.exists())
    usage = shutil.disk_usage(directory)
    needed = max(DISK_FREE_MIN_BYTES, int(DISK_FREE_MIN_SHARE * usage.total))
    detail = f"{format_size(usage.free)} free of {format_size(usage.total)} for {data}"
    if usage.free < needed:
        yield Finding(
            "disk", "warning", detail, f"free some: below {format_size(needed)} a coordinator here is not ready"
        )
    else:
        yield Finding("disk", "ok", detail)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < OPEN_FILES_MIN:
        yield Finding("open files", "warning", f"at most {soft}", f"ulimit -n {min(65536, hard)}")
    else:
        yield Finding("open files", "ok", f"at most {soft}")
    if hasattr(os, "fork"):
        yield Finding("fork", "ok", "runners are forked from a template")
    else:
        yield Finding(
            "fork", "warning", "not on this system: every runner collects for itself", "nothing; it is slower"
        )


def _gpus() -> Iterator[Finding]:
    from fleetest.hardware.gpus import has_nvidia_driver, probe_amd, probe_nvidia

    try:
        found = probe_nvidia()
        found.merge(probe_amd())
    except Exception as error:  # Drivers fail in their own ways.
        yield Finding(
            "GPUs", "warning", f"cannot be asked: {error}", "mend the driver, or give --resource gpus=N to the worker"
        )
        return
    count = found.resources.get("gpus", 0.0)
    if not count and has_nvidia_driver():
        yield Finding(
            "GPUs", "warning", "there is an NVIDIA driver, but nobody to ask it", "pip install 'fleetest[gpu]'"
        )
        return
    models = ", ".join(found.attributes.get("gpu.model", ()))
    yield Finding("GPUs", "ok", f"{count:g} {models}".strip() if count else "none")


def _coordinator(
    coordinator: str | None, token_file: Path | None, data: Path | None, tls_ca: Path | None
) -> Iterator[Finding]:
    named = coordinator or os.environ.get(URL_VARIABLE)
    try:
        client = connect(coordinator, token_file, data, tls_ca)
    except UserError as error:
        is_asked_for = named is not None or token_file is not None or data is not None
        remedy = "start a coordinator here, or give --token-file; nothing is needed for pytest --fleet auto"
        yield Finding("token", "wrong" if is_asked_for else "warning", str(error), remedy)
        return
    yield Finding("token", "ok", "readable by its owner alone")
    try:
        yield from _ask(client)
    except UserError as error:
        state: Literal["warning", "wrong"] = "wrong"
        remedy = 'see docs/how-to/run-a-fleet.md, "When it refuses"'
        if error.exit_status is ExitStatus.UNREACHABLE and named is None and not _is_answered(DEFAULT_URL):
            state, remedy = "warning", "fleetest coordinator; nothing is needed for pytest --fleet auto"
        yield Finding("coordinator", state, str(error), remedy)
    finally:
        client.close()


def _is_answered(url: str) -> bool:
    parts = urlsplit(url)
    try:
        socket.create_connection((parts.hostname or "", parts.port or 80), timeout=2.0).close()
    except OSError:
        return False
    return True


def _ask(client: ApiClient) -> Iterator[Finding]:
    before = time.time()
    status = client.get("status")
    after = time.time()
    me = status["me"]
    yield Finding("coordinator", "ok", f"{client.url} answers; you are {me['name']} ({me['role']})")
    own = metadata.version("fleetest")
    if status["version"] == own:
        yield Finding("its version", "ok", own)
    else:
        yield Finding("its version", "warning", f"{status['version']}, here {own}", "install the same version on both")
    told = parse_time(status["now"])
    skew_s = (told - datetime.fromtimestamp((before + after) / 2, timezone.utc)).total_seconds()
    uncertain_s = (after - before) / 2
    if abs(skew_s) > CLOCK_SKEW_MAX_S + uncertain_s:
        yield Finding(
            "clocks",
            "warning",
            f"its clock is {skew_s:+.1f} s off ours",
            "let both follow NTP: times in reports are wrong",
        )
    else:
        yield Finding("clocks", "ok", f"{abs(skew_s):.1f} s apart")
    workers, slots = status["workers_total"], status["slots"]["total"]
    if workers:
        yield Finding("workers", "ok", f"{workers} with {slots} slots")
    else:
        yield Finding("workers", "warning", "none has joined", f"fleetest worker --coordinator {client.url}")
    for name, trouble in client.readiness().items():
        if trouble != "ok" and name != "history":
            yield Finding("its readiness", "wrong" if name in _READY_TO_WRITE else "warning", trouble, _READY_REMEDY)
    history = status["history"]
    if history["is_usable"]:
        yield Finding("history", "ok", "usable")
    else:
        yield Finding("history", "wrong", history["trouble"], "see docs/how-to/query-history.md")
    if status["alerts"]["open"]:
        yield Finding("alerts", "warning", f"{status['alerts']['open']} open", "fleetest alerts")

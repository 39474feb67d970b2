"""What ``pytest --fleet`` was asked for, and the early start of its template."""

from __future__ import annotations

import itertools
import os
import re
import sys
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from fleetest.core.model import WEIGHT_MAX, WEIGHT_MIN
from fleetest.core.quantities import RequirementError, parse_duration
from fleetest.core.requirements import parse_each
from fleetest.errors import UserError

if TYPE_CHECKING:
    from fleetest.processes.launch import PrestartedTemplate

WAIT_FOR_WORKERS_S = 300.0
"""A machine that somebody switches on is there by then; a mistyped requirement is known soon enough."""
_RUN_UID = "_fleetest_run_uid"


@dataclass(frozen=True)
class FleetOptions:
    """Options and ini settings of the plugin, checked; flags win over settings."""

    target: str
    run_uid: str
    args: tuple[str, ...]
    """pytest's own arguments, without ours."""
    directory: str
    start_method: str = "auto"
    python: str | None = None
    timeout_s: float | None = None
    retries: int = 0
    hedge: bool = True
    wait_for_workers_s: float | None = WAIT_FOR_WORKERS_S
    """How long tests that no known worker can run wait for one; None: for ever."""
    each: str = ""
    """Tests that say nothing themselves run once on every distinct value of this capability."""
    token_file: Path | None = None
    data_directory: Path | None = None
    tls_ca: Path | None = None
    history: Path | None = None
    """None: no history for embedded runs."""
    balancing: str | None = None
    scheduler: str | None = None
    weight: float = 1.0
    dashboard_port: int | None = None
    """None: no dashboard. 0: any port."""

    @property
    def is_embedded(self) -> bool:
        return "://" not in self.target

    @property
    def path_entries(self) -> tuple[str, ...] | None:
        """``sys.path`` for an interpreter that is the client's own; any other one has its own path."""
        return tuple(sys.path) if self.is_embedded and self.python is None else None

    @classmethod
    def from_config(cls, config: pytest.Config, option: Any, target: str) -> FleetOptions:
        """Read options (``config.option`` or the early namespace). Raises UserError for a value that is none."""

        def given(name: str) -> str | None:
            value = getattr(option, f"fleet_{name}", None)
            return str(value) if value is not None else str(config.getini(f"fleet_{name}") or "") or None

        uid = getattr(config, _RUN_UID, None)
        if uid is None:
            uid = uuid.uuid4().hex
            setattr(config, _RUN_UID, uid)
        token_file, tls_ca = given("token_file"), getattr(option, "fleet_tls_ca", None)
        data_directory = getattr(option, "fleet_data", None)
        return cls(
            target=target,
            run_uid=uid,
            args=strip_own_options(config.invocation_params.args),
            directory=str(config.invocation_params.dir),
            start_method=_start_method(given("start_method")),
            python=given("python"),
            timeout_s=_positive_number("fleet-timeout", given("timeout")),
            retries=_whole_number("fleet-retries", given("retries")),
            hedge=not _is_true("fleet_no_hedge", given("no_hedge")),
            each=_capability(given("each")),
            wait_for_workers_s=read_wait("--fleet-wait-for-workers", given("wait_for_workers")),
            token_file=Path(token_file) if token_file else None,
            data_directory=Path(data_directory) if data_directory else None,
            tls_ca=Path(tls_ca) if tls_ca else None,
            history=_history_path(config, given("history")),
            balancing=getattr(option, "fleet_balancing", None),
            scheduler=getattr(option, "fleet_scheduler", None),
            weight=_weight(given("weight")),
            dashboard_port=read_port("--fleet-dashboard", getattr(option, "fleet_dashboard", None)),
        )


_FLAGS = ("--fleet-no-hedge",)
"""Options of ours that take no value."""


def strip_own_options(args: Sequence[str | os.PathLike[str]]) -> tuple[str, ...]:
    """The arguments for the template: everything but ``--fleet...`` and its values."""
    kept: list[str] = []
    skip_value = False
    for position, raw in enumerate(args):
        arg = os.fspath(raw)
        if skip_value:
            skip_value = False
        elif arg == "--":
            kept.extend(os.fspath(rest) for rest in args[position:])
            break
        elif arg == "--fleet-dashboard":
            # Its value is one if it is a port: anything else has been refused.
            skip_value = position + 1 < len(args) and os.fspath(args[position + 1]).isdecimal()
        elif arg == "--fleet" or arg.startswith(("--fleet=", "--fleet-")):
            skip_value = "=" not in arg and arg not in _FLAGS
        else:
            kept.append(arg)
    return tuple(kept)


def check_compatible(config: pytest.Config) -> None:
    """Raise UserError for options that cannot go with a fleet, each with the way out."""
    if getattr(config.option, "usepdb", False) or getattr(config.option, "trace", False):
        raise UserError("--pdb and --trace need the test in this process: run that test again with --fleet=no")
    if getattr(config.option, "stepwise", False):
        raise UserError(
            "--stepwise goes on from the first failure in the order of the tests, and a fleet has no such order:"
            " run it with --fleet=no"
        )
    for option, value in _separate_paths(config.invocation_params.args):
        raise UserError(
            f"write {option}={value} as one word: pytest takes a path that stands alone for a test path"
            " when it looks for the root directory"
        )
    if getattr(config.option, "numprocesses", None) or getattr(config.option, "tx", None):
        raise UserError("--fleet and pytest-xdist's -n distribute the same tests: give only one of them")


_PATH_OPTIONS = ("--fleet-python", "--fleet-token-file", "--fleet-data", "--fleet-tls-ca", "--fleet-history")
PLUGIN_OPTIONS = {
    "--token-file": "--fleet-token-file",
    "--data": "--fleet-data",
    "--tls-ca": "--fleet-tls-ca",
    "--history": "--fleet-history",
    "--python": "--fleet-python",
    "--dashboard": "--fleet-dashboard",
}
"""Options of pytest by the names that the other commands have for them."""


def with_plugin_options(message: str) -> str:
    """The message with the options that it names as pytest knows them."""
    return re.sub(r"(?<= )--[a-z-]+", lambda option: PLUGIN_OPTIONS.get(option[0], option[0]), message)


def _separate_paths(args: Sequence[str | os.PathLike[str]]) -> Iterator[tuple[str, str]]:
    words = [os.fspath(arg) for arg in args]
    for option, value in itertools.pairwise(words):
        if option in _PATH_OPTIONS and os.path.exists(value):
            yield option, value


def prestart_template(options: FleetOptions) -> PrestartedTemplate:
    """Start the interpreter that will collect, for the embedded worker to adopt. Raises OSError if it cannot start."""
    from fleetest.processes.launch import start_frame, start_template_early

    start = start_frame(
        args=options.args,
        directory=options.directory,
        run_uid=options.run_uid,
        runner_count=embedded_slots(options.target),
        scratch=tempfile.mkdtemp(prefix="fleetest-"),
        path_entries=options.path_entries,
        start_method=options.start_method,
    )
    if options.python is None and options.start_method != "spawn":
        from fleetest.processes.fork_launch import can_fork_template, fork_template_early

        if can_fork_template():
            return fork_template_early(start)
    return start_template_early(options.python, start)


def embedded_slots(target: str) -> int:
    """Number of embedded runners meant by ``auto`` or ``N``. Raises UserError for anything else."""
    if target in ("auto", "logical"):
        return available_cpus()
    try:
        slots = int(target)
    except ValueError:
        slots = 0
    if not 1 <= slots <= 1000:
        raise UserError(
            f"--fleet {target!r} is none of: auto, a number of runners from 1 to 1000, ws://host:port, wss://host:port"
        )
    return slots


def available_cpus() -> int:
    """CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def read_wait(option: str, value: object) -> float | None:
    """Seconds to wait for workers; None stands for ``forever``, no value for the default. Raises UserError."""
    if value is None:
        return WAIT_FOR_WORKERS_S
    if value == "forever":
        return None
    try:
        return parse_duration(value, zero=True)
    except RequirementError:
        raise UserError(f'{option} is {value!r}, must be seconds, a time such as "5m", 0 or forever') from None


def read_port(option: str, value: object) -> int | None:
    """A port of ``--fleet-dashboard[=PORT]``; None if nothing is said. Raises UserError."""
    if value is None:
        return None
    text = str(value)
    if not (text.isascii() and text.isdecimal() and int(text) <= 65535):
        raise UserError(f"{option} takes a port, not {text!r}: before another argument write {option}=0 (any port)")
    return int(text)


def _capability(value: str | None) -> str:
    try:
        return parse_each(value) or ""
    except RequirementError:
        raise UserError(
            f'--fleet-each is {value!r}, must be the name of a capability such as "python" or "gpu.model"'
        ) from None


def _start_method(value: str | None) -> str:
    if value not in (None, "auto", "fork", "spawn"):
        raise UserError(f"fleet_start_method is {value!r}, must be auto, fork or spawn")
    return value or "auto"


def _positive_number(name: str, value: str | None) -> float | None:
    if value is None:
        return None
    try:
        number = float(value)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise UserError(f"--{name} is {value!r}, must be a number that is not negative")
    return number


def _weight(value: str | None) -> float:
    number = _positive_number("fleet-weight", value)
    if number is None:
        return 1.0
    if not WEIGHT_MIN <= number <= WEIGHT_MAX:
        raise UserError(f"--fleet-weight is {value!r}, must be from {WEIGHT_MIN:g} to {WEIGHT_MAX:g}")
    return number


def _whole_number(name: str, value: str | None) -> int:
    number = _positive_number(name, value) or 0.0
    if not number.is_integer():
        raise UserError(f"--{name} is {value!r}, must be a whole number")
    return int(number)


def _is_true(name: str, value: str | None) -> bool:
    word = (value or "false").lower()
    if word not in ("true", "false", "1", "0", "yes", "no", "on", "off"):
        raise UserError(f"{name} is {value!r}, must be true or false")
    return word in ("true", "1", "yes", "on")


def _history_path(config: pytest.Config, value: str | None) -> Path | None:
    if value == "none":
        return None
    root = getattr(config, "rootpath", None) or Path(str(config.invocation_params.dir))
    return Path(root, value) if value else Path(root, ".fleetest", "history.duckdb")

"""Settings of the long-running commands.

Precedence: flags, environment (``FLEETEST_*``), ``[tool.fleetest]`` in pyproject.toml, defaults.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from fleetest.errors import UserError
from fleetest.transport.identity import Role
from fleetest.transport.token import TOKEN_NAME, TOKEN_NAMES, read_token

TABLE = "tool.fleetest"


def default_data_directory() -> Path:
    """``$XDG_STATE_HOME/fleetest``, by default ``~/.local/state/fleetest``."""
    state = os.environ.get("XDG_STATE_HOME", "")
    return (Path(state) if os.path.isabs(state) else Path.home() / ".local" / "state") / "fleetest"


def usual_data_directory() -> Path:
    """``$FLEETEST_DATA``, else the default."""
    return Path(os.environ["FLEETEST_DATA"]) if os.environ.get("FLEETEST_DATA") else default_data_directory()


def find_token(token_file: Path | None = None, data_directory: Path | None = None, role: Role = Role.ADMIN) -> str:
    """The token for this purpose: of ``token_file``, else FLEETEST_TOKEN_FILE, else the data directory's.

    Of a data directory the role's own file is taken, else the admin's. A data directory given by the caller wins over
    the environment. Raises UserError, see ``read_token``.
    """
    if token_file is None and data_directory is None and os.environ.get("FLEETEST_TOKEN_FILE"):
        token_file = Path(os.environ["FLEETEST_TOKEN_FILE"])
    if token_file is None:
        directory = data_directory or usual_data_directory()
        own = directory / TOKEN_NAMES[role]
        token_file = own if os.path.lexists(own) else directory / TOKEN_NAME
    return read_token(token_file)


@dataclass(frozen=True, slots=True)
class CoordinatorSettings:
    """Of ``fleetest coordinator``; table ``[tool.fleetest.coordinator]``."""

    host: str = "127.0.0.1"
    port: int = 8765
    data: Path = field(default_factory=default_data_directory)
    history: Path | None = None
    """None: ``history.duckdb`` in ``data``."""
    tls_cert: Path | None = None
    tls_key: Path | None = None
    behind_tls_proxy: bool = False
    public_host: tuple[str, ...] = ()
    reconnect_grace_s: float = 15.0
    """How long a worker whose connection broke may take to come back and go on with its running tests."""
    heartbeat_interval_s: float = 5.0
    """Workers beat so often; one is suspect after three intervals of silence and lost after six."""
    min_free: str | None = None
    """Below so much free space of the data directory's disk no new runs are taken; None: 1 GiB and 5 %."""
    alert_webhook: tuple[str, ...] = ()
    """URLs to which alerts are posted."""
    alert_secret_file: Path | None = None
    """Holds the secret that signs them."""
    announce: tuple[str, ...] = ()
    """Capabilities of workers that will come later, each as ``name=value, ...``."""
    balancing: str | None = None
    """Name of the balancing policy; None: what a plugin offers, else adaptive."""
    scheduler: str | None = None
    """Name of the scheduling policy; None: what a plugin offers, else ours."""
    log_format: str = "text"
    """text or json."""


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """Of ``fleetest worker``; table ``[tool.fleetest.worker]``."""

    coordinator: str = "ws://127.0.0.1:8765"
    slots: int | None = None
    """None: one per CPU."""
    label: tuple[str, ...] = ()
    resource: tuple[str, ...] = ()
    python: str | None = None
    name: str | None = None
    """None: the host's name."""
    address: str | None = None
    """None: where the coordinator sees its link come from."""
    token_file: Path | None = None
    data: Path | None = None
    scratch: Path | None = None
    no_spare: bool = False
    """Keep no interpreter ready for the next run."""
    tls_ca: Path | None = None
    wait_s: float = 60.0
    """How long the coordinator may take to be there at first."""
    probe: str | None = None
    """A command line that must succeed before this machine gets work."""
    probe_interval_s: float = 60.0
    probe_timeout_s: float = 30.0
    log_format: str = "text"
    """text or json."""


Settings = TypeVar("Settings", CoordinatorSettings, WorkerSettings)
_TABLE_NAMES: Mapping[type, str] = {CoordinatorSettings: "coordinator", WorkerSettings: "worker"}


def load(
    settings: type[Settings],
    flags: Mapping[str, object],
    *,
    environment: Mapping[str, str] | None = None,
    directory: Path | None = None,
) -> Settings:
    """Settings from every source. ``flags`` that are None or empty were not given.

    ``directory`` (default: the current one) is where pyproject.toml is looked for. Raises UserError for an unknown
    key or a value of the wrong type, naming its source.
    """
    environment = os.environ if environment is None else environment
    file = (directory or Path.cwd()) / "pyproject.toml"
    given = _from_file(file, settings)
    for name in _fields(settings):
        variable = f"FLEETEST_{name.upper()}"
        if environment.get(variable):
            given[name] = _convert(settings, name, environment[variable], variable)
    for name, value in flags.items():
        if value is not None and value != () and value is not False:
            given[name] = _convert(settings, name, value, f"--{name.replace('_', '-')}")
    return settings(**given)


def _from_file(file: Path, settings: type[Any]) -> dict[str, Any]:
    table = _read_toml(file)
    for key in TABLE.split("."):
        table = table.get(key, {})
        if not isinstance(table, dict):
            raise UserError(f"{file}: {TABLE} must be a table")
    for key in table:
        if key not in _TABLE_NAMES.values():
            known = ", ".join(f"[{TABLE}.{name}]" for name in _TABLE_NAMES.values())
            raise UserError(f"{file}: unknown key {key!r} in [{TABLE}]; it holds {known}")
    own = table.get(_TABLE_NAMES[settings], {})
    where = f"{file}: [{TABLE}.{_TABLE_NAMES[settings]}]"
    if not isinstance(own, dict):
        raise UserError(f"{where} must be a table")
    given: dict[str, Any] = {}
    for key, value in own.items():
        name = key.replace("-", "_")
        if name not in _fields(settings):
            known = ", ".join(sorted(_fields(settings)))
            raise UserError(f"{where} has the unknown key {key!r}; known are {known}")
        converted = _convert(settings, name, value, f"{where} {key}")
        given[name] = file.parent / converted if isinstance(converted, Path) else converted
    return given


def _read_toml(file: Path) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        settings: dict[str, Any] = tomllib.loads(file.read_text("utf-8"))
        return settings
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {file}: {error}") from error


def _fields(settings: type[Any]) -> dict[str, str]:
    return {each.name: str(each.type) for each in dataclasses.fields(settings)}


def _convert(settings: type[Any], name: str, value: object, source: str) -> Any:
    """``value`` as the field's type. Text is read as on the command line; tuples are separated by commas there."""
    kind = _fields(settings)[name].removesuffix(" | None")
    converter, expected = _CONVERTERS[kind]
    try:
        return converter(value)
    except (ValueError, TypeError, KeyError):
        raise UserError(f"{source} must be {expected}, not {value!r}") from None


def _text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError
    return value


def _whole_number(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise ValueError
    number = int(value)
    if number < 0:
        raise ValueError
    return number


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError
    number = float(value)
    if not 0 <= number < 1e9:
        raise ValueError
    return number


def _truth(value: object) -> bool:
    if isinstance(value, str):
        return {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}[value.lower()]
    if not isinstance(value, bool):
        raise ValueError
    return value


def _texts(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    if not isinstance(value, (list, tuple)):
        raise ValueError
    return tuple(_text(part) for part in value)


def _path(value: object) -> Path:
    return Path(value if isinstance(value, Path) else _text(value)).expanduser()


_CONVERTERS: Mapping[str, tuple[Callable[[object], Any], str]] = {
    "str": (_text, "text"),
    "int": (_whole_number, "a whole number of at least 0"),
    "float": (_number, "a number of seconds"),
    "bool": (_truth, "true or false"),
    "Path": (_path, "a path"),
    "tuple[str, ...]": (_texts, "a list of texts"),
}

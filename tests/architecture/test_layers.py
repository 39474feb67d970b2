"""The layers hold, the named modules are where a reader looks for them, and the runner stays an island."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "fleetest"
RUNNER = PACKAGE / "runner"
NAMED_MODULES = ("coordinator", "worker", "task_scheduler", "load_balancer", "health_monitor", "dashboard_server")
IMPURE = frozenset(
    [
        "asyncio",
        "socket",
        "threading",
        "time",
        "random",
        "logging",
        "os",
        "subprocess",
        "secrets",
        "uuid",
        "datetime",
        "multiprocessing",
        "signal",
    ]
)


def imported_names(source: Path) -> set[str]:
    """Top-level packages that the file imports, absolutely, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.partition(".")[0])
    return names


def sources_of(name: str) -> list[Path]:
    """Files of a module or package directly below ``fleetest``."""
    module = PACKAGE / f"{name}.py"
    return [module] if module.exists() else sorted((PACKAGE / name).rglob("*.py"))


def test_import_contracts_hold() -> None:
    finished = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as lint; lint()", "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "kept, 0 broken" in finished.stdout


@pytest.mark.parametrize("name", NAMED_MODULES)
def test_named_module_is_at_the_top(name: str) -> None:
    assert sources_of(name), f"src/fleetest/{name}.py (or a package of that name) is missing"


@pytest.mark.parametrize("name", ["core", "balancing", "task_scheduler", "load_balancer", "health_monitor"])
def test_pure_module_knows_no_clock_socket_thread_chance_or_log(name: str) -> None:
    sources = sources_of(name)
    assert sources
    impure = {str(source.relative_to(ROOT)): sorted(imported_names(source) & IMPURE) for source in sources}
    assert {source: names for source, names in impure.items() if names} == {}


def test_runner_parses_as_python_3_8() -> None:
    sources = sorted(RUNNER.rglob("*.py"))
    assert sources
    for source in sources:
        ast.parse(source.read_text(), str(source), feature_version=(3, 8))


def test_runner_needs_only_the_standard_library_and_pytest() -> None:
    # Modules that suites may have imported already are looked up in sys.modules, never imported.
    allowed = sys.stdlib_module_names | {"pytest", "_pytest", "pluggy"}
    foreign = {
        str(source.relative_to(ROOT)): sorted(imported_names(source) - allowed) for source in RUNNER.rglob("*.py")
    }
    assert {source: names for source, names in foreign.items() if names} == {}


def test_nothing_heavy_is_imported_with_the_plugin() -> None:
    """Whoever has Fleetest installed and does not use it pays for one small module."""
    code = "import sys, pytest; import fleetest.pytest_plugin; print(*sys.modules, sep='\\n')"
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in finished.stdout.split()}
    assert loaded & {"asyncio", "aiohttp", "msgspec", "duckdb", "rich", "click", "psutil", "uvloop"} == set()


def test_a_client_of_a_coordinator_imports_no_http_stack() -> None:
    """It would take longer than the rest of the client's start."""
    code = "import sys, fleetest.client.pytest_session, fleetest.embedded, fleetest.transport.websocket"
    finished = subprocess.run(
        [sys.executable, "-c", code + "; print(*sys.modules, sep='\\n')"], capture_output=True, text=True, check=True
    )
    loaded = {name.partition(".")[0] for name in finished.stdout.split()}
    assert loaded & {"aiohttp", "duckdb", "rich", "click", "psutil"} == set()

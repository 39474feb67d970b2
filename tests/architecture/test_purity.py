"""The core and the policies decide by what they are given: they read no clock, socket, environment or chance."""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "fleetest"
PURE = [
    *sorted((SOURCE / "core").glob("**/*.py")),
    *sorted((SOURCE / "balancing").glob("**/*.py")),
    *sorted((SOURCE / "health_monitor").glob("**/*.py")),
    *(SOURCE / name for name in ("task_scheduler.py", "load_balancer.py")),
]
FORBIDDEN = {
    "asyncio": "an event loop",
    "concurrent": "threads",
    "datetime": "a clock",
    "io": "files",
    "logging": "logging",
    "multiprocessing": "processes",
    "os": "the environment",
    "pathlib": "files",
    "platform": "the machine",
    "queue": "threads",
    "random": "chance",
    "secrets": "chance",
    "select": "sockets",
    "selectors": "sockets",
    "shutil": "files",
    "signal": "signals",
    "socket": "sockets",
    "ssl": "sockets",
    "subprocess": "processes",
    "sys": "the interpreter",
    "tempfile": "files",
    "threading": "threads",
    "time": "a clock",
    "uuid": "chance",
    "warnings": "logging",
}
FORBIDDEN_CALLS = {"open", "input", "exec", "eval", "__import__"}


def imported(tree: ast.AST) -> set[str]:
    """Top-level names of everything that is imported, at whatever depth."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names.add((node.module or "").split(".")[0])
    return names


def called(tree: ast.AST) -> set[str]:
    return {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}


def test_there_is_something_to_look_at():
    assert {path.name for path in PURE} >= {"cluster_state.py", "model.py", "task_scheduler.py"}


@pytest.mark.parametrize("path", PURE, ids=lambda path: path.name)
def test_it_is_pure(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    impure = {name: FORBIDDEN[name] for name in imported(tree) & FORBIDDEN.keys()}
    assert not impure
    assert not called(tree) & FORBIDDEN_CALLS


@pytest.mark.parametrize("path", PURE, ids=lambda path: path.name)
def test_it_imports_only_the_core_and_the_errors_of_us(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    ours = {
        node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("fleetest")
    }
    pure = ("fleetest.core", "fleetest.balancing", "fleetest.health_monitor.")
    assert all(module == "fleetest.errors" or module.startswith(pure) for module in ours), ours


@pytest.mark.parametrize(
    "text",
    ["import time", "def f():\n    from os import environ", "import asyncio.events as x", "from random import *"],
)
def test_impurity_would_be_found(text):
    assert imported(ast.parse(text)) & FORBIDDEN.keys()

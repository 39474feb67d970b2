"""What may be compiled: mypyc keeps no annotations, so nothing that msgspec reads by them."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import msgspec.inspect

import fleetest

ROOT = Path(__file__).resolve().parents[2]


def declared_values() -> set[str]:
    """``VALUES`` of ``hatch_build.py``, whose own imports are there while a wheel is built only."""
    for statement in ast.parse((ROOT / "hatch_build.py").read_text()).body:
        if isinstance(statement, ast.Assign) and getattr(statement.targets[0], "id", "") == "VALUES":
            return set(ast.literal_eval(statement.value))
    raise AssertionError("hatch_build.py has no VALUES")


def structs() -> list[type]:
    for module in pkgutil.walk_packages(fleetest.__path__, "fleetest."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    found, waiting = [], [msgspec.Struct]
    while waiting:
        known = [kind for kind in waiting.pop().__subclasses__() if kind.__module__.startswith("fleetest.")]
        found += known
        waiting += known
    return found


def parts_of(kind: object, seen: set[int]) -> Iterator[type]:
    """Every dataclass and enumeration that values of this type are made of."""
    if id(kind) in seen:
        return
    seen.add(id(kind))
    if isinstance(kind, (msgspec.inspect.DataclassType, msgspec.inspect.EnumType)):
        yield kind.cls
    if isinstance(kind, msgspec.inspect.Type | msgspec.inspect.Field):
        for name in kind.__struct_fields__:
            yield from parts_of(getattr(kind, name), seen)
    elif isinstance(kind, tuple):
        for part in kind:
            yield from parts_of(part, seen)


def test_what_is_written_down_or_sent_is_not_compiled() -> None:
    seen: set[int] = set()
    kinds = msgspec.inspect.multi_type_info(structs())
    modules = {part.__module__ for kind in kinds for part in parts_of(kind, seen)}
    core = {module for module in modules if module.startswith("fleetest.core.")}
    assert {"fleetest.core.model", "fleetest.core.alerts"} <= core
    package = Path(fleetest.__file__).parent
    files = {Path(sys.modules[module].__file__ or "").relative_to(package).as_posix() for module in core}
    assert files <= declared_values()

"""Locations of items, cheaply: ``item.location`` asks the file system about the same file for every item in it."""

from __future__ import annotations

import types

import pytest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Optional, Tuple

_REPORTINFO = pytest.Function.reportinfo
# What a function may carry without being a wrapper around the one that was written in the file.
_HARMLESS_ATTRIBUTES = frozenset({"pytestmark"})


class Locations:
    """``of(item)`` equals ``item.location``, and is left there for pytest.

    The first item of a file is asked itself; its plain neighbours share the path, and differ in line and name.
    """

    def __init__(self) -> None:
        self._paths: Dict[str, str] = {}
        self._prefixes: Dict[int, str] = {}

    def of(self, item: Any) -> Tuple[str, Optional[int], str]:
        code = _plain_code(item)
        if code is None:
            location: Tuple[str, Optional[int], str] = item.location
            return location
        path = self._paths.get(code.co_filename)
        if path is None:
            location = item.location
            self._paths[code.co_filename] = location[0]
            return location
        prefix = self._prefixes.get(id(item.parent))
        if prefix is None:
            prefix = "" if isinstance(item.parent, pytest.Module) else item.parent.getmodpath() + "."
            self._prefixes[id(item.parent)] = prefix
        location = (path, code.co_firstlineno - 1, prefix + item.name)
        # Where the cached property looks first: no runner works it out again.
        item.__dict__["location"] = location
        return location


def _plain_code(item: Any) -> Optional[types.CodeType]:
    """The code of a test function of which pytest would say just what is written in its code; None of any other."""
    if getattr(type(item), "reportinfo", None) is not _REPORTINFO:
        return None
    function = item.__dict__.get("_obj")
    if function is None:
        # Not item.obj: that would make an instance of the test class long before the test runs.
        function = getattr(item.parent.obj, getattr(item, "originalname", None) or item.name, None)
    function = getattr(function, "__func__", function)
    if type(function) is not types.FunctionType or not function.__dict__.keys() <= _HARMLESS_ATTRIBUTES:
        return None
    return function.__code__

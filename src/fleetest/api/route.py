"""The table of routes: what can be asked, by whom, with which types. Nothing is served that is not in it."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any
from urllib.parse import unquote_to_bytes

import msgspec
from aiohttp import web

from fleetest.transport.gate import Pass
from fleetest.transport.identity import Identity, Role
from fleetest.transport.problems import Problem


class Public(Enum):
    """In place of a role: whoever reaches the port may ask."""

    PUBLIC = "public"


class NoQuery(msgspec.Struct, forbid_unknown_fields=True):
    """A route without query parameters."""


@dataclass(slots=True)
class Call:
    """One request that may be answered: parsed, checked, its role granted."""

    request: web.BaseRequest
    passed: Pass
    path: Mapping[str, str]
    query: Any
    body: Any
    as_of: int | None = None
    """Set by a handler whose answer tells an earlier time: how many changes there had been (``LiveIndex.changes``)."""

    @property
    def identity(self) -> Identity:
        """Of whoever asks; only for routes that need a role."""
        assert self.passed.identity is not None
        return self.passed.identity


Handler = Callable[[Call], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Route:
    """One operation. A handler returns a value of ``answer``, or a whole response where ``media_type`` is not JSON.

    ``path`` has names in braces; one that ends in ``...`` takes the rest of the path, slashes included.
    """

    method: str
    path: str
    role: Role | Public
    summary: str
    handler: Handler
    answer: Any
    query: type[msgspec.Struct] = NoQuery
    body: Any = None
    is_body_optional: bool = False
    status: int = 200
    media_type: str = "application/json"
    body_bytes_max: int = 64 * 1024
    is_repeatable: bool = False
    """A POST that takes an idempotency key."""
    tag: str = ""
    shared_s: float | None = None
    """What is asked of the state by whoever looks: all get one answer, for so long at least. None: never."""
    problems: tuple[int, ...] = ()
    """Statuses that it may end with besides those that every route may."""
    _pattern: re.Pattern[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.role, Role | Public):
            raise TypeError(f"{self.method} {self.path}: a route needs a role")
        if not self.summary:
            raise TypeError(f"{self.method} {self.path}: a route needs a summary")
        names = [part for part in re.split(r"(\{[^}]*\})", self.path) if part]
        object.__setattr__(self, "_pattern", re.compile("".join(map(_as_pattern, names))))

    @property
    def name(self) -> str:
        """Unique and stable: the operation's id."""
        words = re.sub(r"[^a-z0-9]+", "_", self.path.removeprefix("/api/v1").lower()).strip("_")
        return f"{self.method.lower()}_{words}" if words else f"{self.method.lower()}_root"

    @property
    def path_names(self) -> list[str]:
        return [name.removesuffix("...") for name in re.findall(r"\{([^}]*)\}", self.path)]

    def match(self, raw_path: str) -> dict[str, str] | None:
        found = self._pattern.fullmatch(raw_path)
        if found is None:
            return None
        return {name: _decoded(value) for name, value in found.groupdict().items()}


class RouteTable:
    """Finds the route of a request; refuses what is not in the table."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self.routes = tuple(routes)
        keys = [(route.method, route.path) for route in routes]
        assert len(set(keys)) == len(keys), "a route is in the table twice"
        self._exact: dict[str, list[Route]] = {}
        self._patterns: list[Route] = []
        for route in routes:
            if "{" in route.path:
                self._patterns.append(route)
            else:
                self._exact.setdefault(route.path, []).append(route)

    def find(self, method: str, raw_path: str) -> tuple[Route, dict[str, str]]:
        """The route and what its path says. HEAD is answered as GET. Raises Problem 404, 405."""
        candidates: list[tuple[Route, dict[str, str]]] = [(route, {}) for route in self._exact.get(raw_path, ())]
        if not candidates:
            matches = ((route, route.match(raw_path)) for route in self._patterns)
            candidates = [(route, found) for route, found in matches if found is not None]
        if not candidates:
            raise Problem(404, "not_found", "there is nothing here: /openapi.json lists what there is")
        wanted = "GET" if method == "HEAD" else method
        for route, found in candidates:
            if route.method == wanted:
                return route, found
        methods = {route.method for route, _ in candidates}
        allowed = ", ".join(sorted(methods | ({"HEAD"} if "GET" in methods else set())))
        raise Problem(405, "method_not_allowed", f"this is answered to {allowed} only", {"Allow": allowed})

    def is_exact(self, raw_path: str) -> bool:
        """Whether a route has just this path."""
        return raw_path in self._exact

    def is_public(self, raw_path: str) -> bool:
        """Whether some method of this path needs no token; any other is refused afterwards."""
        return any(route.role is Public.PUBLIC for route in self._exact.get(raw_path, ()))


def _as_pattern(part: str) -> str:
    if not part.startswith("{"):
        return re.escape(part)
    name = part[1:-1]
    return f"(?P<{name.removesuffix('...')}>{'.+' if name.endswith('...') else '[^/]+'})"


def _decoded(text: str) -> str:
    try:
        return unquote_to_bytes(text).decode("utf-8")
    except UnicodeDecodeError:
        raise Problem(400, "path_not_utf8", "the path is not UTF-8: percent-encode its bytes as UTF-8") from None

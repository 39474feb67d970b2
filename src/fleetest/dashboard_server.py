"""The coordinator's pages: the dashboard's files, the login, and the API beneath them, from one table of routes."""

from __future__ import annotations

import mimetypes
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from aiohttp import hdrs, web

from fleetest.api.http import Dispatcher
from fleetest.api.route import Call, Public, Route, RouteTable
from fleetest.transport.gate import Pass, raw_path
from fleetest.transport.identity import Role
from fleetest.transport.problems import Problem
from fleetest.transport.server import token_needed

STATIC = Path(__file__).with_name("static")
MEDIA_TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml", ".html": "text/html"}


class HasRoutes(Protocol):
    def routes(self) -> Sequence[Route]: ...


class Elsewhere(Protocol):
    """What answers in place of an API of our own."""

    def takes(self, raw_path: str) -> bool: ...

    async def answer(self, request: web.BaseRequest, passed: Pass) -> web.StreamResponse:
        """Raises Problem."""


class DashboardServer:
    """The site of a coordinator's port, see ``transport.server.Site``; or of a dashboard alone, with ``elsewhere``."""

    def __init__(self, api: HasRoutes, elsewhere: Elsewhere | None = None) -> None:
        self._elsewhere = elsewhere
        self._files = {path.relative_to(STATIC).as_posix(): path.read_bytes() for path in sorted(STATIC.rglob("*.*"))}
        self._table = RouteTable([*api.routes(), *self._routes()])
        self._dispatcher = Dispatcher(self._table)

    @property
    def routes(self) -> Sequence[Route]:
        return self._table.routes

    def is_public(self, request: web.BaseRequest) -> bool:
        return self._table.is_public(raw_path(request))

    async def answer(self, request: web.BaseRequest, passed: Pass) -> web.StreamResponse:
        path = raw_path(request)
        if self._elsewhere is not None and not self._table.is_exact(path) and self._elsewhere.takes(path):
            return await self._elsewhere.answer(request, passed)
        return await self._dispatcher.answer(request, passed)

    def challenge(self, request: web.BaseRequest) -> web.Response:
        """A person gets the login page, a program a problem; what was asked for makes no difference."""
        problem: Problem = token_needed()
        if "text/html" not in request.headers.get(hdrs.ACCEPT, ""):
            return problem.response()
        response = self._file("login.html")
        response.set_status(problem.status)
        response.headers.update(problem.headers)
        return response

    def _routes(self) -> Sequence[Route]:
        def page(path: str, role: Role | Public, summary: str, name: str) -> Route:
            async def show(call: Call) -> web.Response:
                return self._file(name)

            return Route("GET", path, role, summary, show, None, media_type=_media_type(name), tag="pages")

        return [
            page("/", Role.VIEW, "The dashboard.", "index.html"),
            page("/login", Public.PUBLIC, "The form that opens a browser session.", "login.html"),
            # Nothing in these files is a secret, and the login page needs some of them.
            *(
                page(f"/static/{name}", Public.PUBLIC, "A file of the dashboard.", name)
                for name in self._files
                if not name.endswith(".html")
            ),
        ]

    def _file(self, name: str) -> web.Response:
        return web.Response(body=self._files[name], content_type=_media_type(name), charset="utf-8")


def _media_type(name: str) -> str:
    return MEDIA_TYPES.get(Path(name).suffix) or mimetypes.guess_type(name)[0] or "application/octet-stream"

"""Errors of the HTTP side: JSON problems (RFC 9457) with a stable code and a sentence that says what to do."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

import msgspec
from aiohttp import web

PROBLEM_TYPE = "application/problem+json"


class ProblemBody(msgspec.Struct, kw_only=True, rename={"problem_type": "type"}):
    """The body of every answer from 400 on. ``code`` never changes its meaning; ``detail`` is for people."""

    status: int
    title: str
    code: str
    detail: str
    problem_type: str = "about:blank"


class Problem(Exception):
    """Ends a request with this status; ``detail`` says what is wrong, where, and what to do."""

    def __init__(self, status: int, code: str, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.headers = dict(headers or {})

    def response(self) -> web.Response:
        body = ProblemBody(
            status=self.status,
            title=HTTPStatus(self.status).phrase,
            code=self.code,
            # A lone surrogate of a hostile path cannot be sent.
            detail=self.detail.encode("utf-8", "backslashreplace").decode(),
        )
        return web.Response(
            status=self.status, body=msgspec.json.encode(body), content_type=PROBLEM_TYPE, headers=self.headers
        )

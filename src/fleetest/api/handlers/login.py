"""Login of browsers: a token or a one-use code for a session cookie."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Protocol

import msgspec
from aiohttp import web

from fleetest.api import answers
from fleetest.api.route import Call, Public, Route
from fleetest.transport.browser_sessions import CODE_S, SESSION_S, BrowserSessions
from fleetest.transport.gate import Gate
from fleetest.transport.identity import Role
from fleetest.transport.problems import Problem

Secret = Annotated[str, msgspec.Meta(max_length=1000)]


class Login(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """One of the two."""

    token: Secret = ""
    code: Secret = ""


class LoginContext(Protocol):
    """``gate``: known once the server exists."""

    @property
    def sessions(self) -> BrowserSessions: ...
    @property
    def gate(self) -> Gate | None: ...


class LoginRoutes:
    def __init__(self, context: LoginContext) -> None:
        self._context = context

    def routes(self) -> Sequence[Route]:
        return [
            Route("POST", "/login", Public.PUBLIC, "Open a browser session with a token or a one-use code.",
                  self.log_in, answers.LoginAnswer, body=Login, tag="login", problems=(401, 429)),
            Route("POST", "/logout", Role.VIEW, "End this browser session.", self.log_out, answers.Ok, tag="login"),
            Route("POST", "/api/v1/login-codes", Role.VIEW, "A one-use code that opens a session as this token would.",
                  self.make_code, answers.LoginCode, status=201, tag="login"),
        ]  # fmt: skip

    async def log_in(self, call: Call) -> web.Response:
        gate, address = self._gate(), call.request.remote or ""
        if not call.passed.has_own_origin and call.request.headers.get("Sec-Fetch-Site", "none") != "none":
            raise Problem(403, "origin_needed", "a browser must send the Origin of the coordinator's own pages")
        body: Login = call.body
        if bool(body.token) == bool(body.code):
            raise Problem(400, "bad_body", "give either a token or a code")
        if body.code:
            identity = self._context.sessions.redeem(body.code)
            if identity is None:
                gate.count_failure(address)
                raise Problem(401, "wrong_code", "this link was used already or is too old: make a new one")
        else:
            identity = gate.identify(body.token.strip(), address)
        if not identity.may(Role.VIEW):
            raise Problem(403, "role_not_allowed", f"a token of role {identity.role.value} opens no session")
        answer = answers.LoginAnswer(name=identity.name, role=identity.role.value)
        response = web.Response(body=msgspec.json.encode(answer), content_type="application/json")
        response.set_cookie(
            gate.cookie_name,
            self._context.sessions.open(identity),
            max_age=int(SESSION_S),
            httponly=True,
            samesite="Strict",
            secure=gate.is_encrypted,
            path="/",
        )
        return response

    async def log_out(self, call: Call) -> web.Response:
        gate = self._gate()
        if call.passed.session:
            self._context.sessions.close(call.passed.session)
        response = web.Response(body=msgspec.json.encode(answers.Ok()), content_type="application/json")
        response.del_cookie(gate.cookie_name, path="/", httponly=True, samesite="Strict", secure=gate.is_encrypted)
        return response

    async def make_code(self, call: Call) -> answers.LoginCode:
        return answers.LoginCode(code=self._context.sessions.make_code(call.identity), valid_s=CODE_S)

    def _gate(self) -> Gate:
        assert self._context.gate is not None, "the API is mounted before it is asked"
        return self._context.gate

"""From requests to calls and back: parses, checks, grants, encodes. The same for every route of the table."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import msgspec
from aiohttp import hdrs, web

from fleetest.api.route import Call, Public, Route, RouteTable
from fleetest.transport.gate import Pass, raw_path
from fleetest.transport.problems import Problem

IDEMPOTENCY_KEY = "Idempotency-Key"
KEY_CHARS_MAX = 200
ANSWERS_KEPT = 1000
ANSWERS_KEPT_S = 24 * 3600.0
URL_CHARS_MAX = 8000
BODY_TIMEOUT_S = 30.0
_THREAD_FROM_BYTES = 256 * 1024
_encoder = msgspec.json.Encoder()


class Dispatcher:
    """Answers requests from a route table."""

    def __init__(self, table: RouteTable, clock: Callable[[], float] = time.monotonic) -> None:
        self.table = table
        self._given = _GivenAnswers(clock)

    async def answer(self, request: web.BaseRequest, passed: Pass) -> web.StreamResponse:
        """Raises Problem."""
        route, path = self.table.find(request.method, raw_path(request))
        grant(route, passed)
        query = _query(request, route)
        body, encoded = await _body(request, route)
        call = Call(request, passed, path, query, body)
        key = request.headers.get(IDEMPOTENCY_KEY)
        if key is None or not route.is_repeatable:
            return await self._execute(route, call)
        return await self._given.once(call, route, key, encoded, lambda: self._execute(route, call))

    async def _execute(self, route: Route, call: Call) -> web.StreamResponse:
        value = await route.handler(call)
        if isinstance(value, web.StreamResponse):
            return value
        return web.Response(status=route.status, body=_encoder.encode(value), content_type="application/json")


def grant(route: Route, passed: Pass) -> None:
    """Raises Problem 403 unless whoever asks may use the route."""
    if route.role is Public.PUBLIC:
        return
    assert passed.identity is not None, "the gate lets nobody without a token to a route that needs one"
    if not passed.identity.may(route.role):
        detail = f"this needs a token of role {route.role.value}, not {passed.identity.role.value}"
        raise Problem(403, "role_not_allowed", detail)


def _query(request: web.BaseRequest, route: Route) -> Any:
    given: dict[str, str] = {}
    for name, value in request.rel_url.query.items():
        if name in given:
            raise Problem(400, "parameter_twice", f"the parameter {name[:100]!r} is given twice")
        given[name] = value
    try:
        return msgspec.convert(given, route.query, strict=False)
    except (msgspec.ValidationError, UnicodeError) as error:
        raise Problem(400, "bad_parameter", f"a query parameter is wrong: {error}") from None


async def _body(request: web.BaseRequest, route: Route) -> tuple[Any, bytes]:
    encoded = await _read(request, route.body_bytes_max if route.body is not None else 1024)
    if route.body is None:
        if encoded.strip() not in (b"", b"{}"):
            raise Problem(400, "no_body_expected", "this takes no body")
        return None, encoded
    if not encoded.strip():
        if not route.is_body_optional:
            raise Problem(400, "body_needed", "a JSON body is needed")
        encoded = b"{}"
    if len(encoded) > _THREAD_FROM_BYTES:
        return await asyncio.to_thread(decode, encoded, route.body), encoded
    return decode(encoded, route.body), encoded


async def _read(request: web.BaseRequest, limit_bytes: int) -> bytes:
    too_big = Problem(413, "body_too_big", f"the body is larger than {limit_bytes} bytes")
    encodings = (request.headers.get(hdrs.CONTENT_ENCODING, ""), request.headers.get(hdrs.TRANSFER_ENCODING, ""))
    if encodings[0].lower() not in ("", "identity") or encodings[1].lower() not in ("", "chunked"):
        raise Problem(415, "encoding_not_allowed", "send the body without compression")
    if request.content_length is not None and request.content_length > limit_bytes:
        raise too_big
    parts = bytearray()
    try:
        async with _within(BODY_TIMEOUT_S):
            async for part in request.content.iter_any():
                parts += part
                if len(parts) > limit_bytes:
                    raise too_big
    except asyncio.TimeoutError:
        raise Problem(408, "body_too_slow", f"the body did not come within {BODY_TIMEOUT_S:.0f} s") from None
    return bytes(parts)


def _within(seconds: float) -> Any:
    if hasattr(asyncio, "timeout"):
        return asyncio.timeout(seconds)
    from aiohttp.helpers import ceil_timeout  # Python 3.10

    return ceil_timeout(seconds)


def decode(encoded: bytes, kind: Any) -> Any:
    """Raises Problem 400 for what is not exactly ``kind``, or has a key twice."""
    try:
        value = msgspec.json.decode(encoded, type=kind)
        json.loads(encoded, object_pairs_hook=_refuse_twice, parse_constant=_refuse_constant)
        return value
    except Problem:
        raise
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        detail = f"the body is not what is expected here: {error}"[:500]
        raise Problem(400, "bad_body", detail) from None


def _refuse_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("an object has a key twice")
    return found


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


class _GivenAnswers:
    """Answers by idempotency key: asking again with the same key and body gets the same answer, once done."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._known: OrderedDict[tuple[str, str, str], tuple[bytes, float, asyncio.Future[tuple[int, bytes]]]] = (
            OrderedDict()
        )

    async def once(
        self, call: Call, route: Route, key: str, encoded: bytes, execute: Callable[[], Any]
    ) -> web.StreamResponse:
        if not (0 < len(key) <= KEY_CHARS_MAX and key.isprintable()):
            raise Problem(400, "bad_idempotency_key", f"{IDEMPOTENCY_KEY} is 1 to {KEY_CHARS_MAX} printable characters")
        self._forget_old()
        name = (call.identity.token_id, raw_path(call.request), key)
        digest = hashlib.sha256(encoded).digest()
        known = self._known.get(name)
        if known is not None:
            if known[0] != digest:
                detail = "this idempotency key was used with another body: use a new one"
                raise Problem(422, "idempotency_key_reused", detail)
            status, body = await asyncio.shield(known[2])
            return web.Response(
                status=status, body=body, content_type="application/json", headers={"Idempotency-Replayed": "true"}
            )
        future: asyncio.Future[tuple[int, bytes]] = asyncio.get_running_loop().create_future()
        self._known[name] = (digest, self._clock(), future)
        try:
            response = await execute()
        except BaseException as error:
            # What failed may be tried again under the same key.
            self._known.pop(name, None)
            future.set_exception(error if isinstance(error, Problem) else Problem(409, "not_done", "it was not done"))
            future.exception()
            raise
        assert isinstance(response, web.Response)
        assert isinstance(response.body, bytes)
        future.set_result((response.status, response.body))
        return response

    def _forget_old(self) -> None:
        while self._known:
            name, (_, since, _) = next(iter(self._known.items()))
            if len(self._known) < ANSWERS_KEPT and self._clock() - since < ANSWERS_KEPT_S:
                return
            del self._known[name]

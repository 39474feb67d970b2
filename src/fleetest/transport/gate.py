"""The gate before everything: an allowed Host, no foreign Origin, a known token. Nothing is routed before it."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Collection
from dataclasses import dataclass

from aiohttp import hdrs, web

from fleetest.transport.browser_sessions import BrowserSessions
from fleetest.transport.identity import Credentials, Identity, Role
from fleetest.transport.problems import Problem

FAILURES_MAX = 5
FAILURES_WINDOW_S = 60.0
"""So many wrong tokens from one address within this time; then it must wait. A right token always passes."""
ADDRESSES_MAX = 4096
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
CHALLENGE = {"WWW-Authenticate": 'Bearer realm="fleetest"'}


@dataclass(frozen=True, slots=True)
class Pass:
    """What the gate found out about a request. ``identity`` None: nobody showed anything."""

    identity: Identity | None
    session: str = ""
    """Which browser session: it came by cookie, so that what changes something must come from our own pages."""
    has_own_origin: bool = False


class Gate:
    """``credentials`` decide; ``sessions`` are those of browsers. ``clock`` is monotonic."""

    def __init__(
        self,
        credentials: Credentials,
        sessions: BrowserSessions,
        clock: Callable[[], float],
        public_hosts: Collection[str] = (),
    ) -> None:
        self._credentials = credentials
        self._sessions = sessions
        self._clock = clock
        self._public_hosts = tuple(public_hosts)
        self._hosts: frozenset[str] = frozenset()
        self._schemes: frozenset[str] = frozenset()
        self._failures: dict[str, deque[float]] = {}
        self.refused: Counter[str] = Counter()
        """By code of the problem."""
        self.denied: Counter[Role] = Counter()
        """By role of the token that was not enough."""
        self.cookie_name = "fleetest"
        self.is_encrypted = False

    def open_for(self, host: str, port: int, *, is_tls: bool, is_behind_tls_proxy: bool = False) -> None:
        """The names and schemes under which this server may be addressed, once its port is known."""
        names = {"127.0.0.1", "localhost", "[::1]", f"[{host}]" if ":" in host else host}
        allowed = {f"{name}:{port}" for name in names}
        if port == (443 if is_tls else 80):
            allowed |= names
        for public in self._public_hosts:
            allowed |= {public.lower(), f"{public.lower()}:{port}"}
        self._hosts = frozenset(allowed)
        self._schemes = frozenset({"https"} if is_tls else {"http", "https"} if is_behind_tls_proxy else {"http"})
        self.is_encrypted = is_tls or is_behind_tls_proxy
        # Browsers send cookies to every port of a host: two coordinators must not take each other's.
        self.cookie_name = f"fleetest-{port}"

    def check(self, request: web.BaseRequest) -> Pass:
        """Raises Problem: 400, 403 (host, origin), 401 (a token that is wrong), 429 (too many of them)."""
        if not request.raw_path.startswith("/"):
            # http://other/path and the like name a second host beside the Host header.
            raise Problem(400, "bad_target", "the request line must name a path of this server, from its / on")
        hosts = request.headers.getall(hdrs.HOST, [])
        if len(hosts) != 1 or hosts[0].lower() not in self._hosts:
            raise Problem(403, "host_not_allowed", "this name is not allowed here: use another, or see --public-host")
        origins = request.headers.getall(hdrs.ORIGIN, [])
        if len(origins) > 1 or not all(map(self._is_own_origin, origins)):
            raise Problem(
                403, "origin_not_allowed", "this origin is not allowed here: only the coordinator's own pages"
            )
        credentials = request.headers.getall(hdrs.AUTHORIZATION, [])
        if len(credentials) > 1:
            raise Problem(400, "two_credentials", "more than one Authorization header: send one")
        if credentials:
            return Pass(self._bearer(credentials[0], request.remote or ""), has_own_origin=bool(origins))
        session = self.session_of(request)
        identity = self._sessions.identify(session) if session else None
        return Pass(identity, session=session if identity is not None else "", has_own_origin=bool(origins))

    def session_of(self, request: web.BaseRequest) -> str:
        """The value of our cookie; empty without one. Raises Problem 400 for two that differ.

        Every other server on this host can add one to the browser's: which of them is ours cannot be known.
        """
        pairs = (
            part.strip().partition("=") for line in request.headers.getall(hdrs.COOKIE, []) for part in line.split(";")
        )
        values = {value for name, _, value in pairs if name == self.cookie_name}
        if len(values) > 1:
            raise Problem(400, "two_credentials", f"more than one cookie {self.cookie_name}: delete them, log in again")
        return values.pop() if values else ""

    def is_good(self, passed: Pass) -> bool:
        """Whether what passed once would pass now: its token is good, its browser session was not ended."""
        return (
            passed.identity is not None
            and self._credentials.is_valid(passed.identity)
            and (not passed.session or self._sessions.identify(passed.session) is not None)
        )

    def identify(self, secret: str, address: str) -> Identity:
        """Raises Problem for a secret that is nobody's, and counts it."""
        identity = self._credentials.identify(secret)
        if identity is not None:
            return identity
        self.count_failure(address)
        raise Problem(401, "wrong_token", "this token is not known here, was revoked or has expired", CHALLENGE)

    def count(self, problem: Problem, identity: Identity | None) -> None:
        """For the metrics."""
        self.refused[problem.code] += 1
        if identity is not None and problem.code == "role_not_allowed":
            self.denied[identity.role] += 1

    def _bearer(self, header: str, address: str) -> Identity:
        scheme, _, given = header.partition(" ")
        if scheme.lower() != "bearer":
            raise Problem(401, "token_needed", "send a token: Authorization: Bearer TOKEN", CHALLENGE)
        return self.identify(given.strip(), address)

    def count_failure(self, address: str) -> None:
        """A wrong token or code came from there. Raises Problem 429 if there were too many before."""
        now = self._clock()
        times = self._failures.pop(address, None) or deque()
        while times and times[0] <= now - FAILURES_WINDOW_S:
            times.popleft()
        while len(self._failures) >= ADDRESSES_MAX:
            del self._failures[next(iter(self._failures))]
        self._failures[address] = times
        if len(times) >= FAILURES_MAX:
            wait_s = int(times[0] + FAILURES_WINDOW_S - now) + 1
            detail = f"too many wrong tokens from this address: try again in {wait_s} s"
            raise Problem(429, "too_many_failures", detail, {hdrs.RETRY_AFTER: str(wait_s)})
        times.append(now)

    def _is_own_origin(self, origin: str) -> bool:
        scheme, _, host = origin.lower().partition("://")
        return scheme in self._schemes and host in self._hosts


def check_unsafe(request: web.BaseRequest, passed: Pass) -> None:
    """What changes something, or speaks over a WebSocket: a browser must say that our own page asks.

    Raises Problem: 403 without an Origin, 415 for a body that is no JSON (only a page of ours can send that), 400 for
    an upgrade with a body, which could be taken for frames.
    """
    is_safe = request.method in SAFE_METHODS
    is_upgrade = request.headers.get(hdrs.UPGRADE, "").lower() == "websocket"
    if is_safe and not is_upgrade:
        return
    if passed.session and not passed.has_own_origin:
        raise Problem(403, "origin_needed", "a browser must send the Origin of the coordinator's own pages")
    if is_upgrade and (hdrs.CONTENT_LENGTH in request.headers or hdrs.TRANSFER_ENCODING in request.headers):
        raise Problem(400, "no_body_expected", "a WebSocket begins without a body")
    content_types = request.headers.getall(hdrs.CONTENT_TYPE, [])
    if not is_safe and (request.body_exists or content_types) and not _is_json(content_types):
        raise Problem(415, "json_needed", "send the body as Content-Type: application/json")


def raw_path(request: web.BaseRequest) -> str:
    """As it was sent, still percent-encoded, without the query."""
    return request.raw_path.partition("?")[0].partition("#")[0]


def _is_json(content_types: list[str]) -> bool:
    if len(content_types) != 1:
        return False
    kind, *parameters = (part.strip().lower() for part in content_types[0].split(";"))
    return kind == "application/json" and all(part in {"charset=utf-8", 'charset="utf-8"'} for part in parameters)

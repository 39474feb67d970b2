"""What a browser shows instead of a token: a session cookie, got for a token or for a one-use code."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass

from fleetest.transport.identity import Credentials, Identity, hash_secret

SESSION_S = 12 * 3600.0
"""A session ends this long after it was last used."""
CODE_S = 60.0
"""A one-use code that nobody used is void after this."""
SESSIONS_MAX = 1000
CODES_MAX = 100


@dataclass(slots=True)
class _Session:
    identity: Identity
    expires_at: float


class BrowserSessions:
    """In memory only: a coordinator that starts anew asks everybody to log in again. ``clock`` is monotonic."""

    def __init__(self, credentials: Credentials, clock: Callable[[], float]) -> None:
        self._credentials = credentials
        self._clock = clock
        self._sessions: dict[str, _Session] = {}
        """By hash of the cookie's value, the longest unused first."""
        self._codes: dict[str, _Session] = {}

    def open(self, identity: Identity) -> str:
        """A new session; returns the cookie's value."""
        value = secrets.token_urlsafe(32)
        while len(self._sessions) >= SESSIONS_MAX:
            del self._sessions[next(iter(self._sessions))]
        self._sessions[hash_secret(value)] = _Session(identity, self._clock() + SESSION_S)
        return value

    def identify(self, value: str) -> Identity | None:
        """Whose session it is; None if there is none (any more)."""
        key = hash_secret(value)
        session = self._sessions.pop(key, None)
        if session is None or session.expires_at < self._clock() or not self._credentials.is_valid(session.identity):
            return None
        session.expires_at = self._clock() + SESSION_S
        self._sessions[key] = session
        return session.identity

    def close(self, value: str) -> None:
        self._sessions.pop(hash_secret(value), None)

    def make_code(self, identity: Identity, valid_s: float = CODE_S) -> str:
        """A code that ``redeem`` takes once, within ``valid_s``."""
        code = secrets.token_urlsafe(24)
        while len(self._codes) >= CODES_MAX:
            del self._codes[next(iter(self._codes))]
        self._codes[hash_secret(code)] = _Session(identity, self._clock() + valid_s)
        return code

    def redeem(self, code: str) -> Identity | None:
        entry = self._codes.pop(hash_secret(code), None)
        if entry is None or entry.expires_at < self._clock() or not self._credentials.is_valid(entry.identity):
            return None
        return entry.identity

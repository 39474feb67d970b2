"""Asks a coordinator's HTTP API. Standard library only: a command that asks one thing must start at once."""

from __future__ import annotations

import http.client
import json
import os
import ssl
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from fleetest.config import find_token
from fleetest.errors import ExitStatus, NotReady, UserError

DEFAULT_URL = "ws://127.0.0.1:8765"
URL_VARIABLE = "FLEETEST_COORDINATOR"
TIMEOUT_S = 15.0
PAGE = 1000
_SCHEMES = {"ws": False, "http": False, "wss": True, "https": True}


class NotThereError(UserError):
    """The coordinator knows no such thing."""


class ApiClient:
    """One connection, made when it is first needed. Answers are the JSON values of docs/reference/http-api.md."""

    def __init__(self, url: str, token: str, tls_ca: Path | None = None) -> None:
        parts = urlsplit(url)
        try:
            port = parts.port
        except ValueError:
            port = -1
        if parts.scheme not in _SCHEMES or not parts.hostname or port == -1:
            raise UserError(f"{url!r} is not a coordinator's address: write for example {DEFAULT_URL}")
        self.url = url
        self._token = token
        self._connection: http.client.HTTPConnection
        if _SCHEMES[parts.scheme]:
            context = _tls_context(tls_ca)
            self._connection = http.client.HTTPSConnection(parts.hostname, port, timeout=TIMEOUT_S, context=context)
        else:
            self._connection = http.client.HTTPConnection(parts.hostname, port, timeout=TIMEOUT_S)

    def get(self, *path: str, **query: Any) -> Any:
        """The answer to GET; parts of the path may contain anything. Raises UserError."""
        return self._ask("GET", path, query, None)

    def find(self, *path: str) -> Any | None:
        """The same, and None where there is no such thing."""
        try:
            return self._ask("GET", path, {}, None)
        except NotThereError:
            return None

    def post(self, *path: str, body: Mapping[str, Any] | None = None) -> Any:
        """The answer to POST; a repeated delivery is done once. Raises UserError."""
        return self._ask("POST", path, {}, body or {})

    def pages(self, *path: str, limit: int | None = None, **query: Any) -> Iterator[Any]:
        """Every item of a paged list, at most ``limit``."""
        cursor, left = None, limit
        while left is None or left > 0:
            page = self.get(*path, **query, limit=min(PAGE, left or PAGE), cursor=cursor)
            yield from page["items"]
            left = None if left is None else left - len(page["items"])
            cursor = page["next_cursor"]
            if not cursor:
                return

    def readiness(self) -> Mapping[str, str]:
        """What ``/readyz`` tells who has a token: by check ``ok``, or what is wrong. Raises UserError."""
        status, text = self._exchange("GET", "/readyz", None, {"Authorization": f"Bearer {self._token}"})
        try:
            checks = json.loads(text)["checks"]
            return {str(name): str(told) for name, told in checks.items()}
        except (ValueError, KeyError, TypeError, AttributeError):
            raise UserError(f"{self.url} does not answer like a coordinator (status {status})") from None

    def close(self) -> None:
        self._connection.close()

    def _ask(self, method: str, path: tuple[str, ...], query: Mapping[str, Any], body: Mapping[str, Any] | None) -> Any:
        target = "/api/v1/" + "/".join(quote(part, safe="") for part in path)
        given = {name: value for name, value in query.items() if value not in (None, "")}
        if given:
            target += "?" + urlencode(given)
        headers = {"Authorization": f"Bearer {self._token}", "Accept": "application/json"}
        encoded = None
        if body is not None:
            encoded = json.dumps(body).encode()
            headers |= {"Content-Type": "application/json", "Idempotency-Key": uuid.uuid4().hex}
        status, text = self._exchange(method, target, encoded, headers)
        try:
            answer = json.loads(text)
        except ValueError:
            raise UserError(f"{self.url} does not answer like a coordinator (status {status})") from None
        if status < 400:
            return answer
        raise _problem(self.url, status, answer)

    def _exchange(self, method: str, target: str, body: bytes | None, headers: dict[str, str]) -> tuple[int, bytes]:
        for is_last in (False, True):
            try:
                self._connection.request(method, target, body, headers)
                response = self._connection.getresponse()
                return response.status, response.read()
            except ssl.SSLCertVerificationError as error:
                message = f"{self.url}: its certificate is not trusted here: give --tls-ca ({error.verify_message})"
                raise UserError(message, ExitStatus.REFUSED) from error
            except ssl.SSLError as error:
                message = f"{self.url} does not speak TLS as it must ({error.reason}): is it wss:// there, or ws://?"
                raise UserError(message, ExitStatus.UNREACHABLE) from error
            except (http.client.HTTPException, OSError) as error:
                # A kept connection may have been closed meanwhile: once more on a new one.
                self._connection.close()
                if is_last or isinstance(error, ConnectionRefusedError | TimeoutError):
                    raise _unreachable(self.url, error) from error
        raise AssertionError("not reached")


def connect(url: str | None, token_file: Path | None, data: Path | None, tls_ca: Path | None) -> ApiClient:
    """A client of ``url``, else of FLEETEST_COORDINATOR, else of this machine. Raises UserError."""
    return ApiClient(find_url(url), find_token(token_file, data), tls_ca)


def find_url(url: str | None) -> str:
    """``url``, else FLEETEST_COORDINATOR, else this machine's."""
    return url or os.environ.get(URL_VARIABLE) or DEFAULT_URL


def _tls_context(tls_ca: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=str(tls_ca) if tls_ca is not None else None)
    except ssl.SSLError as error:
        raise UserError(f"--tls-ca {tls_ca}: not a certificate in PEM form ({error.reason})") from error
    except OSError as error:
        raise UserError(f"--tls-ca {tls_ca}: {error.strerror}") from error


def _unreachable(url: str, error: Exception) -> UserError:
    if isinstance(error, http.client.RemoteDisconnected) and url.startswith(("ws:", "http:")):
        message = f"{url} closed the connection at once: does it speak TLS (wss://)?"
        return UserError(message, ExitStatus.UNREACHABLE)
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or type(error).__name__
    message = f"cannot reach the coordinator at {url} ({reason}): is it running there?"
    return UserError(message, ExitStatus.UNREACHABLE)


def _problem(url: str, status: int, answer: Any) -> UserError:
    detail = answer.get("detail") if isinstance(answer, dict) else None
    text = str(detail or f"status {status}")
    if status in (401, 403):
        return UserError(f"{url} refused: {text}", ExitStatus.REFUSED)
    if isinstance(answer, dict) and answer.get("code") == "not_ready":
        return NotReady(f"{url}: {text}")
    if status == 429 or status >= 500:
        return UserError(f"{url}: {text}", ExitStatus.UNREACHABLE)
    return (NotThereError if status == 404 else UserError)(text)

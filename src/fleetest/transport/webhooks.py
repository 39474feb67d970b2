"""Alerts to webhooks: signed JSON over HTTP POST, tried again with backoff, never in anybody's way.

Each delivery is a POST of ``application/json`` with the headers

- ``Fleetest-Delivery``: an id, the same for every attempt of one delivery: a receiver knows what it has already;
- ``Fleetest-Timestamp``: seconds since 1970 at this attempt: it can refuse what was recorded and played again;
- ``Fleetest-Signature``: ``v1=`` and the HMAC-SHA256, in hex, over timestamp, a full stop and the body (with a secret).

Any status of 200 to 299 is an acknowledgement. A redirection is not followed. 408, 425, 429, 5xx and no answer within
``TIMEOUT_S`` are tried again, with full jitter, up to ``ATTEMPTS_MAX`` times; any other status gives the delivery up.
Deliveries of one receiver stay in order. When more than ``QUEUE_MAX`` wait, the oldest is dropped, and the log says so.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import random
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from urllib.parse import urlsplit

import aiohttp
import msgspec

from fleetest.core.commands import ClearAlert, Command, RaiseAlert
from fleetest.core.events import Event
from fleetest.errors import UserError

TIMEOUT_S = 10.0
ATTEMPTS_MAX = 12
BACKOFF_MIN_S = 1.0
BACKOFF_MAX_S = 300.0
QUEUE_MAX = 1000
LAST_WORDS_S = 2.0
"""So long after the end of the coordinator what waits may still be delivered."""
_TRIED_AGAIN = frozenset({408, 425, 429})
_log = logging.getLogger("fleetest.webhooks")


def sign(secret: bytes, timestamp: str, body: bytes) -> str:
    """Value of the signature's header."""
    return "v1=" + hmac.new(secret, timestamp.encode("ascii") + b"." + body, hashlib.sha256).hexdigest()


def check_webhook(url: str) -> str:
    """The URL if alerts can be sent there. Raises UserError."""
    try:
        parts = urlsplit(url)
        is_good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_good = False
    if not is_good or any(character.isspace() for character in url):
        raise UserError(f"--alert-webhook {url!r}: it must be an http:// or https:// URL")
    return url


def backoff_s(attempt: int) -> float:
    """The pause after the attempt of this number (from 1): full jitter below a bound that doubles."""
    return random.uniform(0.0, min(BACKOFF_MAX_S, BACKOFF_MIN_S * 2.0 ** (attempt - 1)))


def notice_of(command: RaiseAlert | ClearAlert) -> dict[str, object]:
    """What is posted of an alert that was raised or cleared just now."""
    return {
        "version": 1,
        "event": "raised" if isinstance(command, RaiseAlert) else "cleared",
        "alert": command.alert_id,
        "worker": command.worker_id,
        "cause": command.cause,
        "message": command.message if isinstance(command, RaiseAlert) else "",
        "at": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
    }


class Webhooks:
    """Sends each notice to every URL. Use it on one event loop; ``close`` it at the end."""

    def __init__(
        self, urls: Sequence[str], secret: bytes | None = None, *, pause_s: Callable[[int], float] = backoff_s
    ) -> None:
        self._secret, self._pause_s = secret, pause_s
        self._session: aiohttp.ClientSession | None = None
        self._receivers = [_Receiver(url) for url in urls]

    def send(self, notice: Mapping[str, object]) -> None:
        """Queue the notice; never waits, never raises."""
        body = msgspec.json.encode(notice)
        for receiver in self._receivers:
            receiver.waiting.append((str(uuid.uuid4()), body))
            if len(receiver.waiting) > QUEUE_MAX:
                receiver.waiting.popleft()
                _log.warning("%s: too many alerts wait, the oldest is dropped", receiver.name)
            if receiver.task is None or receiver.task.done():
                receiver.task = asyncio.get_running_loop().create_task(self._deliver_all(receiver))

    def observe(self, event: Event, commanded: Sequence[Command]) -> None:
        """What was commanded after an event: every alert in it that was raised or cleared is sent."""
        for command in commanded:
            if isinstance(command, RaiseAlert | ClearAlert):
                self.send(notice_of(command))

    async def close(self) -> None:
        """Give what waits a last chance, then give it up."""
        tasks = [receiver.task for receiver in self._receivers if receiver.task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=LAST_WORDS_S)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for receiver in self._receivers:
            if receiver.waiting:
                _log.warning("%s: %d alerts were not delivered", receiver.name, len(receiver.waiting))
        if self._session is not None:
            await self._session.close()

    async def _deliver_all(self, receiver: _Receiver) -> None:
        while receiver.waiting:
            delivery = receiver.waiting[0]
            await self._deliver(receiver, *delivery)
            # It may have been dropped meanwhile, when too many waited.
            if receiver.waiting and receiver.waiting[0] is delivery:
                receiver.waiting.popleft()

    async def _deliver(self, receiver: _Receiver, delivery_id: str, body: bytes) -> None:
        for attempt in range(1, ATTEMPTS_MAX + 1):
            trouble, is_final = await self._attempt(receiver.url, delivery_id, body)
            if not trouble:
                return
            if is_final:
                break
            _log.info("%s: %s, attempt %d", receiver.name, trouble, attempt)
            if attempt < ATTEMPTS_MAX:
                await asyncio.sleep(self._pause_s(attempt))
        _log.warning("%s: an alert is given up: %s", receiver.name, trouble)

    async def _attempt(self, url: str, delivery_id: str, body: bytes) -> tuple[str, bool]:
        """What went wrong (empty: nothing), and whether it would go wrong again."""
        timestamp = str(int(time.time()))
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "fleetest",
            "Fleetest-Delivery": delivery_id,
            "Fleetest-Timestamp": timestamp,
        }
        if self._secret is not None:
            headers["Fleetest-Signature"] = sign(self._secret, timestamp, body)
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT_S))
        try:
            async with self._session.post(url, data=body, headers=headers, allow_redirects=False) as answer:
                status = answer.status
        except asyncio.TimeoutError:
            return f"no answer within {TIMEOUT_S:g} s", False
        except aiohttp.InvalidURL:
            return "its URL cannot be used", True
        except (aiohttp.ClientError, OSError) as error:
            return _trouble_of(error), False
        if 200 <= status < 300:
            return "", True
        return f"it answered {status}", status < 500 and status not in _TRIED_AGAIN


def _trouble_of(error: Exception) -> str:
    """For people, and without the rest of the URL, which often is a secret."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return "its certificate is not trusted here"
    if isinstance(error, aiohttp.ClientSSLError):
        return "it does not speak TLS as it must"
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"cannot connect ({error.strerror or type(error).__name__})"
    if isinstance(error, aiohttp.ClientResponseError):
        return "it does not speak HTTP as it must"
    return f"the connection broke ({type(error).__name__})"


class _Receiver:
    def __init__(self, url: str) -> None:
        self.url = url
        parts = urlsplit(url)
        # The rest of an URL often is a secret of its own.
        self.name = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
        self.waiting: deque[tuple[str, bytes]] = deque()
        self.task: asyncio.Task[None] | None = None

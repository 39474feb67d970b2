"""A link that logs a browser in at a coordinator, once."""

from __future__ import annotations

import time
from urllib.parse import quote, urlsplit

from fleetest.operator.api_client import ApiClient


def ask_for_link(client: ApiClient) -> str:
    """The link and until when it is good. Raises UserError."""
    return describe(*make_link(client))


def make_link(client: ApiClient) -> tuple[str, float]:
    """The link, and for how many seconds it is good. Raises UserError."""
    answer = client.post("login-codes")
    parts = urlsplit(client.url)
    scheme = "https" if parts.scheme in ("wss", "https") else "http"
    code = quote(answer["code"], safe="", errors="replace")
    return f"{scheme}://{parts.netloc}/login#code={code}", float(answer["valid_s"])


def describe(link: str, valid_s: float) -> str:
    until = time.strftime("%H:%M:%S", time.localtime(time.time() + valid_s))
    return f"{link} (opens once, until {until})"

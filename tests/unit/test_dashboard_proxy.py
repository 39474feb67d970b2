"""Which coordinator a dashboard may stand in for, and what it asks of it."""

from __future__ import annotations

import pytest

from fleetest.dashboard_proxy import DashboardProxy
from fleetest.errors import UserError

TOKEN = "the-token-of-this-test-0123456789"


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        ("ws://127.0.0.1:8765", "http://127.0.0.1:8765"),
        ("wss://fleet.example.org/", "https://fleet.example.org"),
        ("http://[::1]:80", "http://[::1]:80"),
    ],
)
def test_the_address_of_links_is_that_of_the_api(given: str, asked: str) -> None:
    assert DashboardProxy(given, TOKEN).url == asked


@pytest.mark.parametrize(
    "url",
    ["", "ftp://host", "ws://", "ws://host:0", "ws://host:99999", "ws://host/path", "ws://me:secret@host", "ws://h?a"],
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(UserError, match="is not a coordinator's address"):
        DashboardProxy(url, TOKEN)


@pytest.mark.parametrize("path", ["/api/v1/runs", "/api/v1/runs/1/tasks/a%2Fb", "/api", "/metrics", "/openapi.json"])
def test_the_api_is_asked_there(path: str) -> None:
    assert DashboardProxy("ws://host", TOKEN).takes(path)


@pytest.mark.parametrize(
    "path", ["/", "/login", "/static/js/main.js", "/v1/worker", "//evil/api/", "http://evil/api/v1", "/apis", ""]
)
def test_nothing_else_leaves_this_machine(path: str) -> None:
    assert not DashboardProxy("ws://host", TOKEN).takes(path)

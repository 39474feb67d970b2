"""The table of routes, the document made from it, and what is refused before any handler is asked."""

from pathlib import Path
from typing import Annotated

import msgspec
import pytest

from fleetest.api.http import decode
from fleetest.api.reference import api_routes, markdown
from fleetest.api.route import Public, Route, RouteTable
from fleetest.transport.identity import GRANTS, Role
from fleetest.transport.problems import Problem

ROOT = Path(__file__).parents[2]


async def nothing(call):
    return None


def route(method="GET", path="/x", role=Role.VIEW, **more) -> Route:
    return Route(method, path, role, "A summary.", nothing, None, **more)


@pytest.mark.parametrize("role", [None, "", "admin", 7])
def test_there_is_no_route_without_a_role(role):
    with pytest.raises(TypeError, match="needs a role"):
        route(role=role)


def test_a_route_cannot_be_written_without_saying_its_role():
    with pytest.raises(TypeError):
        Route("GET", "/x", summary="s", handler=nothing, answer=None)


def test_every_route_of_the_api_has_a_role_and_few_are_public():
    public = {(each.method, each.path) for each in api_routes() if each.role is Public.PUBLIC}
    assert public == {("GET", "/healthz"), ("GET", "/readyz"), ("POST", "/login")}
    assert all(isinstance(each.role, Role | Public) for each in api_routes())


def test_what_changes_something_needs_more_than_view():
    readers = {each.path for each in api_routes() if each.method != "GET" and each.role in (Role.VIEW, Public.PUBLIC)}
    assert readers == {"/login", "/logout", "/api/v1/login-codes"}


def test_a_role_opens_what_it_is_for():
    assert GRANTS[Role.ADMIN] == set(Role)
    assert GRANTS[Role.VIEW] == {Role.VIEW}
    assert GRANTS[Role.WORKER] == {Role.WORKER}
    assert Role.WORKER not in GRANTS[Role.SUBMIT]
    assert Role.ADMIN not in GRANTS[Role.SUBMIT]


def test_paths_are_matched_as_they_were_sent():
    table = RouteTable([route(path="/runs/{run}/tasks/{task...}"), route(path="/runs/{run}"), route("POST", "/runs")])
    found, names = table.find("GET", "/runs/1/tasks/a/b.py::t%5B%2F%5D")
    assert (found.path, names) == ("/runs/{run}/tasks/{task...}", {"run": "1", "task": "a/b.py::t[/]"})
    assert table.find("HEAD", "/runs/a%2Fb")[1] == {"run": "a/b"}
    for path in ("/runs/", "/runs/1/", "/Runs/1", "//runs/1", "/runs/1;x=.json/tasks"):
        with pytest.raises(Problem) as caught:
            table.find("POST", path)
        assert caught.value.status in {404, 405}


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "BREW"])
def test_unknown_methods_are_refused_with_what_there_is(method):
    table = RouteTable([route(path="/runs/{run}")])
    with pytest.raises(Problem) as caught:
        table.find(method, "/runs/1")
    assert (caught.value.status, caught.value.headers["Allow"]) == (405, "GET, HEAD")


def test_no_two_operations_have_one_name():
    names = [each.name for each in api_routes()]
    assert len(set(names)) == len(names)


def test_the_reference_is_what_the_table_says():
    """Print it anew with: python -m fleetest.api.reference > docs/reference/http-api.md"""
    assert (ROOT / "docs/reference/http-api.md").read_text("utf-8") == markdown(api_routes())


class Body(msgspec.Struct, forbid_unknown_fields=True):
    number: Annotated[int, msgspec.Meta(le=1000)] = 0
    text: str = ""
    more: dict[str, float] = {}


@pytest.mark.parametrize(
    "encoded",
    [
        b'{"number": 1, "number": 2}',
        b'{"more": {"a": 1, "a": 2}}',
        b'{"unknown": 1}',
        b'{"more": {"a": NaN}}',
        b'{"number": 1e400}',
        b'{"number": ' + b"1" * 400 + b"}",
        b"[" * 100_000 + b"]" * 100_000,
        b'{"more": ' * 50_000 + b"1" + b"}" * 50_000,
        b'{"text": "\xff"}',
        b'{"text": "\\ud800"}',
        b"{",
        b"[]",
        b"null",
        b"\xef\xbb\xbf{}",
    ],
    ids=lambda encoded: repr(encoded[:30]),
)
def test_a_hostile_body_is_refused(encoded):
    with pytest.raises(Problem) as caught:
        decode(encoded, Body)
    assert (caught.value.status, caught.value.code) == (400, "bad_body")
    assert len(caught.value.detail) <= 500


def test_a_good_body_is_taken():
    assert decode(b'{"number": 3, "text": "\xc3\xa9"}', Body) == Body(3, "é")

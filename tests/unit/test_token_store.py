"""Tokens by role: what is kept of them, how they end, and what a running coordinator makes of a change."""

import json
import os

import pytest
from click.testing import CliRunner

from fleetest.cli.token import token as token_command
from fleetest.config import find_token
from fleetest.errors import ExitStatus, UserError
from fleetest.transport.browser_sessions import CODE_S, SESSION_S, BrowserSessions
from fleetest.transport.file_credentials import FileCredentials, read_used
from fleetest.transport.identity import FixedCredentials, Role
from fleetest.transport.token import TOKEN_NAMES, read_token, write_token
from fleetest.transport.token_store import TokenStore


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def store(tmp_path, clock):
    store = TokenStore(tmp_path / "data", clock)
    store.prepare()
    return store


@pytest.fixture
def data(store, tmp_path):
    return tmp_path / "data"


def role_of(data, clock, secret):
    identity = FileCredentials(data, clock).identify(secret)
    return identity.role if identity is not None else None


def test_the_first_start_makes_one_token_per_role(store, data, clock):
    secrets = {role: read_token(data / name) for role, name in TOKEN_NAMES.items()}
    assert len(set(secrets.values())) == 4
    assert {role_of(data, clock, secret) for secret in secrets.values()} == set(Role)
    for name in (*TOKEN_NAMES.values(), "tokens.json"):
        assert (data / name).stat().st_mode & 0o777 == 0o600
    kept = (data / "tokens.json").read_text()
    assert not any(secret in kept for secret in secrets.values())


def test_a_data_directory_of_somebody_else_is_not_used(tmp_path, monkeypatch):
    """Its owner could put other files in place of ours at any time."""
    (tmp_path / "data").mkdir(mode=0o755)
    mine = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: mine + 1)
    if mine == 0:
        os.chown(tmp_path / "data", 12345, -1)
    with pytest.raises(UserError, match="belongs to another user") as refused:
        TokenStore(tmp_path / "data").prepare()
    assert refused.value.exit_status is ExitStatus.REFUSED
    assert list((tmp_path / "data").iterdir()) == []


@pytest.mark.parametrize("kind", ["file", "dangling link", "link", "no directory"])
def test_a_token_whose_file_cannot_be_made_is_not_left_good(data, tmp_path, kind):
    path, other = tmp_path / "lab.token", tmp_path / "other"
    if kind == "file":
        path.write_text("mine")
    elif kind == "dangling link":
        path.symlink_to(other)
    elif kind == "link":
        other.write_text("mine")
        path.symlink_to(other)
    else:
        path = tmp_path / "nothing" / "lab.token"
    args = ["create", "lab", "--role", "worker", "--file", str(path), "--data", str(data)]
    answer = CliRunner().invoke(token_command, args)
    assert isinstance(answer.exception, UserError)
    assert "lab.token" in str(answer.exception)
    assert not [entry for entry in TokenStore(data).entries() if entry.name == "lab" and entry.revoked_at is None]
    assert not other.exists() or other.read_text() == "mine"


def test_a_file_that_comes_between_is_not_taken_for_the_token(data, tmp_path, monkeypatch):
    path = tmp_path / "lab.token"
    path.write_text("of another")
    monkeypatch.setattr(os.path, "lexists", lambda path: False)
    args = ["create", "lab", "--role", "worker", "--file", str(path), "--data", str(data)]
    assert isinstance(CliRunner().invoke(token_command, args).exception, UserError)
    assert path.read_text() == "of another"
    assert not [entry for entry in TokenStore(data).entries() if entry.name == "lab" and entry.revoked_at is None]


def test_a_second_start_changes_nothing(store, data):
    before = (data / "tokens.json").read_text()
    TokenStore(data).prepare()
    assert (data / "tokens.json").read_text() == before


def test_a_token_of_an_older_data_directory_stays_the_admins(tmp_path, clock):
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    write_token(data / "token", "a-token-that-was-there-before", is_new=True)
    TokenStore(data, clock).prepare()
    assert role_of(data, clock, "a-token-that-was-there-before") is Role.ADMIN


def test_a_deleted_or_replaced_file_is_a_new_token(store, data, clock):
    old = read_token(data / "token")
    (data / "token").unlink()
    store.prepare()
    assert role_of(data, clock, old) is None
    assert role_of(data, clock, read_token(data / "token")) is Role.ADMIN


def test_a_revoked_token_does_not_come_back_by_a_restart(store, data, clock):
    old = read_token(data / "worker.token")
    store.revoke("worker")
    assert not (data / "worker.token").exists()
    store.prepare()
    assert not (data / "worker.token").exists()
    write_token(data / "worker.token", old, is_new=True)
    store.prepare()
    assert role_of(data, clock, old) is None


def test_a_token_ends_when_it_expires(store, data, clock):
    secret = store.create("ci", Role.SUBMIT, 60.0)
    credentials = FileCredentials(data, clock)
    identity = credentials.identify(secret)
    assert (identity.name, identity.role) == ("ci", Role.SUBMIT)
    clock.now += 60.0
    assert credentials.identify(secret) is None
    assert not credentials.is_valid(identity)


def test_a_running_coordinator_takes_changes_in(store, data, clock):
    credentials = FileCredentials(data, clock)
    secret = store.create("ci", Role.SUBMIT)
    assert credentials.identify(secret) is None
    credentials.refresh()
    identity = credentials.identify(secret)
    store.revoke("ci")
    credentials.refresh()
    assert credentials.identify(secret) is None
    assert not credentials.is_valid(identity)


def test_rotation_lets_the_old_token_live_a_little(store, data, clock):
    old = read_token(data / "view.token")
    secret, path = store.rotate("view", 3600.0)
    assert path == data / "view.token"
    assert read_token(path) == secret != old
    assert role_of(data, clock, old) is Role.VIEW
    clock.now += 3600.0
    assert role_of(data, clock, old) is None
    assert role_of(data, clock, secret) is Role.VIEW
    with pytest.raises(UserError, match="24 h"):
        store.rotate("view", 25 * 3600.0)


@pytest.mark.parametrize("name", ["", "a b", "../x", "x" * 65, "-x", "a\n"])
def test_a_name_that_is_none(store, name):
    with pytest.raises(UserError, match="a token's name"):
        store.create(name, Role.VIEW)


def test_names_are_used_once(store):
    store.create("ci", Role.SUBMIT)
    with pytest.raises(UserError, match="already"):
        store.create("ci", Role.VIEW)
    store.revoke("ci")
    store.create("ci", Role.VIEW)
    assert store.prune() == 1


@pytest.mark.parametrize("spoil", ["mode", "content", "link"])
def test_a_file_that_cannot_be_trusted_lets_nobody_in(store, data, clock, spoil):
    """A19"""
    path = data / "tokens.json"
    credentials = FileCredentials(data, clock)
    secret = read_token(data / "token")
    assert credentials.identify(secret) is not None
    if spoil == "mode":
        path.chmod(0o644)
        os.utime(path, (1, 1))
    elif spoil == "content":
        path.write_text("{")
    else:
        path.rename(data / "elsewhere")
        path.symlink_to(data / "elsewhere")
        os.utime(data / "elsewhere", (1, 1))
    with pytest.raises(UserError) as caught:
        store.prepare()
    assert caught.value.exit_status is ExitStatus.REFUSED
    credentials.refresh()
    assert credentials.identify(secret) is None


def test_what_was_used_last_is_kept(store, data, clock):
    credentials = FileCredentials(data, clock)
    identity = credentials.identify(read_token(data / "token"))
    credentials.refresh()
    assert read_used(data) == {}
    clock.now += 61.0
    credentials.refresh()
    assert read_used(data) == {identity.token_id: clock.now - 61.0}


def test_each_purpose_finds_its_own_token(store, data):
    for role, name in TOKEN_NAMES.items():
        assert find_token(None, data, role) == read_token(data / name)
    (data / "worker.token").unlink()
    assert find_token(None, data, Role.WORKER) == read_token(data / "token")


def test_a_session_ends_with_its_token_or_its_time(clock):
    class Ending(FixedCredentials):
        is_good = True

        def is_valid(self, identity):
            return self.is_good

    credentials = Ending({"secret": Role.VIEW})
    sessions = BrowserSessions(credentials, clock)
    identity = credentials.identify("secret")
    cookie = sessions.open(identity)
    assert sessions.identify(cookie) == identity
    assert sessions.identify(cookie + "x") is None
    clock.now += SESSION_S + 1
    assert sessions.identify(cookie) is None
    cookie = sessions.open(identity)
    credentials.is_good = False
    assert sessions.identify(cookie) is None
    credentials.is_good = True
    cookie = sessions.open(identity)
    sessions.close(cookie)
    assert sessions.identify(cookie) is None


def test_a_code_is_good_once_and_not_for_long(clock):
    credentials = FixedCredentials({"secret": Role.VIEW})
    sessions = BrowserSessions(credentials, clock)
    identity = credentials.identify("secret")
    code = sessions.make_code(identity)
    assert sessions.redeem(code) == identity
    assert sessions.redeem(code) is None
    late = sessions.make_code(identity)
    clock.now += CODE_S + 1
    assert sessions.redeem(late) is None


def test_the_command(store, data, tmp_path):
    def call(*args):
        return CliRunner().invoke(token_command, [*args, "--data", str(data)], catch_exceptions=True)

    secret = call("create", "ci", "--role", "submit", "--expires", "30d").output.strip()
    assert FileCredentials(data).identify(secret).role is Role.SUBMIT
    assert "is in" in call("create", "lab", "--role", "worker", "--file", str(tmp_path / "lab.token")).output
    assert FileCredentials(data).identify(read_token(tmp_path / "lab.token")).name == "lab"
    told = {row["name"]: row for row in json.loads(call("list", "--json").output)}
    assert (told["ci"]["role"], told["ci"]["state"], told["lab"]["expires"]) == ("submit", "good", None)
    assert secret not in call("list").output
    assert call("revoke", "ci").output == "revoked ci\n"
    assert FileCredentials(data).identify(secret) is None
    assert "view.token" in call("rotate", "view", "--overlap", "1h").output
    assert call("prune").output == "forgot 1 token\n"
    assert isinstance(call("revoke", "nobody").exception, UserError)
    assert isinstance(call("create", "x", "--role", "view", "--expires", "soon").exception, UserError)

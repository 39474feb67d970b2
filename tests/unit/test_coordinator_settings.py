"""Settings of the long-running commands, the token, the epoch, and the policies' hooks."""

import os
from pathlib import Path

import click
import pytest

from fleetest.balancing.simple import LeastLoaded, RoundRobin
from fleetest.cli.coordinator import coordinator, refuse_insecure
from fleetest.cli.worker import interpreter, parse_labels, parse_pair, parse_resources, worker
from fleetest.config import CoordinatorSettings, WorkerSettings, default_data_directory, find_token, load
from fleetest.core.model import Limits
from fleetest.errors import ExitStatus, UserError
from fleetest.hooks import hookimpl, make_balancer, make_cluster_state, plugin_manager
from fleetest.load_balancer import LoadBalancer
from fleetest.storage.epoch import next_epoch
from fleetest.task_scheduler import TaskScheduler
from fleetest.transport.token import ensure_token, read_token


def project(directory: Path, text: str) -> Path:
    (directory / "pyproject.toml").write_text(text)
    return directory


def test_flags_win_over_the_environment_the_file_and_the_defaults(tmp_path):
    text = "[tool.fleetest.coordinator]\nhost = '127.0.0.2'\nport = 1\ndata = 'state'\npublic-host = ['a', 'b']\n"
    settings = load(
        CoordinatorSettings,
        {"host": "127.0.0.3", "port": None, "public_host": (), "behind_tls_proxy": False},
        environment={"FLEETEST_HOST": "127.0.0.4", "FLEETEST_PORT": "2", "FLEETEST_BEHIND_TLS_PROXY": "true"},
        directory=project(tmp_path, text),
    )
    assert (settings.host, settings.port, settings.behind_tls_proxy) == ("127.0.0.3", 2, True)
    assert settings.data == tmp_path / "state"
    assert settings.public_host == ("a", "b")
    assert settings.history is None


def test_port_0_is_a_port(tmp_path):
    assert load(CoordinatorSettings, {"port": 0}, environment={}, directory=tmp_path).port == 0


def test_lists_in_the_environment_are_separated_by_commas(tmp_path):
    settings = load(WorkerSettings, {}, environment={"FLEETEST_LABEL": "a=1, b=2"}, directory=tmp_path)
    assert settings.label == ("a=1", "b=2")
    assert settings.wait_s == 60.0


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[tool.fleetest]\ncolour = 1\n", r"unknown key 'colour' in \[tool.fleetest\]"),
        (
            "[tool.fleetest.coordinator]\nprot = 1\n",
            "has the unknown key 'prot'; known are alert_secret_file, alert_webhook, announce",
        ),
        ("[tool.fleetest.coordinator]\nport = 'x'\n", "port must be a whole number of at least 0, not 'x'"),
        ("[tool.fleetest.coordinator]\nport = true\n", "port must be a whole number of at least 0, not True"),
        ("[tool.fleetest.coordinator]\nhost = 1\n", "host must be text, not 1"),
        ("[tool.fleetest.coordinator]\npublic_host = [1]\n", "public_host must be a list of texts"),
        ("[tool.fleetest.coordinator]\nbehind_tls_proxy = 'maybe'\n", "must be true or false, not 'maybe'"),
        ("[tool.fleetest.coordinator]\nreconnect_grace_s = nan\n", "must be a number of seconds, not nan"),
        ("[tool.fleetest]\ncoordinator = 1\n", "must be a table"),
        ("tool.fleetest = 1\n", "tool.fleetest must be a table"),
        ("[tool.fleetest\n", "cannot read .*pyproject.toml"),
    ],
)
def test_a_wrong_setting_is_one_line_that_names_its_place(tmp_path, text, complaint):
    with pytest.raises(UserError, match=complaint) as caught:
        load(CoordinatorSettings, {}, environment={}, directory=project(tmp_path, text))
    assert "\n" not in str(caught.value).partition("pyproject.toml")[0]


def test_a_wrong_variable_is_named(tmp_path):
    with pytest.raises(UserError, match="FLEETEST_SLOTS must be a whole number"):
        load(WorkerSettings, {}, environment={"FLEETEST_SLOTS": "-1"}, directory=tmp_path)


@pytest.mark.parametrize(("command", "settings"), [(coordinator, CoordinatorSettings), (worker, WorkerSettings)])
def test_every_setting_is_an_option_and_every_option_a_setting(command: click.Command, settings):
    options = {parameter.name for parameter in command.params}
    assert options == set(settings.__dataclass_fields__)


# The token -------------------------------------------------------------------------------------------------------


def test_a_token_is_made_once_and_only_its_owner_can_read_it(tmp_path):
    data = tmp_path / "deep" / "data"
    path = ensure_token(data)
    token = read_token(path)
    assert len(token) >= 32
    assert path.stat().st_mode & 0o777 == 0o600
    assert data.stat().st_mode & 0o777 == 0o700
    assert sorted(each.name for each in data.iterdir()) == ["token"]
    assert read_token(ensure_token(data)) == token


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o666])
def test_a_token_that_others_can_read_is_refused(tmp_path, mode):
    path = ensure_token(tmp_path)
    path.chmod(mode)
    with pytest.raises(UserError, match=r"others can read the token file .*: chmod 600") as caught:
        read_token(path)
    assert caught.value.exit_status is ExitStatus.REFUSED
    with pytest.raises(UserError, match="others can read"):
        ensure_token(tmp_path)


def test_a_token_that_is_a_link_a_directory_or_not_there_is_refused(tmp_path):
    real = ensure_token(tmp_path / "data")
    link = tmp_path / "link"
    link.symlink_to(real)
    with pytest.raises(UserError, match="symbolic link"):
        read_token(link)
    with pytest.raises(UserError, match="not a regular file"):
        read_token(tmp_path)
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(UserError, match="not a regular file"):
        read_token(tmp_path / "pipe")
    with pytest.raises(UserError, match=r"no token file at .*--token-file"):
        read_token(tmp_path / "none")
    (tmp_path / "data2").mkdir()
    (tmp_path / "data2" / "token").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match="symbolic link"):
        ensure_token(tmp_path / "data2")


def test_a_token_of_another_user_is_refused(tmp_path, monkeypatch):
    path = ensure_token(tmp_path)
    owner = path.stat().st_uid
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    with pytest.raises(UserError, match="belongs to another user"):
        read_token(path)


@pytest.mark.parametrize(
    "content", ["", "short", "two words of a token", "line-one-of-token\nline-two-of-token", "é" * 20]
)
def test_what_is_no_token_is_refused_and_not_shown(tmp_path, content):
    path = ensure_token(tmp_path)
    path.write_text(content)
    with pytest.raises(UserError, match="does not hold a token") as caught:
        read_token(path)
    assert not content or content not in str(caught.value)


def test_a_data_directory_that_others_can_write_to_is_refused(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    data.chmod(0o770)
    with pytest.raises(UserError, match="others can write to the data directory"):
        ensure_token(data)
    assert not (data / "token").exists()


def test_where_the_token_is_looked_for(tmp_path, monkeypatch):
    paths = {name: ensure_token(tmp_path / name) for name in ("file", "variable", "data", "data-variable")}
    default = ensure_token(tmp_path / "state" / "fleetest")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("FLEETEST_TOKEN_FILE", raising=False)
    monkeypatch.delenv("FLEETEST_DATA", raising=False)
    assert default_data_directory() == tmp_path / "state" / "fleetest"
    assert find_token() == read_token(default)
    monkeypatch.setenv("FLEETEST_DATA", str(tmp_path / "data-variable"))
    assert find_token() == read_token(paths["data-variable"])
    monkeypatch.setenv("FLEETEST_TOKEN_FILE", str(paths["variable"]))
    assert find_token() == read_token(paths["variable"])
    assert find_token(None, tmp_path / "data") == read_token(paths["data"])
    assert find_token(paths["file"], tmp_path / "data") == read_token(paths["file"])


def test_a_relative_state_home_is_ignored(monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    assert default_data_directory() == Path.home() / ".local" / "state" / "fleetest"


# The rest --------------------------------------------------------------------------------------------------------


def test_an_epoch_is_greater_than_every_one_before_and_leaves_room_for_leases(tmp_path):
    first = next_epoch(tmp_path)
    assert next_epoch(tmp_path) > first
    (tmp_path / "epoch").write_text(f"{2**31 - 10}\n")
    assert next_epoch(tmp_path) == 2**31 - 9
    (tmp_path / "epoch").write_text("torn")
    assert first <= next_epoch(tmp_path) < 2**31


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "192.168.1.5"])
def test_an_address_that_others_reach_needs_tls(address):
    with pytest.raises(UserError, match="nothing would be encrypted") as caught:
        refuse_insecure(address, CoordinatorSettings(host=address))
    assert caught.value.exit_status is ExitStatus.REFUSED
    refuse_insecure(address, CoordinatorSettings(host=address, behind_tls_proxy=True))
    refuse_insecure(address, CoordinatorSettings(host=address, tls_cert=Path("c"), tls_key=Path("k")))


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.8.8", "::1"])
def test_loopback_does_not(address):
    refuse_insecure(address, CoordinatorSettings(host=address))


def test_labels_are_pairs():
    assert parse_pair("rack=a=b", "--label") == ("rack", "a=b")
    for text in ("rack", "=a", "rack=", "Rack=a", "a b=c"):
        with pytest.raises(UserError, match=r"--label .*: it must be name=value"):
            parse_pair(text, "--label")


def test_a_label_given_again_has_one_more_value_and_a_resource_is_given_once():
    assert parse_labels(["browser=firefox", "rack=3", "browser=chrome", "rack=3"]) == {
        "browser": ("firefox", "chrome"),
        "rack": ("3",),
    }
    assert parse_resources(["licence=2", "phone=1"]) == {"licence": 2.0, "phone": 1.0}
    with pytest.raises(UserError, match="licence is given twice"):
        parse_resources(["licence=2", "licence=1"])


def test_an_interpreter_that_is_not_there_has_its_own_status(tmp_path):
    assert interpreter(None) is None
    with pytest.raises(UserError, match="no such program") as caught:
        interpreter(str(tmp_path / "python"))
    assert caught.value.exit_status is ExitStatus.INTERPRETER_UNUSABLE


def test_a_plugin_replaces_a_policy():
    class OwnScheduler(TaskScheduler):
        pass

    class Plugin:
        @hookimpl
        def fleetest_make_scheduler(self, limits: Limits) -> OwnScheduler:
            return OwnScheduler()

    manager = plugin_manager(load_entry_points=False)
    assert type(make_cluster_state(manager, Limits(), 1).cluster.scheduling) is TaskScheduler
    manager.register(Plugin())
    state = make_cluster_state(manager, Limits(prefetch_s=9.0), 5)
    assert type(state.cluster.scheduling) is OwnScheduler
    assert (state.cluster.limits.prefetch_s, state.cluster.epoch) == (9.0, 5)


class OwnBalancer(RoundRobin):
    """A user's policy, named as module:Class."""


def test_balancing_is_chosen_by_name():
    manager = plugin_manager(load_entry_points=False)

    def chosen(name):
        return type(make_cluster_state(manager, Limits(), 1, balancing=name).cluster.balancing)

    assert chosen(None) is chosen("adaptive") is LoadBalancer
    assert chosen("round-robin") is RoundRobin
    assert chosen("least-loaded") is LeastLoaded
    assert chosen(f"{__name__}:OwnBalancer") is OwnBalancer


def test_a_plugin_may_know_names_of_its_own_and_a_default():
    asked = []

    class Plugin:
        @hookimpl
        def fleetest_make_balancer(self, limits: Limits, name: str | None) -> OwnBalancer | None:
            asked.append(name)
            return OwnBalancer() if name in (None, "own") else None

    manager = plugin_manager(load_entry_points=False)
    manager.register(Plugin())
    assert type(make_balancer(manager, Limits(), None)) is OwnBalancer
    assert type(make_balancer(manager, Limits(), "own")) is OwnBalancer
    assert type(make_balancer(manager, Limits(), "adaptive")) is LoadBalancer
    assert asked == [None, "own"], "our own names are ours"
    with pytest.raises(UserError, match="unknown balancing 'other'"):
        make_balancer(manager, Limits(), "other")


@pytest.mark.parametrize("name", ["no.such.module:Class", "math:NoSuchClass", "math:sqrt", ":", "math:"])
def test_a_balancing_class_that_is_none_is_the_users_mistake(name):
    with pytest.raises(UserError, match="cannot be loaded as module:Class"):
        make_balancer(plugin_manager(load_entry_points=False), Limits(), name)


def test_a_class_that_is_no_policy_is_the_users_mistake():
    with pytest.raises(UserError, match=r"no balancing policy: it has no bind, .*propose"):
        make_balancer(plugin_manager(load_entry_points=False), Limits(), "builtins:dict")


def test_an_unknown_balancing_name_lists_the_known_ones():
    with pytest.raises(UserError, match="give adaptive, round-robin, least-loaded, a name"):
        make_balancer(plugin_manager(load_entry_points=False), Limits(), "random")

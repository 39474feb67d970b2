"""The operator's commands on answers of a coordinator that is not there: what they ask, and what people read."""

import json
import socket
import threading

import pytest
from click.testing import CliRunner
from rich.console import Console

from fleetest.cli import main
from fleetest.errors import ExitStatus, UserError
from fleetest.operator import api_client, checks, terminal_table
from fleetest.operator.api_client import ApiClient, NotThereError
from fleetest.operator.checks import examine
from fleetest.operator.lookup import find_alert, find_run, find_tasks, find_worker

COUNTS = {"waiting": 1, "leased": 1, "running": 2, "finished": 6}
HOSTILE = "tests/t.py::test_a[\x1b[2J\u202e[red]]"


def run_of(run_id, *, is_live=False, **fields):
    return {
        "run_id": run_id,
        "title": "pytest",
        "owner": "ann",
        "state": "running" if is_live else "finished",
        "outcome": None if is_live else "finished",
        "is_live": is_live,
        "is_success": None if is_live else False,
        "submitted_at": "2026-03-04T05:06:07Z",
        "duration_s": 3.0,
        "remaining_s": 2.0 if is_live else None,
        "tasks": 10,
        "states": COUNTS,
        "counts": {"passed": 5, "failed": 1},
        "cancel_reason": None,
        "notices": [],
    } | fields


def worker_of(name, **fields):
    return {
        "worker_id": name,
        "state": "healthy",
        "slots": 4,
        "slots_used": 2,
        "waiting": 3,
        "waiting_s": 1.5,
        "load_average": 0.5,
        "last_seen_at": "2026-03-04T05:06:07Z",
        "running": [{"run_id": "r", "task_id": HOSTILE, "slot": 0, "running_s": 61.0, "is_started": True}],
        "alerts": [],
    } | fields


class Coordinator:
    """Answers from a table by path; keeps what was asked."""

    url = "ws://there"

    def __init__(self, **answers):
        self.answers = answers
        self.posted = []

    def get(self, *path, **query):
        return self.answers["/".join(path)]

    def pages(self, *path, limit=None, text="", **query):
        found = [item for item in self.answers["/".join(path)] if text in item.get("task_id", item.get("run_id", ""))]
        return iter(found[:limit])

    def find(self, *path):
        if path[2:3] == ("tasks",):
            return next((task for task in self.answers["/".join(path[:3])] if task["task_id"] == path[3]), None)
        return self.answers.get("/".join(path))

    def post(self, *path, body=None):
        known = {worker["worker_id"] for worker in self.answers.get("workers", ())}
        if path[0] == "workers" and path[1] not in known:
            raise NotThereError(f"no worker {path[1]!r} is here")
        self.posted.append(("/".join(path), body))
        return {"run_id": "e" * 32}

    def readiness(self):
        return self.checks

    def close(self):
        pass


@pytest.fixture
def call(monkeypatch):
    def call(coordinator, *args):
        monkeypatch.setattr(api_client, "connect", lambda *_: coordinator)
        return CliRunner().invoke(main, args, catch_exceptions=False)

    return call


def test_runs_are_listed_with_their_state(call):
    answer = call(Coordinator(runs=[run_of("a" * 32, is_live=True), run_of("b" * 32)]), "runs")
    lines = answer.output.splitlines()
    assert lines[1].split()[:5] == ["aaaaaaaaaaaa", "running", "10", "6", "1"]
    assert lines[2].split()[1] == "failed"


def test_workers_say_what_runs_and_hostile_names_stay_text(call):
    answer = call(Coordinator(workers=[worker_of("w1")]), "workers")
    assert "2/4" in answer.output
    assert "1:01" in answer.output
    assert "\x1b" not in answer.output
    assert "\u202e" not in answer.output
    assert "[red]" in answer.output


def test_lost_workers_are_listed_with_since_when_and_why(call):
    lost = [{"worker_id": "rack-7", "state": "lost", "since": "2026-03-04T05:06:07Z", "reason": "silent for 30.1 s"}]
    coordinator = Coordinator(workers=[worker_of("w1")], **{"lost-workers": {"items": lost}})
    output = call(coordinator, "workers").output
    assert output.splitlines()[-1].split() == ["rack-7", "lost", "2026-03-04", "05:06:07", "silent", "for", "30.1", "s"]
    told = json.loads(call(coordinator, "workers", "--json").output)
    assert told == {"workers": [worker_of("w1")], "lost_workers": lost}, "each as the API answers it"
    coordinator.answers["workers"] = []
    output = call(coordinator, "workers").output
    assert "No worker is here. Start one on each machine" in output
    assert "rack-7" in output


def test_an_older_coordinator_does_not_tell_of_lost_workers(call):
    """Its answer is 404."""
    older = Coordinator(workers=[worker_of("w1")], status={}, runs=[], queue={"groups": []})
    assert json.loads(call(older, "workers", "--json").output) == {"workers": [worker_of("w1")], "lost_workers": []}
    assert json.loads(call(older, "top", "--json").output)["lost"] == []


def test_an_empty_fleet_says_how_to_start_a_worker(call):
    assert "fleetest worker --coordinator ws://there" in call(Coordinator(workers=[]), "workers").output
    assert "pytest --fleet ws://there" in call(Coordinator(runs=[]), "runs").output


def test_why_is_one_sentence_per_matching_test(call):
    task = {"task_id": "tests/t.py::test_a", "state": "queued"}
    answers = {
        "runs": [run_of("a" * 32)],
        f"runs/{'a' * 32}/tasks": [task, {"task_id": "tests/t.py::test_b"}],
        f"runs/{'a' * 32}/tasks/tests/t.py::test_a": task | {"why": "waiting for lock 'db'"},
    }
    answer = call(Coordinator(**answers), "why", "test_a", "--run", "aaa")
    assert answer.output == "tests/t.py::test_a: waiting for lock 'db'\n"
    answer = call(Coordinator(**answers), "why", "test_a", "--run", "aaa", "--json")
    assert json.loads(answer.output) == [
        {"run_id": "a" * 32, "task_id": task["task_id"], "why": "waiting for lock 'db'"}
    ]


def test_cancel_and_rerun_send_what_was_asked(call):
    coordinator = Coordinator(runs=[run_of("a" * 32, is_live=True), run_of("b" * 32)])
    call(coordinator, "cancel", "aa", "--reason", "enough", "--kill")
    answer = call(coordinator, "rerun", "bb", "--all")
    assert coordinator.posted == [
        (f"runs/{'a' * 32}/cancel", {"reason": "enough", "kill": True}),
        (f"runs/{'b' * 32}/rerun", {"only": "all"}),
    ]
    assert "fleetest show eeeeeeeeeeee" in answer.output


def test_a_run_that_is_over_is_not_cancelled(call):
    coordinator = Coordinator(runs=[run_of("b" * 32)])
    answer = call(coordinator, "cancel", "bb")
    assert answer.exit_code == ExitStatus.USAGE_ERROR
    assert answer.stderr == "fleetest: run bbbbbbbbbbbb is over already\n"
    assert not coordinator.posted


@pytest.mark.parametrize("action", ["drain", "resume", "quarantine", "release"])
def test_a_worker_is_steered_by_the_beginning_of_its_name(call, action):
    coordinator = Coordinator(workers=[worker_of("gpu-box"), worker_of("laptop")], alerts=[])
    answer = call(coordinator, action, "gpu")
    assert coordinator.posted[0][0] == f"workers/gpu-box/{action}"
    assert "gpu-box" in answer.output


def test_alerts_decide_the_exit_status(call):
    alert = {
        "alert_id": "7",
        "state": "open",
        "cause": "lost",
        "worker_id": "w1",
        "message": "silent",
        "raised_at": "2026-03-04T05:06:07Z",
    }
    assert call(Coordinator(alerts=[alert]), "alerts").exit_code == 1
    assert call(Coordinator(alerts=[alert | {"state": "cleared"}]), "alerts").output == "No open alerts.\n"
    assert call(Coordinator(alerts=[]), "alerts").exit_code == 0


def test_an_alert_is_acknowledged_by_the_beginning_of_its_id(call):
    alert = {"alert_id": "17-1", "state": "acknowledged", "cause": "lost", "worker_id": "w1", "message": ""}
    coordinator = Coordinator(alerts=[alert | {"raised_at": None}])
    call(coordinator, "alerts", "--acknowledge", "17")
    assert coordinator.posted == [("alerts/17-1/acknowledge", None)]
    answer = call(coordinator, "alerts", "--acknowledge", "9")
    assert answer.exit_code == ExitStatus.USAGE_ERROR
    assert answer.stderr == "fleetest: no alert begins with '9': see fleetest alerts --all\n"


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"counts": {"passed": 1}, "is_success": True}, 0),
        ({"counts": {"passed": 1, "cancelled": 3}}, 1),
        ({"counts": {"passed": 1, "not_run": 3}}, 1),
        ({"counts": {"passed": 0}}, 1),
        ({"counts": {"passed": 1}, "is_live": True}, 0),
    ],
)
def test_show_ends_like_the_run(call, fields, status):
    run = run_of("a" * 32, **fields)
    of_run = {f"runs/{'a' * 32}/failures": {"items": []}, f"runs/{'a' * 32}/tasks": []}
    answers = {"runs": [run], f"runs/{'a' * 32}": run} | of_run
    assert call(Coordinator(**answers), "show").exit_code == status


def test_show_tells_failures_and_how_to_run_them(call):
    failure = {"count": 7, "headline": "assert 1 == 2", "task_ids": ["t1", "t2"], "reproduce": "pytest t1"}
    coordinator = Coordinator(
        **{
            "runs": [run_of("a" * 32)],
            f"runs/{'a' * 32}": run_of("a" * 32, notices=["no such directory"]),
            f"runs/{'a' * 32}/failures": {"items": [failure]},
        }
    )
    answer = call(coordinator, "show", "aaa")
    assert answer.exit_code == ExitStatus.TESTS_FAILED
    assert "7 tests alike: assert 1 == 2" in answer.output
    assert "and 2 more" in answer.output
    assert "alone: pytest t1" in answer.output
    assert "no such directory" in answer.output


def test_show_tells_what_was_not_run_by_reason(call):
    counts = {"passed": 1, "not_run": 9}
    rows = [{"task_id": f"t{number}", "reason": "dependency build failed"} for number in range(7)]
    rows.append({"task_id": "gpu", "reason": "no worker with gpus 1"})
    failure = {"count": 1, "headline": "boom", "task_ids": ["build"], "reproduce": ""}
    coordinator = Coordinator(
        **{
            "runs": [run_of("a" * 32)],
            f"runs/{'a' * 32}": run_of("a" * 32, counts=counts),
            f"runs/{'a' * 32}/failures": {"items": [failure]},
            f"runs/{'a' * 32}/tasks": rows,
        }
    )
    output = call(coordinator, "show", "aaa").output
    assert "\n7 tests not run: dependency build failed\n  t0\n  t1\n  t2\n  t3\n  t4\n  and 2 more\n" in output
    assert "\n1 test not run: no worker with gpus 1\n  gpu\n\nand 1 more not run\n" in output
    assert "alone:" not in output


def test_logs_show_every_attempt(call):
    attempt = {
        "attempt": 1,
        "verdict": "failed",
        "worker": "w1",
        "duration_s": 0.5,
        "reason": "",
        "traceback": "E assert",
        "output": "printed\x1b[2J",
    }
    task_id = "tests/t.py::test_a"
    answers = {
        "runs": [run_of("a" * 32)],
        f"runs/{'a' * 32}/tasks": [{"task_id": task_id}],
        f"runs/{'a' * 32}/tasks/{task_id}": {"state": "finished", "why": "", "attempt_list": [attempt, attempt]},
    }
    output = call(Coordinator(**answers), "logs", "test_a", "--follow").output
    assert output.count("E assert") == 2
    crash = attempt | {"reason": "killed by SIGSEGV", "traceback": "killed by SIGSEGV\n\nFatal Python error"}
    answers[f"runs/{'a' * 32}/tasks/{task_id}"]["attempt_list"] = [crash]
    assert call(Coordinator(**answers), "logs", "test_a").output.count("killed by SIGSEGV") == 1
    assert "attempt 1 failed after 0.50 s on w1" in output
    assert "\x1b" not in output


def test_ids_are_found_by_their_beginning_and_never_guessed():
    coordinator = Coordinator(
        runs=[run_of("abc1"), run_of("abd2")],
        workers=[worker_of("w1"), worker_of("w10")],
        **{"runs/abc1/tasks": [{"task_id": "a::b"}, {"task_id": "a::bc"}]},
    )
    assert find_run(coordinator, "abc")["run_id"] == "abc1"
    assert find_worker(coordinator, "w1")["worker_id"] == "w1"
    assert find_tasks(coordinator, "abc1", "a::b") == ([{"task_id": "a::b"}], 0, True)
    longer = [{"task_id": f"a::b{number}"} for number in range(30)]
    coordinator.answers["runs/abc1/tasks"] = [*longer, {"task_id": "a::b"}]
    found, more, is_all = find_tasks(coordinator, "abc1", "a::")
    assert (len(found), more, is_all) == (20, 11, True)
    for find, text in ((find_run, "ab"), (find_run, "x"), (find_worker, "w"), (find_worker, "y")):
        with pytest.raises(UserError):
            find(coordinator, text)
    with pytest.raises(UserError, match="fleetest show abc1"):
        find_tasks(coordinator, "abc1", "zzz")


def test_a_test_is_found_behind_any_number_of_longer_names_and_more_is_not_said_as_if_it_were_all(call):
    tasks = [{"task_id": f"a::b{number}", "state": "queued"} for number in range(2000)]
    name = f"runs/{'a' * 32}/tasks"
    coordinator = Coordinator(runs=[run_of("a" * 32)], **{name: [*tasks, {"task_id": "a::b"}]})
    assert find_tasks(coordinator, "a" * 32, "a::b") == ([{"task_id": "a::b"}], 0, True)
    for task in (*tasks, {"task_id": "a::b"}):
        coordinator.answers[f"{name}/{task['task_id']}"] = task | {"why": "running"}
    assert "fleetest: at least 980 more tests match" in call(coordinator, "why", "a::").stderr
    coordinator.answers[name] = tasks[:21]
    assert "fleetest: 1 more test matches: give more of the name" in call(coordinator, "why", "a::").stderr


def test_why_begins_with_what_has_no_verdict(call):
    tasks = [{"task_id": f"a::b{number}", "state": "finished", "why": "finished: passed"} for number in range(30)]
    tasks[25] |= {"state": "queued", "why": "waiting for a free slot"}
    name = f"runs/{'a' * 32}/tasks"
    answers = {f"{name}/{each['task_id']}": each for each in tasks}
    coordinator = Coordinator(runs=[run_of("a" * 32)], **{name: tasks}, **answers)
    lines = call(coordinator, "why", "a::").stdout.splitlines()
    assert lines[:2] == ["a::b25: waiting for a free slot", "a::b0: finished: passed"]


@pytest.mark.parametrize("find", [find_run, find_worker, find_alert])
def test_several_that_begin_so_are_named(find):
    names = ["w1", "w2", "w3", "w4"]
    coordinator = Coordinator(
        runs=[run_of(name) for name in names],
        workers=[worker_of(name) for name in names],
        alerts=[{"alert_id": name} for name in names],
    )
    with pytest.raises(UserError, match=r"begins with 'w' \(w1, w2, w3, \.\.\.\): give more of it"):
        find(coordinator, "w")


@pytest.mark.parametrize("url", ["localhost:8765", "ftp://x", "ws://", "ws://x:99999", "ws://x:abc"])
def test_what_is_no_address_is_said_in_one_line(url):
    with pytest.raises(UserError, match="not a coordinator's address"):
        ApiClient(url, "t" * 32)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_name_the_command(shell):
    answer = CliRunner().invoke(main, ["completion", shell])
    assert "_FLEETEST_COMPLETE" in answer.output


def test_an_address_without_tls_is_no_matter_of_certificates():
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1024)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        client = ApiClient(f"wss://127.0.0.1:{server.getsockname()[1]}", "t" * 32)
        with pytest.raises(UserError, match="does not speak TLS"):
            client.get("status")
        client.close()
        thread.join()


def test_an_address_with_tls_that_is_asked_without_is_told_so():
    with socket.create_server(("127.0.0.1", 0)) as server:

        def hang_up() -> None:
            for _ in range(2):  # A client tries a second time: a kept connection may have been closed.
                connection, _ = server.accept()
                with connection:
                    connection.recv(1024)

        thread = threading.Thread(target=hang_up)
        thread.start()
        client = ApiClient(f"ws://127.0.0.1:{server.getsockname()[1]}", "t" * 32)
        with pytest.raises(UserError, match="does it speak TLS"):
            client.get("status")
        client.close()
        thread.join()


@pytest.mark.parametrize(("name", "said"), [("gone.pem", "No such file"), ("token", "not a certificate in PEM form")])
def test_a_file_of_certificates_that_is_none_is_said_in_one_line(tmp_path, name, said):
    (tmp_path / "token").write_text("t" * 32)
    with pytest.raises(UserError, match=said) as error:
        ApiClient("wss://127.0.0.1:1", "t" * 32, tmp_path / name)
    assert "Errno" not in str(error.value)


def test_doctor_takes_a_coordinator_of_the_environment_for_meant(monkeypatch, tmp_path):
    """It is not there: that is wrong, and no advice to start another one here."""
    token = tmp_path / "token"
    token.write_text("t" * 32)
    token.chmod(0o600)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setenv("FLEETEST_COORDINATOR", f"ws://127.0.0.1:{unused.getsockname()[1]}")
        found = {finding.name: finding for finding in examine(None, token, None, None)}
    assert found["coordinator"].state == "wrong"
    assert "--fleet auto" not in found["coordinator"].remedy


def test_doctor_looks_at_the_disk_of_the_data_directory_that_is_meant(monkeypatch, tmp_path):
    monkeypatch.setenv("FLEETEST_DATA", str(tmp_path / "data"))
    found = {finding.name: finding for finding in examine(None, None, None, None)}
    assert found["disk"].detail.endswith(f" for {tmp_path / 'data'}")


def test_doctor_tells_why_a_coordinator_is_not_ready(monkeypatch):
    status = {
        "me": {"name": "ann", "role": "admin"},
        "version": "1",
        "now": "2026-03-04T05:06:07Z",
        "workers_total": 1,
        "slots": {"total": 2},
        "history": {"is_usable": True},
        "alerts": {"open": 0},
    }
    coordinator = Coordinator(status=status)
    coordinator.checks = {"draining": "ok", "write": "cannot write to the data directory: no", "space": "0 MiB free"}
    monkeypatch.setattr(checks, "connect", lambda *_: coordinator)
    found = [(each.state, each.detail) for each in examine(None, None, None, None) if each.name == "its readiness"]
    assert found == [("wrong", "cannot write to the data directory: no"), ("warning", "0 MiB free")]


def test_what_became_of_a_worker_that_is_gone_is_told(call):
    spans = [
        {"state": "healthy", "since": "2026-03-04T05:06:07Z", "reason": "joined"},
        {"state": "lost", "since": "2026-03-04T05:07:07Z", "reason": "silent for 30.1 s"},
    ]
    coordinator = Coordinator(workers=[worker_of("w1")], **{"workers/w2/states": {"is_here": False, "spans": spans}})
    answer = call(coordinator, "workers", "w2")
    assert answer.exit_code == ExitStatus.USAGE_ERROR
    assert answer.stderr == (
        f"fleetest: worker 'w2' is not here any more: lost since {terminal_table.moment(spans[1]['since'])}"
        " (silent for 30.1 s); its page in the dashboard tells more\n"
    )


def test_what_is_wrong_with_the_words_is_one_line():
    answer = CliRunner().invoke(main, ["completion"])
    assert answer.exit_code == ExitStatus.USAGE_ERROR
    assert answer.stderr.splitlines()[0] == (
        "fleetest: Missing argument '{bash|zsh|fish}'. Choose from: bash, zsh, fish"
    )


@pytest.mark.parametrize("words", [[], ["token"]])
def test_no_command_shows_the_help_alone(words):
    answer = CliRunner().invoke(main, words)
    assert answer.exit_code == ExitStatus.USAGE_ERROR
    assert answer.stderr.startswith("Usage: ")
    assert "Try" not in answer.stderr


def test_the_version_is_an_option_and_a_command_and_json():
    versions = CliRunner().invoke(main, ["version"]).output
    assert versions.startswith("fleetest ")
    assert CliRunner().invoke(main, ["--version"]).output == versions
    told = json.loads(CliRunner().invoke(main, ["version", "--json"]).output)
    assert versions.splitlines() == [f"{name} {number}" for name, number in told.items()]


@pytest.mark.parametrize("width", [40, 25])
def test_a_table_folds_its_last_column_alone(monkeypatch, capsys, width):
    """Where there is no room for that, lines are left to the terminal: letters under each other are no table."""
    monkeypatch.setattr(
        terminal_table, "terminal", lambda: Console(force_terminal=True, width=width, color_system=None)
    )
    terminal_table.show_table(("run", "title"), [["0123456789", "abcdefgh " * 8]])
    shown = capsys.readouterr().out
    assert "0123456789" in shown
    assert (max(map(len, shown.splitlines())) <= width) is (width == 40)


def test_every_command_has_help_and_an_example_of_its_options():
    for name in main.list_commands(None):
        answer = CliRunner().invoke(main, [name, "--help"])
        assert answer.exit_code == 0, name
        assert "Usage" in answer.output or "usage" in answer.output, name

"""suite.toml: what a right file becomes, and the one line that each mistake gets."""

from __future__ import annotations

from pathlib import Path

import pytest

from fleetest.client.suite_file import find_cycle, load_suite
from fleetest.client.suite_run import SuiteOptions, submission
from fleetest.core.model import AnyOf, Constraint, Operator, RunId
from fleetest.errors import ExitStatus, UserError

FULL = """
name = "nightly"

[defaults]
timeout = "5m"
env = { LANG = "C", A = "default" }
requires = "os=linux"

[[command]]
name = "build"
argv = ["make", "-s"]
cwd = "sub"
env = { A = "1" }
priority = 3

[[command]]
name = "lint"
command = "ruff check 'a b'"
timeout = 2.5
gpus = 1
memory = "1GiB"
requires = "cuda>=12"
lock = "db"
retries = 2
group = "slow"
depends_on = ["build"]
expected_exit_status = 3
artifacts = ["out/*.log"]

[[pytest]]
name = "unit"
args = ["tests/unit", "-q"]
python = "./python"
retries = 1
"""


def write(folder: Path, text: str) -> Path:
    file = folder / "suite.toml"
    file.write_text(text, encoding="utf-8")
    return file


@pytest.fixture
def full(tmp_path: Path) -> Path:
    (tmp_path / "sub").mkdir()
    return write(tmp_path, FULL)


def test_commands_become_specs_and_tasks_of_the_same_order(full: Path) -> None:
    suite = load_suite(full)

    assert suite.name == "nightly"
    build, lint = suite.commands
    assert build.argv == ("make", "-s")
    assert build.directory == str(full.parent / "sub")
    assert build.environment == {"LANG": "C", "A": "1"}
    assert build.timeout_s == 300
    assert lint.argv == ("ruff", "check", "a b")
    assert lint.environment == {"LANG": "C", "A": "default"}
    assert (lint.timeout_s, lint.expected_exit_status, lint.artifacts) == (2.5, 3, ("out/*.log",))
    build_task, lint_task = suite.tasks
    assert (build_task.task_id, build_task.priority, build_task.group) == ("build", 3, "")
    assert lint_task.depends_on == ("build",)
    assert (lint_task.retries, lint_task.group, lint_task.keep_together) == (2, "slow", True)
    assert dict(lint_task.requirements.resources) == {"gpus": 1.0, "memory": 2.0**30}
    assert lint_task.requirements.locks == ("db",)


def test_requirements_of_the_defaults_hold_together_with_those_of_the_command(full: Path) -> None:
    suite = load_suite(full)

    assert suite.tasks[0].requirements.constraints == (Constraint("os", Operator.EQ, "linux"),)
    assert set(suite.tasks[1].requirements.constraints) == {
        Constraint("os", Operator.EQ, "linux"),
        Constraint("cuda", Operator.GE, "12"),
    }


def test_a_pytest_target_becomes_a_suite_of_its_name(full: Path) -> None:
    (target,) = load_suite(full).targets

    assert (target.name, target.args, target.directory) == ("unit", ("tests/unit", "-q"), str(full.parent))
    assert (target.timeout_s, target.retries) == (300, 1)
    assert target.environment == {"LANG": "C", "A": "default"}
    assert target.python == str(full.parent / "python")


def test_every_policy_of_an_entry_reaches_its_task(tmp_path: Path) -> None:
    policies = 'backoff = "2s"\nhedge = false\neach = "python"\n'
    command = policies + 'workers = 2\nrequires = "cuda>=12 | rocm>=6"\nprefer = "ssd=yes"\n'
    file = write(
        tmp_path,
        '[defaults]\nprefer = "rack=b"\n'
        f'[[command]]\nname = "a"\nargv = ["true"]\n{command}'
        f'[[pytest]]\nname = "b"\n{policies}',
    )

    suite = load_suite(file)
    (task,), (target,) = suite.tasks, suite.targets

    assert (task.backoff_s, task.hedge, task.each) == (2.0, False, "python")
    assert (target.backoff_s, target.hedge, target.each) == (2.0, False, "python")
    assert task.requirements.workers == 2
    (either,) = task.requirements.constraints
    assert isinstance(either, AnyOf)
    assert [wish.name for wish in task.requirements.prefers] == ["rack", "ssd"]


def test_name_of_the_suite_is_that_of_the_file_unless_given(tmp_path: Path) -> None:
    file = write(tmp_path, '[[command]]\nname = "a"\nargv = ["true"]\n')

    assert load_suite(file).name == "suite"


COMMAND = '[[command]]\nname = "a"\nargv = ["true"]\n'

MISTAKES = {
    "empty": ("", "has no [[command]] and no [[pytest]] table"),
    "no toml": ("[[command", "is not TOML:"),
    "weight": ("weight = 0\n" + COMMAND, "weight is 0, must be a number from 0.001 to 1000"),
    "weight as text": ('weight = "3"\n' + COMMAND, "weight is '3', must be a number from 0.001 to 1000"),
    "top key": (COMMAND + "[[pytst]]\n", "unknown key 'pytst', did you mean 'pytest'?"),
    "one bracket": ('[command]\nname = "a"\n', "[command] must be written [[command]]"),
    "not a table": ("command = 3\n", "command: must be [[command]] tables, is 3"),
    "suite name": ("name = 3\n" + COMMAND, "name: must be a string, is 3"),
    "command key": (COMMAND + "gpu = 1\n", "[[command]] 'a': unknown key 'gpu', did you mean 'gpus'?"),
    "far key": (COMMAND + "zzzzzz = 1\n", "unknown key 'zzzzzz'; known are name, argv,"),
    "pytest key": ('[[pytest]]\nname = "u"\nargs = []\ngpus = 1\n', "[[pytest]] 'u': unknown key 'gpus'"),
    "defaults key": ("[defaults]\ntime = 1\n" + COMMAND, "[defaults]: unknown key 'time', did you mean 'timeout'?"),
    "defaults type": ("[defaults]\nretries = 'x'\n" + COMMAND, "[defaults]: retries"),
    "defaults table": ("defaults = 3\n" + COMMAND, "defaults: must be a table, is 3"),
    "no name": ('[[command]]\nargv = ["true"]\n', "[[command]] number 1: name is missing"),
    "empty name": ('[[command]]\nname = " "\nargv = ["true"]\n', "must be a string of printable characters"),
    "control name": ('[[command]]\nname = "a\\u001b[2J"\nargv = ["true"]\n', "printable characters"),
    "colons": ('[[command]]\nname = "a::b"\nargv = ["true"]\n', "without '::'"),
    "twice": (COMMAND + COMMAND, "[[command]] number 2: name: 'a' is the name of [[command]] number 1 already"),
    "twice over kinds": (COMMAND + '[[pytest]]\nname = "a"\n', "[[pytest]] number 1: name: 'a' is the name of"),
    "no argv": ('[[command]]\nname = "a"\n', "needs exactly one of argv"),
    "both": (COMMAND + 'command = "true"\n', "needs exactly one of argv"),
    "argv text": ('[[command]]\nname = "a"\nargv = "true"\n', 'argv: must be a list of strings such as ["a", "b"], is'),
    "argv entry": ('[[command]]\nname = "a"\nargv = ["true", 1]\n', "argv: entry 2 must be a string, is 1"),
    "argv empty": ('[[command]]\nname = "a"\nargv = []\n', "argv: the program to run is missing"),
    "command empty": ('[[command]]\nname = "a"\ncommand = ""\n', "command: is empty"),
    "command quotes": ("[[command]]\nname = 'a'\ncommand = \"it's\"\n", "command: No closing quotation"),
    "shell": ('[[command]]\nname = "a"\ncommand = "a && b"\n', 'use argv = ["sh", "-c", "..."]'),
    "cwd": (COMMAND + 'cwd = "nowhere"\n', "cwd: there is no directory"),
    "cwd type": (COMMAND + "cwd = 3\n", "cwd: must be a string, is 3"),
    "env type": (COMMAND + "env = { A = 1 }\n", "env.A: must be a string, is 1"),
    "env name": (COMMAND + 'env = { "A=B" = "1" }\n', "cannot be the name of a variable"),
    "env list": (COMMAND + "env = []\n", "env: must be a table, is a list"),
    "timeout": (COMMAND + 'timeout = "soon"\n', "[[command]] 'a': timeout"),
    "timeout nan": (COMMAND + "timeout = nan\n", "[[command]] 'a': timeout"),
    "requires": (COMMAND + 'requires = "cuda>>12"\n', "[[command]] 'a': requires"),
    "exit status": (COMMAND + "expected_exit_status = 256\n", "must be a whole number from 0 to 255, is 256"),
    "exit status type": (COMMAND + "expected_exit_status = true\n", "is true"),
    "artifact": (COMMAND + 'artifacts = ["../x"]\n', "must be a pattern inside cwd"),
    "artifact absolute": (COMMAND + 'artifacts = ["/etc/*"]\n', "must be a pattern inside cwd"),
    "dependency": (COMMAND + 'depends_on = ["b"]\n', "depends_on: there is no command 'b'"),
    "close dependency": (
        COMMAND + '[[command]]\nname = "build"\nargv = ["x"]\ndepends_on = ["buidl"]\n',
        "there is no command 'buidl', did you mean 'build'?",
    ),
    "self": (COMMAND + 'depends_on = ["a"]\n', "these commands wait for each other: a -> a"),
    "target dependency": (
        COMMAND + 'depends_on = ["u"]\n[[pytest]]\nname = "u"\n',
        "'u' is a pytest target; a command can only depend on commands",
    ),
    "dependent target": (
        COMMAND + '[[pytest]]\nname = "u"\ndepends_on = ["a"]\n',
        "[[pytest]] 'u': depends_on: only a [[command]] can depend",
    ),
    "start method": ('[[pytest]]\nname = "u"\nstart_method = "x"\n', "'x' must be one of auto, fork, spawn"),
    "deep": ("a = " + "[" * 100_000, "is n"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_one_line_that_names_file_and_place(tmp_path: Path, case: str) -> None:
    text, expected = MISTAKES[case]
    file = write(tmp_path, text)

    with pytest.raises(UserError) as caught:
        load_suite(file)

    message = str(caught.value)
    assert expected in message
    assert message.startswith(f"{file}: ")
    assert "\n" not in message
    assert caught.value.exit_status is ExitStatus.USAGE_ERROR


def test_a_cycle_is_printed(tmp_path: Path) -> None:
    names = {"one": "three", "two": "one", "three": "two"}
    text = "".join(f'[[command]]\nname = "{n}"\nargv = ["x"]\ndepends_on = ["{d}"]\n' for n, d in names.items())

    with pytest.raises(UserError, match="one -> three -> two -> one"):
        load_suite(write(tmp_path, text))


def test_find_cycle_is_not_misled_by_diamonds_and_has_no_depth_limit() -> None:
    diamond = {"a": ["b", "c"], "b": ["d"], "c": ["d"], "d": []}
    chain = {str(number): [str(number + 1)] for number in range(50_000)}

    assert find_cycle(diamond) == []
    assert find_cycle(chain | {"50000": []}) == []
    assert len(find_cycle(chain | {"50000": ["49998"]})) == 4


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe")

    with pytest.raises(UserError, match="no such file"):
        load_suite(tmp_path / "missing.toml")
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        load_suite(tmp_path)
    with pytest.raises(UserError, match=r"is not UTF-8 \(byte 0\)"):
        load_suite(binary)


def test_directories_need_not_exist_here_for_a_remote_fleet(tmp_path: Path) -> None:
    file = write(tmp_path, COMMAND + 'cwd = "/somewhere/else"\n')

    assert load_suite(file, check_directories=False).commands[0].directory == "/somewhere/else"


@pytest.mark.parametrize(("given", "said", "meant"), [(None, None, 1.0), (2.5, None, 2.5), (2.5, 4.0, 4.0)])
def test_the_weight_is_the_files_unless_the_command_line_says_another(
    tmp_path: Path, given: float | None, said: float | None, meant: float
) -> None:
    path = tmp_path / "suite.toml"
    path.write_text(("" if given is None else f"weight = {given}\n") + COMMAND)
    run = submission(load_suite(path), SuiteOptions("title", weight=said), RunId("r"))
    assert run.weight == meant


@pytest.mark.parametrize(
    ("text", "wait_s"), [("", 300.0), ("0", 0.0), ('"5m"', 300.0), ('"forever"', None), ("2.5", 2.5)]
)
def test_how_long_it_waits_for_workers(tmp_path: Path, text: str, wait_s: float | None) -> None:
    line = f"wait_for_workers = {text}\n" if text else ""
    assert load_suite(write(tmp_path, line + COMMAND)).wait_for_workers_s == wait_s


def test_a_wait_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="wait_for_workers is 'soon', must be seconds"):
        load_suite(write(tmp_path, 'wait_for_workers = "soon"\n' + COMMAND))

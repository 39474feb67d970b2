"""What the reference says is what the program does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from fleetest.cli import main
from fleetest.cli.run import run, suite_argument
from fleetest.client import suite_file
from fleetest.client.suite_file import load_suite
from fleetest.errors import ExitStatus

DOCS = Path(__file__).resolve().parents[2] / "docs"


def read(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def test_exit_statuses_are_those_of_the_program() -> None:
    rows = re.findall(r"^\| (\d+) \| (\w+) \| .+ \|$", read("reference/exit-statuses.md"), re.MULTILINE)

    assert [(int(number), name) for number, name in rows] == [(status.value, status.name) for status in ExitStatus]


def test_every_key_of_a_suite_file_is_documented_and_no_other() -> None:
    sections = re.split(r"^## ", read("reference/suite-file.md"), flags=re.MULTILINE)
    keys = {
        section.partition("\n")[0]: {
            key for cell in re.findall(r"^\| (`.+?) \|", section, re.MULTILINE) for key in re.findall(r"`(\w+)`", cell)
        }
        for section in sections
    }

    assert keys["Both kinds of entry"] | keys["`[[command]]`"] == set(suite_file._COMMAND_KEYS)
    assert keys["Both kinds of entry"] | keys["`[[pytest]]`"] == set(suite_file._PYTEST_KEYS)


@pytest.mark.parametrize("page", ["reference/suite-file.md", "how-to/run-commands.md"])
def test_examples_of_suite_files_are_valid(page: str, tmp_path: Path) -> None:
    examples = re.findall(r"^```toml\n(.*?)^```", read(page), re.MULTILINE | re.DOTALL)
    assert examples
    for example in examples:
        file = tmp_path / "suite.toml"
        file.write_text(example)
        load_suite(file)


def test_every_command_and_every_option_of_run_is_documented() -> None:
    page = read("reference/command-line.md")

    for name in main.list_commands(None):  # type: ignore[arg-type]
        assert f"`fleetest {name}" in page
    for parameter in run.params:
        for option in parameter.opts if parameter.param_type_name == "option" else []:
            if option not in ("--help", "-h", "--exitfirst", "--junit-xml", "--quiet"):
                assert option in page, option


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["suite.toml"], "suite.toml"),
        (["--fleet", "2", "dir/suite.toml", "-x"], "dir/suite.toml"),
        (["-c", "pytest.toml", "tests"], None),
        (["--config-file=pytest.toml"], None),
        (["tests", "--", "suite.toml"], None),
        ([], None),
    ],
)
def test_which_argument_is_a_suite_file(arguments: list[str], expected: str | None) -> None:
    assert suite_argument(arguments) == expected


@pytest.mark.parametrize(
    ("arguments", "status", "line"),
    [
        (["run", "missing.toml"], 4, "fleetest: missing.toml: no such file\n"),
        (["run", "missing.toml", "--maxfail", "0"], 4, "fleetest: Invalid value for '--maxfail'"),
        (["run", "missing.toml", "tests"], 4, "fleetest: a suite file takes no further arguments, but got: tests"),
        (["rnu"], 4, "fleetest: No such command 'rnu'."),
    ],
)
def test_a_mistake_is_one_line_and_a_documented_status(arguments: list[str], status: int, line: str) -> None:
    result = CliRunner().invoke(main, arguments)

    assert (result.exit_code, result.stdout) == (status, "")
    assert result.stderr.startswith(line)
    assert "Traceback" not in result.stderr


def test_version_and_help_need_no_fleet() -> None:
    assert CliRunner().invoke(main, ["version"]).stdout.startswith("fleetest ")
    assert "suite file" in CliRunner().invoke(main, ["run", "--help"]).stdout

"""How a test can be run alone, for people."""

import pytest

from fleetest.api.describe import reproduce
from fleetest.core.model import RunId
from fleetest.wire import messages as wire

COMMANDS = wire.CommandSuite(
    commands=(
        wire.CommandSpec("io", ("./io.sh", "a b"), "/lab"),
        wire.CommandSpec("odd @ os=linux", ("true",), "/lab"),
    )
)
SUBMISSION = wire.SubmitRun(RunId("0" * 32), (COMMANDS, wire.PytestSuite("unit", directory="/suite")))


@pytest.mark.parametrize(
    ("suite", "task_id", "command"),
    [
        ("", "io", "cd /lab && ./io.sh 'a b'"),
        ("", "io @ browser=firefox", "cd /lab && FLEETEST_VARIANT=browser=firefox ./io.sh 'a b'"),
        ("", "odd @ os=linux", "cd /lab && true"),
        ("", "unknown", ""),
        ("unit", "unit::t.py::test_a", "cd /suite && python -m pytest t.py::test_a"),
        (
            "unit",
            "unit::t.py::test_a @ gpu.model=NVIDIA H100",
            "cd /suite && FLEETEST_VARIANT='gpu.model=NVIDIA H100' python -m pytest t.py::test_a",
        ),
        ("gone", "t.py::test_a @ os=linux", "FLEETEST_VARIANT=os=linux python -m pytest t.py::test_a"),
        ("unit", "unit::t.py::test_a[x @ os=linux]", "cd /suite && python -m pytest 't.py::test_a[x @ os=linux]'"),
    ],
)
def test_a_test_alone(suite, task_id, command):
    assert reproduce(SUBMISSION, suite, task_id) == command

"""What is compared: each case makes its suite in a folder and says what is aimed at.

Aims are ratios to the best mode of pytest-xdist, except where they say otherwise.
"""

from __future__ import annotations

import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

INI = "[pytest]\n"


@dataclass(frozen=True)
class Case:
    """``write`` makes the suite in an empty folder, which is then the working directory of every run."""

    name: str
    title: str
    runners: int
    write: Callable[[Path], None]
    args: tuple[str, ...] = ()
    xdist_modes: tuple[str, ...] = ("load", "worksteal")
    wall_ratio_aim: float | None = None
    memory_ratio_aim: float | None = None
    plain_plus_s_aim: float | None = None
    """Aim for the wall time: that of plain pytest plus this much."""
    network_ratio_aim: float | None = None
    """Compare two workers on loopback with the embedded run, instead of pytest and pytest-xdist."""
    is_quick: bool = True


def write_files(folder: Path, files: int, tests_per_file: int) -> None:
    Path(folder, "pytest.ini").write_text(INI)
    text = "\n\n".join(f"def test_{number}():\n    pass" for number in range(tests_per_file)) + "\n"
    for number in range(files):
        Path(folder, f"test_file_{number:04}.py").write_text(text)


def write_heavy(folder: Path) -> None:
    """1.5 s of CPU and 150 MB of small objects at import of the conftest; 32 tests that wait half a second."""
    Path(folder, "pytest.ini").write_text(INI)
    Path(folder, "conftest.py").write_text(
        "import time\n\n"
        "started = time.process_time()\n"
        "ballast = [(number, str(number)) for number in range(850_000)]\n"
        "while time.process_time() - started < 1.5:\n"
        "    pass\n"
    )
    for file in range(4):
        Path(folder, f"test_heavy_{file}.py").write_text(
            "import time\n\nimport pytest\n\n\n"
            "@pytest.mark.parametrize('number', range(8))\n"
            "def test_waits(number):\n    time.sleep(0.5)\n"
        )


def write_nothing(folder: Path) -> None:
    Path(folder, "pytest.ini").write_text(INI)


def sympy_folders() -> tuple[str, ...]:
    """The parts of sympy's suite; to be run with ``-c``, as no configuration above its folder is meant for it."""
    root = Path(sysconfig.get_path("purelib"), "sympy")
    return tuple(str(root / part / "tests") for part in ("sets", "printing", "logic"))


ALL_XDIST = ("load", "worksteal", "loadfile")
CASES = (
    Case("startup-2", "4 trivial tests, 2 runners", 2, lambda at: write_files(at, 1, 4), plain_plus_s_aim=0.2),
    Case("noop-2", "10,000 no-op tests, 2 runners", 2, lambda at: write_files(at, 100, 100), wall_ratio_aim=0.60),
    Case("noop-8", "10,000 no-op tests, 8 runners", 8, lambda at: write_files(at, 100, 100), wall_ratio_aim=0.35),
    Case(
        "network-2",
        "10,000 no-op tests, two workers of one slot on loopback",
        2,
        lambda at: write_files(at, 100, 100),
        network_ratio_aim=1.3,
    ),
    Case(
        "heavy-8",
        "heavy conftest (1.5 s of CPU, 150 MB), 8 runners",
        8,
        write_heavy,
        wall_ratio_aim=0.35,
        memory_ratio_aim=0.25,
    ),
    Case(
        "sympy-2",
        "sympy: sets, printing, logic, 2 runners",
        2,
        write_nothing,
        args=(*sympy_folders(), "-c", "pytest.ini"),
        xdist_modes=ALL_XDIST,
        wall_ratio_aim=1.0,
        is_quick=False,
    ),
    Case(
        "files-2",
        "40,000 tests in 4,000 files, 2 runners",
        2,
        lambda at: write_files(at, 4000, 10),
        xdist_modes=ALL_XDIST,
        wall_ratio_aim=0.50,
        is_quick=False,
    ),
    Case(
        "networkx-2",
        "networkx, 2 runners",
        2,
        write_nothing,
        args=("--pyargs", "networkx"),
        xdist_modes=ALL_XDIST,
        wall_ratio_aim=0.88,
        is_quick=False,
    ),
)

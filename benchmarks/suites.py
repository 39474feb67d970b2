"""Test suites that ship in wheels, for comparing outcomes. Each runs in an empty folder with its own pytest.ini."""

from __future__ import annotations

from dataclasses import dataclass

from cases import sympy_folders


@dataclass(frozen=True)
class Suite:
    name: str
    because: str
    args: tuple[str, ...]


SUITES = (
    Suite("networkx", "6,900 tests; class-based, xunit setup, optional dependencies", ("--pyargs", "networkx")),
    Suite(
        "astropy",
        "fixtures of every scope: session (autouse), class, module (parametrised) and function; deep class hierarchies",
        (
            "--pyargs",
            "astropy.cosmology",
            "astropy.wcs.tests",
            "astropy.units.tests.test_quantity_decorator",
            "astropy.time.tests.test_precision",
        ),
    ),
    Suite(
        "trio",
        "threads, subprocesses, signals and sockets",
        ("-p", "trio._tests.pytest_plugin", "--skip-optional-imports", "--pyargs", "trio"),
    ),
    Suite(
        "sympy",
        "long and short tests side by side",
        ("-c", "pytest.ini", *sympy_folders()),
    ),
)

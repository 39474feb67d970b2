"""Which failures of a collection may be those of one machine: something cannot be imported there, and that is all."""

import json

import pytest

from fleetest.processes.import_failure import import_failure, unimported

IN_MODULE = (
    "ImportError while importing test module '/suite/test_a.py'.\n"
    "Hint: make sure your test modules/packages have valid Python names.\nTraceback:\n"
    "test_a.py:1: in <module>\n    import gpu\nE   ModuleNotFoundError: No module named 'gpu'"
)
LIBRARY = IN_MODULE.replace(
    "ModuleNotFoundError: No module named 'gpu'", "ImportError: libgpu.so: cannot open\nE   \nE   (more)"
)
SYNTAX = '/usr/lib/ast.py:50: in parse\nE     File "/suite/test_b.py", line 1\nE   SyntaxError: invalid syntax'
FURTHER_DOWN = {"reprcrash": {"path": "x", "lineno": 1, "message": "ModuleNotFoundError: No module named 'gpu'"}}
CONFTEST = (
    "ImportError while loading conftest '/suite/conftest.py'.\n"
    "conftest.py:1: in <module>\n    import gpu\nE   ModuleNotFoundError: No module named 'gpu'"
)
PLUGIN = 'Traceback (most recent call last):\n  File "x", line 1, in y\nImportError: Error importing plugin "gpu": No'
GPU = "ModuleNotFoundError: No module named 'gpu'"


def report(longrepr, outcome="failed", node_id="test_a.py"):
    return json.dumps({"nodeid": node_id, "outcome": outcome, "longrepr": longrepr}).encode()


@pytest.mark.parametrize(
    ("text", "longreprs", "error"),
    [
        ("1 error", [IN_MODULE], GPU),
        ("2 errors", [LIBRARY, IN_MODULE], "ImportError: libgpu.so: cannot open"),
        ("1 error", [FURTHER_DOWN], GPU),
        (CONFTEST, [], GPU),
        (PLUGIN, [], 'ImportError: Error importing plugin "gpu": No'),
        ("1 error", [SYNTAX], ""),
        ("2 errors", [IN_MODULE, SYNTAX], ""),
        ("1 error", [SYNTAX.replace("SyntaxError", "ImportError")], ""),
        (CONFTEST.replace(GPU, "NameError: name 'gpu' is not defined"), [], ""),
        ("unrecognized arguments: --gpu", [], ""),
        ("Traceback:\nRuntimeError: no GPU", [], ""),
        ("1 error", [None], ""),
        ("1 error", [{"reprcrash": None}], ""),
        ("", [], ""),
    ],
)
def test_what_could_not_be_imported_if_nothing_else_is_wrong(text, longreprs, error):
    skipped = report(["test_c.py", 1, "Skipped"], outcome="skipped")
    assert import_failure(text, [*map(report, longreprs), skipped, b"no json", b"[]"]) == error


def test_which_modules_and_folders_could_not_be_imported():
    reports = [
        report(IN_MODULE),
        report(SYNTAX, node_id="test_b.py"),
        report(["test_c.py", 1, "Skipped"], "skipped", "test_c.py"),
        report(FURTHER_DOWN, node_id="lab"),
        b"no json",
        report(IN_MODULE),
    ]
    assert unimported(reports) == ("test_a.py", "lab")

"""A run as JUnit, JSON, CSV and HTML: everything is in it, and names of tests stay text in all four."""

import csv
import dataclasses
import io
import json
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from fleetest.operator.export_formats import FORMATS
from fleetest.operator.exported_run import ExportedAttempt, ExportedRun, ExportedTask

HOSTILE = "tests/test_a.py::test_x[<img src=x onerror=alert(1)>\x1b]0;title\x07\u202e=cmd]"
TRACEBACK = "def test_x():\n>   assert 1 == 2\nE   assert 1 == 2 </pre><script>alert(1)</script>"


@pytest.fixture
def run():
    attempts = (
        ExportedAttempt(1, "crashed", "w1", 0.5, "signal 9", "", "before the crash"),
        ExportedAttempt(2, "failed", "w2", 0.25, "", TRACEBACK, 'said "]]>"'),
    )
    return ExportedRun(
        "f" * 32,
        "pytest -k <b>bold</b>",
        "ann",
        "finished",
        "2026-03-04T05:06:07Z",
        12.5,
        (
            ExportedTask("tests/test_a.py::TestIt::test_ok[a::b]", "", "passed", 1, 0.125, "w1", "", ""),
            ExportedTask(HOSTILE, "", "failed", 2, 0.25, "w2", "", "", attempts),
            ExportedTask("unit::=HYPERLINK()", "unit", "not_run", 0, None, "", "", "dependency build failed"),
            ExportedTask("tests/test_a.py::test_lost", "", "quarantined", 3, 0.1, "w1", "", "lost 3 times"),
            ExportedTask("tests/test_a.py::test_open", "", "", 0, None, "", "", ""),
        ),
    )


def test_counts_are_of_everything(run):
    assert run.counts == {"passed": 1, "failed": 1, "quarantined": 1, "not_run": 1, "unfinished": 1}


def test_the_page_tells_the_time_and_a_crash_once(run):
    evidence = ExportedAttempt(1, "crashed", "w1", 0.5, "killed by 9", "killed by 9\n\nFatal error", "")
    crashed = ExportedTask("t.py::test_c", "", "crashed", 1, 0.5, "w1", "", "", (evidence,))
    page = FORMATS["html"](dataclasses.replace(run, tasks=(crashed,)))
    assert "started 2026-03-04 05:06:07 UTC" in page
    assert page.count("killed by 9") == 1


def test_junit_counts_names_and_texts(run):
    root = ElementTree.fromstring(FORMATS["junit"](run))
    assert {key: root.get(key) for key in ("tests", "failures", "errors", "skipped", "time")} == {
        "tests": "5",
        "failures": "1",
        "errors": "2",
        "skipped": "1",
        "time": "12.500",
    }
    cases = {case.get("name"): case for case in root.iter("testcase")}
    assert cases["test_ok[a::b]"].get("classname") == "tests.test_a.TestIt"
    failed = next(case for name, case in cases.items() if name.startswith("test_x"))
    assert failed.find("failure").text == TRACEBACK
    assert failed.find("system-out").text == 'said "]]>"'
    assert "#x1B" in failed.get("name")
    assert cases["test_open"].find("error").get("message") == "it has no verdict"
    assert cases["=HYPERLINK()"].find("skipped").get("message") == "dependency build failed"


def test_json_has_every_attempt(run):
    told = json.loads(FORMATS["json"](run))
    assert told["counts"]["failed"] == 1
    assert [attempt["verdict"] for attempt in told["tasks"][1]["attempts"]] == ["crashed", "failed"]


def test_csv_has_no_formula_and_no_control_character(run):
    rows = list(csv.DictReader(io.StringIO(FORMATS["csv"](run))))
    assert [row["verdict"] for row in rows] == ["passed", "failed", "not_run", "quarantined", ""]
    assert rows[0]["duration_s"] == "0.125000"
    cells = [text for row in rows for text in row.values()]
    assert not [text for text in cells if text.startswith(("=", "+", "-", "@")) or "\x1b" in text or "\u202e" in text]


@pytest.mark.parametrize("start", ["=1+1", "+1", "-1", "@SUM", "\t=1", "\n=1"])
def test_a_formula_in_csv_begins_with_an_apostrophe(run, start):
    task = ExportedTask(start, "", "passed", 1, 0.1, "w", "", "")
    text = FORMATS["csv"](ExportedRun("1", "", "", "finished", "", None, (task,)))
    assert next(csv.reader(io.StringIO(text.split("\n", 1)[1])))[0].startswith("'")


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.attributes = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]


def test_html_is_one_page_in_which_names_are_text(run):
    text = FORMATS["html"](run)
    found = Tags()
    found.feed(text)
    assert not {"script", "img", "link", "b"}.intersection(found.tags) - {"b"}
    assert not [name for name in found.attributes if name.startswith("on") or name in ("src", "href")]
    assert "default-src 'none'" in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "signal 9" in text
    assert "before the crash" in text
    assert "All 5 tests" in text


def test_an_empty_run_can_be_exported():
    empty = ExportedRun("0", "", "", "finished", "", None)
    assert all(FORMATS[name](empty) for name in FORMATS)

"""Whatever stands in the API's answers, no command of an operator lets it reach the terminal, or a file, as more than text.

Answers are made from the API's own document: each field that may hold any text holds the worst, also fields to come.
"""

import csv
import io
import json
import re
from html.parser import HTMLParser
from unicodedata import bidirectional
from urllib.parse import quote
from xml.etree import ElementTree

import click
import pytest
from click.testing import CliRunner

from fleetest.api.openapi import openapi
from fleetest.api.reference import api_routes
from fleetest.api.route import RouteTable
from fleetest.cli import main
from fleetest.client.junit import valid_xml
from fleetest.client.terminal_text import csv_text, printable
from fleetest.operator import api_client, checks

HOSTILE = (
    "=cmd|' /C calc'!A0 <img src=x onerror=alert(1)> \"};alert(1)// javascript:alert(1) {{7*7}} [red]x[/red] [link=file:///x]"
    "\x1b[2J\x1b]0;title\x07\x9b31m\u202eabc\u2066\u2028\r\0\ud800 ]]> -->"
)
CONTROLS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\u2028\u2029\ud800-\udfff]"
)
OWN_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
ASKING = {
    "status": ["status"],
    "workers": ["workers"],
    "runs": ["runs"],
    "show": ["show"],
    "why": ["why", HOSTILE],
    "logs": ["logs", HOSTILE],
    "alerts": ["alerts", "--all"],
    "top": ["top"],
    "dashboard": ["dashboard"],
    "export": ["export", "--format", "csv"],
    "cancel": ["cancel", "latest"],
    "rerun": ["rerun", "latest"],
    "drain": ["drain", HOSTILE],
    "resume": ["resume", HOSTILE],
    "quarantine": ["quarantine", HOSTILE],
    "release": ["release", HOSTILE],
    "doctor": ["doctor"],
    "simulate": ["simulate", "--fleet", "ws://127.0.0.1:1"],
}
MORE = [["workers", HOSTILE], ["show", "--json"], ["status", "--json"], ["workers", "--json"], ["logs", HOSTILE, "--json"],
        ["why", HOSTILE, "--json"], ["alerts", "--json"], ["cancel", "no\x1b[2Jrun"], ["why", "no\x1b[2Jtest"],
        ["drain", "no\x1b[2Jworker"], ["alerts", "--acknowledge", HOSTILE],
        ["simulate", "--fleet", "ws://127.0.0.1:1", "--json"], ["simulate", "--coordinator", "ws://h:1", "--workers", "2x1"],
        *(["export", "--format", name] for name in ("junit", "json", "html"))]  # fmt: skip
ASK_NOBODY = {"run", "history", "coordinator", "worker", "token", "completion", "version"}
DOCUMENT = openapi(api_routes())
TABLE = RouteTable(api_routes())


def made(schema):
    """A value of the schema, with the hostile text wherever any text may be."""
    if "$ref" in schema:
        return made(DOCUMENT["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]])
    if "anyOf" in schema:
        return made(next(part for part in schema["anyOf"] if part.get("type") != "null"))
    if "enum" in schema:
        return schema["enum"][0]
    kind = schema.get("type")
    if kind == "string":
        return "2026-03-04T05:06:07Z" if schema.get("format") == "date-time" else HOSTILE
    if kind == "array":
        return [made(schema.get("items", {})) for _ in range(max(1, schema.get("minItems", 1)))]
    if kind == "object" or "properties" in schema:
        more = schema.get("additionalProperties")
        found = {name: made(part) for name, part in schema.get("properties", {}).items()}
        return found | ({HOSTILE: made(more)} if isinstance(more, dict) else {})
    return {"integer": 1, "number": 1.5, "boolean": True, "null": None}[kind]


class HostileCoordinator:
    """Answers with what is made from the document; lists end with their first page."""

    url = "ws://127.0.0.1:1"

    def ask(self, method, path):
        words = "/api/v1/" + "/".join(quote(part, safe="", errors="surrogatepass") for part in path)
        words = words.replace("%ED%A0%80", "x")
        route, _ = TABLE.find(method, words)
        operation = DOCUMENT["paths"][route.path.replace("...}", "}")][method.lower()]
        [content] = operation["responses"][str(route.status)]["content"].values()
        return made(content["schema"])

    def get(self, *path, **query):
        return self.ask("GET", path)

    def pages(self, *path, limit=None, text="", **query):
        return iter([item for item in self.get(*path)["items"] if text in HOSTILE])

    def find(self, *path):
        """Nothing has just that name, so the lists are looked at; but every worker was here once."""
        return self.ask("GET", path) if path[-1] == "states" else None

    def readiness(self):
        return {HOSTILE: HOSTILE}

    def post(self, *path, body=None):
        return self.ask("POST", path)

    def close(self):
        pass


@pytest.fixture
def call(monkeypatch):
    monkeypatch.setattr(api_client, "connect", lambda *_: HostileCoordinator())
    monkeypatch.setattr(checks, "connect", lambda *_: HostileCoordinator())

    def call(args):
        answer = CliRunner().invoke(main, args)
        told = answer.output
        if answer.exception is not None and not isinstance(answer.exception, SystemExit):
            assert isinstance(answer.exception, click.ClickException), answer.exc_info
            told += answer.exception.format_message()
        assert told
        return told

    return call


def test_every_command_that_asks_is_asked_here():
    assert set(ASKING) | ASK_NOBODY == set(main.list_commands(None))
    assert not set(ASKING) & ASK_NOBODY


@pytest.mark.parametrize("args", [*ASKING.values(), *MORE], ids=lambda args: " ".join(map(ascii, args))[:40])
@pytest.mark.parametrize("is_terminal", [False, True], ids=["pipe", "terminal"])
def test_nothing_but_text_reaches_the_terminal(call, monkeypatch, args, is_terminal):
    if is_terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("TERM", "xterm-256color")
        monkeypatch.setenv("COLUMNS", "4000")
    told = OWN_COLOURS.sub("", call(args)) if is_terminal else call(args)
    assert not CONTROLS.search(told), ascii(CONTROLS.findall(told))
    if "[red]" in told:
        assert "[red]x[/red]" in told
        assert "[link=file:///x]" in told


def test_every_cell_of_a_table_for_spreadsheets_is_text(call):
    rows = list(csv.reader(io.StringIO(call(["export", "--format", "csv"]))))
    cells = [text for row in rows[1:] for text in row]
    assert any("calc" in text for text in cells)
    assert not any(text.startswith(("=", "+", "-", "@")) for text in cells)


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", "\x1b[0m=", "\u200b="])
def test_text_for_spreadsheets_never_begins_a_formula(start):
    assert not csv_text(f"{start}1+1").lstrip().startswith(("=", "+", "-", "@"))


def test_a_report_in_xml_has_names_as_names(call):
    told = ElementTree.fromstring(call(["export", "--format", "junit"]))
    assert {element.tag for element in told.iter()} <= {
        "testsuites", "testsuite", "testcase", "failure", "error", "skipped", "properties", "property", "system-out",
        "system-err",
    }  # fmt: skip


def test_a_page_has_no_element_of_a_name(call):
    tags = set()

    class Reader(HTMLParser):
        def handle_starttag(self, tag, attrs):
            tags.add(tag)
            assert not [name for name, _ in attrs if name.startswith("on") or name in ("src", "href")]

    text = call(["export", "--format", "html"])
    Reader().feed(text)
    assert not tags & {"img", "script", "a", "iframe", "object", "embed", "form", "base"}
    assert "default-src 'none'" in text
    assert "&lt;img src=x onerror=alert(1)&gt;" in text


def test_json_says_it_all_and_escapes_it(call):
    told = json.loads(call(["export", "--format", "json"]))
    assert told["title"] == HOSTILE


@pytest.mark.parametrize("show", [printable, valid_xml])
def test_no_character_that_turns_the_direction_of_text_is_left(show):
    turning = ("LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI", "FSI", "PDI")
    marks = "\u061c\u200e\u200f"
    every = [chr(number) for number in range(0x10000)]
    assert [each for each in every if (bidirectional(each) in turning or each in marks) and each in show(each)] == []

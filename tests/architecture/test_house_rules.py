"""House rules that a program can hold: sizes, names, links, versions. The reasons are in CONTRIBUTING.md."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import fleetest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *ROOT.glob("*/README.md")])
LINES_MAX = 600
FUNCTION_LINES_MAX = 100
VAGUE_NAMES = frozenset({"utils", "util", "helpers", "helper", "misc", "common", "manager", "tools"})
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)|<img[^>]*\ssrc=\"([^\"]+)\"")
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def without_code(text: str) -> str:
    return re.sub(r"`[^`\n]*`", "", FENCE.sub("", text))


def anchors_of(document: Path) -> set[str]:
    """Fragments that the document's headings can be linked by."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", document.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(document: Path) -> list[str]:
    broken = []
    for match in LINK.finditer(without_code(document.read_text())):
        link = match.group(1) or match.group(2)
        if re.match(r"[a-z]+:", link):
            continue
        path, _, fragment = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        if not target.exists() or (fragment and fragment not in anchors_of(target)):
            broken.append(link)
    return broken


def test_there_is_something_to_look_at() -> None:
    assert SOURCES
    assert DOCUMENTS


def test_files_have_one_reason_to_change() -> None:
    too_long = {relative(path): len(path.read_text().splitlines()) for path in SOURCES}
    assert {path: lines for path, lines in too_long.items() if lines > LINES_MAX} == {}


def test_functions_fit_on_a_screen_or_two() -> None:
    too_long = {}
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > FUNCTION_LINES_MAX:
                    too_long[f"{relative(path)}:{node.name}"] = lines
    assert too_long == {}


def test_names_say_what_is_inside() -> None:
    vague = [relative(path) for path in SOURCES if VAGUE_NAMES & {path.stem, path.parent.name}]
    assert vague == []


def test_nothing_received_can_be_executed() -> None:
    """No unpickling, no yaml, no eval anywhere in the package."""
    calls = {"eval", "exec"}
    modules = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "yaml"}
    found = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in calls:
                found.append(f"{relative(path)}:{node.lineno} {node.func.id}()")
            elif isinstance(node, ast.Import):
                names = {alias.name.partition(".")[0] for alias in node.names}
                found.extend(f"{relative(path)}:{node.lineno} {name}" for name in sorted(names & modules))
            elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in modules:
                found.append(f"{relative(path)}:{node.lineno} {node.module}")
    assert found == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=relative)
def test_links_lead_somewhere(document: Path) -> None:
    assert broken_links(document) == []


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    document = tmp_path / "page.md"
    document.write_text(
        "# A page\n[self](#a-page) [no](#nowhere) [gone](gone.md) [web](https://example.org)\n`[x](y)`\n"
    )
    assert broken_links(document) == ["#nowhere", "gone.md"]


def test_changelog_and_metadata_tell_the_version() -> None:
    version = re.escape(fleetest.__version__)
    assert re.search(rf"^## {version}\b", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert re.search(rf'^version = "{version}"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert fleetest.__version__ in (ROOT / "README.md").read_text()

"""What the how-to shows is what works: its program is run as it stands there."""

import io
import re
from contextlib import redirect_stdout
from pathlib import Path

HOW_TO = Path(__file__).parents[3] / "docs/how-to/use-the-api.md"
CURL = re.compile(r"^curl .*$", re.MULTILINE)


def test_the_program_of_the_how_to(fleet):
    fleet.worker("w1")
    (fleet.suite / "test_it.py").write_text("def test_good(): pass\n\ndef test_bad(): assert 1 == 2\n")
    data = fleet.directory / "data"
    [program] = re.findall(r"^```python\n(.*?)^```", HOW_TO.read_text(), re.MULTILINE | re.DOTALL)
    names = {
        "url": fleet.url.replace("ws", "http", 1),
        "token": (data / "submit.token").read_text().strip(),
        "directory": str(fleet.suite),
    }
    told = io.StringIO()
    with redirect_stdout(told):
        exec(compile(program, str(HOW_TO), "exec"), names)
    assert names["state"]["counts"]["passed"] == 2
    assert names["state"]["counts"]["failed"] == 1
    assert "bad" in told.getvalue()
    assert "assert 1 == 2" in told.getvalue()
    assert f"cd {fleet.suite} && python -m pytest test_it.py::test_bad" in told.getvalue()
    again = names["session"].post(f"{names['url']}{names['run']['url']}/rerun").json()
    while (state := names["session"].get(f"{names['url']}{again['url']}").json())["is_live"]:
        pass
    assert (state["tasks"], state["counts"]["failed"]) == (1, 1)

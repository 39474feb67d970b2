"""Output: each report holds what its own test printed, bounded, in every capture mode, with several runners at once."""

from __future__ import annotations

import itertools
import threading
from typing import Any

import pytest

from fleetest.processes.frames import from_portable

_PRINTING = """
    import os, sys, logging, subprocess, pytest
    # It keeps the stream that was there at import.
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("handled %(message)s"))
    logging.getLogger("a").addHandler(handler)

    @pytest.mark.parametrize("n", range(200))
    def test_prints(n):
        print("out", n)
        sys.stderr.write("err %d\\n" % n)
        logging.getLogger("a").warning("log %d", n)
        os.write(1, b"raw %d\\n" % n)
        assert 0
"""


@pytest.mark.parametrize("method", ["fd", "sys", "tee-sys", "no"])
def test_output_of_four_runners_is_never_mixed(start: Any, method: str) -> None:
    program = start(_PRINTING, f"--capture={method}")
    program.collect()
    queues = [program.fork(slot) for slot in range(4)]
    rows: list[list[Any]] = [[] for _ in queues]

    def drive(slot: int) -> None:
        rows[slot] = queues[slot].run(*range(slot, 200, 4))

    # Nobody reads the pipes meanwhile: without capture they must hold it all.
    threads = [threading.Thread(target=drive, args=(slot,)) for slot in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    reported = [row for row in itertools.chain(*rows) if row[0] == "reported"]
    assert sorted(row[1] for row in reported) == list(range(200))
    for row in reported:
        n = int(program.ids[row[1]].partition("[")[2][:-1])
        call = from_portable(row[-1][1]["data"])
        sections = dict(call["sections"])
        log = sections.pop("Captured log call")
        assert log.endswith(f"log {n}")
        if method == "no":
            assert not sections
            continue
        raw = f"raw {n}\n" if method == "fd" else ""
        assert sections == {
            "Captured stdout call": f"out {n}\n{raw}",
            "Captured stderr call": f"err {n}\nhandled log {n}\n",
        }


def test_output_is_bounded_and_says_so(start: Any) -> None:
    program = start(
        """
        def test_much():
            for _ in range(50):
                print("x" * 999_999)
        def test_long_message():
            raise ValueError("y" * 5_000_000)
        def test_small(): pass
        """,
        output_limit_bytes=10_000,
    )
    program.collect()
    much, long, small = program.fork().run(0, 1, 2)
    assert much[2] == "passed"
    (section,) = from_portable(much[-1][1]["data"])["sections"]
    assert section[0] == "Captured stdout call"
    assert len(section[1]) < 10_200
    assert "\n... 49990000 characters left out ...\n" in section[1]
    assert long[2] == "failed"
    assert len(long[-1][1]["text"]) < 10_200
    assert small[0] == "passed"


def test_bytes_that_are_not_text_arrive(start: Any) -> None:
    program = start(
        """
        import os, sys
        def test_bytes():
            os.write(1, b"\\xff\\xfe caf\\xc3\\xa9 \\x00")
        def test_surrogate():
            raise ValueError("\\udcff and \\ud83d")
        """
    )
    program.collect()
    bytes_row, surrogate = program.fork().run(0, 1)
    ((_, content),) = from_portable(bytes_row[-1][1]["data"])["sections"]
    assert content == "\ufffd\ufffd caf\xe9 \x00"
    assert "\\udcff and \\ud83d" in surrogate[-1][1]["text"]


def test_output_past_capture_goes_to_the_pipes(start: Any) -> None:
    program = start("def test_it():\n    print('seen')\n", "-s")
    program.collect()
    queue = program.fork()
    queue.run(0)
    queue.end()
    program.finish()
    assert "seen\n" in program.output()
    assert program.process.returncode == 0

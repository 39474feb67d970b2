"""Start an interpreter with the runner inside. Standard library only: a client imports this before anything else."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

RUNNER_FOLDER = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "runner")

_BOOTSTRAP = """\
import sys
if "" in sys.path:
    sys.path.remove("")
import importlib.util as u
s = u.spec_from_file_location("_fleetest_runner", {init!r}, submodule_search_locations=[{folder!r}])
m = u.module_from_spec(s)
sys.modules["_fleetest_runner"] = m
s.loader.exec_module(m)
f = int(sys.argv.pop())
{before}from _fleetest_runner.main import main
main(f)
"""
_AS_SPARE = """\
from _fleetest_runner.spare import get_ready
get_ready(f)
"""


@dataclass(slots=True)
class PrestartedTemplate:
    """A started interpreter with our runner inside, not yet spoken to, or told to ``start`` already.

    Whoever holds it owns the process and the descriptors; handing it to a ``Worker`` hands over both.
    """

    process: subprocess.Popen[bytes]
    control: socket.socket
    python: str
    start: dict[str, Any] | None = None
    """The start frame that was already sent, if any."""
    is_spare: bool = False
    """It imports pytest before it is spoken to; if what it imported has changed by then, it ends without a word."""

    @staticmethod
    def interpreter_of(python: str | None) -> str:
        """The interpreter that is meant by ``python``; None means our own."""
        return python or sys.executable

    def close(self) -> None:
        """Kill the process group and release everything, the scratch directory of its start frame too."""
        self.control.close()
        for kill in (os.killpg, os.kill):
            # Itself too: it may not lead its group yet.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                kill(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()
        if self.start is not None:
            import shutil

            shutil.rmtree(self.start["scratch"], ignore_errors=True)


def user_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment for user code: ours without our own secrets, and ``extra`` on top."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FLEETEST_TOKEN")}
    environment.update(extra or {})
    return environment


def encode_frame(value: object) -> bytes:
    """4-byte big-endian length and UTF-8 JSON."""
    body = json.dumps(value, separators=(",", ":")).encode("utf-8", "surrogatepass")
    return struct.pack(">I", len(body)) + body


def start_frame(
    *,
    args: Sequence[str],
    directory: str,
    run_uid: str,
    runner_count: int,
    scratch: str,
    mode: str = "template",
    environment: Mapping[str, str] | None = None,
    path_entries: Sequence[str] | None = None,
    start_method: str = "auto",
    runner_id: str | None = None,
    output_limit_bytes: int = 1024 * 1024,
    basetemp: str | None = None,
) -> dict[str, Any]:
    """The first frame on the control socket; fields as in the runner protocol."""
    return {
        "type": "start",
        "mode": mode,
        "args": list(args),
        "directory": directory,
        "environment": dict(environment or {}),
        "path_entries": None if path_entries is None else list(path_entries),
        "start_method": start_method,
        "run_uid": run_uid,
        "runner_count": runner_count,
        "runner_id": runner_id,
        "scratch": scratch,
        "output_limit_bytes": output_limit_bytes,
        "basetemp": basetemp,
    }


def start_template_early(
    python: str | None = None, start: dict[str, Any] | None = None, *, is_spare: bool = False
) -> PrestartedTemplate:
    """Start the interpreter in a session of its own, with pipes for its stdout and stderr.

    With ``start`` (see ``start_frame``) it is told at once what to collect; with ``is_spare`` it gets ready for that.
    Raises OSError if the interpreter cannot be started.
    """
    interpreter = PrestartedTemplate.interpreter_of(python)
    near, far = socket.socketpair()
    init, before = os.path.join(RUNNER_FOLDER, "__init__.py"), _AS_SPARE if is_spare else ""
    code = _BOOTSTRAP.format(init=init, folder=RUNNER_FOLDER, before=before)
    try:
        process = subprocess.Popen(
            [interpreter, "-c", code, str(far.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            env=user_environment(),
            pass_fds=(far.fileno(),),
            start_new_session=True,
        )
    except BaseException:
        near.close()
        raise
    finally:
        far.close()
    started = PrestartedTemplate(process, near, interpreter, is_spare=is_spare)
    if start is not None:
        # If it died already, whoever adopts it sees the end of the control socket and says why.
        with contextlib.suppress(OSError):
            near.sendall(encode_frame(start))
        started.start = start
    return started

"""One command line as a test: a process in a session of its own, its output, its end, what it used, what it left."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from resource import struct_rusage

from fleetest.core.model import Verdict
from fleetest.processes.bounded_text import BoundedOutput
from fleetest.processes.child_exit import on_child_exit
from fleetest.processes.launch import user_environment
from fleetest.processes.orphan_watch import OrphanWatch
from fleetest.processes.process_groups import describe_status, kill_session, signal_group, was_killed
from fleetest.wire.messages import CommandSpec

_READ_BYTES = 64 * 1024
_LAST_READS_MAX = 64
_ARTIFACTS_MAX = 1000


class CannotStart(Exception):
    """This machine cannot start any process now (no memory, no process numbers left); the command is not to blame."""


@dataclass(frozen=True, slots=True)
class CommandOutcome:
    status: int
    """As ``os.waitpid`` gives it."""
    duration_s: float
    cpu_s: float
    peak_memory_bytes: int
    output: str


class CommandProcess:
    """Starts in the constructor. Raises OSError if the command cannot be started, CannotStart if nothing can."""

    def __init__(self, spec: CommandSpec, output_limit_bytes: int, orphan_watch: OrphanWatch) -> None:
        self._loop = asyncio.get_running_loop()
        self._output = BoundedOutput(output_limit_bytes)
        self._ended: asyncio.Future[tuple[int, struct_rusage]] = self._loop.create_future()
        self.started_at = time.time()
        self._started = self._loop.time()
        orphan_watch.start()
        try:
            self._process = subprocess.Popen(
                spec.argv,
                cwd=spec.directory,
                env=user_environment(spec.environment),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                bufsize=0,
                start_new_session=True,
            )
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE):
                raise CannotStart(os.strerror(error.errno)) from error
            raise
        assert self._process.stdout is not None
        self._pipe = self._process.stdout
        os.set_blocking(self._pipe.fileno(), False)
        self._loop.add_reader(self._pipe.fileno(), self._read)
        self._orphan_watch = orphan_watch
        orphan_watch.add(self._process.pid)
        on_child_exit(self._process.pid, self._exited)

    async def wait(self, timeout_s: float | None) -> bool:
        """Wait for its end; False if it still runs after ``timeout_s``."""
        done, _ = await asyncio.wait([self._ended], timeout=timeout_s)
        return bool(done)

    async def end(self, term_grace_s: float) -> None:
        """TERM to its group, then KILL to its whole session."""
        signal_group(self._process.pid, signal.SIGTERM)
        if not await self.wait(term_grace_s):
            kill_session(self._process.pid)
            await self.wait(None)

    def kill(self) -> None:
        if not self._ended.done():
            kill_session(self._process.pid)

    async def outcome(self) -> CommandOutcome:
        status, usage = await asyncio.shield(self._ended)
        return CommandOutcome(
            status,
            self._duration_s,
            usage.ru_utime + usage.ru_stime,
            usage.ru_maxrss * 1024,
            self._output.text(),
        )

    def _read(self) -> bool:
        try:
            data = os.read(self._pipe.fileno(), _READ_BYTES)
        except BlockingIOError:
            return False
        if not data:
            self._loop.remove_reader(self._pipe.fileno())
            return False
        self._output.write(data)
        return True

    def _exited(self, status: int, usage: struct_rusage) -> None:
        self._duration_s = self._loop.time() - self._started
        self._process.returncode = os.waitstatus_to_exitcode(status)
        # What it left running goes too; the pipe is read no further than what is in it now.
        kill_session(self._process.pid)
        self._orphan_watch.remove(self._process.pid)
        for _ in range(_LAST_READS_MAX):
            if not self._read():
                break
        self._loop.remove_reader(self._pipe.fileno())
        self._pipe.close()
        if not self._ended.done():
            self._ended.set_result((status, usage))


def judge(spec: CommandSpec, status: int, oom_kills_rose: bool) -> tuple[Verdict, str]:
    """Verdict and evidence of a command that ended by itself."""
    if os.WIFSIGNALED(status):
        how = describe_status(status)
        if was_killed(status) and oom_kills_rose:
            return Verdict.OOM, f"the command {how} while the kernel was short of memory (its oom_kill counter rose)"
        return Verdict.CRASHED, f"the command {how}"
    exit_status = os.WEXITSTATUS(status)
    if exit_status == spec.expected_exit_status:
        return Verdict.PASSED, ""
    return Verdict.FAILED, f"the command ended with exit status {exit_status}, expected {spec.expected_exit_status}"


def describe_start_failure(spec: CommandSpec, error: OSError) -> str:
    """One line for a command that could not be started: what, where, what to do."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    if not os.path.isdir(spec.directory):
        return f"command {spec.name!r}: cannot enter its directory {spec.directory}: {reason}; create it or mend `cwd`"
    return f"command {spec.name!r}: cannot run {spec.argv[0]!r}: {reason}; install it or give its path in `argv`"


def copy_artifacts(spec: CommandSpec, target: Path) -> tuple[tuple[str, ...], str]:
    """Copy what matches ``spec.artifacts`` under ``target``; blocking.

    Returns the copies' paths, and one line of trouble or "". Files outside of the command's directory are not taken.
    """
    root = Path(spec.directory).resolve()
    copies: list[str] = []
    trouble = ""
    try:
        for pattern in spec.artifacts:
            if Path(pattern).is_absolute():
                trouble = f"artifact pattern {pattern!r} is not relative to {spec.directory}"
                continue
            for source in sorted(root.glob(pattern)):
                resolved = source.resolve()
                if not resolved.is_file() or not resolved.is_relative_to(root):
                    continue
                if len(copies) >= _ARTIFACTS_MAX:
                    return tuple(copies), f"more than {_ARTIFACTS_MAX} artifacts: the rest is not kept"
                copy = target / source.relative_to(root)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(resolved, copy)
                copies.append(str(copy))
    except (OSError, ValueError, NotImplementedError) as error:
        trouble = f"artifacts could not be kept: {error}"
    return tuple(copies), trouble

"""What killed workers leave in the directory for temporary files is removed, and nothing else ever is."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from fleetest.processes.identity import own_identity
from fleetest.processes.scratch import make_scratch, remove_abandoned

TIMEOUT_S = 60.0
OWNER = """
import sys
from fleetest.processes.scratch import make_scratch
print(make_scratch(), flush=True)
sys.stdin.read()
"""
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nobody is certainly dead")


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """The directory for temporary files, of this process and of those that it starts."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


class Owner:
    """Another process that has made such a folder."""

    def __init__(self):
        self.process = subprocess.Popen(
            [sys.executable, "-c", OWNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.folder = Path(self.process.stdout.readline().strip())

    def kill(self):
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def owner(temporary):
    owner = Owner()
    yield owner
    owner.kill()


def test_the_folder_of_a_killed_worker_is_removed_and_that_of_a_living_one_stays(owner, temporary):
    (owner.folder / "run" / "1").mkdir(parents=True)
    (owner.folder / "run" / "1" / "gw0-7.stacks").write_text("stacks")
    own = make_scratch()
    assert remove_abandoned() == []
    owner.kill()
    assert remove_abandoned() == [owner.folder]
    assert list(temporary.iterdir()) == [own]


FULL = """
import resource, signal, tempfile
from fleetest.processes.scratch import make_scratch
tempfile.gettempdir()
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
try:
    make_scratch()
except OSError:
    print("no room")
"""


def test_a_folder_whose_owner_cannot_be_written_down_does_not_stay(temporary):
    """As on a full disk: nobody could tell later that it is abandoned."""
    done = subprocess.run([sys.executable, "-c", FULL], check=True, stdout=subprocess.PIPE, text=True)
    assert done.stdout == "no room\n"
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("is_inside", [False, True], ids=["has a file open", "works there"])
def test_a_folder_that_somebody_is_in_stays_until_it_is_left(owner, is_inside):
    """As a runner that outlives its worker for a moment."""
    owner.kill()
    stacks = owner.folder / "gw0.stacks"
    with stacks.open("w") as file:
        command = [sys.executable, "-c", "import sys; print(flush=True); sys.stdin.read()"]
        other = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=owner.folder if is_inside else "/",
            pass_fds=() if is_inside else (file.fileno(),),
        )
    other.stdout.readline()
    try:
        assert remove_abandoned() == []
        assert stacks.exists()
    finally:
        other.communicate()
    assert remove_abandoned() == [owner.folder]


def test_what_is_not_certainly_ours_and_dead_stays(owner, temporary, tmp_path_factory):
    owner.kill()
    dead = (owner.folder / "owner").read_text()
    boot, namespace, pid, start = dead.split(":")
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "owner").write_text(dead)

    def made(name, text):
        (temporary / name).mkdir()
        if text is not None:
            (temporary / name / "owner").write_text(text)

    made("fleetest-01234567", None)
    made("fleetest-11234567", "")
    made("fleetest-21234567", "nobody")
    made("fleetest-31234567", f"{boot[:-1]}x:{namespace}:{pid}:{start}")
    made("fleetest-41234567", f"{boot}:7:{pid}:{start}")
    made("fleetest-51234567", own_identity())
    made("fleetest-61234567", "\N{SNOWMAN}")
    made("fleetest-notes", dead)
    made("other-01234567", dead)
    (temporary / "fleetest-71234567").symlink_to(elsewhere)
    made("fleetest-81234567", None)
    (temporary / "fleetest-81234567" / "owner").symlink_to(elsewhere / "owner")
    (temporary / "fleetest-91234567").write_text(dead)
    before = sorted(path for path in temporary.iterdir() if path != owner.folder)
    assert remove_abandoned() == [owner.folder]
    assert sorted(temporary.iterdir()) == before
    assert (elsewhere / "owner").exists()


def test_of_a_process_that_tells_nothing_the_worst_is_assumed(owner, monkeypatch):
    """If it began after the owner of the folder, which then may have started it; the first process of the system is none of those."""
    later = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    owner.kill()
    tell = os.listdir

    def refuse(path):
        if str(path) in (f"/proc/{later.pid}/fd", "/proc/1/fd"):
            raise PermissionError(13, "Permission denied", path)
        return tell(path)

    monkeypatch.setattr(os, "listdir", refuse)
    assert remove_abandoned() == []
    later.communicate(b"\n")
    assert remove_abandoned() == [owner.folder]


def test_who_has_died_while_he_was_looked_at_is_in_no_folder(owner, monkeypatch):
    """A zombie's files are hidden from everybody but the superuser."""
    later = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    owner.kill()
    tell = os.listdir

    def die(path):
        if str(path) == f"/proc/{later.pid}/fd":
            later.kill()
            os.waitid(os.P_PID, later.pid, os.WEXITED | os.WNOWAIT)
            raise PermissionError(13, "Permission denied", path)
        return tell(path)

    monkeypatch.setattr(os, "listdir", die)
    assert remove_abandoned() == [owner.folder]
    later.communicate()


def test_a_worker_removes_what_a_killed_one_has_left(fleet):
    """The fleet's processes have a directory for temporary files of their own."""
    gate = fleet.directory / "gate"
    os.mkfifo(gate)
    text = f"import os\n\ndef test_it():\n    if os.path.exists({str(gate)!r}):\n        open({str(gate)!r}, 'w').close()\n"
    (fleet.suite / "test_it.py").write_text(text)
    first = fleet.worker("w")
    fleet.client("--fleet-wait-for-workers", "600")
    with gate.open():  # The test runs.
        left = set(fleet.scratch.glob("fleetest-*/owner"))
        assert len(left) >= 1
        first.kill()
        first.wait()
        gate.unlink()
    second = fleet.worker("v")
    second.terminate()
    second.communicate(timeout=TIMEOUT_S)
    assert not left & set(fleet.scratch.glob("fleetest-*/owner"))

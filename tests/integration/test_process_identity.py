"""Which process a peer is, and that its death is known for certain or not at all."""

import asyncio
import subprocess
import sys

import pytest

from fleetest.processes.identity import is_alive, own_identity, wait_dead

TIMEOUT_S = 60.0


@pytest.fixture
def other():
    code = "from fleetest.processes.identity import own_identity as o; print(o(), flush=True); input()"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    yield process
    process.kill()
    process.communicate()


def test_a_process_is_alive_until_it_has_ended(other):
    identity = other.stdout.readline().strip()
    assert identity != own_identity()
    assert is_alive(identity)
    assert not asyncio.run(wait_dead(identity, 0.0)), "it lives"
    other.kill()
    # It is not reaped yet: a zombie is dead.
    assert asyncio.run(wait_dead(identity, TIMEOUT_S))
    other.wait()
    assert asyncio.run(wait_dead(identity, 0.0))


def test_a_process_of_another_machine_container_or_time_is_not_known():
    boot, namespace, pid, start = own_identity().split(":")
    assert is_alive(own_identity())
    assert not is_alive(f"{boot[:-1]}x:{namespace}:{pid}:{start}")
    assert not is_alive(f"{boot}:{namespace}1:{pid}:{start}")
    assert not is_alive(f"{boot}:{namespace}:{pid}:{start}1"), "the number was given out again"


@pytest.mark.parametrize("text", ["", ":", ":::", "a:b:c:d", "a:b:1:", "::1:", "::../1:1", "a" * 200])
def test_nonsense_is_no_process(text):
    assert not is_alive(text)


WITHOUT_FILES = """
import asyncio, os, resource, sys
from contextlib import suppress
from fleetest.processes.identity import start_of, start_of_dead, wait_dead

async def main():
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    with suppress(OSError):
        while True:
            os.open(os.devnull, os.O_RDONLY)
    print(await wait_dead(sys.argv[1], 0.0), start_of_dead(sys.argv[1]), start_of(os.getppid()))

asyncio.run(main())
"""


def test_nobody_is_dead_because_this_process_can_open_no_more_files():
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_FILES, own_identity()], check=True, stdout=subprocess.PIPE, text=True
    )
    assert done.stdout.split() == ["False", "None", "None"]

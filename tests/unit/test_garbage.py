"""A process that serves a fleet leaves alone what lives long, and still frees whatever is garbage."""

import subprocess
import sys

PROGRAM = """
import asyncio, gc, weakref
from fleetest.cli.garbage import collect_now_and_then, spare_what_lives_long

class Circle:
    def __init__(self):
        self.me = self

spare_what_lives_long()
generations = []
gc.callbacks.append(lambda phase, info: generations.append(info["generation"]) if phase == "start" else None)

# By itself Python would collect everything several times meanwhile.
plan = [[] for _ in range(300_000)]
assert generations.count(1) > 10 and 2 not in generations, generations

# What is garbage while it is young is freed at once.
young = weakref.WeakSet()
for _ in range(100_000):
    young.add(Circle())
assert len(young) < 20_000, len(young)
assert 2 not in generations, generations

# What becomes garbage when it is old is freed now and then.
async def freed():
    circle = Circle()
    gc.collect(1)
    is_freed = asyncio.Event()
    weakref.finalize(circle, is_freed.set)
    del circle
    collecting = asyncio.create_task(collect_now_and_then(0.001))
    await asyncio.wait_for(is_freed.wait(), 60)
    assert 2 in generations
    collecting.cancel()

asyncio.run(freed())
print("all is well")
"""


def test_what_lives_long_is_left_alone_and_garbage_is_freed():
    done = subprocess.run([sys.executable, "-c", PROGRAM], check=False, capture_output=True, text=True, timeout=120)
    assert done.stdout == "all is well\n", done.stderr

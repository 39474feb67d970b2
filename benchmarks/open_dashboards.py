"""Many open dashboards in one process: what the page of a run listens to and asks for; a third never reads.

python benchmarks/open_dashboards.py URL TOKEN_FILE RUN --count 50
"""

from __future__ import annotations

import argparse
import asyncio
import time
from pathlib import Path

import aiohttp

BREATHING = 5.0
"""As the page does: what took long is asked for less often."""
POLLS = (("", 0.5), ("/failures", 2.0), ("/timeline", 1.0), ("/tasks?limit=500", 1.0))


async def poll(session: aiohttp.ClientSession, url: str, pause_s: float) -> None:
    following = ""
    while True:
        began = time.monotonic()
        address = f"{url}?after={following}" if url.endswith("/timeline") and following else url
        async with session.get(address) as answer:
            if url.endswith("/timeline") and answer.status == 200:
                following = (await answer.json())["next"]
            else:
                await answer.read()
        took_s = time.monotonic() - began
        await asyncio.sleep(max(0.0, max(pause_s, BREATHING * took_s) - took_s))


async def screen(http: str, token: str, run_id: str, *, reads: bool) -> None:
    headers = {"Authorization": f"Bearer {token}"}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.ws_connect(f"{http}/api/v1/events", max_msg_size=0) as events,
    ):
        if not reads:
            # What is not taken fills the buffers: then nothing more is read from the socket.
            await asyncio.Event().wait()
        polls = [
            asyncio.create_task(poll(session, f"{http}/api/v1/runs/{run_id}{path}", pause_s)) for path, pause_s in POLLS
        ]
        async for _ in events:
            pass
        for each in polls:
            each.cancel()


async def show_all(given: argparse.Namespace) -> None:
    token = given.token_file.read_text().strip()
    http = given.url.replace("ws://", "http://")
    screens = (screen(http, token, given.run, reads=number % 3 != 0) for number in range(given.count))
    await asyncio.gather(*screens, return_exceptions=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("token_file", type=Path)
    parser.add_argument("run")
    parser.add_argument("--count", type=int, default=50)
    asyncio.run(show_all(parser.parse_args()))


if __name__ == "__main__":
    main()

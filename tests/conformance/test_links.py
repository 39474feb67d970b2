"""Both implementations of the link pass the same suite."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fleetest.testing.conformance import LinkConformance, Pair, closing_pair
from fleetest.transport.identity import FixedCredentials, Role
from fleetest.transport.memory import memory_link_pair
from fleetest.transport.server import NetworkServer
from fleetest.transport.websocket import connect_worker

TOKEN = "a-token-of-the-conformance-suite"


class TestMemoryLink(LinkConformance):
    @asynccontextmanager
    async def pair(self) -> AsyncIterator[Pair]:
        worker, coordinator = memory_link_pair()
        async with closing_pair(worker, coordinator) as pair:
            yield pair


class TestWebSocketLink(LinkConformance):
    @asynccontextmanager
    async def pair(self) -> AsyncIterator[Pair]:
        accepted = asyncio.get_running_loop().create_future()
        over = asyncio.Event()

        async def serve_worker(link):
            accepted.set_result(link)
            await over.wait()

        async def serve_client(link):
            raise AssertionError("nobody connects as a client")

        server = NetworkServer(
            credentials=FixedCredentials({TOKEN: Role.ADMIN}), serve_worker=serve_worker, serve_client=serve_client
        )
        port = await server.start("127.0.0.1", 0)
        worker = await connect_worker(f"ws://127.0.0.1:{port}", TOKEN)
        try:
            async with closing_pair(worker, await accepted) as pair:
                yield pair
        finally:
            over.set()
            await server.close()

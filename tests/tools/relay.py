"""Relays connections on loopback as if each were a long way off, for `make bench`.

    python3 tests/tools/relay.py PORT...
        prints a port for each of these on 127.0.0.1, and ends with its stdin

Each piece is held back for DELAY seconds each way, and what comes first on a new connection for one
round trip more, which is what opening it takes. `tc netem` could do the same, but needs root and a
kernel module. It is a process of its own, so that its timing depends on no other work.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys

DELAY = 0.02


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, earliest: float) -> None:
    """Pass on what comes, each piece DELAY after it came, and nothing that came before `earliest`.

    Several pieces are on their way at the same time, as on a real line.
    """
    now = asyncio.get_running_loop().time
    pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

    async def deliver() -> None:
        while True:
            due, data = await pieces.get()
            await asyncio.sleep(max(0.0, due - now()))
            if not data:
                writer.close()
                return
            writer.write(data)

    delivery = asyncio.ensure_future(deliver())
    with contextlib.suppress(OSError):
        data = b"more"
        while data:
            data = await reader.read(65536)
            await pieces.put((max(now(), earliest) + DELAY, data))
    await delivery


async def relay(port: int) -> int:
    """Start a relay to a port of 127.0.0.1, and return its own port."""

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        opened = asyncio.get_running_loop().time() + 2 * DELAY
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
        with contextlib.suppress(OSError):
            await asyncio.gather(pump(reader, far_writer, opened), pump(far_reader, writer, 0))

    server = await asyncio.start_server(connect, "127.0.0.1", 0)
    return int(server.sockets[0].getsockname()[1])


async def main() -> None:
    ports = [await relay(int(word)) for word in sys.argv[1:]]
    print(*ports, flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    os._exit(0)  # whatever is still on its way


if __name__ == "__main__":
    asyncio.run(main())

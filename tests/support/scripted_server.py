"""An HTTP server on loopback that sends exactly what a test says, also after an answer has ended.

    def answer(request: Request) -> Iterator[Step]:
        yield reply(b"{}")
        yield CLOSE

    with ScriptedServer(answer) as server: ...

`answer` is called for each request, in the thread of its connection. Bytes that it yields are sent,
CLOSE and RESET end the connection, a Delay is waited out, and an Event is awaited. When it ends,
the connection stays open, whatever the headers say, and the next request is read. The sandbox, in
contrast, serves the whole API and answers well unless told otherwise.
"""

from __future__ import annotations

import itertools
import socket
import ssl
import threading
import time
from typing import Callable, Iterator, Union

from server import Server, reset

CLOSE, RESET = "close", "reset"
DEADLINE = 30.0  # seconds for anything that the server waits for


class Delay(float):
    """A number of seconds for which nothing is sent."""


Step = Union[bytes, str, Delay, threading.Event]


class Request:
    """What came: `connection` counts the server's connections, `turn` the requests on this one."""

    def __init__(self, connection: int, turn: int, head: bytes, body: bytes) -> None:
        self.connection, self.turn, self.body = connection, turn, body
        lines = head.decode("latin-1").split("\r\n")
        self.method, self.target, _ = lines[0].split(" ")
        pairs = (line.split(": ", 1) for line in lines[1:] if line)
        self.headers = {name.lower(): value for name, value in pairs}

    def __repr__(self) -> str:
        return f"<{self.connection}.{self.turn} {self.method} {self.target}>"


def reply(
    body: bytes, *lines: str, status: str = "200 OK", version: str = "1.1", length: bool = True
) -> bytes:
    """Return a whole answer with these lines among its headers."""
    head = [f"HTTP/{version} {status}", *lines]
    if length:
        head.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*head, "", ""]).encode() + body


def reply_in_chunks(body: bytes, size: int, trailers: bytes = b"") -> bytes:
    """Return a whole answer whose body comes in chunks of `size` bytes."""
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    chunks = b"".join(b"%X;x=y\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + chunks + b"0\r\n" + trailers + b"\r\n"


class ScriptedServer(Server):
    """`url` is its address, `requests` has what came in the order of arrival."""

    def __init__(
        self,
        answer: Callable[[Request], Iterator[Step]],
        tls: ssl.SSLContext | None = None,
        host: str = "127.0.0.1",
    ) -> None:
        super().__init__(host, 0, tls)
        self.requests: list[Request] = []
        self._answer = answer

    def serve(self, connection: socket.socket, number: int) -> None:
        """Answer request after request, as long as the client is there."""
        connection.settimeout(DEADLINE)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with connection.makefile("rb") as stream:
            for turn in itertools.count(1):
                head = b""
                while not head.endswith(b"\r\n\r\n"):
                    line = stream.readline()
                    if not line:
                        return
                    head += line
                request = Request(number, turn, head[:-4], b"")
                request.body = stream.read(int(request.headers.get("content-length", 0)))
                self.requests.append(request)
                for step in self._answer(request):
                    if step in (CLOSE, RESET):
                        if step == RESET:
                            reset(connection)
                        return
                    if isinstance(step, bytes):
                        connection.sendall(step)
                    elif isinstance(step, Delay):
                        time.sleep(step)
                    elif isinstance(step, threading.Event):
                        step.wait(DEADLINE)

"""How the stand-in (tests/sandbox.py) sends its answers, as well or as badly as it is told to."""

from __future__ import annotations

import email.utils
import http.server
import json
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterable, Iterator, List, Optional, Tuple

if TYPE_CHECKING:
    import socket
    import threading

    from faults import Fault

Record = Dict[str, Any]
Headers = List[Tuple[str, str]]
Place = Tuple[str, Optional[int]]

CHUNK = 256 * 1024
HTML = (
    b"<!DOCTYPE html>\n<html><head><title>Gateway</title></head>"
    b"<body>Something went wrong</body></html>\n"
)
# The code and message of an error answer, by its status, unless others are given.
ERRORS = {
    400: ("VALIDATION_ERROR", "Invalid request"),
    401: ("INVALID_API_KEY", "Invalid API key"),
    402: ("MONTHLY_LIMIT_REACHED", "Monthly generation limit reached"),
    403: ("PRO_PLAN_REQUIRED", "API access requires a Pro or Lifetime plan"),
    404: ("NOT_FOUND", "Not found"),
    429: ("RATE_LIMITED", "Too many requests"),
}
ERROR = ("INTERNAL_ERROR", "Internal server error")


class Body:
    """Hold `prefix` and then `pattern` over and over: `size` bytes, made as they are sent."""

    def __init__(
        self, prefix: bytes, pattern: bytes = b"", size: int | None = None, start: int = 0
    ) -> None:
        self.prefix, self.pattern, self.start = prefix, pattern, start
        self.size = len(prefix) if size is None else size

    def part(self, start: int, stop: int) -> Body:
        size = max(0, min(stop, self.size) - start)
        return Body(self.prefix, self.pattern, size, self.start + start)

    def chunks(self) -> Iterator[memoryview]:
        position, end = self.start, self.start + self.size
        block = memoryview(b"")
        while position < end:
            if position < len(self.prefix):
                piece = memoryview(self.prefix)[position : min(end, position + CHUNK)]
            else:
                if not block:
                    turns = min(CHUNK, end - position) // len(self.pattern) + 2
                    block = memoryview(self.pattern * turns)
                offset = (position - len(self.prefix)) % len(self.pattern)
                piece = block[offset : offset + min(CHUNK, end - position)]
            yield piece
            position += len(piece)

    def __bytes__(self) -> bytes:
        return b"".join(self.chunks())


class Answer:
    """Send an HTTP answer, as well or as badly as it is told to.

    A place in it is a pair (where, at): `where` is "start", "headers" or "body", and `at` the
    number of bytes into that part, or None for its middle.
    """

    def __init__(self, status: int, headers: Headers, body: Body) -> None:
        self.status: int | None = status
        self.headers = [("Date", email.utils.formatdate(usegmt=True)), *headers]
        self.raw_head: bytes | None = None  # sent in place of the status and the headers
        self.extra_lines = b""  # sent after the status line, as they stand
        self.chunked = False
        self.tail = b""  # sent after the body
        self.head_only = False
        self.cut: Place | None = None  # where the sending ends
        self.end = "keep"  # what becomes of the connection then: keep, close or reset
        self.pause: Place | None = None  # where the sending waits
        self.gate: Fault | None = None  # and for whom
        self.slow: tuple[Place, int, float] | None = None  # from where, bytes at a time, seconds
        self.set_body(body)

    def get(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)

    def set(self, name: str, value: str | None) -> None:
        """Replace a header in its place, append it, or remove it if the value is None."""
        names = [key.lower() for key, _ in self.headers]
        place = names.index(name.lower()) if name.lower() in names else len(names)
        self.headers = [pair for pair in self.headers if pair[0].lower() != name.lower()]
        if value is not None:
            self.headers.insert(place, (name, value))

    def set_body(self, body: Body, content_type: str | None = None) -> None:
        self.body = body
        self.set("Content-Length", str(body.size))
        if content_type:
            self.set("Content-Type", content_type)

    def head(self) -> bytes:
        if self.raw_head is not None:
            return self.raw_head
        status = self.status or 0
        reason = http.server.BaseHTTPRequestHandler.responses.get(status, ("Unknown", ""))[0]
        lines = "".join("{}: {}\r\n".format(*pair) for pair in self.headers)
        start = f"HTTP/1.1 {status} {reason}\r\n"
        return start.encode() + self.extra_lines + lines.encode("latin-1") + b"\r\n"

    def wire(self, head: bytes) -> Iterator[memoryview]:
        yield memoryview(head)
        if self.head_only:
            return
        for piece in self.body.chunks():
            framed = b"%x\r\n" % len(piece) + bytes(piece) + b"\r\n" if self.chunked else piece
            yield memoryview(framed)
        yield memoryview(self.tail)

    def send(  # noqa: C901 - a step for each verb, in the order of the wire
        self,
        connection: socket.socket,
        stopping: threading.Event,
        answered: Callable[[int | None], None],
    ) -> None:
        """Send the answer as far as it goes, and call `answered` just before its headers are out.

        Raises ConnectionAbortedError if the client leaves while the answer waits for its gate.
        """
        head = self.head()

        def offset(place: Place | None) -> int | None:
            if place is None:
                return None
            where, at = place
            if where == "start":
                return 0
            if where == "headers":
                return min(len(head) - 1, len(head) // 2 if at is None else at)
            return len(head) + (self.body.size // 2 if at is None else at)

        place, size, interval = self.slow or (None, 0, 0.0)
        cut, pause, slow = offset(self.cut), offset(self.pause), offset(place)
        position = 0
        for whole in self.wire(head):
            piece = whole
            while piece:
                if position == cut:
                    return
                if position == pause and self.gate:
                    self.gate.stall(connection, stopping)
                    pause = None
                marks = [mark for mark in (cut, pause, slow) if mark is not None]
                sizes = [mark - position for mark in marks if mark > position]
                if slow is not None and position >= slow:
                    sizes.append(size)
                length = min([*sizes, len(piece)])
                if position < len(head) <= position + length:
                    answered(self.status)
                connection.sendall(piece[:length])
                position += length
                piece = piece[length:]
                if slow is not None and position > slow and stopping.wait(interval):
                    return
        if pause is not None and self.gate:
            self.gate.stall(connection, stopping)


def json_answer(status: int, document: Any, headers: Iterable[tuple[str, str]] = ()) -> Answer:
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    own = [("Content-Type", "application/json; charset=utf-8")]
    return Answer(status, own + list(headers), Body(text.encode("utf-8", "surrogatepass")))


def error_answer(
    headers: Headers, status: int, code: str, message: str, details: Any, retry_after: Any
) -> Answer:
    """Return an error of the API. Only a `retry_after` that is a number is in its document too."""
    error: Record = {"code": code, "message": message}
    if details is not None:
        error["details"] = details
    if isinstance(retry_after, int):
        error["retryAfter"] = retry_after
    answer = json_answer(status, {"error": error}, headers)
    answer.set("Retry-After", None if retry_after is None else str(retry_after))
    return answer

"""Let the answers of the stand-in (tests/sandbox.py) go wrong.

Ten verbs are code: cut, stall, delay, drip, raw, header, body, field, status and redirect. Every
named fault is a row of ROWS, which says what to do with which arguments; a new one is a new row.
`plan_for(kind, options)` reads a row, and a Fault applies its plan to the requests that match it.
A gate is a fault that waits.
"""

from __future__ import annotations

import argparse
import gzip
import inspect
import json
import random
import re
import select
import textwrap
import threading
import uuid
from functools import partial
from typing import TYPE_CHECKING, Any, Callable, Mapping, NamedTuple

from answers import ERROR, ERRORS, HTML, Answer, Body, Record, error_answer, json_answer

if TYPE_CHECKING:
    import socket

    from sandbox import Request, Sandbox

# --- the ten verbs --------------------------------------------------------------------------------


class Exchange:
    """Hold what the verbs work on: a request, and the answer that it is about to get.

    The answer is an empty one unless `respond()` has carried the request out.
    """

    def __init__(self, service: Sandbox, request: Request, fault: Fault, plan: Plan) -> None:
        self.service, self.request, self.fault, self.plan = service, request, fault, plan
        self.answer = json_answer(200, {})

    def respond(self) -> None:
        if self.plan.row.change:
            self.service.change(self.request.path)
        self.answer = self.service.respond(self.request, self.plan.row.seen)


def cut(x: Exchange, where: str = "start", at: int | None = None, how: str = "close") -> None:
    """End the connection there (where=start|headers|body, at=N), how=close|reset."""
    x.answer.cut, x.answer.end = (where, at), how


def stall(x: Exchange, where: str = "start", at: int | None = None) -> None:
    """Wait there until the client leaves or Fault.release() is called; where=request: unheard."""
    if where == "request":
        x.fault.wait(x.service.stopping)
        x.respond()
    else:
        x.answer.pause, x.answer.gate = (where, at), x.fault


def delay(x: Exchange, seconds: float = 1.0) -> None:
    """Answer well, but late."""
    x.service.stopping.wait(seconds)


def drip(x: Exchange, where: str = "body", interval: float = 1.0, size: int = 1) -> None:
    """Send `size` bytes every `interval` seconds, from where=start|headers|body on."""
    x.answer.slow = (where, 0), size, interval


def raw(x: Exchange, data: Any = b"") -> None:
    """Send exactly these bytes and close; text may hold escapes such as \\r\\n."""
    answer = x.answer
    answer.status, answer.raw_head, answer.body, answer.end = None, as_bytes(data), EMPTY, "close"


def header(
    x: Exchange,
    name: str | None = None,
    value: Any = None,
    status: int | None = None,
    line: str = "",
    append: bool = False,
    end: str = "keep",
) -> None:
    """Set a header, remove it (value=none), or add it to the one there is (append=true).

    `status` replaces that of the answer, and `line` is sent before the headers as it stands.
    """
    answer = x.answer
    if name and callable(value):
        value = value(answer.get(name) or '"none"')
    if name and append:
        answer.headers.append((name, str(value)))
    elif name:
        answer.set(name, None if value is None else str(value))
    answer.extra_lines = line.encode() + b"\r\n" if line else b""
    answer.status, answer.end = status or answer.status, end


def body(
    x: Exchange,
    data: Any = None,
    type: str | None = None,  # noqa: A002
    status: int | None = None,
    size: int | None = None,
    at: int | None = None,
    framing: str = "length",
    boundary: bool = True,
    extra: bytes = b"",
) -> None:
    """Send other data, blanks up to `size`, only `at` bytes, or `extra` ones; type, status too.

    With framing=chunked|close a body without a length; boundary=false cuts inside a chunk.
    """
    answer, new = x.answer, x.answer.body
    if callable(data):
        new = Body(data(bytes(new)))
    elif data is not None:
        new = Body(data.encode() if isinstance(data, str) else data)
    if size is not None:
        new = Body(bytes(new), b" " * 65536, size)
    if at is not None:
        new = new.part(0, at)
    answer.set_body(new, type)
    answer.status, answer.tail = status or answer.status, extra
    if framing == "chunked":
        answer.set("Transfer-Encoding", "chunked")
        answer.chunked, answer.tail = True, b"0\r\n\r\n"
        if at is not None:
            answer.tail = b"" if boundary else b"400\r\nonly a part of it"
    if framing != "length":
        answer.set("Content-Length", None)
    if extra or framing == "close" or (framing == "chunked" and at is not None):
        answer.end = "close"


def field(x: Exchange, value: Any = None, field: str = "unknown", **fields: Any) -> None:
    """Set fields of the record, or of each record of a list.

    The bytes or the text of `value`, JSON or not, become that `field` of `data`.
    """
    document = json.loads(bytes(x.answer.body))
    data = document.get("data", document.get("error"))
    data = data if isinstance(data, dict) else document
    lists = [
        found
        for found in data.values()
        if isinstance(found, list) and all(isinstance(item, dict) for item in found)
    ]
    for record in lists[0] if lists and "id" not in data else [data]:
        record.update(fields)
    if value is not None:
        data[field] = "\x00literal\x00"
    text = json.dumps(document, ensure_ascii=False).encode("utf-8", "surrogatepass")
    literal = value if isinstance(value, bytes) else str(value).encode()
    x.answer.set_body(Body(text.replace(b'"\\u0000literal\\u0000"', literal)))


def status(
    x: Exchange,
    status: int = 500,
    code: str | None = None,
    message: str | None = None,
    details: Any = None,
    retry_after: Any = None,
    body: str = "json",
) -> None:
    """Answer with an error. retry_after is a number or text.

    body=json|html|empty|huge|truncated|reset|stalled.
    """
    own_code, own_message = ERRORS.get(status, ERROR)
    code, message, headers = code or own_code, message or own_message, x.service.rate_headers()
    x.answer = error_answer(headers, status, code, message, details, retry_after)
    if body not in ERROR_BODIES:
        raise ValueError(f"fault status: no body is called {body}")
    ERROR_BODIES[body](x)


def redirect(x: Exchange, status: int = 302, location: str = "self") -> None:
    """Send the client elsewhere; {api} and {media} stand for the origins, self for the same."""
    target = x.request.target if location == "self" else location
    target = target.replace("{api}", x.service.api_url).replace("{media}", x.service.media_url)
    x.answer = Answer(status, [("Location", target)], EMPTY)


# --- the faults -----------------------------------------------------------------------------------

EMPTY = Body(b"")
VERBS: tuple[Any, ...] = (cut, stall, delay, drip, raw, header, body, field, status, redirect)


PAGE: Record = {"data": HTML, "type": "text/html; charset=utf-8"}

ERROR_BODIES: dict[str, Callable[[Exchange], None]] = {
    "json": lambda x: None,
    "html": partial(body, **PAGE),
    "empty": partial(body, data=b""),
    "huge": partial(body, size=200_000_000),
    "truncated": partial(cut, where="body"),
    "reset": partial(cut, where="body", how="reset"),
    "stalled": partial(stall, where="body"),
}


class Row(NamedTuple):
    """Say what a fault does.

    `work` says whether the request is carried out before it is answered wrongly; None leaves that
    to the verb. `seen` replaces headers of the request before the service sees them, and `change`
    makes the track another one first.
    """

    steps: tuple[Callable[..., None], ...]
    work: bool | None = None
    seen: Mapping[str, str | None] = {}
    change: bool = False


def do(verb: Callable[..., None], **arguments: Any) -> Row:
    return Row((partial(verb, **arguments),))


def verb_of(step: Any) -> Any:
    return getattr(step, "func", step)


ROWS: dict[str, Row] = {
    **{verb.__name__: Row((verb,)) for verb in VERBS},
    # The connection.
    "close": do(cut),
    "reset": do(cut, how="reset"),
    "short": do(cut, where="body"),
    "lost": do(cut)._replace(work=True),
    "garbage": do(raw, data=b"\x00\xff\xfe SMTP ready? 220\r\n\r\n"),
    # The headers; http.client takes at most 100 of them, and 65,536 bytes a line.
    "bad-header": do(header, line="this is no header", end="close"),
    "many-headers": do(header, line="\r\n".join(f"X-Header-{n}: x" for n in range(300))),
    "long-header": do(header, line="X-Long: " + "x" * 70_000),
    "two-lengths": do(header, name="Content-Length", value=7, append=True),
    "bad-length": do(header, name="Content-Length", value="lots", end="close"),
    "type": do(header, name="Content-Type", value="text/html; charset=utf-8"),
    # How the body is framed.
    "chunked": do(body, framing="chunked"),
    "no-length": do(body, framing="close"),
    "long": do(body, extra=b"x" * 10),
    # What the body is.
    "html": do(body, **PAGE),
    "empty": do(body, data=b""),
    "text": do(body, data=b"hello\n", type="text/plain"),
    "array": do(body, data=b"[]"),
    "string": do(body, data=b'"hello"'),
    "null": do(body, data=b"null"),
    "gzip": Row(
        (partial(body, data=gzip.compress), partial(header, name="Content-Encoding", value="gzip"))
    ),
    "huge": do(body, size=200_000_000),
    "bad-json": do(body, data=lambda text: text[: len(text) // 2]),
    # What its fields are; Python 3.11 and later refuse to parse an integer of 5,000 digits.
    "literal": do(field),
    "record": do(field),
    "not-utf8": do(field, value=b'"\xff\xfe\xe9"'),
    "nan": do(field, value="NaN"),
    "infinity": do(field, value="1e999"),
    "big-integer": do(field, value=b"7" * 5000),
    "deep": do(field, value=b"[" * 100_000 + b"]" * 100_000),
}
# The media host alone has these.
MEDIA_ROWS: dict[str, Row] = {
    "etag": do(header, name="ETag", value=lambda own: f'"{uuid.uuid4().hex}"'),
    "weak-etag": do(header, name="ETag", value=lambda own: "W/" + own),
    "no-etag": do(header, name="ETag"),
    "no-range": do(header, name="Accept-Ranges")._replace(seen={"Range": None}),
    "wrong-range": Row((), seen={"Range": "bytes=96-"}),
    "ignore-if-range": Row((), seen={"If-Range": None}),
    "changed": Row((), change=True),
}
ROWS.update(MEDIA_ROWS)
# These are about connections, not about requests: see Sandbox.fault.
ORIGIN_KINDS = ("refuse", "hangup", "unreachable")

# What `random` draws from.
RANDOM = {
    "api": (
        *("close", "reset", "lost", "reset,work=true", "close,where=headers"),
        *("reset,where=headers", "short", "reset,where=body", "chunked,at=20", "garbage"),
        *("garbage,work=true", "bad-header", "html", "empty", "bad-json", "delay,seconds=0.2"),
        *("status,status=429,retry_after=1", "status,status=500", "status,status=502,body=html"),
        *("status,status=503,retry_after=1,work=true", "status,status=500,body=truncated"),
        "redirect,location={media}/elsewhere",
    ),
    "media": (
        *("close", "reset", "close,where=headers", "short", "short,at=0"),
        *("reset,where=body,at=5000", "chunked,at=5000", "chunked,at=5000,boundary=false"),
        *("no-length,at=5000", "garbage", "html", "no-range", "wrong-range", "weak-etag"),
        *("changed", "status,status=500", "status,status=503,body=html", "delay,seconds=0.2"),
    ),
}


class Plan(NamedTuple):
    row: Row
    steps: list[tuple[Callable[..., None], Record]]
    work: bool


def plan_for(kind: str, options: Record) -> Plan:
    """Give each option to the steps that take it. Raises ValueError for unknown ones."""
    if kind not in ROWS:
        known = ", ".join(sorted([*ROWS, *ORIGIN_KINDS, "random"]))
        raise ValueError(f"unknown fault {kind}; there are {known}")
    row, taken = ROWS[kind], {"work"}
    steps: list[tuple[Callable[..., None], Record]] = []
    for verb in row.steps:
        names = parameters(verb)
        own = {
            n: v for n, v in options.items() if n in names or ("fields" in names and n != "work")
        }
        taken |= set(own)
        steps.append((verb, own))
    if set(options) - taken:
        raise ValueError(f"fault {kind}: unknown option {min(set(options) - taken)}")
    work = options.get("work", row.work)
    if work is None and row.steps:
        first = row.steps[0]
        where = {"where": "start", **getattr(first, "keywords", {}), **options}["where"]
        silent = (
            [raw, status, redirect] + [cut] * (where == "start") + [stall] * (where == "request")
        )
        work = verb_of(first) not in silent
    return Plan(row, steps, work is not False)


def parameters(verb: Callable[..., None]) -> list[str]:
    """Return the names of a verb's options; `fields` stands for any others."""
    return list(inspect.signature(verb).parameters)[1:]


class Fault:
    """Take requests, and answer them wrongly.

    `hits` are the requests taken. `reached` is set once one waits at the fault, which goes on
    after release(); from then on the fault takes no more requests.
    """

    def __init__(
        self,
        kind: str,
        options: Record,
        *,
        path: str = ".*",
        origin: str | None = "api",
        method: str | None = None,
        times: int | None = 1,
        after: int = 0,
    ) -> None:
        self.path, self.origin, self.method = re.compile(path), origin, method
        self.times, self.after = times, after
        self.hits: list[Request] = []
        self.reached, self.released = threading.Event(), threading.Event()
        self.random: random.Random | None = None
        if kind != "random":
            self.plan = plan_for(kind, options)
            return
        self.times, self.random = None, random.Random(options.pop("seed", 0))
        self.probability = float(options.pop("p", 0.2))
        if options:
            raise ValueError("random takes p and seed, not {}".format(", ".join(options)))
        self.plans = {
            origin: [plan_for(*parse_fault(text)) for text in texts]
            for origin, texts in RANDOM.items()
        }

    def take(self, request: Request) -> Plan | None:
        """Return what to do with the request, or None if it is not for this fault."""
        if self.times == 0 or self.released.is_set() or not self.path.fullmatch(request.path):
            return None
        if self.origin not in (None, request.origin) or self.method not in (None, request.method):
            return None
        if self.after > 0:
            self.after -= 1
            return None
        if self.random and self.random.random() >= self.probability:
            return None
        if self.times is not None:
            self.times -= 1
        self.hits.append(request)
        return self.random.choice(self.plans[request.origin]) if self.random else self.plan

    def spoil(self, service: Sandbox, request: Request, plan: Plan) -> Answer:
        exchange = Exchange(service, request, self, plan)
        if plan.work:
            exchange.respond()
        for verb, options in plan.steps:
            verb(exchange, **options)
        return exchange.answer

    def release(self) -> None:
        self.released.set()

    def stall(self, connection: socket.socket, stopping: threading.Event) -> None:
        """Wait for the release. Raises ConnectionAbortedError if the client leaves first."""
        self.wait(stopping, lambda: bool(select.select([connection], [], [], 0)[0]))

    def wait(self, stopping: threading.Event, left: Callable[[], bool] = lambda: False) -> None:
        self.reached.set()
        while not self.released.wait(0.02):
            if stopping.is_set() or left():
                raise ConnectionAbortedError


# --- the faults of the command line ---------------------------------------------------------------


def parse_fault(text: str) -> tuple[str, Record]:
    """Read KIND,key=value,...; numbers, true, false and none are values, and \\, is a comma."""
    name, *pairs = [part.replace("\\,", ",") for part in re.split(r"(?<!\\),", text)]
    options: Record = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise argparse.ArgumentTypeError(f"{pair!r} is not key=value")
        options[key.replace("-", "_")] = plain(value)
    return name, options


def plain(value: str) -> Any:
    if re.fullmatch(r"-?[0-9]+", value):
        return int(value)
    if re.fullmatch(r"-?[0-9]+\.[0-9]+", value):
        return float(value)
    return {"true": True, "false": False, "none": None}.get(value, value)


def as_bytes(data: Any) -> bytes:
    """Return bytes as they are, and text, which has escapes such as \\r\\n, as Latin-1."""
    if isinstance(data, bytes):
        return data
    return str(data).encode("utf-8").decode("unicode_escape").encode("latin-1")


def fault_list() -> str:
    """Return the help about faults: the verbs with their options, and the names made of them."""
    common = "path=, origin=api|media|none, method=, times=N|none, after=N, work=true|false"
    lines = [f"faults ({common} go with each):"]
    for verb in VERBS:
        lines.append(f"  {verb.__name__:9} {' '.join(f'{name}=' for name in parameters(verb))}")
        text = " ".join((verb.__doc__ or "").split())
        lines += textwrap.wrap(text, 100, initial_indent=" " * 12, subsequent_indent=" " * 12)
    lines.append("  random    p= seed=")
    lines.append(" " * 12 + "Each request goes wrong with this probability, in a random way.")
    lines.append("  refuse, unreachable (seconds=), hangup (data=): no connection to the origin")
    for verb in VERBS:
        names = {name for name, row in ROWS.items() if verb in map(verb_of, row.steps)}
        if names - {verb.__name__}:
            lines.append(f"  made of {verb.__name__}: {', '.join(sorted(names - {verb.__name__}))}")
    names = {name for name, row in ROWS.items() if not row.steps}
    lines.append(f"  of the media host: {', '.join(sorted(names))}")
    return "\n".join(lines)

"""Property test: whatever the service and the media host answer, each command ends as it is meant
to.

Never a traceback, never an exit code outside the table, never a second submission, never a file
with wrong content, never the key or a control character in the output. 200 cases of each test;
FT_FUZZ=N makes it N, others each time (`make long`).

Each case is a fork (tests/support/forks.py), so that thousands take minutes.
"""

from __future__ import annotations

import json
import os
import re
from typing import NamedTuple

import jumping_clock
import pytest
from conftest import Result, Runner
from hypothesis import HealthCheck, event, given, note, settings
from hypothesis import strategies as st
from sandbox import Account

CASES = int(os.environ.get("FT_FUZZ", "200"))
pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork"),
    pytest.mark.usefixtures("here"),
]


# --- answers --------------------------------------------------------------------------------------


class Answer(NamedTuple):
    """What goes over the wire, and each file that a download may rightly make of it."""

    wire: bytes
    contents: tuple[bytes, ...] = ()


TRACK, OTHER = "8f14e45f-ceea-467f-a0e6-b1c7d1d1a3f0", "07e8d430-2310-4c57-87a8-cf1e6db376f7"
KEY = Account("pro", "pro").key
# The ports are filled in, with five digits.
MEDIA, API = "http://127.0.0.1:MEDIA", "http://127.0.0.1:APIAT"
ADDRESSES = [
    f"{MEDIA}/audio/{TRACK}.mp3",
    f"{MEDIA}/x.mp3",
    f"{API}/v1/me",
    "file:///etc/passwd",
    "data:audio/mpeg,x",
    "ftp://127.0.0.1/x",
    "http://[::1",
    "https://127.0.0.1:1/x",
    "http://192.0.2.1/x",
    "//",
    "",
    "?",
    f"/audio/{TRACK}.mp3",
    "http://127.0.0.1:99999/",
]
texts = st.one_of(
    st.text(max_size=20),
    st.sampled_from(
        [
            KEY,
            TRACK,
            "\x1b[2J\x07",
            "\u202e\u2028",
            "../../x",
            "x" * 300,
            "completed",
            "failed",
            *ADDRESSES,
        ]
    ),
)
numbers = st.one_of(st.integers(), st.floats(), st.sampled_from([10**400, -1, 0, 1e308, 5e-324]))
values = st.one_of(st.none(), st.booleans(), numbers, texts)
for _ in range(4):  # st.recursive takes several times as long
    values = st.one_of(
        values, st.lists(values, max_size=8), st.dictionaries(texts, values, max_size=8)
    )
FIELDS = [
    "id",
    "title",
    "prompt",
    "status",
    "audioUrl",
    "duration",
    "fileSize",
    "parameters",
    "errorMessage",
    "createdAt",
    "email",
    "tier",
    "limits",
    "generations",
    "hasMore",
    "nextOffset",
    "playlists",
    "tracks",
    "name",
    "trackCount",
    "totalDuration",
    "isPublic",
    "updatedAt",
    "deleted",
    "added",
    "removed",
    "moved",
    "errors",
    "creditsRemaining",
]
records = st.fixed_dictionaries(
    {}, optional={name: st.one_of(values, st.lists(values, max_size=3)) for name in FIELDS}
)
finished = st.builds(
    lambda base, more: {**base, **more},
    st.just({"id": TRACK, "status": "completed", "audioUrl": ADDRESSES[0]}),
    records,
)
failures = st.fixed_dictionaries(
    {"code": texts, "message": texts}, optional={"details": values, "retryAfter": values}
)
documents = st.one_of(
    values,
    st.fixed_dictionaries({"data": st.one_of(records, finished, values)}),
    st.fixed_dictionaries(
        {"data": st.fixed_dictionaries({"generations": st.lists(records, max_size=3)})}
    ),
    st.fixed_dictionaries(
        {"data": st.fixed_dictionaries({"playlists": st.lists(records, max_size=3)})}
    ),
    st.fixed_dictionaries({"error": st.one_of(failures, values)}),
)
bodies = st.one_of(
    documents.map(lambda document: json.dumps(document).encode()),
    documents.map(
        lambda document: json.dumps(document, ensure_ascii=False).encode("utf-8", "surrogatepass")
    ),
    documents.map(lambda document: json.dumps(document).encode()[:-1]),
    st.binary(max_size=200),
    st.sampled_from(
        [b"", b"[" * 5000, b"<html>", b"NaN", b'{"data": ' + b"7" * 5000 + b"}", b"\xef\xbb\xbf{}"]
    ),
)
STATUSES = [
    200,
    200,
    200,
    200,
    201,
    202,
    204,
    206,
    100,
    103,
    301,
    302,
    308,
    400,
    401,
    404,
    416,
    418,
    429,
    500,
    503,
    599,
]
statuses = st.one_of(st.sampled_from(STATUSES), st.integers(100, 999))
header_values = st.one_of(
    st.text(st.characters(max_codepoint=255, blacklist_characters="\r\n"), max_size=30),
    st.sampled_from(
        [
            "0",
            "1",
            "5",
            "-1",
            "1_0",
            "999999999",
            "nan",
            "Wed, 21 Oct 2015 07:28:00 GMT",
            "Fri, 99 Foo 9999",
            "chunked",
            "gzip",
            "identity",
            "text/html",
            "audio/mpeg",
            "application/json",
            '"a"',
            'W/"a"',
            "bytes 0-4/5",
            "bytes 3-9/10",
            *ADDRESSES,
        ]
    ),
)
HEADERS = [
    "Content-Length",
    "Content-Type",
    "Content-Encoding",
    "Transfer-Encoding",
    "Location",
    "Retry-After",
    "ETag",
    "Content-Range",
    "Connection",
    "X-RateLimit-Remaining",
    "X Y",
    "",
]
headers = st.lists(st.tuples(st.sampled_from(HEADERS), header_values), max_size=4)


def http_answer(
    status: int, extra: list[tuple[str, str]], body: bytes, framing: str, kind: str
) -> Answer:
    lines = [f"{name}: {value}" for name, value in extra]
    if kind:
        lines.insert(0, f"Content-Type: {kind}")
    contents: set[bytes] = {
        body[: int(v)]
        for n, v in extra
        if n == "Content-Length" and re.fullmatch("[0-9]+", v) and int(v) <= len(body)
    }
    sent = body
    if framing in ("length", "short"):
        lines.insert(0, f"Content-Length: {len(body) + 5 * (framing == 'short')}")
        contents |= {body} if framing == "length" else set()
    elif framing in ("chunked", "cut"):
        lines.insert(0, "Transfer-Encoding: chunked")
        sent = (b"%x\r\n%b\r\n" % (len(body), body) if body else b"") + (
            b"0\r\n\r\n" if framing == "chunked" else b""
        )
        contents |= {body} if framing == "chunked" else set()
    head = "\r\n".join([f"HTTP/1.1 {status} Reason", *lines, "", ""])
    return Answer(head.encode("latin-1", "replace") + sent, tuple(contents))


KINDS = ["application/json", "audio/mpeg", "audio/mpeg", "text/html", ""]
FRAMINGS = ["length", "length", "length", "short", "chunked", "cut", "none"]
answers = st.one_of(
    st.builds(
        http_answer, statuses, headers, bodies, st.sampled_from(FRAMINGS), st.sampled_from(KINDS)
    ),
    st.builds(
        http_answer,
        st.just(200),
        st.just([]),
        bodies,
        st.just("length"),
        st.just("application/json"),
    ),
    st.binary(max_size=100).map(Answer),
)


def piece(old: bool, start: int, stop: int, tag: str, lie: int) -> Answer:
    """A part of one of the two versions of a track, whole or cut, from its start (200) or from
    further on (206).
    """
    body = VERSIONS[old]
    mark = {"strong": f'ETag: "{old}"', "weak": f'ETag: W/"{old}"'}.get(tag) or (
        "ETag: odd" if start else "X: y"
    )
    lines = ["Content-Type: audio/mpeg", mark, f"Content-Length: {len(body) - start}"]
    if start:
        lines.append(f"Content-Range: bytes {start + lie}-{len(body) - 1}/{len(body)}")
    head = "\r\n".join([f"HTTP/1.1 {206 if start else 200} OK", *lines, "", ""])
    return Answer(head.encode() + body[start + lie : max(start, stop)], (body,))


VERSIONS = (b"new " * 500, b"old " * 500)
PLACES = [0, 500, 1000, 2000]
pieces = st.builds(
    piece,
    st.booleans(),
    st.sampled_from(PLACES[:3]),
    st.sampled_from(PLACES),
    st.sampled_from(["strong", "strong", "weak", ""]),
    st.sampled_from([0, 0, 0, 4]),
)


# --- commands -------------------------------------------------------------------------------------

COMMANDS = [
    ["me"],
    ["me", "--json"],
    ["list"],
    ["list", "--json", "--limit", "5"],
    ["get", TRACK],
    ["get", TRACK, "--json"],
    ["download", TRACK, "-o", "song.mp3"],
    ["download", TRACK, "--wait", "-o", "song.mp3"],
    ["download", TRACK],
    ["download", TRACK, OTHER],
    ["generate", "a song", "-o", "song.mp3"],
    ["generate", "a song", "--json"],
    ["generate", "a song", "--no-wait"],
    ["generate", "a song", "--no-wait", "--json"],
    ["delete", "--yes", TRACK, OTHER],
    ["delete", "--yes", "--json", TRACK],
    ["playlists"],
    ["playlists", "--json"],
    ["playlist", "show", "Focus Beats"],
    ["playlist", "show", "Drafts", "--json"],
    ["playlist", "add", "Drafts", TRACK, OTHER],
    ["playlist", "remove", "--json", "Focus Beats", TRACK],
    ["playlist", "move", "Drafts", "Album", TRACK],
    ["doctor"],
    ["doctor", "--json"],
]
DOWNLOADS = [argv for argv in COMMANDS if "-o" in argv]
cases: st.SearchStrategy[tuple[list[str], list[Answer], list[Answer]]] = st.one_of(
    st.tuples(st.sampled_from(COMMANDS), st.lists(answers, min_size=1, max_size=5), st.just([])),
    st.tuples(
        st.sampled_from(DOWNLOADS),
        st.lists(answers, max_size=1),
        st.lists(st.one_of(pieces, answers), max_size=4),
    ),
)
UNSAFE = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e\u2028\u2029]")


fuzzed = settings(
    max_examples=CASES,
    derandomize=CASES <= 200,
    database=None,
    deadline=None,
    print_blob=True,
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
    ],
)


def run(ft: Runner, argv: list[str]) -> Result:
    """Run a command, and check what is true of each of its ends."""
    result = jumping_clock.run(ft, *argv)
    note(f"{result!r}\n{ft.sandbox.requests}")
    event(f"{argv[0]}: exit {result.code}")  # --hypothesis-show-statistics
    assert result.code in (0, 1, 2, 3)
    assert "Traceback" not in result.stderr and "internal error" not in result.stderr
    assert result.stderr.count("\nerror: ") + result.stderr.startswith("error: ") <= 1
    assert KEY not in result.stdout + result.stderr
    assert not UNSAFE.search(result.stdout + result.stderr)
    if "--json" in argv and result.stdout:
        json.loads(result.stdout)
        assert result.stdout.endswith("\n")
    return result


def start_over(ft: Runner) -> None:
    """Forget what the last case did, also a track that a lost answer could be taken for."""
    ft.sandbox.heal()
    for paid in ft.sandbox.book:
        del ft.sandbox.generations[paid]
    del ft.sandbox.requests[:], ft.sandbox.book[:]
    for name in os.listdir(ft.cwd):
        (ft.cwd / name).unlink()


@fuzzed
@given(case=cases, verbose=st.booleans())
def test_whatever_is_answered(
    ft: Runner, case: tuple[list[str], list[Answer], list[Answer]], verbose: bool
) -> None:
    words, api, media = case
    sandbox = ft.sandbox
    start_over(ft)
    sandbox.add_generation(id=TRACK, prompt="song", duration=5)
    ports = {
        url[-5:].encode(): b"%05d" % int(real.rpartition(":")[2])
        for url, real in ((MEDIA, sandbox.media_url), (API, sandbox.api_url))
    }

    def fill(text: bytes) -> bytes:
        for name, port in ports.items():
            text = text.replace(name, port)
        return text

    allowed = {sandbox.track(TRACK), sandbox.track(OTHER)}
    for origin, scripted in ("api", api), ("media", media):
        for answer in scripted:
            sandbox.fault("raw", origin=origin, data=fill(answer.wire))
            allowed.update(map(fill, answer.contents))
    argv = words + ["-v"] * verbose
    note(f"ft {argv}")
    code = run(ft, argv).code
    assert len(sandbox.posts()) <= 1
    made = {*os.listdir(ft.cwd)}
    allowed |= {sandbox.track(paid) for paid in sandbox.book}
    is_for_several = words[0] == "download" and len(words) > 2
    if code and not is_for_several:
        assert made == set()
    for name in made:
        assert not name.startswith(".")
        assert (ft.cwd / name).read_bytes() in allowed


# --- headers and framing --------------------------------------------------------------------------

SONG = b"ID3\r\n5\r\n" + bytes(range(256)) + b"\r\n0\r\n\r\n"
ACCOUNT = b'{"data": {"email": "fuzz@example.com", "name": "0\\r\\n", "tier": "pro"}}'


def split_head(data: bytes) -> tuple[list[bytes], bytes] | None:
    """The lines of a head, folded ones joined and bare CRs as spaces, and what follows it."""
    lines: list[bytes] = []
    while True:
        line, end, data = data.partition(b"\n")
        if not end:
            return None
        line = re.sub(b"\r$", b"", line).replace(b"\r", b" ")
        if not line and lines:
            return lines, data
        if len(lines) > 1 and line[:1] in (b" ", b"\t"):
            lines[-1] += line
        else:
            lines.append(line)


def unchunk(data: bytes) -> bytes | None:
    """What chunks contain (RFC 9112, 7.1)."""
    content = b""
    while True:
        size = re.match(rb"([0-9A-Fa-f]+)[ \t]*(;[^\r\n]*)?\r\n", data)
        if not size:
            return None
        data, count = data[size.end() :], int(size[1], 16)
        if not count:
            return content if re.match(rb"([^\r\n][^\n]*\r\n)*\r\n", data) else None
        content, end, data = content + data[:count], data[count : count + 2], data[count + 2 :]
        if end != b"\r\n":
            return None


def understand(data: bytes, until_close: bool) -> bytes | None:
    """The content of an answer as RFC 9112 has it; None where it must be refused.

    Written apart from ft.py, which may refuse more but never take anything else for the content.
    `until_close`: whether the end of the connection may be that of the content.
    """
    status = 100
    while 100 <= status < 200:
        head = split_head(data)
        first = head and re.match(rb"\s*HTTP/[01]\.\S*\s+(\d{3})(\s|$)", head[0][0])
        if not head or not first:
            return None
        status, (lines, data) = int(first[1]), head
    fields: dict[bytes, list[bytes]] = {}
    for line in lines[1:]:
        match = re.fullmatch(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+)[ \t]*:(.*)", line, re.DOTALL)
        if match:
            fields.setdefault(match[1].lower(), []).append(match[2].strip(b" \t"))
    encodings = b",".join(fields.get(b"content-encoding", [])).lower().split(b",")
    if {encoding.strip() for encoding in encodings} - {b"", b"identity"}:
        return None
    if b"transfer-encoding" in fields:
        coding = b",".join(fields[b"transfer-encoding"]).lower()
        return unchunk(data) if coding == b"chunked" else None
    lengths = fields.get(b"content-length")
    if lengths is None:
        return data if until_close else None
    if len(lengths) != 1 or not re.fullmatch(rb"[0-9]+", lengths[0]):
        return None
    return data[: int(lengths[0])] if len(data) >= int(lengths[0]) else None


status_lines = st.sampled_from(
    [
        *[b"HTTP/1.1 200 OK\r\n"] * 40,
        b"HTTP/1.1 200 OK\n",
        b"HTTP/1.1 200\r\n",
        b"HTTP/1.1 200 \rOK\r\n",
        b"HTTP/1.1  200 OK\r\n",
        b"HTTP/1.0 200 OK\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 103 Early\r\nContent-Length: 5\r\n\r\nHTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 100 Continue\r\nHTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 206 Partial\r\n",
        b"HTTP/1.1 429 Slow\r\n",
        b"HTTP/1.1 204 None\r\n",
        b"HTTP/1.1 2000 OK\r\n",
        b"HTTP/1.1 20\r\n",
        b"HTTP/2 200\r\n",
        b"HTTP/0.9 200 OK\r\n",
        b"ICY 200 OK\r\n",
        b" HTTP/1.1 200 OK\r\n",
        b"\r\nHTTP/1.1 200 OK\r\n",
        b"200\r\n",
        b"",
    ]
)
CODINGS = [
    "chunked",
    "Chunked",
    "chunked ",
    "gzip",
    "gzip, chunked",
    "chunked, identity",
    "identity",
    "identityx",
    "chunked,chunked",
    "chunked;q=1",
    "\x0bchunked",
    "chunked\xa0",
    "\\chunked",
    "",
    ",",
    "xchunked",
]
LENGTHS = [
    "{n}",
    " {n} ",
    "{m}",
    "0",
    "5",
    "-1",
    "+{n}",
    "{n},{n}",
    "{n}, 5",
    "0x{n}",
    "1e3",
    "{n}\xa0",
    "0{n}",
    "99999999999999999999",
    "",
]
VALUES = {
    "Transfer-Encoding": CODINGS,
    "Content-Length": LENGTHS,
    "Content-Encoding": ["identity", "", "gzip", "Identity, br"],
    "Content-Type": ["audio/mpeg", "application/json", "multipart/mixed; boundary=0", "text/html"],
    "Connection": ["close", "keep-alive", "upgrade"],
    "ETag": ['"a"', 'W/"a"', ""],
    "Content-Range": ["bytes 0-4/5", "bytes */5"],
    "X": ["y", "a\rTransfer-Encoding: chunked", "a\rContent-Length: 5", "\x00", "\xe9"],
}
NAMES = ["{}"] * 24 + ["{} ", "{}\t", " {}", "\t{}", "{}\x0b", "\x00{}", "{}:", "\r{}"]


@st.composite
def framed(draw: st.DrawFn, content: bytes) -> bytes:
    """An answer with that content, more or less well framed, perhaps cut or followed by more."""
    sizes = draw(st.lists(st.integers(1, len(content)), max_size=3))
    form = draw(
        st.sampled_from(
            ["%x\r\n{}\r\n"] * 8
            + [
                '%X;a="b"\r\n{}\r\n',
                "00%x \r\n{}\r\n",
                "%x\r\n{}\n",
                "%x\n{}\r\n",
                "%x\n{}\n",
                "0x%x\r\n{}\r\n",
                " %x\r\n{}\r\n",
                "%x;\r\r\n{}\r\n",
                "%x\r\n{}",
                "+%x\r\n{}\r\n",
            ]
        )
    )
    before, after = form.encode().split(b"{}")
    chunked, rest = b"", content
    for size in [*sizes, len(content)]:
        if rest:
            piece, rest = rest[:size], rest[size:]
            chunked += before % len(piece) + piece + after
    ends = [b"0\r\n\r\n"] * 8 + [
        b"0\r\nX: y\r\n\r\n",
        b"000;a\r\n\r\n",
        b"0\n\n",
        b"0\r\n",
        b"",
        b"0\r\n\n",
    ]
    chunked += draw(st.sampled_from(ends))
    is_chunked = draw(st.booleans())
    body = chunked if is_chunked else content
    names = draw(st.lists(st.sampled_from(sorted(VALUES)), max_size=2))
    if draw(st.integers(0, 7)):  # mostly with the header that belongs to it
        names.append("Transfer-Encoding" if is_chunked else "Content-Length")
    head = draw(status_lines)
    for name in draw(st.permutations(names)):
        value = draw(st.sampled_from(VALUES[name][:1] * 12 + VALUES[name]))
        spelt = draw(st.sampled_from(NAMES)).format(draw(st.sampled_from([name, name.upper()])))
        colon = draw(st.sampled_from([": "] * 20 + [":", ":\t", "", ":\r\n ", ":\n\t"]))
        end = draw(st.sampled_from(["\r\n"] * 20 + ["\n", "\r\r\n", "\r", ""]))
        value = value.replace("{n}", str(len(content))).replace("{m}", str(len(body)))
        head += (spelt + colon + value + end).encode("latin-1")
    data = head + draw(st.sampled_from([b"\r\n"] * 20 + [b"\n", b"\r\r\n", b" \r\n", b""])) + body
    data += draw(st.sampled_from([b""] * 4 + [b"\r\n", b"0\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n"]))
    return data[: draw(st.sampled_from([len(data)] * 3 + [draw(st.integers(0, len(data)))]))]


@fuzzed
@given(wires=st.lists(framed(SONG), min_size=1, max_size=3))
def test_however_a_track_is_framed(ft: Runner, wires: list[bytes]) -> None:
    """What is saved is the content of one of the answers, or the track that comes after them."""
    start_over(ft)
    allowed = {ft.sandbox.track(OTHER)}
    for wire in wires:
        ft.sandbox.fault("raw", origin="media", data=wire)
        allowed.add(understand(wire, until_close=False) or b"")
        note(repr(wire))
    code = run(ft, ["download", OTHER, "-o", "song.mp3"]).code
    made = {*os.listdir(ft.cwd)}
    assert made == (set() if code else {"song.mp3"})
    if not code:
        saved = (ft.cwd / "song.mp3").read_bytes()
        event(f"saved: {'the track' if saved == ft.sandbox.track(OTHER) else 'an answer'}")
        assert saved in allowed and saved


@fuzzed
@given(wires=st.lists(framed(ACCOUNT), min_size=1, max_size=3))
def test_however_json_is_framed(ft: Runner, wires: list[bytes]) -> None:
    start_over(ft)
    allowed = []
    for wire in wires:
        ft.sandbox.fault("raw", data=wire)
        content = understand(wire, until_close=True)
        note(f"{wire!r}: {content!r}")
        if content in (ACCOUNT, ACCOUNT + b"\r\n"):
            allowed.append("fuzz@example.com")
    result = run(ft, ["me", "--json"])
    assert bool(result.stdout) == (result.code == 0)
    if not result.code:
        assert result.json["data"]["email"] in [*allowed, "jane@example.com"]

"""The server is not trusted: whatever its JSON holds, ft ends with a code of the table, without a
traceback, and sends nothing to a terminal that the terminal would act on.
"""

from __future__ import annotations

import copy
import json
import os
import re
import sys
import unicodedata
from pathlib import Path
from typing import Any, Callable, Iterator

import commands
import jumping_clock
import pytest
from commands import TRACK as ID
from conftest import PYPY, Result, Runner

PLAYLIST, OTHER = "5ab3ec64-6225-4965-acac-49a053609225", "00000000-0000-4000-8000-00000000000f"
# Every command that reads the service's JSON, and the path of the answer that it reads.
COMMANDS = {
    **{c.name: (c.argv, "/v1/.*") for c in commands.COMMANDS if c.effect != commands.LOCAL},
    "list --all": (["list", "--all"], "/v1/.*"),
    "polls": (["generate", "a", "song", "-o", "t.mp3"], "/v1/generations/.+"),
    "no-wait": (["generate", "a", "song", "--no-wait"], "/v1/.*"),
    "show": (["playlist", "show", PLAYLIST], "/v1/.*"),  # by id: these look up no name
    "add": (["playlist", "add", PLAYLIST, ID], "/v1/.*"),
    "remove": (["playlist", "remove", PLAYLIST, ID], "/v1/.*"),
    "move": (["playlist", "move", PLAYLIST, OTHER, ID], "/v1/.*"),
}
ODD: list[Any] = [
    None,
    True,
    -1,
    0,
    7.5,
    10**400,
    -(10**400),
    1e300,
    5e-324,
    "",
    "x",
    " ",
    "\ud800",
    "\u0000",
    "x" * 5000,
    [],
    ["x"],
    [None],
    [[]],
    {},
    {"x": {}},
    [{}],
    [{"id": None}],
]
NASTY = (
    "\x1b]0;title\x07 \x1b[2J "
    "\x9b31m\r\n\b\x7f\x00\u202e\u2066\u200f\u2028\u2029\udcff\ud800\ufeff\u00ad\U000e0041"
)


def safe(text: str) -> None:
    """No character that a terminal acts on or that reorders what it shows, but for line ends."""
    bad = {c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")} - {"\n"}
    assert not bad, [f"U+{ord(c):04X}" for c in bad]


def run(ft: Runner, *argv: str, **how: Any) -> Result:
    commands.write_prompts(ft)
    result = jumping_clock.run(ft, *argv, **how)
    assert result.code in (0, 1, 2, 3), repr(result)
    assert "Traceback" not in result.stderr and "internal error" not in result.stderr, repr(result)
    return result


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to each value in a document; of a list, to its first item only."""
    yield path
    items = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value[:1])
        if isinstance(value, list)
        else ()
    )
    for key, child in items:
        yield from places(child, (*path, key))


def replaced(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    document = copy.deepcopy(document)
    inner = document
    for key in path[:-1]:
        inner = inner[key]
    if not path:
        return value
    inner[path[-1]] = value
    return document


# --- shapes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("document", ['{"data": null}', '{"data": ["x"]}', '{"error": "x"}'])
def test_data_that_is_no_object(ft: Runner, name: str, document: str) -> None:
    """Exit 3, whatever the command; `/health` has no data."""
    argv, path = COMMANDS[name]
    ft.sandbox.fault("body", path=path, status=200, data=document, times=None)
    result = run(ft, *argv)
    expected = 1 if name == "polls" else 3  # it polls on to the end of its 5 minutes
    assert result.code == expected and "unexpected reply" in result.stdout + result.stderr, repr(
        result
    )


LISTS = [
    ("list", "generations"),
    ("playlists", "playlists"),
    ("show", "tracks"),
    ("playlist show", "playlists"),
    ("sfx list", "soundEffects"),
    ("delete", "deleted"),
    ("add", "added"),
    ("remove", "removed"),
    ("move", "moved"),
]


@pytest.mark.parametrize(("name", "member"), LISTS)
@pytest.mark.parametrize("value", ['"x"', "7", '{"x": {}}', '["x"]', "[null]"])
def test_lists_that_are_none(ft: Runner, name: str, member: str, value: str) -> None:
    """Texts, numbers, objects where a list of records is expected: exit 3. (Bulk commands list ids,
    not records.)
    """
    argv, path = COMMANDS[name]
    ft.sandbox.fault(
        "body", path=path, status=200, data=f'{{"data": {{"{member}": {value}}}}}', times=None
    )
    ids = member in ("deleted", "added", "removed", "moved")
    assert run(ft, *argv).code == (1 if ids and value.startswith("[") else 3)


SAMPLES = {
    "me": ("me",),
    "list": ("list", "--limit", "2"),
    "get": ("get", ID),
    "playlists": ("playlists",),
    "show": ("playlist", "show", PLAYLIST),
}


def get_in(document: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        document = document[key]
    return document


def leaves(document: Any) -> list[tuple[Any, ...]]:
    """The ways to what is no container."""
    return [
        path for path in places(document) if not isinstance(get_in(document, path), (dict, list))
    ]


def filled(document: Any, value: Any) -> Any:
    """The document with `value` in each field that is no container."""
    for path in leaves(document):
        document = replaced(document, path, value)
    return document


@pytest.mark.parametrize(
    ("name", "member"), [("list", "generations"), ("playlists", "playlists"), ("show", "tracks")]
)
def test_every_field_of_a_list_may_hold_anything(ft: Runner, name: str, member: str) -> None:
    """One record of the list for each odd value, which all of its fields hold."""
    argv = SAMPLES[name]
    document = ft(*argv, "--json", check=0).json
    record = document["data"][member][0]
    document["data"][member] = [filled(record, odd) for odd in ODD]
    ft.sandbox.fault("body", path="/v1/.*", data=json.dumps(document), times=None)
    result = run(ft, *argv, check=0)
    safe(result.stdout + result.stderr)
    assert result.stdout.count("\n") >= len(ODD) + 1
    result = run(ft, *argv, "--json", check=0)
    assert result.json == document
    safe(result.stdout)


@pytest.mark.parametrize("name", ["me", "get", "show"])
def test_every_field_may_hold_anything(ft: Runner, name: str) -> None:
    argv = SAMPLES[name]
    document = ft(*argv, "--json", check=0).json
    for odd in ODD:
        ft.sandbox.fault("body", path="/v1/.*", data=json.dumps(filled(document, odd)))
        result = run(ft, *argv, check=0)
        safe(result.stdout + result.stderr)


@pytest.mark.parametrize("how", ["download", "generate"])
def test_a_record_that_is_odd_ends_no_download_in_a_traceback(
    ft: Runner, how: str, tmp_path: Path
) -> None:
    """And the file's name is a plain one."""
    argv = {"download": ("download", ID), "generate": ("generate", "a", "song")}[how]
    document = ft("get", ID, "--json", check=0).json
    names = document["data"].keys() - {"status", "audioUrl"}
    for n, odd in enumerate(ODD if how == "download" else ODD[::4]):
        directory = tmp_path / f"{how}-{n}"
        directory.mkdir()
        document["data"].update(dict.fromkeys(names, odd))
        ft.sandbox.fault(
            "body", path="/v1/generations/.+", status=200, data=json.dumps(document), times=None
        )
        run(ft, *argv, cwd=directory, check=0)
        ft.sandbox.heal()
        (name,) = os.listdir(directory)
        assert re.fullmatch(r"[^/\x00-\x1f]{1,60}\.mp3", name)


@pytest.mark.parametrize("field", ["id", "others"])
def test_an_odd_answer_to_a_submission(ft: Runner, field: str) -> None:
    """Never a second one, and whatever the id is, it is on the screen, or it may have been
    accepted.
    """
    names = ("id",) if field == "id" else ("status", "parameters", "creditsRemaining", "webhook")
    document = ft("generate", "--no-wait", "a song", "--json", check=0).json
    for n, odd in enumerate([*ODD, {"bpm": "x", "duration": 10**400}, {"bpm": True}], 2):
        answer = {"data": {**document["data"], **dict.fromkeys(names, odd)}}
        ft.sandbox.fault("body", method="POST", data=json.dumps(answer))
        result = run(ft, "generate", "--no-wait", "a song")
        assert result.code == 0 or "may have been accepted" in result.stderr, repr(result)
        safe(result.stdout + result.stderr)
        assert len(ft.sandbox.posts()) == n


@pytest.mark.parametrize("odd", ["\ud800", "..", "a/b", "a b", "\x00"], ids=ascii)
def test_an_odd_id_is_polled_percent_encoded(ft: Runner, odd: str) -> None:
    ft.sandbox.fault("body", method="POST", data=json.dumps({"data": {"id": odd}}))
    assert "(NOT_FOUND)" in run(ft, "generate", "a song", check=1).stderr
    assert (
        len(ft.sandbox.requests) == 2
        and "/" not in ft.sandbox.requests[1].target[len("/v1/generations/") :]
    )


@pytest.mark.parametrize("value", ["x", None, True, -1, 0, 1, 10**400, 7.5, [], {}])
def test_pages_that_lead_nowhere(ft: Runner, value: Any) -> None:
    """`--all` ends, whatever nextOffset and hasMore say."""
    page = {"data": {"generations": [], "hasMore": True, "nextOffset": value}}
    ft.sandbox.fault("body", path="/v1/generations", status=200, data=json.dumps(page), times=None)
    for argv in (("list",), ("list", "--all"), ("list", "--all", "--json")):
        assert run(ft, *argv).code == 0
    assert len(ft.sandbox.requests) <= 5


@pytest.mark.parametrize("value", ['"99"', "99.0", "null", "true", "-1", "0"])
@pytest.mark.parametrize("argv", ["list --all -q", "download --all -o x/"])
def test_a_list_that_is_cut_short_is_no_whole_one(ft: Runner, value: str, argv: str) -> None:
    """There are more records, but no way to get them."""
    for _ in range(100):
        ft.sandbox.add_generation()
    ft.sandbox.fault("literal", path="/v1/generations", field="nextOffset", value=value)
    result = run(ft, *argv.split(), check=3)
    assert "unexpected reply from the service: more records, but no next page" in result.stderr
    assert not any(request.origin == "media" for request in ft.sandbox.requests)


def test_pages_without_an_end(ft: Runner) -> None:
    for n in range(1, 60):
        page = {"data": {"generations": [], "hasMore": True, "nextOffset": n}}
        ft.sandbox.fault("body", path="/v1/generations", status=200, data=json.dumps(page))
    assert run(ft, "list", "--all").code == 0
    assert len(ft.sandbox.requests) == 1


def test_a_playlist_whose_id_leads_elsewhere(ft: Runner) -> None:
    """Its id is percent-encoded, or refused: it cannot change the request's path."""
    for odd in ("../../v1/me", "a/b", "..", ".", "", "\ud800", "a\r\nX-Evil: 1", "?x", "#"):
        page = {"data": {"playlists": [{"id": odd, "name": "evil"}]}}
        ft.sandbox.fault("body", path="/v1/playlists", data=json.dumps(page))
        assert run(ft, "playlist", "show", "evil").code in (1, 2)
    paths = {request.path for request in ft.sandbox.requests}
    assert paths == {"/v1/playlists", "/v1/playlists/%3Fx", "/v1/playlists/%23"}


@pytest.mark.parametrize(
    "document",
    [
        [],
        {},
        {"error": None},
        {"error": "no"},
        {"error": []},
        {"error": {"code": 7, "message": {"a": 1}, "retryAfter": "soon"}},
        {"error": {"code": "", "message": "", "retryAfter": -1}},
    ],
)
def test_an_error_whose_document_is_odd(ft: Runner, document: Any) -> None:
    ft.sandbox.fault("body", data=json.dumps(document), status=402)
    assert "error: HTTP 402 Payment Required" in run(ft, "me", check=1).stderr


# --- control characters ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", SAMPLES)
def test_control_characters_in_every_field(ft: Runner, name: str) -> None:
    """Escapes, bidi, line ends: made visible in text, escaped in JSON, on a pipe and on a
    terminal.
    """
    argv = SAMPLES[name]
    document = ft(*argv, "--json", check=0).json
    changed = filled(document, NASTY)
    ft.sandbox.fault("body", path="/v1/.*", data=json.dumps(changed), times=None)
    plain = run(ft, *argv)
    assert "\\x1b]0;title" in plain.stdout
    safe(plain.stdout + plain.stderr)
    as_json = run(ft, *argv, "--json")
    assert as_json.json == changed
    safe(as_json.stdout)
    shown = ft.tty(*argv, "--no-color", columns=200).finish()
    assert shown.code == 0
    safe(shown.stdout.replace("\r\n", "\n").replace("\r\x1b[K", ""))


@pytest.mark.parametrize("path", ["/v1/me", "/v1/generations/bulk-delete", "/v1/generations"])
def test_control_characters_in_messages_of_the_server(ft: Runner, path: str) -> None:
    argv = {"/v1/me": ("me",), "/v1/generations": ("generate", "--no-wait", "x")}.get(
        path, ("delete", "--yes", ID)
    )
    error = {"error": {"code": "E" + NASTY, "message": "M" + NASTY, "details": NASTY}}
    ft.sandbox.fault("body", path=path, status=403, data=json.dumps(error))
    result = run(ft, *argv)
    assert result.code == 1 and "error: M\\x1b]0;title" in result.stderr
    safe(result.stdout + result.stderr)
    assert result.stderr.count("\n") == result.stderr.count("error: ") + result.stderr.count(
        "warning: "
    )


@pytest.mark.parametrize("verbose", [False, True])
def test_control_characters_in_headers_and_statuses(ft: Runner, verbose: bool) -> None:
    """Which -v logs, and a refused redirect shows."""
    head = (
        "HTTP/1.1 302 Odd \x1b[2J\r\nLocation: https://\x1b[31m\x9b\u00ad\r\nX-\x1b[2J: "
        "\x1b]0;x\x07\x85\r\n\r\n"
    )
    ft.sandbox.fault("raw", data=head.encode("latin-1"))
    result = run(ft, *(["-v"] if verbose else []), "me")
    assert result.code == 3
    safe(result.stderr)


def test_control_characters_in_the_reason_of_one_id(ft: Runner) -> None:
    answer = {"data": {"deleted": [], "errors": [{"id": ID, "error": NASTY}]}}
    ft.sandbox.fault("body", path="/v1/generations/bulk-delete", data=json.dumps(answer))
    result = run(ft, "delete", "--yes", ID, check=1)
    assert f"warning: {ID}: \\x1b]0;title" in result.stderr
    safe(result.stderr)


def test_a_failed_generation_says_why_in_safe_characters(ft: Runner) -> None:
    record = {"data": {"id": ID, "status": "failed", "errorMessage": NASTY}}
    ft.sandbox.fault("body", path="/v1/generations/.+", data=json.dumps(record))
    result = run(ft, "generate", "a song")
    assert result.code == 1
    safe(result.stderr)
    assert "error: \\x1b]0;title" in result.stderr


def test_a_server_that_repeats_the_key_does_not_get_it_printed(ft: Runner) -> None:
    key = ft.sandbox.key
    error = {"error": {"code": "INVALID_API_KEY", "message": f"no such key: {key}"}}
    ft.sandbox.fault("body", path="/v1/me", status=401, data=json.dumps(error))
    ft.sandbox.fault("record", path="/v1/me", email=key, name=key, times=None)
    for argv in (("-v", "me"), ("-v", "me"), ("me", "--json")):
        result = run(ft, *argv)
        assert (
            key not in result.stdout + result.stderr and key[:12] in result.stdout + result.stderr
        )


# --- depth, size, numbers -------------------------------------------------------------------------


@pytest.mark.parametrize("name", COMMANDS)
def test_documents_that_cannot_be_parsed(ft: Runner, name: str) -> None:
    """What else cannot be parsed is in tests/test_faults.py: all commands read by one function."""
    argv, path = COMMANDS[name]
    ft.sandbox.fault("body", path=path, status=200, data="[" * 10**5 + "]" * 10**5, times=None)
    # It polls on to the end of its 5 minutes.
    assert run(ft, *argv).code == (1 if name == "polls" else 3)


@pytest.mark.parametrize("text", ["-1e999", "Infinity", "-Infinity", "1" * 4301])
def test_numbers_that_are_none(ft: Runner, text: str) -> None:
    ft.sandbox.fault("literal", value=text, times=None)
    assert run(ft, "me", "--json").code == 3


@pytest.mark.parametrize("levels", [50, 97])
def test_nesting_within_reason(ft: Runner, levels: int) -> None:
    ft.sandbox.fault("literal", value="[" * levels + "]" * levels)
    assert (
        json.dumps(run(ft, "me", "--json", check=0).json["data"]["unknown"])
        == "[" * levels + "]" * levels
    )


def test_nesting_that_json_would_take_and_people_do_not_send(ft: Runner) -> None:
    ft.sandbox.fault("literal", value="[" * 150 + "]" * 150, times=None)
    run(ft, "me", "--json", check=3)


def test_an_integer_of_4300_digits_passes_through(ft: Runner) -> None:
    ft.sandbox.fault("literal", value="7" * 4300)
    assert '"unknown": ' + "7" * 4300 in run(ft, "me", "--json", check=0).stdout


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ulimit -v")
@pytest.mark.parametrize("announced", [True, False])
@pytest.mark.skipif(PYPY, reason="takes more to begin with")
def test_200_mb_of_json_are_not_read(ft: Runner, announced: bool) -> None:
    if announced:
        ft.sandbox.fault("huge", times=None)
    else:
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n"
        ft.sandbox.fault("raw", data=head + b" " * 200_000_000, times=None)
    result = ft.sh("ulimit -v 250000; ft me", check=3)
    assert "is too long" in result.stderr and len(ft.sandbox.requests) == 1


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ulimit -v")
@pytest.mark.skipif(PYPY, reason="takes more to begin with")
def test_200_mb_of_error_are_not_read(ft: Runner) -> None:
    ft.sandbox.fault("raw", data=b"HTTP/1.1 403 No\r\n\r\n" + b" " * 200_000_000)
    assert "error: HTTP 403 No\n" in ft.sh("ulimit -v 250000; ft me", check=1).stderr


FRAMINGS: dict[str, Callable[[bytes], bytes]] = {
    "announced": lambda body: b"Content-Length: %d\r\n\r\n%b" % (len(body), body),
    "chunked": lambda body: (
        b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    ),
    "until the end": lambda body: b"\r\n" + body,
}


@pytest.mark.parametrize("framing", FRAMINGS.values(), ids=FRAMINGS)
@pytest.mark.parametrize("more", [0, 1])
def test_16_mib_of_json_are_read_and_not_a_byte_more(
    ft: Runner, framing: Callable[[bytes], bytes], more: int
) -> None:
    body = b'{"data": {"unknown": 7}}'.ljust((16 << 20) + more)
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
    ft.sandbox.fault("raw", data=head + framing(body), times=None)
    result = run(ft, "me", "--json", check=3 if more else 0)
    assert len(ft.sandbox.requests) == 1
    if more:
        assert "is too long" in result.stderr
    else:
        assert result.json == {"data": {"unknown": 7}}


def test_an_answer_that_announces_more_is_refused_before_it_is_read(ft: Runner) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
    ft.sandbox.fault("raw", data=head + b"Content-Length: 16777217\r\n\r\n{}", times=None)
    assert "is too long" in run(ft, "me", "--json", check=3).stderr
    assert len(ft.sandbox.requests) == 1


def test_a_document_of_many_values(ft: Runner) -> None:
    """A hundred thousand lists, and a text of a million characters that need a look each."""
    odd = {"data": {"unknown": [[]] * 100_000, "email": "\u202eé\x7f🎵" * 250_000}}
    ft.sandbox.fault("body", data=json.dumps(odd))
    assert run(ft, "me", "--json", check=0, timeout=30).json == odd


def test_a_byte_order_mark_is_no_harm(ft: Runner) -> None:
    ft.sandbox.fault(
        "body", path="/v1/me", data="\ufeff" + json.dumps({"data": {"email": "a@b", "tier": "pro"}})
    )
    assert "a@b" in run(ft, "me", check=0).stdout

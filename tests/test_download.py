"""Downloads: how they are resumed, where tracks come from and go to, how they are named, several at
a time. What goes wrong on the way is in tests/test_faults.py.

A track is right when its file holds exactly `sandbox.track(id)`. After each run no hidden file may
be left.
"""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable, Iterator
from urllib.parse import quote

import jumping_clock
import pytest
import traced
from addresses import NO_SCHEME, REFUSED
from commands import TRACK
from conftest import PYPY, PYTHON, Result, Runner, Tls
from sandbox import Request, Sandbox
from waiting import await_hidden

OLD = b"what was there before"
ROOT = hasattr(os, "geteuid") and os.geteuid() == 0
posix = pytest.mark.skipif(sys.platform == "win32", reason="about POSIX files")


@pytest.fixture
def track(sandbox: Sandbox) -> str:
    return str(sandbox.add_generation(prompt="Night drive, fado", duration=240)["id"])


def names(directory: Path) -> list[str]:
    return sorted(os.listdir(directory))


def media(sandbox: Sandbox) -> list[Request]:
    return [request for request in sandbox.requests if request.origin == "media"]


def clean(result: Result) -> Result:
    """No traceback and no bug; at most one `error:` and one `hint:`; stdout has only outcomes."""
    assert "Traceback" not in result.stderr and "internal error" not in result.stderr, repr(result)
    assert result.stderr.count("error: ") == bool(result.code), repr(result)
    assert result.stderr.count("hint: ") <= 1, repr(result)
    return result


def download(ft: Runner, *argv: str, code: int = 0, **how: Any) -> Result:
    """Run `ft download`. The waits between its attempts cost no time."""
    return clean(jumping_clock.run(ft, "download", *argv, check=code, **how))


def answer(status: str, body: bytes, *headers: str) -> bytes:
    lines = [
        f"HTTP/1.1 {status}",
        "Content-Type: audio/mpeg",
        "Connection: close",
        *headers,
        "",
        "",
    ]
    return "\r\n".join(lines).encode("latin-1") + body


# --- the ordinary way -----------------------------------------------------------------------------


def test_saved_under_its_default_name(ft: Runner, here: Path, track: str) -> None:
    """`<slug>-<short-id>.mp3` in the current directory; the media host gets no key."""
    result = download(ft, track)
    name = f"night-drive-{track[:8]}.mp3"
    assert result.stdout == f"Saved to {name}\n"
    assert names(here) == [name]
    assert (here / name).read_bytes() == ft.sandbox.track(track)
    (request,) = media(ft.sandbox)
    assert "X-API-Key" not in request.headers and ft.sandbox.key not in str(request.headers)
    assert request.headers["Accept-Encoding"] == "identity"
    assert "Connection" not in request.headers, "its connection may be used again"


def test_a_bar_on_a_terminal_and_none_off_it(ft: Runner, here: Path, track: str) -> None:
    ft.sandbox.fault("drip", origin="media", size=20_000, interval=0.05)
    on = ft.tty("download", track, check=0)
    on.expect(re.compile(r"\[#+ *\] +\d+%  .* of .*B"))
    result = on.finish()
    assert result.screen() == [f"Saved to night-drive-{track[:8]}.mp3"]
    off = download(ft, track)
    assert "\r" not in off.stderr and "%" not in off.stderr


# --- resuming -------------------------------------------------------------------------------------

CUT = 5000


def first_half(sandbox: Sandbox, track: str, *headers: str) -> bytes:
    data = sandbox.track(track)
    return answer("200 OK", data[:CUT], f"Content-Length: {len(data)}", *headers)


def test_resumes_with_range_and_if_range(ft: Runner, here: Path, track: str) -> None:
    ft.sandbox.fault("short", origin="media", at=CUT)
    download(ft, track, "-o", "song.mp3")
    first, second = media(ft.sandbox)
    assert "Range" not in first.headers
    assert second.headers["Range"] == f"bytes={CUT}-"
    assert re.fullmatch('"[0-9a-f]{32}"', second.headers["If-Range"])
    assert second.status == 206
    assert (here / "song.mp3").read_bytes() == ft.sandbox.track(track)


def test_resumes_where_it_broke_off_each_time(ft: Runner, here: Path, track: str) -> None:
    ft.sandbox.fault("short", origin="media", at=CUT, times=3)
    download(ft, track, "-o", "song.mp3")
    assert [request.headers["Range"] for request in media(ft.sandbox)] == [
        None,
        f"bytes={CUT}-",
        f"bytes={2 * CUT}-",
        f"bytes={3 * CUT}-",
    ]
    assert (here / "song.mp3").read_bytes() == ft.sandbox.track(track)


def test_an_outage_between_does_not_lose_what_came(ft: Runner, here: Path, track: str) -> None:
    ft.sandbox.fault("short", origin="media", at=CUT)
    ft.sandbox.fault("status", origin="media", status=503, times=2)
    download(ft, track, "-o", "song.mp3")
    assert media(ft.sandbox)[3].status == 206
    assert (here / "song.mp3").read_bytes() == ft.sandbox.track(track)


@pytest.mark.parametrize(
    "etag",
    [
        [],
        ['ETag: W/"weak"'],
        ["ETag: bare"],
        ["ETag: "],
        ['ETag: "a"b"'],
        ['ETag: "open'],
        ['ETag: "\xff"'],
    ],
    ids=["none", "weak", "bare", "empty", "quote", "open", "latin-1"],
)
def test_without_a_strong_etag_it_starts_over(
    ft: Runner, here: Path, track: str, etag: list[str]
) -> None:
    ft.sandbox.fault("raw", origin="media", data=first_half(ft.sandbox, track, *etag))
    download(ft, track, "-o", "song.mp3")
    assert [request.headers["Range"] for request in media(ft.sandbox)] == [None, None]
    assert (here / "song.mp3").read_bytes() == ft.sandbox.track(track)


def test_a_track_that_changed_is_fetched_anew(ft: Runner, here: Path, track: str) -> None:
    ft.sandbox.fault("short", origin="media", at=CUT)
    ft.sandbox.fault("changed", origin="media")
    before = ft.sandbox.track(track)
    download(ft, track, "-o", "song.mp3")
    assert media(ft.sandbox)[1].status == 200
    assert (here / "song.mp3").read_bytes() == ft.sandbox.track(track) != before


@pytest.mark.parametrize("etag", [[], ['ETag: "one"']], ids=["asked anew", "range ignored"])
def test_a_shorter_track_that_starts_over_keeps_nothing_of_the_longer_one(
    ft: Runner, here: Path, track: str, etag: list[str]
) -> None:
    shorter = b"ID3" + b"\0" * 997
    whole = answer("200 OK", shorter, f"Content-Length: {len(shorter)}", 'ETag: "two"')
    ft.sandbox.fault("raw", origin="media", data=first_half(ft.sandbox, track, *etag))
    ft.sandbox.fault("raw", origin="media", data=whole)
    ft.sandbox.generations[track]["fileSize"] = None
    download(ft, track, "-o", "song.mp3")
    assert len(shorter) < CUT
    assert (here / "song.mp3").read_bytes() == shorter


def rest(
    total: int,
    start: int = CUT,
    last: int | None = None,
    content_range: str | None = None,
    *more: str,
) -> bytes:
    """A 206 full of the wrong bytes."""
    body = b"\0" * (total - start)
    place = content_range or f"bytes {start}-{total - 1 if last is None else last}/{total}"
    return answer(
        "206 Partial Content",
        body,
        f"Content-Length: {len(body)}",
        f"Content-Range: {place}",
        *more,
    )


WRONG: dict[str, Callable[[int], bytes]] = {
    "416": lambda total: answer(
        "416 Range Not Satisfiable", b"", f"Content-Range: bytes */{total}"
    ),
    "another start": lambda total: rest(total, CUT + 96),
    "another end": lambda total: rest(total, last=total - 2),
    "another total": lambda total: rest(
        total, content_range=f"bytes {CUT}-{total - 1}/{total + 1}"
    ),
    "an unknown total": lambda total: rest(total, content_range=f"bytes {CUT}-{total - 1}/*"),
    "no range": lambda total: answer(
        "206 Partial Content", b"\0" * (total - CUT), f"Content-Length: {total - CUT}"
    ),
    "garbage": lambda total: rest(total, content_range="some bytes"),
    "another ETag": lambda total: rest(total, CUT, None, None, 'ETag: "new"'),
    "two ranges": lambda total: rest(
        total, content_range=f"bytes {CUT}-{CUT}/{total}, {CUT + 1}-{total - 1}/{total}"
    ),
}


@pytest.mark.parametrize(
    "etag", [[], ["ETag: "], ['ETag: W/"one"'], ['ETag: "one"', 'ETag: "two"']]
)
def test_a_rest_that_nothing_proves(ft: Runner, here: Path, track: str, etag: list[str]) -> None:
    """A 206 without the ETag that was asked for may be of another version (RFC 9110, 15.3.7)."""
    total = len(ft.sandbox.track(track))
    half = first_half(ft.sandbox, track, 'ETag: "one"')
    ft.sandbox.fault("raw", origin="media", data=half)
    ft.sandbox.fault("raw", origin="media", data=rest(total, CUT, None, None, *etag))
    download(ft, track, "-o", "song.mp3")
    asked = [request.headers["Range"] for request in media(ft.sandbox)]
    assert asked == [None, f"bytes={CUT}-", None]
    assert (here / "song.mp3").read_bytes() == ft.sandbox.track(track)


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_a_wrong_answer_to_the_range_starts_over(
    ft: Runner, here: Path, track: str, wrong: Callable[[int], bytes]
) -> None:
    """A 206 is accepted only if its Content-Range is exactly what was asked for."""
    ft.sandbox.fault("short", origin="media", at=CUT)
    ft.sandbox.fault("raw", origin="media", data=wrong(len(ft.sandbox.track(track))))
    download(ft, track, "-o", "song.mp3")
    assert [request.headers["Range"] for request in media(ft.sandbox)] == [
        None,
        f"bytes={CUT}-",
        None,
    ]
    assert (here / "song.mp3").read_bytes() == ft.sandbox.track(track)


@pytest.mark.parametrize("kind", ["no-range", "wrong-range", "ignore-if-range", "chunked"])
def test_hosts_that_range_badly(ft: Runner, here: Path, track: str, kind: str) -> None:
    ft.sandbox.fault("short", origin="media", at=CUT)
    ft.sandbox.fault(kind, origin="media", times=None)
    download(ft, track, "-o", "song.mp3")
    assert (here / "song.mp3").read_bytes() == ft.sandbox.track(track)


def test_an_encoded_rest_is_refused(ft: Runner, here: Path, track: str) -> None:
    total = len(ft.sandbox.track(track))
    (here / "song.mp3").write_bytes(OLD)
    tag = 'ETag: "one"'
    ft.sandbox.fault("raw", origin="media", data=first_half(ft.sandbox, track, tag))
    ft.sandbox.fault(
        "raw", origin="media", data=rest(total, CUT, None, None, tag, "Content-Encoding: gzip")
    )
    download(ft, track, "-o", "song.mp3", code=3)
    assert (here / "song.mp3").read_bytes() == OLD
    assert names(here) == ["song.mp3"]


# --- redirects and addresses ----------------------------------------------------------------------


def test_five_redirects_are_followed_without_the_key(ft: Runner, here: Path, track: str) -> None:
    ft.sandbox.fault("redirect", origin="media", times=5)
    download(ft, track, "-o", "song.mp3")
    assert (here / "song.mp3").read_bytes() == ft.sandbox.track(track)
    assert len(media(ft.sandbox)) == 6
    assert not any("X-API-Key" in request.headers for request in media(ft.sandbox))


@pytest.mark.parametrize(
    ("location", "asked"),
    [
        ("{media}/audio/ID.mp3#t=10", "/audio/ID.mp3"),
        ("/audio/ID.mp3?signature=a%2Fb#", "/audio/ID.mp3?signature=a%2Fb"),
        ("#a/b?c", "/audio/ID.mp3"),
    ],
)
def test_a_redirect_is_followed_without_the_fragment_of_its_address(
    ft: Runner, here: Path, track: str, location: str, asked: str
) -> None:
    ft.sandbox.fault("redirect", origin="media", location=location.replace("ID", track))
    download(ft, track, "-o", "song.mp3")
    assert (here / "song.mp3").read_bytes() == ft.sandbox.track(track)
    assert media(ft.sandbox)[1].target == asked.replace("ID", track)


def test_six_redirects_are_too_many(ft: Runner, here: Path, track: str) -> None:
    ft.sandbox.fault("redirect", origin="media", times=None)
    assert "more than 5 redirects" in download(ft, track, code=3).stderr
    assert len(media(ft.sandbox)) == 6
    assert names(here) == []


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_to_the_api_carries_no_key(
    ft: Runner, here: Path, track: str, status: int
) -> None:
    ft.sandbox.fault("redirect", origin="media", status=status, location="{api}/v1/me")
    download(ft, track, code=3)
    assert ft.sandbox.requests[-1].path == "/v1/me"
    assert "X-API-Key" not in ft.sandbox.requests[-1].headers
    assert names(here) == []


@pytest.mark.parametrize(
    "address", [*REFUSED, *NO_SCHEME, "/etc/passwd", None, 7, {}, []], ids=repr
)
def test_an_audio_url_that_is_none(ft: Runner, here: Path, address: Any) -> None:
    """https (and http on loopback) only: nothing is opened, nothing is written."""
    track = ft.sandbox.add_generation(audioUrl=address)["id"]
    download(ft, track, code=3)
    assert names(here) == []
    assert len(ft.sandbox.requests) == 1


@pytest.mark.parametrize(
    ("address", "sent"),
    [
        ("/a b.mp3", "/a%20b.mp3"),
        ("/caf\u00e9.mp3", "/caf%C3%A9.mp3"),
        ("/\u591c.mp3?x=\u591c y", "/%E5%A4%9C.mp3?x=%E5%A4%9C%20y"),
        ("/a.mp3#t=10", "/a.mp3"),
        ("/a%20b%c3.mp3?x=%2F", "/a%20b%c3.mp3?x=%2F"),
        ("/a|b^c`{d}.mp3", "/a%7Cb%5Ec%60%7Bd%7D.mp3"),
        ("", ""),
    ],
)
@pytest.mark.parametrize("redirected", [False, True])
def test_an_address_is_quoted(
    ft: Runner, here: Path, track: str, address: str, sent: str, redirected: bool
) -> None:
    """As a browser does with what a URL cannot hold; what is quoted stays as it is."""
    url = ft.sandbox.media_url + address
    if redirected:
        location = (
            url.encode("utf-8").decode("latin-1") if address.isascii() else quote(url, ":/?=")
        )
        ft.sandbox.fault("redirect", origin="media", location=location)
    else:
        track = ft.sandbox.add_generation(audioUrl=url)["id"]
    download(ft, track, code=3)  # nothing is there
    assert media(ft.sandbox)[-1].target == (sent or "/")


@pytest.mark.parametrize(
    "address",
    [*(a for a in REFUSED if "\r" not in a), "http://[", "http://\x01", "https://xn--a.invalid:0"],
    ids=repr,
)
def test_a_redirect_that_leads_nowhere(ft: Runner, here: Path, track: str, address: str) -> None:
    ft.sandbox.fault("redirect", origin="media", location=address)
    download(ft, track, code=3)
    assert names(here) == []
    assert len(media(ft.sandbox)) == 1


@pytest.mark.parametrize("address", ["//", "?", "\xff\xfe"])
def test_a_redirect_that_leads_on_and_on(ft: Runner, here: Path, address: str) -> None:
    ft.sandbox.fault("redirect", origin="media", location=address, times=None)
    download(ft, TRACK, code=3)
    assert names(here) == []


def test_a_redirect_to_another_machine_must_be_https(ft: Runner, here: Path, track: str) -> None:
    ft.sandbox.fault("redirect", origin="media", location="http://10.0.0.1/x.mp3")
    assert "must be https" in download(ft, track, code=3).stderr


@pytest.fixture
def secure(ft: Runner, tls: Tls) -> Iterator[Sandbox]:
    """The service behind TLS, and `ft` set up for it."""
    with Sandbox(tls=tls.context, rate_limits=False) as sandbox:
        ft.config({"baseUrl": sandbox.api_url})
        yield sandbox


def test_never_from_https_to_http(
    ft: Runner, here: Path, secure: Sandbox, track: str, tls: Tls
) -> None:
    """`track` is served by the other sandbox, in the clear."""
    plain = f"{ft.sandbox.media_url}/audio/{track}.mp3"
    redirected = secure.add_generation()["id"]
    secure.fault("redirect", origin="media", location=plain)
    direct = secure.add_generation(audioUrl=plain)["id"]
    for identifier in (redirected, direct):
        download(ft, identifier, code=3, env={"SSL_CERT_FILE": str(tls.ca_file)})
    assert names(here) == []
    assert ft.sandbox.requests == []


def test_over_tls(ft: Runner, here: Path, secure: Sandbox, tls: Tls) -> None:
    track = secure.add_generation()["id"]
    secure.fault("short", origin="media", at=CUT)
    download(ft, track, "-o", "song.mp3", env={"SSL_CERT_FILE": str(tls.ca_file)})
    assert (here / "song.mp3").read_bytes() == secure.track(track)


# --- records that have no track -------------------------------------------------------------------


def test_a_track_that_is_not_completed(ft: Runner, here: Path) -> None:
    track = ft.sandbox.add_generation(status="processing")["id"]
    result = download(ft, track, code=1)
    assert "error: the track is not completed: processing\n" in result.stderr
    assert "--wait" in result.stderr
    assert names(here) == []


def test_a_failed_one_says_why(ft: Runner, here: Path) -> None:
    track = ft.sandbox.add_generation(status="failed")["id"]
    for flags in ([], ["--wait"]):
        assert (
            "error: The model could not follow this prompt\n"
            in download(ft, track, *flags, code=1).stderr
        )


# --- where it is written --------------------------------------------------------------------------


@pytest.mark.parametrize("output", ["there", "there/", "new/", "a/b/c/"])
def test_into_a_directory(ft: Runner, here: Path, track: str, output: str) -> None:
    (here / "there").mkdir()
    path = os.path.join(output, f"night-drive-{track[:8]}.mp3")
    assert download(ft, track, "-o", output).stdout == f"Saved to {path}\n"
    assert (here / path).read_bytes() == ft.sandbox.track(track)


@pytest.mark.parametrize(
    "output", ["-song.mp3", " song .mp3", "a/b/song.mp3", "Ünïcödé 🎵.mp3", "./-"]
)
def test_into_a_file(ft: Runner, here: Path, track: str, output: str) -> None:
    """`Saved to` prints the path as -o gave it."""
    assert download(ft, track, f"--output={output}").stdout == f"Saved to {output}\n"
    assert (here / output).read_bytes() == ft.sandbox.track(track)


def test_replaces_a_file(ft: Runner, here: Path, track: str) -> None:
    (here / "song.mp3").write_bytes(OLD * 1_000_000)
    download(ft, track, "-o", "song.mp3")
    assert (here / "song.mp3").read_bytes() == ft.sandbox.track(track)


@posix
@pytest.mark.parametrize("mask", ["022", "077", "002"])
def test_its_mode_is_the_umask_s(ft: Runner, here: Path, track: str, mask: str) -> None:
    ft.sh(f"umask {mask}; ft download {track} -o song.mp3", check=0)
    assert stat.S_IMODE((here / "song.mp3").stat().st_mode) == 0o666 & ~int(mask, 8)


@posix
def test_a_track_that_is_shorter_than_its_record_says(ft: Runner, here: Path, track: str) -> None:
    """Whole as far as HTTP can tell. It is better than nothing, but not than a longer file."""
    short = ft.sandbox.track(track)
    size = len(short)
    ft.sandbox.generations[track]["fileSize"] = size + 1
    for old in (b"", OLD, b"x" * (size + 1)):
        if old:
            (here / "song.mp3").write_bytes(old)
        is_longer = len(old) > size
        result = ft("download", track, "-o", "song.mp3", check=3 if is_longer else 0)
        assert f" sent {size} of the {size + 1} bytes that the record says" in result.stderr
        assert ("song.mp3 stays as it was" in result.stderr) == is_longer
        assert (here / "song.mp3").read_bytes() == (old if is_longer else short)


@pytest.mark.parametrize("page", [" \r\n<!DOCTYPE html>", "<html>", "<?xml ?>", '{"error": 1}'])
def test_a_page_that_is_called_a_track(ft: Runner, here: Path, track: str, page: str) -> None:
    """As hotels and companies put them in place of anything."""
    ft.sandbox.generations[track]["fileSize"] = None
    kind = {"type": "application/octet-stream", "status": 200}
    ft.sandbox.fault("body", origin="media", data=page, **kind)
    (here / "song.mp3").write_bytes(OLD)
    result = ft("download", track, "-o", "song.mp3", check=3)
    assert "error: unexpected reply from 127.0.0.1:" in result.stderr
    assert (here / "song.mp3").read_bytes() == OLD


def test_through_a_link(ft: Runner, here: Path, track: str) -> None:
    """The link stays one; its target is replaced, or made when it dangles."""
    (here / "far").mkdir()
    (here / "far" / "old.mp3").write_bytes(OLD)
    for name, target in (("link", "far/old.mp3"), ("dangling", "far/new.mp3"), ("twice", "link")):
        (here / name).symlink_to(target)
        download(ft, track, "-o", name)
        assert os.readlink(here / name) == target
        assert (here / name).read_bytes() == ft.sandbox.track(track)
    assert names(here / "far") == ["new.mp3", "old.mp3"]


UNWRITABLE = {
    "a full device": (lambda here: None, "/dev/full"),
    "a link to a device": (lambda here: (here / "link").symlink_to("/dev/full"), "link"),
    "a file nobody may write": (lambda here: (here / "file").touch(0o444), "file"),
    "a loop of links": (lambda here: (here / "loop").symlink_to("loop"), "loop"),
    "below a file": (lambda here: (here / "file").write_bytes(OLD), "file/song.mp3"),
    "a name too long": (lambda here: None, "x" * 300 + ".mp3"),
    "a directory too long": (lambda here: None, "x" * 300 + "/song.mp3"),
}


@posix
@pytest.mark.parametrize("how", UNWRITABLE.values(), ids=UNWRITABLE)
@pytest.mark.parametrize("command", ["download", "generate"])
def test_a_place_that_is_refused(
    ft: Runner, here: Path, track: str, how: Any, command: str
) -> None:
    """A regular file or nothing, found out before anything is asked for, and before a credit is
    spent.
    """
    prepare, output = how
    prepare(here)
    before = names(here)
    result = clean(ft(command, track, "-o", output, check=1, timeout=20))
    assert f"error: cannot write {output}: " in result.stderr
    assert ft.sandbox.requests == []
    assert names(here) == before
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_its_default_name_is_a_directory(ft: Runner, here: Path, track: str) -> None:
    name = f"night-drive-{track[:8]}.mp3"
    (here / name).mkdir()
    assert f"error: cannot write {name}: it is a directory" in download(ft, track, code=1).stderr
    assert names(here) == [name] and names(here / name) == []


@pytest.mark.parametrize("command", ["download", "generate"])
def test_an_empty_output(ft: Runner, here: Path, track: str, command: str) -> None:
    clean(ft(command, track, "-o", "", check=2))
    assert ft.sandbox.requests == []


@posix
@pytest.mark.needs("setpriv")
@pytest.mark.parametrize("command", ["download", "generate"])
def test_a_read_only_directory(ft: Runner, here: Path, track: str, command: str) -> None:
    """Root, who may write everywhere, is run without that capability."""
    (here / "song.mp3").write_bytes(OLD)
    here.chmod(0o555)
    drop = ["setpriv", "--inh-caps=-dac_override", "--bounding-set=-dac_override"] if ROOT else []
    result = clean(
        ft.start(command, track, "-o", "song.mp3", _program=[*drop, *ft.argv], check=1).finish()
    )
    assert "error: cannot write song.mp3: Permission denied\n" in result.stderr
    assert ft.sandbox.requests == []
    assert (here / "song.mp3").read_bytes() == OLD
    assert names(here) == ["song.mp3"]


@posix
def test_a_file_that_may_not_grow(ft: Runner, here: Path, track: str) -> None:
    """As with a full disk, but for everybody: the limit of `ulimit -f`, 512 or 1024 bytes a
    unit.
    """
    (here / "song.mp3").write_bytes(OLD)
    result = clean(ft.sh(f"ulimit -f 20; ft download {track} -o song.mp3", check=1))
    assert "error: cannot write song.mp3: File too large\n" in result.stderr
    assert (here / "song.mp3").read_bytes() == OLD
    assert names(here) == ["song.mp3"]
    assert len(media(ft.sandbox)) == 1


@pytest.mark.needs("strace")
@pytest.mark.skipif(sys.platform != "linux", reason="strace")
def test_a_track_is_on_the_disk_before_it_gets_its_name(ft: Runner, here: Path, track: str) -> None:
    """After a power failure the file contains the old track or the new one, whole."""
    (here / "song.mp3").write_bytes(OLD)
    steps = traced.replacing(here / "song.mp3", ft, "download", track, "-o", "song.mp3", check=0)
    assert steps == ["write", "fsync", "rename"]
    assert (here / "song.mp3").read_bytes() == ft.sandbox.track(track)


BUSY = """
import os
def refuse_once(path, *args, unlink=os.unlink, **options):
    os.unlink = os.remove = unlink
    with open({!r}, "w") as log:
        print(path, file=log)
    raise PermissionError(13, "Permission denied", path)
os.unlink = os.remove = refuse_once
"""


@pytest.mark.parametrize(("command", "code"), [("download", 3), ("generate", 0)])
def test_a_hidden_file_that_cannot_be_removed_at_first_is_removed_at_the_end(
    ft: Runner, here: Path, track: str, command: str, code: int
) -> None:
    """Windows refuses while a virus scanner reads the file. A failing download leaves such a file,
    and so does `generate`, which tries out whether it may write before it spends a credit.
    """
    (here / "song.mp3").write_bytes(OLD)
    if command == "download":
        ft.sandbox.fault("short", origin="media", times=None)
    busy = BUSY.format(str(ft.home / "refused"))
    argv = (command, track, "-o", "song.mp3")
    clean(jumping_clock.run(ft, *argv, changes=busy, check=code))
    refused = Path((ft.home / "refused").read_text().strip())
    assert refused.parent == here and refused.name.startswith(".")
    assert names(here) == ["song.mp3"]


@pytest.mark.parametrize("command", ["download", "generate"])
def test_a_hidden_file_that_somebody_moves_away(ft: Runner, here: Path, command: str) -> None:
    """No whole track is anywhere, and none is said to be."""
    track = ft.sandbox.add_generation()["id"]
    fault = ft.sandbox.fault("stall", origin="media", where="body", at=5000)
    argv = ("download", track) if command == "download" else ("generate", "a song")
    running = ft.start(*argv, "-o", "song.mp3", check=1)
    assert fault.reached.wait(20)
    await_hidden(here, 1)
    for name in names(here):
        (here / name).unlink()
    fault.release()
    result = running.finish()
    error = "error: cannot write song.mp3: its hidden file or directory was moved or removed\n"
    assert error in result.stderr
    assert command == "download" or result.stderr.endswith(" --wait -o song.mp3\n")


@pytest.fixture
def small_disk(here: Path) -> Iterator[Path]:
    disk = here / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(disk)]
    if not ROOT or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("may not mount a small file system")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.needs("mount", "umount")
def test_a_full_disk(ft: Runner, small_disk: Path, track: str) -> None:
    (small_disk / "song.mp3").write_bytes(OLD)
    argv = ("generate", "a song", "--duration", "210", "-o", "disk/song.mp3")
    result = clean(jumping_clock.run(ft, *argv, check=1))
    assert "error: cannot write disk/song.mp3: No space left on device\nhint: " in result.stderr
    assert f"ft download {ft.sandbox.book[0]} --wait -o disk/song.mp3" in result.stderr
    assert (small_disk / "song.mp3").read_bytes() == OLD
    assert names(small_disk) == ["song.mp3"]


@pytest.mark.needs("mount", "umount")
def test_what_did_not_fit_is_among_the_rest(ft: Runner, small_disk: Path) -> None:
    """And not only what was not begun. What the service refuses is not."""
    ft.sandbox.track_bytes = 60_000
    ids = [str(ft.sandbox.add_generation()["id"]) for _ in range(10)]
    result = ft("download", "nope", *ids, "-o", "disk/", check=1)
    (command,) = re.findall("hint: to get the rest: ft (download .*)", result.stderr)
    saved = {path.stem[-8:] for path in small_disk.glob("*.mp3")}
    assert sorted(command.split()[1:-2]) == sorted(i for i in ids if i[:8] not in saved)


@pytest.mark.needs("mount", "umount")
def test_a_full_disk_ends_a_download_of_many(ft: Runner, small_disk: Path) -> None:
    """The other tracks would not fit either, and would be fetched for nothing."""
    ft.sandbox.track_bytes = 40_000
    ids = [ft.sandbox.add_generation()["id"] for _ in range(60)]
    result = ft("download", *ids, "-o", "disk/", check=1)
    saved = len(list(small_disk.glob("*.mp3")))  # four at a time compete for the room
    (reported,) = re.findall("Downloaded ([0-9]+) of 60 track", result.stdout)
    assert int(reported) <= saved  # a thread may put one in place after the end
    assert 0 < saved < 4
    assert re.search("warning: 5[0-9] tracks: not downloaded\n", result.stderr)
    assert (
        "hint: to get the rest, run the same command again with `--skip-existing`\n"
        in result.stderr
    )
    assert "No space left on device" in result.stderr.splitlines()[-1]
    assert len(names(small_disk)) == saved
    assert len(media(ft.sandbox)) < 30


# A child's peak begins with that of its parent, so the parent has to be small.
LAUNCH = """
import os, sys
child = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ)
print(os.wait4(child, 0)[2].ru_maxrss)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="in kilobytes on Linux")
@pytest.mark.skipif(PYPY, reason="PyPy frees what was written when it likes")
def test_no_buffering_in_memory(ft: Runner, here: Path, track: str) -> None:
    """A big track takes as much memory as a small one, give or take 2 MB."""
    peaks = []
    for size in (1_000_000, 100_000_000):
        ft.sandbox.track_bytes = size
        program = [PYTHON, "-I", "-S", "-c", LAUNCH, *ft.argv]
        result = ft.start("download", track, "-o", "song.mp3", _program=program, check=0).finish()
        assert (here / "song.mp3").stat().st_size == size
        peaks.append(int(result.stdout.split()[-1]))
    assert abs(peaks[1] - peaks[0]) < 2000, peaks


# --- to stdout ------------------------------------------------------------------------------------


def test_to_stdout(ft: Runner, here: Path, track: str) -> None:
    """`-o -` writes the MP3 to stdout; the outcome line then goes to stderr."""
    result = download(ft, track, "-o", "-")
    assert result.stdout_bytes == ft.sandbox.track(track)
    assert "Saved to stdout" in result.stderr
    assert names(here) == []


def test_to_stdout_resumed(ft: Runner, track: str) -> None:
    ft.sandbox.fault("short", origin="media", at=CUT, times=2)
    assert download(ft, track, "-o", "-").stdout_bytes == ft.sandbox.track(track)


def test_to_stdout_what_is_written_cannot_be_taken_back(ft: Runner, track: str) -> None:
    ft.sandbox.fault("raw", origin="media", data=first_half(ft.sandbox, track))
    result = download(ft, track, "-o", "-", code=3)
    assert result.stdout_bytes == ft.sandbox.track(track)[:CUT]
    assert "cannot be resumed" in result.stderr


@pytest.mark.parametrize("command", ["download", "generate"])
def test_to_stdout_is_refused_on_a_terminal(ft: Runner, track: str, command: str) -> None:
    result = ft.tty(command, track, "-o", "-", check=2, env={"NO_COLOR": "1"}).finish()
    assert "error: will not write an MP3 to a terminal" in result.stdout
    assert ft.sandbox.requests == []


# --- several at a time ----------------------------------------------------------------------------


@pytest.fixture
def six(sandbox: Sandbox) -> list[str]:
    return [
        str(sandbox.add_generation(prompt=f"song {n}", duration=30 + n)["id"]) for n in range(6)
    ]


def test_four_at_a_time_with_one_display(ft: Runner, here: Path, six: list[str]) -> None:
    gate = ft.sandbox.hold("/audio/.*", origin="media")
    running = ft.tty("download", *six, check=0)
    for _ in range(10):  # a second of drawing, and nobody else begins
        running.expect("0 of 6 files")
    assert len(media(ft.sandbox)) == 4
    assert len(ft.sandbox.requests) == 8
    gate.release()
    result = running.finish()
    lines = result.screen()
    assert sorted(lines[:-1]) == [
        f"Saved to song-{n}-{track[:8]}.mp3" for n, track in enumerate(six)
    ]
    assert lines[-1] == "Downloaded 6 of 6 track(s)"
    for n, track in enumerate(six):
        assert (here / f"song-{n}-{track[:8]}.mp3").read_bytes() == ft.sandbox.track(track)
    assert len(names(here)) == 6


def test_several_through_faults(ft: Runner, here: Path, six: list[str]) -> None:
    ft.sandbox.fault("short", origin="media", at=CUT, times=6)
    result = download(ft, *six, "-o", "out/")
    assert result.stdout.endswith("Downloaded 6 of 6 track(s)\n")
    for n, track in enumerate(six):
        assert (here / "out" / f"song-{n}-{track[:8]}.mp3").read_bytes() == ft.sandbox.track(track)
    assert len(names(here / "out")) == 6


def test_partial_success(ft: Runner, here: Path, six: list[str]) -> None:
    """`warning: <id>: <reason>`, a summary, and exit 1, so that `… && ft delete …` is safe."""
    waiting = ft.sandbox.add_generation(status="pending")["id"]
    failed = ft.sandbox.add_generation(status="failed")["id"]
    nobody = "00000000-0000-4000-8000-000000000000"
    result = ft("download", six[0], nobody, waiting, failed, six[1], check=1)
    assert f"warning: {nobody}: Generation not found (NOT_FOUND)\n" in result.stderr
    assert f"warning: {waiting}: the track is not completed: pending\n" in result.stderr
    assert f"warning: {failed}: failed: The model could not follow this prompt\n" in result.stderr
    assert result.stdout.splitlines()[-1] == "Downloaded 2 of 5 track(s)"
    assert len(names(here)) == 2


def test_no_success_for_nothing_but_the_network(ft: Runner, here: Path, six: list[str]) -> None:
    ft.sandbox.fault("status", origin="media", status=404, times=None)
    assert "Downloaded 0 of 6 track(s)" in ft("download", *six, check=3).stdout
    waiting = ft.sandbox.add_generation(status="pending")["id"]
    assert "Downloaded 0 of 7 track(s)" in ft("download", *six, waiting, check=1).stdout
    assert names(here) == []


def test_no_success(ft: Runner, here: Path) -> None:
    result = ft("download", "abc", "def", check=1)
    assert result.stdout == "Downloaded 0 of 2 track(s)\n"
    assert result.stderr.count("warning: ") == 2
    assert result.stderr.endswith(
        "\nhint: an id has 36 characters, of which the first 6 will do: `ft list` shows them\n"
    )
    assert names(here) == []


@pytest.mark.parametrize("order", [(0, 1, 2), (0, 2, 1), (1, 0, 2)], ids=str)
def test_the_hint_of_several_failures_is_that_of_the_first_which_has_one(
    ft: Runner, here: Path, order: tuple[int, ...]
) -> None:
    """It is printed once, after all of them."""
    failures = [
        (str(ft.sandbox.add_generation(status="failed")["id"]), None),
        (str(ft.sandbox.add_generation(status="pending")["id"]), "use `--wait` to wait for it"),
        ("abc", "an id has 36 characters, of which the first 6 will do: `ft list` shows them"),
    ]
    gates = [ft.sandbox.hold(f"/v1/generations/{identifier}") for identifier, _ in failures]
    running = ft.start("download", *(identifier for identifier, _ in failures), check=1)
    for n in order:
        gates[n].release()
        running.expect(f"warning: {failures[n][0]}: ")
    stderr = running.finish().stderr
    first = next(failures[n][1] for n in order if failures[n][1])
    assert stderr.endswith(f"\nhint: {first}\n") and stderr.count("hint: ") == 1


def test_an_id_given_twice_is_fetched_once(
    ft: Runner, here: Path, track: str, six: list[str]
) -> None:
    ids = "\n".join([track, six[0], track, "", f"  {six[0]} "])
    assert "Downloaded 2 of 2 track(s)" in download(ft, "-", stdin=ids).stdout
    assert len(media(ft.sandbox)) == 2


def test_two_tracks_of_one_name(ft: Runner, here: Path) -> None:
    """The second is named, and does not replace the first."""
    ids = [f"07e8d430-0000-4000-8000-00000000000{n}" for n in range(2)]
    for identifier in ids:
        ft.sandbox.add_generation(id=identifier, prompt="same", duration=30)
    result = ft("download", *ids, check=1)
    (loser,) = [
        i for i in ids if f"warning: {i}: same-07e8d430.mp3 is the name of " in result.stderr
    ]
    (winner,) = {*ids} - {loser}
    assert (here / "same-07e8d430.mp3").read_bytes() == ft.sandbox.track(winner)
    assert "Downloaded 1 of 2 track(s)" in result.stdout


@pytest.mark.parametrize("output", ["song.mp3", "-", "old.mp3"])
def test_several_need_a_directory(ft: Runner, here: Path, six: list[str], output: str) -> None:
    (here / "old.mp3").write_bytes(OLD)
    clean(ft("download", *six, "-o", output, check=2))
    assert ft.sandbox.requests == []
    assert names(here) == ["old.mp3"]


def test_several_are_waited_for_together(ft: Runner, here: Path) -> None:
    ids = [
        str(ft.sandbox.add_generation(status="processing", prompt=f"song {n}")["id"])
        for n in range(3)
    ]
    gate = ft.sandbox.fault(
        "stall", where="request", path="/v1/generations/.+", after=3, times=None
    )
    changes = jumping_clock.jump(ft)
    running = jumping_clock.start(ft, "download", "--wait", *ids, changes=changes, check=0)
    assert gate.reached.wait(20)
    for identifier in ids:
        ft.sandbox.finish(identifier)
    gate.release()
    assert "Downloaded 3 of 3 track(s)" in running.finish().stdout


# --- names ----------------------------------------------------------------------------------------

TITLES = {
    "../../../etc/passwd": "etc-passwd",
    "/etc/passwd": "etc-passwd",
    "..": "lofi",
    ".hidden": "hidden",
    "CON": "con",
    "nul.mp3": "nul-mp3",
    "x" * 300: "x" * 40,
    "é" * 300: "é" * 40,
    "🎵" * 100: "lofi",
    "夜の図書館、ローファイ": "夜の図書館-ローファイ",
    "trailing dots...": "trailing-dots",
    "trailing space ": "trailing-space",
    "a\x00b\x1b[31mc\r\nd": "a-b-31mc-d",
    "\u202egpj.exe": "gpj-exe",
    'a/b\\c:d*e?f"g<h>i|j': "a-b-c-d-e-f-g-h-i-j",
    "-rf": "rf",
    "": "lofi",
    "Cafe\u0301 🎵 Noir": "café-noir",
}


@posix
@pytest.mark.parametrize(("title", "expected"), TITLES.items(), ids=map(ascii, TITLES))
def test_hostile_titles(ft: Runner, here: Path, title: str, expected: str) -> None:
    """Safe characters only, within the directory, short enough for every file system, no device of
    Windows.
    """
    track = ft.sandbox.add_generation(title=title, prompt="LoFi", duration=5)["id"]
    result = download(ft, track)
    assert names(here) == [f"{expected}-{track[:8]}.mp3"]
    assert result.stdout == f"Saved to {expected}-{track[:8]}.mp3\n"
    assert names(ft.home) == ["config", "here"]


@pytest.mark.parametrize(
    "identifier", ["../../x", "/etc/passwd", "..", "\x00", "", None, 7, ["a"], {}, "🎵"], ids=repr
)
def test_hostile_ids_in_the_record(ft: Runner, here: Path, track: str, identifier: Any) -> None:
    ft.sandbox.fault("record", path="/v1/generations/.*", id=identifier)
    download(ft, track)
    (name,) = names(here)
    assert re.fullmatch(r"night-drive-[\w-]{1,8}\.mp3", name), json.dumps(name)
    assert names(ft.home) == ["config", "here"]


@pytest.mark.parametrize(
    "fields", [{"title": 7}, {"title": {}}, {"title": None, "prompt": None}], ids=repr
)
def test_titles_of_the_wrong_type(
    ft: Runner, here: Path, track: str, fields: dict[str, Any]
) -> None:
    ft.sandbox.fault("record", path="/v1/generations/.*", **fields)
    download(ft, track)
    assert len(names(here)) == 1

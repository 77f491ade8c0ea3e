"""stdout, stderr and stdin as they may be: readers that go away, full devices, closed descriptors,
poor encodings.
"""

from __future__ import annotations

import json
import os
import select
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jumping_clock
import pytest
from commands import TRACK
from conftest import PYPY, Result, Runner

posix = pytest.mark.skipif(sys.platform == "win32", reason="about POSIX descriptors")
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /dev/full")
PROMPT = "Café ☕ 夜の図書館 → ✓ 🎵"

# Commands that write to stdout.
READERS = [
    ["help"],
    ["--version"],
    ["me"],
    ["list"],
    ["list", "--json"],
    ["get", "ID"],
    ["playlists"],
    ["doctor"],
    ["playlist", "show", "Focus Beats"],
    ["download", "ID", "-o", "-"],
]


@pytest.fixture
def track(ft: Runner) -> str:
    return str(ft.sandbox.add_generation(prompt=PROMPT, duration=60)["id"])


def of(argv: list[str], track: str) -> list[str]:
    return [track if word == "ID" else word for word in argv]


def words(argv: list[str]) -> str:
    return " ".join(argv)


def gone(ft: Runner, *argv: str, descriptor: str) -> tuple[int, bytes]:
    """Run it with a pipe that nobody reads as stdout or stderr; the exit code and what came on the
    other one.
    """
    reader, writer = os.pipe()
    os.close(reader)
    other = "stderr" if descriptor == "stdout" else "stdout"
    streams: dict[str, Any] = {descriptor: writer, other: subprocess.PIPE}
    process = subprocess.Popen(
        [*ft.argv, *argv], env=ft.env(), cwd=ft.cwd, stdin=subprocess.DEVNULL, **streams
    )
    os.close(writer)
    out, err = process.communicate(timeout=60)
    return process.returncode, err if descriptor == "stdout" else out


# --- readers that go away -------------------------------------------------------------------------


@posix
def test_a_paid_track_is_named_although_the_reader_of_stdout_is_gone(ft: Runner) -> None:
    code, stderr = gone(ft, "generate", "x", "--no-wait", descriptor="stdout")
    assert code == 141
    assert (
        stderr.decode() == f"hint: the track is not lost: ft download {ft.sandbox.book[0]} --wait\n"
    )


@posix
@pytest.mark.parametrize("argv", READERS, ids=words)
def test_the_reader_of_stdout_is_gone(ft: Runner, track: str, argv: list[str]) -> None:
    """Silent, 141."""
    code, stderr = gone(ft, *of(argv, track), descriptor="stdout")
    assert code == 141
    assert [line for line in stderr.splitlines() if not line.startswith(b"note: ")] == []


@posix
@pytest.mark.needs("head")
def test_head(ft: Runner, track: str) -> None:
    """It ends without a word however much it had to write."""
    ft.sandbox.track_bytes = 10_000_000
    result = ft.sh(f"{{ ft download {track} -o -; echo $? >&2; }} | head -c 10 | wc -c", check=0)
    assert result.stdout.strip() == "10"
    assert result.stderr.splitlines()[-1] == "141"
    assert (
        "Traceback" not in result.stderr
        and "Exception" not in result.stderr
        and "error" not in result.stderr
    )


@posix
def test_the_reader_of_stderr_is_gone(ft: Runner, track: str) -> None:
    """The results still come, with their exit code."""
    for argv, code in (
        (["-v", "list", "--json"], 0),
        (["get", "nothing"], 1),
        (["-v", "me", "--bad"], 2),
    ):
        got, stdout = gone(ft, *argv, descriptor="stderr")
        assert got == code
        assert (code == 0) == bool(stdout)
    assert json.loads(gone(ft, "list", "--json", descriptor="stderr")[1])["data"]


# --- a stream without a buffer --------------------------------------------------------------------


@linux
def test_nothing_is_lost_when_ft_is_stopped_and_continued(ft: Runner, track: str) -> None:
    """Python's own buffer writes the rest of what a pipe takes in part; a raw stream does not."""
    ft.sandbox.track_bytes = 1_000_000
    reader, writer = os.pipe()
    running = subprocess.Popen(
        [*ft.argv, "download", track, "-o", "-"],
        env=ft.env({"PYTHONUNBUFFERED": "1"}),
        cwd=ft.cwd,
        stdout=writer,
        stderr=subprocess.PIPE,
    )
    try:
        await_full(writer, running)
        os.close(writer)
        os.kill(running.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, running.pid, os.WSTOPPED | os.WNOWAIT)
        os.kill(running.pid, signal.SIGCONT)
        with open(reader, "rb") as pipe:
            data = pipe.read()
        assert running.wait(60) == 0
        assert data == ft.sandbox.track(track)
    finally:
        running.kill()
        running.communicate()


def await_full(writer: int, running: subprocess.Popen[bytes]) -> None:
    """Wait until the pipe is full and the process waits for room in it."""
    state, end = Path(f"/proc/{running.pid}/stat"), time.monotonic() + 60
    while (
        select.select([], [writer], [], 0)[1]
        or state.read_text().rpartition(")")[2].split()[0] != "S"
    ):
        assert running.poll() is None and time.monotonic() < end
        time.sleep(0.01)


FILLING = [
    ["list", "--limit", "99"],
    ["list", "--limit", "99", "--json"],
    ["download", "ID", "-o", "-"],
    ["delete", "--yes", "--json", "IDS"],
]


@linux
@pytest.mark.parametrize("unbuffered", [None, "1"], ids=["buffered", "unbuffered"])
@pytest.mark.parametrize("argv", FILLING, ids=words)
def test_a_disk_that_fills_up_in_the_middle(
    ft: Runner, track: str, argv: list[str], unbuffered: str | None
) -> None:
    """The limit of `ulimit -f` leaves room for the beginning."""
    ids = [str(ft.sandbox.add_generation(prompt=PROMPT)["id"]) for _ in range(99)]
    given = [word for name in argv for word in (ids if name == "IDS" else of([name], track))]
    script = f"ulimit -f 1; ft {shlex.join(given)} >file"
    result = ft.sh(script, env={"PYTHONUNBUFFERED": unbuffered}, check=1)
    assert "error: cannot write output: File too large\n" in result.stderr
    assert 0 < (ft.cwd / "file").stat().st_size <= 1024
    if argv[0] == "delete":  # what was done is reported all the same
        assert "note: Deleted 99 of 99 track(s)\n" in result.stderr


@linux
@pytest.mark.parametrize("unbuffered", [None, "1"], ids=["buffered", "unbuffered"])
@pytest.mark.parametrize("flags", [[], ["--json"]], ids=["text", "json"])
def test_a_paid_track_is_named_although_the_disk_is_nearly_full(
    ft: Runner, flags: list[str], unbuffered: str | None
) -> None:
    """The file has 1000 bytes and may have 1024."""
    (ft.cwd / "file").write_text("x" * 1000)
    script = f"ulimit -f 1; ft generate x --no-wait {shlex.join(flags)} >>file"
    result = ft.sh(script, shell="bash", env={"PYTHONUNBUFFERED": unbuffered}, check=1)
    assert result.stderr == (
        "error: cannot write output: File too large\n"
        f"hint: the track is not lost: ft download {ft.sandbox.book[0]} --wait\n"
    )


@posix
@pytest.mark.parametrize(
    "flags",
    [
        *("--no-wait >&-", "--json >&-", "--fields id >&-", "-o - >&-", "-o /dev/stdout >&-"),
        *("-o /dev/stderr 2>&-", "-o /dev/stdin <&-", "-o /dev/fd/1 >&-"),
    ],
)
def test_nothing_is_paid_for_that_a_closed_stream_would_lose(ft: Runner, flags: str) -> None:
    result = ft.sh(f"ft generate x {flags}", check=1)
    assert ("closed" in result.stderr) == ("2>&-" not in flags)
    assert ft.sandbox.requests == []
    if "-o" in flags:
        assert ft.sh(f"ft download {TRACK} {flags}", check=1).stdout == ""


@posix
def test_what_a_file_system_reports_when_a_file_is_closed(ft: Runner) -> None:
    """As NFS does for a quota that is used up."""
    changes = (
        "import errno, os\n"
        "close = os.close\n"
        "def fail(descriptor):\n"
        "    found = os.fstat(descriptor)\n"
        "    close(descriptor)\n"
        "    if os.path.samestat(found, os.fstat(1)):\n"
        "        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))\n"
        "os.close = fail\n"
        "os.dup2(os.open('file', os.O_CREAT | os.O_WRONLY), 1)\n"
    )
    result = jumping_clock.run(ft, "generate", "x", "--no-wait", changes=changes, check=1)
    assert "error: cannot write output: Disk quota exceeded\n" in result.stderr
    assert f"ft download {ft.sandbox.book[0]} --wait\n" in result.stderr


# --- devices that are full ------------------------------------------------------------------------


@linux
@pytest.mark.parametrize("argv", READERS, ids=words)
def test_stdout_is_full(ft: Runner, track: str, argv: list[str]) -> None:
    result = ft.sh(f"ft {shlex.join(of(argv, track))} >/dev/full", check=1)
    lines = [line for line in result.stderr.splitlines() if not line.startswith("note: ")]
    assert lines[0] == "error: cannot write output: No space left on device"
    assert len(lines) == 1 or lines[1].startswith("hint: ")


@linux
def test_stderr_is_full(ft: Runner) -> None:
    assert "ID" in ft.sh("ft -v list 2>/dev/full", check=0).stdout
    ft.sh("ft get nothing 2>/dev/full", check=1)
    ft.sh("ft list --bad 2>/dev/full", check=2)
    ft.sh("ft list >/dev/full 2>/dev/full", check=1)


# --- a pipe that does not block -------------------------------------------------------------------


@posix
def test_a_pipe_that_another_program_made_non_blocking_gets_everything(ft: Runner) -> None:
    """Of more than it holds, Python alone would lose the rest in silence."""
    track = ft.sandbox.add_generation(duration=200)["id"]
    for _ in range(200):
        ft.sandbox.add_generation()
    for argv in (["download", track, "-o", "-"], ["list", "--json", "--all"]):
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        with open(reader, "rb") as pipe:
            running = subprocess.Popen(
                [*ft.argv, *argv], env=ft.env(), cwd=ft.cwd, stdin=subprocess.DEVNULL, stdout=writer
            )
            deadline = time.monotonic() + 30
            while select.select([], [writer], [], 0)[1]:  # until it is full
                assert running.poll() is None and time.monotonic() < deadline
                time.sleep(0.01)
            os.close(writer)
            data = pipe.read()
        assert running.wait(30) == 0
        if argv[0] == "download":
            assert data == ft.sandbox.track(track)
        else:
            assert len(json.loads(data)["data"]["generations"]) > 200


# --- descriptors that are closed ------------------------------------------------------------------


@posix
@pytest.mark.parametrize(
    "closed", ["<&-", ">&-", "2>&-", "<&- >&-", ">&- 2>&-", "<&- 2>&-", "<&- >&- 2>&-"]
)
def test_closed_descriptors(ft: Runner, tmp_path: Path, track: str, closed: str) -> None:
    """No message lands in another stream or in a file of ours, whose descriptor might have become
    0, 1 or 2.
    """
    result = ft.sh(f"ft -v download {track} -o song.mp3 {closed}", check=0)
    assert (tmp_path / "song.mp3").read_bytes() == ft.sandbox.track(track)
    assert result.stdout == ("" if ">&-" in closed.replace("2>&-", "") else "Saved to song.mp3\n")
    assert ("> GET " in result.stderr) == ("2>&-" not in closed)


@posix
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize(
    ("command", "code"), [("list", 0), ("get nothing", 1), ("delete x", 2), ("auth login", 2)]
)
def test_closed_descriptors_and_the_exit_code(
    ft: Runner, closed: str, command: str, code: int
) -> None:
    result = ft.sh(f"ft {command} {closed}", check=code)
    assert "Traceback" not in result.stderr and "Exception" not in result.stderr
    assert "error" not in result.stdout


@posix
def test_descriptors_that_select_cannot_wait_for(ft: Runner, track: str) -> None:
    """Of a program that has over a thousand files open, and is told to write into a pipe."""
    launch = (
        "import os, resource, sys\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (2000, 2000))\n"
        "for _ in range(1100): os.set_inheritable(os.dup(2), True)\n"
        "os.set_inheritable(os.dup2(1, 1090), True)\n"
        "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])\n"
    )
    argv = (str(ft.program), "download", track, "-o", "/dev/fd/1090")
    result = ft.start("-c", launch, *argv, _program=ft.python, check=0).finish()
    assert result.stdout_bytes.startswith(ft.sandbox.track(track))


# --- encodings ------------------------------------------------------------------------------------

ENCODINGS: list[dict[str, str]] = [
    {"PYTHONIOENCODING": "ascii"},
    {"PYTHONIOENCODING": "cp1252"},
    {"PYTHONIOENCODING": "latin-1:strict"},
    {"PYTHONIOENCODING": "utf-16"},
    {"LC_ALL": "C"},
    {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    {"PYTHONIOENCODING": "cp437"},
    {"LC_ALL": "nonsense"},
]


def readable(result: Result, env: dict[str, str]) -> str:
    encoding = env.get("PYTHONIOENCODING", "utf-8").partition(":")[0]
    assert b"Traceback" not in result.stderr_bytes and b"internal" not in result.stderr_bytes
    return result.stdout_bytes.decode(encoding)


@pytest.mark.parametrize("env", ENCODINGS, ids=lambda env: " ".join(env.values()))
def test_poor_encodings(ft: Runner, track: str, env: dict[str, str]) -> None:
    """No output ever dies of an encoding error; JSON stays JSON, with the same text in it."""
    text = readable(ft("get", track, env=env, check=0), env)
    assert f"{track}" in text and ("Café" in text or "Caf\\xe9" in text)
    document = json.loads(readable(ft("get", track, "--json", env=env, check=0), env))
    assert document["data"]["prompt"] == PROMPT
    for argv in (["list"], ["doctor"], ["playlists"], ["help", "generate"]):
        readable(ft(*argv, env=env, check=0), env)


@pytest.mark.parametrize("env", ENCODINGS[:2], ids=lambda env: " ".join(env.values()))
def test_stand_ins(ft: Runner, env: dict[str, str]) -> None:
    """Where the encoding lacks ✓ and →, ASCII stands in."""
    assert readable(ft("doctor", env=env, check=0), env).startswith("OK ft v")
    stderr = ft("generate", "x", "--duration", "999", "--no-wait", env=env, check=0).stderr_bytes
    assert b"note: duration clamped from 999 -> 210" in stderr


@posix
@pytest.mark.parametrize(
    "argv",
    [
        [b"list", b"\xff"],
        [b"generate", b"caf\xe9"],
        [b"download", b"x", b"-o", b"\xed\xa0\x80"],
        [b"\xff"],
    ],
    ids=ascii,
)
def test_arguments_that_are_no_text(ft: Runner, argv: list[bytes]) -> None:
    """Surrogates in argv are refused (2)."""
    env = {name: value.encode() for name, value in ft.env().items()}
    ran = subprocess.run(
        [*map(os.fsencode, ft.argv), *argv], env=env, cwd=ft.cwd, capture_output=True, timeout=60
    )
    assert ran.returncode == 2
    assert ran.stdout == b""
    assert ran.stderr.startswith(b"error: argument ") and b"is not valid text" in ran.stderr
    assert ft.sandbox.requests == []


@posix
@pytest.mark.parametrize(
    "env", [{}, {"LC_ALL": "C"}, {"PYTHONIOENCODING": "ascii"}], ids=lambda e: " ".join(e) or "-"
)
def test_arguments_beyond_ascii(ft: Runner, tmp_path: Path, env: dict[str, str]) -> None:
    """A prompt arrives, and a name is written, as it was typed."""
    if PYPY and env.get("LC_ALL"):
        pytest.skip("PyPy has no UTF-8 mode (PEP 538, PEP 540)")
    result = ft("generate", PROMPT, "-o", "夜 🎵.mp3", env=env, speed=60, check=0)
    assert ft.sandbox.posts()[0].json["tags"] == PROMPT
    assert (tmp_path / "夜 🎵.mp3").exists(), repr(result)

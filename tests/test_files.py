"""Where a track is written when the file system is in the way: what is found out before a credit is
spent, and what becomes of a track that is paid for all the same.
"""

from __future__ import annotations

import errno
import os
import shlex
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Iterator

import jumping_clock
import pytest
from conftest import PYPY, Result, Runner
from sandbox import Sandbox

pytestmark = [pytest.mark.skipif(sys.platform == "win32", reason="about POSIX files")]
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="about Linux")
SPEED = 60
OLD = b"what was there before"
POSIX = {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.fixture
def track(sandbox: Sandbox) -> str:
    return str(sandbox.add_generation(prompt="song", duration=240)["id"])


def names(directory: Path) -> list[str]:
    return sorted(os.listdir(directory))


def await_part(directory: Path) -> str:
    """Wait until the directory contains a hidden file, and return its name."""
    end = time.monotonic() + 20
    while True:
        for name in names(directory):
            if name.endswith(".part"):
                return name
        assert time.monotonic() < end, names(directory)
        time.sleep(0.01)


def refused(ft: Runner, output: str, why: str) -> None:
    """Neither command asks for anything, and nothing changes."""
    before = names(ft.cwd)
    for command in ("generate", "download"):
        result = ft(command, "abcdef", "-o", output, check=1, timeout=20)
        assert result.stderr == f"error: cannot write {output}: {why}\n"
    assert ft.sandbox.requests == []
    assert names(ft.cwd) == before


def kept(ft: Runner, result: Result, name: str, why: str) -> str:
    """The whole track is beside its name, the error says where, and the hint's command works."""
    paid = ft.sandbox.book[-1]
    (other,) = [n for n in names(ft.cwd) if (ft.cwd / n).read_bytes() == ft.sandbox.track(paid)]
    assert f"error: cannot write {name}: {why}; the whole track is in {other}\n" in result.stderr
    command = result.stderr.rpartition("the track is not lost: ")[2].strip()
    assert command == shlex.join(["ft", "download", paid, "--wait", "-o", other])
    ft.sh(command, cwd=ft.cwd, check=0)
    assert not [n for n in names(ft.cwd) if n.startswith(".")]
    return other


# --- found out before a credit is spent -----------------------------------------------------------


@pytest.fixture
def immutable(here: Path) -> Iterator[Path]:
    """Files that are made so by a test's `chattr`."""
    yield here
    for path in (here, *here.iterdir()):
        subprocess.run(["chattr", "-i", "-a", str(path)], capture_output=True)


def chattr(flag: str, path: Path) -> None:
    if subprocess.run(["chattr", flag, str(path)], capture_output=True).returncode:
        pytest.skip("may not make a file immutable here")


@linux
@pytest.mark.needs("chattr")
@pytest.mark.parametrize("flag", ["+i", "+a"])
def test_an_immutable_file(ft: Runner, immutable: Path, flag: str) -> None:
    (immutable / "song.mp3").write_bytes(OLD)
    chattr(flag, immutable / "song.mp3")
    refused(ft, "song.mp3", "it is immutable (see `lsattr`)")


@linux
@pytest.mark.needs("chattr")
def test_a_directory_that_can_only_grow(ft: Runner, immutable: Path) -> None:
    """A hidden file could be made there, but neither renamed nor removed."""
    chattr("+a", immutable)
    refused(ft, "song.mp3", "its directory is immutable")


@linux
@pytest.mark.needs("mount", "umount")
@pytest.mark.parametrize("name", ["song.mp3", "a song\\.mp3"])
def test_a_file_that_is_mounted_by_itself(ft: Runner, here: Path, name: str) -> None:
    """As Docker does it: of the same file system, so that no device number tells."""
    for path in (here / name, ft.home / "outside"):
        path.write_bytes(OLD)
    if subprocess.run(
        ["mount", "--bind", str(ft.home / "outside"), str(here / name)], capture_output=True
    ).returncode:
        pytest.skip("may not mount")
    try:
        refused(ft, name, "it is a mount point")
        (here / "link").symlink_to(name)
        refused(ft, "link", "it is a mount point")
    finally:
        subprocess.run(["umount", "-l", str(here / name)], check=True)


def test_a_read_only_file(ft: Runner, here: Path) -> None:
    (here / "song.mp3").write_bytes(OLD)
    (here / "song.mp3").chmod(0o444)
    refused(ft, "song.mp3", "it is read-only")


# As vfat answers.
FAT = """
import errno, os
real_open, real_replace, real_rename = os.open, os.replace, os.rename
def refuse(path):
    if set(os.path.basename(path)) & set('?:"'):
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
def open_(path, *more):
    refuse(path)
    return real_open(path, *more)
def replace(old, new):
    refuse(new)
    real_replace(old, new)
os.open, os.replace, os.rename = open_, replace, replace
"""


@pytest.mark.parametrize("command", ["generate", "download"])
def test_a_name_that_the_file_system_refuses(ft: Runner, here: Path, command: str) -> None:
    result = jumping_clock.run(
        ft, command, "abcdef", "-o", "what: a song?.mp3", changes=FAT, check=1
    )
    assert result.stderr == "error: cannot write what: a song?.mp3: Invalid argument\n"
    assert ft.sandbox.requests == [] and names(here) == []


@pytest.mark.parametrize("name", ["x" * 251 + ".mp3", "é" * 125 + ".mp3", "夜" * 83 + ".mp3"])
def test_a_name_as_long_as_the_file_system_allows(
    ft: Runner, here: Path, track: str, name: str
) -> None:
    ft("download", track, "-o", name, check=0)
    assert names(here) == [name]


# --- paid for, and then refused -------------------------------------------------------------------


def test_a_track_whose_name_is_refused_in_the_end_is_kept(ft: Runner, here: Path) -> None:
    """Its own name with something added is refused as well."""
    late = FAT.replace("os.open, os.replace, os.rename = ", "_, os.replace, os.rename = ")
    argv = ("generate", "x", "-o", "what?.mp3")
    result = jumping_clock.start(ft, *argv, changes=late, speed=SPEED, check=1).finish()
    assert kept(ft, result, "what?.mp3", "Invalid argument").startswith("track-")


@linux
@pytest.mark.needs("chattr")
def test_a_file_that_becomes_immutable_meanwhile(ft: Runner, immutable: Path) -> None:
    (immutable / "song.mp3").write_bytes(OLD)
    gate = ft.sandbox.hold("/audio/.*", origin="media")
    running = ft.start("generate", "x", "-o", "song.mp3", speed=SPEED, check=1)
    assert gate.reached.wait(20)
    chattr("+i", immutable / "song.mp3")
    gate.release()
    result = running.finish()
    # Found when the download begins, so nothing has been downloaded yet.
    assert "error: cannot write song.mp3: it is immutable (see `lsattr`)\n" in result.stderr
    command = result.stderr.rpartition("the track is not lost: ")[2].strip()
    ft.sh(command, cwd=immutable, check=0)
    (other,) = {*names(immutable)} - {"song.mp3"}
    assert (immutable / other).read_bytes() == ft.sandbox.track(ft.sandbox.book[-1])
    assert (immutable / "song.mp3").read_bytes() == OLD


@linux
@pytest.mark.needs("chattr")
def test_a_file_that_becomes_immutable_while_it_is_downloaded(ft: Runner, immutable: Path) -> None:
    (immutable / "song.mp3").write_bytes(OLD)
    fault = ft.sandbox.fault("stall", origin="media", where="body", at=5000)
    running = ft.start("generate", "x", "-o", "song.mp3", speed=SPEED, check=1)
    assert fault.reached.wait(20)
    await_part(immutable)
    chattr("+i", immutable / "song.mp3")
    fault.release()
    other = kept(ft, running.finish(), "song.mp3", "Operation not permitted")
    assert other.startswith("song-") and (immutable / "song.mp3").read_bytes() == OLD


# --- fsync ----------------------------------------------------------------------------------------


def syncing(ft: Runner, track: str, code: str, check: int) -> Result:
    number = f"errno.{code}"
    changes = (
        "import errno, os\n"
        f"def fsync(descriptor): raise OSError({number}, os.strerror({number}))\n"
        "os.fsync = fsync\n"
    )
    return jumping_clock.run(ft, "download", track, "-o", "song.mp3", changes=changes, check=check)


@pytest.mark.parametrize("code", ["EINVAL", "ENOTSUP", "ENOSYS", "EROFS", "EPERM", "ENOTTY"])
def test_a_file_system_without_fsync(ft: Runner, here: Path, track: str, code: str) -> None:
    assert syncing(ft, track, code, 0).stdout == "Saved to song.mp3\n"
    assert (here / "song.mp3").read_bytes() == ft.sandbox.track(track)


@pytest.mark.parametrize("code", ["EIO", "ENOSPC", "EDQUOT"])
def test_an_fsync_that_means_lost_data(ft: Runner, here: Path, track: str, code: str) -> None:
    (here / "song.mp3").write_bytes(OLD)
    why = os.strerror(getattr(errno, code))
    assert f"error: cannot write song.mp3: {why}\n" in syncing(ft, track, code, 1).stderr
    assert names(here) == ["song.mp3"] and (here / "song.mp3").read_bytes() == OLD


# --- modes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664, 0o755, 0o200])
def test_a_file_that_is_replaced_keeps_its_mode(
    ft: Runner, here: Path, track: str, mode: int
) -> None:
    """While the track arrives, the hidden file is not more open than that."""
    (here / "song.mp3").write_bytes(OLD)
    (here / "song.mp3").chmod(mode)
    fault = ft.sandbox.fault("stall", origin="media", where="body", at=5000)
    running = ft.start("download", track, "-o", "song.mp3", check=0)
    assert fault.reached.wait(20)
    part = await_part(here)
    assert not stat.S_IMODE((here / part).stat().st_mode) & ~mode
    fault.release()
    running.finish()
    assert stat.S_IMODE((here / "song.mp3").stat().st_mode) == mode


# --- written to and never replaced ----------------------------------------------------------------


@pytest.mark.parametrize("output", ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "link"])
def test_the_names_of_stdout(ft: Runner, here: Path, track: str, output: str) -> None:
    """Appended to the log that stdout is; the outcome goes to stderr."""
    if output.startswith("/proc") and not os.path.exists(output):
        pytest.skip("has no /proc")
    (here / "link").symlink_to("/dev/stdout")
    (here / "log").write_bytes(OLD)
    result = ft.sh(f"ft download {track} -o {output} >>log", cwd=here, check=0)
    assert (here / "log").read_bytes() == OLD + ft.sandbox.track(track)
    assert result.stderr.endswith("note: Saved to stdout\n")
    piped = ft("download", track, "-o", output, check=0)
    assert piped.stdout_bytes == ft.sandbox.track(track)
    terminal = ft.tty("generate", "x", "-o", output, env={"NO_COLOR": "1"}, check=2).finish()
    assert "error: will not write an MP3 to a terminal" in terminal.stdout
    assert names(here) == ["link", "log"] and ft.sandbox.spent == 0


def test_another_descriptor(ft: Runner, here: Path, track: str) -> None:
    (here / "log").write_bytes(OLD)
    result = ft.sh(f"ft download {track} -o /dev/fd/7 7>>log", shell="bash", cwd=here, check=0)
    assert result.stdout == "Saved to /dev/fd/7\n"
    assert (here / "log").read_bytes() == OLD + ft.sandbox.track(track)


def test_a_descriptor_that_cannot_be_written(ft: Runner, here: Path) -> None:
    (here / "log").write_bytes(OLD)
    for redirection, why in (("", "Bad file descriptor"), ("7<log", "it is open for reading only")):
        script = f"ft generate x -o /dev/fd/7 {redirection}"
        result = ft.sh(script, shell="bash", cwd=here, check=1)
        assert result.stderr == f"error: cannot write /dev/fd/7: {why}\n"
    assert ft.sandbox.requests == []


@pytest.mark.needs("bash")
def test_a_substituted_process(ft: Runner, here: Path, track: str) -> None:
    script = f"ft download {track} -o >(cat >copy; echo >done); until [ -e done ]; do :; done"
    ft.sh(script, shell="bash", cwd=here, check=0)
    assert (here / "copy").read_bytes() == ft.sandbox.track(track)


def test_a_named_pipe(ft: Runner, here: Path, track: str) -> None:
    """It is opened once, whenever its reader comes, and stays a pipe."""
    os.mkfifo(here / "pipe")
    running = ft.start("download", track, "-o", "pipe", check=0)
    ft.sandbox.wait_for(lambda request: request.origin == "media")
    reader = ft.start("pipe", _program=["cat"])
    assert running.finish().stdout == "Saved to pipe\n"
    assert reader.finish().stdout_bytes == ft.sandbox.track(track)
    assert stat.S_ISFIFO((here / "pipe").stat().st_mode)


def test_a_named_pipe_whose_reader_goes_away(ft: Runner, here: Path, track: str) -> None:
    ft.sandbox.track_bytes = 1_000_000
    os.mkfifo(here / "pipe")
    running = ft.start("download", track, "-o", "pipe", check=1)
    ft.start("pipe", _program=["head", "-c", "10"]).finish()
    assert "error: cannot write pipe: Broken pipe\n" in running.finish().stderr


def test_the_null_device(ft: Runner, here: Path, track: str) -> None:
    (here / "link").symlink_to(os.devnull)
    for output in (os.devnull, "link"):
        assert ft("download", track, "-o", output, check=0).stdout == f"Saved to {output}\n"
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)
    assert names(here) == ["link"]


# --- poor surroundings ----------------------------------------------------------------------------


@pytest.mark.skipif(PYPY, reason="PyPy always writes names in UTF-8")
@pytest.mark.parametrize(
    ("title", "name"), [("夜の図書館", "track"), ("Café Noir", "cafe-noir"), ("夜 drive", "drive")]
)
def test_a_title_that_the_file_system_cannot_hold(
    ft: Runner, here: Path, title: str, name: str
) -> None:
    """A title in the words of the service: an argument that cannot be read is refused at once."""
    ft.sandbox.fault("record", path="/v1/generations/.*", times=None, title=title, prompt="夜")
    result = ft("generate", "x", env=POSIX, speed=SPEED, check=0)
    paid = ft.sandbox.book[-1]
    assert result.stdout == f"Saved to {name}-{paid[:8]}.mp3\n"
    assert (here / f"{name}-{paid[:8]}.mp3").read_bytes() == ft.sandbox.track(paid)


@pytest.mark.needs("setpriv", "prlimit")
def test_where_no_thread_can_be_started(ft: Runner, here: Path) -> None:
    """One after the other, as in a container with a limit on processes, which root is free of."""
    if os.geteuid():
        pytest.skip("would count all processes of this user")
    ids = [str(ft.sandbox.add_generation(prompt=f"song {n}")["id"]) for n in range(5)]
    nobody = "00000000-0000-4000-8000-000000000000"
    limited = [
        "setpriv",
        "--reuid=54321",
        "--inh-caps=+dac_override",
        "--ambient-caps=+dac_override",
    ]
    limited += ["prlimit", "--nproc=1", *ft.argv]
    result = ft.start("download", *ids, nobody, _program=limited, check=1).finish()
    assert result.stdout.endswith("Downloaded 5 of 6 track(s)\n")
    assert f"warning: {nobody}: Generation not found (NOT_FOUND)\n" in result.stderr
    assert sorted((here / name).read_bytes() for name in names(here)) == sorted(
        map(ft.sandbox.track, ids)
    )


@pytest.mark.needs("setpriv", "prlimit")
def test_a_signal_where_no_thread_can_be_started(ft: Runner, here: Path, track: str) -> None:
    if os.geteuid():
        pytest.skip("would count all processes of this user")
    other = str(ft.sandbox.add_generation(prompt="other")["id"])
    fault = ft.sandbox.fault("stall", origin="media", where="body", at=5000)
    limited = [
        "setpriv",
        "--reuid=54321",
        "--inh-caps=+dac_override",
        "--ambient-caps=+dac_override",
    ]
    limited += ["prlimit", "--nproc=1", *ft.argv]
    running = ft.start("download", track, other, _program=limited, check=143)
    assert fault.reached.wait(20)
    running.send_signal(15)
    start = time.monotonic()
    result = running.finish()
    assert time.monotonic() - start < 10
    assert result.stdout == "Downloaded 0 of 2 track(s)\n"
    assert names(here) == []


@pytest.mark.needs("prlimit")
@pytest.mark.parametrize("count", range(3, 17))
def test_few_descriptors(ft: Runner, here: Path, count: int) -> None:
    """Whole files and failures that are reported, and nothing else."""
    ids = [str(ft.sandbox.add_generation(prompt=f"song {n}")["id"]) for n in range(6)]
    program = ["prlimit", f"--nofile={count}", *ft.argv]
    result = ft.start("download", *ids, _program=program, speed=20).finish()
    whole = {f"song-{n}-{track[:8]}.mp3": ft.sandbox.track(track) for n, track in enumerate(ids)}
    for name in names(here):
        assert (here / name).read_bytes() == whole[name]
    if "note: " not in result.stderr:
        pytest.skip("not enough for Python itself")
    assert "Traceback" not in result.stderr and "internal error" not in result.stderr, repr(result)
    assert len(names(here)) + result.stderr.count("warning: ") == 6
    assert (result.code == 0) == (len(names(here)) == 6)

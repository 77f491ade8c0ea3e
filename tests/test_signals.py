"""SIGINT, SIGTERM and SIGHUP in every phase: one line, the right code, the terminal restored,
nothing left behind.

The signal is sent when the process has reached the phase, as a gate of the sandbox or its own words
tell.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable

import jumping_clock
import pytest
from conftest import PYPY, PYTHON, ROOT, Process, Result, Runner
from waiting import await_blocked, await_hidden, hidden

if sys.platform == "win32":
    pytest.skip("about POSIX signals", allow_module_level=True)

import pty
import termios

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
each_signal = pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)


@pytest.fixture
def track(ft: Runner) -> str:
    return str(ft.sandbox.add_generation(prompt="song", duration=240)["id"])


def stop(process: Process, number: int) -> Result:
    """Send the signal to the process alone; how it ended."""
    process.send_signal(number)
    result = process.finish(20)
    last = "note: interrupted" if number == signal.SIGINT else "note: terminated"
    assert result.code == 128 + number, repr(result)
    text = result.stderr or result.stdout
    assert text.splitlines()[-1] == last, repr(result)
    assert "Traceback" not in text and "error: " not in text, repr(result)
    return result


# --- while it starts ------------------------------------------------------------------------------


def slow_import(directory: Path) -> dict[str, str]:
    """Return the environment in which the first import of ft never ends, but says that it began."""
    os.mkfifo(directory / "fifo")
    (directory / "slow").mkdir()
    (directory / "slow" / "sitecustomize.py").write_text(
        "import os, sys\n"
        "class Slow:\n"
        "    @staticmethod\n"
        "    def find_spec(name, path=None, target=None):\n"
        "        if name == 'argparse':\n"
        "            os.write(2, b'importing\\n')\n"
        f"            open({str(directory / 'fifo')!r})\n"
        "sys.meta_path.insert(0, Slow)\n"
    )
    return {"PYTHONPATH": str(directory / "slow")}


@pytest.mark.both_forms
@each_signal
def test_while_importing(ft: Runner, tmp_path: Path, number: int) -> None:
    """No traceback: the process is stopped in the middle of an import, before it has a word of its
    own.
    """
    running = ft.start("list", env=slow_import(tmp_path))
    running.expect("importing\n")
    running.send_signal(number)
    result = running.finish(20)
    assert result.code == 128 + number
    assert result.stderr == "importing\n"


@each_signal
def test_while_an_installed_ft_is_importing(ft: Runner, tmp_path: Path, number: int) -> None:
    """Its script imports `main`, so that ft.py is not the program itself."""
    script = tmp_path / "bin" / "ft"
    script.parent.mkdir()
    script.write_text(
        f"import sys\nsys.path.insert(0, {str(ROOT)!r})\nfrom ft import main\nsys.exit(main())\n"
    )
    running = ft.start("list", _program=[PYTHON, str(script)], env=slow_import(tmp_path))
    running.expect("importing\n")
    running.send_signal(number)
    result = running.finish(20)
    assert result.code == 128 + number
    assert result.stderr == "importing\n"


# --- on the network -------------------------------------------------------------------------------


@each_signal
def test_during_a_read(ft: Runner, number: int) -> None:
    gate = ft.sandbox.hold("/v1/me")
    running = ft.start("me")
    assert gate.reached.wait(20)
    result = stop(running, number)
    assert len(result.stderr.splitlines()) == 1
    assert result.stdout == ""
    gate.release()


@each_signal
def test_during_the_submission(ft: Runner, here: Path, number: int) -> None:
    """It says that `ft list` tells whether it was accepted, and never submits again."""
    gate = ft.sandbox.hold("/v1/generations", method="POST")
    running = ft.start("generate", "a song")
    assert gate.reached.wait(20)
    result = stop(running, number)
    assert (
        "note: the submission may have been accepted, and then costs its credit: `ft list` tells\n"
        in result.stderr
    )
    gate.release()
    assert len(ft.sandbox.posts()) == 1
    assert os.listdir(here) == []


@each_signal
@pytest.mark.parametrize("output", [[], ["-o", "my song.mp3"]], ids=["default", "named"])
def test_between_polls(ft: Runner, here: Path, number: int, output: list[str]) -> None:
    """It says that the track is still being made, still costs its credit, and how to go on. That
    command works.
    """
    ft.sandbox.seconds = 3600
    running = ft.start("generate", "a song", *output)
    running.expect("note: queued as ")
    result = stop(running, number)
    (paid,) = ft.sandbox.book
    words = f"ft download {paid} --wait" + (" -o 'my song.mp3'" if output else "")
    assert "note: the track is still being made and still costs its credit\n" in result.stderr
    assert f"hint: {words}\n" in result.stderr
    ft.sandbox.finish(paid)
    ft.sh(words, cwd=here, check=0)
    (name,) = os.listdir(here)
    assert (here / name).read_bytes() == ft.sandbox.track(paid)
    assert len(ft.sandbox.posts()) == 1


@each_signal
def test_during_a_poll(ft: Runner, here: Path, number: int) -> None:
    gate = ft.sandbox.hold("/v1/generations/.*", method="GET")
    running = jumping_clock.start(ft, "generate", "a song", changes=jumping_clock.jump(ft))
    assert gate.reached.wait(20)
    result = stop(running, number)
    assert f"hint: ft download {ft.sandbox.book[0]} --wait\n" in result.stderr
    gate.release()


@each_signal
def test_while_waiting_to_try_again(ft: Runner, number: int) -> None:
    ft.sandbox.fault("status", status=503, retry_after=40)
    running = ft.start("list")
    running.expect("trying again in 40 s")
    stop(running, number)
    assert len(ft.sandbox.requests) == 1


@each_signal
def test_while_waiting_on_a_terminal(ft: Runner, number: int) -> None:
    """The spinner's line goes."""
    ft.sandbox.seconds = 3600
    running = ft.tty("generate", "a song", env={"NO_COLOR": "1"})
    running.expect("processing, 0s")
    running.send_signal(number)
    result = running.finish(20)
    assert result.code == 128 + number
    assert not any("processing" in line for line in result.screen())


# --- downloading ----------------------------------------------------------------------------------


@each_signal
def test_while_downloading(ft: Runner, here: Path, track: str, number: int) -> None:
    """No partial file; what was there before stays."""
    (here / "song.mp3").write_bytes(b"old")
    fault = ft.sandbox.fault("stall", origin="media", where="body", at=5000)
    running = ft.start("download", track, "-o", "song.mp3")
    assert fault.reached.wait(20)
    stop(running, number)
    assert os.listdir(here) == ["song.mp3"]
    assert (here / "song.mp3").read_bytes() == b"old"


@each_signal
def test_while_downloading_what_was_generated(ft: Runner, here: Path, number: int) -> None:
    fault = ft.sandbox.fault("stall", origin="media", where="body", at=5000)
    running = jumping_clock.start(ft, "generate", "a song", changes=jumping_clock.jump(ft))
    assert fault.reached.wait(20)
    result = stop(running, number)
    assert (
        f"hint: the track is not lost: ft download {ft.sandbox.book[0]} --wait\n" in result.stderr
    )
    assert os.listdir(here) == []


@each_signal
def test_while_downloading_many(ft: Runner, here: Path, number: int) -> None:
    """Four threads write hidden files; all of those go."""
    tracks = [
        str(ft.sandbox.add_generation(prompt=f"song {n}", duration=240)["id"]) for n in range(6)
    ]
    ft.sandbox.fault("stall", origin="media", where="body", at=5000, times=None)
    running = ft.start("download", *tracks)
    ft.sandbox.wait_for(
        lambda _: sum(r.origin == "media" and r.status == 200 for r in ft.sandbox.requests) == 4
    )
    stop(running, number)
    assert os.listdir(here) == []


@pytest.mark.sandbox(seconds=60)
def test_a_signal_that_python_loses(ft: Runner) -> None:
    """As where it makes the ImportError of a name that a module lacks."""
    changes = (
        "def lose(shield, stopped, stop=ft.Shield.stop):\n"
        "    ft.Shield.stop = stop\n"
        "    try:\n"
        "        stop(shield, stopped)\n"
        "    except ft.StopSignal:\n"
        "        pass\n"
        "    raise TypeError('expected a message argument')\n"
        "ft.Shield.stop = lose\n"
    )
    running = jumping_clock.start(ft, "generate", "a song", changes=changes)
    running.expect("note: queued as ")
    result = stop(running, signal.SIGTERM)
    assert f"hint: the track is not lost: ft download {ft.sandbox.book[0]} --wait" in result.stderr


def test_a_signal_that_comes_just_before_a_sleep(ft: Runner) -> None:
    """Python notices it only after the sleep."""
    changes = (
        "import signal\n"
        "def late(seconds, sleep=time.sleep):\n"
        "    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])\n"
        "    print('asleep', file=sys.stderr, flush=True)\n"
        "    sleep(seconds)\n"
        "    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])\n"
        "time.sleep = late\n"
    )
    ft.sandbox.fault("status", status=429, retry_after=50, times=None)
    running = jumping_clock.start(ft, "me", changes=changes, check=143)
    running.expect("asleep")
    running.send_signal(signal.SIGTERM)
    running.finish(timeout=20)


def test_a_signal_whose_handler_is_slow(ft: Runner, here: Path) -> None:
    """The wait for threads that it interrupts is over before the handler returns."""
    fault = ft.sandbox.fault("stall", origin="media", where="body", at=5000, times=None)
    tracks = [str(ft.sandbox.add_generation()["id"]) for _ in range(2)]
    changes = (
        "def hurry(console, hurry=ft.Console.hurry):\n"
        "    time.sleep(0.3)\n"
        "    hurry(console)\n"
        "ft.Console.hurry = hurry\n"
    )
    running = jumping_clock.start(ft, "download", *tracks, changes=changes)
    assert fault.reached.wait(20)
    stop(running, signal.SIGTERM)
    assert os.listdir(here) == []


@each_signal
def test_while_downloading_to_stdout(ft: Runner, track: str, number: int) -> None:
    fault = ft.sandbox.fault("stall", origin="media", where="body", at=5000)
    running = ft.start("download", track, "-o", "-")
    assert fault.reached.wait(20)
    assert ft.sandbox.track(track).startswith(stop(running, number).stdout_bytes)


@each_signal
def test_while_waiting_to_download_again(ft: Runner, here: Path, track: str, number: int) -> None:
    ft.sandbox.fault("status", origin="media", status=503, retry_after=40)
    running = ft.start("download", track)
    running.expect("trying again in 40 s")
    stop(running, number)
    assert os.listdir(here) == []


def test_two_signals_are_one(ft: Runner, here: Path, track: str) -> None:
    """The second does not interrupt the cleaning up."""
    fault = ft.sandbox.fault("stall", origin="media", where="body", at=5000)
    running = ft.start("download", track)
    assert fault.reached.wait(20)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        running.send_signal(number)
    result = running.finish(20)
    assert result.code in (130, 143, 129)
    assert "Traceback" not in result.stderr
    assert os.listdir(here) == []


SECOND = """
import os, signal
now, unlink = [time.monotonic()], os.unlink
time.monotonic = lambda: now[0]
def interrupted(path, *args, **options):
    if os.path.exists({log!r}):
        with open({log!r}, "a") as log:
            print(path, file=log)
        now[0] += {later}
        os.kill(os.getpid(), {second})
        for _ in range(100):
            pass  # here at the latest Python calls the handler
    unlink(path, *args, **options)
os.unlink = os.remove = interrupted
"""


@pytest.mark.parametrize(
    ("first", "second"),
    [(signal.SIGINT, signal.SIGTERM), (signal.SIGTERM, signal.SIGINT)],
    ids=lambda number: number.name,
)
@pytest.mark.parametrize(("tracks", "later"), [(1, 0), (2, 0), (2, 5)])
def test_a_second_signal_does_not_interrupt_the_cleaning_up(
    ft: Runner, here: Path, first: int, second: int, tracks: int, later: int
) -> None:
    """It arrives just before a hidden file is removed, `later` seconds after the first one by a
    clock that stands still otherwise. The exit code is that of the first.
    """
    log = ft.home / "interrupted"
    changes = SECOND.format(log=str(log), second=int(second), later=later)
    ids = [str(ft.sandbox.add_generation(duration=240)["id"]) for _ in range(tracks)]
    ft.sandbox.fault("stall", origin="media", where="body", at=5000, times=None)
    running = jumping_clock.start(ft, "download", *ids, changes=changes)
    ft.sandbox.wait_for(
        lambda _: [r.status for r in ft.sandbox.requests if r.origin == "media"] == [200] * tracks
    )
    await_hidden(here, tracks)
    log.write_text("")  # from now on
    stop(running, first)
    assert len(log.read_text().splitlines()) == tracks
    assert os.listdir(here) == []


def fill(pipe: int) -> None:
    """Write to the pipe until it is full."""
    os.set_blocking(pipe, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(pipe, bytes(512))
    os.set_blocking(pipe, True)


@each_signal
def test_while_the_reader_of_stdout_sleeps(ft: Runner, number: int) -> None:
    """It does not wait until somebody reads what is left, not even at its exit, when Python flushes
    stdout. The output is short: Python keeps what fits into its buffer until it has been written.
    """
    reader, writer = os.pipe()
    fill(writer)
    argv = [*ft.argv, "list", "--limit", "5"]
    streams: dict[str, int] = {"stdout": writer, "stderr": subprocess.PIPE}
    with subprocess.Popen(argv, env=ft.env(), cwd=ft.cwd, **streams) as running:
        try:
            ft.sandbox.wait_for(lambda request: request.sent)
            await_blocked(running.pid)
            running.send_signal(number)
            _, stderr = running.communicate(timeout=20)
        finally:
            running.kill()
            os.close(reader)
            os.close(writer)
    assert running.returncode == 128 + number
    assert stderr.count(b"\n") == 1


ASLEEP = {
    "a log": ["-v", "list"],
    "a log of several": ["-v", "download", "ID", "ID2", "ID3"],
    "a note": ["generate", "a drone forever"],
    "an error": ["list", "--bad"],
}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
@pytest.mark.parametrize("both", [False, True], ids=["stderr", "both"])
@pytest.mark.parametrize("argv", ASLEEP.values(), ids=ASLEEP)
def test_while_the_reader_of_stderr_sleeps(
    ft: Runner, here: Path, track: str, argv: list[str], both: bool, number: int
) -> None:
    """As in `ft -v list 2>&1 | less`."""
    more = {name: str(ft.sandbox.add_generation(prompt=name)["id"]) for name in ("ID2", "ID3")}
    reader, writer = os.pipe()
    fill(writer)
    running = subprocess.Popen(
        [*ft.argv, *({"ID": track, **more}.get(word, word) for word in argv)],
        env=ft.env(),
        cwd=here,
        stdout=writer if both else subprocess.DEVNULL,
        stderr=writer,
    )
    try:
        await_blocked(running.pid)
        running.send_signal(number)
        assert running.wait(20) == 128 + number
        assert os.listdir(here) == []
    finally:
        running.kill()
        os.close(reader)
        os.close(writer)


# --- other signals --------------------------------------------------------------------------------

OTHERS = "SIGQUIT SIGUSR1 SIGUSR2 SIGALRM SIGVTALRM SIGPROF SIGXCPU SIGIO SIGPWR SIGSTKFLT"


@pytest.mark.parametrize("name", OTHERS.split())
def test_any_signal_that_would_end_it(ft: Runner, here: Path, track: str, name: str) -> None:
    code = f"import signal; print(int(signal.{name}))"
    asked = subprocess.run([PYTHON, "-c", code], capture_output=True)
    if asked.returncode:
        pytest.skip("not on this system, or not in this Python")
    fault = ft.sandbox.fault("stall", origin="media", where="body", at=5000)
    running = ft.start("download", track, "-o", "song.mp3")
    assert fault.reached.wait(20)
    stop(running, int(asked.stdout))
    assert os.listdir(here) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
@pytest.mark.parametrize("place", ["a destructor", "a callback", "a stream that is closed"])
def test_a_signal_where_python_swallows_what_is_raised(
    ft: Runner, here: Path, number: int, place: str
) -> None:
    """It is not lost, and nothing is printed."""
    ft.sandbox.hold("/v1/me")
    changes = (
        "import io, os, signal, weakref\n"
        f"def interrupt(*_): os.kill(os.getpid(), {int(number)})\n"
        "class Thing:\n    pass\n"
        "class Destroyed:\n    __del__ = interrupt\n"
        "class Closed(io.RawIOBase):\n    close = interrupt\n"
        "thing = Thing()\n"
        "kept = weakref.ref(thing, interrupt)\n"
        "get_account = ft.Api.get_account\n"
        "def swallow(*arguments):\n"
        "    global thing\n"
    )
    changes += {
        "a destructor": "    Destroyed()\n",
        "a callback": "    del thing\n",
        "a stream that is closed": "    Closed()\n",
    }[place]
    changes += "    return get_account(*arguments)\nft.Api.get_account = swallow\n"
    running = jumping_clock.start(ft, "me", changes=changes, check=128 + number)
    lines = running.finish(20).stderr.splitlines()
    assert lines == ["note: interrupted" if number == signal.SIGINT else "note: terminated"]


def test_a_signal_for_which_python_raises_something_else(ft: Runner, here: Path) -> None:
    """Where a class is made, it was a RuntimeError, and so a bug of ft, up to Python 3.11."""
    changes = (
        "import os, signal\n"
        "class Interrupting:\n"
        "    def __set_name__(self, *_): os.kill(os.getpid(), signal.SIGTERM)\n"
        "def make_class(*_):\n"
        "    class Made:\n"
        "        thing = Interrupting()\n"
        "ft.Api.submit = make_class\n"
    )
    result = jumping_clock.run(ft, "generate", "x", changes=changes, check=143)
    note, last = result.stderr.splitlines()
    assert note.startswith("note: the submission may have been accepted")
    assert last == "note: terminated"


# --- at a prompt ----------------------------------------------------------------------------------


def attributes(descriptor: int) -> list[Any]:
    return termios.tcgetattr(descriptor)


@pytest.fixture(scope="module")
def fresh() -> list[Any]:
    """The attributes of a new terminal."""
    master, slave = pty.openpty()
    found = attributes(slave)
    os.close(master)
    os.close(slave)
    return found


def await_sleep(pid: int) -> None:
    """Until it waits for what is typed: a signal just before would be seen by Python only after."""
    state, end = Path(f"/proc/{pid}/stat"), time.monotonic() + 20
    while (
        state.exists()
        and state.read_text().rpartition(")")[2].split()[0] != "S"
        and time.monotonic() < end
    ):
        time.sleep(0.01)


def by_signal(number: int) -> Callable[[Process], None]:
    return lambda process: process.send_signal(number)


WAYS: dict[str, tuple[int, Callable[[Process], None]]] = {
    "Ctrl-C": (130, lambda process: process.send("\x03")),
    **{number.name: (128 + number, by_signal(number)) for number in SIGNALS},
}


def at_prompt(
    ft: Runner, argv: list[str], prompt: str, echo: bool, way: str, fresh: list[Any]
) -> Result:
    code, interrupt = WAYS[way]
    running = ft.tty(
        *argv, env={"NO_COLOR": "1"}, key=None if argv[0] == "auth" else ft.sandbox.key
    )
    running.expect(prompt)
    assert bool(attributes(running.master)[3] & termios.ECHO) == echo
    await_sleep(running.popen.pid)
    interrupt(running)
    running.popen.wait(20)
    assert attributes(running.master) == fresh
    result = running.finish()
    assert result.code == code, repr(result)
    assert result.screen()[-1] == ("note: interrupted" if code == 130 else "note: terminated")
    assert "Traceback" not in result.stdout
    return result


@pytest.mark.parametrize("way", WAYS)
def test_at_the_confirmation(ft: Runner, track: str, fresh: list[Any], way: str) -> None:
    at_prompt(ft, ["delete", track], "[y/N] ", True, way, fresh)
    assert not ft.sandbox.posts()


@pytest.mark.parametrize("way", WAYS)
def test_at_the_hidden_prompt(ft: Runner, fresh: list[Any], way: str) -> None:
    """The key is typed unseen; afterwards the terminal echoes again."""
    at_prompt(ft, ["auth", "login"], "Paste your API key: ", False, way, fresh)
    assert not ft.sandbox.posts()


# --- ignored --------------------------------------------------------------------------------------


@each_signal
@pytest.mark.skipif(PYPY, reason="PyPy does not tell what is ignored")
def test_what_was_ignored_stays_ignored(
    ft: Runner, here: Path, track: str, number: signal.Signals
) -> None:
    """As by nohup, or by a shell for what it puts into the background."""
    fault = ft.sandbox.fault("stall", origin="media", where="body", at=5000)
    ignoring = ["sh", "-c", f'trap "" {number.name[3:]}; exec "$@"', "sh", *ft.argv]
    running = ft.start("download", track, "-o", "song.mp3", _program=ignoring, check=0)
    assert fault.reached.wait(20)
    running.send_signal(number)
    fault.release()
    running.finish()
    assert (here / "song.mp3").read_bytes() == ft.sandbox.track(track)
    assert hidden(here) == []

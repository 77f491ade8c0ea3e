"""The harness of the tests: real `ft` processes against a `Sandbox`, on pipes or on a
pseudo-terminal.

A test asks for the fixture `ft`, which runs a built ft.pyz: the form that most people use, and the
one that starts fast. Marked `both_forms`, it runs a second time against ft.py. The environment:

- FT_FORM=ft.py or ft.pyz: all tests against this form, and no other.
- FT_PYTHON=PATH: the interpreter that runs ft; without it the one that runs the tests.
- WINDOWS_PYTHON=PATH: a python.exe, which Wine runs. Without it, the tests that ask for
  `windows_ft` are skipped elsewhere than on Windows, whatever FT_REQUIRE_ALL says: it is in no
  package of Debian.
- WINDOWS_POWERSHELL=COMMAND: a command that runs a PowerShell for Windows under Wine. With it and
  WINDOWS_PYTHON, install.ps1 is tested elsewhere than on Windows, too.
- FT_REQUIRE_ALL=1: a missing program that a test `needs` is a failure, not a skip.
- FT_COVERAGE=DIRECTORY: measures the processes; `data` there is what `coverage report` reads.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import IO, Any, ClassVar, Iterator, Mapping, Sequence

import build
import coverage
import pytest
import trustme
from sandbox import Sandbox

ROOT = Path(__file__).resolve().parent.parent
FAST_CLOCK = ROOT / "tests" / "support" / "fast_clock"
PYTHON = os.environ.get("FT_PYTHON", sys.executable)
FORM = os.environ.get("FT_FORM", "")
WINDOWS = sys.platform == "win32"
PYPY = "pypy" in PYTHON
FAST = 0.05  # seconds that the sandbox takes for a generation
SANDBOX_KEY = "the sandbox's key"  # stands for it in `ft(key=…)`, since None means no key


# --- pytest ---------------------------------------------------------------------------------------


def pytest_configure(config: pytest.Config) -> None:
    """Build ft.pyz once for the whole run: xdist's workers are given the path of the
    controller's.
    """
    # Ignored in the background of a shell, and ft would inherit that.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if not WINDOWS and signal.getsignal(signal.SIGQUIT) is signal.SIG_IGN:
        signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    # Ignored under nohup, which still protects the tests.
    if not WINDOWS and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda number, frame: None)
    if hasattr(config, "workerinput"):
        config.ft_pyz = config.workerinput["ft_pyz"]  # type: ignore[attr-defined]
        return
    directory = tempfile.mkdtemp(prefix="ft-pyz-")
    config.add_cleanup(lambda: shutil.rmtree(directory, ignore_errors=True))
    config.ft_pyz = os.path.join(directory, "ft.pyz")  # type: ignore[attr-defined]
    if (ROOT / "ft.py").exists():
        build.pyz(config.ft_pyz, [PYTHON])  # type: ignore[attr-defined]


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Put together what tests/support/fast_clock/sitecustomize.py measured."""
    if os.environ.get("FT_COVERAGE") and not hasattr(session.config, "workerinput"):
        directory = Path(os.environ["FT_COVERAGE"])
        data = coverage.CoverageData(str(directory / "data"))
        lines = {
            int(line) for file in directory.glob("*.lines") for line in file.read_text().split()
        }
        data.add_lines({str(ROOT / "ft.py"): lines})
        data.write()


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    node.workerinput["ft_pyz"] = node.config.ft_pyz


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Two workers a core for `-n auto`: most tests wait for a process."""
    return 2 * (os.cpu_count() or 1)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "form" in metafunc.fixturenames:
        both = metafunc.definition.get_closest_marker("both_forms")
        forms = ["ft.py", "ft.pyz"] if both else ["ft.pyz"]
        metafunc.parametrize("form", [FORM] if FORM else forms)


def require(*programs: str) -> None:
    """Skip the test if one of these programs is missing, or fail it with FT_REQUIRE_ALL=1."""
    missing = ", ".join(program for program in programs if not shutil.which(program))
    if missing and os.environ.get("FT_REQUIRE_ALL") == "1":
        pytest.fail(f"needs {missing}", pytrace=False)
    if missing:
        pytest.skip(f"needs {missing}")


def pytest_runtest_setup(item: pytest.Item) -> None:
    require(*(program for marker in item.iter_markers("needs") for program in marker.args))


# --- processes ------------------------------------------------------------------------------------


class Stream:
    """Collects in a thread what a descriptor gives, so that the writer never blocks. Closes it at
    its end.
    """

    def __init__(self, descriptor: int) -> None:
        self.data = bytearray()
        self._seen = 0  # where the next expect() begins
        self._ended = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._read, args=(descriptor,), daemon=True)
        self._thread.start()

    def _read(self, descriptor: int) -> None:
        chunk = b"more"
        while chunk:
            try:
                chunk = os.read(descriptor, 65536)
            except OSError:  # how a pseudo-terminal says that nobody has it open any more
                chunk = b""
            with self._changed:
                self.data += chunk
                self._ended = not chunk
                self._changed.notify_all()
        os.close(descriptor)

    def expect(self, pattern: str | re.Pattern[str], timeout: float) -> re.Match[str]:
        """Wait until the text or pattern comes, after what the last call matched."""
        wanted = re.compile(re.escape(pattern)) if isinstance(pattern, str) else pattern
        deadline = time.monotonic() + timeout
        with self._changed:
            while True:
                text = self.data[self._seen :].decode("utf-8", "replace")
                found = wanted.search(text)
                if found:
                    self._seen += len(text[: found.end()].encode())
                    return found
                left = deadline - time.monotonic()
                if self._ended or left <= 0:
                    why = "the stream ended" if self._ended else f"{timeout} s passed"
                    pytest.fail(
                        f"{why} without {wanted.pattern!r}; since the last match came:\n{text}"
                    )
                self._changed.wait(left)

    def join(self, timeout: float) -> bool:
        """Whether it has ended, at last after that time."""
        self._thread.join(timeout)
        return not self._thread.is_alive()


def is_windows_program(argv: Sequence[str]) -> bool:
    return WINDOWS or argv[0] == "wine"


class Result:
    """A finished process: `code` as a shell has it (143 for SIGTERM), and the whole of what it
    wrote.

    On a terminal, `stdout` is everything that the terminal got, and `piped` what went to
    `stdout="pipe"`.
    """

    def __init__(
        self, argv: Sequence[str], returncode: int, stdout: bytes, stderr: bytes, piped: bytes
    ) -> None:
        self.argv = argv
        self.code = 128 - returncode if returncode < 0 else returncode
        self.stdout_bytes, self.stderr_bytes, self.piped_bytes = stdout, stderr, piped

    stdout = property(lambda self: self._text_of(self.stdout_bytes))
    stderr = property(lambda self: self._text_of(self.stderr_bytes))
    piped = property(lambda self: self._text_of(self.piped_bytes))

    def _text_of(self, data: bytes) -> str:
        """What a process wrote, with Windows' line ends as everybody else's."""
        text = data.decode()
        return text.replace("\r\n", "\n") if is_windows_program(self.argv) else text

    @property
    def json(self) -> Any:
        return json.loads(self.piped_bytes or self.stdout_bytes)

    def screen(self, columns: int = 80, rows: int = 24) -> list[str]:
        """The terminal's lines as a person sees them at the end, without the empty ones below."""
        import pyte

        terminal = pyte.Screen(columns, rows)
        pyte.Stream(terminal).feed(self.stdout)
        return "\n".join(line.rstrip() for line in terminal.display).rstrip().split("\n")

    def __repr__(self) -> str:
        parts = [f"$ {shlex.join(self.argv)}", f"exit code {self.code}"]
        for name in ("stdout", "stderr", "piped"):
            text = getattr(self, name + "_bytes").decode("utf-8", "replace")
            if len(text) > 8000:
                text = f"{text[:4000]}\n[… {len(text) - 8000} characters …]\n{text[-4000:]}"
            if text:
                parts.append(f"--- {name}\n{text}")
        return "\n".join(parts)


class Process:
    """A running process. `finish()` waits for it; what a test leaves running is killed at its
    end.
    """

    started: ClassVar[list[Process]] = []  # by the test that runs

    def __init__(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: Path,
        stdin: str | bytes | int | IO[Any] | None = None,
        terminal: tuple[int, int] | None = None,
        stdout: str | None = None,
        check: int | None = None,
    ) -> None:
        """`terminal` is its (rows, columns). `stdin`: what is fed, or what Popen takes; None is
        empty.
        """
        self.argv, self.check = argv, check
        self.master = -1
        self.stderr: Stream | None = None
        self.piped: Stream | None = None
        if terminal:
            self._start_on_terminal(env, cwd, terminal, stdout)
        else:
            self._start_on_pipes(env, cwd, stdin)
        self.started.append(self)

    def _start_on_pipes(
        self, env: Mapping[str, str], cwd: Path, stdin: str | bytes | int | IO[Any] | None
    ) -> None:
        fed = (
            stdin.encode()
            if isinstance(stdin, str)
            else stdin
            if isinstance(stdin, bytes)
            else None
        )
        self.popen = subprocess.Popen(
            self.argv,
            env=env,
            cwd=cwd,
            stdin=subprocess.PIPE if fed else (stdin or subprocess.DEVNULL),  # type: ignore[arg-type]
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self.stdout = self._stream(self.popen.stdout)
        self.stderr = self._stream(self.popen.stderr)
        if fed:
            threading.Thread(target=self._feed, args=(fed,), daemon=True).start()

    def _start_on_terminal(
        self, env: Mapping[str, str], cwd: Path, size: tuple[int, int], stdout: str | None
    ) -> None:
        import fcntl
        import pty
        import termios

        self.master, slave = pty.openpty()
        _set_size(slave, size)
        self.popen = subprocess.Popen(
            self.argv,
            env=env,
            cwd=cwd,
            stdin=slave,
            stdout=subprocess.PIPE if stdout == "pipe" else slave,
            stderr=slave,
            start_new_session=True,
            # For Ctrl-C and /dev/tty. All that it needs was imported above: other threads may hold
            # locks.
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509
        )
        os.close(slave)
        self.stdout = Stream(os.dup(self.master))
        if self.popen.stdout:
            self.piped = self._stream(self.popen.stdout)

    @staticmethod
    def _stream(pipe: IO[bytes] | None) -> Stream:
        assert pipe
        with pipe:
            return Stream(os.dup(pipe.fileno()))

    def _feed(self, data: bytes) -> None:
        assert self.popen.stdin
        with contextlib.suppress(OSError), self.popen.stdin:  # it may end without having read
            self.popen.stdin.write(data)

    @property
    def pid(self) -> int:
        return self.popen.pid

    def expect(self, pattern: str | re.Pattern[str], timeout: float = 20) -> re.Match[str]:
        """Wait for a text or pattern on the terminal, or on stderr where there is none."""
        return (self.stderr or self.stdout).expect(pattern, timeout)

    def send(self, text: str) -> None:
        """Type on the terminal: "\\r" is Enter, "\\x03" Ctrl-C, "\\x04" Ctrl-D."""
        os.write(self.master, text.encode())

    def resize(self, columns: int, rows: int) -> None:
        _set_size(self.master, (rows, columns))

    def send_signal(self, number: int) -> None:
        self.popen.send_signal(number)

    def finish(self, timeout: float = 60) -> Result:
        """Wait for the end of the process. Fails if it takes longer, or if its exit code is not
        `check`.
        """
        in_time = True
        try:
            self.popen.wait(timeout)
        except subprocess.TimeoutExpired:
            in_time = False
            self.kill()
        streams = [stream for stream in (self.stdout, self.stderr, self.piped) if stream]
        for stream in streams:
            stream.join(5)  # what a left-over grandchild holds open never ends
        self._close()
        out, error, piped = (
            bytes(s.data) if s else b"" for s in (self.stdout, self.stderr, self.piped)
        )
        result = Result(self.argv, self.popen.returncode, out, error, piped)
        if not in_time:
            pytest.fail(f"not finished after {timeout} s\n{result!r}", pytrace=False)
        if self.check is not None and result.code != self.check:
            pytest.fail(f"expected exit code {self.check}\n{result!r}", pytrace=False)
        return result

    def kill(self) -> None:
        """Kill it and what it started."""
        if self.popen.poll() is None:
            with contextlib.suppress(OSError):
                self.popen.kill() if WINDOWS else os.killpg(self.popen.pid, signal.SIGKILL)
            self.popen.wait()
        self._close()

    def _close(self) -> None:
        if self.popen.stdin:
            with contextlib.suppress(OSError):
                self.popen.stdin.close()
        if self.master >= 0:
            os.close(self.master)
            self.master = -1


def _set_size(terminal: int, size: tuple[int, int]) -> None:
    import fcntl
    import struct
    import termios

    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))


class Runner:
    """Runs `ft` with a private home, configuration and working directory, as one test's `ft`.

    `ft(…)` waits for the end, `ft.start(…)` does not, `ft.tty(…)` runs on a terminal, `ft.sh(…)`
    runs a shell line in which `ft` is a command. All take:

    - `env`: variables added to the clean environment; one that is None is taken out.
    - `key`: FINETUNING_API_KEY, by default the sandbox's; None for none.
    - `cwd`: by default the test's tmp_path. `speed`: sleeps are that many times shorter.
    - `stdin`: text or bytes to feed, or what Popen takes (not on a terminal).
    - `check`: the exit code that it must have.
    """

    def __init__(self, program: Path, sandbox: Sandbox, home: Path) -> None:
        self.program, self.sandbox = program, sandbox
        self.python = [PYTHON]
        self.argv = [*self.python, str(program)]
        self.home = self.cwd = home
        self.config_dir = home / "config"
        self.config_dir.mkdir()
        self.config({"baseUrl": sandbox.api_url})

    def config(self, values: Mapping[str, Any] | str) -> None:
        """Write config.json."""
        text = values if isinstance(values, str) else json.dumps(values)
        (self.config_dir / "config.json").write_text(text, encoding="utf-8")

    def env(
        self,
        env: Mapping[str, str | None] | None = None,
        key: str | None = SANDBOX_KEY,
        speed: float | None = None,
    ) -> dict[str, str]:
        """The whole environment of the process."""
        result: dict[str, str | None] = {
            name: os.environ[name]
            for name in ("PATH", "SYSTEMROOT", "TEMP", "COMSPEC")
            if name in os.environ
        }
        result.update(
            HOME=str(self.home), FINETUNING_CONFIG_HOME=str(self.config_dir), LC_ALL="C.UTF-8"
        )
        if is_windows_program(self.python):
            result["PYTHONIOENCODING"] = "utf-8"
        if self.python[0] == "wine":
            result["WINEPREFIX"] = os.environ.get("WINEPREFIX", os.path.expanduser("~/.wine"))
            result["WINEDEBUG"] = "-all"
        result["FINETUNING_API_KEY"] = self.sandbox.key if key is SANDBOX_KEY else key
        if speed:
            result.update(PYTHONPATH=str(FAST_CLOCK), FT_TEST_SPEED=str(speed))
        if os.environ.get("FT_COVERAGE"):
            result.update(PYTHONPATH=str(FAST_CLOCK), FT_COVERAGE=os.environ["FT_COVERAGE"])
        result.update(env or {})
        return {name: value for name, value in result.items() if value is not None}

    def start(
        self,
        *argv: str,
        env: Mapping[str, str | None] | None = None,
        key: str | None = SANDBOX_KEY,
        cwd: Path | None = None,
        speed: float | None = None,
        stdin: str | bytes | int | IO[Any] | None = None,
        check: int | None = None,
        _terminal: tuple[int, int] | None = None,
        _stdout: str | None = None,
        _program: Sequence[str] | None = None,
        _process: type[Process] = Process,
    ) -> Process:
        return _process(
            [*(_program or self.argv), *argv],
            env=self.env(env, key, speed),
            cwd=cwd or self.cwd,
            stdin=stdin,
            terminal=_terminal,
            stdout=_stdout,
            check=check,
        )

    def __call__(self, *argv: str, timeout: float = 60, **how: Any) -> Result:
        return self.start(*argv, **how).finish(timeout)

    def tty(
        self, *argv: str, columns: int = 80, rows: int = 24, stdout: str | None = None, **how: Any
    ) -> Process:
        """On a terminal of that size, TERM=xterm-256color; with `stdout="pipe"` all but stdout is
        on it.
        """
        if WINDOWS:
            pytest.skip("needs a pseudo-terminal")
        how["env"] = {"TERM": "xterm-256color", **(how.get("env") or {})}
        return self.start(*argv, _terminal=(rows, columns), _stdout=stdout, **how)

    def sh(self, script: str, shell: str = "sh", timeout: float = 60, **how: Any) -> Result:
        """Run a line of shell, with `ft` as a command on PATH."""
        if WINDOWS:
            pytest.skip("needs a POSIX shell")
        require(shell)
        directory = self.home / ".bin"
        directory.mkdir(exist_ok=True)
        command = directory / "ft"
        command.write_text(f'#!/bin/sh\nexec {shlex.join(self.argv)} "$@"\n')
        command.chmod(0o755)
        env = {**(how.pop("env", None) or {})}
        env["PATH"] = f"{directory}{os.pathsep}{env.get('PATH', os.environ['PATH'])}"
        return self.start(script, _program=[shell, "-c"], env=env, **how).finish(timeout)


# --- fixtures -------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def no_process_is_left() -> Iterator[None]:
    yield
    while Process.started:
        Process.started.pop().kill()


@pytest.fixture
def sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    """A fresh stand-in service, fast and without rate limits unless the marker `sandbox` says
    otherwise.
    """
    marker = request.node.get_closest_marker("sandbox")
    settings = {"seconds": FAST, "rate_limits": False, **(marker.kwargs if marker else {})}
    with Sandbox(**settings) as started:
        yield started


@pytest.fixture
def program(form: str, pytestconfig: pytest.Config) -> Path:
    """The file under test: ft.py, or ft.pyz built from it."""
    return ROOT / "ft.py" if form == "ft.py" else Path(pytestconfig.ft_pyz)  # type: ignore[attr-defined]


@pytest.fixture
def ft(program: Path, sandbox: Sandbox, tmp_path: Path) -> Runner:
    return Runner(program, sandbox, tmp_path)


@pytest.fixture(scope="session")
def windows_python() -> Iterator[list[str]]:
    """The command of a Python for Windows, on other systems under Wine."""
    if WINDOWS:
        yield [PYTHON]
        return
    path = os.environ.get("WINDOWS_PYTHON")
    if not path:
        pytest.skip("needs Windows, or Wine and WINDOWS_PYTHON=PATH, the path of a python.exe")
    require("wine")
    # While this one runs, Wine's services do. Tests would wait for them to leave their pipes.
    env = {**os.environ, "WINEDEBUG": "-all"}
    command, null = ["wine", path, "-c", "input()"], subprocess.DEVNULL
    with subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=null, stderr=null):
        yield command[:2]


@pytest.fixture
def windows_ft(ft: Runner, windows_python: list[str]) -> Runner:
    """`ft`, run by a Python for Windows."""
    ft.python = windows_python
    ft.argv = [*windows_python, str(ft.program)]
    return ft


@pytest.fixture
def here(ft: Runner) -> Path:
    """An empty working directory of its own."""
    ft.cwd = ft.home / "here"
    ft.cwd.mkdir()
    return ft.cwd


class Tls:
    """A certificate authority of the tests: `ca_file` for the client, `context` for a server at
    localhost.
    """

    def __init__(self, directory: Path) -> None:
        authority = trustme.CA()
        self.ca_file = directory / "ca.pem"
        authority.cert_pem.write_to_path(str(self.ca_file))
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("localhost", "127.0.0.1").configure_cert(self.context)


@pytest.fixture(scope="session")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    return Tls(tmp_path_factory.mktemp("tls"))

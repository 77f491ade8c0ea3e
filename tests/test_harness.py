"""The harness itself: what the other tests take for granted."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
from pathlib import Path

import jumping_clock
import pytest
from conftest import FAST_CLOCK, PYTHON, ROOT, WINDOWS, Process, Runner, Tls
from forks import ForkedProcess

posix = pytest.mark.skipif(WINDOWS, reason="needs POSIX")


def python(code: str, tmp_path: Path, **how: object) -> Process:
    env = {name: os.environ[name] for name in ("PATH", "SYSTEMROOT", "TEMP") if name in os.environ}
    env["LC_ALL"] = "C.UTF-8"
    env.update(how.pop("env", {}))  # type: ignore[call-overload]
    return Process([PYTHON, "-c", code], env=env, cwd=tmp_path, **how)  # type: ignore[arg-type]


def test_time_runs_as_fast_as_asked(tmp_path: Path) -> None:
    code = (
        "import time\n"
        "clocks = [time.time, time.monotonic, time.perf_counter]\n"
        "if hasattr(time, 'clock_gettime'):\n"
        "    clocks.append(lambda: time.clock_gettime(time.CLOCK_MONOTONIC))\n"
        "before = [clock() for clock in clocks]\n"
        "time.sleep(300)\n"
        "print([clock() - start for clock, start in zip(clocks, before)])"
    )
    process = python(
        code, tmp_path, env={"PYTHONPATH": str(FAST_CLOCK), "FT_TEST_SPEED": "3000"}, check=0
    )
    elapsed = process.finish(timeout=20).json
    assert all(300 <= seconds < 30000 for seconds in elapsed)


def test_big_input_and_output_do_not_block(tmp_path: Path) -> None:
    code = "import sys; sys.stdout.write(sys.stdin.read()); sys.stderr.write('x' * 1000000)"
    result = python(code, tmp_path, stdin="ö" * 1_000_000, check=0).finish()
    assert (len(result.stdout), len(result.stderr)) == (1_000_000, 1_000_000)


@posix
@pytest.mark.needs("sleep")
def test_a_process_that_takes_too_long_is_killed_with_its_children(tmp_path: Path) -> None:
    process = python("import os, subprocess as s; s.run(['sleep', '600'])", tmp_path)
    with pytest.raises(pytest.fail.Exception, match=r"not finished after 0\.5 s"):
        process.finish(timeout=0.5)
    assert process.stdout.join(20), "nobody holds its output open any more"


def test_a_wrong_exit_code_shows_what_was_written(tmp_path: Path) -> None:
    with pytest.raises(
        pytest.fail.Exception, match=r"(?s)expected exit code 0.*exit code 3.*stderr\nwhy"
    ):
        python("import sys; print('why', file=sys.stderr); sys.exit(3)", tmp_path, check=0).finish()


@posix
def test_a_signal_gives_the_exit_code_of_a_shell(tmp_path: Path) -> None:
    assert python("import os; os.kill(os.getpid(), 15)", tmp_path).finish().code == 143


@posix
def test_a_terminal_has_its_size_and_is_the_controlling_one(tmp_path: Path) -> None:
    code = (
        "import os, getpass; print(os.get_terminal_size()); print('<' + "
        "getpass.getpass('Secret: ') + '>')"
    )
    process = python(code, tmp_path, terminal=(30, 100), check=0)
    assert process.expect(re.compile(r"columns=(\d+), lines=(\d+)")).groups() == ("100", "30")
    process.expect("Secret: ")
    process.send("héllo\r")
    process.expect("<héllo>")
    assert process.finish().screen()[1:] == ["Secret:", "<héllo>"]


@posix
def test_ctrl_c_on_the_terminal_interrupts(tmp_path: Path) -> None:
    code = "import time; print('ready', flush=True)\nwhile True: time.sleep(0.1)"
    process = python(code, tmp_path, terminal=(24, 80))
    process.expect("ready")
    process.send("\x03")
    assert process.finish().code == 130


@posix
def test_output_can_be_piped_while_the_rest_is_a_terminal(tmp_path: Path) -> None:
    code = (
        "import sys; print(sys.stdin.isatty(), sys.stdout.isatty()); print('talk', file=sys.stderr)"
    )
    result = python(code, tmp_path, terminal=(24, 80), stdout="pipe").finish()
    assert (result.piped, result.stdout) == ("True False\n", "talk\r\n")


def test_the_end_of_a_stream_ends_the_waiting_for_a_text(tmp_path: Path) -> None:
    process = python("import sys; sys.stderr.write('one')", tmp_path)
    with pytest.raises(pytest.fail.Exception, match=r"(?s)stream ended without 'two'.*one"):
        process.expect("two")
    process.finish()


@pytest.mark.parametrize("required", [False, True])
def test_a_missing_program_skips_or_fails(required: bool, tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "import pytest\n@pytest.mark.needs('no-such-program')\ndef test_it():\n    pass\n"
    )
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT / "tests"), str(ROOT / "tests" / "tools")]),
        "FT_REQUIRE_ALL": "1" if required else "0",
    }
    flags = "-p conftest -p no:cacheprovider -p no:hypothesispytest -rA"
    command = [sys.executable, "-m", "pytest", *flags.split(), "test_it.py"]
    ran = subprocess.run(
        command, cwd=tmp_path, env=env, stdout=subprocess.PIPE, text=True, check=False
    )
    assert "needs no-such-program" in ran.stdout
    assert ("1 error" if required else "1 skipped") in ran.stdout


def test_ft_runs_in_a_clean_environment(ft: Runner, tmp_path: Path) -> None:
    env = ft.env()
    assert set(env) <= {
        *(
            "PATH",
            "SYSTEMROOT",
            "TEMP",
            "COMSPEC",
            "HOME",
            "LC_ALL",
            "FINETUNING_CONFIG_HOME",
            "FINETUNING_API_KEY",
        ),
        *("PYTHONPATH", "FT_COVERAGE"),
    }
    assert env["HOME"] == str(tmp_path)
    assert env["FINETUNING_API_KEY"] == ft.sandbox.key
    assert "FINETUNING_API_KEY" not in ft.env(key=None)
    assert "LC_ALL" not in ft.env({"LC_ALL": None})


@posix
@pytest.mark.needs("tr")
def test_ft_is_a_command_of_the_shell(ft: Runner) -> None:
    result = ft.sh("ft --version | tr a-z A-Z", check=0)
    assert result.stdout == ft("--version").stdout.upper()


@pytest.mark.skipif(
    sys.version_info < (3, 12) or sys.executable != PYTHON, reason="coverage needs Python 3.12"
)
def test_the_lines_that_a_process_runs_are_measured(
    ft: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FT_COVERAGE", str(tmp_path))
    ft("--version", check=0)
    (file,) = tmp_path.glob("*.lines")
    ran = {int(number) for number in file.read_text().split()}
    source = (ROOT / "ft.py").read_text(encoding="utf-8").split("\n")
    assert any(source[number - 1].startswith("def main(") for number in ran)
    assert not any(source[number - 1].startswith("#") for number in ran)


@pytest.mark.parametrize(
    "changes",
    [
        "ft.SECURITY = '/nowhere'",
        "ft.KEYCHAIN_TIMEOUT, ft.PATIENCE = 0.3, 1.0",
        "ft.Api.create = None",
        "def later():\n    ft.TIMEOUT = 1",
        "for ft.NUMBER in (1, 2): pass",
    ],
)
def test_changes_of_what_ft_does_not_have_are_refused(ft: Runner, changes: str) -> None:
    with pytest.raises(AttributeError, match="has no attribute"):
        jumping_clock.start(ft, "--version", changes=changes)
    assert not ft.sandbox.requests


def test_changes_of_what_ft_has_are_made(ft: Runner) -> None:
    changes = "ft.__version__ = 'changed'\nft.Api.submit = None"
    assert jumping_clock.run(ft, "--version", changes=changes, check=0).stdout == "ft changed\n"


FACTS = """
import json, os, signal
def is_open(number):
    try:
        return bool(os.fstat(number))
    except OSError:
        return False
streams = sys.stdin, sys.stdout, sys.stderr
facts = {
    "arguments": sys.argv,
    "directory": os.getcwd(),
    "environment": dict(os.environ),
    "leads its session": os.getsid(0) == os.getpid(),
    "descriptors": [number for number in range(100) if is_open(number)],
    "signals": [repr(signal.getsignal(number)) for number in range(1, signal.SIGSYS)],
    "streams": [(s.encoding, s.errors, s.line_buffering, s.seekable()) for s in streams],
    "input": sys.stdin.read(),
}
print(json.dumps(facts), file=sys.stderr)
print("still in a buffer", end="")
sys.exit(7)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_starts_and_ends_as_a_fresh_process_does(ft: Runner) -> None:
    kinds, results = [], []
    for fresh in (False, True):
        process = jumping_clock.start(ft, "a b", "ö", changes=FACTS, fresh=fresh, check=7)
        kinds.append(type(process))
        results.append(process.finish())
    assert kinds == [ForkedProcess, Process]
    assert json.loads(results[0].stderr) == json.loads(results[1].stderr)
    assert results[0].stdout == results[1].stdout == "still in a buffer"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_can_be_killed_with_its_children(ft: Runner) -> None:
    changes = "import subprocess\nsubprocess.run(['sleep', '600'])"
    process = jumping_clock.start(ft, changes=changes)
    with pytest.raises(pytest.fail.Exception, match=r"not finished after 0\.5 s"):
        process.finish(timeout=0.5)
    assert process.popen.returncode == -signal.SIGKILL
    assert process.stdout.join(20), "nobody holds its output open any more"


def test_the_certificate_is_trusted_by_its_authority_only(tls: Tls) -> None:
    def handshake(client: ssl.SSLContext) -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            server = threading.Thread(target=serve, args=(theirs,))
            server.start()
            try:
                client.wrap_socket(ours, server_hostname="localhost").close()
            finally:
                server.join()

    def serve(connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            tls.context.wrap_socket(connection, server_side=True).close()

    handshake(ssl.create_default_context(cafile=str(tls.ca_file)))
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(ssl.create_default_context())

"""Poor surroundings: no home, a stdin that cannot be read, and then everything at once."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path
from typing import Iterator

import pytest
from commands import COMMANDS, Command, add_sound_effect, each
from conftest import WINDOWS, Result, Runner
from release_server import ReleaseServer
from waiting import await_blocked

pytestmark = pytest.mark.skipif(WINDOWS, reason="about POSIX")

UNSET: dict[str, str | None] = {"FINETUNING_CONFIG_HOME": None, "XDG_CONFIG_HOME": None}
HOMELESS = {"a device": "/dev/null", "empty": "", "relative": "x", "below a file": "/etc/passwd/x"}


@pytest.fixture
def url(ft: Runner) -> list[str]:
    return ["--base-url", ft.sandbox.api_url]


# --- no home --------------------------------------------------------------------------------------


@pytest.mark.parametrize("home", HOMELESS.values(), ids=HOMELESS)
def test_given_a_key_and_a_url_no_home_is_needed(ft: Runner, url: list[str], home: str) -> None:
    env = {**UNSET, "HOME": home}
    for argv in (["me"], ["list"], ["doctor"], ["generate", "x", "--no-wait"], ["auth", "logout"]):
        result = ft(*argv, *url, env=env, check=0)
    assert result.stdout == "Logged out. No key was found.\n"


def test_doctor_says_where_there_is_no_home(ft: Runner, url: list[str]) -> None:
    env = {**UNSET, "HOME": ""}
    assert (
        "✓ config: no home directory to look in (defaults)\n" in ft("doctor", *url, env=env).stdout
    )
    assert ft("doctor", "--json", *url, env=env, check=0).json["config"] is None


@pytest.mark.parametrize("home", HOMELESS.values(), ids=HOMELESS)
def test_without_a_home_no_key_is_found_and_none_is_stored(
    ft: Runner, url: list[str], home: str
) -> None:
    env = {**UNSET, "HOME": home}
    assert ft("me", *url, env=env, key=None, check=1).stderr.startswith("error: no API key")
    doctor = ft("doctor", *url, env=env, key=None, check=1)
    assert "✗ key: no API key" in doctor.stdout and "internal" not in doctor.stdout
    result = ft("auth", "login", *url, env=env, key=None, stdin=ft.sandbox.key)
    assert result.code in (1, 2)
    assert "error: cannot " in result.stderr and result.stdout == ""


def run_without_capabilities(ft: Runner, *argv: str) -> list[str]:
    """Return what runs ft as a user who is not let into every directory, not even as root."""
    if os.geteuid():
        return [*ft.argv, *argv]
    drop = ["setpriv", "--inh-caps=-all", "--bounding-set=-all"]
    if subprocess.run([*drop, "true"], capture_output=True).returncode:
        pytest.skip("this machine lets no capabilities be dropped")
    return [*drop, *ft.argv, *argv]


@pytest.mark.needs("setpriv")
def test_a_home_that_may_not_be_entered_has_no_configuration(
    ft: Runner, url: list[str], tmp_path: Path
) -> None:
    home = tmp_path / "forbidden"
    (home / ".config/finetuning").mkdir(parents=True)
    (home / ".config/finetuning/config.json").write_text("broken")
    home.chmod(0)
    try:
        env = {**UNSET, "HOME": str(home)}
        for argv in (["me"], ["doctor"], ["generate", "x", "--no-wait"]):
            program = run_without_capabilities(ft, *argv, *url)
            ft.start(_program=program, env=env, check=0).finish()
        program = run_without_capabilities(ft, "me", "--config", f"{home}/.config/config.json")
        result = ft.start(_program=program, env=env, check=2).finish()
        assert "cannot be read: Permission denied" in result.stderr, "what is named must be there"
    finally:
        home.chmod(0o700)


@pytest.mark.needs("unshare")
def test_a_user_without_an_entry_in_passwd_needs_no_home(ft: Runner, url: list[str]) -> None:
    nobody = ["unshare", "--user", "--map-user=54321", "--map-group=54321"]
    if subprocess.run([*nobody, "true"], capture_output=True).returncode:
        pytest.skip("this machine allows no user namespaces")
    for argv in (["me"], ["generate", "x", "--no-wait"], ["auth", "logout"]):
        program = [*nobody, *ft.argv, *argv, *url]
        ft.start(_program=program, env={**UNSET, "HOME": None}, check=0).finish()


def test_a_relative_configuration_directory_below_a_missing_one(ft: Runner, url: list[str]) -> None:
    script = f"mkdir gone; cd gone; rmdir ../gone; ft me {shlex.join(url)}"
    ft.sh(script, env={"FINETUNING_CONFIG_HOME": "conf"}, check=0)


# --- stdin ----------------------------------------------------------------------------------------

READERS = [
    "delete --yes -",
    "download -",
    "playlist add Drafts -",
    "auth login",
    "auth login --stdin",
]


@pytest.mark.parametrize("command", READERS)
def test_a_stdin_that_is_open_for_writing_only_is_exit_2(ft: Runner, command: str) -> None:
    """As nohup has it."""
    result = ft.sh(f"ft {command} 0>/dev/null", key=None if "login" in command else ft.sandbox.key)
    what = "the API key" if "login" in command else "ids, one a line,"
    assert result.stderr == f"error: cannot read {what} from stdin: Bad file descriptor\n"
    assert result.code == 2 and not ft.sandbox.posts()


def test_so_is_a_terminal_that_cannot_answer(ft: Runner) -> None:
    master, slave = os.openpty()
    terminal = os.open(os.ttyname(slave), os.O_WRONLY | os.O_NOCTTY)
    result = ft("delete", "x", stdin=terminal, check=2)
    assert "error: confirmation needed but stdin cannot be read\n" in result.stderr
    for descriptor in (master, slave, terminal):
        os.close(descriptor)


def test_a_pipe_that_another_program_made_non_blocking_is_read_to_its_end(ft: Runner) -> None:
    track = str(ft.sandbox.add_generation()["id"])
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    running = ft.start("delete", "--yes", "-", stdin=reader, check=0)
    os.close(reader)
    await_blocked(running.pid)  # it has found nothing to read
    os.write(writer, track.encode())
    os.close(writer)
    assert running.finish().stdout == "Deleted 1 of 1 track(s)\n"


def test_on_a_terminal_it_says_that_ids_are_read_from_stdin(ft: Runner) -> None:
    track = str(ft.sandbox.add_generation()["id"])
    process = ft.tty("download", "-", check=0)
    process.expect("reading ids, one a line, from stdin, up to Ctrl-D")
    process.send(f"{track}\r\x04")
    process.expect("Saved to ")
    process.finish()


def test_on_a_terminal_it_says_that_a_key_is_read_from_stdin(ft: Runner) -> None:
    process = ft.tty("auth", "login", "--stdin", key=None, check=2)
    process.expect("reading the API key from stdin, up to Ctrl-D")
    process.send("\x04")
    process.finish()


# --- all at once ----------------------------------------------------------------------------------

POOR: dict[str, str | None] = {
    **UNSET,
    "HOME": "",  # unset, it would be root's own
    "LC_ALL": "POSIX",
    "TERM": None,
    "COLUMNS": "1",
    "PYTHONUNBUFFERED": "1",
    "PYTHONWARNINGS": "error",
    "PYTHONOPTIMIZE": "2",
    "PYTHONUTF8": "0",
    "PYTHONCOERCECLOCALE": "0",
    "PYTHONPATH": ":",
}


def check_poor_result(result: Result) -> None:
    assert result.code in (0, 1, 2, 3), repr(result)
    for trace in ("Traceback", "internal error", "foreign code", "Exception ignored"):
        assert trace not in result.stdout + result.stderr, repr(result)


@pytest.fixture
def poor(
    ft: Runner, here: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, str | None]]:
    """The environment, with a read-only working directory of hostile modules around it.

    Few systems have the library compiled for PYTHONOPTIMIZE: the first process does it for all.
    """
    names = ["argparse.py", "json.py", "ssl.py"]
    for name in names:
        (here / name).write_text("raise SystemExit('foreign code')\n")
    here.chmod(0o555)
    (tmp_path / "site").mkdir()
    with ReleaseServer(tmp_path / "site") as server:
        bytecode = str(tmp_path_factory.getbasetemp() / "bytecode")
        yield {**POOR, "FT_RELEASE_URL": server.url, "PYTHONPYCACHEPREFIX": bytecode}
    here.chmod(0o755)
    assert sorted(path.name for path in here.iterdir()) == names


def command_line(ft: Runner, command: Command) -> list[str]:
    """Return what runs the example of a command, in a service that has a sound effect."""
    if command.name.startswith("sfx "):
        add_sound_effect(ft.sandbox)
    return run_without_capabilities(ft, *command.argv, "--base-url", ft.sandbox.api_url)


@pytest.mark.parametrize("stdin", ["<&-", "0>/dev/null"], ids=["closed", "write-only"])
@each(COMMANDS)
def test_every_command_in_all_poor_surroundings_at_once(
    ft: Runner, poor: dict[str, str | None], command: Command, stdin: str
) -> None:
    """Each ends with one of the exit codes, without a traceback, and runs nobody else's code."""
    script = f"umask 077; exec {shlex.join(command_line(ft, command))} {stdin}"
    for key in (ft.sandbox.key, None):
        check_poor_result(ft.sh(script, env=poor, key=key))


@each(COMMANDS)
def test_so_it_is_on_a_terminal_of_one_column(
    ft: Runner, poor: dict[str, str | None], command: Command
) -> None:
    program = command_line(ft, command)
    for key in (ft.sandbox.key, None):
        process = ft.tty(_program=program, env={**poor, "TERM": None}, key=key)
        if command.name == "auth login":
            process.expect("Ctrl-D")
        process.send("\x04")
        check_poor_result(process.finish())

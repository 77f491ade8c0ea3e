"""The key is shown nowhere: not in what ft writes, nor in what its children are given, nor in a
file but its own.
"""

from __future__ import annotations

import base64
import shutil
import sys
from pathlib import Path
from typing import Iterator

import jumping_clock
import pytest
from commands import COMMANDS, LOCAL, run
from conftest import Result, Runner
from keychains import Keyring, program

linux = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and the Secret Service")
keyring_programs = pytest.mark.needs(
    "dbus-daemon", "dbus-send", "gnome-keyring-daemon", "secret-tool"
)


def traces(data: bytes, key: str) -> list[str]:
    """What of the key's secret part can be read in the data: pieces of 8 characters, and two
    encodings.
    """
    secret = key[12:]  # the first 12 characters may be shown
    pieces = [secret[i : i + 8] for i in range(len(secret) - 7)]
    encoded = [base64.b64encode(key.encode()[12:36]).decode(), key.encode()[12:].hex()]
    return [piece for piece in pieces + encoded if piece.lower().encode() in data.lower()]


def assert_silent(result: Result, key: str) -> None:
    assert traces(result.stdout_bytes + result.stderr_bytes, key) == []


def assert_no_file(directory: Path, key: str, *but: Path) -> None:
    for path in directory.rglob("*"):
        if path.is_file() and path not in but:
            assert traces(path.read_bytes(), key) == [], path


def test_what_these_tests_look_for_is_found_when_it_is_there() -> None:
    key = "ft_live_0123456789abcdefABCDEF9876543210"
    assert traces(b"x" + key.encode(), key)
    assert traces(key[15:30].encode(), key)
    assert traces(b"go-keyring-base64:" + base64.b64encode(key.encode()), key)
    assert traces(key.encode().hex().encode(), key)
    assert traces(b"ft_live_0123...****", key) == []


@pytest.mark.parametrize("source", ["flag", "variable", "file"])
def test_verbose_commands_show_no_key(ft: Runner, source: str) -> None:
    if source == "file" and sys.platform != "linux":
        pytest.skip("only Linux has the file")
    key = ft.sandbox.key
    credentials = ft.config_dir / "credentials"
    if source == "file":
        credentials.write_text(key)
        credentials.chmod(0o600)
    flag = ["--api-key", key] if source == "flag" else []
    how = {"key": key if source == "variable" else None}
    for command in COMMANDS:
        if command.effect != LOCAL:
            result = run(ft, command, *flag, "-v", **how)
            assert_silent(result, key)
            assert result.code < 2  # what an earlier one deleted cannot be added
            assert f"{key[:12]}...****" in result.stderr  # the log has it, cut
    for argv in (["get", "nope"], ["playlist", "add", "Deep Work", "nope"], ["me", "--json"]):
        assert_silent(ft("-v", *argv, *flag, **how), key)
    asked = [request for request in ft.sandbox.requests if request.origin == "api"]
    assert {request.path for request in asked if request.headers["X-API-Key"] != key} == {"/health"}
    assert_no_file(ft.home, key, credentials)


@linux
def test_login_and_logout_show_no_key_and_keep_it_in_one_file(ft: Runner) -> None:
    key = ft.sandbox.key
    for argv in (["auth", "login", "--stdin"], ["auth", "logout"]):
        assert_silent(ft("-v", *argv, key=None, stdin=key, check=0), key)
        assert_no_file(ft.home, key, ft.config_dir / "credentials")


@linux
def test_the_prompt_shows_no_key(ft: Runner) -> None:
    terminal = ft.tty("-v", "auth", "login", key=None, check=0)
    terminal.expect("Paste your API key: ")
    terminal.send(ft.sandbox.key + "\r")
    result = terminal.finish()
    assert "Signed in as" in result.stdout
    assert_silent(result, ft.sandbox.key)


MALFORMED = ["{}0", "{}\n{}", "x{}", "{}é", "Bearer {}"]


@pytest.mark.parametrize("malformed", MALFORMED)
def test_a_malformed_key_is_not_repeated(ft: Runner, malformed: str) -> None:
    key = ft.sandbox.key
    text = malformed.replace("{}", key)
    for result in (
        ft("-v", "me", "--api-key", text, check=2),
        ft("-v", "me", key=text, check=2),
        ft("-v", "auth", "login", "--stdin", key=None, stdin=text, check=2),
        ft("-v", "auth", "login", key, check=2),  # as an argument that the command does not know
        ft("-v", "--api-kee", key, "me", check=2),
    ):
        assert_silent(result, key)
    assert ft.sandbox.requests == []


@pytest.mark.parametrize(
    ("kind", "params"),
    [
        (
            "body",
            {
                "status": 401,
                "data": b'{"error": {"code": "INVALID_API_KEY", "message": "bad key KEY"}}',
            },
        ),
        ("body", {"status": 502, "data": b"<html>KEY</html>", "type": "text/html"}),
        ("body", {"status": 200, "data": b"not JSON: KEY"}),
        ("body", {"status": 200, "data": b'{"data": {"email": "KEY", "tier": "KEY"}}'}),
        ("header", {"name": "X-Echo", "value": "KEY"}),
        ("redirect", {"location": "https://KEY.example/KEY?key=KEY"}),
        ("raw", {"data": b"KEY KEY KEY\r\n\r\n"}),
        ("bad-header", {"line": "KEY"}),
    ],
    ids=str,
)
def test_a_service_that_repeats_the_key_does_not_get_it_shown(
    ft: Runner, kind: str, params: dict[str, object]
) -> None:
    key = ft.sandbox.key

    def filled(value: object) -> object:
        if isinstance(value, bytes):
            return value.replace(b"KEY", key.encode())
        return value.replace("KEY", key) if isinstance(value, str) else value

    filled_params = {name: filled(value) for name, value in params.items()}
    for argv in (["me"], ["me", "--json"], ["doctor"]):
        ft.sandbox.fault(kind, path="/v1/me", times=None, **filled_params)
        assert_silent(ft("-v", *argv, speed=100), key)


@linux
@pytest.mark.parametrize("columns", [40, 57, 64, 80])
def test_a_key_that_a_line_is_too_short_for_is_not_shown_in_pieces(
    ft: Runner, columns: int
) -> None:
    """Tables cut and details wrap what the service sends, and the status line cuts what ft says."""
    key = ft.sandbox.key
    record = ft.sandbox.add_generation(
        prompt=key, title=key, errorMessage=f"is {key} a key? " * 9, status="failed"
    )
    ft.sandbox.add_playlist(f"for {key}", [str(record["id"])])
    message = f"no such authorisation?key={key} and {key}"
    for argv in (
        ["list"],
        ["get", str(record["id"])],
        ["playlists"],
        ["playlist", "show", f"for {key}"],
    ):
        assert_silent(ft.tty(*argv, columns=columns).finish(), key)
    ft.sandbox.fault("status", status=401, message=message, times=None)
    assert_silent(ft.tty("doctor", columns=columns).finish(), key)


@linux
def test_a_file_is_not_named_after_a_key(ft: Runner) -> None:
    record = ft.sandbox.add_generation(title=ft.sandbox.key)
    assert_silent(ft("download", str(record["id"]), check=0), ft.sandbox.key.replace("_", "-"))


def test_an_internal_error_shows_no_key_not_even_with_v(ft: Runner) -> None:
    changes = """
def broken(*arguments):
    import os
    key = os.environ["FINETUNING_API_KEY"]
    raise RuntimeError(f"with {key}", {"X-API-Key": key}, key.encode()) from ValueError(key)
ft.field_text = broken
"""
    for flags in ([], ["-v"]):
        result = jumping_clock.start(ft, *flags, "me", changes=changes, check=1).finish()
        assert "error: internal error: RuntimeError: " in result.stderr
        assert ("Traceback" in result.stderr) == bool(flags)
        assert_silent(result, ft.sandbox.key)


# --- the children ---------------------------------------------------------------------------------


@pytest.fixture
def keyring() -> Iterator[Keyring]:
    started = Keyring()
    yield started
    started.stop()


@linux
@keyring_programs
def test_no_child_is_given_the_key_in_an_argument_or_a_variable(
    ft: Runner, keyring: Keyring
) -> None:
    """Each secret-tool copies its own /proc entry as it runs; the variable is set all the while."""
    seen = ft.home / "seen"
    script = f"""#!/bin/sh
cat /proc/$$/cmdline /proc/$$/environ >>{seen}
exec {shutil.which("secret-tool")} "$@"
"""
    env = {**keyring.env, **program(ft.home / "bin", "secret-tool", script)}
    key = ft.sandbox.key
    login = ft("-v", "auth", "login", "--stdin", key=key, stdin=key, env=env, check=0)
    me = ft("-v", "me", key=None, env=env, check=0)
    doctor = ft("-v", "doctor", key=None, env=env, check=0)
    logout = ft("-v", "auth", "logout", key=key, env=env, check=0)
    for result in (login, me, doctor, logout):
        assert_silent(result, key)
    data = seen.read_bytes()
    assert data.count(b"secret-tool\0search\0") >= 4
    assert data.count(b"secret-tool\0store\0") == data.count(b"secret-tool\0clear\0") == 1
    assert b"FINETUNING_CONFIG_HOME=" in data
    assert traces(data, key) == []
    assert b"FINETUNING_API_KEY" not in data
    assert_no_file(ft.home, key)


@linux
@keyring_programs
def test_ft_itself_shows_no_stored_key_in_proc(ft: Runner, keyring: Keyring) -> None:
    key = ft.sandbox.key
    keyring.store(key)
    gate = ft.sandbox.hold("/v1/me")
    for argv, stdin in ((["me"], None), (["auth", "login", "--stdin"], key)):
        asked = len(ft.sandbox.requests)
        running = ft.start(*argv, key=None, stdin=stdin, env=keyring.env, check=0)
        ft.sandbox.wait_for(lambda request: request.number > asked)  # noqa: B023
        process = Path(f"/proc/{running.pid}")
        data = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
        assert b"FINETUNING_CONFIG_HOME=" in data
        assert traces(data, key) == []
        gate.release()
        running.finish()

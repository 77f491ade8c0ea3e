"""What the Secret Service has of its own beside the contract of test_keystores.py: a private GNOME
keyring for each test, on a machine without a display.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Iterator

import pytest
from conftest import Runner
from jumping_clock import ChangedRunner
from keychains import ATTRIBUTES, LABEL, Bus, Keyring, processes_with, program
from sandbox import Sandbox

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the Secret Service is Linux's"),
    pytest.mark.needs("dbus-daemon", "dbus-send", "gnome-keyring-daemon", "secret-tool"),
]
PLACE = "the Secret Service keyring"
LOCKED = f"{PLACE} is locked"


@pytest.fixture
def ft(program: Path, sandbox: Sandbox, tmp_path: Path) -> ChangedRunner:
    """An `ft` that waits for the keyring as long as a busy machine may take."""
    patient = ChangedRunner(program, sandbox, tmp_path)
    patient.changes = "ft.KEYCHAIN_TIMEOUT = ft.UNLOCK_TIMEOUT = 60.0"
    return patient


@pytest.fixture
def keyring() -> Iterator[Keyring]:
    """An unlocked, empty keyring. Ends with a look for processes left over."""
    started = Keyring()
    yield started
    started.stop()


@pytest.fixture
def bus() -> Iterator[Bus]:
    """A session bus on which no Secret Service is, nor can be started."""
    started = Bus()
    yield started
    started.stop()


def login(ft: Runner, key: str, **how: object) -> None:
    ft("auth", "login", "--stdin", key=None, stdin=key + "\n", check=0, **how)


def sent_keys(ft: Runner) -> list[str | None]:
    return [request.headers.get("X-API-Key") for request in ft.sandbox.requests]


def next_second() -> None:
    """Wait until the clock shows another second: the keyring's times have no fractions."""
    began = int(time.time())
    while int(time.time()) == began:
        time.sleep(0.02)


# --- interoperation -------------------------------------------------------------------------------


def test_login_stores_the_item_of_the_official_client(ft: Runner, keyring: Keyring) -> None:
    login(ft, ft.sandbox.key, env=keyring.env)
    items = keyring.items()
    assert f"label = {LABEL}\n" in items
    assert f"secret = {ft.sandbox.key}\n" in items
    assert re.findall(r"^attribute\.(.*)$", items, re.MULTILINE) == [
        "service = finetuning",
        "username = default",
    ]


@pytest.mark.parametrize("other", ["secret-tool", "Python's keyring"])
def test_ft_reads_what_another_program_stored(ft: Runner, keyring: Keyring, other: str) -> None:
    if other == "secret-tool":
        keyring.store(ft.sandbox.key + "\n")
    else:
        keyring.python("set", ft.sandbox.key)
    ft("me", key=None, env=keyring.env, check=0)
    assert sent_keys(ft) == [ft.sandbox.key]


@pytest.mark.parametrize("other", ["secret-tool", "Python's keyring"])
def test_login_replaces_what_another_program_stored(
    ft: Runner, keyring: Keyring, other: str
) -> None:
    """And they read what it stored, to the byte."""
    if other == "secret-tool":
        keyring.store(ft.sandbox.key_other)
    else:
        keyring.python("set", ft.sandbox.key_other)
    login(ft, ft.sandbox.key, env=keyring.env)
    assert ft.sandbox.key_other not in keyring.items()
    assert keyring.lookup() == keyring.python("get") == ft.sandbox.key


def test_the_newest_of_two_items_is_read_and_a_login_leaves_one(
    ft: Runner, keyring: Keyring
) -> None:
    """Python's keyring makes an item of its own beside ours; the keyring finds either first, as it
    likes.
    """
    login(ft, ft.sandbox.key_other, env=keyring.env)
    next_second()
    keyring.python("set", ft.sandbox.key)
    assert keyring.items().count("secret = ") == 2
    for _ in range(2):  # in the order of before and after a start of the keyring
        ft("me", key=None, env=keyring.env, check=0)
        assert sent_keys(ft)[-1] == ft.sandbox.key
        keyring.halt()
        keyring.unlock()
    login(ft, ft.sandbox.key_lifetime, env=keyring.env)
    assert keyring.items().count("secret = ") == 1
    assert keyring.lookup() == keyring.python("get") == ft.sandbox.key_lifetime


def test_logout_leaves_nothing_that_any_program_finds(ft: Runner, keyring: Keyring) -> None:
    keyring.store(ft.sandbox.key)
    keyring.python("set", ft.sandbox.key_other)
    result = ft("auth", "logout", key=None, env=keyring.env, check=0)
    assert result.stdout == f"Logged out. Removed the key from {PLACE}.\n"
    assert keyring.items() == keyring.lookup() == keyring.python("get") == ""
    assert "no API key" in ft("me", key=None, env=keyring.env, check=1).stderr
    again = ft("auth", "logout", key=None, env=keyring.env, check=0)
    assert again.stdout == "Logged out. No key was stored.\n"
    assert again.stderr == ""


def test_logout_removes_both_the_item_and_the_file(ft: Runner, keyring: Keyring) -> None:
    login(ft, ft.sandbox.key)  # without a bus
    keyring.store(ft.sandbox.key)
    credentials = ft.config_dir / "credentials"
    assert credentials.exists()
    result = ft("auth", "logout", key=None, env=keyring.env, check=0)
    assert result.stdout == f"Logged out. Removed the key from {PLACE} and {credentials}.\n"
    assert not credentials.exists()
    assert keyring.items() == ""


def test_a_login_to_the_keyring_removes_an_old_fallback(ft: Runner, keyring: Keyring) -> None:
    login(ft, ft.sandbox.key)
    assert (ft.config_dir / "credentials").exists()
    login(ft, ft.sandbox.key, env=keyring.env)
    assert not (ft.config_dir / "credentials").exists()


# --- absent, locked, unreachable, mute ------------------------------------------------------------


def test_an_empty_keyring_lets_the_file_answer_and_doctor_says_how_to_move_it(
    ft: Runner, keyring: Keyring
) -> None:
    login(ft, ft.sandbox.key)  # without a bus
    doctor = ft("doctor", "--json", key=None, env=keyring.env, check=0).json
    assert doctor["keySource"] == str(ft.config_dir / "credentials")
    assert doctor["keyStore"] == PLACE
    assert "ft auth login" in doctor["keyStoreReason"]


def test_locked_is_not_absent_and_never_falls_back(ft: Runner, keyring: Keyring) -> None:
    keyring.store(ft.sandbox.key)
    credentials = ft.config_dir / "credentials"
    credentials.write_text(ft.sandbox.key_other)
    credentials.chmod(0o600)
    keyring.lock()
    result = ft("me", key=None, env=keyring.env, check=1)
    assert result.stderr.startswith(f"error: {LOCKED}\nhint: unlock it ")
    doctor = ft("doctor", key=None, env=keyring.env, check=1)
    assert f"✗ key: {LOCKED}" in doctor.stdout
    assert "plain text" not in doctor.stdout
    assert sent_keys(ft) == [None]  # doctor's /health


def test_a_login_to_a_locked_keyring_fails_without_plain_text(ft: Runner, keyring: Keyring) -> None:
    keyring.store(ft.sandbox.key_other)
    keyring.lock()
    result = ft(
        "auth", "login", "--stdin", key=None, stdin=ft.sandbox.key, env=keyring.env, check=1
    )
    assert result.stderr.startswith(f"error: {PLACE} did not store the key: ")
    assert "hint: unlock the keyring" in result.stderr
    assert result.stdout == ""
    assert not (ft.config_dir / "credentials").exists()


UNREACHABLE = {
    "no bus": "there is no D-Bus session",
    "no service": "org.freedesktop.secrets was not provided by any .service files",
    "no daemon": "Could not connect: No such file or directory",
    "no secret-tool": "secret-tool is not installed",
}


@pytest.mark.parametrize("why", UNREACHABLE)
def test_without_a_secret_service_the_key_goes_to_a_file_and_ft_says_so(
    ft: Runner, bus: Bus, why: str
) -> None:
    env = {} if why == "no bus" else dict(bus.env)
    if why == "no daemon":
        env["DBUS_SESSION_BUS_ADDRESS"] += "-gone"
    if why == "no secret-tool":
        env["PATH"] = str(ft.home)
    credentials = ft.config_dir / "credentials"

    absent = ft("me", key=None, env=env, check=1).stderr
    assert absent.startswith("error: no API key\nhint: ")
    assert f"({PLACE} cannot be reached: " in absent
    assert UNREACHABLE[why] in absent

    stored = ft("auth", "login", "--stdin", key=None, stdin=ft.sandbox.key, env=env, check=0)
    assert f"Stored in {credentials}. ✓\n" in stored.stdout
    assert f"warning: {PLACE} cannot be reached (" in stored.stderr
    assert UNREACHABLE[why] in stored.stderr
    assert f"warning: the key is stored in plain text in {credentials}" in stored.stderr

    assert ft("me", key=None, env=env, check=0).stderr == ""  # said once, at the login

    doctor = ft("doctor", key=None, env=env, check=0).stdout
    assert f"✓ key from: {credentials}\n" in doctor
    line = next(line for line in doctor.splitlines() if "key store" in line)
    assert line.startswith(f"✓ key store: {credentials} (plain text: {PLACE} cannot be reached: ")
    assert UNREACHABLE[why] in line

    logout = ft("auth", "logout", key=None, env=env, check=0)
    assert logout.stdout == f"Logged out. Removed the key from {credentials}.\n"
    assert not credentials.exists()
    again = ft("auth", "logout", key=None, env=env, check=0)
    assert again.stdout == "Logged out. No key was found.\n"
    assert again.stderr.startswith(f"note: {PLACE} cannot be reached (")
    assert UNREACHABLE[why] in again.stderr


def test_a_keyring_without_a_default_collection_counts_as_none(ft: Runner, bus: Bus) -> None:
    """The facts' `Object does not exist at path …collection/login`, which only storing meets."""
    env = dict(bus.env)
    env.update(
        program(
            ft.home / "bin",
            "secret-tool",
            '#!/bin/sh\n[ "$1" = store ] || exit 0\ncat >/dev/null\n'
            'echo "secret-tool: Object does not exist at path '
            '“/org/freedesktop/secrets/collection/login”" >&2\nexit 1\n',
        )
    )
    result = ft("auth", "login", "--stdin", key=None, stdin=ft.sandbox.key, env=env, check=0)
    assert "plain text" in result.stderr
    assert (ft.config_dir / "credentials").exists()


@pytest.fixture
def mute(ft: ChangedRunner, bus: Bus) -> dict[str, str]:
    """An environment whose secret-tool never answers; it leaves a line in `asked` each time."""
    ft.changes = ""
    text = f"#!/bin/sh\necho asked >>{ft.home}/asked\nexec sleep 600\n"
    return {**bus.env, **program(ft.home / "bin", "secret-tool", text)}


def asked(ft: Runner) -> int:
    log = ft.home / "asked"
    return len(log.read_text().splitlines()) if log.exists() else 0


def test_a_mute_keyring_costs_three_seconds_once(ft: Runner, mute: dict[str, str]) -> None:
    """Once, although doctor has two lines about it."""
    result = ft("doctor", key=None, env=mute, check=1)
    assert asked(ft) == 1
    assert (
        f"warning: secret-tool did not answer within 3 s; going on without {PLACE}\n"
        in result.stderr
    )
    assert "✗ key: no API key" in result.stdout
    assert "set FINETUNING_API_KEY" in result.stdout
    assert not processes_with(f"FINETUNING_CONFIG_HOME={ft.config_dir}")


def test_a_login_beside_a_mute_keyring_stores_in_the_file_and_says_so(
    ft: Runner, mute: dict[str, str]
) -> None:
    result = ft("auth", "login", "--stdin", key=None, stdin=ft.sandbox.key, env=mute, check=0)
    assert asked(ft) == 1
    assert f"{PLACE} cannot be reached (secret-tool did not answer within 3 s)" in result.stderr
    assert "in plain text" in result.stderr


def test_ctrl_c_ends_the_wait_for_a_mute_keyring(ft: Runner, mute: dict[str, str]) -> None:
    running = ft.tty("me", key=None, env=mute, check=130)
    deadline = time.monotonic() + 20
    while not asked(ft):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    running.send("\x03")
    assert "did not answer" not in running.finish().stdout
    assert not processes_with(f"FINETUNING_CONFIG_HOME={ft.config_dir}")


def slow(ft: Runner, keyring: Keyring, lines: str) -> dict[str, str]:
    """An environment whose secret-tool is the real one, after these lines of sh."""
    text = f'#!/bin/sh\n{lines}\nexec {shutil.which("secret-tool")} "$@"\n'
    return {**keyring.env, **program(ft.home / "bin", "secret-tool", text)}


@pytest.mark.parametrize("stuck", ["clear", "search"])
def test_a_logout_that_the_keyring_does_not_answer_says_that_the_key_may_be_there(
    ft: ChangedRunner, keyring: Keyring, stuck: str
) -> None:
    """As with a window that nobody sees. The file beside it is removed all the same, and told."""
    keyring.store(ft.sandbox.key)
    credentials = ft.config_dir / "credentials"
    credentials.write_text(ft.sandbox.key)
    env = slow(ft, keyring, f'[ "$1" != {stuck} ] || exec sleep 600')
    ft.changes = "ft.KEYCHAIN_TIMEOUT = ft.UNLOCK_TIMEOUT = 3.0"
    result = ft("auth", "logout", key=None, env=env, check=1)
    assert result.stdout == ""
    assert f"note: removed the key from {credentials}\n" in result.stderr
    assert (
        f"error: {PLACE} may still hold the key: secret-tool did not answer within "
        in result.stderr
    )
    assert keyring.lookup() == ft.sandbox.key and not credentials.exists()


def test_a_key_that_was_stored_is_not_stored_in_plain_text_as_well(
    ft: ChangedRunner, keyring: Keyring
) -> None:
    """Although the keyring is too busy to be asked whether another item stands beside it."""
    ft.changes = ""
    stored = ft.home / "stored"
    lines = (
        f'[ "$1" != store ] || touch {stored}\n[ "$1" != search ] || [ ! -e {stored} ] || '
        "exec sleep 600"
    )
    env = slow(ft, keyring, lines)
    result = ft("auth", "login", "--stdin", key=None, stdin=ft.sandbox.key, env=env, check=0)
    assert f"Stored in {PLACE}. ✓\n" in result.stdout and result.stderr == ""
    assert keyring.lookup() == ft.sandbox.key
    assert not (ft.config_dir / "credentials").exists()


def test_a_store_that_waits_for_a_person_says_so(ft: ChangedRunner, keyring: Keyring) -> None:
    """Storing in a locked keyring raises a window. It is answered here once ft has said that it
    waits.
    """
    ft.changes = ""
    answered = ft.home / "answered"
    env = slow(ft, keyring, f'[ "$1" != store ] || until [ -e {answered} ]; do sleep 0.05; done')
    running = ft.start("auth", "login", "--stdin", key=None, stdin=ft.sandbox.key, env=env, check=0)
    running.expect("note: waiting for secret-tool: answer its prompt if there is one")
    answered.touch()
    running.finish()
    assert keyring.lookup() == ft.sandbox.key


# --- the order of the sources ---------------------------------------------------------------------


@pytest.fixture
def recorder(ft: Runner, keyring: Keyring) -> tuple[dict[str, str], Path]:
    """An environment whose secret-tool is the real one but writes down that it was called, and
    where.
    """
    log = ft.home / "called"
    text = f'#!/bin/sh\necho "$@" >>{log}\nexec {shutil.which("secret-tool")} "$@"\n'
    return {**keyring.env, **program(ft.home / "bin", "secret-tool", text)}, log


def test_flag_variable_keychain_file_in_this_order(
    ft: Runner, keyring: Keyring, recorder: tuple[dict[str, str], Path]
) -> None:
    env, log = recorder
    sandbox = ft.sandbox
    login(ft, sandbox.key_lifetime)  # to the file: no bus
    keyring.store(sandbox.key_other)
    ft("me", "--api-key", sandbox.key, key="", env=env, check=0)
    ft("me", "--api-key", sandbox.key, key=sandbox.key_other, env=env, check=0)
    ft("me", key=sandbox.key, env=env, check=0)
    assert not log.exists()  # the keychain was not touched
    ft("me", key=None, env=env, check=0)
    assert len(log.read_text().splitlines()) == 1
    ft("me", key="  ", env=env, check=0)  # empty counts as unset
    keyring.run("secret-tool", "clear", *ATTRIBUTES)
    ft("me", key=None, env=env, check=0)
    lifetime, key, other = sandbox.key_lifetime, sandbox.key, sandbox.key_other
    assert sent_keys(ft) == [lifetime, key, key, key, other, other, lifetime]


@pytest.mark.parametrize(
    "argv",
    [
        ["help"],
        ["help", "generate"],
        ["--version"],
        ["-h"],
        [],
        ["nonsense"],
        ["list", "--limit", "0"],
        ["generate", " "],
        ["auth", "login", "--stdin"],  # an empty stdin
    ],
    ids=" ".join,
)
def test_a_command_that_needs_no_key_does_not_touch_the_keychain(
    ft: Runner, recorder: tuple[dict[str, str], Path], argv: list[str]
) -> None:
    env, log = recorder
    assert ft(*argv, key=None, env=env).code in (0, 2)
    assert not log.exists()


def test_doctor_does_not_touch_the_keychain_when_the_variable_answers(
    ft: Runner, recorder: tuple[dict[str, str], Path]
) -> None:
    env, log = recorder
    result = ft("doctor", env=env, check=0)
    assert "✓ key from: FINETUNING_API_KEY\n" in result.stdout
    assert f"✓ key store: {PLACE} (not asked: FINETUNING_API_KEY comes first)\n" in result.stdout
    assert not log.exists()


@pytest.mark.parametrize(("key", "code"), [("ft_live_short", 2), ("ft_live_" + "0" * 32, 1)])
def test_a_login_that_fails_does_not_touch_the_keychain(
    ft: Runner, recorder: tuple[dict[str, str], Path], key: str, code: int
) -> None:
    env, log = recorder
    ft("auth", "login", "--stdin", key=None, stdin=key, env=env, check=code)
    assert not log.exists()


# --- two at once, and nothing left ----------------------------------------------------------------


@pytest.mark.parametrize("place", ["keyring", "file"])
def test_nobody_sees_half_a_key_while_logins_replace_it(
    ft: Runner, keyring: Keyring, place: str
) -> None:
    """Two keys replace each other over and over; whoever reads meanwhile gets one of the two,
    whole.
    """
    env = keyring.env if place == "keyring" else {}
    keys = [ft.sandbox.key, ft.sandbox.key_other]
    login(ft, keys[0], env=env)
    results = []
    over = threading.Event()

    def read() -> None:
        while not over.is_set():
            results.append(ft("me", key=None, env=env))

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    try:
        for turn in range(1, 6):
            two = [
                ft.start(
                    "auth",
                    "login",
                    "--stdin",
                    key=None,
                    env=env,
                    stdin=keys[(turn + n) % 2],
                    check=0,
                )
                for n in range(2)
            ]
            for process in two:
                process.finish()
    finally:
        over.set()
        for reader in readers:
            reader.join()
    assert [result for result in results if result.code != 0] == []
    assert len(results) >= 10
    assert set(sent_keys(ft)) == set(keys)
    leftovers = {path.name for path in ft.config_dir.iterdir()} - {"config.json", "credentials"}
    assert leftovers == set()


def test_no_daemon_is_left_when_a_keyring_of_the_tests_stops(ft: Runner) -> None:
    keyring = Keyring()
    mark = f"XDG_RUNTIME_DIR={keyring.directory}"
    login(ft, ft.sandbox.key, env=keyring.env)
    assert len(processes_with(mark)) == 2  # the bus and the keyring
    keyring.stop()
    assert processes_with(mark) == []
    assert not keyring.directory.exists()


def test_no_program_that_leaves_daemons_behind_is_installed_or_asked_for() -> None:
    """dbus-x11's dbus-launch starts a bus that nobody ends, as soon as a DISPLAY is set."""
    root = Path(__file__).resolve().parent.parent
    name = "dbus-" + "x11"
    places = ".ci .github Makefile README.md install.sh pyproject.toml"
    argv = ["grep", "-rIl", name, *places.split()]
    assert subprocess.run(argv, cwd=root, stdout=subprocess.PIPE).stdout == b""

"""What macOS's keychain has of its own beside the contract of test_keystores.py: against a strict
stand-in for `security` on every POSIX system, against the real one on a Mac.
"""

from __future__ import annotations

import base64
import os
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any, Iterator

import jumping_clock
import pytest
from conftest import Result, Runner
from keystores import MacKeychain, files_of

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="the stand-in is a script with a #! line")
]


SENTENCES = {
    36: "it cannot be used from here: it is locked, or this is an SSH session",
    128: "the request was cancelled",
    **dict.fromkeys((2, 37, 45, 50, 51, 53, 99), "`security` failed"),
}


@pytest.fixture
def mac(ft: Runner) -> MacKeychain:
    return MacKeychain(ft)


# --- ft, with the stand-in ------------------------------------------------------------------------


def test_the_key_is_in_no_argument(mac: MacKeychain) -> None:
    mac.login(mac.ft.sandbox.key, check=0)
    mac("me", check=0)
    mac("auth", "logout", check=0)
    assert len(mac.calls) == 3
    assert not [call for call in mac.calls if mac.ft.sandbox.key in " ".join(call["argv"])]
    assert [call["stdin"].count(mac.ft.sandbox.key) for call in mac.calls] == [1, 0, 0]


ENCODINGS = {
    "bare": lambda key: key,
    "go-keyring, base64": lambda key: (
        "go-keyring-base64:" + base64.b64encode(key.encode()).decode()
    ),
    "go-keyring, hex": lambda key: "go-keyring-encoded:" + key.encode().hex(),
    "with a newline, which `security` shows as hex": lambda key: key + "\n",
}


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_form_in_which_a_key_may_lie_there_is_read(mac: MacKeychain, encoding: str) -> None:
    mac.put(ENCODINGS[encoding](mac.ft.sandbox.key))
    mac("me", check=0)
    assert mac.sent_keys() == [mac.ft.sandbox.key]


@pytest.mark.parametrize(
    "value",
    [
        "go-keyring-base64:eHl6",
        "go-keyring-base64:/w==",
        "go-keyring-encoded:xyz",
        "ff",
        "schlüssel",
    ],
)
def test_a_value_that_is_no_key_is_refused_by_source_and_length(
    mac: MacKeychain, value: str
) -> None:
    mac.put(value)
    result = mac("me", check=2)
    assert "error: the API key from macOS Keychain is malformed: " in result.stderr
    assert value not in result.stderr
    assert mac.ft.sandbox.requests == []


def test_the_keychain_is_not_touched_when_flag_or_variable_answers(mac: MacKeychain) -> None:
    mac.refuse(find=36)
    mac("me", "--api-key", mac.ft.sandbox.key, check=0)
    mac("me", key=mac.ft.sandbox.key, check=0)
    mac("doctor", key=mac.ft.sandbox.key, check=0)
    mac("--version", check=0)
    assert mac.calls == []


def one_sentence(result: Result, code: int) -> None:
    """One error and one hint."""
    error, hint, rest = result.stderr.split("\n", 2)
    assert error == f"error: macOS Keychain: {SENTENCES[code]} (exit {code})"
    unlock = "run `security unlock-keychain`, or " if code == 36 else ""
    assert hint == f"hint: {unlock}set FINETUNING_API_KEY to do without it"
    assert rest == ""


@pytest.mark.parametrize("code", SENTENCES)
def test_every_exit_code_of_a_read_is_one_sentence(mac: MacKeychain, code: int) -> None:
    mac.refuse(find=code)
    one_sentence(mac("me", check=1), code)


@pytest.mark.parametrize("code", SENTENCES)
def test_every_exit_code_of_a_write_is_one_sentence_and_never_plain_text(
    mac: MacKeychain, code: int
) -> None:
    mac.refuse(add=code)
    result = mac.login(mac.ft.sandbox.key, check=1)
    one_sentence(result, code)
    assert result.stdout == ""
    assert files_of(mac.ft) == ["config.json"]


@pytest.mark.parametrize("code", [36, 51, 128])
def test_a_removal_that_fails_is_an_error_whatever_its_text_says(
    mac: MacKeychain, code: int
) -> None:
    mac.put(mac.ft.sandbox.key)
    mac.refuse(delete=code)
    result = mac("auth", "logout", check=1)
    one_sentence(result, code)
    assert result.stdout == ""


def test_a_window_that_nobody_answers_is_announced_and_given_up_on(mac: MacKeychain) -> None:
    mac.hang()
    result = mac("me", check=1)
    note, error, hint = result.stderr.splitlines()
    assert note == "note: waiting for security: answer its prompt if there is one"
    assert error == "error: macOS Keychain: security did not answer within 1 s"
    assert hint == "hint: set FINETUNING_API_KEY to do without it"


def test_a_window_that_is_answered_late_is_waited_for(mac: MacKeychain) -> None:
    mac.put(mac.ft.sandbox.key)
    mac.mute.touch()
    running = mac.start("me", changes="ft.KEYCHAIN_TIMEOUT = 0.3", check=0)
    running.expect("note: waiting for security")
    mac.mute.unlink()
    running.finish()


# --- the stand-in is as strict as the facts -------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("add-generic-password -U -s a -a b -w c\n", 0),
        ("add-generic-password -s a -a b -w c\nadd-generic-password -s a -a b -w c\n", 45),
        ("add-generic-password -s 'a' -a \"b\" -w c\\ d\n", 0),
        ("add-generic-password -s 'a -a b -w c\n", 2),
        ("add-generic-password -s a -a b -w " + "c" * 4061 + "\n", 0),  # 4095 characters
        ("add-generic-password -s a -a b -w " + "c" * 4062 + "\n", 2),
        ("add-generic-password -s a -a b -w c --label x\n", 2),
        ("delete-generic-password -s a -a b\n", 44),
        (
            "delete-generic-password -s a -a b\nadd-generic-password -s a -a b -w c\n",
            0,
        ),  # the last one's
        ("nonsense\n", 2),
    ],
)
def test_the_stand_in_reads_commands_as_security_does(
    mac: MacKeychain, line: str, code: int
) -> None:
    ran = subprocess.run(
        [mac.security, "-i"], input=line, encoding="utf-8", stderr=subprocess.DEVNULL
    )
    assert ran.returncode == code


def test_the_stand_in_drops_an_unended_last_line(mac: MacKeychain) -> None:
    subprocess.run(
        [mac.security, "-i"], input="add-generic-password -s a -a b -w c", encoding="utf-8"
    )
    assert mac.items == {}


# --- the real one, on a Mac -----------------------------------------------------------------------


@pytest.fixture
def service() -> Iterator[str]:
    """A name of our own, so that nobody's real key is touched."""
    name = f"finetuning-test-{uuid.uuid4()}"
    yield name
    delete = ["/usr/bin/security", "delete-generic-password", "-s", name, "-a", "default"]
    subprocess.run(delete, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@pytest.mark.skipif(sys.platform != "darwin", reason="needs macOS")
@pytest.mark.skipif(
    not os.environ.get("CI"), reason="may raise a window of the keychain: set CI=1 to run it"
)
def test_the_real_keychain(ft: Runner, service: str) -> None:
    """A login, what `security` finds, a read, a replacement, a value of the official client, a
    logout.
    """

    def run(*argv: str, **how: Any) -> Result:
        home = {"HOME": str(Path.home())}  # the keychain is the real one's
        changes = f"ft.KEYCHAIN_SERVICE = {service!r}"
        return jumping_clock.start(
            ft, *argv, changes=changes, key=None, env=home, check=0, **how
        ).finish()

    def security(*argv: str) -> str:
        argv = ("/usr/bin/security", *argv, "-s", service, "-a", "default")
        return subprocess.run(argv, stdout=subprocess.PIPE, encoding="utf-8").stdout.strip()

    for key in (ft.sandbox.key_other, ft.sandbox.key):
        result = run("auth", "login", "--stdin", stdin=key)
        assert "Stored in macOS Keychain. ✓" in result.stdout
        assert security("find-generic-password", "-w") == key
    run("me")
    assert ft.sandbox.requests[-1].headers["X-API-Key"] == ft.sandbox.key
    encoded = "go-keyring-base64:" + base64.b64encode(ft.sandbox.key_other.encode()).decode()
    security("add-generic-password", "-U", "-w", encoded)
    run("me")
    assert ft.sandbox.requests[-1].headers["X-API-Key"] == ft.sandbox.key_other
    assert "Removed the key" in run("auth", "logout").stdout
    assert security("find-generic-password", "-w") == ""
    assert "No key was stored" in run("auth", "logout").stdout

"""Windows: what the Credential Manager has of its own beside the contract of test_keystores.py, and
what else is different there. Most of it runs on Windows alone.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Iterator

import jumping_clock
import pytest
from conftest import Runner
from keystores import FAILING, LOCAL_MACHINE, WindowsCredentials, files_of

windows = pytest.mark.skipif(sys.platform != "win32", reason="needs Windows")


@pytest.fixture
def vault(ft: Runner) -> Iterator[WindowsCredentials]:
    vault = WindowsCredentials(ft)
    yield vault
    vault.stop()


# --- the Credential Manager -----------------------------------------------------------------------


@windows
def test_login_stores_what_the_official_client_stores(vault: WindowsCredentials) -> None:
    key = vault.ft.sandbox.key
    result = vault.login(key + "\r", check=0)
    assert "0600" not in result.stdout + result.stderr  # no claim about modes
    ours, *others = vault.targets
    assert vault.read(ours) == ("default", key.encode(), LOCAL_MACHINE)
    assert [vault.read(target) for target in others] == [None, None]


@windows
@pytest.mark.parametrize("number", [0, 1, 2])
def test_all_three_forms_are_read_and_removed(vault: WindowsCredentials, number: int) -> None:
    target, encoding = vault.targets[number], "utf-8" if number == 0 else "utf-16-le"
    vault.write(target, "default", vault.ft.sandbox.key.encode(encoding))
    vault("me", check=0)
    assert vault.sent_keys()[-1] == vault.ft.sandbox.key
    logout = vault("auth", "logout", check=0)
    assert logout.stdout.splitlines() == [
        f"Logged out. Removed the key from {WindowsCredentials.place}."
    ]
    assert vault.read(target) is None
    assert "No key was stored" in vault("auth", "logout", check=0).stdout


@windows
def test_the_official_clients_form_is_read_first(vault: WindowsCredentials) -> None:
    for number, key in enumerate((vault.ft.sandbox.key, vault.ft.sandbox.key_other)):
        vault.write(
            vault.targets[number], "default", key.encode("utf-8" if number == 0 else "utf-16-le")
        )
    vault("me", check=0)
    assert vault.sent_keys()[-1] == vault.ft.sandbox.key


@windows
def test_ft_reads_and_removes_what_pythons_keyring_stored(vault: WindowsCredentials) -> None:
    pytest.importorskip("keyring")
    vault.python("set", vault.ft.sandbox.key)
    assert vault.python("get") == vault.ft.sandbox.key
    vault("me", check=0)
    assert vault.sent_keys()[-1] == vault.ft.sandbox.key
    vault("auth", "logout", check=0)
    assert vault.python("get") == ""


FAILURES = {
    1312: "there is no logon session here (SSH, WinRM) (error 1312)",
    5: "access is denied (error 5)",
    8: "{function} failed (error 8)",
}


@pytest.mark.parametrize("error", FAILURES)
@pytest.mark.parametrize(
    ("argv", "function"),
    [(["me"], "CredReadW"), (["auth", "login", "--stdin"], "CredWriteW")],
    ids=str,
)
def test_every_error_of_the_credential_manager_is_one_sentence(
    ft: Runner, argv: list[str], function: str, error: int
) -> None:
    """Runs everywhere: with an advapi32 whose calls fail."""
    changes = FAILING.format(error=error)
    result = jumping_clock.start(
        ft, *argv, changes=changes, key=None, stdin=ft.sandbox.key, check=1
    ).finish()
    reason = FAILURES[error].format(function=function)
    assert result.stderr.splitlines() == [
        f"error: {WindowsCredentials.place}: {reason}",
        "hint: set FINETUNING_API_KEY to do without it",
    ]
    assert result.stdout == ""
    assert files_of(ft) == ["config.json"]


# --- the rest of Windows --------------------------------------------------------------------------


@windows
def test_the_configuration_lies_in_appdata(ft: Runner, tmp_path: Path) -> None:
    env = {"FINETUNING_CONFIG_HOME": None, "APPDATA": str(tmp_path / "roaming")}
    document = ft("doctor", "--json", "--base-url", ft.sandbox.api_url, env=env, check=0).json
    assert document["config"] == str(tmp_path / "roaming" / "finetuning" / "config.json")


@windows
def test_version_and_help_start(ft: Runner) -> None:
    assert ft("--version", key=None, check=0).stdout.startswith("ft ")
    assert "auth login" in ft("help", key=None, check=0).stdout


@windows
def test_a_track_is_made_listed_and_downloaded(ft: Runner) -> None:
    ft("generate", "lofi chill piano", "-o", "track.mp3", check=0)
    listed = ft("list", "--limit", "1", "--json", check=0).json["data"]["generations"][0]
    ft("download", listed["id"], "-o", "again.mp3", check=0)
    assert (ft.cwd / "track.mp3").read_bytes() == (ft.cwd / "again.mp3").read_bytes()
    assert (ft.cwd / "track.mp3").read_bytes() == ft.sandbox.track(listed["id"])


@windows
def test_a_console_that_lacks_the_characters_gets_ascii_and_never_a_crash(ft: Runner) -> None:
    ft.sandbox.add_generation(prompt="音楽 🎵 é")
    env = {"PYTHONIOENCODING": "cp1252", "LC_ALL": None}
    result = ft("list", "--limit", "1", env=env, check=0)
    assert b"\\u97f3" in result.stdout_bytes
    assert "OK ft v" in ft("doctor", env=env, check=0).stdout
    listed = json.loads(
        ft("list", "--limit", "1", "--json", env=env, check=0).stdout_bytes.decode("ascii")
    )
    assert listed["data"]["generations"][0]["prompt"] == "音楽 🎵 é"

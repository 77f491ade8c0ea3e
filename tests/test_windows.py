"""Windows: the Credential Manager, and what else is different there. Most of it runs on Windows
alone.
"""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
import uuid
from ctypes import wintypes
from pathlib import Path
from typing import Any, Iterator

import jumping_clock
import pytest
from conftest import Result, Runner

pytestmark = pytest.mark.source
windows = pytest.mark.skipif(sys.platform != "win32", reason="needs Windows")
PLACE = "Windows Credential Manager"
GENERIC, LOCAL_MACHINE = 1, 2


class Credential(ctypes.Structure):
    """CREDENTIALW, as Microsoft's wincred.h has it."""

    _fields_ = [
        ("Flags", wintypes.DWORD),
        ("Type", wintypes.DWORD),
        ("TargetName", wintypes.LPWSTR),
        ("Comment", wintypes.LPWSTR),
        ("LastWritten", wintypes.FILETIME),
        ("CredentialBlobSize", wintypes.DWORD),
        ("CredentialBlob", ctypes.c_void_p),
        ("Persist", wintypes.DWORD),
        ("AttributeCount", wintypes.DWORD),
        ("Attributes", ctypes.c_void_p),
        ("TargetAlias", wintypes.LPWSTR),
        ("UserName", wintypes.LPWSTR),
    ]


class Vault:
    """The Credential Manager, and ft with a service name of its own, so that nobody's real key is
    touched.
    """

    def __init__(self, ft: Runner) -> None:
        self.ft = ft
        self.service = f"finetuning-test-{uuid.uuid4()}"
        self.targets = [f"{self.service}:default", self.service, f"default@{self.service}"]
        self.advapi: Any = ctypes.WinDLL("advapi32", use_last_error=True)  # type: ignore[attr-defined]

    def __call__(self, *argv: str, **how: Any) -> Result:
        changes = f"ft.KEYCHAIN_SERVICE = {self.service!r}"
        return jumping_clock.start(self.ft, *argv, changes=changes, **{"key": None, **how}).finish()

    def write(self, target: str, user: str, blob: bytes) -> None:
        data = ctypes.create_string_buffer(blob, len(blob))
        item = Credential(
            Type=GENERIC,
            TargetName=target,
            CredentialBlobSize=len(blob),
            CredentialBlob=ctypes.addressof(data),
            Persist=LOCAL_MACHINE,
            UserName=user,
        )
        assert self.advapi.CredWriteW(ctypes.byref(item), 0)

    def read(self, target: str) -> tuple[str, bytes, int] | None:
        """User name, blob and persistence."""
        found = ctypes.POINTER(Credential)()
        if not self.advapi.CredReadW(target, GENERIC, 0, ctypes.byref(found)):
            return None
        item = found.contents
        return (
            item.UserName,
            ctypes.string_at(item.CredentialBlob, item.CredentialBlobSize),
            item.Persist,
        )

    def delete(self, target: str) -> None:
        self.advapi.CredDeleteW(target, GENERIC, 0)

    def python(self, verb: str, secret: str = "") -> str:
        """Python's keyring."""
        backend = "keyring.backends.Windows.WinVaultKeyring"
        argv = [sys.executable, "-m", "keyring", "-b", backend, verb, self.service, "default"]
        ran = subprocess.run(
            argv, input=secret, stdout=subprocess.PIPE, encoding="utf-8", timeout=60
        )
        return ran.stdout.strip()

    def sent_key(self) -> str | None:
        return self.ft.sandbox.requests[-1].headers.get("X-API-Key")


@pytest.fixture
def vault(ft: Runner) -> Iterator[Vault]:
    vault = Vault(ft)
    yield vault
    for target in vault.targets:
        vault.delete(target)


def login(vault: Vault, **how: Any) -> Result:
    return vault("auth", "login", "--stdin", stdin=vault.ft.sandbox.key + "\r\n", **how)


# --- the Credential Manager -----------------------------------------------------------------------


@windows
def test_login_stores_what_the_official_client_stores(vault: Vault) -> None:
    result = login(vault, check=0)
    assert f"Stored in {PLACE}." in result.stdout
    ours, *others = vault.targets
    assert vault.read(ours) == ("default", vault.ft.sandbox.key.encode(), LOCAL_MACHINE)
    assert [vault.read(target) for target in others] == [None, None]


@windows
def test_no_file_is_made_and_no_claim_about_modes(vault: Vault) -> None:
    result = login(vault, check=0)
    assert "0600" not in result.stdout + result.stderr
    assert [path.name for path in vault.ft.config_dir.iterdir()] == ["config.json"]


@windows
@pytest.mark.parametrize("number", [0, 1, 2])
def test_all_three_forms_are_read_and_removed(vault: Vault, number: int) -> None:
    target, encoding = vault.targets[number], "utf-8" if number == 0 else "utf-16-le"
    vault.write(target, "default", vault.ft.sandbox.key.encode(encoding))
    vault("me", check=0)
    assert vault.sent_key() == vault.ft.sandbox.key
    logout = vault("auth", "logout", check=0)
    assert logout.stdout.splitlines() == [f"Logged out. Removed the key from {PLACE}."]
    assert vault.read(target) is None
    assert "No key was stored" in vault("auth", "logout", check=0).stdout


@windows
def test_the_official_clients_form_is_read_first(vault: Vault) -> None:
    for number, key in enumerate((vault.ft.sandbox.key, vault.ft.sandbox.key_other)):
        vault.write(
            vault.targets[number], "default", key.encode("utf-8" if number == 0 else "utf-16-le")
        )
    vault("me", check=0)
    assert vault.sent_key() == vault.ft.sandbox.key


@windows
def test_the_item_of_another_user_name_is_neither_read_nor_removed(vault: Vault) -> None:
    vault.write(vault.service, "someone", "theirs".encode("utf-16-le"))
    assert "no API key" in vault("me", check=1).stderr
    vault("auth", "logout", check=0)
    assert vault.read(vault.service) is not None


@windows
def test_ft_reads_and_removes_what_pythons_keyring_stored(vault: Vault) -> None:
    pytest.importorskip("keyring")
    vault.python("set", vault.ft.sandbox.key)
    assert vault.python("get") == vault.ft.sandbox.key
    vault("me", check=0)
    assert vault.sent_key() == vault.ft.sandbox.key
    vault("auth", "logout", check=0)
    assert vault.python("get") == ""


@windows
def test_a_login_that_fails_leaves_the_stored_key(vault: Vault) -> None:
    login(vault, check=0)
    vault("auth", "login", "--stdin", stdin="ft_live_" + "0" * 32, check=1)
    vault("auth", "login", "--stdin", stdin="ft_live_short", check=2)
    vault("me", check=0)
    assert vault.sent_key() == vault.ft.sandbox.key


@windows
def test_doctor_names_the_credential_manager(vault: Vault) -> None:
    login(vault, check=0)
    doctor = vault("doctor", "--json", check=0).json
    assert doctor["keySource"] == doctor["keyStore"] == PLACE


# An advapi32 whose every call fails with that error.
FAILING = """
import ctypes, ctypes.wintypes, subprocess, urllib.request  # while sys.platform is true
class Dll:
    def __init__(self, name, use_last_error):
        assert (name, use_last_error) == ("advapi32", True)
        self.CredReadW = self.CredWriteW = self.CredDeleteW = self.CredFree = lambda *_: 0
ctypes.WinDLL = Dll
ctypes.get_last_error = lambda: {error}
sys.platform = "win32"
"""
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
        f"error: {PLACE}: {reason}",
        "hint: set FINETUNING_API_KEY to do without it",
    ]
    assert result.stdout == ""
    assert [path.name for path in ft.config_dir.iterdir()] == ["config.json"]


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

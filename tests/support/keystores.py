"""The places where `ft` keeps a key, behind one interface for the contract in test_keystores.py.

A `Store` is called as `ft` is. It sees and changes what is stored from outside, as another program
would.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import jumping_clock
import pytest
from conftest import ROOT, Process, Result, Runner
from keychains import Keyring, program


class Store:
    """ft with one key store. A store skips a test that demands what it cannot do."""

    place = ""  # what ft calls it
    nothing = "Logged out. No key was stored.\n"  # of a logout that finds none

    def __init__(self, ft: Runner) -> None:
        self.ft = ft

    def __call__(self, *argv: str, **how: Any) -> Result:
        raise NotImplementedError

    def login(self, key: str, **how: Any) -> Result:
        return self("auth", "login", "--stdin", stdin=key + "\n", **how)

    @property
    def keys(self) -> list[str]:
        """All that is stored under the names that ft reads."""
        raise NotImplementedError

    def put(self, text: str) -> None:
        """Store a text in ft's place."""
        raise NotImplementedError

    def put_foreign(self) -> None:
        """Store what belongs to somebody else, as near to ft's own as it can be."""
        raise NotImplementedError

    def has_foreign(self) -> bool:
        raise NotImplementedError

    def lock(self) -> None:
        pytest.skip(f"{type(self).__name__} cannot be locked")

    def hang(self) -> None:
        pytest.skip(f"{type(self).__name__} cannot hang")

    def fail(self) -> None:
        """Be unavailable from now on."""
        raise NotImplementedError

    def sent_keys(self) -> list[str | None]:
        return [request.headers.get("X-API-Key") for request in self.ft.sandbox.requests]

    def stop(self) -> None:
        """End what was started, and remove what was stored outside of the test's directory."""


# On a busy machine a keychain that answers may take longer than ft would wait.
PATIENT = "ft.KEYCHAIN_TIMEOUT = ft.UNLOCK_TIMEOUT = 60.0"


# --- Linux ----------------------------------------------------------------------------------------


class GnomeKeyring(Store):
    """A real Secret Service, private to the test."""

    place = "the Secret Service keyring"
    FOREIGN = ("service", "finetuning", "username", "someone-else")

    def __init__(self, ft: Runner) -> None:
        super().__init__(ft)
        self.keyring = Keyring()
        self.env = dict(self.keyring.env)
        self.changes = PATIENT

    def __call__(self, *argv: str, **how: Any) -> Result:
        how = {"key": None, "env": self.env, **how}
        return jumping_clock.start(self.ft, *argv, changes=self.changes, **how).finish()

    @property
    def keys(self) -> list[str]:
        items = self.keyring.items().split("[/")  # each begins with its path
        return [
            secret
            for item in items
            for secret in re.findall(r"^secret = (.*)$", item, re.MULTILINE)
            if "username = default" in item
        ]

    def put(self, text: str) -> None:
        self.keyring.store(text)

    def put_foreign(self) -> None:
        argv = ("secret-tool", "store", "--label=other", *self.FOREIGN)
        self.keyring.run(*argv, stdin="theirs").check_returncode()

    def has_foreign(self) -> bool:
        return self.keyring.run("secret-tool", "lookup", *self.FOREIGN).stdout == "theirs"

    def lock(self) -> None:
        self.keyring.lock()

    def hang(self) -> None:
        script = "#!/bin/sh\nexec sleep 600\n"
        self.env.update(program(self.ft.home / "bin", "secret-tool", script))
        self.changes = ""

    def fail(self) -> None:
        self.env = {}  # no bus

    def stop(self) -> None:
        self.keyring.stop()


class KeyFile(Store):
    """The plaintext fallback of a Linux without a Secret Service."""

    nothing = "Logged out. No key was found.\n"  # the keyring was not asked

    def __init__(self, ft: Runner) -> None:
        super().__init__(ft)
        self.path = ft.config_dir / "credentials"
        self.place = str(self.path)

    def __call__(self, *argv: str, **how: Any) -> Result:
        return self.ft(*argv, **{"key": None, **how})

    @property
    def keys(self) -> list[str]:
        return self.path.read_text().split("\n")[:-1] if self.path.exists() else []

    def put(self, text: str, mode: int = 0o600) -> None:
        self.path.write_text(text + "\n")
        self.path.chmod(mode)

    def put_foreign(self) -> None:
        (self.ft.config_dir / "credentials.old").write_text("theirs")

    def has_foreign(self) -> bool:
        return (self.ft.config_dir / "credentials.old").read_text() == "theirs"

    def fail(self) -> None:
        self.path.mkdir(0o700)


# --- macOS ----------------------------------------------------------------------------------------


class MacKeychain(Store):
    """ft as on a Mac whose `security` is the stand-in."""

    place = "macOS Keychain"
    ITEM = "finetuning\ndefault"

    def __init__(self, ft: Runner) -> None:
        super().__init__(ft)
        self.directory = ft.home / "mac"
        self.directory.mkdir()
        self.security = self.directory / "security"
        body = (ROOT / "tests" / "support" / "fake_security.py").read_text(encoding="utf-8")
        self.security.write_text(f"#!{sys.executable}\n{body}", encoding="utf-8")
        self.security.chmod(0o755)
        self.mute = self.directory / "mute"  # while it exists, `security` does not answer
        self.changes = PATIENT

    def start(self, *argv: str, changes: str = "", **how: Any) -> Process:
        lines = [
            "import subprocess, urllib.request",  # while sys.platform is true
            "sys.platform = 'darwin'",
            f"ft.SECURITY_TOOL = {str(self.security)!r}",
            self.changes,
            changes,
        ]
        return jumping_clock.start(self.ft, *argv, changes="\n".join(lines), **{"key": None, **how})

    def __call__(self, *argv: str, **how: Any) -> Result:
        return self.start(*argv, **how).finish()

    @property
    def items(self) -> dict[str, str]:
        path = self.directory / "keychain.json"
        return dict(json.loads(path.read_text())) if path.exists() else {}

    @property
    def keys(self) -> list[str]:
        return [secret for name, secret in self.items.items() if name == self.ITEM]

    def put(self, text: str, name: str = ITEM) -> None:
        path = self.directory / "keychain.json"
        path.write_text(json.dumps({**self.items, name: text}))

    def put_foreign(self) -> None:
        self.put("theirs", "finetuning\nsomeone-else")

    def has_foreign(self) -> bool:
        return self.items.get("finetuning\nsomeone-else") == "theirs"

    def refuse(self, **codes: int) -> None:
        """Let commands fail: `find=36` is the exit code of find-generic-password."""
        failures = {f"{verb}-generic-password": code for verb, code in codes.items()}
        (self.directory / "fail.json").write_text(json.dumps(failures))

    def lock(self) -> None:
        self.refuse(find=36, add=36, delete=36)

    def hang(self) -> None:
        self.mute.touch()
        self.changes = "ft.KEYCHAIN_TIMEOUT, ft.UNLOCK_TIMEOUT = 0.3, 1.0"

    def fail(self) -> None:
        self.security.unlink()

    @property
    def calls(self) -> list[dict[str, Any]]:
        path = self.directory / "calls.json"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


# --- Windows --------------------------------------------------------------------------------------

LOCAL_MACHINE = 2  # CRED_PERSIST_LOCAL_MACHINE
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


# Run by the Python under test: what another program stores, finds and removes.
MANAGER = """
import ctypes, json, sys
from ctypes import wintypes as w

class Credential(ctypes.Structure):  # CREDENTIALW, as Microsoft's wincred.h has it
    _fields_ = [
        ("Flags", w.DWORD), ("Type", w.DWORD), ("TargetName", w.LPWSTR), ("Comment", w.LPWSTR),
        ("LastWritten", w.FILETIME), ("CredentialBlobSize", w.DWORD),
        ("CredentialBlob", ctypes.c_void_p), ("Persist", w.DWORD), ("AttributeCount", w.DWORD),
        ("Attributes", ctypes.c_void_p), ("TargetAlias", w.LPWSTR), ("UserName", w.LPWSTR),
    ]

GENERIC, LOCAL_MACHINE = 1, 2
advapi = ctypes.WinDLL("advapi32", use_last_error=True)
verb, target, *rest = sys.argv[1:]
if verb == "write":
    blob = bytes.fromhex(rest[1])
    data = ctypes.create_string_buffer(blob, len(blob))
    item = Credential(
        Type=GENERIC, TargetName=target, CredentialBlobSize=len(blob), UserName=rest[0],
        CredentialBlob=ctypes.addressof(data), Persist=LOCAL_MACHINE,
    )
    assert advapi.CredWriteW(ctypes.byref(item), 0)
elif verb == "delete":
    for name in (target, *rest):
        advapi.CredDeleteW(name, GENERIC, 0)
else:
    found = ctypes.POINTER(Credential)()
    if not advapi.CredReadW(target, GENERIC, 0, ctypes.byref(found)):
        sys.exit("null")
    item = found.contents
    blob = ctypes.string_at(item.CredentialBlob, item.CredentialBlobSize)
    print(json.dumps([item.UserName, blob.hex(), item.Persist]))
"""


class WindowsCredentials(Store):
    """The Credential Manager; a service name of its own, so that nobody's real key is touched."""

    place = "Windows Credential Manager"

    def __init__(self, ft: Runner) -> None:
        super().__init__(ft)
        self.service = f"finetuning-test-{uuid.uuid4()}"
        self.targets = [f"{self.service}:default", self.service, f"default@{self.service}"]
        self.changes = f"ft.KEYCHAIN_SERVICE = {self.service!r}\n"

    def __call__(self, *argv: str, **how: Any) -> Result:
        how = {"key": None, "changes": self.changes, **how}
        return jumping_clock.start(self.ft, *argv, **how).finish()

    def _manage(self, *argv: str) -> Result:
        return self.ft(*argv, _program=[*self.ft.python, "-c", MANAGER])

    def write(self, target: str, user: str, blob: bytes) -> None:
        assert self._manage("write", target, user, blob.hex()).code == 0

    def read(self, target: str) -> tuple[str, bytes, int] | None:
        """User name, blob and persistence."""
        result = self._manage("read", target)
        if result.stderr == "null\n":
            return None
        user, blob, persistence = result.json
        return user, bytes.fromhex(blob), persistence

    @property
    def keys(self) -> list[str]:
        found = [self.read(target) for target in self.targets]
        return [item[1].decode() for item in found if item and item[0] == "default"]

    def put(self, text: str) -> None:
        self.write(self.targets[0], "default", text.encode())

    def put_foreign(self) -> None:
        self.write(self.service, "someone-else", "theirs".encode("utf-16-le"))

    def has_foreign(self) -> bool:
        return self.read(self.service) is not None

    def fail(self) -> None:
        self.changes += FAILING.format(error=1312)

    def python(self, verb: str, secret: str = "") -> str:
        """Python's keyring."""
        backend = "keyring.backends.Windows.WinVaultKeyring"
        argv = [*self.ft.python, "-m", "keyring", "-b", backend, verb, self.service, "default"]
        # The standard streams of Wine's programs must be pipes.
        ran = subprocess.run(argv, input=secret, capture_output=True, encoding="utf-8", timeout=60)
        return ran.stdout.strip()

    def stop(self) -> None:
        self._manage("delete", *self.targets)


def files_of(ft: Runner) -> list[str]:
    """Return what is in the configuration directory."""
    return sorted(path.name for path in Path(ft.config_dir).iterdir())

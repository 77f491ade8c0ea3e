"""Keychains for the tests: a private GNOME keyring, and stand-ins for the programs that reach
one.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Mapping

ATTRIBUTES = ("service", "finetuning", "username", "default")
LABEL = "Password for 'default' on 'finetuning'"

# A bus that starts nothing by itself: what is on it, the tests have put there.
BUS = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>session</type>
  <listen>unix:path={directory}/bus</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow send_destination="*" eavesdrop="true"/>
    <allow eavesdrop="true"/>
    <allow own="*"/>
  </policy>
</busconfig>
"""


class Bus:
    """A private session bus, without a display. `env`: what a program needs to reach it."""

    def __init__(self) -> None:
        # Not below the test's own directory: the path of a socket has 107 bytes.
        self.directory = Path(tempfile.mkdtemp(prefix="ft-bus-"))
        self.env = {
            "DBUS_SESSION_BUS_ADDRESS": f"unix:path={self.directory}/bus",
            "XDG_RUNTIME_DIR": str(self.directory),
        }
        # For the daemons, and for the other programs that use them.
        self.full_env = {
            **self.env,
            "PATH": os.environ["PATH"],
            "HOME": str(self.directory),
            "XDG_DATA_HOME": str(self.directory / "share"),
            "XDG_CONFIG_HOME": str(self.directory / "config"),
            "XDG_CACHE_HOME": str(self.directory / "cache"),
            "LC_ALL": "C.UTF-8",
        }
        self._daemons: list[subprocess.Popen[bytes]] = []
        configuration = self.directory / "bus.conf"
        configuration.write_text(BUS.format(directory=self.directory))
        started = self._start(
            "dbus-daemon",
            "--nofork",
            "--nopidfile",
            f"--config-file={configuration}",
            "--print-address=1",
        )
        assert started.stdout
        if not started.stdout.readline():
            self.stop()
            raise RuntimeError("dbus-daemon did not start")

    def _start(self, *argv: str, stdin: bytes = b"") -> subprocess.Popen[bytes]:
        started = subprocess.Popen(
            argv,
            env=self.full_env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._daemons.append(started)
        assert started.stdin
        with started.stdin as pipe:
            pipe.write(stdin)
        started.stdin = None
        return started

    def run(
        self, *argv: str, stdin: str = "", timeout: float = 30
    ) -> subprocess.CompletedProcess[str]:
        """Run a program on the bus."""
        return subprocess.run(
            argv,
            env={**self.full_env, "LC_ALL": "C"},
            input=stdin,
            capture_output=True,
            encoding="utf-8",
            timeout=timeout,
        )

    def stop(self) -> None:
        """End the daemons, and fail if anything that was started here is still there."""
        while self._daemons:
            daemon = self._daemons.pop()
            daemon.kill()
            daemon.communicate()
        left = processes_with(f"XDG_RUNTIME_DIR={self.directory}")
        shutil.rmtree(self.directory, ignore_errors=True)
        assert not left, f"still running: {left}"


class Keyring(Bus):
    """A private, unlocked, empty GNOME keyring on a bus of its own."""

    def __init__(self) -> None:
        super().__init__()
        try:
            self.unlock()
        except BaseException:
            self.stop()
            raise

    def unlock(self) -> None:
        """Start the keyring, or start it once more after `halt`."""
        argv = ("gnome-keyring-daemon", "--foreground", "--unlock", "--components=secrets")
        daemon = self._start(*argv, stdin=b"password\n")
        owned = "org.freedesktop.DBus.NameHasOwner"
        ask = [
            "dbus-send",
            "--session",
            "--print-reply=literal",
            "--dest=org.freedesktop.DBus",
            "/",
        ]
        deadline = time.monotonic() + 20
        while "true" not in self.run(*ask, owned, "string:org.freedesktop.secrets").stdout:
            if daemon.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"gnome-keyring-daemon did not start ({daemon.poll()})")
            time.sleep(0.01)

    def halt(self) -> None:
        """End the keyring but not the bus; what is stored stays on the disk."""
        daemon = self._daemons.pop()
        daemon.terminate()
        daemon.communicate()

    def lock(self) -> None:
        self.run("secret-tool", "lock")  # it crashes once it has locked

    def store(self, secret: str) -> None:
        """As secret-tool and the service's official client do."""
        self.run(
            "secret-tool", "store", f"--label={LABEL}", *ATTRIBUTES, stdin=secret
        ).check_returncode()

    def lookup(self) -> str:
        return self.run("secret-tool", "lookup", *ATTRIBUTES).stdout

    def items(self) -> str:
        """All that is stored for the service, as `secret-tool search` shows it; attributes too."""
        found = self.run("secret-tool", "search", "--all", "service", "finetuning")
        return found.stdout + found.stderr

    def python(self, verb: str, secret: str = "") -> str:
        """Python's keyring: `set`, `get` or `del`."""
        backend = "keyring.backends.SecretService.Keyring"
        argv = [sys.executable, "-m", "keyring", "-b", backend, verb, "finetuning", "default"]
        return self.run(*argv, stdin=secret).stdout.strip()


def processes_with(setting: str) -> list[str]:
    """The command lines of all processes whose environment has it."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if setting.encode() in (process / "environ").read_bytes().split(b"\0"):
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:  # it ended, or is another user's
            continue
    return [command for command in found if command]  # a zombie has none


def program(directory: Path, name: str, text: str) -> Mapping[str, str]:
    """Put a program of that name before all others; gives the PATH to run ft with."""
    directory.mkdir(exist_ok=True)
    path = directory / name
    path.write_text(text)
    path.chmod(0o755)
    return {"PATH": f"{directory}{os.pathsep}{os.environ['PATH']}"}

"""install.ps1. Its Python program runs without PowerShell: what it refuses on every system, what it
installs where there is a Python for Windows. The script itself needs a PowerShell for Windows, too.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any, Iterator

import build
import pytest
from conftest import ROOT, WINDOWS, Process, Result, Runner
from release_server import ReleaseServer, program, release, sums

SCRIPT = (ROOT / "install.ps1").read_text(encoding="ascii")
ESCAPE = "\x1b]0;owned\x07"


def part(pattern: str) -> str:
    """Return what a pattern's group finds in install.ps1."""
    found = re.search(pattern, SCRIPT, re.DOTALL)
    assert found
    return found[1]


PROGRAM = part(r"\$program = @'\n(.*?)\n'@\n")
START = part(r"\$start = '([^\n]*)'\n")


@pytest.fixture
def site(tmp_path: Path) -> Path:
    site = tmp_path / "site"
    release(site, "0.1.0")
    release(site, "0.2.0")
    return site


@pytest.fixture
def server(site: Path) -> Iterator[ReleaseServer]:
    with ReleaseServer(site) as started:
        yield started


def windows_path(path: Path, python: list[str]) -> str:
    """How the Python under test calls a file: the root directory is drive Z of Wine."""
    return "Z:" + str(path).replace("/", "\\") if python[0] == "wine" else str(path)


class Installer:
    """Runs the program in install.ps1 as the script does. It installs into `bin`."""

    def __init__(self, ft: Runner, server: ReleaseServer) -> None:
        self.runner, self.server = ft, server
        self.bin = ft.home / "home" / "Jörg & [two] words"
        self.ft = self.bin / "ft.exe"

    def path(self, path: Path) -> str:
        return windows_path(path, self.runner.python)

    def __call__(self, check: int = 0, **parameters: Any) -> Result:
        values: dict[str, Any] = dict.fromkeys(("version", "launcher", "from"), "")
        values.update(dict.fromkeys(("quiet", "uninstall"), False))
        values.update(directory=self.path(self.bin), base=self.server.url)
        values.update(parameters)
        return self.runner(
            _program=[*self.runner.python, "-I", "-c", START],
            stdin=f"{json.dumps(values, ensure_ascii=False)}\n{PROGRAM}\r\n",
            check=check,
        )

    def version(self) -> str:
        """What the installed program says of itself."""
        argv = [*self.runner.python[:-1], str(self.ft)]
        return self.runner("--version", _program=argv, check=0).stdout


@pytest.fixture
def install(ft: Runner, server: ReleaseServer) -> Installer:
    """For what is refused before anything runs: with the Python that runs the tests."""
    return Installer(ft, server)


@pytest.fixture
def windows_install(windows_ft: Runner, server: ReleaseServer) -> Installer:
    return Installer(windows_ft, server)


# --- what is refused ------------------------------------------------------------------------------


def test_install_ps1_is_ascii_and_its_program_runs_on_every_python() -> None:
    """Windows PowerShell reads a file without a byte order mark in the machine's own code page."""
    assert SCRIPT.isascii()
    compile(PROGRAM, "install.ps1", "exec")
    assert '"' not in START  # Windows PowerShell would drop them


def test_its_launcher_line_is_the_one_that_is_built() -> None:
    assert build.EXE_SHEBANG.endswith(b"\r\n")
    assert re.search(rb"#![^\r\n]*\r\n(?=PK\x03\x04)", program("0.1.0"))
    assert r'rb"#![^\r\n]*\r\n(?=PK\x03\x04)"' in PROGRAM


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"version": "1.0"}, "not a version such as 0.1.0: 1.0"),
        ({"base": "http://example.invalid"}, "not an https:// address: http://example.invalid"),
        ({"base": "https://a@b"}, "not an https:// address: https://a@b"),
        (
            {"version": "9.9.9"},
            "cannot download {url}/9.9.9/SHA256SUMS (HTTP Error 404: Not Found)",
        ),
        ({"from": "missing/ft.exe"}, "cannot verify missing/ft.exe: put the release's SHA256SUMS"),
    ],
)
def test_what_it_cannot_install_is_one_line(
    install: Installer, parameters: dict[str, str], message: str
) -> None:
    result = install(check=1, **parameters)
    errors = [line for line in result.stdout.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert errors[0].startswith(f"error: {message.format(url=install.server.url)}")
    assert result.stderr == ""
    assert not install.bin.parent.exists()


def test_no_file_is_taken_that_is_not_the_published_one(install: Installer, site: Path) -> None:
    (site / "0.2.0" / "SHA256SUMS").write_text("0" * 64 + "  ft.exe\n")
    assert f"not '{'0' * 64}'; nothing was changed" in install(check=1).stdout
    (site / "0.2.0" / "SHA256SUMS").write_text("0" * 64 + "  ft.pyz\n")
    assert "no checksum of ft.exe in the SHA256SUMS beside it" in install(check=1).stdout
    data = (site / "0.2.0" / "ft.pyz").read_bytes()
    (site / "0.2.0" / "ft.exe").write_bytes(data)
    (site / "0.2.0" / "SHA256SUMS").write_text(sums(data, "ft.exe"))
    assert "/0.2.0/ft.exe is not an ft.exe; nothing was changed" in install(check=1).stdout
    install.server.cut.add("/0.2.0/ft.exe")
    assert "error: cannot download " in install(check=1).stdout
    install.server.redirects["/VERSION"] = f"{install.server.url}/0.2.0/ft.exe"
    assert "/VERSION (HTTP Error 302: Found); nothing was changed" in install(check=1).stdout
    assert not install.bin.parent.exists()


def test_no_control_character_of_a_mirror_is_printed(install: Installer, site: Path) -> None:
    (site / "VERSION").write_text(f"0.2.0{ESCAPE}\n")
    assert "there is no version number in" in install(check=1).stdout
    install.server.reason = f"Sorry{ESCAPE}"
    (site / "VERSION").unlink()
    result = install(check=1)
    assert "HTTP Error 404: Sorry?]0;owned?" in result.stdout
    assert "\x1b" not in result.stdout


def test_a_program_of_somebody_else_is_left_alone(install: Installer) -> None:
    install.bin.mkdir(parents=True)
    for content in (b"MZ of somebody else", (ROOT / "LICENSE").read_bytes()):
        install.ft.write_bytes(content)
        for uninstall in (False, True):
            result = install(check=1, uninstall=uninstall)
            assert result.stdout == (
                f"error: {install.ft} is not from this script; it was left alone\n"
            )
        assert install.ft.read_bytes() == content
    assert install.server.requests == []


def test_a_target_that_cannot_be_read_is_one_line(install: Installer) -> None:
    install.ft.mkdir(parents=True)
    for uninstall in (False, True):
        result = install(check=1, uninstall=uninstall)
        assert result.stdout.startswith(f"error: cannot read {install.ft}: ")
        assert result.stdout.endswith("; nothing was changed\n")
    assert install.server.requests == []


def test_a_target_that_cannot_be_written_is_one_line(install: Installer) -> None:
    install.bin.parent.mkdir()
    install.bin.write_text("a file, not a directory")
    lines = install(check=1).stdout.splitlines()
    assert lines[1].startswith(f"error: cannot write {install.ft}: ")
    assert lines[1].endswith("; nothing was changed")
    assert len(lines) == 2


def test_there_is_nothing_to_remove(install: Installer) -> None:
    result = install(check=1, uninstall=True)
    assert result.stdout == (
        f"error: there is no ft in {install.bin}; say with -Prefix where it is\n"
    )


# --- installation, with a Python for Windows ------------------------------------------------------


def test_it_installs_upgrades_and_removes(windows_install: Installer) -> None:
    for version in ("0.1.0", "0.2.0"):
        result = windows_install(version=version)
        assert f"Installed ft {version} in ".encode() in result.stdout_bytes
        assert os.listdir(windows_install.bin) == ["ft.exe"]
        assert windows_install.version() == f"ft {version}\n"
    windows_install(uninstall=True)
    assert not windows_install.bin.exists()


def test_a_file_is_installed_without_a_network(windows_install: Installer, site: Path) -> None:
    origin = windows_install.path(site / "0.1.0" / "ft.exe")
    windows_install(**{"from": origin}, quiet=True)
    assert windows_install.server.requests == []
    assert windows_install.version() == "ft 0.1.0\n"


def test_its_line_names_a_python_by_its_path(windows_install: Installer) -> None:
    python = windows_install.runner(
        "-c",
        "import sys; print(getattr(sys, '_base_executable', '') or sys.executable)",
        _program=windows_install.runner.python,
    ).stdout.strip()
    windows_install()
    (line,) = re.findall(rb"#![^\r\n]*(?=\r\nPK\x03\x04)", windows_install.ft.read_bytes())
    assert line == f'#!"{python}"'.encode()


def test_a_version_that_is_not_the_announced_one_is_refused(
    windows_install: Installer, site: Path
) -> None:
    windows_install(version="0.1.0")
    before = windows_install.ft.read_bytes()
    data = program("0.1.0")
    (site / "0.2.0" / "ft.exe").write_bytes(data)
    (site / "0.2.0" / "SHA256SUMS").write_text(sums(data, "ft.exe"))
    result = windows_install(check=1)
    assert "says that it is 'ft 0.1.0', not 'ft 0.2.0'; nothing was changed" in result.stdout
    data = program("0.2.0", "def main(): raise SystemExit(3)")
    (site / "0.2.0" / "ft.exe").write_bytes(data)
    (site / "0.2.0" / "SHA256SUMS").write_text(sums(data, "ft.exe"))
    result = windows_install(check=1)
    assert "the new ft does not run; nothing was changed" in result.stdout
    other = windows_install.bin.parent / "new" / "directory"
    windows_install(check=1, directory=windows_install.path(other))
    assert not other.parent.exists()
    assert os.listdir(windows_install.bin) == ["ft.exe"]
    assert windows_install.ft.read_bytes() == before


WAITING = """
import sys
def main():
    if sys.argv[1:] == ["--version"]:
        print("ft 0.1.0")
    else:
        sys.stderr.write("running\\n")
        sys.stderr.flush()
        sys.stdin.read()
""".strip()


def test_a_program_that_runs_is_set_aside_and_later_removed(
    windows_install: Installer, site: Path
) -> None:
    data = program("0.1.0", WAITING)
    (site / "0.1.0" / "ft.exe").write_bytes(data)
    (site / "0.1.0" / "SHA256SUMS").write_text(sums(data, "ft.exe"))
    windows_install(version="0.1.0")
    reader, writer = os.pipe()
    argv = [*windows_install.runner.python[:-1], str(windows_install.ft)]
    running = windows_install.runner.start("wait", _program=argv, stdin=reader)
    os.close(reader)
    running.expect("running")
    windows_install(version="0.2.0")
    assert windows_install.version() == "ft 0.2.0\n"
    assert sorted(os.listdir(windows_install.bin)) == [".ft-replaced.exe", "ft.exe"]
    os.close(writer)
    assert running.finish().code == 0
    windows_install(version="0.2.0")
    assert os.listdir(windows_install.bin) == ["ft.exe"]


@pytest.mark.parametrize("uninstall", [False, True])
def test_what_an_older_script_installed_is_replaced_or_removed(
    windows_install: Installer, site: Path, uninstall: bool
) -> None:
    windows_install.bin.mkdir(parents=True)
    shutil.copy(site / "0.1.0" / "ft.pyz", windows_install.bin)
    (windows_install.bin / "ft.cmd").write_bytes(b'@py -3 "%~dp0ft.pyz" %*\r\n')
    windows_install(uninstall=uninstall)
    assert os.path.exists(windows_install.bin) == (not uninstall)
    if not uninstall:
        assert os.listdir(windows_install.bin) == ["ft.exe"]


# --- the script, with PowerShell ------------------------------------------------------------------

NAMES = ("powershell", "pwsh") if WINDOWS else (os.environ.get("WINDOWS_POWERSHELL", ""),)
POWERSHELLS = [path for path in map(shutil.which, NAMES) if path]


class PowerShell:
    """Runs install.ps1, with the Python under test on PATH. It installs into `bin`."""

    def __init__(
        self, shell: str, python: list[str], directory: Path, server: ReleaseServer
    ) -> None:
        self.shell, self.python = shell, python
        self.directory, self.server = directory, server
        self.bin = directory / "home" / "two [words]"
        self.ft = self.bin / "ft.exe"

    def path(self, path: Path) -> str:
        return windows_path(path, self.python)

    def run(self, *argv: str, check: int = 0, **env: str) -> Result:
        programs = os.path.dirname(self.python[-1])
        everything = {
            **os.environ,
            "PATH": programs + os.pathsep + os.environ["PATH"],
            "WINEPATH": self.path(Path(programs)),  # what Wine puts before its own PATH
            "FT_INSTALL_DIR": self.path(self.bin),
            "FT_RELEASE_URL": self.server.url,
            "FT_NO_PATH": "1",
            **env,
        }
        kept = {name: value for name, value in everything.items() if value}
        command = [self.shell, "-NoProfile", "-ExecutionPolicy", "Bypass", *argv]
        return Process(command, env=kept, cwd=self.directory, check=check).finish()

    def __call__(self, *parameters: str, **how: Any) -> Result:
        return self.run("-File", self.path(ROOT / "install.ps1"), *parameters, **how)

    def version(self) -> bytes:
        """What the installed program says of itself."""
        argv = [*self.python[:-1], str(self.ft), "--version"]
        return subprocess.run(argv, capture_output=True, check=True).stdout.rstrip()


@pytest.fixture(params=POWERSHELLS or [None])
def powershell(request: pytest.FixtureRequest, tmp_path: Path, server: ReleaseServer) -> PowerShell:
    if not request.param:
        pytest.skip("needs a PowerShell on Windows, or Wine and WINDOWS_POWERSHELL=COMMAND")
    python = request.getfixturevalue("windows_python")
    return PowerShell(request.param, python, tmp_path, server)


def test_powershell_installs_upgrades_and_removes(powershell: PowerShell) -> None:
    for version in ("0.1.0", "0.2.0"):
        result = powershell("-Version", version)
        assert f"Installed ft {version} in {powershell.path(powershell.ft)}" in result.stdout
        assert os.listdir(powershell.bin) == ["ft.exe"]
        assert powershell.version() == f"ft {version}".encode()
    powershell("-Uninstall")
    assert not powershell.bin.exists()


def test_powershell_reports_a_failure_once_and_exits_with_1(
    powershell: PowerShell, site: Path
) -> None:
    powershell("-Version", "0.1.0")
    before = powershell.ft.read_bytes()
    (site / "0.2.0" / "SHA256SUMS").write_text("0" * 64 + "  ft.exe\n")
    result = powershell(check=1)
    assert "the SHA-256 of" in result.stderr
    assert "Traceback" not in result.stderr
    assert "unknown argument: -Nonsense" in powershell("-Nonsense", check=1).stderr
    assert powershell.ft.read_bytes() == before


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (("-From", r"Unknown:\ft.exe"), "Cannot find drive"),
        (("-Prefix", r"Unknown:\x"), "Cannot find drive"),
        (("-Prefix", r"HKCU:\x"), r"not a directory: HKEY_CURRENT_USER\x"),
    ],
)
def test_a_path_outside_the_file_system_stops_powershell(
    powershell: PowerShell, parameters: tuple[str, str], message: str
) -> None:
    result = powershell(*parameters, check=1)
    assert message in result.stderr
    assert powershell.server.requests == []


def test_nothing_stays_in_the_session_and_redirected_streams_are_fine(
    powershell: PowerShell, tmp_path: Path
) -> None:
    script = powershell.path(ROOT / "install.ps1").replace("'", "''")
    lines = [
        # A code page that Python does not know by its number.
        "[Console]::OutputEncoding = [Text.Encoding]::GetEncoding(28591)",
        "$Version = 'mine'; $Prefix = 'mine'; $ErrorActionPreference = 'Stop'",
        "function Count { @(Get-ChildItem function: | Where-Object { -not $_.Source }).Count }",
        "$before = Count",
        "$tls = [Net.ServicePointManager]::SecurityProtocol",
        f"$all = Get-Content -Raw -LiteralPath '{script}' | iex *>&1",
        '"$Version $Prefix $ErrorActionPreference"',
        "(Count) - $before",
        "$tls -eq [Net.ServicePointManager]::SecurityProtocol",
        "Test-Path variable:program",
    ]
    result = powershell.run("-Command", "; ".join(lines))
    assert result.stdout.split() == ["mine", "mine", "Stop", "0", "True", "False"]
    assert os.listdir(powershell.bin) == ["ft.exe"]


USER_PATH = """
import json, sys, winreg
with winreg.CreateKeyEx(winreg.HKEY_CURRENT_USER, "Environment", 0, winreg.KEY_ALL_ACCESS) as key:
    if len(sys.argv) > 1:
        value, kind = json.loads(sys.argv[1])
        if kind is None:
            winreg.DeleteValue(key, "Path")
        else:
            winreg.SetValueEx(key, "Path", 0, kind, value)
    try:
        print(json.dumps(winreg.QueryValueEx(key, "Path")))
    except FileNotFoundError:
        print(json.dumps((None, None)))
"""


@pytest.fixture
def user_path(windows_python: list[str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Reads and writes the user's PATH as (value, kind); what was there comes back in the end."""
    lock = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # the workers take turns
        lock = lock.parent
    lock /= "user_path"
    while True:
        try:
            lock.mkdir()
            break
        except FileExistsError:
            time.sleep(0.1)

    def access(*value: Any) -> Any:
        argv = [*windows_python, "-c", USER_PATH, *([json.dumps(value)] if value else [])]
        return tuple(json.loads(subprocess.run(argv, capture_output=True, check=True).stdout))

    try:
        before = access()
        yield access
        access(*before)
    finally:
        lock.rmdir()


@pytest.mark.parametrize("kind", [1, 2], ids=["REG_SZ", "REG_EXPAND_SZ"])
def test_path_keeps_its_kind_and_gets_one_entry(
    powershell: PowerShell, user_path: Any, kind: int
) -> None:
    directory = powershell.path(powershell.bin)
    user_path(r"%USERPROFILE%\x;C:\y", kind)
    for _ in range(2):
        powershell(FT_NO_PATH="", GITHUB_PATH="")
        assert user_path() == (rf"%USERPROFILE%\x;C:\y;{directory}", kind)
    powershell("-Uninstall", FT_NO_PATH="", GITHUB_PATH="")
    assert user_path() == (r"%USERPROFILE%\x;C:\y", kind)
    user_path("", kind)
    powershell(FT_NO_PATH="", GITHUB_PATH="")
    assert user_path() == (directory, kind)


def test_a_directory_that_path_cannot_hold_is_not_added(
    powershell: PowerShell, user_path: Any
) -> None:
    user_path(r"C:\y", 1)
    other = powershell.path(powershell.directory / "a;b")
    result = powershell("-Prefix", other, FT_NO_PATH="", GITHUB_PATH="")
    assert "to PATH: a semicolon ends its entries" in result.stdout + result.stderr
    assert user_path() == (r"C:\y", 1)


def test_a_runner_of_github_gets_it_through_its_file(powershell: PowerShell) -> None:
    paths = powershell.directory / "paths"
    powershell(FT_NO_PATH="", GITHUB_PATH=powershell.path(paths))
    assert paths.read_text() == f"{powershell.path(powershell.bin)}\n"
    result = powershell(FT_NO_PATH="", GITHUB_PATH=powershell.path(powershell.directory))
    assert "GITHUB_PATH" in result.stdout + result.stderr

"""Windows: what the Credential Manager has of its own beside the contract of test_keystores.py,
ft.exe, and names and files. What needs a Python for Windows asks for `windows_ft`.
"""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Iterator

import build
import jumping_clock
import pytest
from conftest import PYTHON, ROOT, WINDOWS, Runner
from keystores import FAILING, LOCAL_MACHINE, WindowsCredentials, files_of
from release_server import ReleaseServer

sys.path.insert(0, str(ROOT))
import ft as module


@pytest.fixture
def vault(windows_ft: Runner) -> Iterator[WindowsCredentials]:
    vault = WindowsCredentials(windows_ft)
    yield vault
    vault.stop()


# --- the Credential Manager -----------------------------------------------------------------------


def test_login_stores_what_the_official_client_stores(vault: WindowsCredentials) -> None:
    key = vault.ft.sandbox.key
    result = vault.login(key + "\r", check=0)
    assert "0600" not in result.stdout + result.stderr  # no claim about modes
    ours, *others = vault.targets
    assert vault.read(ours) == ("default", key.encode(), LOCAL_MACHINE)
    assert [vault.read(target) for target in others] == [None, None]


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


def test_the_official_clients_form_is_read_first(vault: WindowsCredentials) -> None:
    for number, key in enumerate((vault.ft.sandbox.key, vault.ft.sandbox.key_other)):
        vault.write(
            vault.targets[number], "default", key.encode("utf-8" if number == 0 else "utf-16-le")
        )
    vault("me", check=0)
    assert vault.sent_keys()[-1] == vault.ft.sandbox.key


def test_ft_reads_and_removes_what_pythons_keyring_stored(vault: WindowsCredentials) -> None:
    if vault.ft("-c", "import keyring", _program=vault.ft.python).code:
        pytest.skip("needs the package keyring for Windows")
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


# --- ft.exe ---------------------------------------------------------------------------------------


PROBE = """
import json, sys
def main():
    print(json.dumps(sys.argv[1:]))
    sys.stdout.flush()
    sys.stderr.write("to stderr\\n")
    return len(sys.argv)
"""
# What a shell may hand over. cmd would take half of it for its own when it reads it a second time.
HOSTILE = [
    "R&B",
    'in "quotes"',
    "a>b.txt",
    "a|b",
    "^",
    "!x!",
    "%PATHEXT%",
    "C:\\dir\\",
    "two words\\",
    "",
    'ends in \\"',
    "ö 音楽",
    "*.mp3",
    "line\nbreak",
    "@file",
    "(1)",
]


class Program:
    """An ft.exe, which runs with the Python for Windows, in a directory with a difficult name."""

    def __init__(self, ft: Runner, source: Path) -> None:
        self.directory = ft.home / "Jörg & Müller [x]"
        self.directory.mkdir(exist_ok=True)
        self.path = self.directory / "ft.exe"
        python = ft("-c", "import sys; print(sys.executable)", _program=ft.python).stdout.strip()
        launcher, _ = build.launcher()
        shebang = f'#!"{python}"\r\n'.encode()
        files = build.members([PYTHON], source)
        self.path.write_bytes(launcher + shebang + build.archive(files))
        self.argv = [*ft.python[:-1], str(self.path)]


@pytest.fixture
def probe(windows_ft: Runner) -> Program:
    source = windows_ft.home / "source" / "ft.py"
    source.parent.mkdir()
    source.write_text(PROBE)
    return Program(windows_ft, source)


@pytest.fixture
def installed(windows_ft: Runner) -> Program:
    return Program(windows_ft, ROOT / "ft.py")


def test_arguments_streams_and_the_exit_code_come_through(
    windows_ft: Runner, probe: Program
) -> None:
    for words in (HOSTILE, ["", "back\\"], []):
        result = windows_ft(*words, _program=probe.argv, check=len(words) + 1)
        assert result.json == words
        assert result.stderr == "to stderr\n"
    assert os.listdir(probe.directory) == ["ft.exe"]


def test_no_program_of_the_current_directory_runs(windows_ft: Runner, probe: Program) -> None:
    planted = windows_ft.home / "planted"
    planted.mkdir()
    for name in ("python.exe", "py.exe", "python3.exe", "ft.exe", "powershell.exe"):
        (planted / name).write_bytes(b"MZ, and nothing that runs")
    assert windows_ft("a", _program=probe.argv, cwd=planted, check=2).json == ["a"]


def test_a_prompt_reaches_the_service_as_it_was_typed(
    windows_ft: Runner, installed: Program
) -> None:
    prompt = 'R&B "slow" %PATH% a>b ^ !'
    windows_ft("generate", prompt, "-o", "rb.mp3", _program=installed.argv, check=0)
    (track,) = windows_ft.sandbox.book
    assert windows_ft.sandbox.generations[track]["prompt"] == prompt
    assert (windows_ft.cwd / "rb.mp3").read_bytes() == windows_ft.sandbox.track(track)
    result = windows_ft("get", "nothing like an id", _program=installed.argv, check=2)
    assert result.stderr.startswith("error: not a usable id: 'nothing like an id'\n")


def test_a_program_that_was_replaced_while_it_ran_is_removed_by_the_next(
    windows_ft: Runner, installed: Program
) -> None:
    replaced = installed.directory / module.REPLACED_PROGRAM
    replaced.write_bytes(b"MZ")
    (installed.directory / "ft.exe.old").write_bytes(b"a copy that somebody made")
    windows_ft("--version", _program=installed.argv, check=0)
    assert sorted(os.listdir(installed.directory)) == ["ft.exe", "ft.exe.old"]


@pytest.fixture
def outdated(windows_ft: Runner) -> Program:
    """A ft.exe that says that it is version 0.0.1."""
    source = windows_ft.home / "old" / "ft.py"
    source.parent.mkdir()
    text = (ROOT / "ft.py").read_text(encoding="utf-8")
    text = text.replace(f'__version__ = "{build.version()}"', '__version__ = "0.0.1"', 1)
    source.write_text(text, encoding="utf-8")
    return Program(windows_ft, source)


def test_update_asks_the_new_program_for_its_version(
    windows_ft: Runner, outdated: Program, tmp_path: Path
) -> None:
    """Wine's PowerShell does nothing and succeeds; that of Windows does run the script."""
    build.dist(tmp_path / "site", [PYTHON])
    planted = tmp_path / "planted"
    planted.mkdir()
    (planted / "powershell.exe").write_bytes(b"MZ, and nothing that runs")
    with ReleaseServer(tmp_path / "site") as server:
        env = {"FT_RELEASE_URL": server.url}
        update = windows_ft("update", _program=outdated.argv, cwd=planted, env=env)
    shown = windows_ft("--version", _program=outdated.argv, check=0).stdout
    if WINDOWS:
        assert (update.code, shown) == (0, f"ft {build.version()}\n")
    else:
        message = f"ft.exe is not ft {build.version()}\n"
        assert update.stderr.endswith(message)
        assert (update.code, shown) == (1, "ft 0.0.1\n")
    assert os.listdir(outdated.directory) == ["ft.exe"]


@pytest.mark.skipif(WINDOWS, reason="needs a pseudo-terminal")
def test_ctrl_c_stops_the_program_and_not_only_its_launcher(
    windows_ft: Runner, installed: Program
) -> None:
    windows_ft.sandbox.seconds = 60
    argv = ("generate", "rain", "-o", r"two words\a.mp3")
    process = windows_ft.tty(*argv, _program=installed.argv, columns=100, check=130)
    process.expect("processing")
    process.send("\x03")
    result = process.finish()
    (track,) = windows_ft.sandbox.book
    assert f'ft download {track} --wait -o "two words\\a.mp3"' in result.stdout
    assert os.listdir(windows_ft.cwd / "two words") == []


# --- names and files ------------------------------------------------------------------------------

FAULTS = {
    "aux.mp3": "'aux.mp3' is the name of a device on Windows",
    "CON": "'CON' is the name of a device on Windows",
    "com1.tar.mp3": "'com1.tar.mp3' is the name of a device on Windows",
    "LPT²": "'LPT²' is the name of a device on Windows",
    "nul .mp3": "'nul .mp3' is the name of a device on Windows",
    "tracks/prn/a.mp3": "'prn' is the name of a device on Windows",
    "conin$": "'conin$' is the name of a device on Windows",
    "track.": "'track.' ends in a dot or a space, which Windows drops",
    "track ": "'track ' ends in a dot or a space, which Windows drops",
    "dots...\\a.mp3": "'dots...' ends in a dot or a space, which Windows drops",
    "Act 1: Rain.mp3": "'Act 1: Rain.mp3' contains ':', which no name on Windows can",
    "C:\\what?.mp3": "'what?.mp3' contains '?', which no name on Windows can",
    'a"b.mp3': "'a\"b.mp3' contains '\"', which no name on Windows can",
    "a\tb": "'a\\tb' contains '\\t', which no name on Windows can",
}
FAULTLESS = [
    "track.mp3",
    r"..\a\.\b.mp3",
    r"C:\x.mp3",
    "C:x.mp3",
    "C:\\",
    "C:",
    "auxiliary.mp3",
    "com.mp3",
    "com10.mp3",
    "console",
    ".hidden",
    r"\\server\share\a.mp3",
    r"\\?\C:\a.mp3",
    "音楽.mp3",
    "a/",
    "",
]


@pytest.mark.parametrize("path", FAULTS)
def test_names_that_windows_takes_for_something_else(path: str) -> None:
    assert module.find_windows_fault(path) == FAULTS[path]


@pytest.mark.parametrize("path", FAULTLESS)
def test_names_that_windows_takes_as_they_are(path: str) -> None:
    assert module.find_windows_fault(path) == ""


def test_long_paths_are_marked() -> None:
    long = "a" * 200
    assert module.mark_long_path("C:\\short") == "C:\\short"
    assert module.mark_long_path(f"C:\\{long}") == f"\\\\?\\C:\\{long}"
    assert module.mark_long_path(f"\\\\?\\C:\\{long}") == f"\\\\?\\C:\\{long}"
    assert module.mark_long_path(f"\\\\s\\x\\{long}") == f"\\\\?\\UNC\\s\\x\\{long}"


@pytest.mark.parametrize("path", ["aux.mp3", "CON", "track.", "Act 1: x.mp3", "sub/nul.mp3"])
def test_nothing_is_paid_for_a_track_that_cannot_have_its_name(
    windows_ft: Runner, path: str
) -> None:
    result = windows_ft("generate", "rain", "-o", path, check=1)
    fault = module.find_windows_fault(path)
    assert result.stderr == f"error: cannot write {path}: {fault}\n"
    assert windows_ft.sandbox.book == []


def test_the_null_device_is_written_to(windows_ft: Runner) -> None:
    windows_ft("generate", "rain", "-o", "NUL", check=0)
    assert len(windows_ft.sandbox.book) == 1
    assert os.listdir(windows_ft.cwd) == ["config"]


def test_a_path_of_more_than_260_characters(windows_ft: Runner) -> None:
    directory = Path("d" * 100, "e" * 100, "f" * 100)
    path = directory / "track.mp3"
    for _ in range(2):  # the second run replaces a file
        result = windows_ft("generate", "rain", "-o", str(path), check=0)
        assert f"Saved to {path}" in result.stdout
    windows_ft("generate", "rain", "-o", str(directory), check=0)
    found = files_below(windows_ft.cwd / ("d" * 100))
    tracks = [windows_ft.sandbox.track(i) for i in windows_ft.sandbox.book]
    assert len(found) == 2
    assert set(found.values()) <= set(tracks)


def files_below(directory: Path) -> dict[str, bytes]:
    """Return the files in a directory, whatever the length of their paths."""
    start = Path("\\\\?\\" + str(directory.resolve())) if WINDOWS else directory
    return {path.name: path.read_bytes() for path in start.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("word", "quoted"),
    [
        (r"C:\Music\a.mp3", r"C:\Music\a.mp3"),
        (r"C:\My Music\a.mp3", r'"C:\My Music\a.mp3"'),
        ("C:\\My Music\\", r'"C:\My Music\\"'),
        ("R&B", '"R&B"'),
        ("it's", '"it\'s"'),
        ("100% 'pure'", "'100% ''pure'''"),
        ("$HOME", "'$HOME'"),
        ("say “no”, it’s", "'say “no”, it’’s'"),
        ("@a", '"@a"'),
        ("", '""'),
    ],
)
def test_a_command_in_a_hint_is_quoted_for_powershell_and_cmd(word: str, quoted: str) -> None:
    assert module.quote_for_windows(word) == quoted


# Holds a file open as a player does: others may read it, but not remove it.
PLAYER = """
import sys
file = open(sys.argv[1], "rb")
sys.stderr.write("playing\\n")
sys.stderr.flush()
sys.stdin.read()
"""


def test_a_track_whose_target_is_open_in_a_player_is_kept_beside_it(windows_ft: Runner) -> None:
    target = windows_ft.cwd / "track.mp3"
    target.write_bytes(b"old")
    reader, writer = os.pipe()
    player = windows_ft.start("-c", PLAYER, "track.mp3", _program=windows_ft.python, stdin=reader)
    os.close(reader)
    player.expect("playing")
    result = windows_ft("generate", "rain", "-o", "track.mp3", check=1)
    os.close(writer)
    player.finish()
    (track,) = windows_ft.sandbox.book
    (kept,) = windows_ft.cwd.glob("track-*.mp3")
    assert f"; the whole track is in {kept.name}" in result.stderr
    assert "error: cannot write track.mp3: " in result.stderr
    assert kept.read_bytes() == windows_ft.sandbox.track(track)
    assert target.read_bytes() == b"old"
    assert sorted(os.listdir(windows_ft.cwd)) == sorted(["config", "track.mp3", kept.name])


def test_a_read_only_target_costs_nothing(windows_ft: Runner) -> None:
    target = windows_ft.cwd / "track.mp3"
    target.write_bytes(b"old")
    target.chmod(0o444)
    result = windows_ft("generate", "rain", "-o", "track.mp3", check=1)
    assert "error: cannot write track.mp3: it is read-only" in result.stderr
    assert windows_ft.sandbox.book == []


def test_the_root_of_a_drive_is_a_directory(windows_ft: Runner) -> None:
    for place in ("C:\\", "C:/"):
        result = windows_ft("generate", "rain", "-o", place)
        if WINDOWS and "denied" in result.stderr:
            pytest.skip("needs the right to write to C:\\")
        saved = re.search("Saved to (C:.*)", result.stdout)
        assert saved
        code = "import os, sys; os.remove(sys.argv[1])"
        windows_ft("-c", code, saved[1], _program=windows_ft.python, check=0)


# --- the rest of Windows --------------------------------------------------------------------------


@pytest.mark.parametrize("roaming", [True, False])
def test_the_configuration_lies_in_appdata(windows_ft: Runner, roaming: bool) -> None:
    changes = "import os\nos.environ['USERPROFILE'] = r'C:\\users\\jane'\n"
    changes += (
        r"os.environ['APPDATA'] = r'D:\roaming'" if roaming else "os.environ.pop('APPDATA', None)"
    )
    document = jumping_clock.start(
        windows_ft,
        *("doctor", "--json", "--base-url", windows_ft.sandbox.api_url),
        changes=changes,
        env={"FINETUNING_CONFIG_HOME": None},
        check=0,
    ).finish()
    base = r"D:\roaming" if roaming else r"C:\users\jane\AppData\Roaming"
    assert document.json["config"] == rf"{base}\finetuning\config.json"


def test_version_and_help_start(windows_ft: Runner) -> None:
    assert windows_ft("--version", key=None, check=0).stdout.startswith("ft ")
    assert "auth login" in windows_ft("help", key=None, check=0).stdout


def test_a_track_is_made_listed_and_downloaded(windows_ft: Runner) -> None:
    ft = windows_ft
    ft("generate", "lofi chill piano", "-o", "track.mp3", check=0)
    listed = ft("list", "--limit", "1", "--json", check=0).json["data"]["generations"][0]
    ft("download", listed["id"], "-o", "again.mp3", check=0)
    assert (ft.cwd / "track.mp3").read_bytes() == (ft.cwd / "again.mp3").read_bytes()
    assert (ft.cwd / "track.mp3").read_bytes() == ft.sandbox.track(listed["id"])
    piped = ft("download", listed["id"], "-o", "-", check=0).stdout_bytes
    assert piped == ft.sandbox.track(listed["id"])


def test_a_pipe_in_the_code_page_of_the_machine_gets_every_track(windows_ft: Runner) -> None:
    windows_ft.sandbox.add_generation(prompt="音楽 🎵 é")
    result = windows_ft("list", "--limit", "1", env={"PYTHONIOENCODING": None}, check=0)
    assert len(result.stdout_bytes.splitlines()) == 2
    assert result.stderr_bytes.startswith(b"note: there are more")


@pytest.mark.parametrize("encoding", ["cp1252", "cp437", "cp932"])
def test_a_console_that_lacks_the_characters_gets_ascii_and_never_a_crash(
    windows_ft: Runner, encoding: str
) -> None:
    ft = windows_ft
    ft.sandbox.add_generation(prompt="音楽 🎵 é")
    env = {"PYTHONIOENCODING": encoding, "LC_ALL": None}
    shown = ft("list", "--limit", "1", env=env, check=0).stdout_bytes.decode(encoding)
    assert "\\U0001f3b5" in shown
    assert "OK ft v" in ft("doctor", env=env, check=0).stdout_bytes.decode(encoding)
    listed = json.loads(
        ft("list", "--limit", "1", "--json", env=env, check=0).stdout_bytes.decode("ascii")
    )
    assert listed["data"]["generations"][0]["prompt"] == "音楽 🎵 é"

"""What the plaintext fallback, `credentials` in the configuration directory of a Linux without a
Secret Service, has of its own beside the contract of test_keystores.py.
"""

from __future__ import annotations

import os
import stat
import sys
import time
from pathlib import Path

import jumping_clock
import pytest
import traced
from conftest import Result, Runner

pytestmark = [pytest.mark.skipif(sys.platform != "linux", reason="only Linux has the fallback")]
UMASKS = ["0000", "0022", "0077", "0177", "0777"]


def login(
    ft: Runner, umask: str = "0022", env: dict[str, str | None] | None = None, code: int = 0
) -> Result:
    script = f"umask {umask}; exec ft auth login --stdin"
    return ft.sh(script, key=None, stdin=ft.sandbox.key, env=env, check=code)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def credentials(ft: Runner) -> Path:
    return ft.config_dir / "credentials"


def store(ft: Runner, key: str, bits: int = 0o600) -> None:
    credentials(ft).write_text(key + "\n")
    credentials(ft).chmod(bits)


@pytest.mark.parametrize("umask", UMASKS)
def test_the_file_is_0600_in_a_0700_directory_whatever_the_umask(ft: Runner, umask: str) -> None:
    """Below a HOME that has not even a .config."""
    env: dict[str, str | None] = {"FINETUNING_CONFIG_HOME": None}
    script = f"umask {umask}; exec ft auth login --stdin --base-url {ft.sandbox.api_url}"
    ft.sh(script, key=None, stdin=ft.sandbox.key, env=env, check=0)
    file = ft.home / ".config" / "finetuning" / "credentials"
    assert file.read_text() == ft.sandbox.key + "\n"
    assert mode(file) == 0o600
    assert mode(file.parent) == 0o700
    assert mode(file.parent.parent) == 0o700  # as the XDG specification wants it
    assert [path.name for path in file.parent.iterdir()] == ["credentials"]


def test_our_own_directory_is_made_0700_even_when_it_was_there(ft: Runner) -> None:
    directory = ft.home / "xdg" / "finetuning"
    directory.mkdir(parents=True)
    directory.chmod(0o755)
    env = {"FINETUNING_CONFIG_HOME": None, "XDG_CONFIG_HOME": str(ft.home / "xdg")}
    script = f"exec ft auth login --stdin --base-url {ft.sandbox.api_url}"
    ft.sh(script, key=None, stdin=ft.sandbox.key, env=env, check=0)
    assert mode(directory) == 0o700
    assert mode(ft.home / "xdg") != 0o700  # not ours


def test_a_directory_that_the_user_named_keeps_its_mode(ft: Runner) -> None:
    for name in ("config", "finetuning"):
        ft.config_dir = ft.config_dir.rename(ft.home / name)
        ft.config_dir.chmod(0o750)
        login(ft)
        assert mode(ft.config_dir) == 0o750
        assert mode(credentials(ft)) == 0o600


def test_a_named_directory_that_is_not_there_is_made_0700(ft: Runner) -> None:
    directory = ft.home / "new" / "place"
    env = {"FINETUNING_CONFIG_HOME": str(directory)}
    script = f"umask 0; exec ft auth login --stdin --base-url {ft.sandbox.api_url}"
    ft.sh(script, key=None, stdin=ft.sandbox.key, env=env, check=0)
    assert mode(directory) == 0o700


@pytest.mark.parametrize("bits", [0o640, 0o604, 0o620, 0o666])
def test_a_file_that_others_can_get_at_is_used_with_a_warning_until_the_next_login(
    ft: Runner, bits: int
) -> None:
    store(ft, ft.sandbox.key, bits)
    result = ft("me", key=None, check=0)
    assert result.stderr == f"warning: others can read your API key: chmod 600 {credentials(ft)}\n"
    login(ft)
    assert mode(credentials(ft)) == 0o600
    assert "others can read" not in ft("me", key=None, check=0).stderr


def test_a_link_is_not_followed_when_reading(ft: Runner) -> None:
    target = ft.home / "elsewhere"
    target.write_text(ft.sandbox.key)
    target.chmod(0o600)
    credentials(ft).symlink_to(target)
    result = ft("me", key=None, check=1)
    expected = f"error: will not read the key in {credentials(ft)}: it is a symbolic link\n"
    assert result.stderr == expected
    assert ft.sandbox.requests == []


def test_a_link_is_not_followed_when_writing_or_removing(ft: Runner) -> None:
    target = ft.home / "elsewhere"
    target.write_text("theirs")
    credentials(ft).symlink_to(target)
    login(ft)
    assert not credentials(ft).is_symlink()
    assert credentials(ft).read_text() == ft.sandbox.key + "\n"
    credentials(ft).unlink()
    credentials(ft).symlink_to(target)
    ft("auth", "logout", key=None, check=0)
    assert not os.path.lexists(credentials(ft))
    assert target.read_text() == "theirs"


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root to give a file away"
)
def test_a_file_of_another_owner_is_refused(ft: Runner) -> None:
    store(ft, ft.sandbox.key)
    os.chown(credentials(ft), 12345, 12345)
    result = ft("me", key=None, check=1)
    assert result.stderr == (
        f"error: will not read the key in {credentials(ft)}: it belongs to another user\n"
    )
    assert ft.sandbox.requests == []
    login(ft)
    assert credentials(ft).stat().st_uid == 0
    ft("me", key=None, check=0)


@pytest.mark.parametrize("kind", ["fifo", "directory"])
def test_what_is_no_regular_file_is_refused_without_waiting(ft: Runner, kind: str) -> None:
    if kind == "fifo":
        os.mkfifo(credentials(ft), 0o600)
    else:
        credentials(ft).mkdir(0o700)
    result = ft("me", key=None, check=1, timeout=10)
    assert "it is not a regular file" in result.stderr


@pytest.mark.parametrize("content", [b"", b" \n\n"])
def test_an_empty_file_counts_as_no_key(ft: Runner, content: bytes) -> None:
    store(ft, "")
    credentials(ft).write_bytes(content)
    assert "error: no API key" in ft("me", key=None, check=1).stderr


def test_a_file_of_something_else_is_refused_by_name_and_length(ft: Runner) -> None:
    store(ft, "")
    credentials(ft).write_bytes(b"\xff\x00binary rubbish")
    result = ft("me", key=None, check=2)
    assert f"the API key from {credentials(ft)} is malformed: 16 characters" in result.stderr
    assert "rubbish" not in result.stderr


def test_the_file_is_replaced_and_never_rewritten(ft: Runner) -> None:
    """Who has the old file open goes on reading the old key, whole."""
    store(ft, ft.sandbox.key_other)
    with credentials(ft).open() as old:
        login(ft)
        assert old.read() == ft.sandbox.key_other + "\n"
    assert credentials(ft).read_text() == ft.sandbox.key + "\n"


@pytest.mark.needs("strace")
def test_the_key_is_on_the_disk_before_it_replaces_the_old_one(ft: Runner) -> None:
    """After a power failure the file contains one of them, whole."""
    store(ft, ft.sandbox.key_other)
    login_ = ("auth", "login", "--stdin")
    how = {"key": None, "stdin": ft.sandbox.key, "check": 0}
    assert traced.replacing(credentials(ft), ft, *login_, **how) == ["write", "fsync", "rename"]
    assert credentials(ft).read_text() == ft.sandbox.key + "\n"


def test_a_full_disk_leaves_the_stored_key_and_nothing_else(ft: Runner) -> None:
    store(ft, ft.sandbox.key_other)
    script = "ulimit -f 0; exec ft auth login --stdin"  # no file may grow beyond 0 bytes
    result = ft.sh(script, key=None, stdin=ft.sandbox.key, check=1)
    assert result.stderr.endswith(
        f"error: cannot store the key in {credentials(ft)}: File too large\n"
    )
    assert credentials(ft).read_text() == ft.sandbox.key_other + "\n"
    assert {path.name for path in ft.config_dir.iterdir()} == {"config.json", "credentials"}


def test_a_directory_that_cannot_be_made_is_one_line(ft: Runner) -> None:
    (ft.home / "file").write_text("")
    env = {"FINETUNING_CONFIG_HOME": str(ft.home / "file" / "sub")}
    config = str(ft.config_dir / "config.json")
    result = ft(
        "auth",
        "login",
        "--stdin",
        "--config",
        config,
        key=None,
        stdin=ft.sandbox.key,
        env=env,
        check=1,
    )
    assert result.stderr == (
        f"error: cannot store the key in {ft.home}/file/sub/credentials: Not a directory\n"
    )


def test_after_a_logout_no_file_holds_the_key_of_a_login_that_was_killed(ft: Runner) -> None:
    """Killed while a slow disk writes it."""
    changes = "import os\nos.fsync = lambda descriptor: (print('slow', flush=True), time.sleep(60))"
    argv = ("auth", "login", "--stdin")
    running = jumping_clock.start(ft, *argv, changes=changes, key=None, stdin=ft.sandbox.key)
    running.stdout.expect("slow", 20)
    running.kill()
    (leftover,) = ft.config_dir.glob("credentials.*")
    assert leftover.read_text() == ft.sandbox.key + "\n"
    result = ft("auth", "logout", key=None, check=0)
    assert result.stdout == f"Logged out. Removed the key from {credentials(ft)}.\n"
    assert [path.name for path in ft.config_dir.iterdir()] == ["config.json"]


def test_a_login_removes_old_leftovers_and_nothing_else(ft: Runner) -> None:
    old, new = (ft.config_dir / f"credentials.{digits}" for digits in ("0" * 12, "1" * 12))
    others = [
        ft.config_dir / f"credentials.{end}" for end in ("old", "0123456789abc", "DEADBEEF0000")
    ]
    directory = ft.config_dir / ("credentials." + "f" * 12)
    directory.mkdir()
    for path in (old, new, *others):
        path.write_text(ft.sandbox.key_other)
    for path in (old, *others):
        os.utime(path, (time.time() - 3600,) * 2)
    login(ft)
    assert not old.exists()
    assert new.exists(), "it may be another login's that is under way"
    ft("auth", "logout", key=None, check=0)
    left = {path.name for path in ft.config_dir.iterdir()}
    assert left == {"config.json", directory.name, *(path.name for path in others)}

"""Configuration: where config.json lies, what it holds, the order of flag, variable and file, the
base URL.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from addresses import NO_SCHEME, REFUSED
from conftest import Runner, Tls
from sandbox import Sandbox

linux = pytest.mark.skipif(sys.platform != "linux", reason="the paths are Linux's")


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def base_url(ft: Runner, *argv: str, **how: object) -> object:
    """The one that is resolved, without asking it anything."""
    return ft("doctor", "--json", *argv, **how).json["baseUrl"]


# --- where it lies --------------------------------------------------------------------------------


@linux
def test_the_configuration_lies_in_dot_config_finetuning(ft: Runner, tmp_path: Path) -> None:
    file = write(
        tmp_path / ".config/finetuning/config.json", f'{{"baseUrl": "{ft.sandbox.api_url}"}}'
    )
    result = ft("doctor", env={"FINETUNING_CONFIG_HOME": None}, check=0)
    assert f"✓ config: {file}\n" in result.stdout


@linux
def test_xdg_config_home_moves_it(ft: Runner, tmp_path: Path) -> None:
    write(tmp_path / "xdg/finetuning/config.json", f'{{"baseUrl": "{ft.sandbox.api_url}"}}')
    env = {"FINETUNING_CONFIG_HOME": None, "XDG_CONFIG_HOME": str(tmp_path / "xdg")}
    ft("me", env=env, check=0)


@linux
def test_a_relative_xdg_config_home_is_ignored(ft: Runner, tmp_path: Path) -> None:
    write(tmp_path / ".config/finetuning/config.json", f'{{"baseUrl": "{ft.sandbox.api_url}"}}')
    ft("me", env={"FINETUNING_CONFIG_HOME": None, "XDG_CONFIG_HOME": "xdg"}, check=0)


@linux
def test_without_a_home_directory_a_login_says_what_to_set(ft: Runner) -> None:
    env = {"FINETUNING_CONFIG_HOME": None, "HOME": "relative"}
    argv = ("auth", "login", "--stdin", "--base-url", ft.sandbox.api_url)
    result = ft(*argv, env=env, key=None, stdin=ft.sandbox.key, check=2)
    assert result.stderr == (
        "error: cannot find your home directory\nhint: set HOME or FINETUNING_CONFIG_HOME\n"
    )


def test_finetuning_config_home_is_a_custom_directory(ft: Runner, tmp_path: Path) -> None:
    write(tmp_path / "elsewhere/config.json", f'{{"baseUrl": "{ft.sandbox.api_url}"}}')
    for directory in (str(tmp_path / "elsewhere"), "elsewhere"):
        ft("me", env={"FINETUNING_CONFIG_HOME": directory}, check=0)


@pytest.mark.parametrize("flag", [["--config", "{}"], ["--config={}"]], ids=["two words", "one"])
def test_config_replaces_config_json(ft: Runner, tmp_path: Path, flag: list[str]) -> None:
    file = write(tmp_path / "my config", f'{{"baseUrl": "{ft.sandbox.api_url}"}}')
    ft.config("broken")
    ft("me", *(word.format(file) for word in flag), check=0)


@linux
def test_config_replaces_only_config_json(ft: Runner, tmp_path: Path) -> None:
    file = write(tmp_path / "other.json", f'{{"baseUrl": "{ft.sandbox.api_url}"}}')
    (ft.config_dir / "credentials").write_text(ft.sandbox.key)
    (ft.config_dir / "credentials").chmod(0o600)
    ft("me", "--config", str(file), key=None, check=0)


@pytest.mark.parametrize("given", ["missing.json", "", "."], ids=repr)
def test_the_file_of_config_must_exist(ft: Runner, given: str) -> None:
    assert ft("me", "--config", given, check=2).stderr.startswith("error: ")
    assert not ft.sandbox.requests


def test_without_a_file_the_built_in_defaults_count(ft: Runner) -> None:
    (ft.config_dir / "config.json").unlink()
    ft("generate", "x", "--no-wait", "--base-url", ft.sandbox.api_url, check=0)
    (post,) = ft.sandbox.posts()
    assert (post.json["duration"], post.json["bpm"]) == (60, 120)


def test_the_default_base_url(ft: Runner) -> None:
    ft.config("{}")
    blocked = {"HTTPS_PROXY": ft.sandbox.media_url}  # a proxy that refuses to pass anything on
    assert base_url(ft, env=blocked, speed=100) == "https://pub.finetuning.ai"


@linux
@pytest.mark.parametrize(
    ("env", "argv"),
    [
        ({"FINETUNING_CONFIG_HOME": "~/conf/finetuning"}, []),
        ({"FINETUNING_CONFIG_HOME": None, "XDG_CONFIG_HOME": "~/conf"}, []),
        ({}, ["--config=~/conf/finetuning/config.json"]),
        ({}, ["--config", "~/conf/finetuning/config.json"]),
    ],
    ids=str,
)
def test_a_leading_tilde_is_the_home_directory(
    ft: Runner, here: Path, env: dict[str, str | None], argv: list[str]
) -> None:
    """Also where no shell has expanded it."""
    write(ft.home / "conf/finetuning/config.json", f'{{"baseUrl": "{ft.sandbox.api_url}"}}')
    ft.config({"baseUrl": "https://localhost:1"})
    ft("me", *argv, env=env, check=0)
    assert list(here.iterdir()) == []


@linux
def test_a_key_is_stored_below_the_home_directory(ft: Runner, here: Path) -> None:
    argv = ("auth", "login", "--stdin", "--base-url", ft.sandbox.api_url)
    env = {"FINETUNING_CONFIG_HOME": "~/conf"}
    ft(*argv, env=env, key=None, stdin=ft.sandbox.key, check=0)
    assert (ft.home / "conf/credentials").exists()
    assert list(here.iterdir()) == []


@linux
@pytest.mark.parametrize(
    ("flags", "place"),
    [
        (["--output=~/x.mp3"], "x.mp3"),
        (["-o", "~/x.mp3"], "x.mp3"),
        (["-o~/new/x.mp3"], "new/x.mp3"),
        (["-o", "~/new/"], "new/*.mp3"),
        (["-o", "~"], "*.mp3"),
        (["-o", "~root/x.mp3"], "here/~root/x.mp3"),
        (["-o", "x~/~.mp3"], "here/x~/~.mp3"),
    ],
    ids=str,
)
def test_so_it_is_for_a_track(ft: Runner, here: Path, flags: list[str], place: str) -> None:
    track = str(ft.sandbox.add_generation()["id"])
    ft("download", track, *flags, check=0)
    assert len(list(ft.home.glob(place))) == 1
    assert here.name in place or list(here.iterdir()) == []


@linux
@pytest.mark.parametrize("flag", ["-o", "--config"])
def test_a_tilde_without_a_home_directory_is_exit_2_before_anything_is_sent(
    ft: Runner, here: Path, flag: str
) -> None:
    result = ft("generate", "x", flag, "~/x", env={"HOME": ""}, check=2)
    assert result.stderr.startswith("error: cannot find your home directory\n")
    assert list(here.iterdir()) == [] and ft.sandbox.requests == []


# --- what it holds --------------------------------------------------------------------------------


def test_flag_beats_config_beats_default(ft: Runner) -> None:
    with Sandbox(seconds=0.05) as other:
        assert base_url(ft, "--base-url", other.api_url) == other.api_url
        assert base_url(ft) == ft.sandbox.api_url
        assert {r.path for r in other.requests} == {"/health", "/v1/me"}


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ('{\n  "baseUrl": "https://x",\n  oops\n}', 3, ""),
        ("", 1, ""),
        ("[]", 1, "object"),
        ('"text"', 1, "object"),
        ('{\n\n"defaultDuration": "60"}', 3, "`defaultDuration`"),
        ('{"defaultBpm": true}', 1, "`defaultBpm`"),
        ('{\n"defaultBpm": [120]}', 2, "`defaultBpm`"),
        ('{\n\n\n"baseUrl": 5}', 4, "`baseUrl`"),
        ('{"x": 1,\n"baseUrl": "http://example.com"}', 2, "`baseUrl`"),
        ('{"defaultBpm": NaN}', 1, ""),
        ('{"other": "baseUrl",\n "baseUrl": 1}', 2, "`baseUrl`"),
        ('{"a": {"baseUrl": "https://x"},\n\n "baseUrl": 1}', 3, "`baseUrl`"),
        ('{"defaultDuration": 1e999}', 1, ""),
        ("{" + '"a":[' * 500 + "]" * 500 + "}", 1, ""),
    ],
)
def test_a_broken_configuration_is_exit_2_with_file_line_and_key(
    ft: Runner, text: str, line: int, says: str
) -> None:
    ft.config(text)
    result = ft("me", check=2)
    assert f"{ft.config_dir / 'config.json'}:{line}" in result.stderr
    assert says in result.stderr
    assert "Traceback" not in result.stderr
    assert not ft.sandbox.requests


@pytest.mark.parametrize("content", [b"\xff\xfe{}", b'{"baseUrl": "\xe9"}'])
def test_a_configuration_that_is_no_utf8_is_exit_2(ft: Runner, content: bytes) -> None:
    (ft.config_dir / "config.json").write_bytes(content)
    assert "config.json:1" in ft("me", check=2).stderr


def test_a_byte_order_mark_and_line_ends_of_windows_are_fine(ft: Runner) -> None:
    content = f'\ufeff{{\r\n"baseUrl": "{ft.sandbox.api_url}"\r\n}}\r\n'
    (ft.config_dir / "config.json").write_bytes(content.encode())
    ft("me", check=0)


def test_null_counts_as_unset(ft: Runner) -> None:
    ft.config({"baseUrl": ft.sandbox.api_url, "defaultDuration": None, "defaultBpm": None})
    ft("generate", "x", "--no-wait", check=0)
    assert ft.sandbox.posts()[0].json["bpm"] == 120


def test_unknown_keys_are_ignored_and_doctor_names_them(ft: Runner) -> None:
    ft.config({"baseUrl": ft.sandbox.api_url, "colour": "blue", "baseurl": 7})
    assert ft("me", check=0).stderr == ""
    assert "baseurl, colour" in ft("doctor", check=0).stdout


def test_a_configuration_that_cannot_be_read_is_exit_2(ft: Runner) -> None:
    (ft.config_dir / "config.json").unlink()
    (ft.config_dir / "config.json").mkdir()
    assert str(ft.config_dir / "config.json") in ft("me", check=2).stderr


# --- the base URL ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        *(*REFUSED, *NO_SCHEME, "https://example.com?x=1", "https://example.com/#x"),
        *("https://..", "https://.example.com", "https://a..b"),
    ],
)
def test_a_base_url_that_a_key_must_not_be_sent_to_is_exit_2(ft: Runner, url: str) -> None:
    flag = ft("me", "--base-url", url, check=2)
    assert flag.stderr.startswith("error: the base URL from --base-url ")
    ft.config({"baseUrl": url})
    file = ft("me", check=2)
    assert "config.json:1" in file.stderr
    assert "secret" not in flag.stderr + file.stderr
    assert not ft.sandbox.requests


@pytest.mark.parametrize(
    ("url", "resolved"),
    [
        ("https://localhost:1/prefix/", "https://localhost:1/prefix"),
        ("https://localhost:1//", "https://localhost:1"),
        ("http://127.9.9.9:1", "http://127.9.9.9:1"),
        ("http://[::1]:1", "http://[::1]:1"),
        ("http://127.255.255.254:1", "http://127.255.255.254:1"),
        ("http://LOCALHOST:1", "http://LOCALHOST:1"),
    ],
)
def test_https_or_http_on_loopback_is_accepted_a_prefix_kept_a_trailing_slash_dropped(
    ft: Runner, url: str, resolved: str
) -> None:
    assert base_url(ft, "--base-url", url, speed=100) == resolved


def test_a_prefix_is_part_of_every_request(ft: Runner) -> None:
    ft.sandbox.prefix = "/gateway/ft"
    ft("me", "--base-url", ft.sandbox.api_url + "/gateway/ft/", check=0)
    assert [r.path for r in ft.sandbox.requests] == ["/gateway/ft/v1/me"]


def test_ssl_cert_file_is_honoured(ft: Runner, tls: Tls) -> None:
    with Sandbox(seconds=0.05, tls=tls.context) as secure:
        url = secure.api_url.replace("127.0.0.1", "localhost")
        ft(
            "me",
            "--base-url",
            url,
            env={"SSL_CERT_FILE": str(tls.ca_file)},
            key=secure.key,
            check=0,
        )
        result = ft("me", "--base-url", url, key=secure.key, check=3)
        assert "certificate" in result.stderr
        assert "SSL_CERT_FILE" in result.stderr

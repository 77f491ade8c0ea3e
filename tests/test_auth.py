"""`ft auth login`, `logout`, `whoami` and `ft me`; the order of the keys' sources; what happens
without a good one.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from conftest import Runner

linux = pytest.mark.skipif(
    sys.platform != "linux", reason="stores keys: elsewhere that would be the real keychain"
)

KEY = "ft_live_0123456789abcdefABCDEF0123456789"
REDACTED = "ft_live_0123...****"
MALFORMED = {
    "too short": "ft_live_0123456789",
    "too long": KEY + "0",
    "another prefix": "ft_test_" + KEY[8:],
    "other characters": "ft_live_0123456789abcdef-123456789abcde_",
}


def credentials(ft: Runner) -> Path:
    return ft.config_dir / "credentials"


def store(ft: Runner, key: str) -> None:
    credentials(ft).write_text(key + "\n")
    credentials(ft).chmod(0o600)


def sent_keys(ft: Runner) -> list[str | None]:
    return [request.headers.get("X-API-Key") for request in ft.sandbox.requests]


# --- login ----------------------------------------------------------------------------------------


@linux
def test_login_prompts_with_echo_off_verifies_and_stores(ft: Runner) -> None:
    process = ft.tty("auth", "login", key=None, check=0)
    process.expect("Paste your API key: ")
    assert not ft.sandbox.requests
    process.send(ft.sandbox.key + "\r")
    result = process.finish()
    assert ft.sandbox.key not in result.stdout
    assert ft.sandbox.key[8:] not in result.stdout
    lines = [line.strip() for line in result.stdout.split("\n") if not line.startswith("warning:")]
    assert lines[-3:-1] == [
        f"Stored in {credentials(ft)}. ✓",
        "Signed in as jane@example.com (pro tier)",
    ]
    assert credentials(ft).read_text() == ft.sandbox.key + "\n"
    assert [(r.path, r.headers["X-API-Key"]) for r in ft.sandbox.requests] == [
        ("/v1/me", ft.sandbox.key)
    ]


@linux
def test_login_prompts_on_stderr_even_when_stdout_is_a_pipe(ft: Runner) -> None:
    process = ft.tty("auth", "login", key=None, stdout="pipe", check=0)
    process.expect("Paste your API key: ")
    process.send(ft.sandbox.key + "\r")
    assert process.finish().piped.splitlines()[-1] == "Signed in as jane@example.com (pro tier)"


@linux
def test_ctrl_c_at_the_prompt_stores_nothing(ft: Runner) -> None:
    process = ft.tty("auth", "login", key=None, check=130)
    process.expect("Paste your API key: ")
    process.send("\x03")
    assert "Traceback" not in process.finish().stdout
    assert not credentials(ft).exists()
    assert not ft.sandbox.requests


@linux
@pytest.mark.parametrize("typed", ["\x04", "\r", "  \r"], ids=ascii)
def test_nothing_at_the_prompt_is_a_usage_error(ft: Runner, typed: str) -> None:
    process = ft.tty("auth", "login", key=None, check=2)
    process.expect("Paste your API key: ")
    process.send(typed)
    assert process.finish().screen()[1].startswith("error: no API key given")


@linux
def test_login_stdin_reads_the_key_from_a_pipe(ft: Runner) -> None:
    result = ft.sh(
        'echo "$FT_API_KEY" | ft auth login --stdin',
        env={"FT_API_KEY": ft.sandbox.key},
        key=None,
        check=0,
    )
    assert (
        result.stdout
        == f"Stored in {credentials(ft)}. ✓\nSigned in as jane@example.com (pro tier)\n"
    )
    assert credentials(ft).read_text() == ft.sandbox.key + "\n"


@linux
def test_login_with_the_flag_stores_that_key_and_asks_for_none(ft: Runner) -> None:
    result = ft.tty("auth", "login", "--api-key", f" {ft.sandbox.key}", key=None, check=0).finish()
    assert "Paste" not in result.stdout and credentials(ft).read_text() == ft.sandbox.key + "\n"


def test_login_takes_the_key_from_one_place(ft: Runner) -> None:
    result = ft(
        "auth", "login", "--stdin", "--api-key", KEY, stdin=ft.sandbox.key, key=None, check=2
    )
    assert "--api-key and --stdin cannot be used together" in result.stderr
    assert not ft.sandbox.requests


@linux
def test_login_without_a_terminal_reads_stdin_all_the_same(ft: Runner) -> None:
    ft("auth", "login", stdin=ft.sandbox.key, key=None, check=0)
    assert credentials(ft).exists()


@linux
@pytest.mark.parametrize("padding", ["{}\n", "{}\r\n", "  {}\t\n\n", "{}"])
def test_white_space_around_a_key_is_trimmed(ft: Runner, padding: str) -> None:
    ft("auth", "login", "--stdin", stdin=padding.format(ft.sandbox.key), key=None, check=0)
    assert credentials(ft).read_text() == ft.sandbox.key + "\n"


@pytest.mark.parametrize("argv", [["--stdin"], []])
def test_an_empty_stdin_is_exit_2(ft: Runner, argv: list[str]) -> None:
    result = ft("auth", "login", *argv, stdin=" \n", key=None, check=2)
    assert result.stderr.startswith("error: no API key on stdin")
    assert not ft.sandbox.requests


@linux
@pytest.mark.parametrize("key", MALFORMED.values(), ids=MALFORMED)
def test_login_refuses_a_malformed_key_before_it_is_sent(ft: Runner, key: str) -> None:
    store(ft, KEY)
    result = ft("auth", "login", "--stdin", stdin=key, key=None, check=2)
    assert not ft.sandbox.requests
    assert f"{len(key)} characters" in result.stderr
    assert key not in result.stderr
    assert key[8:] not in result.stderr
    assert credentials(ft).read_text() == KEY + "\n"


@linux
def test_login_says_that_the_variable_wins_over_the_stored_key(ft: Runner) -> None:
    result = ft(
        "auth", "login", "--stdin", stdin=ft.sandbox.key, key=ft.sandbox.key_lifetime, check=0
    )
    assert "warning: FINETUNING_API_KEY is set and overrides the stored key\n" in result.stderr
    assert "jane@example.com" in result.stdout, "the key that was given is the one verified"


# --- logout ---------------------------------------------------------------------------------------


@linux
def test_logout_notes_that_the_variable_is_still_set(ft: Runner) -> None:
    assert ft("auth", "logout", check=0).stderr.endswith(
        "\nnote: FINETUNING_API_KEY is still set\n"
    )


@linux
def test_logout_needs_no_service_and_no_configuration(ft: Runner) -> None:
    store(ft, KEY)
    ft.sandbox.down()
    ft.config("broken")
    ft("auth", "logout", key=None, check=0)
    assert not credentials(ft).exists()


# --- whoami ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [["auth", "whoami"], ["me"]], ids=" ".join)
def test_whoami_and_its_alias_me_print_email_tier_and_credits(
    ft: Runner, command: list[str]
) -> None:
    result = ft(*command, check=0)
    assert (ft.sandbox.requests[0].method, ft.sandbox.requests[0].target) == ("GET", "/v1/me")
    assert re.search(r"^Email +jane@example\.com$", result.stdout, re.MULTILINE)
    assert re.search(r"^Tier +pro$", result.stdout, re.MULTILINE)
    assert re.search(
        r"^Credits +1968 left: 1958 of 2000 this month, 10 from packs$", result.stdout, re.MULTILINE
    )
    assert result.stderr == ""


@pytest.mark.parametrize("command", [["auth", "whoami"], ["me"]], ids=" ".join)
def test_whoami_json_is_the_document_of_the_service(ft: Runner, command: list[str]) -> None:
    document = ft(*command, "--json", check=0).json
    assert document["data"]["limits"]["totalRemaining"] == 1968
    assert document["data"]["betaFeatures"] == ["instrumental", "sound-effects"], (
        "a field that ft knows nothing about"
    )


def test_whoami_bears_an_account_without_limits(ft: Runner) -> None:
    ft.sandbox.fault("record", path="/v1/me", limits=None, email=None)
    assert re.search(r"^Email +-$", ft("me", check=0).stdout, re.MULTILINE)


# --- the order of the sources ---------------------------------------------------------------------


@linux
def test_flag_beats_variable_beats_file(ft: Runner) -> None:
    flag, variable, file = ft.sandbox.key_lifetime, ft.sandbox.key, ft.sandbox.key_other
    store(ft, file)
    assert (
        ft("me", "--json", "--api-key", flag, key=variable, check=0).json["data"]["tier"]
        == "lifetime"
    )
    assert ft("me", "--json", key=variable, check=0).json["data"]["email"] == "jane@example.com"
    assert ft("me", "--json", key=None, check=0).json["data"]["email"] == "other@example.com"
    assert sent_keys(ft) == [flag, variable, file]


@linux
def test_an_empty_source_counts_as_unset(ft: Runner) -> None:
    store(ft, ft.sandbox.key)
    ft("me", "--api-key", " ", key="", check=0)
    ft("me", key=" \n", check=0)
    assert sent_keys(ft) == [ft.sandbox.key] * 2
    credentials(ft).write_text("\n")
    ft("me", key=None, check=1)


@linux
@pytest.mark.parametrize("source", ["--api-key", "FINETUNING_API_KEY", "credentials"])
@pytest.mark.parametrize("key", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_key_is_refused_with_its_source_and_length_never_its_content(
    ft: Runner, source: str, key: str
) -> None:
    argv = ["--api-key", key] if source == "--api-key" else []
    if source == "credentials":
        store(ft, key)
    result = ft("me", *argv, key=key if source == "FINETUNING_API_KEY" else None, check=2)
    assert source in result.stderr
    assert f"{len(key)} characters" in result.stderr
    assert key[8:] not in result.stderr
    assert not ft.sandbox.requests


@pytest.mark.parametrize(
    "inside", ["\r\nX-Evil: 1", "\n", " ", "\u0100", "\u00e9", "\x7f", "\u0663"]
)
def test_a_key_holds_nothing_that_a_header_cannot(ft: Runner, inside: str) -> None:
    key = KEY[:24] + inside + KEY[24 + len(inside) :]
    for result in (ft("me", key=key, check=2), ft("me", "--api-key", key, key=None, check=2)):
        assert "malformed: 40 characters" in result.stderr and KEY[8:24] not in result.stderr
    assert not ft.sandbox.requests


@linux
def test_a_key_may_have_letters_in_both_cases(ft: Runner) -> None:
    ft("me", key=KEY, check=1)
    assert sent_keys(ft) == [KEY]


# --- what the service says of a key ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("account", "error", "hint"),
    [
        ("unknown", "Invalid API key (INVALID_API_KEY)", "ft auth login"),
        ("deleted", "This account has been deleted (ACCOUNT_DELETED)", "contact support"),
        ("free", "API access requires a Pro or Lifetime plan (PRO_PLAN_REQUIRED)", "finetuning.ai"),
    ],
)
def test_a_refused_key_is_exit_1_with_the_servers_message_and_what_to_do(
    ft: Runner, account: str, error: str, hint: str
) -> None:
    key = KEY if account == "unknown" else ft.sandbox.keys[account].key
    result = ft("me", key=key, check=1)
    first, second = result.stderr.splitlines()
    assert first == f"error: {error}"
    assert second.startswith("hint: ")
    assert hint in second
    assert result.stdout == ""


def test_missing_api_key_says_to_run_ft_auth_login(ft: Runner) -> None:
    ft.sandbox.fault("status", status=401, code="MISSING_API_KEY", message="API key is required")
    assert (
        ft("me", check=1).stderr
        == "error: API key is required (MISSING_API_KEY)\nhint: run `ft auth login`\n"
    )


def test_a_key_in_a_message_of_the_service_is_redacted(ft: Runner) -> None:
    ft.sandbox.fault("status", status=401, message=f"Unknown key {KEY}!")
    result = ft("me", key=KEY, check=1)
    assert result.stderr.startswith(f"error: Unknown key {REDACTED}! (INVALID_API_KEY)")

"""`ft doctor`: a health check and the resolved configuration."""

from __future__ import annotations

import re
import sys

import pytest
from conftest import Runner

linux = pytest.mark.skipif(
    sys.platform != "linux", reason="there is no key only where no keychain is asked"
)


def test_doctor_shows_what_the_reference_shows(ft: Runner) -> None:
    result = ft("doctor", check=0)
    lines = result.stdout.splitlines()
    assert re.fullmatch(r"✓ ft v\d+\.\d+\.\d+", lines[0])
    assert lines[1] == f"✓ config: {ft.config_dir / 'config.json'}"
    assert lines[2] == f"✓ base URL: {ft.sandbox.api_url}"
    assert lines[3] == "✓ /health → ok"
    assert f"✓ key: {ft.sandbox.key[:12]}...****  (jane@example.com, pro tier)" in lines
    assert all(line.startswith("✓ ") for line in lines)
    assert result.stderr == ""


def test_the_health_check_is_sent_without_the_key(ft: Runner) -> None:
    ft("doctor", check=0)
    health, me = ft.sandbox.requests
    assert (health.path, health.headers["X-API-Key"]) == ("/health", None)
    assert (me.path, me.headers["X-API-Key"]) == ("/v1/me", ft.sandbox.key)


def test_doctor_json_gives_the_same_facts_as_one_document(ft: Runner) -> None:
    document = ft("doctor", "--json", check=0).json
    expected = {
        "config": str(ft.config_dir / "config.json"),
        "configExists": True,
        "baseUrl": ft.sandbox.api_url,
        "health": "ok",
        "key": ft.sandbox.key[:12] + "...****",
        "keySource": "FINETUNING_API_KEY",
        "email": "jane@example.com",
        "tier": "pro",
        "ok": True,
        "problems": [],
    }
    assert expected.items() <= document.items()
    assert ft("--version").stdout == f"ft {document['version']}\n"


def test_doctor_says_where_the_key_comes_from(ft: Runner) -> None:
    assert "FINETUNING_API_KEY" in ft("doctor", check=0).stdout
    assert "--api-key" in ft("doctor", "--api-key", ft.sandbox.key, key=None, check=0).stdout


@linux
def test_without_a_key_it_is_exit_1_and_the_rest_is_still_checked(ft: Runner) -> None:
    result = ft("doctor", key=None, check=1)
    assert "✓ /health → ok\n" in result.stdout
    assert re.search("^✗ key: no API key.*ft auth login", result.stdout, re.MULTILINE)
    document = ft("doctor", "--json", key=None, check=1).json
    assert document["ok"] is False
    assert len(document["problems"]) == 1


def test_with_a_refused_key_it_is_exit_1(ft: Runner) -> None:
    result = ft("doctor", key="ft_live_" + "0" * 32, check=1)
    assert re.search(r"^✗ key: Invalid API key \(INVALID_API_KEY\)", result.stdout, re.MULTILINE)


def test_with_a_malformed_key_it_is_exit_2(ft: Runner) -> None:
    result = ft("doctor", key="secret", check=2)
    assert "✗ key: " in result.stdout
    assert "secret" not in result.stdout + result.stderr


def test_when_the_service_cannot_be_reached_it_is_exit_3(ft: Runner) -> None:
    ft.sandbox.down()
    result = ft("doctor", speed=100, check=3)
    assert re.search("^✗ /health: cannot connect to ", result.stdout, re.MULTILINE)
    assert f"✓ base URL: {ft.sandbox.api_url}\n" in result.stdout
    assert "FINETUNING_API_KEY" in result.stdout, "the key is there, though nobody can say whose"


def test_a_service_that_is_not_healthy_is_exit_3(ft: Runner) -> None:
    ft.sandbox.fault("status", status=503, path="/health", times=None)
    assert "✗ /health: " in ft("doctor", speed=100, check=3).stdout


def test_a_broken_configuration_is_exit_2(ft: Runner) -> None:
    ft.config('{"baseUrl": }')
    result = ft("doctor", check=2)
    assert re.search(
        f"^✗ config: {re.escape(str(ft.config_dir / 'config.json'))}:1", result.stdout, re.MULTILINE
    )
    assert ft("doctor", "--json", check=2).json["ok"] is False
    assert not ft.sandbox.requests


def test_an_impossible_base_url_is_exit_2(ft: Runner) -> None:
    assert "✗ base URL: " in ft("doctor", "--base-url", "http://example.com", check=2).stdout


def test_a_configuration_that_is_not_there_is_fine(ft: Runner) -> None:
    (ft.config_dir / "config.json").unlink()
    result = ft("doctor", "--base-url", ft.sandbox.api_url, check=0)
    assert f"✓ config: {ft.config_dir / 'config.json'} (does not exist" in result.stdout


@linux
def test_doctor_names_the_plaintext_fallback(ft: Runner) -> None:
    file = ft.config_dir / "credentials"
    file.write_text(ft.sandbox.key)
    file.chmod(0o600)
    result = ft("doctor", key=None, check=0)
    assert str(file) in result.stdout
    assert ft("doctor", "--json", key=None, check=0).json["keySource"] == str(file)

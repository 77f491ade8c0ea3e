"""`--json`: one document on stdout, with every field and number as the service sent it."""

from __future__ import annotations

import json
import re

import pytest
from commands import READING, TRACK, WITH_JSON, Command, each, run
from conftest import Runner

# --- one document ---------------------------------------------------------------------------------


@each(WITH_JSON)
def test_with_json_stdout_is_exactly_one_document_and_a_newline(
    ft: Runner, command: Command
) -> None:
    result = run(ft, command, "--json", "-v", check=0)
    document, end = json.JSONDecoder().raw_decode(result.stdout)
    assert isinstance(document, dict)
    assert result.stdout[end:] == "\n"


@each(READING)
def test_without_json_requested_data_goes_to_stdout_all_the_same(
    ft: Runner, command: Command
) -> None:
    result = run(ft, command, check=0)
    assert result.stdout.endswith("\n")
    assert all(line.startswith("note: ") for line in result.stderr.splitlines())


@each([command for command in WITH_JSON if command.needs_key])
def test_a_command_that_fails_before_it_has_a_document_prints_nothing_on_stdout(
    ft: Runner, command: Command
) -> None:
    result = run(ft, command, "--json", key="no key", check=2)
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")


def test_progress_and_prompts_stay_on_the_terminal_when_stdout_is_a_pipe(ft: Runner) -> None:
    result = ft.tty("generate", "dark trap", "--json", stdout="pipe", speed=15, check=0).finish()
    assert json.loads(result.piped)["data"]["status"] == "completed"
    assert "queued as" in result.stdout


# --- it keeps everything --------------------------------------------------------------------------


LITERALS = {
    "price": "1.10",
    "big": "123456789012345678901234567890",
    "tiny": "1E-7",
    "less than any": "1e-999",
    "exact": "0.1000000000000000055511151231257827",
    "zero": "-0",
    "zero point": "-0.0",
    "exponent": "1e5",
}


def test_json_keeps_unknown_fields_and_the_literals_of_numbers(ft: Runner) -> None:
    numbers = ", ".join(f'"{name}": {literal}' for name, literal in LITERALS.items())
    odd = (
        r'"text": "a\u0000b\ud83d\ude00 \/ \"é", "list": [1.0, {}, [], "", [[null, true]]], "": '
        r'{"z": 1, "a": 2}'
    )
    sent = f"{{{numbers}, {odd}}}"
    ft.sandbox.fault("literal", path="/v1/me", value=sent.encode(), field="unknown")
    result = ft("me", "--json", check=0)
    for name, literal in LITERALS.items():
        assert f'"{name}": {literal},\n' in result.stdout
    assert result.json["data"]["unknown"] == json.loads(sent)


def test_json_keeps_the_order_of_the_fields(ft: Runner) -> None:
    data = '{"zeta": 1, "data": {"b": 1, "a": 2, "id": "x"}, "meta": null}'
    ft.sandbox.fault("body", data=data, type="application/json")
    document = ft("get", TRACK, "--json", check=0)
    assert re.findall(r'"(\w+)":', document.stdout) == ["zeta", "data", "b", "a", "id", "meta"]


def test_the_merged_document_of_a_bulk_command_keeps_literals_too(ft: Runner) -> None:
    data = f'{{"data": {{"deleted": ["{TRACK}"], "freed": 1.10}}}}'
    ft.sandbox.fault("body", data=data, type="application/json")
    assert '"freed": 1.10' in ft("delete", "--yes", "--json", TRACK, check=0).stdout


@pytest.mark.parametrize("kind", ["nan", "infinity", "deep", "big-integer", "not-utf8"])
def test_what_is_no_json_is_exit_3(ft: Runner, kind: str) -> None:
    ft.sandbox.fault(kind, path="/v1/me", times=None)
    result = ft("me", "--json", speed=20, check=3)
    assert result.stdout == ""
    assert "Traceback" not in result.stderr

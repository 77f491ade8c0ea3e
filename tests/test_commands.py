"""The table of commands that other tests are made from: complete, and true of each command."""

from __future__ import annotations

import re

import pytest
from commands import CHANGES, COMMANDS, NAMES, READS, SUBMITS, Command, each, prepare, run
from conftest import Runner


def test_every_command_has_a_row(ft: Runner) -> None:
    """A command without one is tested by nothing that is about all commands."""
    listed = ft("help", check=0).stdout.partition("Make music:\n")[2].partition("global flags")[0]
    names = re.findall(r"^  (\w+(?: \w+)?)(?= [<\[]|  )", listed, re.MULTILINE)
    assert sorted(names) == sorted(NAMES)


@each(COMMANDS)
def test_a_row_has_the_flags_and_arguments_of_the_help(ft: Runner, command: Command) -> None:
    text = ft("help", *command.name.split(), check=0).stdout
    own = text.partition("global flags")[0]
    assert ("--json" in own) == command.json
    assert ("--quiet" in own) == command.quiet
    assert ("--fields" in own) == command.fields
    assert ("--yes" in own) == command.asks
    assert ("<id>" in own.splitlines()[0]) == command.takes_ids


@pytest.mark.both_forms
@each(COMMANDS)
def test_a_row_says_what_becomes_of_the_service(ft: Runner, command: Command) -> None:
    run(ft, command, check=command.code)
    assert len(ft.sandbox.posts()) == (command.effect == SUBMITS)
    methods = {request.method for request in ft.sandbox.requests}
    if command.effect == READS:
        assert methods == {"GET"}
    elif command.effect == CHANGES:
        assert "POST" in methods
    elif command.effect != SUBMITS:
        assert methods <= {"GET"}


@each([command for command in COMMANDS if not command.needs_key])
def test_a_command_that_needs_no_key_runs_without_one(ft: Runner, command: Command) -> None:
    """Its `doctor` reports that there is none."""
    result = run(ft, command, key=None)
    assert result.code == (1 if command.name == "doctor" else command.code)
    assert not result.stderr.startswith("error: no API key")


@each([command for command in COMMANDS if command.asks])
def test_a_command_that_asks_does_nothing_without_a_terminal(ft: Runner, command: Command) -> None:
    """An answer on stdin does not count."""
    prepare(ft, command)
    argv = [word for word in command.argv if word != "--yes"]
    result = ft(*argv, stdin="y\n", check=2)
    assert "--yes" in result.stderr
    assert not ft.sandbox.requests

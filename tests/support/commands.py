"""One table of the commands of `ft`, for all tests that are about each of them.

A new command needs a row here: tests/test_commands.py fails without it, and checks what the row
says.
"""

from __future__ import annotations

import shlex
import sys
from typing import Any, Iterable, NamedTuple

import pytest
from conftest import Result, Runner
from sandbox import Sandbox

READS, CHANGES, SUBMITS, LOCAL = "reads", "changes", "submits", "works on this machine"
TRACK = "07e8d430-2310-4c57-87a8-cf1e6db376f7"  # lofi chill piano, completed, in no playlist
IN_FOCUS = "1c474c27-e97d-4c35-bb98-e588d06c32f0"  # in the playlist Focus Beats
IN_DRAFTS = "fea285f2-f8e4-4e60-98b0-c78f868ccc26"
EFFECT = "5f0e0ef3-0000-4000-8000-000000000000"  # made by `add_sound_effect`


class Command(NamedTuple):
    """A command and what tests need to know of it.

    `example` is what follows the name, in a sandbox as it starts; `effect` is what becomes of the
    service. `takes_ids`: the last word of the example is the id of a track or sound effect.
    """

    name: str
    example: str
    effect: str
    json: bool = True
    quiet: bool = False  # has -q
    fields: bool = False  # has --fields
    needs_key: bool = True
    asks: bool = False
    takes_ids: bool = False
    code: int = 0  # the example's exit code

    @property
    def argv(self) -> list[str]:
        return [*self.name.split(), *shlex.split(self.example)]


COMMANDS = [  # in the order of `ft help`
    Command("auth login", "--stdin", LOCAL, json=False, needs_key=False),
    Command("auth logout", "", LOCAL, json=False, needs_key=False),
    Command("auth whoami", "", READS, fields=True),
    Command("me", "", READS, fields=True),
    Command("generate", "lofi chill piano", SUBMITS, quiet=True, fields=True),
    Command("instrumental", "slow piano", SUBMITS, quiet=True, fields=True),
    Command("batch", "--yes prompts.txt", SUBMITS, asks=True, quiet=True),
    Command("list", "", READS, quiet=True, fields=True),
    Command("get", TRACK, READS, takes_ids=True, fields=True),
    Command("download", TRACK, READS, takes_ids=True, quiet=True),
    Command("delete", f"--yes {TRACK}", CHANGES, asks=True, takes_ids=True),
    Command("playlists", "", READS, quiet=True, fields=True),
    Command("playlist show", "Drafts", READS, quiet=True, fields=True),
    Command("playlist add", f"Drafts {TRACK}", CHANGES, takes_ids=True),
    Command("playlist remove", f"'Focus Beats' {IN_FOCUS}", CHANGES, takes_ids=True),
    Command("playlist move", f"Drafts Album {IN_DRAFTS}", CHANGES, takes_ids=True),
    Command("sfx generate", "a door closes", SUBMITS, quiet=True, fields=True),
    Command("sfx list", "", READS, quiet=True, fields=True),
    Command("sfx get", EFFECT, READS, takes_ids=True, fields=True),
    Command("sfx download", EFFECT, READS, takes_ids=True, quiet=True),
    Command("doctor", "", READS, needs_key=False),
    Command("update", "", LOCAL, json=False, needs_key=False, code=1),  # ft.py is not installed
    Command("completion", "bash", LOCAL, json=False, needs_key=False),
    Command("help", "", LOCAL, json=False, needs_key=False),
]
NAMES = [command.name for command in COMMANDS]
GROUPS = list(dict.fromkeys(name.split()[0] for name in NAMES if " " in name))
WITH_JSON = [command for command in COMMANDS if command.json]
WITH_QUIET = [command for command in COMMANDS if command.quiet]
WITH_FIELDS = [command for command in COMMANDS if command.fields]
WITH_KEY = [command for command in COMMANDS if command.needs_key]
WITH_IDS = [command for command in COMMANDS if command.takes_ids]
READING = [command for command in COMMANDS if command.effect == READS]
SUBMITTING = [command for command in COMMANDS if command.effect == SUBMITS]


def each(commands: Iterable[Command]) -> pytest.MarkDecorator:
    """Run a test with each of these as its `command`."""
    return pytest.mark.parametrize("command", commands, ids=lambda command: command.name)


def verbs(group: str) -> list[str]:
    """Return what may follow `ft GROUP`."""
    return [name.split()[1] for name in NAMES if name.startswith(f"{group} ")]


def add_sound_effect(sandbox: Sandbox) -> None:
    """Add the completed sound effect EFFECT; a sandbox starts without any."""
    record = sandbox.add_generation(id=EFFECT, prompt="a door closes", duration=3)
    del sandbox.generations[EFFECT]
    names = ("id", "status", "prompt", "audioUrl", "duration", "errorMessage", "createdAt")
    sandbox.sound_effects[EFFECT] = {name: record[name] for name in names}
    sandbox.sound_effects[EFFECT].update(requestedDuration=3, webhook=None)


def write_prompts(ft: Runner) -> None:
    """Write the file of the example of `ft batch`."""
    (ft.cwd / "prompts.txt").write_text("lofi chill piano\n")


def prepare(ft: Runner, command: Command) -> None:
    """Make what the example of a command needs."""
    if command.name.startswith("sfx "):
        add_sound_effect(ft.sandbox)
    if command.name == "batch":
        write_prompts(ft)


def run(ft: Runner, command: Command, *flags: str, **how: Any) -> Result:
    """Run the example of a command with these flags behind it."""
    if command.name in ("auth login", "auth logout") and sys.platform != "linux":
        pytest.skip("elsewhere than on Linux this would change the real keychain")
    prepare(ft, command)
    if "--stdin" in command.argv:
        how.setdefault("stdin", ft.sandbox.key)
    if command.effect == SUBMITS:
        how.setdefault("speed", 15)  # the first poll comes after a fifth of a second
    return ft(*command.argv, *flags, **how)

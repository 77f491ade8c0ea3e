"""Make the picture in the README, tests/data/session.svg, from a real session: ft on a terminal,
against the sandbox.

`make picture` runs it. It always makes the same picture; test_readme.py compares it with the one
that is there.
"""

from __future__ import annotations

import itertools
import os
import re
import shlex
import sys
import tempfile
from html import escape
from pathlib import Path

import pyte
from pyte.screens import wcwidth

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from conftest import FAST_CLOCK, ROOT, Process
from sandbox import Sandbox

PICTURE = ROOT / "tests" / "data" / "session.svg"
COLUMNS, ROWS = 100, 60
SESSION = (  # {} is the id of the new track
    'generate "lofi chill piano, mellow, late night"',
    "list --limit 6",
    'playlist add "Focus Beats" {}',
    "playlists",
)
CELL, LINE, MARGIN = 8.4, 19, 16  # pixels
COLOURS = {
    "default": "#d6dbe1",
    "red": "#ff7b72",
    "green": "#7ee787",
    "magenta": "#d2a8ff",
    "prompt": "#8b949e",
}


def library(sandbox: Sandbox) -> None:
    """Ages lie in the middle of what `3 min ago` and the like stand for, so that a slow machine
    changes nothing.
    """
    focus = [str(sandbox.add_generation(duration=180, age=60 * 86400.0)["id"]) for _ in range(14)]
    sandbox.add_playlist("Focus Beats", focus, age=3.5 * 86400)
    sandbox.add_playlist("Deep Work", focus[:5], age=40.5 * 60)
    sandbox.add_playlist("夜ドライブ 🌃", focus[3:6], age=5.5 * 3600, isPublic=True)
    for prompt, seconds, status, age in (
        ("death metal sung by a kindergarten choir", 60, "failed", 50.5 * 3600),
        ("upbeat ad jingle, brass and snare", 30, "completed", 11.5 * 3600),
        ("東京の夜、シティポップ、サックス 🌃", 147, "completed", 2.5 * 3600),
        ("deep ambient drone", 180, "processing", 3.5 * 60),
        ("sea shanty, concertina, stomping", 60, "pending", 1.5 * 60),
    ):
        length = seconds if status == "completed" else None
        sandbox.add_generation(prompt=prompt, duration=length, status=status, age=age)


def session() -> pyte.Screen:
    """What stands on the terminal after the commands of SESSION."""
    screen = pyte.Screen(COLUMNS, ROWS)
    terminal = pyte.Stream(screen)
    with tempfile.TemporaryDirectory() as home, Sandbox(seconds=0.05, library=False) as sandbox:
        library(sandbox)
        Path(home, "config.json").write_text(
            f'{{"baseUrl": "{sandbox.api_url}"}}', encoding="utf-8"
        )
        environment = {
            "FINETUNING_API_KEY": sandbox.key,
            "FINETUNING_CONFIG_HOME": home,
            "HOME": home,
            "LC_ALL": "C.UTF-8",
            "PATH": os.environ["PATH"],
            "TERM": "xterm-256color",
        }
        for line in SESSION:
            command = line.format(*sandbox.book)
            fast = (
                {"PYTHONPATH": str(FAST_CLOCK), "FT_TEST_SPEED": "20"}
                if command.startswith("generate")
                else {}
            )
            argv = [sys.executable, str(ROOT / "ft.py"), *shlex.split(command)]
            process = Process(
                argv, env={**environment, **fast}, cwd=Path(home), terminal=(ROWS, COLUMNS), check=0
            )
            terminal.feed(f"\x1b[90m$\x1b[0m ft {command}\r\n")
            terminal.feed(process.finish().stdout + "\r\n")
    return screen


def svg(screen: pyte.Screen) -> str:
    rows = screen.cursor.y - 1
    width, height = COLUMNS * CELL + 2 * MARGIN, rows * LINE + 2 * MARGIN
    label = "A session: ft makes a track, lists the library and fills a playlist"
    fonts = "ui-monospace, SFMono-Regular, Menlo, Consolas, monospace"
    colour = COLOURS["default"]
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height}" '
            f'role="img" aria-label="{label}">'
        ),
        '<rect width="100%" height="100%" rx="8" fill="#161b22"/>',
        f'<g font-family="{fonts}" font-size="14" fill="{colour}">',
    ]
    for y in range(rows):
        cells = [(x, screen.buffer[y][x]) for x in range(COLUMNS) if screen.buffer[y][x].data]
        # Wide characters stand alone, so that a font in which they are not two cells wide moves
        # nothing else.
        for (colour, bold, _), run in itertools.groupby(
            cells,
            lambda cell: (cell[1].fg, cell[1].bold, wcwidth(cell[1].data[0]) == 2 and cell[0]),
        ):
            group = list(run)
            for column in re.finditer(r"\S+(?: \S+)*", "".join(cell.data for _, cell in group)):
                text = column[0]
                start = MARGIN + (group[0][0] + column.start()) * CELL
                length = sum(map(wcwidth, text)) * CELL
                attributes = (
                    f'x="{start:.1f}" y="{MARGIN + y * LINE + 14}" textLength="{length:.1f}"'
                )
                if colour != "default":
                    attributes += f' fill="{COLOURS.get(colour, COLOURS["prompt"])}"'
                if bold:
                    attributes += ' font-weight="bold"'
                parts.append(f"<text {attributes}>{escape(text, quote=False)}</text>")
    return "\n".join([*parts, "</g>", "</svg>", ""])


def picture() -> str:
    return svg(session())


if __name__ == "__main__":
    PICTURE.write_bytes(picture().encode())
    print(f"wrote {PICTURE.relative_to(ROOT)}")

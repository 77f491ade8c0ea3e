"""Wait until a process has come to where a test wants it, as far as the kernel or files tell."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path


def await_blocked(pid: int) -> None:
    """Wait until the process waits for a reader or a writer. Returns at once without /proc."""
    process, end = Path(f"/proc/{pid}"), time.monotonic() + 20
    while process.exists():
        state = (process / "stat").read_text().rpartition(")")[2].split()[0]
        if state == "S" and re.search("^0$|select|poll|pipe", (process / "wchan").read_text()):
            return
        assert time.monotonic() < end
        time.sleep(0.01)


def hidden(directory: Path) -> list[str]:
    return [name for name in os.listdir(directory) if name.startswith(".")]


def await_hidden(directory: Path, count: int) -> None:
    """Wait until the directory contains that number of hidden files."""
    end = time.monotonic() + 20
    while len(hidden(directory)) != count:
        assert time.monotonic() < end, os.listdir(directory)
        time.sleep(0.01)

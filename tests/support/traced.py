"""Real `ft` processes whose system calls strace records."""

from __future__ import annotations

import re
from itertools import groupby
from pathlib import Path
from typing import Any

from conftest import Runner

CALLS = "trace=/^(p?write(v|64)?|f(data)?sync|rename(at2?)?)$"


def replacing(path: Path, ft: Runner, *argv: str, **how: Any) -> list[str]:
    """Run `ft` and return, in order, what it does to the file that it renames to `path`.

    The steps are "write", "fsync" and "rename"; several writes in a row count as one.
    """
    log = ft.home / "trace"
    strace = ["strace", "-f", "-y", "-s", "0", "-o", str(log), "-e", CALLS]
    ft.start(*argv, _program=[*strace, *ft.argv], **how).finish()
    done = re.findall(r"^[0-9]+ +([a-z]+)[0-9]*\((.*)\) += [0-9]+", log.read_text(), re.MULTILINE)
    (made,) = re.findall(
        rf'"([^"]+)", [^"]*"{re.escape(str(path))}"', "\n".join(c for _, c in done)
    )
    kinds = {"pwrite": "write", "writev": "write", "fdatasync": "fsync", "renameat": "rename"}
    return [step for step, _ in groupby(kinds.get(name, name) for name, c in done if made in c)]

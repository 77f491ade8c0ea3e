"""Real `ft` processes in which a constant or a clock was changed before the command began."""

from __future__ import annotations

from typing import Any

from conftest import PYTHON, Process, Result, Runner


def start(ft: Runner, changes: str, *argv: str, **how: Any) -> Process:
    """`changes` are Python statements; in them `ft` is the module, and `time`, `random` and `sys` are imported."""
    code = f"import random, sys, time\nsys.path.insert(0, {str(ft.program.parent)!r})\nimport ft\n"
    return ft.start(*argv, _program=[PYTHON, "-c", f"{code}{changes}\nsys.exit(ft.main())"], **how)


def run(ft: Runner, changes: str, *argv: str, **how: Any) -> Result:
    return start(ft, changes, *argv, **how).finish()

"""Real `ft` processes in which the clock jumps instead of sleeping, and whose constants a test may
change.

`speed=` makes sleeps shorter; here they take no time, and each is written down.
"""

from __future__ import annotations

import ast
import re
import sys
from operator import attrgetter
from typing import Any

from conftest import FAST, ROOT, Process, Result, Runner
from forks import ForkedProcess, can_fork

sys.path.insert(0, str(ROOT))
import ft as module

JUMP = """
clock, jumped = time.monotonic, [0.0]
time.monotonic = lambda: clock() + jumped[0]
if hasattr(time, "clock_gettime"):
    time.clock_gettime = lambda which, real=time.clock_gettime: real(which) + jumped[0]
def sleep(seconds):
    jumped[0] += seconds
    with open({!r}, "a") as log:
        print(seconds, file=log)
ft.sleep = sleep
"""


def refuse_unknown_names(changes: str) -> None:
    """Raise AttributeError where `changes` name what ft lacks, before anything runs: setting it
    would change nothing, and a test that believes otherwise may reach somebody's real keychain.
    """
    for node in ast.walk(ast.parse(changes)):
        if isinstance(node, ast.Attribute):
            dotted = re.fullmatch(r"ft\.([\w.]+)", ast.get_source_segment(changes, node) or "")
            if dotted:
                attrgetter(dotted[1])(module)


def start(ft: Runner, *argv: str, changes: str = "", fresh: bool = False, **how: Any) -> Process:
    """`changes` are Python statements; in them `ft` is the module, and `time`, `random` and `sys`
    are imported. AttributeError for a name that ft does not have. Where possible the process is a
    fork, unless it has to be `fresh`, with no more modules than it imports itself.
    """
    refuse_unknown_names(changes)
    code = f"import random, sys, time\nsys.path.insert(0, {str(ROOT)!r})\nimport ft\n{changes}\n"
    program = [*ft.python, "-c", f"{code}sys.exit(ft.main())"]
    process = ForkedProcess if can_fork(ft, how) and not fresh else Process
    return ft.start(*argv, _program=program, _process=process, **how)


class ChangedRunner(Runner):
    """An `ft` whose processes all run with `changes`, except in `sh`."""

    changes = ""

    def start(self, *argv: str, **how: Any) -> Process:
        if how.get("_program"):
            return super().start(*argv, **how)
        return start(self, *argv, changes=self.changes, **how)


def jump(ft: Runner) -> str:
    """The changes that make the clock jump. It would outrun the sandbox, which therefore completes
    generations at once.
    """
    if ft.sandbox.seconds == FAST:
        ft.sandbox.seconds = 0
    return JUMP.format(str(ft.home / "slept"))


def run(ft: Runner, *argv: str, changes: str = "", timeout: float = 60, **how: Any) -> Result:
    """The same to its end, with a clock that jumps."""
    return start(ft, *argv, changes=jump(ft) + changes, **how).finish(timeout)


def slept(ft: Runner) -> list[float]:
    """The seconds of each sleep that the test's runs jumped over."""
    log = ft.home / "slept"
    return [float(line) for line in log.read_text().split()] if log.exists() else []

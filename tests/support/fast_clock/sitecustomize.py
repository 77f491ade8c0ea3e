"""What the tests change in a Python that they start: the speed of its clock, and the measuring of
coverage.

The tests put this directory on PYTHONPATH of only those processes that need it.

- FT_TEST_SPEED=N: `time.sleep(s)` sleeps s/N, and then the clocks have advanced by s. They keep
  their speed otherwise, so that no deadline comes sooner because the machine is slow.
- FT_COVERAGE=DIRECTORY: the numbers of the lines of ft.py that run are added to a file there, from
  Python 3.12 on. The package coverage would take ten times as long to start as ft does, once for
  each of some thousand processes.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType
    from typing import Any, Callable


def hasten(speed: float) -> None:
    """Make sleeps `speed` times shorter from now on, and let the clocks jump at the end of each."""
    sleep, clock, lock = time.sleep, time.monotonic, threading.Lock()
    ahead = 0.0

    def jumping(clock: Callable[..., float]) -> Callable[..., float]:
        return lambda *which: clock(*which) + ahead

    def shorter_sleep(seconds: float) -> None:
        nonlocal ahead
        end = clock() + ahead + seconds
        sleep(float(seconds) / speed)
        with lock:  # another thread may have slept, and jumped, meanwhile
            ahead = max(ahead, end - clock())

    for name in {"time", "monotonic", "perf_counter", "clock_gettime"} & {*vars(time)}:
        setattr(time, name, jumping(getattr(time, name)))
    time.sleep = shorter_sleep


def measure(directory: str) -> None:
    """Note each line of ft.py that runs, in all threads, and write them down at the end, if that is
    possible.
    """
    here = os.path.dirname(os.path.abspath(__file__))
    module = os.path.normpath(os.path.join(here, "..", "..", "..", "ft.py"))
    measured = (module, "ft.pyz/ft.py")  # the second is how bytecode names it
    lines = set()
    monitoring = sys.monitoring

    def on_start(code: CodeType, offset: int) -> Any:
        if code.co_filename in measured:
            monitoring.set_local_events(monitoring.COVERAGE_ID, code, monitoring.events.LINE)
        return monitoring.DISABLE  # for this code, once is enough

    def on_line(code: CodeType, number: int) -> Any:
        lines.add(number)
        return monitoring.DISABLE

    monitoring.use_tool_id(monitoring.COVERAGE_ID, "ft")
    monitoring.register_callback(monitoring.COVERAGE_ID, monitoring.events.PY_START, on_start)
    monitoring.register_callback(monitoring.COVERAGE_ID, monitoring.events.LINE, on_line)
    monitoring.set_events(monitoring.COVERAGE_ID, monitoring.events.PY_START)

    @atexit.register
    def save() -> None:
        monitoring.set_events(monitoring.COVERAGE_ID, 0)
        try:
            with open(
                os.path.join(directory, f"{os.getpid()}.lines"), "a", encoding="ascii"
            ) as file:
                file.write(" ".join(map(str, lines)) + "\n")
        except OSError:  # some tests take away what writing needs
            pass


if "FT_TEST_SPEED" in os.environ:
    hasten(float(os.environ["FT_TEST_SPEED"]))
if "FT_COVERAGE" in os.environ:
    measure(os.environ["FT_COVERAGE"])

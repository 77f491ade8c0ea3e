"""What the tests change in a Python that they start: the speed of its clock, and the measuring of
coverage.

The tests put this directory on PYTHONPATH of only those processes that need it.

- FT_TEST_SPEED=N: `time.sleep(s)` sleeps s/N, and then the clocks have advanced by s. They keep
  their speed otherwise, so that no deadline comes sooner because the machine is slow.
- FT_COVERAGE=DIRECTORY: the numbers of the lines of ft.py that run are added to a file there. The
  package coverage would take ten times as long to start as ft does, once for each of many hundred
  processes.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import Any, Callable


def hasten(speed: float) -> None:
    """Make sleeps `speed` times shorter from now on, and let the clocks jump at the end of each."""
    sleep, clock, lock = time.sleep, time.monotonic, threading.Lock()
    ahead = 0.0

    def jumping(clock: Callable[[], float]) -> Callable[[], float]:
        return lambda: clock() + ahead

    def shorter_sleep(seconds: float) -> None:
        nonlocal ahead
        end = clock() + ahead + seconds
        sleep(float(seconds) / speed)
        with lock:  # another thread may have slept, and jumped, meanwhile
            ahead = max(ahead, end - clock())

    for name in ("time", "monotonic", "perf_counter"):
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

    def on_line(frame: FrameType, event: str, argument: Any) -> Any:
        lines.add(frame.f_lineno)
        return on_line

    def on_call(frame: FrameType, event: str, argument: Any) -> Any:
        return on_line if frame.f_code.co_filename in measured else None

    @atexit.register
    def save() -> None:
        sys.settrace(None)
        try:
            with open(
                os.path.join(directory, f"{os.getpid()}.lines"), "a", encoding="ascii"
            ) as file:
                file.write(" ".join(map(str, lines)) + "\n")
        except OSError:  # some tests take away what writing needs
            pass

    threading.settrace(on_call)
    sys.settrace(on_call)


if "FT_TEST_SPEED" in os.environ:
    hasten(float(os.environ["FT_TEST_SPEED"]))
if "FT_COVERAGE" in os.environ:
    measure(os.environ["FT_COVERAGE"])

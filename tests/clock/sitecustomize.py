"""What the tests change in a Python that they start: the speed of its clock, and coverage.

The tests put this directory on PYTHONPATH of only those processes that need it.

- FT_TEST_SPEED=N: time runs N times faster. `time.sleep(s)` sleeps s/N, the clocks advance N-fold.
- COVERAGE_PROCESS_START=FILE: measures coverage as FILE says, with the package in FT_TEST_PACKAGES.
"""

from __future__ import annotations

import os
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable


def hasten(speed: float) -> None:
    """Make the clocks of `time` run `speed` times faster from now on."""

    def faster(clock: Callable[[], float], start: float) -> Callable[[], float]:
        return lambda: start + (clock() - start) * speed

    for name in ("time", "monotonic", "perf_counter"):
        clock = getattr(time, name)
        setattr(time, name, faster(clock, clock()))
    sleep = time.sleep
    time.sleep = lambda seconds: sleep(float(seconds) / speed)


if "COVERAGE_PROCESS_START" in os.environ:
    # Only the measuring sees the installed packages: ft must do without them.
    sys.path.append(os.environ["FT_TEST_PACKAGES"])
    import coverage

    coverage.process_startup()
    sys.path.pop()

if "FT_TEST_SPEED" in os.environ:
    hasten(float(os.environ["FT_TEST_SPEED"]))

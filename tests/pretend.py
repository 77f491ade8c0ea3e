"""Runs ft as if on another system: pretend.py JSON PROGRAM [ARGUMENT...]

JSON holds `platform`, what sys.platform shall be, and new values for constants of ft. On "win32" `error` is what
the calls of the Credential Manager fail with.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import subprocess  # noqa: F401  (what asks sys.platform while it is imported must know the truth)
import sys
import urllib.request  # noqa: F401
from ctypes import wintypes  # noqa: F401
from typing import Any


class FailingDll:
    """advapi32 on a machine whose every call fails, in the way of ctypes."""

    def __init__(self, name: str, use_last_error: bool) -> None:
        assert (name, use_last_error) == ("advapi32", True)

    def __getattr__(self, function: str) -> Any:
        def call(*_: Any) -> int:
            return 0

        setattr(self, function, call)  # so that argtypes can be set on it
        return call


def main() -> int:
    settings, program = json.loads(sys.argv[1]), sys.argv[2]
    sys.argv[:3] = [program]
    spec = importlib.util.spec_from_file_location("ft", program)
    assert spec
    assert spec.loader
    ft = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(ft)
    sys.platform = settings.pop("platform", sys.platform)
    error = settings.pop("error", None)
    if error is not None:
        ctypes.WinDLL = FailingDll  # type: ignore[attr-defined,misc]
        ctypes.get_last_error = lambda: error  # type: ignore[attr-defined]
    for name, value in settings.items():
        assert hasattr(ft, name)
        setattr(ft, name, value)
    return int(ft.main())


if __name__ == "__main__":
    sys.exit(main())

"""Processes that are forks of one Python, which has imported ft and all that it may need.

Starting Python and importing take four fifths of the time of a short `ft`. A fork leaves that out,
and Python's clean-up at the end; all between them is as in any other process.
"""

from __future__ import annotations

import array
import atexit
import functools
import json
import os
import select
import socket
import struct
import subprocess
import threading
from pathlib import Path
from typing import Any, Mapping, Sequence

from conftest import FAST_CLOCK, PYTHON, ROOT, Process, Runner, Stream

# A request is a length and that many bytes of JSON. With the length come four descriptors: stdin,
# stdout, stderr, and where to write the process's number and its status once it has ended.
# A parent of its own waits for each process.
SERVER = """
import array, atexit, gc, json, os, random, signal, socket, struct, sys, time
import csv, ctypes, datetime, difflib, email.utils, fcntl, getpass, hashlib, http.client, ipaddress
import queue, select, shlex, ssl, subprocess, tempfile, threading, traceback, urllib.request

control = socket.socket(fileno=int(sys.argv[1]))
sys.path.insert(0, sys.argv[2])
import ft

gc.collect()
gc.freeze()
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
while True:
    header, ancillary, _, _ = control.recvmsg(4, socket.CMSG_SPACE(16))
    if not header:
        sys.exit()
    descriptors = array.array("i", ancillary[0][2])
    size = struct.unpack("!I", header)[0]
    argv, env, cwd = json.loads(control.recv(size, socket.MSG_WAITALL))
    if not os.fork():
        break
    for descriptor in descriptors:
        os.close(descriptor)

control.close()
signal.signal(signal.SIGCHLD, signal.SIG_DFL)
report = descriptors.pop()
child = os.fork()
if child:
    for descriptor in (0, 1, 2, *descriptors):
        os.close(descriptor)
    os.write(report, b"%d\\n" % os.waitpid(child, 0)[1])
    os._exit(0)
os.setsid()
os.write(report, b"%d\\n" % os.getpid())
os.close(report)
for number, descriptor in enumerate(descriptors):
    os.dup2(descriptor, number)
    os.close(descriptor)
os.chdir(cwd)
os.environ.clear()
os.environ.update(env)
sys.argv = ["-c", *argv[3:]]
status = 0
try:
    exec(argv[2], {"__name__": "__main__"})
except SystemExit as end:
    status = end.code
except BaseException:
    traceback.print_exc()
    status = 1
atexit._run_exitfuncs()
try:
    sys.stdout.flush()
except OSError:
    status = 120
os._exit(status)  # an orderly end would copy all memory, to give it back
"""
LOCK = threading.Lock()  # of the socket, for tests that start processes in threads


@functools.lru_cache(maxsize=None)
def start_server() -> socket.socket:
    """Start the process that forks, once. Return the socket by which to ask it."""
    ours, theirs = socket.socketpair()
    env = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}
    if os.environ.get("FT_COVERAGE"):
        env.update(PYTHONPATH=str(FAST_CLOCK), FT_COVERAGE=os.environ["FT_COVERAGE"])
    with theirs:
        server = subprocess.Popen(
            [PYTHON, "-c", SERVER, str(theirs.fileno()), str(ROOT)],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,  # which cannot be sought in, as the processes' streams
            stderr=subprocess.PIPE,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )

    @atexit.register
    def stop() -> None:
        ours.close()
        server.communicate(timeout=20)

    return ours


class Fork:
    """What the tests use of a Popen, for a process that the server forked."""

    stdin = None

    def __init__(
        self, argv: Sequence[str], env: Mapping[str, str], cwd: Path, streams: Sequence[int]
    ) -> None:
        self.returncode: int | None = None
        self._report, write_end = os.pipe()
        request = json.dumps([argv, env, str(cwd)]).encode()
        descriptors = array.array("i", [*streams, write_end])
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)
        with LOCK:
            server = start_server()
            server.sendmsg([struct.pack("!I", len(request))], [rights])
            server.sendall(request)
        os.close(write_end)
        self.pid = self._read(20)

    def _read(self, timeout: float) -> int:
        """Return the next number of the report. TimeoutExpired if it does not come in time."""
        if not select.select([self._report], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired("ft", timeout)
        line = b""
        while not line.endswith(b"\n"):
            piece = os.read(self._report, 1)
            assert piece, "the process that forks is gone"
            line += piece
        return int(line)

    def wait(self, timeout: float = 60) -> int:
        if self.returncode is None:
            status = self._read(timeout)
            os.close(self._report)
            killed = os.WIFSIGNALED(status)
            self.returncode = -os.WTERMSIG(status) if killed else os.WEXITSTATUS(status)
        return self.returncode

    def poll(self) -> int | None:
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


class ForkedProcess(Process):
    """What `python -c CODE ARGUMENT...` would be, with pipes, as a fork."""

    def _start_on_pipes(self, env: Mapping[str, str], cwd: Path, stdin: Any) -> None:
        assert stdin is None
        (out, out_end), (error, error_end) = os.pipe(), os.pipe()
        with open(os.devnull, "rb") as null:
            self.popen = Fork(  # type: ignore[assignment]
                self.argv, env, cwd, [null.fileno(), out_end, error_end]
            )
        os.close(out_end)
        os.close(error_end)
        self.stdout, self.stderr = Stream(out), Stream(error)


def can_fork(ft: Runner, how: Mapping[str, Any]) -> bool:
    """Check that Python would not read when it starts what a test changes."""
    if not hasattr(os, "fork") or ft.python != [PYTHON]:
        return False
    names = how.get("env") or {}
    return not how.keys() & {"speed", "stdin", "_terminal"} and not any(
        name.startswith(("PYTHON", "LANG", "LC_", "LD_", "TZ")) for name in names
    )

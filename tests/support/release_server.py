"""A release site on loopback for the tests of the installers and of `ft update`, with faults on
demand.

`release(site, "0.2.0")` fills a directory with a small stand-in for ft.pyz, and
`with ReleaseServer(site) as server:` serves it at `server.url`.
"""

from __future__ import annotations

import hashlib
import io
import shutil
import ssl
import threading
import zipfile
from pathlib import Path
from typing import Iterator

import build
from scripted_server import CLOSE, Request, ScriptedServer, Step, reply

FT = """\
import sys
def main():
    print("ft {version}" if sys.argv[1:] == ["--version"] else "This is a stand-in.")
"""


def archive(version: str, source: str = FT, shebang: bytes = b"#!/usr/bin/env python3\n") -> bytes:
    """A zipapp that is built as ft.pyz is, about as large, and says this version."""
    buffer = io.BytesIO(shebang)
    buffer.seek(0, io.SEEK_END)
    with zipfile.ZipFile(buffer, "a") as zipped:
        # ZipInfo dates files 1980, so the archive is always the same.
        zipped.writestr(zipfile.ZipInfo("__main__.py"), "import ft\nft.main()\n")
        zipped.writestr(
            zipfile.ZipInfo("ft.py"), source.replace("{version}", version) + "#" * 250_000
        )
    return buffer.getvalue()


def program(version: str, source: str = FT) -> bytes:
    """The same as ft.exe."""
    launcher, _ = build.launcher()
    return launcher + build.EXE_SHEBANG + archive(version, source, b"")


def sums(data: bytes, name: str = "ft.pyz") -> str:
    return f"{hashlib.sha256(data).hexdigest()}  {name}\n"


def release(site: Path, version: str, data: bytes | None = None) -> bytes:
    """Add a version to a site and make it the newest. Returns its ft.pyz."""
    data = archive(version) if data is None else data
    directory = site / version
    directory.mkdir(parents=True)
    files = {"ft.exe": program(version), "ft.pyz": data}
    for name, content in files.items():
        (directory / name).write_bytes(content)
    (directory / "SHA256SUMS").write_text("".join(sums(files[name], name) for name in files))
    for name in (*files, "SHA256SUMS"):
        shutil.copy(directory / name, site / name)
    (site / "VERSION").write_text(version + "\n")
    return data


class ReleaseServer(ScriptedServer):
    """Serves `site`, over TLS with `tls`.

    - `reason` is the reason phrase of a 404. `redirects` maps a path to a URL.
    - `cut` holds the paths of which half the announced bytes come. With `hold` the connection then
      stays open until the server ends: `held` is set when it has come to that.
    """

    def __init__(
        self, site: Path, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1"
    ) -> None:
        super().__init__(self._send, tls, host)
        self.site = site
        self.reason = "Not Found"
        self.redirects: dict[str, str] = {}
        self.cut: set[str] = set()
        self.hold = False
        self.held = threading.Event()
        if tls:
            self.url = f"https://localhost:{self.port}"

    @property
    def paths(self) -> list[str]:
        return [request.target for request in self.requests]

    @property
    def agents(self) -> set[str]:
        """The names of the programs that asked: curl, Wget, Python-urllib."""
        agents = (request.headers.get("user-agent", "") for request in self.requests)
        return {agent.partition("/")[0] for agent in agents}

    def _send(self, request: Request) -> Iterator[Step]:
        path = request.target
        file = self.site / path.lstrip("/")
        if path in self.redirects:
            yield reply(b"", f"Location: {self.redirects[path]}", status="302 Found")
        elif ".." in path or not file.is_file():
            yield reply(b"", status=f"404 {self.reason}")
        elif path in self.cut:
            data = file.read_bytes()
            yield reply(data)[: -(len(data) + 1) // 2]
            if self.hold:
                self.held.set()
                yield self.is_closed
            yield CLOSE
        else:
            yield reply(file.read_bytes())

"""A release site on loopback for the tests of the installers and of `ft update`, with faults on
demand.

`release(site, "0.2.0")` fills a directory with a small stand-in for ft.pyz, and
`with ReleaseServer(site) as server:` serves it at `server.url`.
"""

from __future__ import annotations

import hashlib
import http.server
import io
import shutil
import socket
import socketserver
import ssl
import threading
import zipfile
from pathlib import Path
from types import TracebackType
from typing import Any

import build

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
        zipped.writestr(
            zipfile.ZipInfo("__main__.py"), "import ft\nft.main()\n"
        )  # dated 1980: always the same
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


class ReleaseServer(socketserver.ThreadingMixIn, http.server.HTTPServer):
    """Serves `site`, over TLS with `context`.

    - `requests` is what was asked: (path, user agent).
    - `reason` is the reason phrase of a 404. `redirects` maps a path to a URL.
    - `cut` holds the paths of which half the announced bytes come. With `hold` the connection then
      stays open until the server ends: `held` is set when it has come to that.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(
        self, site: Path, context: ssl.SSLContext | None = None, host: str = "127.0.0.1"
    ) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, 0), Handler)
        self.site, self.context = site, context
        self.requests: list[tuple[str, str]] = []
        self.reason = "Not Found"
        self.redirects: dict[str, str] = {}
        self.cut: set[str] = set()
        self.hold = False
        self.held, self.ended = threading.Event(), threading.Event()
        name = "localhost" if context else "127.0.0.1"
        self.url = f"{'https' if context else 'http'}://{name}:{self.server_port}"

    @property
    def paths(self) -> list[str]:
        return [path for path, _ in self.requests]

    @property
    def agents(self) -> set[str]:
        """The names of the programs that asked: curl, Wget, Python-urllib."""
        return {agent.partition("/")[0] for _, agent in self.requests}

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        if self.context:  # the handshake comes with the first read, in the connection's own thread
            connection = self.context.wrap_socket(
                connection, server_side=True, do_handshake_on_connect=False
            )
        return connection, address

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that refuses the certificate or goes away is what some tests want."""

    def __enter__(self) -> ReleaseServer:
        threading.Thread(
            target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        ).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.ended.set()
        self.shutdown()
        self.server_close()


class Handler(http.server.BaseHTTPRequestHandler):
    server: ReleaseServer

    def do_GET(self) -> None:
        self.server.requests.append((self.path, self.headers.get("User-Agent", "")))
        file = self.server.site / self.path.lstrip("/")
        if self.path in self.server.redirects:
            self.send_response(302)
            self.send_header("Location", self.server.redirects[self.path])
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif ".." in self.path or not file.is_file():
            self.send_error(404, self.server.reason)
        else:
            self._send(file.read_bytes())

    def _send(self, data: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.path not in self.server.cut:
            self.wfile.write(data)
            return
        self.wfile.write(data[: len(data) // 2])
        if self.server.hold:
            self.server.held.set()
            self.server.ended.wait()

    def log_message(self, *_: object) -> None:
        pass

"""What the servers of the tests share: a port on loopback, and a thread for each connection."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ssl
    from types import TracebackType

    from typing_extensions import Self


def reset(connection: socket.socket) -> None:
    """Let the connection end with a reset when it is closed."""
    linger = struct.pack("hh" if os.name == "nt" else "ii", 1, 0)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)


class Server:
    """Listen on a port, which stays ours while the server is down, and serve each connection.

    A context manager; up() and close() do the same. Subclasses say in `serve` what is answered.
    """

    def __init__(
        self, host: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None
    ) -> None:
        self.host, self.tls = host, tls
        self.accepted = 0  # connections
        self.is_closed = threading.Event()
        self._lock = threading.Lock()
        self._open: dict[threading.Thread, socket.socket] = {}
        self._acceptor: threading.Thread | None = None
        self._listener = self._bind(port)
        self.port: int = self._listener.getsockname()[1]
        name = f"[{host}]" if ":" in host else host
        self.url = f"{'https' if tls else 'http'}://{name}:{self.port}"

    def serve(self, connection: socket.socket, number: int) -> None:
        """Talk to a client; the connection is closed afterwards. They are counted from 1."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        self.up()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _bind(self, port: int) -> socket.socket:
        listener = socket.socket(socket.AF_INET6 if ":" in self.host else socket.AF_INET)
        if os.name == "posix":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((self.host, port))
        return listener

    def up(self) -> None:
        if not self._acceptor:
            self._listener.listen(128)
            arguments = (self._listener,)
            self._acceptor = threading.Thread(target=self._accept, args=arguments, daemon=True)
            self._acceptor.start()

    def down(self) -> None:
        """Refuse new connections. A socket that is bound and does not listen keeps the port."""
        self._close_listener()
        self._listener = self._bind(self.port)

    def close(self) -> None:
        """Stop listening, and end the open connections."""
        self.is_closed.set()
        self._close_listener()
        with self._lock:
            connections = list(self._open.items())
        for _, connection in connections:
            with contextlib.suppress(OSError, ValueError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread, _ in connections:
            thread.join(2)

    def _close_listener(self) -> None:
        acceptor, self._acceptor = self._acceptor, None
        if acceptor:  # closing a socket wakes nobody who is in accept(): a connection does
            with contextlib.suppress(OSError):
                socket.create_connection((self.host, self.port), 1).close()
            acceptor.join(5)
        self._listener.close()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            connection, _ = listener.accept()
            if not self._acceptor:
                connection.close()
                return
            self.accepted += 1
            arguments = (connection, self.accepted)
            thread = threading.Thread(target=self._serve, args=arguments, daemon=True)
            with self._lock:
                self._open[thread] = connection
            thread.start()

    def _serve(self, connection: socket.socket, number: int) -> None:
        thread = threading.current_thread()
        try:
            if self.tls:
                connection = self.tls.wrap_socket(
                    connection, server_side=True, do_handshake_on_connect=False
                )
                with self._lock:
                    self._open[thread] = connection
                connection.do_handshake()
            self.serve(connection, number)
        except OSError:
            pass  # the client went away
        except ValueError:  # so says TLS when close() has closed the connection
            if not self.is_closed.is_set():
                raise
        finally:
            connection.close()
            with self._lock:
                del self._open[thread]

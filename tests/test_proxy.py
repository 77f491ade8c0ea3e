"""Proxies: HTTPS_PROXY and NO_PROXY as everywhere, a proxy sees no key and no password of its own
on the screen.
"""

from __future__ import annotations

import base64
import contextlib
import getpass
import select
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import Iterator

import jumping_clock
import pytest
from conftest import FAST, Runner, Tls
from sandbox import Sandbox

ID = "07e8d430-2310-4c57-87a8-cf1e6db376f7"
ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"


class Proxy:
    """A proxy for CONNECT on loopback that keeps what it saw: the head of each request, and all the
    bytes.
    """

    def __init__(self, answer: bytes = ESTABLISHED) -> None:
        self.answer = answer
        self.heads: list[bytes] = []
        self.seen = bytearray()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.host = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *exception: object) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):  # either side may go away
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                data = client.recv(1)
                if not data:
                    return
                head += data
            self.heads.append(head)
            self.seen += head
            client.sendall(self.answer)
            if self.answer != ESTABLISHED:
                return
            host, _, port = head.split()[1].decode().rpartition(":")
            with socket.create_connection((host, int(port))) as server:
                peers = {client: server, server: client}
                while True:
                    for ready in select.select(list(peers), [], [])[0]:
                        data = ready.recv(65536)
                        if not data:
                            return
                        self.seen += data
                        peers[ready].sendall(data)


@pytest.fixture
def service(ft: Runner, tls: Tls) -> Iterator[Sandbox]:
    """The service over TLS; https is what proxies are for."""
    with Sandbox(seconds=FAST, rate_limits=False, tls=tls.context) as started:
        ft.config({"baseUrl": started.api_url})
        yield started


def environ(tls: Tls, proxy: str, **more: str) -> dict[str, str]:
    return {"SSL_CERT_FILE": str(tls.ca_file), "HTTPS_PROXY": proxy, **more}


@pytest.mark.parametrize("address", ["http://{}", "http://{}/", "{}", "HTTP://{}"])
def test_https_proxy_is_honoured(
    ft: Runner, service: Sandbox, tls: Tls, tmp_path: Path, address: str
) -> None:
    """For the API and for the media host, both through CONNECT."""
    with Proxy() as proxy:
        env = environ(tls, address.format(proxy.host))
        ft("download", ID, "-o", "track.mp3", env=env, check=0)
    assert (tmp_path / "track.mp3").read_bytes() == service.track(ID)
    targets = [url.partition("//")[2].encode() for url in (service.api_url, service.media_url)]
    assert [head.split()[:2] for head in proxy.heads] == [
        [b"CONNECT", target] for target in targets
    ]


def test_the_proxy_never_sees_the_key(ft: Runner, service: Sandbox, tls: Tls) -> None:
    with Proxy() as proxy:
        ft("me", env=environ(tls, f"http://{proxy.host}"), check=0)
    assert service.requests[0].headers["X-API-Key"] == service.key
    assert b"ft_live" not in proxy.seen and b"-key" not in proxy.seen.lower()
    assert len(proxy.seen) > len(proxy.heads[0])


def test_user_and_password_go_to_the_proxy_and_nowhere_else(
    ft: Runner, service: Sandbox, tls: Tls
) -> None:
    with Proxy() as proxy:
        env = environ(tls, f"http://jane:s3%40cret@{proxy.host}")
        result = ft("-v", "me", env=env, check=0)
    token = base64.b64encode(b"jane:s3@cret")
    assert b"Basic " + token in proxy.heads[0]
    assert "s3" not in result.stderr and token.decode() not in result.stderr
    assert f"through the proxy {proxy.host}" in result.stderr
    assert "Proxy-Authorization" not in service.requests[0].headers


@pytest.mark.parametrize(
    "name",
    [
        "127.0.0.1",
        "{host}",
        "*",
        "example.org, 127.0.0.1",
        "127.0.0.0/8",
        "10.0.0.0/8,127.0.0.1/32",
        "fd00::/8 127.9.9.9/8",
        "x/y,127.0.0.1/8",
    ],
)
def test_no_proxy_is_honoured(ft: Runner, service: Sandbox, tls: Tls, name: str) -> None:
    host = service.api_url.partition("//")[2]
    with Proxy() as proxy:
        result = ft(
            "-v",
            "me",
            env=environ(tls, f"http://{proxy.host}", NO_PROXY=name.format(host=host)),
            check=0,
        )
    assert proxy.heads == [] and "through the proxy" not in result.stderr


def test_ranges_of_no_proxy_are_not_for_names(ft: Runner, service: Sandbox, tls: Tls) -> None:
    """As with curl, which does not resolve a name to look it up."""
    url = service.api_url.replace("127.0.0.1", "localhost")
    with Proxy() as proxy:
        env = environ(tls, f"http://{proxy.host}", NO_PROXY="127.0.0.0/8")
        ft("me", "--base-url", url, env=env, check=0)
    assert len(proxy.heads) == 1


@pytest.mark.parametrize("name", ["10.0.0.0/8", "::/0", "127.0.0.2/32", "127.0.0.0/99", "/", ":"])
def test_no_proxy_that_names_others(ft: Runner, service: Sandbox, tls: Tls, name: str) -> None:
    with Proxy() as proxy:
        ft("me", env=environ(tls, f"http://{proxy.host}", NO_PROXY=name), check=0)
    assert len(proxy.heads) == 1


@pytest.mark.skipif(not socket.has_ipv6, reason="IPv6")
@pytest.mark.parametrize(
    ("name", "is_bypassed"),
    [
        ("::1", True),
        ("[::1]", True),
        ("::/64", True),
        ("0:0::1", True),
        ("fd00::/8", False),
        ("::2", False),
        ("0.0.0.0/0", False),
    ],
)
def test_no_proxy_with_ipv6(ft: Runner, tls: Tls, name: str, is_bypassed: bool) -> None:
    """Nothing listens at the address; what matters is who is asked."""
    with Proxy() as proxy:
        env = environ(tls, f"http://{proxy.host}", NO_PROXY=name)
        url = "https://[::1]:9"
        result = jumping_clock.run(ft, "me", "--base-url", url, env=env, check=3)
    assert (proxy.heads == []) == is_bypassed
    assert ("through the proxy" not in result.stderr) == is_bypassed


@pytest.mark.parametrize("address", ["https://{}", "HTTPS://jane:s3cret@{}/"])
def test_a_proxy_reached_by_tls_is_refused(
    ft: Runner, service: Sandbox, tls: Tls, address: str
) -> None:
    """urllib would talk to it without TLS: the password would go out in clear."""
    with Proxy() as proxy:
        result = ft("me", env=environ(tls, address.format(proxy.host)), check=2)
    assert result.stderr == (
        "error: proxies over TLS are not supported: HTTPS_PROXY must begin with http://\n"
    )
    assert not proxy.seen


def test_a_proxy_of_windows_own_settings(ft: Runner, service: Sandbox, tls: Tls) -> None:
    """Which Python up to 3.9 gives as https://, whatever the proxy is."""
    with Proxy() as proxy:
        changes = (
            "import urllib.request\n"
            "urllib.request.getproxies_environment = dict\n"
            f"urllib.request.getproxies = lambda: {{'https': 'https://{proxy.host}'}}\n"
        )
        env = {"SSL_CERT_FILE": str(tls.ca_file)}
        jumping_clock.run(ft, "me", env=env, changes=changes, check=0)
    assert len(proxy.heads) == 1


def test_plain_http_on_loopback_never_goes_through_a_proxy(ft: Runner) -> None:
    """A proxy elsewhere could not reach it, and would be shown the key."""
    with Proxy() as proxy:
        url = f"http://{proxy.host}"
        ft(
            "me",
            env={"HTTP_PROXY": url, "http_proxy": url, "HTTPS_PROXY": url, "ALL_PROXY": url},
            check=0,
        )
    assert proxy.heads == []


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (
            b"HTTP/1.1 403 Forbidden by policy\r\nContent-Length: 0\r\n\r\n",
            "403 Forbidden by policy",
        ),
        (
            b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n",
            "407 Proxy Authentication Required",
        ),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "SSH-2.0-OpenSSH_9.2"),
        (b"", "closed connection without response"),
    ],
)
def test_a_proxy_that_refuses_is_named(
    ft: Runner, service: Sandbox, tls: Tls, answer: bytes, why: str
) -> None:
    """And nothing was sent: a submission was certainly not received. What it refuses is not asked
    for again.
    """
    with Proxy(answer) as proxy:
        env = environ(tls, f"http://jane:s3cret@{proxy.host}")
        result = jumping_clock.run(ft, "generate", "--no-wait", "a song", env=env, check=3)
    host = service.api_url.partition("//")[2]
    assert f"error: cannot connect to {host} through the proxy {proxy.host}: " in result.stderr
    assert why in result.stderr
    assert "s3cret" not in result.stderr and "may have been" not in result.stderr
    assert len(proxy.heads) == (1 if why.startswith("40") else 2) and service.requests == []


def test_a_proxy_that_is_not_there_is_named(ft: Runner, service: Sandbox, tls: Tls) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        host = f"127.0.0.1:{listener.getsockname()[1]}"
    result = jumping_clock.run(ft, "me", env=environ(tls, f"http://jane:s3cret@{host}"), check=3)
    assert (
        f"through the proxy {host}: Connection refused" in result.stderr
        and "s3cret" not in result.stderr
    )


def test_a_proxy_in_between_with_a_ca_of_its_own(ft: Runner, service: Sandbox, tls: Tls) -> None:
    """As in a company: the certificate is not trusted, and the hint says what to set."""
    with Proxy() as proxy:
        env = environ(tls, f"http://{proxy.host}", SSL_CERT_FILE="/nonexistent.pem")
        result = ft("me", env=env, check=3)
    assert f"through the proxy {proxy.host}: its certificate is not trusted" in result.stderr
    assert "SSL_CERT_FILE" in result.stderr and len(proxy.heads) == 1


@pytest.mark.parametrize("address", ["socks5://{}", "socks5h://jane:s3cret@{}", "SOCKS4://{}"])
def test_socks_is_refused(ft: Runner, service: Sandbox, tls: Tls, address: str) -> None:
    with Proxy() as proxy:
        result = ft("me", env=environ(tls, address.format(proxy.host)), check=2)
    assert "SOCKS proxies are not supported" in result.stderr and "s3cret" not in result.stderr
    assert proxy.heads == []


@pytest.mark.parametrize(
    "address",
    [
        "http:/jane:s3cret@proxy",
        "http://jane:s3cret@proxy:99999",
        "http://jane:s3cret@",
        "ftp://jane:s3cret@proxy",
        "http://jane:s3/cret@proxy:1",
        "http://jane:s3cret@pro xy:1",
        "http://jane:s3cret@proxy:port",
    ],
)
def test_an_address_that_no_proxy_has(ft: Runner, service: Sandbox, tls: Tls, address: str) -> None:
    result = ft("me", env=environ(tls, address), check=2)
    assert "error: HTTPS_PROXY is not the address of a proxy" in result.stderr
    assert "cret" not in result.stderr


def start_tinyproxy(path: Path, settings: str) -> tuple[subprocess.Popen[bytes], int]:
    """Start it on a free port and wait until it listens; on another one if that was taken since."""
    deadline = time.monotonic() + 20
    while True:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        path.write_text(f"Port {port}\n{settings}")
        process = subprocess.Popen(["tinyproxy", "-d", "-c", str(path)], stdout=subprocess.DEVNULL)
        while process.poll() is None:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port)).close()
                return process, port
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert time.monotonic() < deadline


@pytest.mark.needs("tinyproxy")
def test_a_real_proxy(ft: Runner, service: Sandbox, tls: Tls, tmp_path: Path) -> None:
    """tinyproxy, with a password, and refusing all but the API's port."""
    allowed = service.api_url.rpartition(":")[2]
    process, port = start_tinyproxy(
        tmp_path / "tinyproxy.conf",
        f"User {getpass.getuser()}\nListen 127.0.0.1\nTimeout 60\nMaxClients 10\n"
        f"BasicAuth jane s3cret\nConnectPort {allowed}\n",
    )
    try:
        env = environ(tls, f"http://jane:s3cret@127.0.0.1:{port}")
        assert ft("me", "--json", env=env, check=0).json["data"]["email"] == "jane@example.com"
        result = ft("download", ID, env=env, check=3)
        assert f"through the proxy 127.0.0.1:{port}: Tunnel connection failed: 403" in result.stderr
        env = environ(tls, f"http://jane:wr0ng@127.0.0.1:{port}")
        result = ft("me", env=env, check=3)
        assert (
            "Tunnel connection failed: 401" in result.stderr
            or "Tunnel connection failed: 407" in result.stderr
        )
        assert "wr0ng" not in result.stderr
    finally:
        process.terminate()
        process.wait()

"""TLS: whom ft trusts, and what it says when it does not. Nothing is ever sent over a connection it
does not trust.
"""

from __future__ import annotations

import datetime
import ssl
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator

import jumping_clock
import pytest
import trustme
from conftest import FAST, PYPY, PYTHON, Result, Runner, Tls
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from sandbox import Sandbox

pytestmark = pytest.mark.source

ID = "07e8d430-2310-4c57-87a8-cf1e6db376f7"
DAY = datetime.timedelta(days=1)
NOW = datetime.datetime.now(datetime.timezone.utc)


@contextmanager
def secure(ft: Runner, context: ssl.SSLContext) -> Iterator[Sandbox]:
    """The service over TLS, as ft's base URL."""
    with Sandbox(seconds=FAST, rate_limits=False, tls=context) as service:
        ft.config({"baseUrl": service.api_url})
        yield service


def server(certificate: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return context


def refused(ft: Runner, service: Sandbox, ca_file: object, *why: str) -> Result:
    """One connection, no request, exit 3, a hint at SSL_CERT_FILE; a submission was certainly not
    received.
    """
    env = {"SSL_CERT_FILE": None if ca_file is None else str(ca_file)}
    result = ft("me", env=env, check=3)
    host = service.api_url.partition("//")[2]
    assert f"error: cannot connect to {host}: " in result.stderr
    assert all(part in result.stderr for part in why), result.stderr
    assert service.connections() == 1
    assert "may have been" not in ft("generate", "--no-wait", "a song", env=env, check=3).stderr
    assert service.requests == []
    return result


def test_a_private_ca_is_trusted_through_ssl_cert_file(
    ft: Runner, tls: Tls, tmp_path: Path
) -> None:
    with secure(ft, tls.context) as service:
        env = {"SSL_CERT_FILE": str(tls.ca_file)}
        assert ft("me", "--json", env=env, check=0).json["data"]["email"] == "jane@example.com"
        ft("download", ID, "-o", "track.mp3", env=env, check=0)
        assert (tmp_path / "track.mp3").read_bytes() == service.track(ID)


def test_an_unknown_ca_is_not_trusted(ft: Runner, tls: Tls) -> None:
    with secure(ft, tls.context) as service:
        refused(
            ft,
            service,
            None,
            "its certificate is not trusted: ",
            "hint: ",
            "set SSL_CERT_FILE to its bundle",
        )


def test_another_ca_in_ssl_cert_file(ft: Runner, tls: Tls, tmp_path: Path) -> None:
    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(str(other))
    with secure(ft, tls.context) as service:
        refused(ft, service, other, f"hint: SSL_CERT_FILE names {other}: does it contain the CA")


def test_an_ssl_cert_file_that_does_not_exist(ft: Runner, tls: Tls, tmp_path: Path) -> None:
    with secure(ft, tls.context) as service:
        missing = tmp_path / "missing.pem"
        refused(ft, service, missing, f"hint: SSL_CERT_FILE names {missing}, which does not exist")


def test_a_certificate_for_another_name(ft: Runner, tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    with secure(ft, server(authority.issue_cert("media.finetuning.ai"))) as service:
        refused(
            ft,
            service,
            tmp_path / "ca.pem",
            "certificate is not valid for '127.0.0.1'",
            "SSL_CERT_FILE",
        )


def test_a_certificate_that_has_expired(ft: Runner, tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    expired = authority.issue_cert("127.0.0.1", not_before=NOW - 9 * DAY, not_after=NOW - DAY)
    with secure(ft, server(expired)) as service:
        refused(ft, service, tmp_path / "ca.pem", "certificate has expired", "SSL_CERT_FILE")


def test_the_stricter_check_of_python_3_13_is_explained(ft: Runner, tmp_path: Path) -> None:
    """A private CA without a key usage, as many companies have: good up to 3.12, refused from 3.13
    on.
    """
    key = ec.generate_private_key(ec.SECP256R1())  # of both

    def certificate(name: str, extension: x509.ExtensionType) -> bytes:
        subject, issuer = (
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, n)]) for n in (name, "Our CA")
        )
        serial = x509.random_serial_number()
        return (
            x509.CertificateBuilder(issuer, subject, key.public_key(), serial, NOW - DAY, NOW + DAY)
            .add_extension(extension, critical=True)
            .sign(key, hashes.SHA256())
            .public_bytes(serialization.Encoding.PEM)
        )

    ca_file, chain = tmp_path / "ca.pem", tmp_path / "chain.pem"
    ca_file.write_bytes(certificate("Our CA", x509.BasicConstraints(ca=True, path_length=None)))
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    chain.write_bytes(
        certificate("ft", x509.SubjectAlternativeName([x509.DNSName("localhost")])) + private
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain)
    strict = (
        "import ssl, sys; sys.exit(bool(ssl.create_default_context().verify_flags & "
        "ssl.VERIFY_X509_STRICT))"
    )
    with secure(ft, context) as service:
        url = service.api_url.replace("127.0.0.1", "localhost")
        result = ft("me", "--base-url", url, env={"SSL_CERT_FILE": str(ca_file)})
    if subprocess.run([PYTHON, "-c", strict]).returncode:
        assert (
            result.code == 3
            and "hint: Python 3.13 checks private CAs more strictly" in result.stderr
        )
    else:
        assert result.code == 0


def test_a_server_that_speaks_no_tls(ft: Runner) -> None:
    result = jumping_clock.run(
        ft, "me", "--base-url", ft.sandbox.api_url.replace("http:", "https:"), check=3
    )
    assert "error: cannot connect to " in result.stderr


def test_a_track_is_never_followed_from_https_to_http(ft: Runner, tls: Tls, tmp_path: Path) -> None:
    env = {"SSL_CERT_FILE": str(tls.ca_file)}
    with secure(ft, tls.context) as service:
        service.fault("redirect", origin="media", location=ft.sandbox.media_url + "/audio/x.mp3")
        assert "refusing to follow" in ft("download", ID, env=env, check=3).stderr
        service.fault(
            "record", path=f"/v1/generations/{ID}", audioUrl=ft.sandbox.media_url + "/audio/x.mp3"
        )
        assert "must be https" in ft("download", ID, env=env, check=3).stderr
    assert ft.sandbox.connections("media") == 0
    assert not list(tmp_path.glob("*.mp3"))


@pytest.mark.skipif(sys.platform == "win32", reason="a path that cannot be opened")
@pytest.mark.skipif(PYPY, reason="PyPy has no SSLKEYLOGFILE")
def test_what_fails_before_tls_begins_was_not_sent(ft: Runner, tls: Tls, tmp_path: Path) -> None:
    """Python opens SSLKEYLOGFILE when it makes its context."""
    env = {
        "SSL_CERT_FILE": str(tls.ca_file),
        "SSLKEYLOGFILE": str(tmp_path / "no" / "such" / "file"),
    }
    with secure(ft, tls.context) as service:
        result = jumping_clock.run(ft, "generate", "--no-wait", "a song", env=env, check=3)
        assert "cannot connect" in result.stderr and "may have been" not in result.stderr
        assert service.connections() == 0

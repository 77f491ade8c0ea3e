"""TLS: whom ft trusts, and what it says when it does not. Nothing is ever sent over a connection it
does not trust.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import re
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

ID = "07e8d430-2310-4c57-87a8-cf1e6db376f7"
DAY = datetime.timedelta(days=1)
NOW = datetime.datetime.now(datetime.timezone.utc)
USAGES = (  # of a certificate's key
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)


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

    Without a `ca_file` ft may connect twice: what the system's hashed directory does not contain
    may be in its bundle.
    """
    env = {"SSL_CERT_FILE": None if ca_file is None else str(ca_file)}
    result = ft("me", env=env, check=3)
    host = service.api_url.partition("//")[2]
    assert f"error: cannot connect to {host}: " in result.stderr
    assert all(part in result.stderr for part in why), result.stderr
    assert service.connections() in ([1, 2] if ca_file is None else [1])
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
        result = refused(ft, service, tmp_path / "ca.pem", "certificate has expired")
    assert re.search("hint: is the clock of this machine right. It shows 20..-", result.stderr)


def test_a_certificate_that_is_not_yet_valid(ft: Runner, tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    early = authority.issue_cert("127.0.0.1", not_before=NOW + DAY, not_after=NOW + 9 * DAY)
    with secure(ft, server(early)) as service:
        refused(ft, service, tmp_path / "ca.pem", "not yet valid", "hint: is the clock of this")


def test_no_ca_certificates_at_all(ft: Runner, tls: Tls, tmp_path: Path) -> None:
    """As in a small container."""
    changes = (
        "import ssl\n"
        "ssl.SSLContext.load_default_certs = lambda *arguments: None\n"
        "paths = ssl.get_default_verify_paths()._replace(cafile=None, capath={!r})\n"
        "ssl.get_default_verify_paths = lambda: paths\n"
    )
    (tmp_path / "certs").mkdir()
    for directory in (None, str(tmp_path / "certs")):
        with secure(ft, tls.context):
            result = jumping_clock.run(ft, "me", changes=changes.format(directory), check=3)
        assert "hint: this machine has no CA certificates" in result.stderr
        assert "ca-certificates" in result.stderr


def test_a_python_without_ssl(ft: Runner) -> None:
    changes = "sys.modules['_ssl'] = None\nsys.modules.pop('ssl', None)"
    result = jumping_clock.run(ft, "me", "--base-url", "https://127.0.0.1:9", changes=changes)
    assert result.code == 1 and "bug" not in result.stderr
    assert result.stderr.startswith("error: this Python lacks the module ssl: ")
    assert result.stderr.count("\n") == 2 and "another Python" in result.stderr


@pytest.mark.parametrize("name", ["urllib.request", "http.client", "email.parser", "json"])
def test_a_python_without_another_module(ft: Runner, name: str) -> None:
    """Wherever it is missed, it is what the message names."""
    changes = f"sys.modules.pop({name!r}, None)\nsys.modules[{name!r}] = None"
    result = jumping_clock.run(ft, "me", changes=changes, fresh=True)
    assert result.code == 1 and "bug" not in result.stderr
    assert result.stderr.startswith(f"error: this Python lacks the module {name}: ")


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
            result.code == 3 and "hint: Python 3.13 is stricter with private CAs" in result.stderr
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


# --- the hashed directory and the bundle ----------------------------------------------------------

# Replaces what Python was built to trust by default: a hashed directory and a bundle. Each use of
# the bundle adds a line to the file `parsed`.
DEFAULTS = """
import ssl
paths = ssl.get_default_verify_paths()
ssl.get_default_verify_paths = lambda: paths._replace(capath={directory!r})
def load_default_certs(context, purpose=None):
    context.load_verify_locations({bundle!r}, {directory!r})
    open({parsed!r}, "a").write("parsed\\n")
ssl.SSLContext.load_default_certs = load_default_certs
"""


ELSEWHERE = """
def find_elsewhere(find=ft.find_hashed_directory):
    here, sys.platform = sys.platform, {!r}
    try:
        return find()
    finally:
        sys.platform = here
ft.find_hashed_directory = find_elsewhere
"""


class Trust:
    """What a system trusts by default, as changes to a Python: `certs` and `bundle`."""

    def __init__(self, directory: Path) -> None:
        self.certs, self.bundle = directory / "certs", directory / "bundle.pem"
        self.parsed = directory / "parsed"
        self.certs.mkdir()
        self.strangers = [trustme.CA().cert_pem.bytes() for _ in range(2)]
        self.bundle.write_bytes(self.strangers[0])

    def add_hashed(self, pem: bytes, number: int = 0) -> None:
        """Add a certificate to the directory as `openssl rehash` does."""
        (self.certs / f"{subject_hash(pem)}.{number}").write_bytes(pem)

    def changes(self) -> str:
        places = {name: str(getattr(self, name)) for name in ("bundle", "parsed")}
        directory = str(self.certs) if self.certs.exists() else None
        return DEFAULTS.format(directory=directory, **places)

    @property
    def uses_of_the_bundle(self) -> int:
        return len(self.parsed.read_text().splitlines()) if self.parsed.exists() else 0


def subject_hash(pem: bytes) -> str:
    """Return the name that OpenSSL gives to a certificate's subject."""
    command = ["openssl", "x509", "-noout", "-subject_hash"]
    return (
        subprocess.run(command, input=pem, stdout=subprocess.PIPE, check=True)
        .stdout.decode()
        .strip()
    )


@pytest.fixture
def trust(tmp_path: Path) -> Trust:
    return Trust(tmp_path)


def download_with(ft: Runner, trust: Trust, service: Sandbox) -> None:
    """Download a track, which takes one connection to each origin once ft knows whom to trust."""
    jumping_clock.run(ft, "download", ID, "-o", "track.mp3", changes=trust.changes(), check=0)
    assert (ft.home / "track.mp3").read_bytes() == service.track(ID)
    assert service.connections("media") == 1


@pytest.mark.needs("openssl")
def test_the_hashed_directory_is_enough(ft: Runner, tls: Tls, trust: Trust) -> None:
    """And then nothing parses the bundle, which takes ten times as long."""
    trust.add_hashed(tls.ca_file.read_bytes())
    with secure(ft, tls.context) as service:
        download_with(ft, trust, service)
        assert service.connections() == 1
    assert trust.uses_of_the_bundle == 0


@pytest.mark.needs("openssl")
def test_the_bundle_contains_what_the_hashed_directory_lacks(
    ft: Runner, tls: Tls, trust: Trust
) -> None:
    """The first connection ends unused; from then on the bundle decides."""
    trust.add_hashed(trust.strangers[1])
    trust.bundle.write_bytes(trust.strangers[0] + tls.ca_file.read_bytes())
    with secure(ft, tls.context) as service:
        download_with(ft, trust, service)
        assert service.connections() == 2
    assert trust.uses_of_the_bundle == 1


@pytest.mark.needs("openssl")
def test_several_threads_may_find_the_hashed_directory_wanting(
    ft: Runner, tls: Tls, trust: Trust
) -> None:
    trust.add_hashed(trust.strangers[1])
    trust.bundle.write_bytes(tls.ca_file.read_bytes())
    with secure(ft, tls.context) as service:
        ids = [record["id"] for record in service.generations.values() if record["audioUrl"]][:12]
        jumping_clock.run(ft, "download", *ids, "-o", "here/", changes=trust.changes(), check=0)
        assert len(list((ft.home / "here").iterdir())) == len(ids)


@pytest.mark.needs("openssl")
@pytest.mark.parametrize("change", ["another key", "an earlier time"])
def test_an_outdated_issuer_in_the_hashed_directory_does_no_harm(
    ft: Runner, trust: Trust, change: str
) -> None:
    """The bundle has the newer certificate of the same CA. OpenSSL then does not complain about an
    unknown issuer, but about a signature or an old date.
    """
    key, newer_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    newer_key = newer_key if change == "another key" else key

    def certificate(
        subject: str, signer: ec.EllipticCurvePrivateKey, end: datetime.datetime, *names: str
    ) -> x509.Certificate:
        name, issuer = (
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, n)]) for n in (subject, "Our CA")
        )
        number = x509.random_serial_number()
        constraints = x509.BasicConstraints(ca=not names, path_length=None)
        usage = dict.fromkeys(USAGES, False)
        usage["digital_signature" if names else "key_cert_sign"] = True
        builder = (
            x509.CertificateBuilder(issuer, name, signer.public_key(), number, end - 9 * DAY, end)
            .add_extension(constraints, critical=True)
            .add_extension(x509.KeyUsage(**usage), critical=True)
        )
        if names:
            alternatives = [x509.IPAddress(ipaddress.ip_address(n)) for n in names]
            builder = builder.add_extension(
                x509.SubjectAlternativeName(alternatives), critical=False
            ).add_extension(x509.AuthorityKeyIdentifier(b"CA", None, None), critical=False)
        else:
            builder = builder.add_extension(x509.SubjectKeyIdentifier(b"CA"), critical=False)
        return builder.sign(signer, hashes.SHA256())

    old = certificate("Our CA", key, NOW + DAY if change == "another key" else NOW - DAY)
    new = certificate("Our CA", newer_key, NOW + DAY)
    leaf = certificate("ft", newer_key, NOW + DAY, "127.0.0.1")
    pem = serialization.Encoding.PEM
    trust.add_hashed(old.public_bytes(pem))
    trust.bundle.write_bytes(new.public_bytes(pem))
    chain = trust.bundle.with_name("chain.pem")
    private = newer_key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    chain.write_bytes(leaf.public_bytes(pem) + private)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain)
    with secure(ft, context) as service:
        everything = trust.changes() + "ft.find_hashed_directory = lambda: None\n"
        jumping_clock.run(ft, "me", changes=everything, check=0)
        jumping_clock.run(ft, "me", changes=trust.changes(), check=0)
        assert service.connections() == 3


@pytest.mark.needs("openssl")
def test_a_ca_in_neither_place_is_not_trusted(ft: Runner, tls: Tls, trust: Trust) -> None:
    trust.add_hashed(trust.strangers[1])
    with secure(ft, tls.context) as service:
        for argv in (["me"], ["generate", "--no-wait", "a song"]):
            result = jumping_clock.run(ft, *argv, changes=trust.changes(), check=3)
            assert "its certificate is not trusted: unable to get local issuer" in result.stderr
            assert "hint: behind a company's proxy or CA, set SSL_CERT_FILE" in result.stderr
            assert "may have been" not in result.stderr and result.stderr.count("error: ") == 1
        assert service.requests == []
        assert service.connections() == 4
    assert jumping_clock.slept(ft) == []


@pytest.mark.parametrize("content", ["unhashed", "almost", "empty", "missing"])
def test_a_directory_that_is_not_hashed_is_of_no_use(
    ft: Runner, tls: Tls, trust: Trust, content: str
) -> None:
    """As on Alpine and older Fedoras: the bundle alone, at the first attempt."""
    pem = tls.ca_file.read_bytes()
    if content == "unhashed":
        (trust.certs / "Our_CA.pem").write_bytes(pem)
    elif content == "almost":
        for name in ("0123456.0", "01234567.pem", "01234567.r0", "0123456g.0", "001234567.0"):
            (trust.certs / name).write_bytes(pem)
    elif content == "missing":
        trust.certs.rmdir()
    trust.bundle.write_bytes(pem)
    with secure(ft, tls.context) as service:
        download_with(ft, trust, service)
        assert service.connections() == 1
    assert trust.uses_of_the_bundle == 1


@pytest.mark.needs("openssl")
@pytest.mark.parametrize("platform", ["win32", "darwin"])
def test_windows_and_macos_are_left_as_they_were(
    ft: Runner, tls: Tls, trust: Trust, platform: str
) -> None:
    """Windows has a store of its own, and macOS's Pythons differ in what they trust.

    Only the choice is made as on such a platform: the rest of ft really runs on this one.
    """
    trust.add_hashed(trust.strangers[1])
    trust.bundle.write_bytes(tls.ca_file.read_bytes())
    with secure(ft, tls.context) as service:
        changes = trust.changes() + ELSEWHERE.format(platform)
        jumping_clock.run(ft, "me", changes=changes, check=0)
        assert service.connections() == 1


@pytest.mark.needs("openssl")
@pytest.mark.parametrize("name", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
@pytest.mark.parametrize("is_empty", [False, True])
def test_the_variables_come_before_the_hashed_directory(
    ft: Runner, tls: Tls, trust: Trust, name: str, is_empty: bool
) -> None:
    """Whatever they say: OpenSSL itself heeds even an empty one."""
    trust.add_hashed(trust.strangers[1])
    trust.bundle.write_bytes(tls.ca_file.read_bytes())
    value = "" if is_empty else str(tls.ca_file)
    with secure(ft, tls.context) as service:
        jumping_clock.run(ft, "me", changes=trust.changes(), env={name: value}, check=0)
        assert service.connections() == 1
    assert trust.uses_of_the_bundle == 1


IN_NAMESPACE = """
set -e
for pair in $BINDS; do mount --bind "${pair%%=*}" "${pair#*=}"; done
exec "$@"
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux's namespaces")
@pytest.mark.needs("openssl", "unshare")
@pytest.mark.parametrize("place", ["directory", "bundle", "neither"])
def test_the_systems_own_trust(ft: Runner, tls: Tls, trust: Trust, place: str) -> None:
    """The same without any change to Python: other files at the places where OpenSSL looks."""
    code = "import ssl; paths = ssl.get_default_verify_paths(); print(paths[3]); print(paths[5])"
    asked = subprocess.run([PYTHON, "-I", "-c", code], env={}, stdout=subprocess.PIPE, check=True)
    bundle, certs = (Path(line).resolve() for line in asked.stdout.decode().splitlines())
    if not bundle.is_file() or not certs.is_dir():
        pytest.skip(f"this Python trusts {bundle} and {certs}, which do not both exist")
    for path in sorted(certs.iterdir())[:20]:
        if re.fullmatch(r"[0-9a-f]{8}\.[0-9]+", path.name):
            (trust.certs / path.name).write_bytes(path.read_bytes())
    trust.add_hashed(trust.strangers[1])
    if place == "directory":
        trust.add_hashed(tls.ca_file.read_bytes())
    elif place == "bundle":
        trust.bundle.write_bytes(trust.strangers[0] + tls.ca_file.read_bytes())
    if certs in bundle.parents:
        inside = trust.certs / bundle.relative_to(certs)
        inside.write_bytes(trust.bundle.read_bytes())
        binds = f"{trust.certs}={certs}"
    else:
        binds = f"{trust.certs}={certs} {trust.bundle}={bundle}"
    isolated = ["unshare", "-rm", "sh", "-c", IN_NAMESPACE, "sh"]
    if subprocess.run([*isolated, "true"], env={**os.environ, "BINDS": binds}).returncode:
        pytest.skip("unshare may not mount here")
    with secure(ft, tls.context) as service:
        program = [*isolated, *ft.argv]
        result = ft.start("me", "--json", env={"BINDS": binds}, _program=program).finish()
        if place == "neither":
            assert result.code == 3 and "its certificate is not trusted: " in result.stderr
            assert service.requests == []
        else:
            assert result.json["data"]["email"] == "jane@example.com"
        assert service.connections() == (1 if place == "directory" else 2)


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
        path = env["SSLKEYLOGFILE"]
        assert f"SSLKEYLOGFILE names {path}: No such file or directory\n" in result.stderr
        assert "may have been" not in result.stderr and "trying again" not in result.stderr
        assert service.connections() == 0

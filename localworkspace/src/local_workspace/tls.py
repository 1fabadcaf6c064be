"""A certificate of the workspace's own for loopback: many clients speak nothing but https."""

from __future__ import annotations

import datetime
import os
import ssl
from dataclasses import dataclass
from pathlib import Path

from local_workspace.errors import WorkspaceError
from local_workspace.layout import write_private

_DAYS = 825  # the most that Apple's systems take
_RENEW_DAYS = 30


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """Files in PEM: the certificate, its key, and the usual authorities together with the certificate."""

    file: Path
    key: Path
    bundle: Path


def certificate(folder: Path) -> Certificate:
    """Return the certificate that is kept in `folder`, made if there is none or it ends soon.

    It is for `localhost`, 127.0.0.1 and ::1, and signed by itself. Raises WorkspaceError without
    `cryptography`.
    """
    try:
        from cryptography import x509
    except ModuleNotFoundError:
        raise WorkspaceError(
            "--tls needs the package 'cryptography', which is not installed: "
            "pip install 'rlm-local-workspace[tls]'"
        ) from None
    made = Certificate(
        file=folder / "certificate.pem", key=folder / "certificate.key", bundle=folder / "ca-bundle.pem"
    )
    soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=_RENEW_DAYS)
    try:
        kept = x509.load_pem_x509_certificate(made.file.read_bytes()).not_valid_after_utc > soon
    except (OSError, ValueError):
        kept = False
    if not (kept and made.key.exists()):
        text, key = _make()
        write_private(made.key, key)
        write_private(made.file, text)
    write_private(made.bundle, _authorities() + made.file.read_text())
    return made


def _authorities() -> str:
    """Return the certificates that clients on this machine trust as a rule."""
    import certifi

    found = os.environ.get("SSL_CERT_FILE") or ssl.get_default_verify_paths().cafile or certifi.where()
    return Path(found).read_text(encoding="utf-8").rstrip() + "\n"


def _make() -> tuple[str, str]:
    """Return a new certificate and its key."""
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "local workspace")])
    addresses = [x509.IPAddress(ipaddress.ip_address(each)) for each in ("127.0.0.1", "::1")]
    usages = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "crl_sign",
         "encipher_only", "decipher_only"), False
    )  # fmt: skip
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    now = datetime.datetime.now(datetime.UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=_DAYS))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost"), *addresses]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.KeyUsage(digital_signature=True, key_cert_sign=True, **usages), critical=True)
        .add_extension(x509.ExtendedKeyUsage([x509.oid.ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(identifier, critical=False)
        .add_extension(authority, critical=False)
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return built.public_bytes(serialization.Encoding.PEM).decode(), secret.decode()

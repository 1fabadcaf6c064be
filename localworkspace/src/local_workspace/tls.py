"""A certificate of the workspace's own for loopback: many clients speak nothing but https."""

from __future__ import annotations

import datetime
import os
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from local_workspace.errors import WorkspaceError
from local_workspace.layout import write_private

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

_DAYS = 825  # the most that Apple's systems take
_RENEW_DAYS = 30


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """Files in PEM: the authority that clients trust, also together with the usual ones (`bundle`); what the
    server shows (`served`), and its key. Clients in Rust take no authority's own certificate from a server.
    """

    file: Path
    served: Path
    key: Path
    bundle: Path


def certificate(folder: Path) -> Certificate:
    """Return the certificate that is kept in `folder`, made if there is none or it ends soon.

    It is for `localhost`, 127.0.0.1 and ::1, by an authority of its own, whose key nobody keeps. Raises
    WorkspaceError without `cryptography`.
    """
    try:
        import cryptography.x509  # noqa: F401 - whether it is there
    except ModuleNotFoundError:
        raise WorkspaceError(
            "--tls needs the package 'cryptography', which is not installed: "
            "pip install 'rlm-local-workspace[tls]'"
        ) from None
    made = Certificate(
        file=folder / "certificate.pem",
        served=folder / "server.pem",
        key=folder / "certificate.key",
        bundle=folder / "ca-bundle.pem",
    )
    if not (_lasts(made) and made.key.exists()):
        authority, text, key = _make()
        # In this order a death between two of them leaves a pair that does not fit, which is made anew.
        write_private(made.served, text)
        write_private(made.key, key)
        write_private(made.file, authority)
    write_private(made.bundle, _authorities() + made.file.read_text())
    return made


def _lasts(kept: Certificate) -> bool:
    """Tell whether there are certificates that fit each other and do not end soon."""
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature

    soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=_RENEW_DAYS)
    try:
        authority, served = (x509.load_pem_x509_certificate(p.read_bytes()) for p in (kept.file, kept.served))
        served.verify_directly_issued_by(authority)
    except (OSError, ValueError, TypeError, InvalidSignature):
        return False
    return min(authority.not_valid_after_utc, served.not_valid_after_utc) > soon


def _authorities() -> str:
    """Return the certificates that clients on this machine trust as a rule."""
    import certifi

    found = os.environ.get("SSL_CERT_FILE") or ssl.get_default_verify_paths().cafile or certifi.where()
    return Path(found).read_text(encoding="utf-8").rstrip() + "\n"


def _make() -> tuple[str, str, str]:
    """Return a new authority's certificate, one that it has issued, and the latter's key."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    root, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    authority, issued = _certificate(root, root, ca=True), _certificate(key, root, ca=False)
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return authority, issued, secret.decode()


def _certificate(key: EllipticCurvePrivateKey, issuer: EllipticCurvePrivateKey, *, ca: bool) -> str:
    """Return a certificate for a key: of the authority itself, or of the server."""
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization

    authority = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "local workspace authority")])
    name = authority if ca else x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "local workspace")])
    usages = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "crl_sign",
         "encipher_only", "decipher_only"), False
    )  # fmt: skip
    issuer_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.public_key())
    subject_id = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(authority)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=_DAYS))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=0 if ca else None), critical=True)
        .add_extension(x509.KeyUsage(digital_signature=not ca, key_cert_sign=ca, **usages), critical=True)
        .add_extension(subject_id, critical=False)
        .add_extension(issuer_id, critical=False)
    )
    if not ca:
        addresses = [x509.IPAddress(ipaddress.ip_address(each)) for each in ("127.0.0.1", "::1")]
        names = x509.SubjectAlternativeName([x509.DNSName("localhost"), *addresses])
        usage = x509.ExtendedKeyUsage([x509.oid.ExtendedKeyUsageOID.SERVER_AUTH])
        builder = builder.add_extension(names, critical=False).add_extension(usage, critical=False)
    return builder.sign(issuer, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()

"""Keys for the connections between the nodes of one allocation, made by the launcher and known to nobody else.

One certificate that signs itself, with its key, for both ends: whoever has them belongs to the allocation. They are
passed on through pipes and memory, and never stand in arguments, environments or files.
"""

import datetime
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

# The clock of a node may be wrong, and by this much at most.
CLOCKS_APART = datetime.timedelta(days=1)


@dataclass(frozen=True, slots=True)
class NodeKeys:
    """PEM texts."""

    certificate: str
    key: str


def make_node_keys(now: datetime.datetime, wall_time_sec: float) -> NodeKeys:
    """Keys that hold from a day before now until a day after the wall time."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "nodes of an allocation")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCKS_APART)
        .not_valid_after(now + datetime.timedelta(seconds=wall_time_sec) + CLOCKS_APART)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return NodeKeys(certificate.public_bytes(pem).decode(), private.decode())

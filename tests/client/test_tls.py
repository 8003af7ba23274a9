"""HTTPS: the certificate is checked; one that is not trusted ends the call at once, SSL_CERT_FILE makes it trusted."""

from __future__ import annotations

import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from balsam.client import errors
from balsam.client.settings import ClientSettings
from balsam.client.transport import Transport
from balsam.wire.base import Deleted
from tests.client.loopback import Script, events, reply, serving


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    directory = tmp_path_factory.mktemp("tls")
    key, cert = directory / "key.pem", directory / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", cert, "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"],
        check=True,
        capture_output=True,
    )  # fmt: skip
    return cert, key


@pytest.fixture
def secure(certificate: tuple[Path, Path]) -> Iterator[Script]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    script = Script(reply(200, {"deleted": 1, "skipped": [], "reason": ""}))
    with serving(script, tls=context):
        yield script


def test_an_untrusted_certificate_ends_the_call_at_once(secure: Script) -> None:
    transport = Transport(ClientSettings(secure.url, "secret"))
    start = time.monotonic()
    with pytest.raises(errors.ServiceUnavailable, match=r"certificate verify failed"):
        transport.request("GET", "/x", reply=Deleted)
    assert time.monotonic() - start < 5
    assert secure.received == []


def test_a_certificate_of_ssl_cert_file_is_trusted(
    secure: Script, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    transport = Transport(ClientSettings(secure.url, "secret"))
    assert transport.request("GET", "/x", reply=Deleted).deleted == 1
    secure.answers = [events("event: hello\ndata: {}\n\n")]
    stream = transport.stream("/s")
    assert next(stream).name == "hello"
    stream.close()
    transport.close()

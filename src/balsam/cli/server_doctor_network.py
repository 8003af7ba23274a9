"""The part of `balsam server doctor` about how the service is reached: certificate, proxy, public URL, logins.

The OpenID providers of the login file are asked, and nobody else.
"""

import asyncio
import contextlib
import ipaddress
import os
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from balsam.cli.findings import Finding
from balsam.server.settings import ServerSettings, SettingsError, is_loopback

if TYPE_CHECKING:
    from balsam.server.auth.outbound import Outbound
    from balsam.server.auth.providers import LoginSettings, ProviderSettings

TRUSTED = "FORWARDED_ALLOW_IPS"  # read by uvicorn
EXPIRES_SOON = timedelta(days=14)
_HANDSHAKE_STEPS = 10


def certificate(settings: ServerSettings) -> Iterator[Finding]:
    """Whether --tls-cert and --tls-key belong together and are of use now."""
    cert, key = settings.tls_cert, settings.tls_key
    if cert is None or key is None or not cert.is_file() or not key.is_file():
        return  # nothing to look at, or `settings` has said so
    try:
        ends = _end_of(cert, key)
    except ssl.SSLCertVerificationError as error:
        yield Finding("certificate", "problem", f"{cert}: {error.verify_message}", "get a new one, then restart")
        return
    except (OSError, ValueError) as error:
        told = f"{cert} and {key} can't be used: {error}"
        yield Finding("certificate", "problem", told, "give the certificate (PEM, chain after it) and its own key")
        return
    said = f"{cert} is good until {ends:%Y-%m-%d}"
    if ends - datetime.now(UTC) < EXPIRES_SOON:
        yield Finding("certificate", "warning", said, "renew it, then restart the service")
    else:
        yield Finding("certificate", "ok", said)


def _end_of(cert: Path, key: Path, name: str = "") -> datetime:
    """When the certificate ends. Raises SSLCertVerificationError when it is of no use now, or not for `name`."""
    theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    theirs.load_cert_chain(cert, key, password="")  # so that nobody is asked for one
    (to_us, to_them), ours = (ssl.MemoryBIO(), ssl.MemoryBIO()), trusting(cert, check_name=bool(name))
    client = ours.wrap_bio(to_us, to_them, server_hostname=name or None)
    server = theirs.wrap_bio(to_them, to_us, server_side=True)
    for _ in range(_HANDSHAKE_STEPS):
        with contextlib.suppress(ssl.SSLWantReadError):
            client.do_handshake()
            break
        with contextlib.suppress(ssl.SSLWantReadError):
            server.do_handshake()
    found = client.getpeercert() or {}
    return datetime.fromtimestamp(ssl.cert_time_to_seconds(str(found["notAfter"])), UTC)


def trusting(cert: Path, *, check_name: bool = False) -> ssl.SSLContext:
    """For talking with the holder of this very certificate, whoever signed it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = check_name
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(cafile=cert)
    return context


def proxy(settings: ServerSettings) -> Iterator[Finding]:
    """Who is believed to say from where a request comes, and who else can reach the service."""
    given = os.environ.get(TRUSTED, "")
    if not settings.behind_proxy:
        if given:
            told = f"{TRUSTED} is set, and without --behind-proxy no forwarded header is believed"
            yield Finding("proxy", "warning", told, "give --behind-proxy, or leave the variable out")
        return
    trusted = [one.strip() for one in given.split(",") if one.strip()]
    where = f"{settings.host} port {settings.port}"
    for name in (one for one in trusted if one != "*" and not _is_address(one)):
        told = f"{name} in {TRUSTED} is neither an address nor a network: a proxy is not recognised by its name"
        yield Finding("proxy", "problem", told, "write its address, as in 10.0.0.5 or 10.0.0.0/24")
    if "*" in trusted and not is_loopback(settings.host):
        told = f"whoever reaches {where} may say from which address he comes: limits and the audit log believe it"
        yield Finding("proxy", "warning", told, f"set {TRUSTED} to the addresses of the proxies")
    elif not trusted and not is_loopback(settings.host):
        told = (
            f"other machines reach {where} in plain HTTP past the proxy, and only a proxy on this machine is believed"
        )
        fix = f"listen on 127.0.0.1; for a proxy on another machine, set {TRUSTED} to its address and close the port"
        yield Finding("proxy", "warning", told, f"{fix} to others")
    else:
        yield Finding("proxy", "ok", f"forwarded headers are believed from {', '.join(trusted) or '127.0.0.1'}")


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_network(text)
    except ValueError:
        return False
    return True


def logins(settings: ServerSettings) -> Iterator[Finding]:
    """The login file, the address that it gives to browsers, and each of its providers."""
    from balsam.server.auth.providers import load

    if settings.login_file is None:
        return
    try:
        found = load(settings.login_file)
    except (SettingsError, OSError) as error:
        yield Finding("logins", "problem", str(error), "correct the file; the service does not start with it")
        return
    yield _public_url(settings, found.public_url)
    yield from asyncio.run(_asked(found))


def _public_url(settings: ServerSettings, url: str) -> Finding:
    parts = urlsplit(url)
    name, secure = parts.hostname or "", parts.scheme == "https"
    port = parts.port or (443 if secure else 80)
    fix = f"correct public_url in {settings.login_file}, or how the service is started"
    if is_loopback(name) and not is_loopback(settings.host):
        return Finding("public URL", "problem", f"{url} sends people to their own machines", fix)
    if secure and settings.tls_cert is None and not settings.behind_proxy:
        told = f"{url} is https, and the service speaks plain HTTP and takes nobody in front of it for a proxy"
        return Finding("public URL", "problem", told, "give --behind-proxy, or --tls-cert and --tls-key")
    if settings.tls_cert is not None and not secure:
        return Finding("public URL", "problem", f"{url} is plain HTTP, and the service speaks https", fix)
    if not settings.behind_proxy and settings.port not in (0, port):
        told = f"{url} is port {port}, and the service listens on {settings.port}"
        return Finding("public URL", "warning", told, f"{fix}; leave it when something forwards the port")
    if settings.tls_cert is not None and settings.tls_key is not None:
        try:
            _end_of(settings.tls_cert, settings.tls_key, name)
        except ssl.SSLCertVerificationError as error:
            return Finding(
                "public URL", "problem", f"{url}: {error.verify_message}", f"{fix}, or get a certificate for it"
            )
        except OSError:
            pass  # `certificate` has said what is wrong
    return Finding("public URL", "ok", url)


async def _asked(found: "LoginSettings") -> list[Finding]:
    from balsam.server.auth.outbound import Outbound

    outbound = Outbound()
    try:
        return list(await asyncio.gather(*(_provider(one, outbound) for one in found.providers)))
    finally:
        await outbound.close()


async def _provider(settings: "ProviderSettings", outbound: "Outbound") -> Finding:
    from balsam.domain.clock import SystemClock
    from balsam.server.auth.oidc import Provider
    from balsam.server.auth.outbound import ProviderAway

    check = f"provider {settings.name}"
    try:
        await Provider(settings, "", outbound, SystemClock()).check()
    except ProviderAway as error:
        fix = "nobody can log in there now; tokens that exist go on. Is the issuer right, and reachable from here?"
        return Finding(check, "problem", str(error), fix)
    return Finding(check, "ok", f"{settings.issuer} describes itself and shows its keys")

"""The OpenID providers a service trusts, from a file that its administrator writes (`--login-file`, 0600).

Read once at the start by `run.serve`. An issuer comes from here and from nowhere else, and each provider has to say who
may come in.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from balsam.server.auth.local import read_private
from balsam.server.settings import SettingsError, is_loopback

# Globus confirms the identity itself: its user name is an address at the organisation that was logged in at.
PRESETS: dict[str, dict[str, Any]] = {
    "globus": {
        "issuer": "https://auth.globus.org",
        "title": "Globus",
        "name_claim": "preferred_username",
        "domain_claim": "preferred_username",
    },
}
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,30}")
_DOMAIN = re.compile(r"[^@*\s/]+")
_TEXTS = ("issuer", "client_id", "client_secret", "title", "name_claim", "domain_claim", "groups_claim")
_LISTS = ("allow_domains", "allow_groups", "scopes")
_KNOWN = {"name", "preset", "allow_anybody", *_TEXTS, *_LISTS}


@dataclass(frozen=True, slots=True)
class ProviderSettings:
    """One provider. With several allow-lists it is enough to be on one of them."""

    name: str
    issuer: str
    client_id: str
    client_secret: str = ""  # empty: a public client, PKCE alone
    title: str = ""
    name_claim: str = "preferred_username"
    domain_claim: str = "email"
    groups_claim: str = "groups"
    scopes: tuple[str, ...] = ("openid", "email", "profile")
    allow_domains: tuple[str, ...] = ()
    allow_groups: tuple[str, ...] = ()
    allow_anybody: bool = False

    def why_not(self, claims: Mapping[str, Any]) -> str:
        """Empty when this person may come in, else why not."""
        if self.allow_anybody:
            return ""
        groups = claims.get(self.groups_claim)
        if isinstance(groups, list) and set(self.allow_groups) & {group for group in groups if isinstance(group, str)}:
            return ""
        address = claims.get(self.domain_claim)
        confirmed = self.domain_claim != "email" or claims.get("email_verified") is True
        if confirmed and isinstance(address, str) and address.rpartition("@")[2].lower() in self.allow_domains:
            return ""
        return f"this service lets in certain groups or domains of {self.title or self.name}, and you are in none"


@dataclass(frozen=True, slots=True)
class LoginSettings:
    """`public_url` is where browsers reach the service: providers send people back to it."""

    public_url: str
    providers: tuple[ProviderSettings, ...]


def load(path: Path) -> LoginSettings:
    """Read the file. Raises SettingsError that says what is wrong in it, and when others can read it."""
    try:
        text = read_private(path, f"have the providers give out new secrets and make it yours alone: chmod 600 {path}")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"--login-file {path} can't be read: {error}") from None
    if text is None:
        raise SettingsError(f"--login-file {path}: there is no such file")
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise SettingsError(f"{path}: {error}") from None
    if not isinstance(content, dict) or not isinstance(content.get("providers"), list):
        raise SettingsError(f"{path}: it must have public_url and a list of providers")
    unknown = content.keys() - {"public_url", "providers"}
    if unknown:
        raise SettingsError(f"{path}: unknown: {', '.join(sorted(map(str, unknown)))}")
    url = _address(str(content.get("public_url", "")), f"{path}: public_url")
    providers = tuple(_provider(entry, f"{path}: providers[{n}]") for n, entry in enumerate(content["providers"]))
    names = [provider.name for provider in providers]
    if len(set(names)) < len(names):
        raise SettingsError(f"{path}: two providers have the same name")
    return LoginSettings(url, providers)


def _provider(entry: object, where: str) -> ProviderSettings:
    if not isinstance(entry, dict):
        raise SettingsError(f"{where} must be a mapping")
    unknown = entry.keys() - _KNOWN
    if unknown:
        raise SettingsError(f"{where}: unknown: {', '.join(sorted(map(str, unknown)))}")
    preset = entry.get("preset")
    if preset is not None and preset not in PRESETS:
        raise SettingsError(f"{where}: there is no preset {preset!r}; there are: {', '.join(PRESETS)}")
    fields = {**PRESETS.get(str(preset), {}), "name": preset, **entry}
    fields.pop("preset", None)
    for name in _LISTS:
        if name in fields:
            fields[name] = _texts(fields[name], f"{where}.{name}")
    for name in ("name", "issuer", "client_id"):
        if not isinstance(fields.get(name), str) or not fields[name]:
            raise SettingsError(f"{where}: {name} is missing")
    if not all(isinstance(fields.get(name, ""), str) for name in _TEXTS):
        raise SettingsError(f"{where}: {', '.join(_TEXTS)} are texts")
    if not _NAME.fullmatch(fields["name"]):
        raise SettingsError(f"{where}: name {fields['name']!r} must be small letters, digits and dashes")
    fields["issuer"] = _address(fields["issuer"], f"{where}.issuer")
    fields |= _allowed(fields, where)
    made = ProviderSettings(**fields)
    if not made.allow_anybody and not made.allow_domains and not made.allow_groups:
        raise SettingsError(f"{where}: say who may log in: allow_domains, allow_groups, or allow_anybody: true")
    return made


def _allowed(fields: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Of who may come in, what has to be of a kind."""
    anybody, domains = fields.get("allow_anybody", False), fields.get("allow_domains", ())
    if not isinstance(anybody, bool):
        raise SettingsError(f"{where}: allow_anybody is true or false, not {anybody!r}")
    for domain in domains:
        if not _DOMAIN.fullmatch(domain):  # it would let nobody in, and nobody would know why
            raise SettingsError(f"{where}.allow_domains: {domain!r} is no domain, such as example.org")
    return {"allow_domains": tuple(domain.lower() for domain in domains)}


def _texts(value: object, where: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(one, str) and one for one in value):
        raise SettingsError(f"{where} must be a list of texts")
    return tuple(value)


def _address(url: str, where: str) -> str:
    parts = urlsplit(url)
    clear = parts.scheme == "http" and is_loopback(parts.hostname or "")
    if not parts.hostname or not (parts.scheme == "https" or clear) or parts.query or parts.fragment:
        raise SettingsError(f"{where} must be an https address, not {url!r}")
    return url.rstrip("/")

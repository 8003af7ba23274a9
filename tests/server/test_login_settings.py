"""The file of OpenID providers: several at once, who is let in by each, presets, and what is said of a wrong file."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from balsam.server.auth.providers import ProviderSettings, load
from balsam.server.settings import SettingsError
from balsam.server.store.memory import MemoryStore
from balsam.server.store.protocol import Tx
from balsam.server.usecases import logins

NOW = datetime(2030, 1, 1, tzinfo=UTC)
URL = "https://balsam.example"
LAB: dict[str, Any] = {
    "name": "lab",
    "issuer": "https://login.lab.example/",
    "client_id": "balsam",
    "allow_domains": ["Lab.Example"],
}


def written(path: Path, *providers: Any, **more: Any) -> Path:
    path = path / "login.yml"
    path.touch(0o600)
    path.write_text(yaml.safe_dump({"public_url": URL, "providers": list(providers), **more}))
    return path


def test_several_providers_each_with_rules_of_its_own(tmp_path: Path) -> None:
    globus = {"preset": "globus", "client_id": "abc", "allow_domains": ["anl.gov"]}
    beam = LAB | {"name": "beam", "allow_groups": ["staff"], "groups_claim": "roles", "scopes": ["openid"]}
    found = load(written(tmp_path, LAB, globus, beam))
    assert found.public_url == URL
    assert [(one.name, one.issuer) for one in found.providers] == [
        ("lab", "https://login.lab.example"),
        ("globus", "https://auth.globus.org"),
        ("beam", "https://login.lab.example"),
    ]
    lab, globus_auth, _ = found.providers
    assert lab.allow_domains == ("lab.example",) and lab.client_secret == ""
    assert (globus_auth.title, globus_auth.name_claim, globus_auth.domain_claim) == (
        "Globus",
        *["preferred_username"] * 2,
    )


def provider(**given: Any) -> ProviderSettings:
    return ProviderSettings("lab", "https://login.lab.example", "balsam", **given)


OF_LAB = {"email": "ann@Lab.Example", "email_verified": True}
BY_NAME = {"domain_claim": "preferred_username", "allow_domains": ("anl.gov",)}


@pytest.mark.parametrize(
    ("rules", "claims", "comes_in"),
    [
        ({"allow_domains": ("lab.example",)}, OF_LAB, True),
        ({"allow_domains": ("lab.example",)}, OF_LAB | {"email_verified": False}, False),
        ({"allow_domains": ("lab.example",)}, OF_LAB | {"email_verified": "true"}, False),
        ({"allow_domains": ("lab.example",)}, {"email": "ann@lab.example"}, False),
        ({"allow_domains": ("lab.example",)}, OF_LAB | {"email": "ann@evil-lab.example"}, False),
        ({"allow_domains": ("lab.example",)}, OF_LAB | {"email": "ann@lab.example@evil.example"}, False),
        ({"allow_domains": ("lab.example",)}, OF_LAB | {"email": "ann@sub.lab.example"}, False),
        ({"allow_domains": ("lab.example",)}, OF_LAB | {"email": ["ann@lab.example"]}, False),
        ({"allow_domains": ("lab.example",)}, {}, False),
        ({"allow_groups": ("staff",)}, {"groups": ["guests", "staff"]}, True),
        ({"allow_groups": ("staff",)}, {"groups": "staff"}, False),
        ({"allow_groups": ("staff",)}, {"groups": [["staff"], {"staff": 1}]}, False),
        ({"allow_groups": ("staff",), "groups_claim": "roles"}, {"groups": ["staff"]}, False),
        ({"allow_groups": ("staff",), "allow_domains": ("lab.example",)}, OF_LAB, True),
        ({"allow_groups": ("staff",), "allow_domains": ("lab.example",)}, {"groups": ["staff"]}, True),
        (BY_NAME, {"preferred_username": "ann@anl.gov"}, True),
        (BY_NAME, {"preferred_username": "ann@gmail.com", **OF_LAB}, False),
        ({"allow_anybody": True}, {}, True),
        ({}, OF_LAB, False),
    ],
)
def test_who_is_let_in(rules: dict[str, Any], claims: dict[str, Any], comes_in: bool) -> None:
    assert (provider(**rules).why_not(claims) == "") is comes_in


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ("lab", "providers[0] must be a mapping"),
        (LAB | {"allow_domain": ["x"]}, "providers[0]: unknown: allow_domain"),
        (LAB | {"preset": "gobus"}, "there is no preset 'gobus'; there are: globus"),
        (LAB | {"client_id": ""}, "client_id is missing"),
        (LAB | {"client_id": 7}, "client_id is missing"),
        (LAB | {"name": "The Lab"}, "small letters, digits and dashes"),
        (LAB | {"title": 7}, "are texts"),
        (LAB | {"allow_domains": "lab.example"}, "providers[0].allow_domains must be a list of texts"),
        (LAB | {"allow_domains": []}, "say who may log in"),
        (LAB | {"allow_domains": ["@lab.example"]}, "allow_domains: '@lab.example' is no domain, such as example.org"),
        (LAB | {"allow_domains": ["*.lab.example"]}, "'*.lab.example' is no domain"),
        (LAB | {"allow_domains": [], "allow_anybody": False}, "say who may log in"),
        (LAB | {"allow_domains": [], "allow_anybody": "yes"}, "allow_anybody is true or false, not 'yes'"),
        (LAB | {"allow_anybody": "no"}, "allow_anybody is true or false, not 'no'"),
        (LAB | {"allow_anybody": 1}, "allow_anybody is true or false, not 1"),
        (LAB | {"issuer": "http://login.lab.example"}, "providers[0].issuer must be an https address"),
        (LAB | {"issuer": "https://login.lab.example?x=1"}, "must be an https address"),
        (LAB | {"issuer": "login.lab.example"}, "must be an https address"),
    ],
)
def test_a_wrong_provider_is_named_with_its_place(entry: Any, told: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as refused:
        load(written(tmp_path, entry))
    assert told in str(refused.value) and "login.yml" in str(refused.value)


def test_a_wrong_file_is_said_with_what_to_do(tmp_path: Path) -> None:
    good = written(tmp_path, LAB, LAB)
    with pytest.raises(SettingsError, match="two providers have the same name"):
        load(good)
    for content, told in (
        ("[", "login.yml: "),
        ("providers: 3", "public_url and a list of providers"),
        ("{providers: [], public_url: 'https://x', provider: []}", "unknown: provider"),
        ("{providers: [], public_url: 'http://balsam.example'}", "public_url must be an https address"),
    ):
        good.write_text(content)
        with pytest.raises(SettingsError, match=told):
            load(good)
    good.write_bytes(b"\xff\xfe")
    (tmp_path / "link.yml").symlink_to(good)
    for path, told in (
        (good, "can't be read"),
        (tmp_path / "link.yml", "can't be read"),
        (tmp_path / "none", "no such file"),
    ):
        with pytest.raises(SettingsError, match=told):
            load(path)
    good.chmod(0o644)
    with pytest.raises(SettingsError, match=f"not secret any more; have the providers .*: chmod 600 {good}"):
        load(good)


def test_people_of_one_subject_or_name_at_two_providers_are_two(tmp_path: Path) -> None:
    """A provider says who its own people are, and nothing of another one's."""
    store = MemoryStore()

    def comes_in(provider: str, issuer: str, subject: str, name: str) -> str:
        def use(tx: Tx) -> str:
            code = f"{provider} {subject} {name}"
            claim = logins.Claim("browser", provider, code, "nonce", "verifier")
            logins.leave(tx, claim, "/ui", "127.0.0.1", NOW)
            login_id = logins.left(tx, code, "browser", NOW).id
            return logins.arrive(tx, login_id, issuer, subject, name, f"blsm_user_{code}", NOW, NOW).username

        return store.write_sync(use)

    assert comes_in("lab", "https://lab.example", "7", "ann") == "ann"
    assert comes_in("beam", "https://beam.example", "7", "carl") == "carl"
    assert comes_in("beam", "https://beam.example", "8", "ann") == "ann@beam"
    assert comes_in("lab", "https://lab.example", "7", "new name") == "ann"

"""T5: what a provider says of a person is believed only when it signed it, for this client, for this login, now.

The rest of a login is tested against a certified provider (test_oidc), which sends no forged tokens.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, OctKey

from balsam.server.auth.oidc import LoginRefused, Provider
from balsam.server.auth.outbound import Outbound
from balsam.server.auth.providers import ProviderSettings
from balsam.testing.clock import FakeClock

ISSUER, CLIENT, NONCE = "https://login.lab.example", "balsam", "n-1"
KEY = ECKey.generate_key("P-256", {"kid": "1"})
CLOCK = FakeClock()
NOW = int(CLOCK.now().timestamp())
GOOD = {"iss": ISSUER, "aud": CLIENT, "sub": "ann", "iat": NOW, "exp": NOW + 300, "nonce": NONCE}


class Answers(Outbound):
    """A provider that describes itself, shows its key, and hands out this token."""

    def __init__(self, id_token: str, **says: Any) -> None:
        self._id_token = id_token
        self._says = says
        self.asked = 0

    async def get_json(self, url: str) -> dict[str, Any]:
        if url.endswith("/keys"):
            return {"keys": [KEY.as_dict(private=False)]}
        places = ("authorization_endpoint", "token_endpoint")
        return {"issuer": ISSUER, "jwks_uri": f"{ISSUER}/keys", **dict.fromkeys(places, f"{ISSUER}/x"), **self._says}

    async def post_form(self, url: str, form: Mapping[str, str], headers: Mapping[str, str]) -> dict[str, Any]:
        self.asked += 1
        return {"id_token": self._id_token}


def identified(id_token: str) -> str:
    return came_back(Answers(id_token), "")


def came_back(answers: Answers, issuer: str) -> str:
    settings = ProviderSettings("lab", ISSUER, CLIENT, allow_anybody=True)
    provider = Provider(settings, "https://balsam.example/login/callback", answers, CLOCK)
    return asyncio.run(provider.identify("code", issuer, NONCE, "verifier")).subject


def signed(**claims: Any) -> str:
    given = {name: value for name, value in {**GOOD, **claims}.items() if value is not None}
    return jwt.encode({"alg": "ES256", "kid": "1"}, given, KEY)


def part(content: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(content).encode()).rstrip(b"=").decode()


def by_the_public_key() -> str:
    """HMAC with what everybody can read of the provider's key."""
    public = OctKey.import_key(json.dumps(KEY.as_dict(private=False)).encode())
    return jwt.encode({"alg": "HS256", "kid": "1"}, GOOD, public)


def by_another_key() -> str:
    return jwt.encode({"alg": "ES256", "kid": "1"}, GOOD, ECKey.generate_key("P-256", {"kid": "1"}))


def changed_after_signing() -> str:
    head, _, signature = signed().split(".")
    return f"{head}.{part({**GOOD, 'sub': 'root'})}.{signature}"


FORGED: dict[str, Callable[[], str]] = {
    "not signed": lambda: f"{part({'alg': 'none'})}.{part(GOOD)}.",
    "not signed, in capitals": lambda: f"{part({'alg': 'nOnE'})}.{part(GOOD)}.",
    "signed with the public key": by_the_public_key,
    "signed with another key": by_another_key,
    "changed after it was signed": changed_after_signing,
    "cut off": lambda: signed()[:-10],
    "nothing": lambda: "",
    "for another client": lambda: signed(aud="other"),
    "for another party of several": lambda: signed(aud=[CLIENT, "other"], azp="other"),
    "of another issuer": lambda: signed(iss="https://evil.example"),
    "expired": lambda: signed(exp=NOW - 3600),
    "without an end": lambda: signed(exp=None),
    "of the future": lambda: signed(iat=NOW + 3600),
    "of another login": lambda: signed(nonce="n-2"),
    "of no login": lambda: signed(nonce=None),
    "of nobody": lambda: signed(sub=None),
}


def test_a_good_one_says_who_it_is() -> None:
    assert identified(signed()) == "ann"


@pytest.mark.parametrize("name", FORGED)
def test_t5_a_token_that_is_not_the_providers_for_this_login_is_refused(name: str) -> None:
    with pytest.raises(LoginRefused):
        identified(FORGED[name]())


@pytest.mark.parametrize("promised", [True, False])
def test_a_code_is_shown_to_the_provider_only_that_gave_it(promised: bool) -> None:
    """A provider among several that passes a person on to another one must not be sent that one's code (RFC 9207)."""
    answers = Answers(signed(), authorization_response_iss_parameter_supported=promised)
    for issuer in ("https://evil.example", ISSUER + "/", *([""] if promised else [])):
        with pytest.raises(LoginRefused, match="not of the provider"):
            came_back(answers, issuer)
    assert answers.asked == 0
    assert came_back(answers, ISSUER) == "ann"


@pytest.mark.parametrize(("page", "joined"), [("/authorize", "?"), ("/authorize?policy=signin", "&")])
def test_what_is_asked_of_the_providers_page_stays(page: str, joined: str) -> None:
    settings = ProviderSettings("lab", ISSUER, CLIENT, allow_anybody=True)
    answers = Answers("", authorization_endpoint=ISSUER + page)
    provider = Provider(settings, "https://balsam.example/login/callback", answers, CLOCK)
    address = asyncio.run(provider.authorization_url("state", NONCE, "verifier"))
    assert address.startswith(f"{ISSUER}{page}{joined}response_type=code&client_id={CLIENT}&")

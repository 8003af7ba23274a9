"""One OpenID provider: where to send a person (code flow with PKCE), and who came back.

Used by the login pages. What a provider says is believed only with its signature, for this client, for this login, now
(algorithm from an allow-list, `iss`, `aud`, `azp`, `exp`, `iat`, `nonce`). Its documents are kept for an hour; new keys
are looked for at most once a minute.
"""

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from balsam.domain.clock import Clock
from balsam.server.auth.outbound import Outbound, ProviderAway
from balsam.server.auth.providers import ProviderSettings

ALGORITHMS = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519"]
DOCUMENT_SEC = 3600.0
KEYS_SEC = 60.0
LEEWAY_SEC = 60


class LoginRefused(Exception):
    """The provider, or what it sent, does not let this person in. The text is for the person."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Somebody at a provider."""

    issuer: str
    subject: str
    name: str


class Provider:
    """One of the providers of a service."""

    def __init__(self, settings: ProviderSettings, redirect_uri: str, outbound: Outbound, clock: Clock) -> None:
        self.settings = settings
        self._redirect_uri = redirect_uri
        self._outbound = outbound
        self._clock = clock
        self._document: dict[str, Any] = {}
        self._document_at = self._keys_at = float("-inf")
        self._keys: KeySet | None = None

    async def check(self) -> None:
        """Raises ProviderAway unless the provider describes itself and shows its keys, as a login needs it."""
        await self._key_set(await self._discover(), fresh=False)

    async def authorization_url(self, state: str, nonce: str, verifier: str) -> str:
        """Where to send the browser. Raises ProviderAway."""
        document = await self._discover()
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        query = {
            "response_type": "code",
            "client_id": self.settings.client_id,
            "redirect_uri": self._redirect_uri,
            "scope": " ".join(self.settings.scopes),
            "state": state,
            "nonce": nonce,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
        page = str(document["authorization_endpoint"])
        return f"{page}{'&' if '?' in page else '?'}{urlencode(query)}"

    async def identify(self, code: str, issuer: str, nonce: str, verifier: str) -> Identity:
        """Who came back with this code; `issuer` is the `iss` beside it. Raises LoginRefused, ProviderAway."""
        document = await self._discover()
        # Of several providers one may pass a person on to another, to be sent that one's code (RFC 9207).
        is_promised = document.get("authorization_response_iss_parameter_supported") is True
        if issuer != document["issuer"] and (issuer or is_promised):
            raise LoginRefused("the answer is not of the provider that this login began at")
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self._redirect_uri,
            "client_id": self.settings.client_id,
            "code_verifier": verifier,
        }
        reply = await self._outbound.post_form(document["token_endpoint"], form, self._client_headers())
        claims = await self._verified(str(reply.get("id_token", "")), nonce, document)
        why = self.settings.why_not(claims)
        if why:
            raise LoginRefused(why)
        name = claims.get(self.settings.name_claim) or claims.get("email") or claims["sub"]
        return Identity(self.settings.issuer, str(claims["sub"]), str(name))

    def _client_headers(self) -> dict[str, str]:
        if not self.settings.client_secret:
            return {}
        pair = f"{quote(self.settings.client_id, safe='')}:{quote(self.settings.client_secret, safe='')}"
        return {"authorization": "Basic " + base64.b64encode(pair.encode()).decode()}

    async def _verified(self, id_token: str, nonce: str, document: Mapping[str, Any]) -> dict[str, Any]:
        for fresh in (False, True):
            try:
                token = jwt.decode(id_token, await self._key_set(document, fresh=fresh), algorithms=ALGORITHMS)
                break
            except (JoseError, ValueError) as error:
                if fresh:
                    raise LoginRefused("the provider's answer is not signed with its keys") from error
        registry = jwt.JWTClaimsRegistry(
            now=int(self._clock.now().timestamp()),
            leeway=LEEWAY_SEC,
            iss={"essential": True, "value": document["issuer"]},
            aud={"essential": True, "value": self.settings.client_id},
            sub={"essential": True},
            exp={"essential": True},
            iat={"essential": True},
            nonce={"essential": True, "value": nonce},
        )
        try:
            registry.validate(token.claims)
        except JoseError as error:
            raise LoginRefused(f"the provider's answer is not for this login: {error}") from error
        if token.claims.get("azp", self.settings.client_id) != self.settings.client_id:
            raise LoginRefused("the provider's answer is for another client")
        return dict(token.claims)

    async def _discover(self) -> dict[str, Any]:
        now = self._clock.monotonic()
        if now - self._document_at > DOCUMENT_SEC:
            found = await self._outbound.get_json(self.settings.issuer + "/.well-known/openid-configuration")
            needed = ("issuer", "authorization_endpoint", "token_endpoint", "jwks_uri")
            if not all(isinstance(found.get(name), str) for name in needed):
                raise ProviderAway(f"{self.settings.issuer} does not describe itself")
            if found["issuer"].rstrip("/") != self.settings.issuer:
                raise ProviderAway(f"{self.settings.issuer} calls itself {found['issuer']}")
            self._document, self._document_at = found, now
        return self._document

    async def _key_set(self, document: Mapping[str, Any], *, fresh: bool) -> KeySet:
        now = self._clock.monotonic()
        age = now - self._keys_at
        if self._keys is None or age > DOCUMENT_SEC or (fresh and age > KEYS_SEC):
            found: Any = await self._outbound.get_json(document["jwks_uri"])
            try:
                self._keys, self._keys_at = KeySet.import_key_set(found), now
            except (JoseError, ValueError, KeyError) as error:
                raise ProviderAway(f"{document['jwks_uri']} has no keys") from error
        return self._keys

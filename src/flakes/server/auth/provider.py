"""An OpenID Connect provider, as a client of it: discovery, the authorization code with PKCE, the ID token.

Everything but the issuer comes from its discovery document, which is fetched when first needed and again
after an hour. A token is believed when the provider's key has signed it with an asymmetric algorithm, for
this client, now, with the nonce of this very sign-in.
"""

from __future__ import annotations

import base64
import hashlib
import time
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlencode, urlsplit

import httpx2
import msgspec
import structlog

from flakes.wire.config import Oidc, credential
from flakes.wire.errors import ApiError

TIMEOUT_S: Final = 10.0
KEPT_S: Final = 3_600.0
KEYS_AGAIN_S: Final = 30.0
"""A token of an unknown key makes us look for new keys, but not more often than this."""
LEEWAY_S: Final = 60
ALGORITHMS: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519")
LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")

log = structlog.get_logger()


class _Discovery(msgspec.Struct, frozen=True):
    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    token_endpoint_auth_methods_supported: tuple[str, ...] = ("client_secret_basic",)


class _Tokens(msgspec.Struct, frozen=True):
    id_token: str


class Claims(msgspec.Struct, frozen=True):
    """What the provider says about who signed in."""

    sub: str
    email: str | None = None
    email_verified: bool | str = False
    name: str | None = None

    @property
    def verified_email(self) -> str | None:
        """The address, if the provider vouches for it."""
        return self.email.strip().lower() if self.email and self.email_verified in (True, "true") else None


class Provider:
    """See the module. Refusals are `access_denied` (the token) and `provider_unavailable` (the provider)."""

    def __init__(self, config: Oidc) -> None:
        self.config = config
        self.issuer = config.issuer
        _check_address(config.issuer, "oidc.issuer")
        self._secret = ""
        if config.client_secret_file is not None:
            self._secret = credential(Path(config.client_secret_file))
        self._discovery: tuple[float, _Discovery] | None = None
        self._keys: tuple[float, Any] | None = None

    async def authorization_url(self, redirect_uri: str, state: str, nonce: str, verifier: str) -> str:
        """Where to send the browser."""
        found = await self._discover()
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).decode().rstrip("=")
        query = urlencode({
            "response_type": "code", "client_id": self.config.client_id, "redirect_uri": redirect_uri,
            "scope": " ".join(self.config.scopes), "state": state, "nonce": nonce,
            "code_challenge": challenge, "code_challenge_method": "S256",
        })  # fmt: skip
        glue = "&" if "?" in found.authorization_endpoint else "?"
        return f"{found.authorization_endpoint}{glue}{query}"

    async def claims(self, code: str, redirect_uri: str, nonce: str, verifier: str) -> Claims:
        """Trade the code that the browser came back with for who that is."""
        found = await self._discover()
        form = {
            "grant_type": "authorization_code", "code": code, "redirect_uri": redirect_uri,
            "client_id": self.config.client_id, "code_verifier": verifier,
        }  # fmt: skip
        auth = None
        if self._secret and "client_secret_basic" in found.token_endpoint_auth_methods_supported:
            auth = (quote(self.config.client_id, safe=""), quote(self._secret, safe=""))
        elif self._secret:
            form["client_secret"] = self._secret
        content = await self._fetch("POST", found.token_endpoint, refused="access_denied", data=form, auth=auth)
        token = _decode(content, _Tokens).id_token
        return await self._verified(token, nonce)

    async def _verified(self, token: str, nonce: str) -> Claims:
        from joserfc import jwt
        from joserfc.errors import JoseError

        try:
            decoded = await self._decoded(token)
            jwt.JWTClaimsRegistry(
                now=int(time.time()), leeway=LEEWAY_S,
                iss={"essential": True, "value": self.issuer},
                aud={"essential": True, "value": self.config.client_id},
                exp={"essential": True}, sub={"essential": True},
                nonce={"essential": True, "value": nonce},
            ).validate(decoded.claims)  # fmt: skip
            several = isinstance(decoded.claims["aud"], list) and len(decoded.claims["aud"]) > 1
            if several or "azp" in decoded.claims:
                jwt.JWTClaimsRegistry(
                    azp={"essential": True, "value": self.config.client_id}
                ).validate(decoded.claims)
            return msgspec.convert(decoded.claims, Claims)
        except (JoseError, ValueError, KeyError, msgspec.ValidationError) as error:
            log.warning("oidc.token_refused", error=f"{type(error).__name__}: {error}"[:200])
            raise ApiError("access_denied", "the provider's answer is not valid for this sign-in", "sign in again") from error

    async def _decoded(self, token: str) -> Any:
        """The token, its signature checked; the keys are fetched anew when none of those known fits."""
        from joserfc import jwt
        from joserfc.errors import BadSignatureError, InvalidKeyIdError

        looked_s, keys = self._keys or (0.0, None)
        if keys is None or time.monotonic() - looked_s > KEPT_S:
            keys = await self._fetch_keys()
            looked_s = time.monotonic()
        try:
            return jwt.decode(token, keys, algorithms=ALGORITHMS)
        except (BadSignatureError, InvalidKeyIdError, ValueError):
            if time.monotonic() - looked_s < KEYS_AGAIN_S:
                raise
            return jwt.decode(token, await self._fetch_keys(), algorithms=ALGORITHMS)

    async def _fetch_keys(self) -> Any:
        from joserfc.jwk import KeySet

        found = await self._discover()
        content = await self._fetch("GET", found.jwks_uri)
        keys = KeySet.import_key_set(_decode(content, dict[str, Any]))  # pyright: ignore[reportArgumentType]
        self._keys = time.monotonic(), keys
        return keys

    async def _discover(self) -> _Discovery:
        if self._discovery is not None and time.monotonic() - self._discovery[0] < KEPT_S:
            return self._discovery[1]
        url = f"{self.issuer.rstrip('/')}/.well-known/openid-configuration"
        found = _decode(await self._fetch("GET", url), _Discovery)
        if found.issuer != self.issuer:
            raise _unavailable(f"it calls itself {found.issuer[:200]!r}")
        for address in (found.authorization_endpoint, found.token_endpoint, found.jwks_uri):
            _check_address(address, "the provider's endpoint")
        self._discovery = time.monotonic(), found
        return found

    async def _fetch(self, method: str, url: str, refused: str = "provider_unavailable", **options: Any) -> bytes:
        direct = urlsplit(url).hostname in LOOPBACK
        try:
            async with httpx2.AsyncClient(timeout=TIMEOUT_S, trust_env=not direct) as http:
                response = await http.request(method, url, **options)
        except (httpx2.TransportError, httpx2.InvalidURL) as error:
            raise _unavailable(str(error) or type(error).__name__) from error
        if response.status_code == 200:
            return response.content
        log.warning("oidc.refused", url=url, status=response.status_code)
        if 400 <= response.status_code < 500 and refused == "access_denied":
            raise ApiError("access_denied", "the provider did not accept the sign-in", "sign in again")
        raise _unavailable(f"it answered {response.status_code}")


def _decode(content: bytes, kind: Any) -> Any:
    try:
        return msgspec.json.decode(content, type=kind)
    except msgspec.MsgspecError as error:
        raise _unavailable(f"its answer is not understood: {error}") from error


def _unavailable(why: str) -> ApiError:
    log.warning("oidc.unavailable", why=why[:300])
    return ApiError("provider_unavailable", "the sign-in provider does not answer as it should", "try again in a moment; the server's log says more")


def _check_address(url: str, what: str) -> None:
    """TLS, except to this machine."""
    parts = urlsplit(url)
    if parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOOPBACK):
        return
    raise ApiError("config_invalid", f"{what} {url[:200]!r} is not an https address", "use the provider's https address")

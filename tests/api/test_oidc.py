"""Signing in with an OpenID Connect provider that runs in this test, and every way to cheat that is refused."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest
from joserfc.jwk import ECKey, OctKey

import postgres as databases
from api.accounts import digits, new_email, new_password
from api.browser import Browser
from api.caller import Answer
from api.oidc_provider import CLIENT_ID, CLIENT_SECRET, Provider, provider
from api.plane import Server, serving
from flakes.server.auth.provider import Provider as Client
from flakes.store.embedded import ConnectionInfo
from flakes.wire.config import Oidc
from flakes.wire.errors import ApiError

START = "/v1/auth/oidc/start"


@pytest.fixture(scope="module")
def issuer() -> Iterator[Provider]:
    with provider() as running:
        yield running


@pytest.fixture(scope="module")
def hosted(
    issuer: Provider, postgres: ConnectionInfo, template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("oidc")
    secret = directory / "oidc.secret"
    secret.write_text(CLIENT_SECRET)
    secret.chmod(0o600)
    oidc = {"issuer": issuer.url, "clientId": CLIENT_ID, "clientSecretFile": str(secret), "name": "Acme"}
    settings: dict[str, dict[str, Any]] = {"oidc": oidc, "auth": {"signUp": True}}
    with databases._fresh(postgres, template) as dsn, serving(directory, dsn, settings) as running:
        yield running


def consent(browser: Browser, return_to: str = "/console/") -> str:
    """Go to the provider and come back: the path and query that the provider sends the browser to."""
    begun = browser.get(START, returnTo=return_to)
    assert begun.status == 302
    back = httpx2.get(begun.headers["location"], trust_env=False).headers["location"]
    parts = urlsplit(back)
    assert f"{parts.scheme}://{parts.netloc}" == browser.url
    return f"{parts.path}?{parts.query}"


def arrive(browser: Browser, back: str) -> Answer:
    path, _, query = back.partition("?")
    return browser.get(path, **{name: values[0] for name, values in parse_qs(query).items()})


def test_a_new_person_gets_an_account_and_the_same_one_again(hosted: Server, issuer: Provider) -> None:
    email = new_email()
    issuer.become(email.upper())
    browser = Browser(hosted.url)
    assert browser.get("/v1/auth/options").ok() == {"signUp": True, "provider": "Acme"}
    answer = arrive(browser, consent(browser, "/device?code=ABCD"))
    assert answer.status == 200
    assert b'content="0;url=/device?code=ABCD"' in answer.content
    assert "script" not in answer.headers["content-security-policy"]
    me = browser.get("/v1/me").ok()
    assert (me["email"], me["name"], me["sessionKind"]) == (email, "Ada", "browser")
    issuer.user["email"] = new_email()  # whatever becomes of the address
    again = Browser(hosted.url)
    arrive(again, consent(again))
    assert again.get("/v1/me").ok()["userId"] == me["userId"]


def test_a_verified_address_is_the_account_that_has_it(hosted: Server, issuer: Provider) -> None:
    email, password, browser = new_email(), new_password(), Browser(hosted.url)
    sent = browser.post("/v1/auth/sign-up", {"email": email, "password": password}).ok(202)
    code = {"verification": sent["verification"], "code": digits(hosted.url, email)}
    user_id = browser.post("/v1/auth/verify", code).ok(200)["userId"]
    issuer.become(email, verified=False)
    thief = Browser(hosted.url)
    arrive(thief, consent(thief)).refused("access_denied")
    issuer.become(email)
    owner = Browser(hosted.url)
    assert arrive(owner, consent(owner)).status == 200
    assert owner.get("/v1/me").ok()["userId"] == user_id


@pytest.mark.parametrize(
    "lie",
    [
        {"nonce": "another"}, {"nonce": None}, {"aud": "somebody-else"}, {"iss": "http://127.0.0.1:1"},
        {"exp": 1_000}, {"exp": None}, {"sub": None}, {"nbf": 9_999_999_999},
        {"aud": [CLIENT_ID, "else"]}, {"aud": [CLIENT_ID, "else"], "azp": "else"}, {"azp": "else"},
    ],
    ids=str,
)  # fmt: skip
def test_tokens_that_say_something_else(hosted: Server, issuer: Provider, lie: dict[str, Any]) -> None:
    issuer.become(new_email())
    issuer.claims = lie
    browser = Browser(hosted.url)
    arrive(browser, consent(browser)).refused("access_denied")
    browser.get("/v1/me").refused("unauthorized")


def test_tokens_that_somebody_else_signed(hosted: Server, issuer: Provider) -> None:
    issuer.become(new_email())
    honest = issuer.published = issuer.key
    try:
        for key, alg in (
            (ECKey.generate_key("P-256", {"kid": honest.kid}, private=True), "ES256"),
            (OctKey.import_key(CLIENT_SECRET, {"kid": honest.kid}), "HS256"),
        ):
            issuer.key, issuer.header = key, {"alg": alg}
            browser = Browser(hosted.url)
            arrive(browser, consent(browser)).refused("access_denied")
    finally:
        issuer.key, issuer.published = honest, None


def test_a_way_back_works_once_and_only_for_who_went(hosted: Server, issuer: Provider) -> None:
    issuer.become(new_email())
    mine, other = Browser(hosted.url), Browser(hosted.url)
    back = consent(mine)
    arrive(other, back).refused("code_invalid")  # a link to somebody else's sign-in signs nobody in
    consent(other)
    arrive(other, back).refused("code_invalid")
    assert other.get("/v1/me").status == 401
    cookies = dict(mine.cookies)
    arrive(mine, back)
    mine.get("/v1/me").ok()
    replay = Browser(hosted.url)
    replay.cookies = cookies
    arrive(replay, back).refused("code_invalid")


def test_codes_and_states_that_are_none(hosted: Server, issuer: Provider) -> None:
    issuer.become(new_email())
    browser = Browser(hosted.url)
    back = consent(browser)
    state = parse_qs(urlsplit(back).query)["state"][0]
    path = "/v1/auth/oidc/callback"
    browser.get(path).refused("code_invalid")
    browser.get(path, state=f"{state}x", code="x").refused("code_invalid")
    browser.get(path, state=state, code="forged").refused("access_denied")
    again = Browser(hosted.url)
    state = parse_qs(urlsplit(consent(again)).query)["state"][0]
    again.get(path, state=state, error="access_denied").refused("access_denied")


@pytest.mark.parametrize("target", ["https://evil.example/", "//evil.example", "/\\evil.example", "javascript:alert(1)", "console"])
def test_the_way_back_stays_here(hosted: Server, issuer: Provider, target: str) -> None:
    issuer.become(new_email())
    browser = Browser(hosted.url)
    answer = arrive(browser, consent(browser, target))
    assert b'content="0;url=/console/"' in answer.content


def test_people_are_told_in_a_page(hosted: Server, issuer: Provider) -> None:
    browser = Browser(hosted.url)
    accept: dict[str, str | None] = {"Accept": "text/html"}
    answer = browser.call("GET", "/v1/auth/oidc/callback", headers=accept, checked=False, state="<b>")
    assert (answer.status, answer.headers["content-type"].partition(";")[0]) == (400, "text/html")
    assert b"<b>" not in answer.content


def test_a_closed_server_lets_in_who_is_known(
    issuer: Provider, database: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = tmp_path_factory.mktemp("closed")
    oidc = {"issuer": issuer.url, "clientId": CLIENT_ID, "clientSecretFile": str(_secret(directory))}
    with serving(directory, database, {"oidc": oidc, "auth": {"signUp": False}}) as server:
        known, browser = new_email(), Browser(server.url)
        with server.connect() as conn:
            conn.execute("insert into users (user_id, name, email) values ('user_x', 'X', %s)", [known])
        issuer.become(new_email())
        arrive(browser, consent(browser)).refused("access_denied")
        issuer.become(known)
        arrive(browser, consent(browser))
        assert browser.get("/v1/me").ok()["userId"] == "user_x"


@pytest.mark.anyio
async def test_new_keys_of_another_kind_are_found(issuer: Provider, tmp_path: Path) -> None:
    """Not more often than every half minute, so time has to pass for the client."""
    secret = str(_secret(tmp_path))
    client = Client(Oidc(issuer=issuer.url, client_id=CLIENT_ID, client_secret_file=secret))
    before, redirect = issuer.key, "http://127.0.0.1:1/back"

    async def sign_in() -> str:
        url = await client.authorization_url(redirect, "state", "nonce", "verifier")
        back = httpx2.get(url, trust_env=False).headers["location"]
        code = parse_qs(urlsplit(back).query)["code"][0]
        return (await client.claims(code, redirect, "nonce", "verifier")).sub

    try:
        issuer.become(new_email(), subject="somebody")
        assert await sign_in() == "somebody"
        fetches = issuer.key_fetches
        issuer.rotate()
        with pytest.raises(ApiError, match="not valid"):
            await sign_in()
        assert issuer.key_fetches == fetches
        assert client._keys is not None
        client._keys = (client._keys[0] - 60, client._keys[1])
        assert await sign_in() == "somebody"
    finally:
        issuer.key = before


def test_a_provider_that_is_away_or_another(
    issuer: Provider, database: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = tmp_path_factory.mktemp("away")
    oidc = {"issuer": issuer.url, "clientId": CLIENT_ID, "clientSecretFile": str(_secret(directory))}
    with serving(directory, database, {"oidc": oidc}) as server:
        issuer.issuer = "http://127.0.0.1:1"
        try:
            began_s = time.monotonic()
            Browser(server.url).get(START).refused("provider_unavailable")
            assert time.monotonic() - began_s < 5
        finally:
            issuer.issuer = None
        assert Browser(server.url).get(START).status == 302


def _secret(directory: Path) -> Path:
    secret = directory / "oidc.secret"
    secret.write_text(CLIENT_SECRET)
    secret.chmod(0o600)
    return secret

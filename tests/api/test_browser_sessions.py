"""Browsers: the one-time link, the two cookies, and what a foreign page cannot make them do."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from api.browser import Browser, session_id
from api.caller import Answer, Api, name
from api.following import Following
from api.plane import Server, serving
from flakes.wire.auth import CSRF_COOKIE, CSRF_HEADER, SESSION_COOKIE


def test_a_link_signs_in_once(api: Api) -> None:
    code = api.post("/v1/auth/browser-links").ok(201)["code"]
    browser = Browser(api.url)
    me = browser.post("/v1/auth/browser-link", {"code": code}).ok(200)
    assert (me["userId"], me["sessionKind"]) == (api.get("/v1/me").ok()["userId"], "browser")
    assert browser.get("/v1/me").ok() == me
    second = Browser(api.url)
    second.post("/v1/auth/browser-link", {"code": code}).refused("code_invalid")
    assert second.cookies == {}
    second.get("/v1/me").refused("unauthorized")


def test_of_many_who_open_a_link_one_gets_in(api: Api) -> None:
    code = api.post("/v1/auth/browser-links").ok(201)["code"]
    browsers = [Browser(api.url) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda b: b.post("/v1/auth/browser-link", {"code": code}), browsers))
    assert sorted(answer.status for answer in answers) == [200] + [400] * 7


def test_links_that_are_none(server: Server, api: Api) -> None:
    code = api.post("/v1/auth/browser-links").ok(201)["code"]
    code_id, _, secret = code.partition(".")
    twisted = f"{code_id}.{'A' if secret[0] != 'A' else 'B'}{secret[1:]}"
    browser = Browser(api.url)
    for wrong in ("", ".", code_id, f"{code_id}.", twisted, f"{code}x", "ü.x", "a" * 5_000):
        browser.post("/v1/auth/browser-link", {"code": wrong}).refused("code_invalid")
    with server.connect() as conn:
        conn.execute("update one_time_codes set expires_at = now() where code_id = %s", [code_id])
        stored = conn.execute("select secret_hash from one_time_codes where code_id = %s", [code_id])
        assert secret.encode() not in bytes(stored.fetchall()[0][0])
    browser.post("/v1/auth/browser-link", {"code": code}).refused("code_invalid")
    assert browser.cookies == {}


def test_the_cookies_keep_to_this_site_and_scripts_see_one_of_them(api: Api) -> None:
    browser = Browser.of(api)
    assert {"httponly", "samesite=strict", "path=/"} <= browser.attributes[browser.named(SESSION_COOKIE)]
    assert {"samesite=strict", "path=/"} <= browser.attributes[browser.named(CSRF_COOKIE)]
    assert "httponly" not in browser.attributes[browser.named(CSRF_COOKIE)]
    assert "secure" not in browser.attributes[browser.named(SESSION_COOKIE)]
    assert browser.cookies[browser.named(CSRF_COOKIE)] not in browser.cookies[browser.named(SESSION_COOKIE)]


def test_behind_tls_the_cookies_are_secure_and_the_public_origin_is_ones_own(
    tmp_path: Path, database: str
) -> None:
    public = {"listen": {"port": 0, "publicUrl": "https://flakes.example.com"}}
    with serving(tmp_path, database, public) as server:
        browser = Browser.of(server.owner())
        for cookie in (SESSION_COOKIE, CSRF_COOKIE):
            assert "secure" in browser.attributes[cookie]
        key = f"/v1/projects/{name('project')}"
        for origin in ("https://flakes.example.com", server.url):
            browser.call("PUT", key, {"name": "p"}, headers={"Origin": origin}).ok()
        for foreign in ("http://flakes.example.com", "https://flakes.example.com:8443", "null"):
            browser.call("PUT", key, {"name": "p"}, headers={"Origin": foreign}).refused("forbidden")


@pytest.mark.parametrize(
    "headers",
    [
        {CSRF_HEADER: None},
        {CSRF_HEADER: ""},
        {CSRF_HEADER: "wrong"},
        {"Origin": None},
        {"Origin": "null"},
        {"Origin": "http://evil.example"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "http://127.0.0.1"},
    ],
    ids=str,
)
def test_a_foreign_page_changes_nothing(api: Api, headers: dict[str, str | None]) -> None:
    browser = Browser.of(api)
    path = f"/v1/projects/{name('project')}"
    browser.call("PUT", path, {"name": "p"}, headers=headers).refused("forbidden")
    api.get(path).refused("not_found")
    browser.call("PUT", path, {"name": "p"}).ok(201)
    browser.call("POST", f"{path}/archive", headers=headers).refused("forbidden")
    assert api.get(path).ok()["status"] == "active"


def test_a_value_of_another_session_proves_nothing(api: Api, other: Api) -> None:
    """Also when somebody managed to plant the cookie that goes with it."""
    mine, theirs = Browser.of(api), Browser.of(other)
    path = f"/v1/projects/{name('project')}"
    planted = theirs.cookies[theirs.named(CSRF_COOKIE)]
    mine.call("PUT", path, {"name": "p"}, headers={CSRF_HEADER: planted}).refused("forbidden")
    mine.cookies[mine.named(CSRF_COOKIE)] = planted
    mine.call("PUT", path, {"name": "p"}).refused("forbidden")


def test_a_foreign_page_signs_nobody_in(api: Api) -> None:
    code = api.post("/v1/auth/browser-links").ok(201)["code"]
    browser, foreign = Browser(api.url), {"Origin": "http://evil.example"}
    browser.post("/v1/auth/browser-link", {"code": code}, headers=foreign).refused("forbidden")
    browser.post("/v1/auth/browser-link", {"code": code}, headers={"Origin": None}).ok(200)


def test_a_session_is_no_bearer_token_and_a_token_no_session(api: Api) -> None:
    browser = Browser.of(api)
    api.as_(browser.cookies[browser.named(SESSION_COOKIE)]).get("/v1/me").refused("unauthorized")
    assert api.token is not None
    browser.cookies[browser.named(SESSION_COOKIE)] = api.token
    browser.get("/v1/me").refused("unauthorized")
    # What is said with intent wins over what is sent along.
    fresh = Browser.of(api)
    fresh.call("GET", "/v1/me", headers={"Authorization": "Bearer nonsense"}).refused("unauthorized")


def test_events_follow_with_the_cookie(api: Api) -> None:
    browser = Browser.of(api)
    stream = Following(_Cookies(browser), after="now")
    try:
        api.project()
        assert "project.created" in {seen.event for seen in stream.until(lambda s: s.event == "project.created")}
    finally:
        stream.close()


def test_sessions_of_two_ports_live_in_one_browser(api: Api) -> None:
    """Its cookies are those of all ports of a machine: none overwrites, proves or ends another."""
    first, second = Browser.of(api), Browser.of(api)
    port = int(api.url.rpartition(":")[2]) ^ 1
    elsewhere: dict[str, str | None] = {"Host": f"127.0.0.1:{port}", "Origin": f"http://127.0.0.1:{port}"}
    code = api.post("/v1/auth/browser-links").ok(201)["code"]
    second.cookies = dict(first.cookies)

    def there(method: str, path: str, body: object = None) -> Answer:
        proof = second.cookies.get(f"{CSRF_COOKIE}_{port}", "")
        return second.call(method, path, body, headers={**elsewhere, CSRF_HEADER: proof})

    there("POST", "/v1/auth/browser-link", {"code": code}).ok(200)
    assert len(second.cookies) == 4
    there("PUT", f"/v1/projects/{name('project')}", {"name": "p"}).ok(201)
    first.cookies = second.cookies
    first.call("PUT", f"/v1/projects/{name('project')}", {"name": "p"}).ok(201)
    there("POST", "/v1/auth/sign-out").ok(200)
    there("GET", "/v1/me").refused("unauthorized")
    first.cookies = second.cookies
    first.get("/v1/me").ok()


@pytest.mark.parametrize("path", ["/v1/hosts/setup", "/v1/hosts/{}/credentials/rotate"])
def test_a_browser_session_gets_no_credential_of_a_host(api: Api, path: str) -> None:
    """Whoever takes a credential is a command line, which can write it down where only its user reads."""
    browser, (host_id, _) = Browser.of(api), api.host()
    before = len(api.get("/v1/hosts").ok()["hosts"]), api.get(f"/v1/hosts/{host_id}/credentials").ok()
    refused = browser.post(path.format(host_id), {}).refused("forbidden")
    assert "bearer" in refused["message"]
    assert (len(api.get("/v1/hosts").ok()["hosts"]), api.get(f"/v1/hosts/{host_id}/credentials").ok()) == before
    api.post(path.format(host_id), {}).ok(201 if path.endswith("setup") else 200)


def test_signing_out_ends_this_session_only(api: Api) -> None:
    first, second = Browser.of(api), Browser.of(api)
    kept = dict(first.cookies)
    first.get("/v1/me").ok()
    assert first.post("/v1/auth/sign-out").ok(200)["sessionId"] == session_id(kept)
    assert first.cookies == {}
    first.cookies = kept
    first.get("/v1/me").refused("unauthorized")
    second.get("/v1/me").ok()
    api.post("/v1/auth/sign-out").refused("forbidden")
    api.get("/v1/me").ok()


def test_a_browser_links_another_one(api: Api) -> None:
    browser = Browser.of(api)
    code = browser.post("/v1/auth/browser-links").ok(201)["code"]
    assert re.fullmatch(r"[a-z2-7]{16}\.[A-Za-z0-9_-]{43}", code)
    Browser(api.url).post("/v1/auth/browser-link", {"code": code}).ok(200)


def test_an_answer_with_a_secret_is_sealed_for_the_session_that_asked(api: Api) -> None:
    first, second, key = Browser.of(api), Browser.of(api), name("key")
    made = first.call("POST", "/v1/sandboxes", {"name": "s"}, headers={"Idempotency-Key": key})
    again = first.call("POST", "/v1/sandboxes", {"name": "s"}, headers={"Idempotency-Key": key})
    assert made.ok(201) == again.ok(201)
    elsewhere = second.call("POST", "/v1/sandboxes", {"name": "s"}, headers={"Idempotency-Key": key})
    elsewhere.refused("idempotency_conflict")


class _Cookies(Api):
    """An `Api` that sends a browser's cookies in place of a token."""

    def __init__(self, browser: Browser) -> None:
        super().__init__(browser.url, None)
        self.headers = browser.cookie_header

"""The page that approves a device: what it shows, and what it takes from whom."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx2
import pytest

from api.accounts import Person, sign_up
from api.browser import Browser
from api.caller import Answer
from api.plane import Server, serving

TOKEN = "/v1/auth/device/token"


@pytest.fixture(scope="module")
def hosted(tmp_path_factory: pytest.TempPathFactory, postgres: Any, template: str) -> Any:
    import postgres as databases

    settings = {"auth": {"signUp": True}}
    with databases._fresh(postgres, template) as dsn:
        server = Hosted(tmp_path_factory.mktemp("hosted"), dsn, settings)
        try:
            yield server.start()
        finally:
            server.stop()


class Hosted(Server):
    """A server without an owner of its own: people sign in."""

    def _toml(self) -> str:
        return re.sub(r"(?m)^localCredentialFile.*\n", "", super()._toml())


@pytest.fixture
def ada(hosted: Server) -> Person:
    return sign_up(hosted.url)


def asked(url: str, **body: str) -> dict[str, Any]:
    return Browser(url).post("/v1/auth/device/code", body).ok(200)


def submit(browser: Browser, code: str, headers: dict[str, str] | None = None, **form: str) -> Answer:
    """Send a form of the page as a browser does; redirects are not followed."""
    sent = {**browser.cookie_header, "Origin": browser.url, "X-Forwarded-For": browser.address,
            "Content-Type": "application/x-www-form-urlencoded", **(headers or {})}  # fmt: skip
    url = f"{browser.url}/device?code={code}"
    response = httpx2.post(url, content=urlencode(form), headers=sent, trust_env=False)
    for line in response.headers.get_list("set-cookie"):
        browser._keep(line)
    return Answer(response.status_code, response.headers, response.content)


def csrf(page: Answer) -> str:
    found = re.search(rb'name="csrf" value="([^"]+)"', page.content)
    assert found is not None, page.content
    return found[1].decode()


def test_sign_in_look_and_approve(hosted: Server, ada: Person) -> None:
    grant = asked(hosted.url, clientName="<script>alert(1)</script>")
    code, browser = grant["userCode"], Browser(hosted.url)
    page = browser.get("/device", code=code)
    assert b"password" in page.content
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
    assert b"wrong" in submit(browser, code, email=ada.email, password="not that one").content
    signed_in = submit(browser, code, email=ada.email, password=ada.password)
    assert (signed_in.status, signed_in.headers["location"]) == (303, f"/device?code={code}")
    page = browser.get("/device", code=code)
    assert b"<script>" not in page.content
    assert b"&lt;script&gt;" in page.content
    assert code.encode() in page.content
    assert submit(browser, code, csrf=csrf(page), decision="approved").status == 200
    token = Browser(hosted.url).post(TOKEN, {"deviceCode": grant["deviceCode"]}).ok(200)
    assert token["me"]["email"] == ada.email


def test_a_device_is_denied(hosted: Server, ada: Person) -> None:
    grant = asked(hosted.url)
    page = ada.browser.get("/device", code=grant["userCode"])
    submit(ada.browser, grant["userCode"], csrf=csrf(page), decision="denied")
    Browser(hosted.url).post(TOKEN, {"deviceCode": grant["deviceCode"]}).refused("access_denied")


def test_foreign_forms_do_nothing(hosted: Server, ada: Person) -> None:
    grant = asked(hosted.url)
    code = grant["userCode"]
    token = csrf(ada.browser.get("/device", code=code))
    for headers in ({"Origin": "http://evil.example"}, {"Origin": "null"}):
        assert submit(ada.browser, code, headers, csrf=token, decision="approved").status == 403
    for wrong in ("", "wrong", csrf(sign_up(hosted.url).browser.get("/device", code=code))):
        assert submit(ada.browser, code, csrf=wrong, decision="approved").status == 403
    nobody = Browser(hosted.url)
    assert submit(nobody, code, csrf=token, decision="approved").status == 303
    foreign = {"Origin": "http://evil.example"}
    answer = submit(nobody, code, foreign, email=ada.email, password=ada.password)
    assert (answer.status, nobody.cookies) == (403, {})
    Browser(hosted.url).post(TOKEN, {"deviceCode": grant["deviceCode"]}).refused("authorization_pending")


def test_codes_that_are_none(hosted: Server, ada: Person) -> None:
    assert b"Code" in ada.browser.get("/device").content
    assert ada.browser.get("/device", code="BBBB-BBBB").status == 404
    assert b"<b>" not in ada.browser.get("/device", code="<b>").content
    assert submit(ada.browser, "x", email="x" * 9_000).status == 413


def test_a_local_session_points_to_its_console(tmp_path: Path, database: str) -> None:
    with serving(tmp_path, database) as server:
        assert b"flakes console" in Browser(server.url).get("/device", code="x").content

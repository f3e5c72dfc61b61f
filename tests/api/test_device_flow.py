"""Signing a command line in from a browser (RFC 8628), and every door beside it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from api.browser import Browser
from api.caller import Api
from api.plane import Server
from flakes.wire.auth import CSRF_HEADER

CODE, TOKEN = "/v1/auth/device/code", "/v1/auth/device/token"


@pytest.fixture
def device(server: Server) -> Browser:
    return Browser(server.url)


def asked(device: Browser, **body: str) -> dict[str, Any]:
    return device.post(CODE, body).ok(200)


def later(server: Server, grant: dict[str, Any], seconds: float) -> None:
    """Let time pass for a grant."""
    with server.connect() as conn:
        conn.execute(
            """update device_grants set polled_at = polled_at - %(s)s * interval '1 s',
               expires_at = expires_at - %(s)s * interval '1 s' where grant_id = %(id)s""",
            {"s": seconds, "id": grant["deviceCode"].partition(".")[0]},
        )


def test_from_the_code_to_the_token_and_out(server: Server, device: Browser, api: Api) -> None:
    grant = asked(device, clientName="flakes on bench\x1b[31m")
    assert grant["verificationUriComplete"].endswith(f"/device?code={grant['userCode']}")
    poll = {"deviceCode": grant["deviceCode"]}
    device.post(TOKEN, poll).refused("authorization_pending")
    typed = grant["userCode"].replace("-", "").lower()
    seen = api.get(f"/v1/auth/device/{typed}").ok()
    assert (seen["clientName"], seen["address"], seen["status"]) == (
        "flakes on bench[31m", device.address, "pending",
    )  # fmt: skip
    path = f"/v1/auth/device/{grant['userCode']}"
    api.post(path, {"decision": "approved"}).ok(200)
    api.post(path, {"decision": "denied"}).refused("not_found")
    answer = device.post(TOKEN, poll).ok(200)
    assert answer["me"]["userId"] == api.get("/v1/me").ok()["userId"]
    device.post(TOKEN, poll).refused("expired_token")
    signed_in = api.as_(answer["accessToken"])
    assert signed_in.get("/v1/auth/sessions").ok()["sessions"][0]["kind"] == "cli"
    signed_in.post("/v1/auth/sign-out").ok(200)
    signed_in.get("/v1/me").refused("unauthorized")


def test_of_many_polls_one_gets_the_token(device: Browser, api: Api) -> None:
    grant = asked(device)
    api.post(f"/v1/auth/device/{grant['userCode']}", {"decision": "approved"}).ok(200)
    with ThreadPoolExecutor(6) as pool:
        polls = pool.map(lambda _: device.post(TOKEN, {"deviceCode": grant["deviceCode"]}), range(6))
        assert sorted(answer.status for answer in polls) == [200] + [400] * 5
    assert len(api.get("/v1/auth/sessions").ok()["sessions"]) == 1


def test_a_denied_device(device: Browser, api: Api) -> None:
    grant = asked(device)
    api.post(f"/v1/auth/device/{grant['userCode']}", {"decision": "denied"}).ok(200)
    device.post(TOKEN, {"deviceCode": grant["deviceCode"]}).refused("access_denied")


def test_a_hasty_device_is_slowed_down(server: Server, device: Browser) -> None:
    grant = asked(device)
    poll = {"deviceCode": grant["deviceCode"]}
    device.post(TOKEN, poll).refused("authorization_pending")
    device.post(TOKEN, poll).refused("slow_down")
    later(server, grant, 6)
    device.post(TOKEN, poll).refused("slow_down")  # its interval is ten seconds by now
    later(server, grant, 16)
    device.post(TOKEN, poll).refused("authorization_pending")


def test_an_expired_device(server: Server, device: Browser, api: Api) -> None:
    grant = asked(device)
    later(server, grant, grant["expiresIn"] + 1)
    device.post(TOKEN, {"deviceCode": grant["deviceCode"]}).refused("expired_token")
    api.get(f"/v1/auth/device/{grant['userCode']}").refused("not_found")
    api.post(f"/v1/auth/device/{grant['userCode']}", {"decision": "approved"}).refused("not_found")


@pytest.mark.parametrize("code", ["", ".", "x.y", "ü.ü", "a" * 3_000])
def test_device_codes_that_are_none(device: Browser, code: str) -> None:
    device.post(TOKEN, {"deviceCode": code}).refused("expired_token")


def test_the_user_code_alone_or_half_a_device_code_gets_nothing(device: Browser, api: Api) -> None:
    grant = asked(device)
    api.post(f"/v1/auth/device/{grant['userCode']}", {"decision": "approved"}).ok(200)
    grant_id, _, secret = grant["deviceCode"].partition(".")
    twisted = f"{grant_id}.{'A' if secret[0] != 'A' else 'B'}{secret[1:]}"
    for wrong in (grant["userCode"], grant_id, f"{grant_id}.", twisted):
        device.post(TOKEN, {"deviceCode": wrong}).refused("expired_token")
    device.post(TOKEN, {"deviceCode": grant["deviceCode"]}).ok(200)


def test_guessing_user_codes_is_slowed_down(server: Server, device: Browser, api: Api) -> None:
    grant = asked(device)
    statuses = [api.get(f"/v1/auth/device/BBBB-BBB{c}").status for c in "BCDFGHJKLMNPQRSTVWXZB"]
    assert statuses == [404] * 20 + [429]
    api.post(f"/v1/auth/device/{grant['userCode']}", {"decision": "approved"}).refused("rate_limited")
    server.account().get(f"/v1/auth/device/{grant['userCode']}").ok()


def test_a_foreign_page_approves_nothing(device: Browser, api: Api) -> None:
    grant, browser = asked(device), Browser.of(api)
    path, body = f"/v1/auth/device/{grant['userCode']}", {"decision": "approved"}
    for headers in ({"Origin": "http://evil.example"}, {CSRF_HEADER: None}):
        browser.post(path, body, headers=headers).refused("forbidden")
    device.post(TOKEN, {"deviceCode": grant["deviceCode"]}).refused("authorization_pending")


def test_asking_without_end_is_limited(server: Server) -> None:
    device = Browser(server.url)
    assert {device.post(CODE, {}).status for _ in range(50)} == {200}
    device.post(CODE, {}).refused("rate_limited")

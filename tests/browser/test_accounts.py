"""Journeys of people with accounts: signing up, in and out, a forgotten password, sessions, keys, a device."""

from __future__ import annotations

from typing import Any

import pytest

from api.accounts import digits, new_email, new_password
from api.caller import Api
from api.plane import Server
from browser.conftest import Open, visiting


def send(page: Any, button: str, **fields: str) -> None:
    """Fill in the fields of a form by their names, and press its button."""
    for name, text in fields.items():
        page.fill(f"#in-{name}", text)
    page.click(f"main button:has-text('{button}')")


def test_from_signing_up_to_a_new_password(browser: Any, server: Server) -> None:
    email, first, second, third = new_email(), new_password(), new_password(), new_password()
    with visiting(browser, server.url) as visit:
        page = visit("/runs")
        assert page.inner_text("h1") == "Sign in", (
            "whoever is not signed in is asked first, wherever they wanted to go"
        )
        page.click("text=Make an account")
        send(page, "Sign up", name="Ada", email=email, password="short")
        assert page.evaluate("!document.querySelector('#in-password').checkValidity()"), (
            "the form says it before the server"
        )
        send(page, "Sign up", password=first)
        page.wait_for_selector("h1:has-text('Enter the code')")
        send(page, "Finish", code="000000")
        page.wait_for_selector("[role=alert]")
        send(page, "Finish", code=digits(server.url, email))
        page.wait_for_selector("h1:has-text('Runs')")
        page.wait_for_selector("text=No runs yet")

        page.click("a.who")
        page.wait_for_selector(f"text={email}")
        page.fill("#me-name", "Ada Lovelace")
        page.click("main button:has-text('Save')")
        page.wait_for_selector("a.who:has-text('Ada Lovelace')")

        page.click("role=tab[name=Security]")
        page.fill("#old", "not that one at all")
        page.fill("#fresh", second)
        page.click("text=Change the password")
        page.wait_for_selector("main [role=alert]")
        page.fill("#old", first)
        page.click("text=Change the password")
        page.wait_for_selector("text=Changed; 0 other sessions ended")

        page.click("text=Sign out")
        page.wait_for_selector("h1:has-text('Sign in')")
        send(page, "Sign in", email=email, password=first)
        page.wait_for_selector("[role=alert]")

        page.click("text=Forgot the password")
        send(page, "Send a code", email=email)
        page.wait_for_selector("h1:has-text('Choose a new password')")
        send(page, "Change the password", code=digits(server.url, email, 2), newPassword=third)
        page.wait_for_selector("h1:has-text('Runs'), h1:has-text('Sign in')")
        if page.inner_text("h1") == "Sign in":
            send(page, "Sign in", email=email, password=third)
        page.wait_for_selector("h1:has-text('Runs')")


def test_another_session_is_ended(browser: Any, visit: Open, api: Api) -> None:
    mine = visit("/account?tab=security")
    with visiting(browser, api.url, api) as elsewhere:
        other = elsewhere("/runs")
        mine.wait_for_selector("tbody tr:nth-child(2)")
        row = mine.locator("tbody tr", has_not_text="this one")
        row.locator("button:has-text('End')").click()
        mine.click("dialog button.danger")
        other.wait_for_selector("h1:has-text('Sign in')")
        mine.wait_for_selector("tbody tr:nth-child(2)", state="detached")


def test_a_key_is_made_shown_once_and_revoked(visit: Open, api: Api) -> None:
    page = visit("/account?tab=keys")
    page.wait_for_selector("text=No API keys")
    page.fill("#key-name", "nightly")
    page.select_option("#key-scope", "read")
    page.fill("#key-days", "7")
    page.click("text=Make the key")
    raw = page.inner_text(".notice.good code")
    assert api.as_(raw).get("/v1/me").ok()["scope"] == "read"
    page.click("button:has-text('Done')")
    page.wait_for_selector(".notice.good", state="detached")
    assert raw not in page.content()
    page.click("main button:has-text('Revoke')")
    page.click("dialog button.danger")
    page.wait_for_selector("text=No API keys")
    api.as_(raw).get("/v1/me").refused("unauthorized")


@pytest.mark.parametrize(("button", "says"), [("Approve", "Approved."), ("Deny", "Denied.")])
def test_a_device_is_let_in_or_not(visit: Open, api: Api, button: str, says: str) -> None:
    asked = api.as_(None).post("/v1/auth/device/code", {"clientName": "flakes on attic"}).ok()
    page = visit("/device")
    page.fill("#device-code", "WRONG-CODE")
    page.click("text=Go on")
    page.wait_for_selector("main [role=alert]")
    page.fill("#device-code", asked["userCode"].lower())
    page.click("text=Go on")
    page.wait_for_selector("text=flakes on attic")
    page.click(f"main button:has-text('{button}')")
    page.wait_for_selector(f"text={says}")
    answer = api.as_(None).post("/v1/auth/device/token", {"deviceCode": asked["deviceCode"]})
    assert answer.status == (200 if button == "Approve" else 400), answer.content

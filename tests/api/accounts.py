"""People with e-mail addresses. The servers of these tests have no SMTP, so their mail is in their log."""

from __future__ import annotations

import re
import secrets
import time
from dataclasses import dataclass

from api.browser import Browser
from api.plane import SERVERS

WAIT_S = 30.0


@dataclass(frozen=True)
class Person:
    """An account, and a browser that is signed in to it."""

    email: str
    password: str
    browser: Browser


def new_email() -> str:
    return f"ada-{secrets.token_hex(5)}@example.com"


def new_password() -> str:
    return f"correct horse {secrets.token_hex(4)}"


def sign_up(url: str) -> Person:
    """A new account, made as people make theirs."""
    browser, email, password = Browser(url), new_email(), new_password()
    body = {"email": email, "password": password, "name": "Ada"}
    sent = browser.post("/v1/auth/sign-up", body).ok(202)
    code = {"verification": sent["verification"], "code": digits(url, email)}
    browser.post("/v1/auth/verify", code).ok(200)
    return Person(email, password, browser)


def mails(url: str, email: str) -> list[str]:
    """The subjects of what was sent to this address, oldest first."""
    text = SERVERS[url].log_file.read_text()
    lines = [line for line in text.splitlines() if "mail.printed" in line and f"to={email}" in line]
    return [match[1] for line in lines if (match := re.search(r"subject='([^']*)'", line))]


def digits(url: str, email: str, count: int = 1) -> str:
    """The code of the newest mail to this address, once there are `count` of them."""
    deadline = time.monotonic() + WAIT_S
    while True:
        found = [m for m in mails(url, email) if re.match(r"\d{6} is", m)]
        if len(found) >= count:
            return found[-1][:6]
        assert time.monotonic() < deadline, mails(url, email)
        time.sleep(0.02)


def wrong(code: str) -> str:
    """Six other digits."""
    return f"{(int(code) + 1) % 1_000_000:06d}"

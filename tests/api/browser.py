"""A browser as far as the server can tell: it keeps cookies, says where its pages are from, and its own pages prove themselves."""

from __future__ import annotations

import secrets
from typing import Any

import httpx2
import msgspec

from api.caller import Answer, Api, check_documented
from flakes.wire.auth import CSRF_COOKIE, CSRF_HEADER, SESSION_COOKIE


class Browser:
    """One browser profile on pages of `url`. `Set-Cookie` is obeyed; nothing is sent that a browser would not."""

    def __init__(self, url: str) -> None:
        self.url = url
        # Everybody comes from an address of their own, through a proxy on this machine.
        self.address = f"10.{secrets.randbelow(256)}.{secrets.randbelow(256)}.{secrets.randbelow(256)}"
        self.cookies: dict[str, str] = {}
        self.attributes: dict[str, set[str]] = {}

    @classmethod
    def of(cls, api: Api) -> Browser:
        """One that is signed in as the account."""
        browser = cls(api.url)
        browser.take_link(api).ok(200)
        return browser

    def take_link(self, api: Api) -> Answer:
        """Open a fresh one-time link of the account."""
        code = api.post("/v1/auth/browser-links").ok(201)["code"]
        return self.post("/v1/auth/browser-link", {"code": code})

    def named(self, cookie: str) -> str:
        """What the server calls a cookie at this address, as the console's pages find it."""
        own = f"{cookie}_{self.url.rpartition(':')[2]}"
        return own if own in self.cookies else cookie

    @property
    def cookie_header(self) -> dict[str, str]:
        return {"Cookie": "; ".join(f"{name}={value}" for name, value in self.cookies.items())}

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        headers: dict[str, str | None] | None = None,
        checked: bool = True,
        **query: Any,
    ) -> Answer:
        """A request of this server's page. `headers` are added; None leaves one out."""
        sent: dict[str, str | None] = {**self.cookie_header, "X-Forwarded-For": self.address}
        if method != "GET":
            sent |= {"Origin": self.url, CSRF_HEADER: self.cookies.get(self.named(CSRF_COOKIE), "")}
        given = {name: value for name, value in (sent | (headers or {})).items() if value is not None}
        with httpx2.Client(base_url=self.url, timeout=30, trust_env=False, verify=False) as http:
            data = None if body is None else msgspec.json.encode(body)
            response = http.request(method, path, content=data, headers=given, params=query or None)
        for line in response.headers.get_list("set-cookie"):
            self._keep(line)
        answer = Answer(response.status_code, response.headers, response.content)
        if checked and path.startswith("/v1/"):  # the others are pages for people
            check_documented(method, path.partition("?")[0], answer)
        return answer

    def get(self, path: str, **query: Any) -> Answer:
        return self.call("GET", path, **query)

    def post(self, path: str, body: Any = None, **options: Any) -> Answer:
        return self.call("POST", path, body, **options)

    def patch(self, path: str, body: Any) -> Answer:
        return self.call("PATCH", path, body)

    def delete(self, path: str) -> Answer:
        return self.call("DELETE", path)

    @property
    def session_id(self) -> str:
        return session_id(self.cookies)

    def _keep(self, line: str) -> None:
        pair, *attributes = [part.strip() for part in line.split(";")]
        name, _, value = pair.partition("=")
        self.attributes[name] = {attribute.lower() for attribute in attributes}
        if "max-age=0" in self.attributes[name]:
            self.cookies.pop(name, None)
        else:
            self.cookies[name] = value.strip('"')


def session_id(cookies: dict[str, str]) -> str:
    """What the server calls the session of these cookies."""
    (token,) = (value for name, value in cookies.items() if name.startswith(SESSION_COOKIE))
    return token.partition(".")[0].rsplit("_", 1)[-1]

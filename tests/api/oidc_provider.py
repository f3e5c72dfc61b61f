"""A small OpenID Connect provider on loopback that really signs, checks what a client sends, and lies when told to."""

from __future__ import annotations

import base64
import hashlib
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import msgspec
from joserfc import jwt
from joserfc.jwk import ECKey, RSAKey

CLIENT_ID, CLIENT_SECRET = "flakes", "a secret: of the client"


@dataclass
class Provider:
    """`user` is who consents. `claims` replace what the ID token says; `key` what signs it; `header` its header."""

    url: str = ""
    user: dict[str, Any] = field(default_factory=dict)
    claims: dict[str, Any] = field(default_factory=dict)
    key: Any = field(default_factory=lambda: ECKey.generate_key("P-256", {"kid": "first"}, private=True))
    published: Any = None
    header: dict[str, Any] = field(default_factory=lambda: {"alg": "ES256"})
    issuer: str | None = None
    grants: dict[str, dict[str, str]] = field(default_factory=dict)
    asked: list[dict[str, str]] = field(default_factory=list)
    key_fetches: int = 0

    def become(self, email: str, *, verified: bool = True, subject: str = "", name: str = "Ada") -> None:
        """Be somebody who consents at once, and honest again."""
        self.claims, self.header = {}, {"alg": "ES256"}
        self.user = {
            "sub": subject or secrets.token_hex(8), "email": email, "email_verified": verified, "name": name,
        }  # fmt: skip

    def rotate(self) -> None:
        """Sign with a new key of another kind."""
        self.key, self.header = RSAKey.generate_key(2048, {"kid": "second"}, private=True), {"alg": "RS256"}

    def authorize(self, query: dict[str, str]) -> str:
        """What a user's consent sends the browser back to."""
        self.asked.append(query)
        assert (query["response_type"], query["client_id"]) == ("code", CLIENT_ID)
        assert query["code_challenge_method"] == "S256"
        assert "openid" in query["scope"].split()
        code = secrets.token_urlsafe(16)
        self.grants[code] = query
        return f"{query['redirect_uri']}?{urlencode({'code': code, 'state': query['state'], 'session_state': 'x'})}"

    def token(self, form: dict[str, str], authorization: str) -> tuple[int, dict[str, Any]]:
        """The token endpoint: the code once, by the client that it is for, with its verifier."""
        asked = self.grants.pop(form.get("code", ""), None)
        given = base64.b64decode(authorization.removeprefix("Basic ") or b"").decode()
        digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).decode().rstrip("=")
        if asked is None or challenge != asked["code_challenge"] or form["redirect_uri"] != asked["redirect_uri"]:
            return 400, {"error": "invalid_grant"}
        if given != "flakes:a%20secret%3A%20of%20the%20client":
            return 401, {"error": "invalid_client"}
        now = int(time.time())
        claims = {"iss": self.url, "aud": CLIENT_ID, "iat": now, "exp": now + 300, "nonce": asked["nonce"]}
        said = {name: value for name, value in {**claims, **self.user, **self.claims}.items() if value is not None}
        header = {"kid": self.key.kid, **self.header}
        token = jwt.encode(header, said, self.key, algorithms=[header["alg"]])
        return 200, {"access_token": "x", "token_type": "Bearer", "id_token": token}

    def document(self, path: str) -> dict[str, Any] | None:
        if path == "/.well-known/openid-configuration":
            return {
                "issuer": self.issuer or self.url, "authorization_endpoint": f"{self.url}/authorize",
                "token_endpoint": f"{self.url}/token", "jwks_uri": f"{self.url}/keys",
            }  # fmt: skip
        if path == "/keys":
            self.key_fetches += 1
            return {"keys": [(self.published or self.key).as_dict(private=False)]}
        return None


@contextmanager
def provider() -> Iterator[Provider]:
    """A provider that serves until the block ends."""
    state = Provider()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            address = urlsplit(self.path)
            if address.path == "/authorize":
                self.send_response(302)
                query = {name: values[0] for name, values in parse_qs(address.query).items()}
                self.send_header("Location", state.authorize(query))
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            found = state.document(address.path)
            self._send(404 if found is None else 200, found or {})

        def do_POST(self) -> None:
            text = self.rfile.read(int(self.headers["content-length"])).decode()
            form = {name: values[0] for name, values in parse_qs(text).items()}
            self._send(*state.token(form, self.headers.get("authorization", "")))

        def _send(self, status: int, body: dict[str, Any]) -> None:
            content = msgspec.json.encode(body)
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        thread.join()
        server.server_close()

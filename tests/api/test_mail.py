"""Mail over SMTP: encrypted one way or the other, signed in, and never in the clear where that is not asked for."""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from api.accounts import new_email, new_password
from api.browser import Browser
from api.plane import serving
from api.smtp_server import PASSWORD, USERNAME, SmtpServer, certificate, smtp_server
from embedded_servers import wait_until
from flakes.server.auth import mail
from flakes.wire.config import Mail
from flakes.wire.errors import ApiError


@pytest.fixture
def trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """A certificate that this machine trusts, for the server's side."""
    path, context = certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    monkeypatch.setattr(mail, "BACKOFF_S", 0.01)
    return context


@pytest.fixture
def password_file(tmp_path: Path) -> Path:
    path = tmp_path / "smtp.password"
    path.touch(0o600)
    path.write_text(PASSWORD)
    return path


@pytest.fixture
def smtp(trusted: ssl.SSLContext, request: pytest.FixtureRequest) -> Iterator[SmtpServer]:
    with ExitStack() as stack:
        yield stack.enter_context(smtp_server(trusted, request.param))


def settings(server: SmtpServer, password_file: Path, **more: Any) -> Mail:
    values: dict[str, Any] = {
        "host": "127.0.0.1", "port": server.port, "security": server.security, "sender": "flakes@example.com",
        "username": USERNAME, "password_file": str(password_file), "timeout_s": 10.0,
    }  # fmt: skip
    return Mail(**(values | more))


def send(config: Mail) -> None:
    """One mail, to its end."""

    async def all_of_it() -> None:
        mailer = mail.Mailer(config)
        mailer.send("ada@example.com", "123456 is your code", "Grüße: 123456\n")
        await asyncio.gather(*mailer._sending)

    asyncio.run(all_of_it())


@pytest.mark.parametrize("smtp", ["starttls", "tls"], indirect=True)
def test_mail_is_encrypted_and_signed_in(smtp: SmtpServer, password_file: Path) -> None:
    send(settings(smtp, password_file))
    (received,) = smtp.received
    assert (received.encrypted, received.username, received.to) == (True, USERNAME, "ada@example.com")
    assert "Subject: 123456 is your code" in received.text
    assert not [line for line in smtp.said if "AUTH" in line or "123456" in line]


@pytest.mark.parametrize("smtp", ["none"], indirect=True)
def test_without_encryption_only_where_that_is_said(smtp: SmtpServer, password_file: Path) -> None:
    """A server that does not offer STARTTLS, or somebody between who takes the offer away, learns nothing."""
    send(settings(smtp, password_file, security="starttls"))
    assert smtp.received == []
    assert {line.split()[0].upper() for line in smtp.said if line} <= {"EHLO", "QUIT", "RSET"}
    send(settings(smtp, password_file, username=None))
    assert [each.encrypted for each in smtp.received] == [False]


@pytest.mark.parametrize("smtp", ["starttls", "tls"], indirect=True)
def test_a_certificate_that_nobody_vouches_for_gets_no_mail(
    smtp: SmtpServer, password_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    send(settings(smtp, password_file))
    assert smtp.received == []
    assert smtp.connections == mail.ATTEMPTS


@pytest.mark.parametrize("smtp", ["tls"], indirect=True)
def test_what_passes_is_tried_again_and_what_does_not_is_given_up(smtp: SmtpServer, password_file: Path) -> None:
    smtp.refusals["MAIL"] = ["421 later"]
    send(settings(smtp, password_file))
    assert (smtp.connections, len(smtp.received)) == (2, 1)
    smtp.refusals["RCPT"] = ["550 nobody of that name"] * 9
    send(settings(smtp, password_file))
    assert (smtp.connections, len(smtp.received)) == (3, 1)
    password_file.write_text("not that one")
    send(settings(smtp, password_file))
    assert (smtp.connections, len(smtp.received)) == (3 + mail.ATTEMPTS, 1)


def test_the_password_of_the_mail_server_is_kept_like_a_credential(password_file: Path) -> None:
    password_file.chmod(0o644)
    with pytest.raises(ApiError, match="mode 0644"):
        mail.Mailer(Mail(host="127.0.0.1", sender="a@example.com", password_file=str(password_file)))


def test_an_account_is_made_by_mail(
    trusted: ssl.SSLContext, password_file: Path, tmp_path: Path, database: str
) -> None:
    """The real server with a real mail server; the code is in the mail, and nowhere else."""
    with smtp_server(trusted, "starttls") as smtp:
        sections = {
            "auth": {"signUp": True},
            "mail": {
                "host": "127.0.0.1", "port": smtp.port, "sender": "flakes@example.com",
                "username": USERNAME, "passwordFile": str(password_file),
            },
        }  # fmt: skip
        with serving(tmp_path, database, sections) as server:
            browser, email, password = Browser(server.url), new_email(), new_password()
            sent = browser.post("/v1/auth/sign-up", {"email": email, "password": password}).ok(202)
            wait_until(lambda: bool(smtp.received), 30)
            (received,) = smtp.received
            assert (received.to, received.encrypted) == (email, True)
            found = re.search(r"^(\d{6})$", received.text, re.M)
            assert found
            code = {"verification": sent["verification"], "code": found[1]}
            assert browser.post("/v1/auth/verify", code).ok(200)["email"] == email
            log = server.log_file.read_text()
            assert found[1] not in log
            assert PASSWORD not in log

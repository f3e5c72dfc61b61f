"""Mail with one-time codes: by SMTP in a thread, or into the log where no SMTP server is configured.

A request never waits for its mail, so that how long it takes tells nothing about who has an account. What
cannot be sent after a few tries is given up and logged without its code; people ask for a new one.
"""

from __future__ import annotations

import asyncio
import smtplib
import ssl
from email.message import EmailMessage
from pathlib import Path
from typing import Final

import structlog

from flakes.wire.config import Mail, credential
from flakes.wire.errors import ApiError

ATTEMPTS: Final = 3
BACKOFF_S: Final = 2.0
WAITING_MAX: Final = 200
AT_ONCE_MAX: Final = 2

log = structlog.get_logger()


class Mailer:
    """Sends in the background. `config` None prints instead."""

    def __init__(self, config: Mail | None) -> None:
        self._config = config
        self._password = ""
        if config is not None and config.password_file is not None:
            self._password = credential(Path(config.password_file))
        self._sending: set[asyncio.Task[None]] = set()
        self._turns = asyncio.Semaphore(AT_ONCE_MAX)

    def send(self, to: str, subject: str, text: str) -> None:
        """Queue one mail; too many of them at once are dropped, and that is logged."""
        if self._config is None:
            log.warning("mail.printed", to=to, subject=subject, text=text)
            return
        if len(self._sending) >= WAITING_MAX:
            log.error("mail.dropped", subject=subject, waiting=len(self._sending))
            return
        task = asyncio.create_task(self._send(self._config, to, subject, text))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def _send(self, config: Mail, to: str, subject: str, text: str) -> None:
        message = EmailMessage()
        message["From"], message["To"], message["Subject"] = config.sender, to, subject
        message["Auto-Submitted"] = "auto-generated"
        message.set_content(text)
        async with self._turns:
            for attempt in range(1, ATTEMPTS + 1):
                try:
                    await asyncio.to_thread(_deliver, config, self._password, message)
                    return
                except (OSError, smtplib.SMTPException) as error:
                    log.warning("mail.failed", attempt=attempt, error=str(error)[:200])
                    if isinstance(error, smtplib.SMTPRecipientsRefused) or attempt == ATTEMPTS:
                        return
                    await asyncio.sleep(BACKOFF_S * attempt)


def _deliver(config: Mail, password: str, message: EmailMessage) -> None:
    context = ssl.create_default_context()
    if config.security == "tls":
        connection = smtplib.SMTP_SSL(config.host, config.port, timeout=config.timeout_s, context=context)
    else:
        connection = smtplib.SMTP(config.host, config.port, timeout=config.timeout_s)
    with connection as smtp:
        if config.security == "starttls":
            smtp.starttls(context=context)
        if config.username is not None:
            smtp.login(config.username, password)
        smtp.send_message(message)


def address_of(text: str) -> str:
    """An e-mail address as it is stored, or `invalid_request`. Whether it exists, only a mail can tell."""
    address = text.strip().lower()
    local, at, domain = address.rpartition("@")
    whole = at and local and "@" not in local and "." in domain.strip(".") and len(address) <= 254
    if not whole or not address.isprintable() or any(c in ' <>()[],;:\\"' for c in address):
        raise ApiError("invalid_request", "that is not an e-mail address", "write it as name@example.com", issues=[{"path": "email", "message": "not an e-mail address"}])
    return address

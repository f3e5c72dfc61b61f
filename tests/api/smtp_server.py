"""A small SMTP server on loopback: STARTTLS, implicit TLS or neither, a login, and what came in, as it was said."""

from __future__ import annotations

import base64
import contextlib
import datetime
import ipaddress
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

USERNAME: Final = "flakes"
PASSWORD: Final = "a password of the mail server"


@dataclass(frozen=True)
class Received:
    """One mail: over what, as whom, to whom, and its text."""

    encrypted: bool
    username: str | None
    to: str
    text: str


@dataclass
class SmtpServer:
    """`security`: as in the configuration. `refusals`: answers to the next commands of that name."""

    context: ssl.SSLContext
    security: str
    port: int = 0
    received: list[Received] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    """Every line that came unencrypted."""
    refusals: dict[str, list[str]] = field(default_factory=dict)
    connections: int = 0

    def serve(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                self.connections += 1
                threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError), connection:
            if self.security == "tls":
                connection = self.context.wrap_socket(connection, server_side=True)
            session = _Session(self, connection)
            try:
                while session.more():
                    pass
            finally:
                session.lines.close()
                session.connection.close()


class _Session:
    def __init__(self, server: SmtpServer, connection: socket.socket) -> None:
        self.server = server
        self.connection = connection
        self.lines = connection.makefile("rb")
        self.username: str | None = None
        self.to = ""
        self.answer("220 here")

    @property
    def encrypted(self) -> bool:
        return isinstance(self.connection, ssl.SSLSocket)

    def answer(self, *lines: str) -> None:
        self.connection.sendall("".join(f"{line}\r\n" for line in lines).encode())

    def more(self) -> bool:
        line = self.lines.readline().decode().strip()
        if not self.encrypted:
            self.server.said.append(line)
        word, _, rest = line.partition(" ")
        word = word.upper()
        refusals = self.server.refusals.get(word)
        if refusals:
            self.answer(refusals.pop(0))
        elif word == "EHLO":
            offered = ["AUTH PLAIN"] if self.encrypted else []
            offered += ["STARTTLS"] if self.server.security == "starttls" and not self.encrypted else []
            self.answer("250-here", *(f"250-{each}" for each in offered), "250 SIZE 1000000")
        elif word == "STARTTLS":
            self.answer("220 go on")
            self.lines.close()
            self.connection = self.server.context.wrap_socket(self.connection, server_side=True)
            self.lines = self.connection.makefile("rb")
        elif word == "AUTH":
            self.authenticate(rest)
        elif word == "DATA":
            self.take()
        else:
            self.to = rest.partition("<")[2].partition(">")[0] if word == "RCPT" else self.to
            self.answer("221 bye" if word == "QUIT" else "250 fine")
        return bool(line) and word != "QUIT"

    def authenticate(self, rest: str) -> None:
        _, username, password = base64.b64decode(rest.split()[1]).decode().split("\0")
        fine = (username, password) == (USERNAME, PASSWORD)
        self.username = username if fine else None
        self.answer("235 welcome" if fine else "535 no")

    def take(self) -> None:
        self.answer("354 go on")
        lines: list[str] = []
        while (line := self.lines.readline().decode().rstrip("\r\n")) != ".":
            lines.append(line)
        self.server.received.append(Received(self.encrypted, self.username, self.to, "\n".join(lines)))
        self.answer("250 kept")


@contextlib.contextmanager
def smtp_server(context: ssl.SSLContext, security: str) -> Iterator[SmtpServer]:
    """One that listens on a free port of 127.0.0.1."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = SmtpServer(context, security, listener.getsockname()[1])
        threading.Thread(target=server.serve, args=(listener,), daemon=True).start()
        yield server


def certificate(directory: Path) -> tuple[Path, ssl.SSLContext]:
    """A certificate for 127.0.0.1 that signs itself: its file, and a server's context."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "mail")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    path, private = directory / "mail.pem", directory / "mail.key"
    path.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ))  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path, private)
    return path, context

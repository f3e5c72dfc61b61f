"""The configuration of a local session: written once, then kept, so that a user's edits stay.

Only two values follow the facts at every start: the port in `server.toml` when the old one is taken,
and the address in `host.toml` with it. The host is set up through the public API with the owner's
token, like any other host.
"""

from __future__ import annotations

import http.client
import json
import os
import platform
import re
import socket
import sys
import tomllib
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from flakes.core.limits import CONCURRENCY_MAX
from flakes.session.layout import Layout, write_private
from flakes.wire.auth import BrowserLinkAnswer
from flakes.wire.errors import ApiError, from_body
from flakes.wire.hosts import Host, HostSetup, HostSetupAnswer

LOOPBACK = "127.0.0.1"


def server_config(layout: Layout) -> int:
    """Write `server.toml` when there is none, move it to a free port when its own is taken.

    Returns the port.
    """
    path = layout.server_config
    if not path.exists():
        port = _free_port()
        write_private(path, _server_toml(layout, port))
        return port
    text = path.read_text(encoding="utf-8")
    port = _listen_port(path, text)
    if _is_free(port):
        return port
    port = _free_port()
    changed, count = re.subn(r"(?m)^(\s*port\s*=\s*)\d+", rf"\g<1>{port}", text, count=1)
    if not count:
        raise ApiError(
            "config_invalid",
            f"{path}: no `port` to change",
            f"write `port = {port}` under [listen]",
        )
    write_private(path, changed)
    return port


def host_config(layout: Layout, server: str) -> bool:
    """Set this machine up as a host when it is not yet, and let its config point to `server`.

    Returns whether the file was changed, so that a running host has to read it again.
    """
    path = layout.host_config
    if not path.exists() or not layout.host_credential.exists():
        answer = _call(layout, server, "POST", "/v1/hosts/setup", HostSetup(
            host_name=platform.node() or "local", auto_bind=True,
        ))  # fmt: skip
        setup = msgspec.json.decode(answer, type=HostSetupAnswer)
        # The credential first: a config without one would look complete to the next start.
        write_private(layout.host_credential, setup.raw_credential + "\n")
        write_private(path, _host_toml(layout, server, setup.host.host_id))
        return True
    text = path.read_text(encoding="utf-8")
    changed = re.sub(
        r"(?m)^(\s*controlPlaneUrl\s*=\s*).*$",
        lambda match: match[1] + _quoted(server),
        text,
        count=1,
    )
    if changed == text:
        return False
    write_private(path, changed)
    return True


def host_is_online(layout: Layout, server: str) -> bool:
    """Whether the control plane sees the session's host."""
    host_id = tomllib.loads(layout.host_config.read_text(encoding="utf-8"))["hostId"]
    answer = _call(layout, server, "GET", f"/v1/hosts/{host_id}", None)
    return msgspec.json.decode(answer, type=Host).status == "online"


def browser_link(layout: Layout, server: str) -> str:
    """The console's address with a code that signs one browser in as the owner, once."""
    answer = _call(layout, server, "POST", "/v1/auth/browser-links", None)
    return console_link(server, msgspec.json.decode(answer, type=BrowserLinkAnswer).code)


def console_link(server: str, code: str) -> str:
    """In the fragment, which no server and no proxy sees or logs."""
    return f"{server}/console/#link={code}"


def _call(layout: Layout, server: str, method: str, path: str, body: object | None) -> bytes:
    """One request as the owner. The supervisor lives long and asks little: no HTTP library for it."""
    url = urlsplit(server)
    connection = http.client.HTTPConnection(url.hostname or LOOPBACK, url.port, timeout=30)
    token = layout.owner_credential.read_text(encoding="utf-8").strip()
    try:
        connection.request(
            method,
            path,
            body=None if body is None else msgspec.json.encode(body),
            headers={"authorization": f"Bearer {token}", "content-type": "application/json"},
        )
        response = connection.getresponse()
        content = response.read()
    finally:
        connection.close()
    if response.status >= 400:
        raise from_body(response.status, _json(content))
    return content


def _json(content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        return None


def _listen_port(path: Path, text: str) -> int:
    try:
        port = tomllib.loads(text).get("listen", {}).get("port")
    except tomllib.TOMLDecodeError as error:
        raise ApiError(
            "config_invalid", f"{path}: not valid TOML: {error}", "mend the line that is named"
        ) from error
    return port if isinstance(port, int) else 0


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # Like the server: connections of its predecessor that are still closing are no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
        return port != 0


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((LOOPBACK, 0))
        return probe.getsockname()[1]


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _server_toml(layout: Layout, port: int) -> str:
    return f"""\
# The control plane of the local session. Edits are kept; `flakes config schema server` shows every key.

[listen]
host = "{LOOPBACK}"
port = {port}

[database]
dataDir = {_quoted(str(layout.postgresql))}

[blobs]
directory = {_quoted(str(layout.blobs))}

[auth]
localCredentialFile = {_quoted(str(layout.owner_credential))}
"""


def _host_toml(layout: Layout, server: str, host_id: str) -> str:
    concurrency = min(CONCURRENCY_MAX, max(4, 2 * (os.cpu_count() or 1)))
    return f"""\
# This machine as a host. Edits are kept; `flakes config schema host` shows every key.
controlPlaneUrl = {_quoted(server)}
hostId = {_quoted(host_id)}
credentialFile = {_quoted(str(layout.host_credential))}
stateDir = {_quoted(str(layout.host_state))}
offerAgents = true                # pi, claude and codex, where they are on the PATH; they run as you

[[pools]]
poolKey = "local-command"
provider = "process"              # no isolation: tasks run as you
adapter = "command"
maxInstances = 1
maxConcurrency = {concurrency}
advertisedCapabilities = ["command", {_quoted(sys.platform)}]

[[pools]]
poolKey = "local-harness"         # Python that orchestrates; it gives its slot back while it waits
provider = "process"
adapter = "harness"
maxInstances = 1
maxConcurrency = {concurrency}
advertisedCapabilities = ["harness"]
"""

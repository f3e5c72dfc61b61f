"""The configuration files of the three processes, as frozen structs with their reading and their examples.

A file is TOML with camelCase keys. Unknown keys are refused with the line and a suggestion; a missing
file, bad TOML and a bad value each say what to change. One object is built at start and passed down.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import tomllib
from collections.abc import Generator
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, cast

from msgspec import Meta, field

from flakes.core import limits
from flakes.wire import config_mistakes as mistakes
from flakes.wire.addresses import Addresses
from flakes.wire.codec import Body, BodyError, convert
from flakes.wire.errors import ApiError

Positive = Annotated[float, Meta(gt=0)]
PositiveInt = Annotated[int, Meta(ge=1)]
INHERITED_ENV = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "USER", "SHELL")
LogFormat = Literal["text", "json"]
Name = Annotated[str, Meta(min_length=1)]
Port = Annotated[int, Meta(ge=0, le=65_535)]


class Listen(Body, frozen=True, kw_only=True):
    """Where the server listens. Port 0 takes a free one and prints it."""

    host: str = "127.0.0.1"
    port: Port = 7733
    public_url: Annotated[str, Meta(pattern=r"^https?://[^/\s]+")] | None = None
    """How clients reach it when that is not `http://host:port`."""
    trusted_proxies: list[str] = field(default_factory=lambda: ["127.0.0.1", "::1"])
    """Whose `X-Forwarded-For` and `X-Forwarded-Proto` are believed: addresses and networks."""


class Database(Body, frozen=True, kw_only=True):
    """`url` points to a PostgreSQL 15 or newer; without it the embedded one lives in `data_dir`."""

    url: str | None = None
    data_dir: str | None = None
    pool_size: Annotated[int, Meta(ge=2, le=100)] = 12


class Blobs(Body, frozen=True, kw_only=True):
    """A local directory or an s3://, gs:// or az:// URL."""

    url: str | None = None
    directory: str | None = None


class Auth(Body, frozen=True, kw_only=True):
    """`localCredentialFile`: keep one owner account and write its token there (a local session)."""

    local_credential_file: str | None = None
    sign_up: bool | None = None
    """Whether anybody may make an account; left out, they may unless this is a local session."""

    @property
    def is_open(self) -> bool:
        """Whether accounts may be made."""
        return self.local_credential_file is None if self.sign_up is None else self.sign_up


class Mail(Body, frozen=True, kw_only=True):
    """The SMTP server that takes the mail with one-time codes. Without it they are printed in the log."""

    host: str
    port: Port = 587
    security: Literal["starttls", "tls", "none"] = "starttls"
    sender: str
    """The address that mail comes from."""
    username: str | None = None
    password_file: str | None = None
    """Absolute, 0600."""
    timeout_s: Positive = 20.0


class Oidc(Body, frozen=True, kw_only=True):
    """An OpenID Connect provider that people may sign in with, besides passwords."""

    issuer: str
    client_id: str
    client_secret_file: str | None = None
    """Absolute, 0600; without it this is a public client, which PKCE protects."""
    name: str = "Single sign-on"
    """What its button says."""
    scopes: list[str] = field(default_factory=lambda: ["openid", "email", "profile"])


class Leases(Body, frozen=True, kw_only=True):
    """When silence means trouble."""

    heartbeat_s: Positive = 15.0
    suspect_after_s: Positive = 40.0
    lost_after_s: Positive = 60.0
    offer_timeout_s: Positive = 20.0
    """An offer that nobody accepted is withdrawn after this."""


class Capacity(Body, frozen=True, kw_only=True):
    """When sandboxes come and go."""

    idle_retire_s: Positive = 300.0
    launch_timeout_s: Positive = 60.0
    launch_backoff_s: Positive = 10.0


class ServerConfig(Body, frozen=True, kw_only=True):
    """`flakes server --config server.toml`."""

    listen: Listen = Listen()
    database: Database = Database()
    blobs: Blobs = Blobs()
    auth: Auth = Auth()
    mail: Mail | None = None
    oidc: Oidc | None = None
    leases: Leases = Leases()
    capacity: Capacity = Capacity()
    log_format: LogFormat = "text"


class Isolation(Body, frozen=True, kw_only=True):
    """What the daemon puts each task into: nothing (`none`: a task is an ordinary process of the user), namespaces
    (`bubblewrap`), or nothing because the whole sandbox is inside something (`outer`)."""

    kind: Literal["none", "bubblewrap", "outer"] = "none"
    executable: str = "bwrap"
    """The program `bwrap`: a path, or a name on PATH."""
    read_only: list[str] = []
    """Directories and files that tasks may read, beside the system's."""
    hidden: list[str] = []
    """Directories and files that stay invisible, also below ones that are visible."""
    network_allow: Annotated[list[str], Meta(max_length=256)] = []
    """`host`, `host:port`, `*.domain`; nothing here means no network at all."""
    memory_mb: PositiveInt | None = None
    """Limits of each task; None is no limit."""
    cpus: Positive | None = None
    processes: PositiveInt | None = None


class AgentConfig(Body, frozen=True, kw_only=True):
    """Where the agent of a pool is on this machine. `command` starts it (else its usual name, found on the
    PATH); `configDir` holds its settings and credentials (else their usual place in the home directory)."""

    command: list[str] = []
    config_dir: str | None = None


class SandboxConfig(Body, frozen=True, kw_only=True):
    """`flakes sandbox --config sandbox.toml`."""

    control_plane_url: Addresses
    """One address, or several replicas' as a list."""
    sandbox_id: Name
    credential_file: str
    state_dir: str
    adapters: list[str] = field(default_factory=lambda: ["command"])
    capabilities: list[str] = []
    max_concurrency: Annotated[int, Meta(ge=1, le=limits.CONCURRENCY_MAX)] = 1
    env: dict[str, str] = {}
    """Added to the environment of every task."""
    inherit_env: list[str] = field(default_factory=lambda: list(INHERITED_ENV))
    """Variables of the daemon that tasks see; nothing else is passed on."""
    agent: AgentConfig = AgentConfig()
    sessions_dir: str | None = None
    """Where interrupted attempts leave their agents' sessions for the next attempt; below `stateDir` if not
    given."""
    project_root: str | None = None
    """Where this machine has the directories of projects: a task is told its project's, if it is there."""
    workspaces_dir: str | None = None
    """Where packs of workspaces are kept for the tasks to come, shared by the sandboxes of a host; below `stateDir`
    if not given."""
    workspaces_bytes_max: Annotated[int, Meta(ge=0)] = 10 * limits.GIB
    """How much of them is kept."""
    keep_directories: bool = False
    """Keep each task's directory after its result is acknowledged (for debugging)."""
    log_format: LogFormat = "text"
    storage_full_s: Annotated[float, Meta(gt=0, le=86_400)] = 60.0
    """How long the server's disk may be full before a task that stores something is refused."""
    isolation: Isolation = Isolation()


class Network(Body, frozen=True, kw_only=True):
    """What the tasks of an isolated pool may reach; nothing, unless it is listed."""

    allow: Annotated[list[str], Meta(max_length=256)] = []


class PoolConfig(Body, frozen=True, kw_only=True):
    """One pool of a host. Only the sanitized part is advertised."""

    pool_key: str
    adapter: str
    provider: str = "process"
    max_instances: Annotated[int, Meta(ge=1, le=limits.CONCURRENCY_MAX)] = 1
    max_concurrency: Annotated[int, Meta(ge=1, le=limits.CONCURRENCY_MAX)] = 1
    advertised_capabilities: Annotated[list[str], Meta(max_length=limits.CAPABILITIES_MAX)] = []
    resource_bounds: dict[str, Any] = {}
    """Advertised; `memoryMb`, `cpus` and `processes` are also what an isolating provider enforces."""
    env: dict[str, str] = {}
    network: Network = Network()
    read_only: list[str] = []
    """bubblewrap: what tasks may read beside the system."""
    matchlock_image: str | None = None
    """With it the provider is `matchlock`, unless another one is named."""
    mounts: list[str] = []
    """matchlock: `source:/guest[:mode]`."""
    executable_paths: dict[str, str] = {}
    """Programs of the provider by name (`bwrap`, `matchlock`); `flakes` is the path inside an image."""
    agent: AgentConfig = AgentConfig()


class HostConfig(Body, frozen=True, kw_only=True):
    """`flakes host run --config host.toml`."""

    control_plane_url: Addresses
    """One address, or several replicas' as a list; sandboxes get the same."""
    host_id: Name
    credential_file: str
    state_dir: str | None = None
    pools: Annotated[list[PoolConfig], Meta(max_length=limits.POOLS_PER_HOST_MAX)] = []
    offer_agents: bool = False
    """Agents that are on the PATH when the host starts (`pi`, `claude`, `codex`) have pools of their own."""
    log_format: LogFormat = "text"


CREDENTIAL_MODE = 0o600
CREDENTIAL_BYTES_MAX = 4096
_DOTTED = re.compile(r"[A-Za-z]\w*(?:\[\d+\])?(?:\.[\w-]+)*\Z")

C = TypeVar("C", ServerConfig, SandboxConfig, HostConfig)


def load(path: Path, kind: type[C]) -> C:
    """Read and check a file; every refusal is `config_invalid` naming file, line, key and fix."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        raise _invalid(path, None, "the file does not exist", f"write one: `flakes config schema {_name(kind)} > {path}`") from None
    except (OSError, UnicodeDecodeError) as error:
        raise _invalid(path, None, f"the file cannot be read: {error}", "check its permissions and encoding (UTF-8)") from error
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        line = mistakes.toml_line(str(error), text)
        raise _invalid(path, line, f"not valid TOML: {error}", "mend the line that is named") from error
    if kind is HostConfig:
        _imply_providers(values)
    try:
        return convert(values, kind)
    except BodyError as error:
        where, message, fix = mistakes.described(error.issues[0], kind, values, EXAMPLES[_name(kind)])
        line = mistakes.line_of(text, where)
        raise _invalid(path, line, f"{where or 'top level'}: {message}", _fix(kind, where, fix)) from error


@contextlib.contextmanager
def locating(path: Path) -> Generator[None]:
    """Refusals of the block that begin with a key (`pools[1].poolKey: ...`) get the file and the line."""
    try:
        yield
    except ApiError as error:
        key, colon, _ = error.message.partition(": ")
        if error.code != "config_invalid" or not colon or not _DOTTED.match(key):
            raise
        raise _invalid(path, mistakes.line_of(path.read_text(), key), error.message, error.fix) from error


def credential(path: Path) -> str:
    """The token in a credential file. It must be a regular file of this user at an absolute path, which
    nobody else may read; what is checked is the very file that is read."""
    if not path.is_absolute():
        raise _invalid(path, None, "credentialFile must be an absolute path", "write the full path")
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _invalid(path, None, "the credential file must be a regular file, not a symlink", "put the file itself there") from error
        raise _invalid(path, None, f"the credential file cannot be read: {error.strerror}", "set the host up again, or mend the path") from error
    try:
        info = os.fstat(descriptor)
        if not stat.S_ISREG(info.st_mode):
            raise _invalid(path, None, "the credential file must be a regular file, not a symlink", "put the file itself there")
        if info.st_uid != os.getuid():
            raise _invalid(path, None, "the credential file belongs to another user", f"chown it to uid {os.getuid()}")
        if stat.S_IMODE(info.st_mode) != CREDENTIAL_MODE:
            raise _invalid(path, None, f"the credential file has mode {stat.S_IMODE(info.st_mode):04o}", f"chmod 600 {path}")
        token = os.read(descriptor, CREDENTIAL_BYTES_MAX).decode("ascii", "replace").strip()
    finally:
        os.close(descriptor)
    if not token or not token.isprintable():
        raise _invalid(path, None, "the credential file holds no credential", "rotate the credential: `flakes host rotate`")
    return token


def _invalid(path: Path, line: int | None, message: str, fix: str) -> ApiError:
    where = f"{path}:{line}" if line else str(path)
    return ApiError("config_invalid", f"{where}: {message}", fix)


def _imply_providers(values: dict[str, Any]) -> None:
    """A pool with an image of matchlock is one of that provider, and need not say so."""
    pools = values.get("pools")
    for pool in cast("list[Any]", pools) if isinstance(pools, list) else ():
        if isinstance(pool, dict) and "matchlockImage" in pool:
            cast("dict[str, Any]", pool).setdefault("provider", "matchlock")


def _fix(kind: type[object], where: str, fix: str) -> str:
    if kind is HostConfig and re.fullmatch(r"pools\[\d+\]\.workspace", where):
        return "leave it out: the project root is stored with `flakes host project-root set`"
    see = f"see `flakes config schema {_name(kind)}` for every key"
    return f"{fix}; {see}" if fix else see


def _name(kind: type[object]) -> str:
    return kind.__name__.removesuffix("Config").lower()


EXAMPLES = {
    "server": """\
# flakes server --config server.toml
logFormat = "text"                # or "json"

[listen]
host = "127.0.0.1"                # loopback; put a TLS proxy in front to go further
port = 7733                       # 0 takes a free port and prints it
# publicUrl = "https://flakes.example.com"         # how browsers reach it, behind that proxy
trustedProxies = ["127.0.0.1", "::1"]              # whose X-Forwarded-For is believed

[database]
# url = "postgresql://flakes@db.internal/flakes"   # PostgreSQL 15 or newer
dataDir = "/var/lib/flakes/postgresql"             # or: the embedded server, kept here
poolSize = 12

[blobs]
directory = "/var/lib/flakes/blobs"                # or url = "s3://bucket/prefix"

[auth]
# localCredentialFile = "/home/me/.local/share/flakes/owner.credential"
# signUp = false                                   # nobody can make an account any more

# [mail]                                           # without it, codes are printed in the log
# host = "smtp.example.com"
# port = 587
# security = "starttls"                            # or "tls", "none"
# sender = "flakes@example.com"
# username = "flakes"
# passwordFile = "/etc/flakes/smtp.password"       # 0600, absolute

# [oidc]                                           # sign in with an OpenID Connect provider
# issuer = "https://login.example.com"
# clientId = "flakes"
# clientSecretFile = "/etc/flakes/oidc.secret"     # 0600, absolute
# name = "Single sign-on"

[leases]
heartbeatS = 15.0
suspectAfterS = 40.0
lostAfterS = 60.0
offerTimeoutS = 20.0

[capacity]
idleRetireS = 300.0
launchTimeoutS = 60.0
launchBackoffS = 10.0
""",
    "sandbox": """\
# flakes sandbox --config sandbox.toml
controlPlaneUrl = "http://127.0.0.1:7733"   # or several replicas: ["http://a:7733", "http://b:7733"]
sandboxId = "sandbox_01hzy0000000000000000000"
credentialFile = "/home/me/.local/state/flakes/sandbox.credential"   # 0600, absolute
stateDir = "/home/me/.local/state/flakes/sandbox"
adapters = ["command"]
capabilities = ["linux"]
maxConcurrency = 4
inheritEnv = ["PATH", "HOME", "LANG"]
keepDirectories = false
logFormat = "text"

[env]
EXAMPLE = "value"

[isolation]
kind = "none"                     # or "bubblewrap": each task in namespaces of its own
# readOnly = ["/opt/tools"]       # visible to tasks beside the system
# networkAllow = ["pypi.org", "*.example.com:8443"]   # nothing here: no network
# memoryMb = 4096                 # limits of each task
# cpus = 2.0
# processes = 512
""",
    "host": """\
# flakes host run --config host.toml
controlPlaneUrl = "http://127.0.0.1:7733"   # or several replicas: ["http://a:7733", "http://b:7733"]
hostId = "host_01hzy00000000000000000000"
credentialFile = "/home/me/.config/flakes/host.credential"   # 0600, absolute
stateDir = "/home/me/.local/state/flakes/host"
offerAgents = false               # true: pools for pi, claude and codex where they are on the PATH
logFormat = "text"

[[pools]]
poolKey = "local-command"
provider = "process"              # no isolation: tasks run as you
adapter = "command"
maxInstances = 1
maxConcurrency = 4
advertisedCapabilities = ["command", "linux"]

[pools.env]
EXAMPLE = "value"

[[pools]]
poolKey = "isolated-command"
provider = "bubblewrap"           # Linux namespaces for each task; no network unless it is allowed
adapter = "command"
maxInstances = 1
maxConcurrency = 4
advertisedCapabilities = ["linux", "isolated"]
readOnly = ["/opt/tools"]
resourceBounds = { memoryMb = 4096, cpus = 2, processes = 512 }

[pools.network]
allow = ["pypi.org", "*.pythonhosted.org", "git.example.com:8443"]
""",
}
"""Annotated examples, printed by `flakes config schema`; a test loads each one."""

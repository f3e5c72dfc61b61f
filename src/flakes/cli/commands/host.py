"""`flakes host`: this machine as a host. Set up once, then run; its credential is shown to nobody."""

from __future__ import annotations

import asyncio
import contextlib
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flakes.cli.commands.processes import config_option
from flakes.cli.options import json_option, remote_options
from flakes.cli.output import Output
from flakes.cli.render.parts import Part, Span, bold, dim
from flakes.cli.render.state import colour
from flakes.cli.target import Choice, choice, client, resolve
from flakes.wire.errors import EXIT_DONE, EXIT_USAGE, ApiError

if TYPE_CHECKING:
    from flakes.cli.host_files import Draft
    from flakes.cli.host_status import Local, Remote
    from flakes.client.api import Client
    from flakes.wire.bindings import WorkspaceRoot
    from flakes.wire.config import HostConfig
    from flakes.wire.hosts import CredentialRotateAnswer, HostSetup, HostSetupAnswer


@click.group()
def host() -> None:
    """Set this machine up as a host, run it, look at it."""


def sign_in_options(command: Any) -> Any:
    """What signing in takes, where a command does that when it is needed."""
    for option in (
        click.option(
            "--timeout-ms", type=click.IntRange(1), default=600_000, help="Wait that long for approval."
        ),
        click.option("--no-open", is_flag=True, help="Open no browser when it has to sign in first."),
    ):
        command = option(command)
    return command


@host.command()
@config_option
@click.option("--credential-file", type=click.Path(path_type=Path), help="Keep the credential there.")
@click.option("--state-dir", type=click.Path(path_type=Path), help="Keep the host's state there.")
@click.option("--host-name", help="The displayed name (default: this machine's).")
@click.option("--auto-bind", is_flag=True, help="Serve every project that is bound to no host.")
@sign_in_options
@remote_options
def setup(
    path: Path, credential_file: Path | None, state_dir: Path | None, host_name: str | None,
    auto_bind: bool, no_open: bool, timeout_ms: int, server: str | None, token: str | None, as_json: bool,
) -> int:  # fmt: skip
    """Create a host and its credential, and write a starter config.

    Nothing is written over: neither file may exist. The credential goes to its file and nowhere else.
    Signs this command line in first, as `flakes auth login` does, when it is not signed in.
    """
    from flakes.cli.host_files import Draft
    from flakes.wire.hosts import HostSetup

    output = Output(as_json)
    draft = Draft.at(path, credential_file, state_dir)
    draft.check_absent()
    chosen = _signed_in(choice(server, token), output, no_open, timeout_ms)
    body = HostSetup(host_name=host_name or platform.node() or "Flakes host", auto_bind=auto_bind)
    answer = asyncio.run(_set_up(chosen, draft, body))
    next_steps = [
        f"add a [[pools]] section to {draft.config} (`flakes config schema host` shows one)",
        f"flakes host project-root set --config {draft.config} --path <absolute-root>",
        f"flakes host run --config {draft.config}",
    ]
    if as_json:
        output.data({
            "host": answer.host, "credential": answer.credential, "configFile": str(draft.config),
            "credentialFile": str(draft.credential), "stateDir": str(draft.state), "nextSteps": next_steps,
        })  # fmt: skip
        return EXIT_DONE
    output.line(Span("created", "green"), "  ", bold(answer.host.name), dim(f"  {answer.host.host_id}"))
    output.table([
        [dim("config"), str(draft.config)],
        [dim("credential"), str(draft.credential), dim(f"({answer.credential.token_prefix}…, mode 0600)")],
    ])  # fmt: skip
    for step in next_steps:
        output.talk(dim("next: "), step)
    return EXIT_DONE


@host.command()
@config_option
@sign_in_options
@remote_options
def rotate(
    path: Path, no_open: bool, timeout_ms: int, server: str | None, token: str | None, as_json: bool
) -> int:
    """Replace the host's credential: a new one is written to its file, the old one is worthless after it.

    A running host takes the new one at its next connection; restart it to have that now.
    Signs this command line in first when it is not signed in.
    """
    output = Output(as_json)
    config = _load(path)
    chosen = _signed_in(_of_host(config, server, token), output, no_open, timeout_ms)
    answer = asyncio.run(_rotate(chosen, config))
    next_steps = ["restart the host, or wait until it has connected again by itself"]
    if as_json:
        output.data({
            "host": answer.host, "credential": answer.credential, "replaced": answer.replaced,
            "credentialFile": config.credential_file, "nextSteps": next_steps,
        })  # fmt: skip
        return EXIT_DONE
    output.line(
        Span("rotated", "green"), "  ", bold(answer.host.name), dim(f"  {answer.credential.token_prefix}…")
    )
    for each in answer.replaced:
        output.line(Span(each.status, colour(each.status)), dim(f"  {each.token_prefix}…"))
    output.talk(dim("next: "), next_steps[0])
    return EXIT_DONE


@host.group("project-root")
def project_root() -> None:
    """Where this machine has the directories of its projects."""


@project_root.command("set")
@config_option
@click.option("--path", "root", required=True, help="An absolute path on this machine.")
@remote_options
def set_(path: Path, root: str, server: str | None, token: str | None, as_json: bool) -> int:
    """Store the project root on the control plane, which shows it and looks at nothing."""
    output = Output(as_json)
    config = _load(path)
    answer = asyncio.run(_set_root(_of_host(config, server, token), config.host_id, root))
    if as_json:
        output.data(answer)
        return EXIT_DONE
    output.line(Span("set", "green"), "  ", bold(answer.project_workspace_root))
    if not Path(root).is_dir():
        output.talk("there is no such directory on this machine yet")
    return EXIT_DONE


@host.command("run")
@config_option
@json_option
def run_(path: Path, as_json: bool) -> int:
    """Start the host runtime and connect this machine's capacity; goes on until it is stopped."""
    from flakes.host.main import run

    return run(_load(path), path=path)


@host.command()
@config_option
@remote_options
def status(path: Path, server: str | None, token: str | None, as_json: bool) -> int:
    """Check the config here, and show what the control plane knows of this host.

    Exit 2 when something here must be mended before the host can run.
    """
    from flakes.cli import host_status

    output = Output(as_json)
    local = host_status.look(path)
    remote: Remote | None = None
    refused: ApiError | None = None
    if local.config is not None:
        try:
            chosen = _of_host(local.config, server, token)
            if resolve(chosen).token is not None:
                remote = asyncio.run(_ask(chosen, local.config.host_id))
        except ApiError as error:
            refused = error
    if as_json:
        output.data(local.json() | {
            "remote": None if remote is None else remote.json(),
            "remoteError": None if refused is None else refused.body(),
        })  # fmt: skip
    else:
        _show(output, local, remote, refused)
    return EXIT_USAGE if local.problems else EXIT_DONE


def _show(output: Output, local: Local, remote: Remote | None, refused: ApiError | None) -> None:
    config = local.config
    rows: list[list[Part]] = [[dim("config"), str(local.path)]]
    if config is not None:
        rows += [
            [dim("host"), bold(config.host_id)], [dim("server"), str(config.control_plane_url)],
            [dim("credential"), config.credential_file],
            [dim("process"), Span("running", "green") if local.running else dim("not running")],
        ]  # fmt: skip
    output.table(rows)
    for problem in local.problems:
        output.error(problem)
    if remote is None:
        said = f"not asked: {refused.message}" if refused else "not asked: nobody is signed in"
        output.talk(dim(f"control plane: {said}"))
        return
    shown = remote.host
    output.line(Span(shown.status, colour(shown.status)), "  ", bold(shown.name))
    output.table(
        [
            [Span(state, colour(state)), each.pool_key, f"{each.provider}/{each.adapter}",
             f"{each.max_instances} x {each.max_concurrency}", dim(each.launch_failure or "")]
            for each in remote.pools
            for state in ["available" if each.available else "offline"]
        ],
        ["POOL", "KEY", "RUNS", "SIZE", ""],
    )  # fmt: skip
    output.table(
        [
            [Span(each.status, colour(each.status)), each.project_key, ",".join(each.pool_keys),
             each.workspace_path or "-", dim(each.reason or "")]
            for each in remote.bindings
        ],
        ["PROJECT", "KEY", "POOLS", "DIRECTORY", ""],
    )  # fmt: skip
    for each in remote.credentials:
        if each.status in ("active", "retired"):
            output.line(dim("credential  "), Span(each.status, colour(each.status)), dim(f"  {each.token_prefix}…"))


def _load(path: Path) -> HostConfig:
    from flakes.wire.config import HostConfig, load

    return load(path, HostConfig)


def _of_host(config: HostConfig, server: str | None, token: str | None) -> Choice:
    """The host's own control plane; naming another one is refused."""
    outer = choice(server, token)
    own = str(config.control_plane_url).rstrip("/")
    if outer.server is not None and outer.server.rstrip("/") != own:
        raise ApiError(
            "usage", f"the host belongs to {own}, not to {outer.server}",
            "leave --server out, or use that host's own config",
        )  # fmt: skip
    return Choice(own, outer.token)


def _signed_in(chosen: Choice, output: Output, no_open: bool, timeout_ms: int) -> Choice:
    """The same choice, with a person's credential for that server: signs in first where none is stored that
    the server takes. A token that was given by other means is used as it is. What signing in shows goes to
    stderr."""
    from flakes.cli import device_login

    found = resolve(chosen)
    if found.token is not None:
        stored = found.token_source == "sign-in"  # noqa: S105
        if not stored or asyncio.run(device_login.accepted(found.server, found.token)):
            return chosen
    kept = asyncio.run(device_login.sign_in(
        found.server, output, open_browser=not no_open, timeout_s=timeout_ms / 1_000, aside=True
    ))  # fmt: skip
    if output.as_json:
        output.record(kept.record(), aside=True)
    else:
        output.talk(*kept.words())
    return Choice(found.server, kept.sign_in.token)


async def _set_up(chosen: Choice, draft: Draft, body: HostSetup) -> HostSetupAnswer:
    remote: Client = client(chosen)
    async with remote:
        answer = await remote.setup_host(body)
        try:
            draft.write(remote.server, answer.host.host_id, answer.raw_credential)
        except ApiError:
            # A host whose credential nobody has is of no use: nothing of it stays.
            with contextlib.suppress(ApiError):
                await remote.revoke_host_credential(
                    answer.host.host_id, answer.credential.credential_id, "setup failed"
                )
                await remote.delete_host(answer.host.host_id)
            raise
    return answer


async def _rotate(chosen: Choice, config: HostConfig) -> CredentialRotateAnswer:
    from flakes.cli.host_files import replacing

    remote: Client = client(chosen)
    async with remote:
        # The file comes first: a credential that cannot be written down must not replace one that works.
        with replacing(Path(config.credential_file)) as write:
            answer = await remote.rotate_credential(config.host_id)
            write(answer.raw_credential)
        replaced = [
            await remote.revoke_host_credential(config.host_id, each.credential_id, "rotated")
            for each in answer.replaced
        ]
    import msgspec

    return msgspec.structs.replace(answer, replaced=replaced)


async def _set_root(chosen: Choice, host_id: str, root: str) -> WorkspaceRoot:
    async with client(chosen) as remote:
        return await remote.put_workspace_root(host_id, root)


async def _ask(chosen: Choice, host_id: str) -> Remote:
    from flakes.cli.host_status import Remote

    async with client(chosen) as remote:
        return Remote(
            await remote.get_host(host_id),
            (await remote.host_pools(host_id)).host_pools,
            (await remote.host_credentials(host_id)).credentials,
            (await remote.list_bindings(host_id, limit=200)).bindings,
        )

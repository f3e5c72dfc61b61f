"""Provider `matchlock`: each sandbox daemon, with all its tasks, runs in a virtual machine of its own.

`matchlock` is a program that this one calls: ``run --detach`` prints the machine's id, ``list`` and ``get ID`` show
what there is, ``exec ID`` runs something inside, ``kill ID`` and ``rm ID`` end it. A machine is found again by the host
name that it was given, which is derived from the instance, also when the answer of ``run`` was lost.

Inside, the instance's directory is at `GUEST_FLAKES`, read-only, and the daemon's state at `GUEST_STATE`. The command
line names files and settings only; the token is in the read-only directory. The wrapper around the daemon
leaves its process id and exit code in the state directory: the program keeps a machine whose command has ended.
What is in there was written by the guest: it is read with bounds, and links are not followed.

The network of a machine is what the pool allows, and the control plane, never more: an empty list would mean
everything to `matchlock`, so there is always at least one entry.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec
import structlog

from flakes.core import egress
from flakes.core import isolation as labels
from flakes.host.privacy import head, tail
from flakes.host.providers.base import (
    Handle,
    LaunchError,
    LaunchSpec,
    bounds,
    check_executable,
    check_shown,
    refuse_fields,
)
from flakes.wire.addresses import split
from flakes.wire.config import PoolConfig, SandboxConfig
from flakes.wire.errors import ApiError

WORKSPACE: Final = "/workspace"
GUEST_FLAKES: Final = f"{WORKSPACE}/flakes"
GUEST_STATE: Final = f"{WORKSPACE}/state"
FLAKES: Final = "/usr/local/bin/flakes"
WRAPPER: Final = (
    f'umask 077; "$@" >>{GUEST_STATE}/daemon.log 2>&1 & echo $! >{GUEST_STATE}/daemon.pid; wait $!; '
    f"echo $? >{GUEST_STATE}/daemon.exit"
)
_ID: Final = re.compile(r"\bvm-[0-9a-f]{8}\b")
_ALIVE: Final = frozenset({"creating", "created", "starting", "running"})

LAUNCH_S: Final = 320.0
"""The program itself gives up after 300 s."""
CALL_S: Final = 30.0
END_S: Final = 15.0
POLL_S: Final = 0.5
OUTPUT_LENGTH_MAX: Final = 300
FILE_BYTES_MAX: Final = 64 * 1024

log = structlog.get_logger("flakes.host")


class MatchlockProvider:
    name = "matchlock"
    isolation = labels.label("matchlock")

    # ---- a pool

    def check(self, pool: PoolConfig, where: str, hidden: Sequence[Path]) -> None:
        refuse_fields(pool, where, ("network", "matchlock_image", "mounts", "executable_paths"))
        if not pool.matchlock_image or pool.matchlock_image.startswith("-"):
            raise _invalid(
                f"{where}.matchlockImage", "an image is needed", "name the image to start"
            )
        if "matchlock" not in pool.executable_paths:
            key = f"{where}.executablePaths.matchlock"
            raise _invalid(
                key, "the program is needed", 'write matchlock = "/usr/local/bin/matchlock"'
            )
        for name, path in pool.executable_paths.items():
            key = f"{where}.executablePaths.{name}"
            if name != "flakes":  # that one is inside the image
                check_executable(path, key)
            elif not path.startswith("/"):
                raise _invalid(
                    key, f"{path} is not an absolute path", "write its path in the image"
                )
        for mount in pool.mounts:
            self._check_mount(mount, f"{where}.mounts", hidden)
        for text in pool.network.allow:
            try:
                entry = egress.parse(text)
            except ValueError as error:
                raise _invalid(f"{where}.network.allow", str(error), "write a host") from None
            if entry.ports != egress.PORTS_DEFAULT:
                fix = "leave the port out, or use the provider bubblewrap"
                raise _invalid(
                    f"{where}.network.allow", f"`{text}`: matchlock knows hosts only", fix
                )
        bounds(pool, where)

    async def unavailable(self, pool: PoolConfig) -> str:
        code, _, err = await _call([pool.executable_paths["matchlock"], "list"], CALL_S)
        return "" if code == 0 else f"`matchlock list` fails: {err or f'exit code {code}'}"

    def arrange(
        self,
        pool: PoolConfig,
        sandbox: SandboxConfig,
        daemon_argv: tuple[str, ...],
        directory: Path,
        hidden: Sequence[Path],
    ) -> tuple[tuple[str, ...], SandboxConfig]:
        owner = ",uid=0,gid=0" if os.getuid() else ""
        argv = [
            pool.executable_paths["matchlock"], "run", "--detach", "--hostname", host_name(directory.name),
            "--workspace", WORKSPACE,
            "-v", f"{directory}:{GUEST_FLAKES}:{'ro' if not owner else f'host_fs{owner},ro'}",
            "-v", f"{directory / 'state'}:{GUEST_STATE}:host_fs{owner}",
        ]  # fmt: skip
        for mount in pool.mounts:
            argv += ["-v", mount]
        servers = [urlsplit(each).hostname or "" for each in split(sandbox.control_plane_url)]
        for entry in dict.fromkeys([*servers, *pool.network.allow]):
            argv += ["--allow-host", entry]
        limits = bounds(pool, pool.pool_key)
        for value, option in ((limits.memory_mb, "--memory"), (limits.cpus, "--cpus")):
            if value is not None:
                argv += [option, f"{value:g}" if isinstance(value, float) else str(value)]
        flakes = pool.executable_paths.get("flakes", FLAKES)
        argv += ["--image", str(pool.matchlock_image), "--", "/bin/sh", "-c", WRAPPER, "sh"]
        argv += [flakes, "sandbox", "--config", f"{GUEST_FLAKES}/sandbox.toml"]
        guest = msgspec.structs.replace(
            sandbox,
            credential_file=f"{GUEST_FLAKES}/sandbox.credential",
            state_dir=GUEST_STATE,
            sessions_dir=None,  # the host's is not in there
            workspaces_dir=None,
            isolation=msgspec.structs.replace(limits, kind="outer"),
        )
        return tuple(argv), guest

    # ---- an instance

    async def launch(self, spec: LaunchSpec) -> Handle:
        await asyncio.to_thread(_forget, spec)
        code, out, err = await _call(list(spec.argv), LAUNCH_S)
        found = _ID.search(out)
        if code == 0 and found:
            return Handle(spec, 0, found[0])
        machine = await self._find(spec)
        if machine is not None and code == 0:
            return Handle(spec, 0, machine)
        left = await self._remove(spec, machine) if machine else []
        reason = err or head(out, OUTPUT_LENGTH_MAX) or f"exit code {code}"
        remains = f"; {', '.join(left)} could not be removed" if left else ""
        raise LaunchError(f"`matchlock run` failed: {reason}{remains}")

    async def adopt(self, spec: LaunchSpec, pid: int, start: str) -> Handle | None:
        machine = start or await self._find(spec)
        if not machine or _exit_code(spec) is not None:
            return None
        return Handle(spec, 0, machine) if await self._is_alive(spec, machine) else None

    async def wait_exit(self, handle: Handle) -> int | None:
        while True:
            code = await asyncio.to_thread(_exit_code, handle.spec)
            if code is not None or not await self._is_alive(handle.spec, handle.start):
                await asyncio.to_thread(_bring_log, handle.spec)
                # It may have been written while we asked.
                return (
                    code if code is not None else await asyncio.to_thread(_exit_code, handle.spec)
                )
            await asyncio.sleep(POLL_S)

    async def stop(self, handle: Handle, grace_s: float) -> Sequence[str]:
        pid = _number(handle.spec, "daemon.pid")
        if pid is not None and await self._is_alive(handle.spec, handle.start):
            asked = [handle.spec.argv[0], "exec", handle.start, "--", "kill", "-TERM", str(pid)]
            code, _, _ = await _call(asked, CALL_S)
            if code == 0:
                try:
                    await asyncio.wait_for(self.wait_exit(handle), grace_s)
                except TimeoutError:
                    log.warning("daemon_killed", instance=handle.spec.instance_id, after_s=grace_s)
        return await self.cleanup(handle.spec, 0, handle.start)

    async def cleanup(self, spec: LaunchSpec, pid: int, start: str) -> Sequence[str]:
        if len(spec.argv) < 2:
            return []  # what never had a command never had a machine
        await asyncio.to_thread(_bring_log, spec)
        left: list[str] = []
        if start:
            left += await self._remove(spec, start)
        machine = await self._find(spec)
        if machine and machine != start:
            left += await self._remove(spec, machine)
        return left

    # ---- within

    def _check_mount(self, mount: str, key: str, hidden: Sequence[Path]) -> None:
        source, colon, rest = mount.partition(":")
        guest = rest.partition(":")[0]
        if not colon or not guest.startswith("/") or os.path.normpath(guest) != guest:
            raise _invalid(
                key, f"`{mount}` is not source:/guest[:mode]", "write both as full paths"
            )
        for own in (GUEST_FLAKES, GUEST_STATE):
            if guest == own or guest in (WORKSPACE, "/") or guest.startswith(f"{own}/"):
                raise _invalid(
                    key, f"`{mount}` covers the sandbox's own {own}", "choose another guest path"
                )
        check_shown(source, key, hidden)

    async def _get(self, spec: LaunchSpec, machine: str) -> dict[str, Any] | None:
        """What `matchlock` knows of a machine; None when there is none. Raises `OSError` when it cannot
        say."""
        code, out, err = await _call([spec.argv[0], "get", machine], CALL_S)
        if code != 0:
            if "not found" in f"{out} {err}".lower():
                return None
            raise OSError(err or f"`matchlock get` ended with exit code {code}")
        try:
            value = json.loads(out)
        except ValueError as error:
            raise OSError("`matchlock get` did not answer in JSON") from error
        return value if isinstance(value, dict) else None

    async def _is_alive(self, spec: LaunchSpec, machine: str) -> bool:
        """In doubt it is: a program that cannot answer has not said that its machine is gone."""
        try:
            found = await self._get(spec, machine)
        except OSError as error:
            log.warning("matchlock_does_not_answer", instance=spec.instance_id, error=str(error))
            return True
        return found is not None and str(found.get("status", "")).lower() in _ALIVE

    async def _find(self, spec: LaunchSpec) -> str | None:
        """The machine of an instance by its host name."""
        code, out, _ = await _call([spec.argv[0], "list"], CALL_S)
        if code != 0:
            return None
        wanted = host_name(spec.instance_id)
        for machine in dict.fromkeys(_ID.findall(out)):
            try:
                found = await self._get(spec, machine) or {}
            except OSError:
                continue
            network = (found.get("config") or {}).get("network") or {}
            if network.get("hostname") == wanted:
                return machine
        return None

    async def _remove(self, spec: LaunchSpec, machine: str) -> list[str]:
        """Kill and remove a machine; its name when it would not go."""
        deadline = asyncio.get_running_loop().time() + END_S
        while True:
            try:
                found = await self._get(spec, machine)
            except OSError:
                found = {}
            if found is None:
                return []
            alive = str(found.get("status", "running")).lower() in _ALIVE
            await _call([spec.argv[0], "kill" if alive else "rm", machine], CALL_S)
            if asyncio.get_running_loop().time() > deadline:
                return [machine]
            if alive:
                await asyncio.sleep(0.1)


def host_name(instance_id: str) -> str:
    """The guest's host name: a label of DNS, and the instance's alone."""
    return f"flakes-{hashlib.sha256(instance_id.encode()).hexdigest()[:32]}"


async def _call(argv: list[str], timeout_s: float) -> tuple[int, str, str]:
    """Exit code, output, and what it said, shortened. Nothing of our environment but PATH and HOME."""
    env = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=env,
            cwd="/",
            start_new_session=True,
        )
    except OSError as error:
        return 127, "", f"`{argv[0]}` cannot be started: {error.strerror}"
    try:
        out, err = await asyncio.wait_for(process.communicate(), timeout_s)
    except TimeoutError:
        return 124, "", f"it did not end within {timeout_s:g} s"
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    said = err.decode("utf-8", "replace").strip()
    return process.returncode or 0, out.decode("utf-8", "replace"), tail(said, OUTPUT_LENGTH_MAX)


def _read(spec: LaunchSpec, name: str) -> bytes:
    """The end of a file in the daemon's state directory; empty when it is none, or a link."""
    try:
        fd = os.open(spec.directory / "state" / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(fd, "rb") as file:
            file.seek(max(0, os.fstat(fd).st_size - FILE_BYTES_MAX))
            return file.read(FILE_BYTES_MAX)
    except OSError:
        return b""


def _number(spec: LaunchSpec, name: str) -> int | None:
    text = _read(spec, name).strip()
    return int(text) if re.fullmatch(rb"\d{1,9}", text) else None


def _exit_code(spec: LaunchSpec) -> int | None:
    """Of the daemon, once it has ended; the wrapper's shell writes 128 + N for signal N."""
    code = _number(spec, "daemon.exit")
    return 128 - code if code is not None and code > 128 else code


def _forget(spec: LaunchSpec) -> None:
    for name in ("daemon.exit", "daemon.pid"):
        (spec.directory / "state" / name).unlink(missing_ok=True)


def _bring_log(spec: LaunchSpec) -> None:
    """Where the host looks for it when it explains a death."""
    text = _read(spec, "daemon.log")
    if text and spec.directory.is_dir():
        spec.log.write_bytes(text)


def _invalid(key: str, message: str, fix: str) -> ApiError:
    return ApiError("config_invalid", f"{key}: {message}", fix)

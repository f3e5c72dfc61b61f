"""Declared outputs: found in ``outputs/``, checked, and turned into what the control plane stores.

Only what was declared is collected, and only regular files. A small text travels inside the result,
everything else as a blob that is uploaded before the result is said. What a task promised and did not
leave behind fails it, whatever its exit code was; an optional output that is missing, too large or not
valid is left out, with a warning that the result carries.

JSON with a schema, or large JSON, is checked by a process of its own (`schema_check`): neither its memory
nor its time are the daemon's.
"""

from __future__ import annotations

import asyncio
import hashlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import msgspec
import structlog

from flakes.agents.base import AgentError
from flakes.core.keys import is_key
from flakes.core.limits import KIB, MIB, OUTPUT_INLINE_BYTES_MAX, OUTPUT_PROBLEMS_MAX
from flakes.sandbox.blobs import BlobClient
from flakes.wire.schemas import Problem
from flakes.wire.tasks import Output, OutputDeclaration, TaskWarning

log = structlog.get_logger(__name__)

SUFFIXES: Final = ("", ".json", ".txt", ".md")
INLINE_TOTAL_BYTES_MAX: Final = 384 * KIB
"""All inline outputs of one result, as JSON: what would not fit into a frame goes as blobs."""

CHECKED_INLINE_BYTES_MAX: Final = MIB
"""JSON up to this size is parsed in the daemon, when there is no schema."""
CHECK_TIMEOUT_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Found:
    """An output's file, and what it is declared as."""

    path: Path
    kind: Literal["text", "json", "workspace"]
    size_bytes: int
    digest: str
    text: str | None


async def collect(
    declared: dict[str, OutputDeclaration],
    directory: Path,
    blobs: BlobClient,
    warn: Callable[[TaskWarning], None],
) -> dict[str, Output]:
    """Find, check and upload, when no process of the task is left to exchange them; raises `AgentError` (`output_missing`, `output_invalid`,
    `output_too_large`, `output_unreadable`, `output_unsupported`). `warn` is told of optional outputs that are left out."""
    found, left_out = await asyncio.to_thread(find, declared, directory)
    for each in left_out:
        warn(each)
    for key, wrong in (await invalid(declared, found)).items():
        del found[key]
        first = f"{wrong[0].path}: {wrong[0].message}"
        message = f"the optional output `{key}` is not valid and is left out: {first}"
        warn(TaskWarning(code="output_invalid", message=message, output=key))
    outputs: dict[str, Output] = {}
    inline_bytes = 0
    for key, file in found.items():
        text = file.text
        if text is not None:
            inline_bytes += len(msgspec.json.encode(text))
            if inline_bytes > INLINE_TOTAL_BYTES_MAX:
                text = None
        if text is None:
            await blobs.upload(file.path, file.digest)
        outputs[key] = Output(
            kind=file.kind, size_bytes=file.size_bytes, digest=file.digest, text=text
        )
    return outputs


async def check(declared: dict[str, OutputDeclaration], directory: Path) -> None:
    """Whether the outputs could be collected as they are now; raises like `collect`, and uploads nothing.
    Optional ones that `collect` would leave out are no reason to raise."""
    found, _ = await asyncio.to_thread(find, declared, directory)
    await invalid(declared, found)


def find(
    declared: dict[str, OutputDeclaration], directory: Path
) -> tuple[dict[str, Found], list[TaskWarning]]:
    """The declared outputs that are there, their content unchecked, and the optional ones that are left
    out; blocking. Raises for the required ones, all that are missing named together."""
    found: dict[str, Found] = {}
    left_out: list[TaskWarning] = []
    missing: list[str] = []
    for key, declaration in declared.items():
        if declaration.kind == "workspace":
            continue  # is not a file there: see `workspaces`
        try:
            found[key] = _readable(key, declaration, directory)
        except AgentError as error:
            if not declaration.required:
                message = f"{error.message}; it is optional and left out"
                left_out.append(TaskWarning(code=error.code, message=message, output=key))
            elif error.code == "output_missing":
                missing.append(key)
            else:
                raise
    if missing:
        raise _missing(missing, directory)
    return found, left_out


def _readable(key: str, declaration: OutputDeclaration, directory: Path) -> Found:
    """What is there, however the task left it: a file that cannot be read is the task's failure."""
    try:
        return _found(key, declaration, directory)
    except OSError as error:
        raise AgentError(
            "output_unreadable",
            f"the output `{key}` in {directory} cannot be read: {error.strerror or error}",
            "leave it as a plain file that its owner may read (`chmod u+r`)",
        ) from error


def _found(key: str, declaration: OutputDeclaration, directory: Path) -> Found:
    path = _path_of(key, directory)
    if path is None:
        raise _missing([key], directory)
    # A link may lead within the task's directory; what lies outside of it the task may not even see.
    if not path.resolve().is_relative_to(directory.parent.resolve()):
        raise AgentError(
            "output_unsupported",
            f"the output `{key}` is a link that leads out of the task's directory",
            "copy the file to `$FLAKES_OUTPUTS`",
        )
    return _measured(key, path, declaration)


def _missing(keys: list[str], directory: Path) -> AgentError:
    return AgentError(
        "output_missing",
        f"the task ended without its declared output {_names(keys)} in {directory}",
        "write each one to `$FLAKES_OUTPUTS/<key>`, or declare it with `required: false`",
    )


async def invalid(
    declared: dict[str, OutputDeclaration], found: dict[str, Found]
) -> dict[str, list[Problem]]:
    """The optional outputs that are not what they were declared as; a required one raises
    `output_invalid` with at most 20 problems in its details."""
    wrong: dict[str, list[Problem]] = {}
    checks: list[dict[str, object]] = []
    for key, file in found.items():
        if file.kind != "json":
            continue
        schema = declared[key].schema
        if schema is not None or file.size_bytes > CHECKED_INLINE_BYTES_MAX:
            checks.append({"key": key, "path": str(file.path), "schema": schema})
        elif problem := await asyncio.to_thread(_json_problem, file.path):
            wrong[key] = [problem]
    if checks:
        wrong |= await _checked_apart(checks)
    required = [key for key in wrong if declared[key].required]
    if required:
        raise _invalid([(key, each) for key in required for each in wrong[key]], found)
    return wrong


async def _checked_apart(checks: list[dict[str, object]]) -> dict[str, list[Problem]]:
    """What `schema_check` says; everything is wrong when it cannot say it within its limits."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", "flakes.sandbox.schema_check",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE, cwd="/",
    )  # fmt: skip
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_S):
            out, err = await process.communicate(msgspec.json.encode(checks))
        if process.returncode == 0:
            return msgspec.json.decode(out, type=dict[str, list[Problem]])
        log.warning("schema check failed", code=process.returncode, said=err[-500:].decode("utf-8", "replace"))
        reason = "it took too much memory or processor time to check"
    except TimeoutError:
        reason = f"it could not be checked within {CHECK_TIMEOUT_S:g} s"
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    problem = Problem(path="$", rule="limits", rule_path="$", message=reason)
    return {str(check["key"]): [problem] for check in checks}


def _invalid(wrong: list[tuple[str, Problem]], found: dict[str, Found]) -> AgentError:
    key, first = wrong[0]
    more = f", and {len(wrong) - 1} more" if len(wrong) > 1 else ""
    return AgentError(
        "output_invalid",
        f"output `{key}` is not what it was declared as: {first.path}: {first.message}"
        f" (rule `{first.rule}`{more}; {found[key].path})",
        "write one JSON value in UTF-8 that satisfies the schema of the output, or mend the schema",
        details={
            "problems": [
                {"output": key, "path": each.path, "rule": each.rule, "rulePath": each.rule_path, "message": each.message}
                for key, each in wrong[:OUTPUT_PROBLEMS_MAX]
            ]
        },
    )  # fmt: skip


def _path_of(key: str, directory: Path) -> Path | None:
    if not is_key(key):
        return None
    for suffix in SUFFIXES:
        path = directory / f"{key}{suffix}"
        if path.is_file():
            return path
    return None


def _measured(key: str, path: Path, declaration: OutputDeclaration) -> Found:
    size_bytes = path.stat().st_size
    if size_bytes > declaration.max_bytes:
        raise AgentError(
            "output_too_large",
            f"output `{key}` has {size_bytes} bytes, {declaration.max_bytes} are allowed ({path})",
            "write less, or raise `maxBytes` in the declaration",
        )
    if size_bytes > OUTPUT_INLINE_BYTES_MAX:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return Found(path, declaration.kind, size_bytes, f"sha256:{digest}", None)
    data = path.read_bytes()
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = None
    if text is not None and "\0" in text:
        text = None  # text columns cannot hold it; a blob can
    return Found(path, declaration.kind, len(data), digest, text)


def _json_problem(path: Path) -> Problem | None:
    data = path.read_bytes()
    try:
        data.decode()
        msgspec.json.decode(data)
    except (UnicodeDecodeError, msgspec.DecodeError, RecursionError) as error:
        return Problem(path="$", rule="json", rule_path="$", message=f"not valid JSON: {error}")
    return None


def _names(keys: list[str]) -> str:
    return ", ".join(f"`{key}`" for key in keys)

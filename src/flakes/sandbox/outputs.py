"""Declared outputs: found in ``outputs/``, checked, and turned into what the control plane stores.

Only what was declared is collected, and only regular files. A small text travels inside the result,
everything else as a blob that is uploaded before the result is said. What a task promised and did not
leave behind fails it, whatever its exit code was.
"""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import msgspec

from flakes.agents.base import AgentError
from flakes.core.keys import is_key
from flakes.core.limits import KIB, OUTPUT_INLINE_BYTES_MAX
from flakes.sandbox.blobs import BlobClient
from flakes.wire.tasks import Output, OutputDeclaration

SUFFIXES: Final = ("", ".json", ".txt", ".md")
INLINE_TOTAL_BYTES_MAX: Final = 384 * KIB
"""All inline outputs of one result, as JSON: what would not fit into a frame goes as blobs."""


@dataclass(frozen=True, slots=True)
class Found:
    """An output's file, checked against its declaration."""

    path: Path
    kind: Literal["text", "json", "workspace"]
    size_bytes: int
    digest: str
    text: str | None


async def collect(
    declared: dict[str, OutputDeclaration], directory: Path, blobs: BlobClient
) -> dict[str, Output]:
    """Find, check and upload; raises `AgentError` (`output_missing`, `output_invalid`,
    `output_too_large`, `output_unsupported`)."""
    found = await asyncio.to_thread(find, declared, directory)
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


def find(declared: dict[str, OutputDeclaration], directory: Path) -> dict[str, Found]:
    """The declared outputs that are there, checked; blocking."""
    workspaces = [key for key, declaration in declared.items() if declaration.kind == "workspace"]
    if workspaces:
        raise AgentError(
            "output_unsupported",
            f"outputs of kind `workspace` are not supported by this adapter: {_names(workspaces)}",
            "declare the output as `text` or `json`",
        )
    paths = {key: _path_of(key, directory) for key in declared}
    missing = [key for key, path in paths.items() if path is None and declared[key].required]
    if missing:
        raise AgentError(
            "output_missing",
            f"the task ended without its declared output {_names(missing)} in {directory}",
            "write each one to `$FLAKES_OUTPUTS/<key>`, or declare it with `required: false`",
        )
    return {key: _checked(key, path, declared[key]) for key, path in paths.items() if path}


def _path_of(key: str, directory: Path) -> Path | None:
    if not is_key(key):
        return None
    for suffix in SUFFIXES:
        path = directory / f"{key}{suffix}"
        if path.is_file():
            return path
    return None


def _checked(key: str, path: Path, declaration: OutputDeclaration) -> Found:
    size_bytes = path.stat().st_size
    if size_bytes > declaration.max_bytes:
        raise AgentError(
            "output_too_large",
            f"output `{key}` has {size_bytes} bytes, {declaration.max_bytes} are allowed ({path})",
            "write less, or raise `maxBytes` in the declaration",
        )
    if declaration.kind == "json":
        _check_json(key, path)
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


def _check_json(key: str, path: Path) -> None:
    data = path.read_bytes()
    try:
        data.decode()
        msgspec.json.decode(data)
    except (UnicodeDecodeError, msgspec.DecodeError) as error:
        raise AgentError(
            "output_invalid",
            f"output `{key}` is declared as JSON and is not valid JSON: {error} ({path})",
            "write one JSON value in UTF-8",
        ) from error


def _names(keys: list[str]) -> str:
    return ", ".join(f"`{key}`" for key in keys)

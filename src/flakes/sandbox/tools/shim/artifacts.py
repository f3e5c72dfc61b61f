"""`flakes artifacts create` and `fetch`: files of the task as artifacts, and artifacts as files.

The file is read here, with the rights of the task, and goes piece by piece through the socket. What was sent
is told by digest beforehand and what was fetched is held against its digest, so neither side has to trust the
pieces.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import sys

from flakes.sandbox.tools.shim.commands import Given
from flakes.sandbox.tools.shim.link import Refused, ask, refusal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import BinaryIO

PIECE_BYTES = 2 * 1024 * 1024
READ_BYTES = 256 * 1024
CREATE_FIX = "flakes artifacts create PATH [--kind KIND] [--name NAME], or --file artifact.json"
FETCH_FIX = "flakes artifacts fetch ARTIFACT [--output FILE]"
ALLOWED = ("kind", "name", "mediaType", "metadata", "digest", "sizeBytes", "bytesBase64")


def create_(given: Given) -> int:
    """Store a file; prints the artifact's id."""
    described = given.values.get("--file")
    if bool(given.paths) == (described is not None):
        raise refusal("usage", "name a file to store, or a JSON file that describes an artifact", CREATE_FIX)
    if described is not None:
        if set(given.values) != {"--file"}:
            raise refusal("usage", "with --file, what the artifact is stands in the file", CREATE_FIX)
        artifact = _of_json(described)
    else:
        artifact = _of_path(given, given.paths[0])
    sys.stdout.write((json.dumps(artifact) if given.as_json else str(artifact["artifactId"])) + "\n")
    return 0


def fetch_(given: Given) -> int:
    """Write an artifact to stdout or to a file, which appears when it is whole and verified."""
    if not given.paths or (given.raw and "--output" in given.values):
        raise refusal("usage", "name one artifact, and where to put it if not to stdout", FETCH_FIX)
    target = given.values.get("--output")
    if target is None:
        _read(given.paths[0], sys.stdout.buffer)
        sys.stdout.flush()
        return 0
    part = f"{target}.part"
    try:
        with open(part, "wb") as file:  # noqa: PTH123
            found = _read(given.paths[0], file)
        os.replace(part, target)  # noqa: PTH105
    except BaseException:
        if os.path.exists(part):  # noqa: PTH110
            os.unlink(part)  # noqa: PTH108
        raise
    told = {**found, "path": target}
    sys.stdout.write((json.dumps(told) if given.as_json else f"{target} ({found['sizeBytes']} bytes)") + "\n")
    return 0


def _of_path(given: Given, path: str) -> dict[str, object]:
    with open(path, "rb") as file:  # noqa: PTH123
        digest, size = _measured(file)
        body: dict[str, object] = {
            "kind": given.values.get("--kind", "file"),
            "name": given.values.get("--name", os.path.basename(path)),  # noqa: PTH119
            "digest": digest, "sizeBytes": size,
        }  # fmt: skip
        if "--media-type" in given.values:
            body["mediaType"] = given.values["--media-type"]
        return _sent(body, file, size)


def _of_json(path: str) -> dict[str, object]:
    """The form of `POST /v1/artifacts`, with its content inside; the run and the task are this one's."""
    import io

    try:
        with open(path, encoding="utf-8") as text:  # noqa: PTH123
            body = json.load(text)
        if not isinstance(body, dict):
            raise ValueError("it is no object")
        surplus = sorted(set(body) - set(ALLOWED))
        if surplus:
            raise ValueError(f"{surplus[0]} is not one of {', '.join(ALLOWED)}")
        content = base64.b64decode(body.pop("bytesBase64", ""), validate=True)
    except ValueError as error:
        raise refusal("usage", f"{path} does not describe an artifact: {error}", CREATE_FIX) from error
    file = io.BytesIO(content)
    digest, size = _measured(file)
    for name, real in (("digest", digest), ("sizeBytes", size)):
        if body.get(name, real) != real:
            raise refusal("digest_mismatch", f"{name} is {body[name]}, the content has {real}", "leave it out")
    return _sent({"kind": "file", **body, "digest": digest, "sizeBytes": size}, file, size)


def _measured(file: BinaryIO) -> tuple[str, int]:
    hashed, size = hashlib.sha256(), 0
    while piece := file.read(READ_BYTES):
        hashed.update(piece)
        size += len(piece)
    return f"sha256:{hashed.hexdigest()}", size


def _sent(body: dict[str, object], file: BinaryIO, size: int) -> dict[str, object]:
    """Announce, then send from wherever the control plane has got to."""
    artifact = ask("artifact.create", body)
    offset, again = 0, True
    while True:
        file.seek(offset)
        piece = base64.b64encode(file.read(min(PIECE_BYTES, size - offset))).decode()
        request = {"artifactId": artifact["artifactId"], "offset": offset, "bytesBase64": piece}
        try:
            answer = ask("artifact.append", request)
        except Refused as refused:
            expected = refused.body.get("expectedOffset")
            if not again or not isinstance(expected, int):
                raise
            offset, again = expected, False
            continue
        if answer["state"] == "ready":
            return {**artifact, **{name: answer[name] for name in ("state", "digest", "sizeBytes")}}
        reached = int(str(answer["offset"]))
        if reached <= offset:
            raise refusal("digest_mismatch", "the file became shorter while it was read", "store it again when nobody writes it")
        offset, again = reached, True


def _read(artifact_id: str, file: BinaryIO) -> dict[str, object]:
    hashed, offset = hashlib.sha256(), 0
    while True:
        found = ask("artifact.read", {"artifactId": artifact_id, "offset": offset})
        piece = base64.b64decode(str(found["bytesBase64"]))
        hashed.update(piece)
        file.write(piece)
        offset += len(piece)
        if offset >= int(str(found["sizeBytes"])) or not piece:
            break
    file.flush()
    if f"sha256:{hashed.hexdigest()}" != found["digest"]:
        raise refusal("digest_mismatch", "what came is not what the artifact's digest says", "fetch it again", exit_code=1)
    return {name: found[name] for name in ("artifactId", "digest", "sizeBytes")}

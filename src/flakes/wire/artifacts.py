"""Artifacts: files of an account, named by the digest of their content; and the outputs of a run's tasks.

An artifact is announced first and has its content later, unless the content is small enough to come
along. What is `ready` never changes.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from msgspec import Meta

from flakes.core import limits
from flakes.wire.codec import Body, Frozen

Kind = Annotated[
    str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*\Z", max_length=limits.KEY_LENGTH_MAX)
]
Digest = Annotated[str, Meta(pattern=r"^sha256:[0-9a-f]{64}\Z")]
MediaType = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9!#$&^_.+-]+/[A-Za-z0-9!#$&^_.+-]+( *; *[A-Za-z0-9!#$&^_.+-]+="
        r"([A-Za-z0-9!#$&^_.+-]+|\"[ !#-\[\]-~]*\"))*\Z",
        max_length=255,
    ),
]
Size = Annotated[int, Meta(ge=0, le=limits.ARTIFACT_SIZE_BYTES_MAX)]


class ArtifactPost(Body, frozen=True, kw_only=True, omit_defaults=True):
    """Body of `POST /v1/artifacts`: with `bytesBase64` it is ready at once, else its content is to come."""

    kind: Kind
    """What it is, in the user's words: `report`, `dataset`, `model`."""
    name: Annotated[str, Meta(min_length=1, max_length=limits.ARTIFACT_NAME_LENGTH_MAX)] | None = (
        None
    )
    """A file name for people; it names nothing on the server."""
    media_type: MediaType | None = None
    digest: Digest | None = None
    """What the content must turn out to be."""
    bytes_base64: bytes | None = None
    """The content, at most 16 MiB."""
    size_bytes: Size | None = None
    run_id: str | None = None
    """An id or a key; the artifact is deleted with its run."""
    task_id: str | None = None
    """A task of that run; without `runId` its run is taken."""
    metadata: dict[str, Any] = {}


class ArtifactAnnounce(Body, frozen=True, kw_only=True, omit_defaults=True):
    """What a running task says of a file before it sends it; it is one of its own run and task."""

    kind: Kind
    name: Annotated[str, Meta(min_length=1, max_length=limits.ARTIFACT_NAME_LENGTH_MAX)] | None = (
        None
    )
    media_type: MediaType | None = None
    digest: Digest
    size_bytes: Size
    metadata: dict[str, Any] = {}

    def post(self) -> ArtifactPost:
        """The same as the body of `POST /v1/artifacts`."""
        return ArtifactPost(
            kind=self.kind, name=self.name, media_type=self.media_type, digest=self.digest,
            size_bytes=self.size_bytes, metadata=self.metadata,
        )  # fmt: skip


class ArtifactAppend(Body, frozen=True, kw_only=True):
    """A piece of the content, at most 2 MiB, behind what has arrived."""

    artifact_id: str
    offset: Size
    bytes_base64: Annotated[bytes, Meta(max_length=limits.ARTIFACT_PIECE_BYTES_MAX)]


class ArtifactRead(Body, frozen=True, kw_only=True):
    """Where to read on."""

    artifact_id: str
    offset: Size = 0


class ArtifactPiece(Frozen, frozen=True, kw_only=True, omit_defaults=True):
    """Up to 2 MiB of the content from `offset` on. The digest is that of the whole."""

    artifact_id: str
    name: str | None = None
    digest: str
    size_bytes: int
    offset: int
    bytes_base64: bytes


class ArtifactLocation(Frozen, frozen=True, kw_only=True):
    """One place where the content is."""

    location_id: str
    storage_kind: str
    """`directory`, `s3`, `gs`, `az` or `memory`."""
    size_bytes: int
    available: bool


class Artifact(Frozen, frozen=True, kw_only=True, omit_defaults=True):
    """An artifact without its bytes. While it is pending, digest and size are what was announced, if anything."""

    artifact_id: str
    kind: str
    state: Literal["pending", "ready"]
    name: str | None = None
    media_type: str
    digest: str | None = None
    size_bytes: int | None = None
    run_id: str | None = None
    task_id: str | None = None
    metadata: dict[str, Any]
    locations: list[ArtifactLocation]
    created_at: datetime
    ready_at: datetime | None = None


class Artifacts(Frozen, frozen=True, kw_only=True):
    """A page of artifacts, newest first."""

    artifacts: list[Artifact]
    next_cursor: str | None = None


class ArtifactUpload(Frozen, frozen=True, kw_only=True, omit_defaults=True):
    """How far an upload is: the content up to `offset` (bytes) is durable, the next byte goes there."""

    artifact_id: str
    state: Literal["pending", "ready"]
    offset: int
    size_bytes: int | None = None
    """The announced size; the size itself once it is ready."""
    digest: str | None = None
    expires_at: datetime | None = None
    """When an unfinished upload is given up, unless more comes."""


class ArtifactDeleted(Frozen, frozen=True, kw_only=True):
    """Answer of a delete."""

    artifact_id: str
    status: Literal["deleted"] = "deleted"


class RunOutput(Frozen, frozen=True, kw_only=True):
    """One output that an ended task of a run left behind; its bytes: `/v1/tasks/:taskId/outputs/:outputKey`."""

    task_key: str
    task_id: str
    output_key: str
    kind: str
    size_bytes: int
    digest: str


class RunOutputs(Frozen, frozen=True, kw_only=True):
    """A page of outputs, in the order of the tasks."""

    outputs: list[RunOutput]
    next_cursor: str | None = None

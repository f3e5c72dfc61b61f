"""`flakes artifacts`: files that belong to an account, a run or a task."""

from __future__ import annotations

import codecs
import sys
from contextlib import aclosing, closing
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flakes.cli.options import asks, page_options, remote_options
from flakes.cli.output import Output, is_terminal
from flakes.cli.render.parts import bold, dim
from flakes.cli.render.text import ago, clean, one_line, shortened, size
from flakes.cli.render.transfer import TransferLine

if TYPE_CHECKING:
    from flakes.client.api import Client
    from flakes.wire.artifacts import Artifact

FILE = click.Path(path_type=Path, exists=True, dir_okay=False)


@click.group()
def artifacts() -> None:
    """Store, list and fetch files, named by the digest of their content."""


@artifacts.command()
@click.option(
    "-f", "--file", "path", required=True, metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
    help="The JSON body of `POST /v1/artifacts`; - reads standard input.",
)  # fmt: skip
@remote_options
@asks
async def create(client: Client, output: Output, path: Path) -> None:
    """Create an artifact from a JSON file, with its bytes in `bytesBase64` or to be uploaded later.

    The file holds kind, and if wanted name, mediaType, digest, bytesBase64, sizeBytes, runId, taskId and
    metadata. For a file of any size, `flakes artifacts upload` does it all.
    """
    from flakes.wire import codec
    from flakes.wire.artifacts import ArtifactPost

    try:
        content = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
        body = codec.decode(content, ArtifactPost)
    except OSError as error:
        raise click.UsageError(f"{path} cannot be read: {error.strerror}") from error
    except (codec.BodyError, UnicodeDecodeError) as error:
        where = error.issues[0].path if isinstance(error, codec.BodyError) else ""
        raise click.UsageError(f"{path}: {f'{where}: ' if where else ''}{error}") from error
    _show(output, await client.create_artifact(body))


@artifacts.command()
@click.argument("path", type=FILE)
@click.option("--kind", default="file", show_default=True, help="What it is: report, dataset, ...")
@click.option("--name", help="The name to give it (default: that of the file).")
@click.option("--media-type", help="Its media type (default: guessed from the name).")
@click.option("--run", "run", metavar="RUN", help="The run that it belongs to: an id or a key.")
@click.option("--task", metavar="TASK", help="The task that it belongs to: an id, or RUN/TASKKEY.")
@click.option("--resume", metavar="ARTIFACT", help="Go on with an upload that was interrupted.")
@remote_options
@asks
async def upload(
    client: Client,
    output: Output,
    path: Path,
    kind: str,
    name: str | None,
    media_type: str | None,
    run: str | None,
    task: str | None,
    resume: str | None,
) -> None:
    """Upload a file of up to 5 GiB; it goes on by itself when the connection breaks.

    The file is read once more at first, for the digest that the server checks.
    """
    announced: list[Artifact] = []
    whole = False
    with closing(TransferLine("uploading", quiet=output.as_json)) as line:
        try:
            artifact = await client.upload_artifact(
                path, kind=kind, name=name, media_type=media_type, run=run,
                task_id=None if task is None else await client.task_id(task),
                artifact_id=resume, progress=line, announced=announced.append,
            )  # fmt: skip
            whole = True
        finally:
            if announced and not whole:
                line.close()
                artifact_id = announced[0].artifact_id
                output.talk(f"go on with: flakes artifacts upload {path} --resume {artifact_id}")
    _show(output, artifact)


@artifacts.command()
@click.argument("artifact_id", metavar="ARTIFACT")
@remote_options
@asks
async def get(client: Client, output: Output, artifact_id: str) -> None:
    """Show an artifact, without its bytes."""
    artifact = await client.get_artifact(artifact_id)
    if output.as_json:
        output.data(artifact)
        return
    _show(output, artifact)
    facts = {
        "media type": artifact.media_type,
        "digest": artifact.digest,
        "run": artifact.run_id,
        "task": artifact.task_id,
        "created": ago(artifact.created_at),
    }
    output.table([[dim(name), value] for name, value in facts.items() if value])
    for place in artifact.locations:
        state = "" if place.available else "  not available"
        output.line(dim("location "), f"{place.location_id} ({place.storage_kind}){state}")


@artifacts.command()
@click.argument("artifact_id", metavar="ARTIFACT")
@click.option(
    "-o", "--output", "target", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False),
    help="Write the bytes to this file, which appears when they are all there.",
)  # fmt: skip
@click.option("--raw", is_flag=True, help="Write the exact bytes to stdout, to a terminal too.")
@click.option("--location-id", metavar="LOCATION", help="Fetch from this one of its locations.")
@remote_options
@asks
async def fetch(
    client: Client,
    output: Output,
    artifact_id: str,
    target: Path | None,
    raw: bool,
    location_id: str | None,
) -> None:
    """Fetch the bytes of an artifact and check them against its digest.

    A transfer that breaks goes on where it was; with --output that holds for the next call too.
    """
    if raw and target is not None:
        raise click.UsageError("--raw and --output exclude each other")
    if target is None:
        if output.as_json and not raw:
            raise click.UsageError("--json needs --output: bytes are no JSON")
        await _print(client, artifact_id, location_id, exact=raw)
        return
    if not target.parent.is_dir():
        raise click.UsageError(f"{target.parent} is no directory")
    with closing(TransferLine("fetching", quiet=output.as_json)) as line:
        artifact = await client.download_artifact(
            artifact_id, target, location_id=location_id, progress=line
        )
    if output.as_json:
        output.data({"path": str(target), "artifact": artifact})
    else:
        output.line(f"{target}  ", dim(f"{size(artifact.size_bytes or 0)}  {artifact.digest}"))


@artifacts.command("list")
@click.option("--run", "run", metavar="RUN", help="Only those of this run: an id or a key.")
@click.option("--task", metavar="TASK", help="Only those of this task: an id, or RUN/TASKKEY.")
@page_options
@remote_options
@asks
async def list_(
    client: Client,
    output: Output,
    run: str | None,
    task: str | None,
    limit: int | None,
    cursor: str | None,
) -> None:
    """List artifacts, the newest first."""
    task_id = None
    if task is not None:
        detail = await client.get_task(task)
        task_id, run = detail.task_id, run or detail.run_id
    page = await client.list_artifacts(run, task_id=task_id, limit=limit, cursor=cursor)
    if output.as_json:
        output.data(page)
        return
    if not page.artifacts:
        output.talk("there are no artifacts")
    output.table(
        [
            [each.artifact_id, each.kind, _size(each), ago(each.created_at),
             shortened(one_line(each.name or ""), 60)]
            for each in page.artifacts
        ],
        ["ARTIFACT", "KIND", "SIZE", "CREATED", "NAME"],
    )  # fmt: skip
    output.more(page.next_cursor)


@artifacts.command()
@click.argument("artifact_id", metavar="ARTIFACT")
@remote_options
@asks
async def delete(client: Client, output: Output, artifact_id: str) -> None:
    """Delete an artifact, also one whose upload is not finished."""
    await client.delete_artifact(artifact_id)
    if output.as_json:
        output.data({"artifactId": artifact_id, "status": "deleted"})
    else:
        output.line(f"{artifact_id} is deleted")


async def _print(client: Client, artifact_id: str, location_id: str | None, *, exact: bool) -> None:
    """Bytes as they are to a pipe or a file; on a terminal only what is harmless there."""
    artifact = await client.get_artifact(artifact_id)
    binary = getattr(sys.stdout, "buffer", None)
    pieces = client.artifact_bytes(artifact, location_id=location_id)
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    async with aclosing(pieces):
        async for piece in pieces:
            if binary is None or (is_terminal(sys.stdout) and not exact):
                sys.stdout.write(clean(decoder.decode(piece)))
            else:
                binary.write(piece)
    if binary is not None:
        binary.flush()


def _size(artifact: Artifact) -> str:
    return size(artifact.size_bytes or 0) if artifact.state == "ready" else "pending"


def _show(output: Output, artifact: Artifact) -> None:
    if output.as_json:
        output.data(artifact)
        return
    output.line(
        bold(artifact.artifact_id), f"  {artifact.kind}  {_size(artifact)}  ", dim(artifact.name or "")
    )

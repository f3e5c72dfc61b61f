"""What a task finds before it starts: the outputs it depends on, and the artifacts it names, as files."""

from __future__ import annotations

from flakes.agents.base import AgentError
from flakes.sandbox.blobs import BlobClient, RefusedError
from flakes.sandbox.directory import FREE_BYTES_MIN, TaskDirectory, disk_full_error
from flakes.wire.sandbox_stream import Assignment
from flakes.wire.tasks import TaskDefinition


async def deliver_outputs(
    assignment: Assignment, directory: TaskDirectory, blobs: BlobClient
) -> None:
    """Write the outputs of other tasks, each in ``inputs/<task>/<output>``."""
    for item in assignment.inputs:
        path = directory.input_path(item.task_key, item.output_key)
        if item.output.text is not None:
            path.write_text(item.output.text, newline="")
        else:
            await blobs.download(item.output.digest, path)


async def deliver_artifacts(
    assignment: Assignment, definition: TaskDefinition, directory: TaskDirectory, blobs: BlobClient
) -> None:
    """Bring the artifacts that the task names, one after the other, each verified."""
    artifacts = {each.artifact_id: each for each in assignment.artifacts}
    missing = [each for each in definition.input_artifacts if each not in artifacts]
    if missing:
        raise _artifact_missing(missing[0])
    if not artifacts:
        return
    needed_bytes = sum(each.size_bytes for each in artifacts.values())
    if needed_bytes + FREE_BYTES_MIN > directory.room_bytes():
        full = disk_full_error(directory.root)
        raise AgentError(full.code, f"{full.message}: {needed_bytes} bytes of inputs", full.fix)
    for key, path in directory.artifact_paths(list(artifacts.values())).items():
        each = artifacts[key]
        try:
            await blobs.download(each.digest, path, each.size_bytes)
        except RefusedError as error:
            if error.status == 404:
                raise _artifact_missing(key) from error
            raise


def _artifact_missing(artifact_id: str) -> AgentError:
    return AgentError(
        "input_artifact_missing",
        f"the artifact {artifact_id}, an input of the task, was deleted after the task was admitted",
        "store it again, and submit a task that names the new one",
    )

"""Input artifacts on their way into a task's directory."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from flakes.core.task import Outcome
from flakes.sandbox.directory import artifact_names
from flakes.wire.sandbox_stream import InputArtifact
from sandbox.controlplane import ControlPlane, DaemonProcess, memory_mib, shell, show


def stored(plane: ControlPlane, content: bytes, name: str | None = None, key: str = "artifact_1") -> InputArtifact:
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    plane.blobs[digest] = content
    return InputArtifact(artifact_id=key, name=name, digest=digest, size_bytes=len(content))


def test_they_are_there_before_the_task_starts_and_the_daemon_stays_small(
    plane: ControlPlane, daemon: DaemonProcess
) -> None:
    large = os.urandom(60_000_000)
    artifacts = [
        stored(plane, large, "large.bin", "artifact_1"), stored(plane, b"small", None, "artifact_2"),
        stored(plane, b"evil", "../../evil", "artifact_3"),
    ]  # fmt: skip
    line = 'cd "$FLAKES_INPUTS/artifacts"; ls; sha256sum large.bin; cat artifact_2 artifact_3; grep -c large.bin "$FLAKES_BRIEF"'
    named = [each.artifact_id for each in artifacts]
    before = memory_mib(daemon.pid)
    result = plane.run(shell(line, inputArtifacts=named), artifacts=artifacts)
    after = memory_mib(daemon.pid)
    assert result.outcome is Outcome.SUCCEEDED, result.error
    assert plane.text(result.assignment_id) == [
        "artifact_2", "artifact_3", "large.bin", f"{hashlib.sha256(large).hexdigest()}  large.bin",
        "smallevil1",
    ]  # fmt: skip
    show(f"{after:.0f} MiB resident after 60 MB of inputs, {before:.0f} before")
    assert after < before + 25


def test_what_does_not_arrive_whole_never_starts_the_task(plane: ControlPlane, tmp_path: Path) -> None:
    good = stored(plane, b"good", "good")
    mark = tmp_path / "started"
    definition = shell(f"touch {mark}", inputArtifacts=["artifact_1"])
    plane.blobs[good.digest] = b"evil"
    result = plane.run(definition, artifacts=[good])
    assert (result.outcome, result.error.code) == (Outcome.LOST, "input_damaged")
    plane.blobs[good.digest] = b"good and much more than was said of it"
    result = plane.run(definition, artifacts=[good])
    assert (result.outcome, result.error.code) == (Outcome.LOST, "input_damaged")
    del plane.blobs[good.digest]
    result = plane.run(definition, artifacts=[good])
    assert (result.outcome, result.error.code) == (Outcome.FAILED, "input_artifact_missing")
    result = plane.run(definition, artifacts=[])
    assert (result.outcome, result.error.code) == (Outcome.FAILED, "input_artifact_missing")
    assert "artifact_1" in result.error.message
    vast = InputArtifact(artifact_id="artifact_1", digest=good.digest, size_bytes=10**15)
    result = plane.run(definition, artifacts=[vast])
    assert (result.outcome, result.error.code) == (Outcome.FAILED, "disk_full")
    assert not mark.exists()


@pytest.mark.parametrize(
    ("names", "files"),
    [
        (["a.txt", "b.txt"], ["a.txt", "b.txt"]),
        (["a.txt", "A.TXT"], ["a.txt", "artifact_1"]),
        ([None, ""], ["artifact_0", "artifact_1"]),
        ([".", ".."], ["artifact_0", "artifact_1"]),
        (["a/b", "a\\b"], ["artifact_0", "artifact_1"]),
        (["a\nb", "a\0b"], ["artifact_0", "artifact_1"]),
        ([".hidden", "-rf"], ["artifact_0", "artifact_1"]),
        (["ü" * 120, "ü" * 121], ["ü" * 120, "artifact_1"]),
        (["artifact_1", "b"], ["artifact_0", "b"]),
        (["two words", "ünïcode"], ["two words", "ünïcode"]),
    ],
)
def test_only_what_is_a_file_name_becomes_one(names: list[str | None], files: list[str]) -> None:
    artifacts = [
        InputArtifact(artifact_id=f"artifact_{n}", name=name, digest="", size_bytes=0)
        for n, name in enumerate(names)
    ]
    assert list(artifact_names(artifacts).values()) == files

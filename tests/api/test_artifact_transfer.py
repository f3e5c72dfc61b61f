"""Artifacts through the client and the `flakes` command, against a real server that is killed on the way."""

from __future__ import annotations

import base64
import hashlib
import io
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from api.caller import Api, task
from api.peer import adapter, sandbox
from api.plane import Server, serving
from embedded_servers import wait_until
from flakes.cli.main import run_cli
from flakes.client import SyncClient
from flakes.client.transport import Address
from flakes.wire.errors import ApiError
from flakes.wire.tasks import Output

MIB = 1024 * 1024


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        assert self.code == 0, self.err
        return json.loads(self.out)


Flakes = Callable[..., Ran]


def digest_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


@pytest.fixture
def flakes(api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Flakes:
    """The command, signed in as `api`."""
    assert api.token is not None
    monkeypatch.setenv("FLAKES_SERVER", api.url)
    monkeypatch.setenv("FLAKES_TOKEN", api.token)
    monkeypatch.setenv("FLAKES_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))

    def run(*argv: str) -> Ran:
        out, err = io.StringIO(), io.StringIO()
        code = run_cli(argv, out, err)
        return Ran(code, out.getvalue(), err.getvalue())

    return run


def raw(*argv: str, stdin: bytes = b"") -> bytes:
    """Standard output of the command, as bytes."""
    program = "from flakes.cli.main import main; main()"
    return subprocess.run([sys.executable, "-c", program, *argv], input=stdin, capture_output=True, check=True).stdout


def test_a_file_goes_up_and_comes_back(flakes: Flakes, api: Api, tmp_path: Path) -> None:
    content = os.urandom(3 * MIB)
    path = tmp_path / "report.pdf"
    path.write_bytes(content)
    made = api.graph(task("a"))
    run, task_id = made["run"]["runKey"], made["tasks"][0]["taskId"]
    up = flakes("artifacts", "upload", str(path), "--kind", "report", "--task", f"{run}/a", "--json").json
    assert (up["state"], up["digest"], up["name"]) == ("ready", digest_of(content), "report.pdf")
    assert (up["mediaType"], up["kind"], up["taskId"]) == ("application/pdf", "report", task_id)
    artifact_id = up["artifactId"]
    assert flakes("artifacts", "get", artifact_id, "--json").json == up
    for option in (["--run", run], ["--task", task_id], []):
        page = flakes("artifacts", "list", *option, "--json").json
        assert [a["artifactId"] for a in page["artifacts"]] == [artifact_id]
    assert "report.pdf" in flakes("artifacts", "list", "--run", run).out
    target = tmp_path / "back"
    ran = flakes("artifacts", "fetch", artifact_id, "-o", str(target), "--location-id", "server")
    assert (ran.code, target.read_bytes()) == (0, content)
    assert raw("artifacts", "fetch", artifact_id, "--raw") == content
    assert raw("artifacts", "fetch", artifact_id) == content
    assert flakes("artifacts", "delete", artifact_id).code == 0
    ran = flakes("artifacts", "get", artifact_id, "--json")
    assert (ran.code, json.loads(ran.err)["error"]) == (2, "not_found")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["back", "report.pdf"]


def test_an_artifact_from_a_json_file(flakes: Flakes, tmp_path: Path) -> None:
    body = {"kind": "note", "name": "n.txt", "bytesBase64": base64.b64encode(b"hello").decode()}
    path = tmp_path / "artifact.json"
    path.write_text(json.dumps(body))
    for option in ("--file", "-f"):
        assert flakes("artifacts", "create", option, str(path), "--json").json["digest"] == digest_of(b"hello")
    made = json.loads(raw("artifacts", "create", "-f", "-", "--json", stdin=path.read_bytes()))
    assert made["state"] == "ready"
    path.write_text(json.dumps(body | {"medaType": "text/plain"}))
    ran = flakes("artifacts", "create", "-f", str(path))
    assert ran.code == 2
    assert "did you mean `mediaType`" in ran.err
    assert flakes("artifacts", "create", "-f", str(tmp_path / "none")).code == 2


def test_empty_files_are_artifacts_too(flakes: Flakes, tmp_path: Path) -> None:
    path = tmp_path / "empty"
    path.touch()
    up = flakes("artifacts", "upload", str(path), "--json").json
    assert (up["state"], up["sizeBytes"]) == ("ready", 0)
    target = tmp_path / "back"
    assert flakes("artifacts", "fetch", up["artifactId"], "-o", str(target)).code == 0
    assert target.read_bytes() == b""


def test_what_cannot_be_done_is_told(flakes: Flakes, api: Api, tmp_path: Path) -> None:
    pending = api.post("/v1/artifacts", {"kind": "file", "sizeBytes": 9}).ok(201)["artifactId"]
    path = tmp_path / "file"
    path.write_bytes(b"other")
    ran = flakes("artifacts", "fetch", pending, "-o", str(tmp_path / "x"), "--json")
    assert (ran.code, json.loads(ran.err)["error"]) == (2, "artifact_pending")
    ran = flakes("artifacts", "upload", str(path), "--resume", pending, "--json")
    assert json.loads(ran.err)["error"] == "digest_mismatch"
    ran = flakes("artifacts", "upload", str(path), "--run", "no-such-run", "--json")
    assert json.loads(ran.err)["error"] == "not_found"
    assert flakes("artifacts", "fetch", pending, "--raw", "-o", str(path)).code == 2
    assert flakes("artifacts", "fetch", pending, "-o", str(tmp_path / "no" / "dir")).code == 2
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_transfers_outlive_the_server(database: str, tmp_path: Path) -> None:
    """Killed in the middle of an upload, and again in the middle of the download."""
    content = os.urandom(48 * MIB)
    path = tmp_path / "data.bin"
    path.write_bytes(content)
    place = tmp_path / "server"
    place.mkdir()
    with serving(place, database) as server:
        token = server.account().token
        killed: list[int] = []
        offsets: list[int] = []

        def kill_at(at: int) -> Callable[[int, int], None]:
            def progress(done: int, size: int) -> None:
                offsets.append(done)
                if done >= at and at not in killed:
                    killed.append(at)
                    server.kill()
                    server.start()

            return progress

        def locate() -> Address | None:
            return Address(server.url, token) if server.is_running() else None

        with SyncClient(server.url, token, locate=locate) as client:
            artifact = client.upload_artifact(path, progress=kill_at(30 * MIB))
            assert artifact.digest == digest_of(content)
            again = [b for a, b in itertools.pairwise(offsets) if b < a]
            assert len(again) == 1
            assert again[0] > 16 * MIB, "what was durable is not sent again"
            offsets.clear()
            target = tmp_path / "back"
            client.download_artifact(artifact.artifact_id, target, progress=kill_at(20 * MIB))
            assert target.read_bytes() == content
            assert offsets == sorted(offsets), "it went on where it was"
        assert killed == [30 * MIB, 20 * MIB]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["back", "data.bin", "server"]


class StoppedError(Exception):
    pass


def stop_at(at: int) -> Callable[[int, int], None]:
    def progress(done: int, size: int) -> None:
        if done >= at:
            raise StoppedError

    return progress


def test_an_interrupted_upload_is_taken_up_by_the_next_command(
    flakes: Flakes, api: Api, tmp_path: Path
) -> None:
    content = os.urandom(40 * MIB)
    path = tmp_path / "data.bin"
    path.write_bytes(content)
    told: list[str] = []
    with SyncClient(api.url, api.token) as client:
        with pytest.raises(StoppedError):
            client.upload_artifact(
                path, progress=stop_at(25 * MIB), announced=lambda a: told.append(a.artifact_id)
            )
        wait_until(lambda: client.artifact_upload(told[0]).offset >= 16 * MIB)
    done = flakes("artifacts", "upload", str(path), "--resume", told[0], "--json").json
    assert (done["artifactId"], done["state"], done["digest"]) == (told[0], "ready", digest_of(content))


def test_an_interrupted_download_is_taken_up_and_damage_in_it_is_noticed(
    flakes: Flakes, api: Api, tmp_path: Path
) -> None:
    content = os.urandom(8 * MIB)
    path = tmp_path / "data.bin"
    path.write_bytes(content)
    artifact_id = flakes("artifacts", "upload", str(path), "--json").json["artifactId"]
    target = tmp_path / "back"
    seen: list[int] = []
    with SyncClient(api.url, api.token) as client:
        with pytest.raises(StoppedError):
            client.download_artifact(artifact_id, target, progress=stop_at(4 * MIB))
        assert not target.exists()
        (partial,) = tmp_path.glob(".back.*.part")
        assert partial.stat().st_size >= 4 * MIB
        client.download_artifact(artifact_id, target, progress=lambda done, size: seen.append(done))
        assert seen[0] > 4 * MIB
        assert target.read_bytes() == content
        partial.write_bytes(b"damage" * 1000)
        with pytest.raises(ApiError) as caught:
            client.download_artifact(artifact_id, target)
        assert caught.value.code == "digest_mismatch"
        assert not partial.exists()
        assert target.read_bytes() == content
        client.download_artifact(artifact_id, target)


def test_outputs_of_a_run_are_listed_and_saved(server: Server, flakes: Flakes, api: Api, tmp_path: Path) -> None:
    own = adapter()
    who = api.sandbox()
    run = api.graph(task("a", own))["run"]["runKey"]
    content = b"\x00exact\r\nbytes\xff" * 1000
    digest = digest_of(content)
    api.as_(who[1]).call("PUT", f"/v1/sandboxes/{who[0]}/blobs/{digest}", content=content).ok(201)
    with sandbox(api, who, adapters=[own]) as peer:
        output = Output(kind="text", size_bytes=len(content), digest=digest)
        peer.finish(peer.start().assignment_id, outputs={"report": output})
    wait_until(lambda: api.get(f"/v1/runs/{run}/outputs").ok()["outputs"])
    (told,) = flakes("tasks", "outputs", run, "--json").json["outputs"]
    assert (told["taskKey"], told["outputKey"], told["digest"]) == ("a", "report", digest)
    assert digest in flakes("tasks", "outputs", run).out
    target = tmp_path / "report"
    assert flakes("tasks", "result", f"{run}/a", "--output", "report", "--to", str(target)).code == 0
    assert target.read_bytes() == content
    assert raw("tasks", "result", f"{run}/a", "--output", "report") == content
    assert flakes("tasks", "result", f"{run}/a", "--to", str(target)).code == 2
    digits = digest.removeprefix("sha256:")
    blob = server.directory / "blobs/sha256" / digits[:2] / digits[2:4] / digits
    blob.write_bytes(content[:-1] + b"?")
    ran = flakes("tasks", "result", f"{run}/a", "--output", "report", "--to", str(target))
    assert ran.code != 0
    assert target.read_bytes() == content

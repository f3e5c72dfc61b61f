"""Artifacts over HTTP: announced or inline, uploaded in parts, fetched whole or in ranges, and gone when deleted."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from api.caller import Answer, Api, task
from api.peer import adapter, sandbox
from api.plane import Server, serving
from api.routes import artifact_of
from embedded_servers import wait_until
from flakes.server import byte_ranges
from flakes.server.loops import garbage
from flakes.wire.tasks import Output

MIB = 1024 * 1024


def digest_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def noise(size_bytes: int) -> bytes:
    return os.urandom(size_bytes)


def announce(api: Api, **fields: Any) -> str:
    return api.post("/v1/artifacts", {"kind": "file", **fields}).ok(201)["artifactId"]


def send(api: Api, artifact_id: str, content: bytes, part: str | None = None, **query: Any) -> Answer:
    headers = {} if part is None else {"Content-Range": part}
    path = f"/v1/artifacts/{artifact_id}/content"
    return api.call("PUT", path, content=content, headers=headers, **query)


def state(api: Api, artifact_id: str) -> dict[str, Any]:
    return api.get(f"/v1/artifacts/{artifact_id}/upload").ok(200)


def fetched(api: Api, artifact_id: str, **headers: str) -> Answer:
    return api.call("GET", f"/v1/artifacts/{artifact_id}/fetch", headers=headers)


def blob_path(server: Server, digest: str) -> Path:
    hexadecimal = digest.removeprefix("sha256:")
    return server.directory / "blobs/sha256" / hexadecimal[:2] / hexadecimal[2:4] / hexadecimal


def partial_files(server: Server, artifact_id: str) -> list[Path]:
    return list((server.directory / "blobs/partial").glob(f"{artifact_id}.*"))


# ---- creation


def test_inline_bytes_make_a_ready_artifact(server: Server, api: Api) -> None:
    content = b"hello\0" + noise(1000)
    run = api.run()
    made = api.post("/v1/artifacts", artifact_of(
        content, name="report.md", mediaType="text/markdown; charset=utf-8", digest=digest_of(content),
        sizeBytes=len(content), runId=run["runKey"], metadata={"a": [1]},
    )).ok(201)  # fmt: skip
    assert made == api.get(f"/v1/artifacts/{made['artifactId']}").ok(200)
    assert made["locations"] == [
        {"locationId": "server", "storageKind": "directory", "sizeBytes": len(content), "available": True}
    ]
    assert {k: v for k, v in made.items() if k not in ("artifactId", "createdAt", "readyAt", "locations")} == {
        "kind": "file", "state": "ready", "name": "report.md", "digest": digest_of(content),
        "mediaType": "text/markdown; charset=utf-8", "sizeBytes": len(content), "runId": run["runId"],
        "metadata": {"a": [1]},
    }  # fmt: skip
    assert fetched(api, made["artifactId"]).content == content
    assert blob_path(server, made["digest"]).read_bytes() == content
    assert state(api, made["artifactId"])["state"] == "ready"


def test_content_that_is_not_its_digest_is_refused_and_not_kept(server: Server, api: Api) -> None:
    content = noise(500)
    body = artifact_of(content, digest=digest_of(b"else"))
    api.post("/v1/artifacts", body).refused("digest_mismatch")
    assert api.get("/v1/artifacts").ok()["artifacts"] == []
    assert not blob_path(server, digest_of(content)).exists()
    artifact_id = announce(api, digest=digest_of(b"else"))
    send(api, artifact_id, content).refused("digest_mismatch")
    assert state(api, artifact_id)["offset"] == 0
    assert not blob_path(server, digest_of(content)).exists()
    assert [p.stat().st_size for p in partial_files(server, artifact_id)] == [0]
    assert send(api, artifact_id, b"else").ok(200)["state"] == "ready"


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"kind": ""}, "kind"),
        ({"kind": "a b"}, "kind"),
        ({"kind": "file\n"}, "kind"),
        ({}, ""),
        ({"kind": "file", "digest": "sha256:abc"}, "digest"),
        ({"kind": "file", "digest": f"sha256:{'A' * 64}"}, "digest"),
        ({"kind": "file", "mediaType": "text/html\r\nX-Evil: 1"}, "mediaType"),
        ({"kind": "file", "mediaType": "text"}, "mediaType"),
        ({"kind": "file", "name": "n" * 256}, "name"),
        ({"kind": "file", "bytesBase64": "%%%"}, "bytesBase64"),
        ({"kind": "file", "sizeBytes": 5 * 1024**3 + 1}, "sizeBytes"),
        ({"kind": "file", "sizeBytes": 3, "bytesBase64": "AAAA BB"}, "bytesBase64"),
        ({"kind": "file", "sizeBytes": 4, "bytesBase64": "AAAA"}, "sizeBytes"),
        ({"kind": "file", "path": "/etc/passwd"}, "path"),
    ],
)
def test_a_body_that_is_not_an_artifact_is_refused(api: Api, body: dict[str, Any], path: str) -> None:
    refused = api.post("/v1/artifacts", body).refused("invalid_request")
    assert refused["issues"][0]["path"] == path


def test_metadata_and_inline_bytes_have_limits(api: Api) -> None:
    big = {"x": "y" * 16 * 1024}
    assert api.post("/v1/artifacts", {"kind": "file", "metadata": big}).refused("limit_exceeded")["limit"] == 16384
    body = artifact_of(bytes(16 * MIB + 1))
    assert api.post("/v1/artifacts", body).refused("limit_exceeded")["limit"] == 16 * MIB


def test_runs_and_tasks_must_be_ones_own(api: Api, other: Api) -> None:
    made = api.graph(task("a"))
    run_id, task_id = made["run"]["runId"], made["tasks"][0]["taskId"]
    for mine in ({"runId": run_id}, {"runId": made["run"]["runKey"]}, {"taskId": task_id}):
        other.post("/v1/artifacts", artifact_of(b"x", **mine)).refused("not_found")
    assert other.get("/v1/artifacts").ok()["artifacts"] == []
    elsewhere = api.run()["runId"]
    refused = api.post("/v1/artifacts", artifact_of(b"x", runId=elsewhere, taskId=task_id)).refused("invalid_request")
    assert refused["issues"][0]["path"] == "taskId"
    assert api.post("/v1/artifacts", artifact_of(b"x", taskId=task_id)).ok(201)["runId"] == run_id


def test_lists_are_paged_newest_first_and_of_a_run_or_task(api: Api, other: Api) -> None:
    made = api.graph(task("a"), task("b"))
    run_id, first = made["run"]["runId"], made["tasks"][0]["taskId"]
    ids = [announce(api, runId=run_id, **({"taskId": first} if n % 2 else {})) for n in range(5)]
    loose = announce(api)
    page = api.get(f"/v1/runs/{made['run']['runKey']}/artifacts", limit=3).ok()
    rest = api.get(f"/v1/runs/{run_id}/artifacts", limit=3, cursor=page["nextCursor"]).ok()
    assert [a["artifactId"] for a in page["artifacts"] + rest["artifacts"]] == ids[::-1]
    assert rest["nextCursor"] is None
    of_task = api.get(f"/v1/runs/{run_id}/artifacts", taskId=first).ok()["artifacts"]
    assert [a["artifactId"] for a in of_task] == [ids[3], ids[1]]
    everything = api.get("/v1/artifacts", limit=200).ok()["artifacts"]
    assert [a["artifactId"] for a in everything] == [loose, *ids[::-1]]
    other.get(f"/v1/runs/{run_id}/artifacts").refused("not_found")


def test_every_change_is_an_event(api: Api) -> None:
    made = api.graph(task("a"))
    task_id = made["tasks"][0]["taskId"]
    artifact_id = announce(api, name="n", taskId=task_id)
    send(api, artifact_id, b"abc").ok(200)
    api.delete(f"/v1/artifacts/{artifact_id}").ok(200)
    told = [e for e in api.activity(task_id, "artifact.deleted") if e["type"].startswith("artifact.")]
    common = {"artifactId": artifact_id, "kind": "file", "name": "n"}
    assert [(e["type"], e["data"]) for e in told] == [
        ("artifact.created", common),
        ("artifact.ready", common | {"digest": digest_of(b"abc"), "sizeBytes": 3}),
        ("artifact.deleted", {"artifactId": artifact_id, "reason": "deleted"}),
    ]


# ---- uploads


@pytest.mark.parametrize("content", [b"", b"x", noise(3 * MIB + 17)], ids=["empty", "one", "more"])
@pytest.mark.parametrize("length", ["told", "untold"])
def test_the_whole_in_one_request(api: Api, content: bytes, length: str) -> None:
    artifact_id = announce(api)
    body: Any = content if length == "told" else iter([content])
    done = send(api, artifact_id, body).ok(200)
    assert (done["state"], done["offset"], done["digest"]) == ("ready", len(content), digest_of(content))
    assert fetched(api, artifact_id).content == content
    assert api.get(f"/v1/artifacts/{artifact_id}").ok()["sizeBytes"] == len(content)


def test_parts_follow_each_other(server: Server, api: Api) -> None:
    content = noise(300_000)
    artifact_id = announce(api, digest=digest_of(content), sizeBytes=len(content))
    total = len(content)
    first = send(api, artifact_id, content[:100_000], f"bytes 0-99999/{total}").ok(202)
    assert (first["state"], first["offset"], first["sizeBytes"]) == ("pending", 100_000, total)
    assert first["expiresAt"] > api.get(f"/v1/artifacts/{artifact_id}").ok()["createdAt"]
    for start in (0, 50_000, 100_001, 299_999):
        refused = send(api, artifact_id, content[start:], f"bytes {start}-{total - 1}/{total}")
        assert refused.refused("upload_offset_conflict")["expectedOffset"] == 100_000
    fetched(api, artifact_id).refused("artifact_pending")
    send(api, artifact_id, content[100_000:250_000], "bytes 100000-249999/*").ok(202)
    assert state(api, artifact_id)["offset"] == 250_000
    done = send(api, artifact_id, content[250_000:], f"bytes 250000-{total - 1}/{total}").ok(200)
    assert done["state"] == "ready"
    assert fetched(api, artifact_id).content == content
    assert partial_files(server, artifact_id) == []
    again = send(api, artifact_id, content).refused("artifact_ready")
    assert again["digest"] == digest_of(content)


def test_the_total_and_the_digest_may_come_last(api: Api) -> None:
    content = noise(1000)
    artifact_id = announce(api)
    send(api, artifact_id, content, "bytes 0-999/*").ok(202)
    send(api, artifact_id, b"", "bytes */999").refused("upload_offset_conflict")
    send(api, artifact_id, b"", "bytes */1000", digest="sha256:1").refused("invalid_request")
    wrong = digest_of(b"wrong")
    send(api, artifact_id, b"", "bytes */1000", digest=wrong).refused("digest_mismatch")
    assert state(api, artifact_id)["offset"] == 0
    send(api, artifact_id, content, "bytes 0-999/*").ok(202)
    assert send(api, artifact_id, b"", "bytes */1000", digest=digest_of(content)).ok(200)["state"] == "ready"


def test_without_a_range_it_starts_again(server: Server, api: Api) -> None:
    artifact_id = announce(api)
    send(api, artifact_id, b"old", "bytes 0-2/10").ok(202)
    assert send(api, artifact_id, b"new content").ok(200)["offset"] == 11
    assert fetched(api, artifact_id).content == b"new content"
    assert partial_files(server, artifact_id) == []


@pytest.mark.parametrize(
    ("part", "content"),
    [
        ("bytes 0-9/5", b"0123456789"),
        ("bytes 9-0/20", b"0123456789"),
        ("bytes 0-8/20", b"0123456789"),
        ("bytes=0-9/20", b"0123456789"),
        ("items 0-9/20", b"0123456789"),
        ("bytes */20", b"0123456789"),
        ("bytes 0-9/30", b"0123456789"),
    ],
)
def test_a_range_that_contradicts_is_refused(api: Api, part: str, content: bytes) -> None:
    artifact_id = announce(api, sizeBytes=20)
    send(api, artifact_id, content, part).refused("invalid_request")
    assert state(api, artifact_id)["offset"] == 0


def test_more_or_less_than_announced_is_refused(api: Api) -> None:
    artifact_id = announce(api, sizeBytes=10)
    send(api, artifact_id, b"x" * 9).refused("invalid_request")
    send(api, artifact_id, b"x" * 11).refused("invalid_request")
    send(api, artifact_id, iter([b"x" * 11])).refused("invalid_request")  # type: ignore[arg-type]
    assert send(api, artifact_id, b"x" * 10).ok(200)["state"] == "ready"


def test_five_gibibytes_are_the_limit(api: Api) -> None:
    artifact_id = announce(api)
    part = f"bytes 0-9/{5 * 1024**3 + 1}"
    assert send(api, artifact_id, b"0123456789", part).refused("too_large")["limit"] == 5 * 1024**3


class Raw:
    """An upload that is sent byte by byte, to be stopped anywhere."""

    def __init__(self, api: Api, artifact_id: str, part: str, length: int) -> None:
        url = urlsplit(api.url)
        assert url.hostname is not None
        self.socket = socket.create_connection((url.hostname, url.port or 80), timeout=20)
        head = (
            f"PUT /v1/artifacts/{artifact_id}/content HTTP/1.1\r\nHost: {url.netloc}\r\n"
            f"Authorization: {api.headers['Authorization']}\r\nContent-Length: {length}\r\n"
            f"Content-Range: {part}\r\n\r\n"
        )
        self.socket.sendall(head.encode())

    def send(self, content: bytes) -> None:
        self.socket.sendall(content)

    def status(self) -> int:
        return int(self.socket.recv(4096).split()[1])

    def close(self) -> None:
        self.socket.close()


def test_what_a_broken_connection_brought_is_kept(api: Api) -> None:
    content = noise(MIB)
    artifact_id = announce(api, digest=digest_of(content), sizeBytes=MIB)
    raw = Raw(api, artifact_id, f"bytes 0-{MIB - 1}/{MIB}", MIB)
    raw.send(content[:400_000])
    raw.close()
    wait_until(lambda: state(api, artifact_id)["offset"] == 400_000)
    send(api, artifact_id, content[400_000:], f"bytes 400000-{MIB - 1}/{MIB}").ok(200)
    assert fetched(api, artifact_id).content == content


def test_a_newer_request_takes_over_from_one_that_hangs(api: Api) -> None:
    content = noise(20 * MIB)
    size = len(content)
    artifact_id = announce(api, digest=digest_of(content), sizeBytes=size)
    hanging = Raw(api, artifact_id, f"bytes 0-{size - 1}/{size}", size)
    hanging.send(content[: 17 * MIB])
    wait_until(lambda: state(api, artifact_id)["offset"] >= 16 * MIB)
    offset = state(api, artifact_id)["offset"]
    done = send(api, artifact_id, content[offset:], f"bytes {offset}-{size - 1}/{size}").ok(200)
    assert done["digest"] == digest_of(content)
    assert hanging.status() == 409
    hanging.close()


def test_an_upload_survives_the_server(database: str, tmp_path: Path) -> None:
    content = noise(40 * MIB)
    size = len(content)
    with serving(tmp_path, database) as server:
        api = server.account()
        artifact_id = announce(api, digest=digest_of(content), sizeBytes=size)
        raw = Raw(api, artifact_id, f"bytes 0-{size - 1}/{size}", size)
        raw.send(content[: 20 * MIB])
        wait_until(lambda: state(api, artifact_id)["offset"] >= 16 * MIB)
        server.kill()
        raw.close()
        server.start()
        api = Api(server.url, api.token)
        offset = state(api, artifact_id)["offset"]
        assert 16 * MIB <= offset <= 20 * MIB
        middle = 30 * MIB
        part = f"bytes {offset}-{middle - 1}/{size}"
        assert send(api, artifact_id, content[offset:middle], part).ok(202)["offset"] == middle
        # A power cut may take what was not yet durable of the file: the offset follows.
        (file,) = partial_files(server, artifact_id)
        os.truncate(file, 25 * MIB)
        assert state(api, artifact_id)["offset"] == 25 * MIB
        part = f"bytes {25 * MIB}-{size - 1}/{size}"
        assert send(api, artifact_id, content[25 * MIB :], part).ok(200)["state"] == "ready"
        assert fetched(api, artifact_id).content == content


@contextlib.contextmanager
def small_disk(directory: Path, size_mib: int) -> Iterator[Path]:
    disk = directory / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size_mib}m", "none", disk]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("this machine does not let us mount a small file system")
    try:
        yield disk
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_full_disk_is_told_and_keeps_nothing_of_the_request(database: str, tmp_path: Path) -> None:
    with small_disk(tmp_path, 40) as disk:
        blobs = {"blobs": {"directory": str(disk / "blobs")}}
        with serving(tmp_path, database, blobs) as server:
            api = server.account()

            def used() -> int:
                return sum(p.stat().st_size for p in disk.rglob("*") if p.is_file())

            artifact_id = announce(api)
            send(api, artifact_id, noise(MIB), f"bytes 0-{MIB - 1}/*").ok(202)
            # Told beforehand: refused before a byte is written. Untold: taken back.
            send(api, artifact_id, noise(60 * MIB), f"bytes {MIB}-{61 * MIB - 1}/*").refused("storage_full")
            assert state(api, artifact_id)["offset"] == MIB
            loose = announce(api)
            untold: Any = iter([noise(MIB) for _ in range(60)])
            send(api, loose, untold).refused("storage_full")
            assert (state(api, loose)["offset"], used()) == (0, MIB)
            inline = artifact_of(noise(15 * MIB))
            filler = disk / "filler"
            filler.write_bytes(bytes(30 * MIB))
            api.post("/v1/artifacts", inline).refused("storage_full")
            filler.unlink()
            assert used() == MIB
            ids = [a["artifactId"] for a in api.get("/v1/artifacts").ok()["artifacts"]]
            assert ids == [loose, artifact_id]
            assert send(api, loose, noise(2 * MIB)).ok(200)["state"] == "ready"
            api.post("/v1/artifacts", inline).ok(201)


# ---- fetching


@pytest.fixture(scope="module")
def stored(server: Server) -> tuple[Api, str, bytes]:
    api = server.account()
    content = noise(1_000_000)
    artifact_id = announce(api, name="data.bin")
    send(api, artifact_id, content).ok(200)
    return api, artifact_id, content


@pytest.mark.parametrize(
    ("header", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=10-99", 10, 100),
        ("bytes=999999-", 999_999, 1_000_000),
        ("bytes=500000-99999999", 500_000, 1_000_000),
        ("bytes=-5", 999_995, 1_000_000),
        ("bytes=-99999999", 0, 1_000_000),
        ("bytes=0-", 0, 1_000_000),
    ],
)
def test_one_range(stored: tuple[Api, str, bytes], header: str, start: int, end: int) -> None:
    api, artifact_id, content = stored
    answer = fetched(api, artifact_id, Range=header)
    assert answer.status == 206
    assert answer.content == content[start:end]
    assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/1000000"
    assert answer.headers["content-length"] == str(end - start)


@pytest.mark.parametrize("header", ["bytes=1000000-", "bytes=2000000-3000000", "bytes=-0"])
def test_a_range_outside_is_refused(stored: tuple[Api, str, bytes], header: str) -> None:
    api, artifact_id, _ = stored
    answer = fetched(api, artifact_id, Range=header)
    answer.refused("range_not_satisfiable")
    assert answer.headers["content-range"] == "bytes */1000000"


@pytest.mark.parametrize("header", ["bytes=0-1,5-6", "items=0-1", "bytes=5-1", "bytes=-", "nonsense"])
def test_what_is_no_single_range_gets_the_whole(stored: tuple[Api, str, bytes], header: str) -> None:
    api, artifact_id, content = stored
    answer = fetched(api, artifact_id, Range=header)
    assert (answer.status, answer.content) == (200, content)


def test_the_tag_saves_a_transfer(stored: tuple[Api, str, bytes]) -> None:
    api, artifact_id, content = stored
    whole = fetched(api, artifact_id)
    tag = whole.headers["etag"]
    assert tag == f'"{digest_of(content)}"'
    for header in (tag, f"W/{tag}", f'"x", {tag}', "*"):
        again = fetched(api, artifact_id, **{"If-None-Match": header})
        assert (again.status, again.content, again.headers["etag"]) == (304, b"", tag)
    assert fetched(api, artifact_id, **{"If-None-Match": '"x"'}).status == 200
    assert fetched(api, artifact_id, Range="bytes=0-4", **{"If-Range": tag}).status == 206
    assert fetched(api, artifact_id, Range="bytes=0-4", **{"If-Range": '"x"'}).status == 200


def test_a_location_may_be_named(stored: tuple[Api, str, bytes]) -> None:
    api, artifact_id, content = stored
    path = f"/v1/artifacts/{artifact_id}/fetch"
    assert api.get(path, locationId="server").content == content
    api.get(path, locationId="elsewhere").refused("not_found")


def test_a_browser_saves_it_and_runs_nothing(api: Api) -> None:
    made = api.post("/v1/artifacts", artifact_of(b"<script>", name="x.html", mediaType="text/html")).ok(201)
    headers = fetched(api, made["artifactId"]).headers
    assert headers["content-type"].startswith("text/html")
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["content-disposition"].startswith("attachment; ")
    assert headers["content-security-policy"] == "default-src 'none'; sandbox"


@pytest.mark.parametrize(
    ("given", "plain", "clean"),
    [
        ("report.md", "report.md", "report.md"),
        ("../../etc/passwd", "passwd", "passwd"),
        ("C:\\windows\\evil.exe", "evil.exe", "evil.exe"),
        ('a"b;c.txt', "a_b_c.txt", 'a"b;c.txt'),
        ("a\r\nSet-Cookie: x", "aSet-Cookie: x", "aSet-Cookie: x"),
        ("..", "artifact", "artifact"),
        (".hidden", "hidden", "hidden"),
        ("Überblick 日本.pdf", "Uberblick .pdf", "Überblick 日本.pdf"),
        ("\u202egpj.exe", "gpj.exe", "gpj.exe"),
    ],
)
def test_names_are_made_harmless(given: str, plain: str, clean: str) -> None:
    from urllib.parse import quote

    told = byte_ranges.attachment(given)
    assert told == f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(clean, safe='')}"
    assert told.isascii()


def test_damage_is_never_passed_off_as_the_content(server: Server, api: Api) -> None:
    content = noise(2 * MIB)
    artifact_id = announce(api)
    digest = send(api, artifact_id, content).ok(200)["digest"]
    path = blob_path(server, digest)
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    import httpx2

    with pytest.raises(httpx2.RemoteProtocolError):
        fetched(api, artifact_id)
    path.unlink()
    fetched(api, artifact_id).refused("not_found")
    assert api.get(f"/v1/artifacts/{artifact_id}").ok()["locations"][0]["available"] is False


# ---- deletion, garbage


def seen_by_the_collector(server: Server, digest: str) -> bool:
    with server.connect() as conn:
        return conn.execute("select 1 from blob_notes where digest = %s", [digest]).fetchone() is None


def make_due(server: Server, digest: str, api: Api) -> None:
    """As if its time had passed; and somebody deletes something else."""
    with server.connect() as conn:
        assert conn.execute("update blob_notes set due_at = now() where digest = %s", [digest]).rowcount == 1
    loose = announce(api)
    api.delete(f"/v1/artifacts/{loose}").ok(200)


def test_a_blob_goes_when_nothing_refers_to_it_any_more(server: Server, api: Api, other: Api) -> None:
    content = noise(1000)
    mine, twin = (a.post("/v1/artifacts", artifact_of(content)).ok(201) for a in (api, other))
    path = blob_path(server, mine["digest"])
    api.delete(f"/v1/artifacts/{mine['artifactId']}").ok(200)
    make_due(server, mine["digest"], api)
    wait_until(lambda: seen_by_the_collector(server, mine["digest"]))
    assert fetched(other, twin["artifactId"]).content == content
    other.delete(f"/v1/artifacts/{twin['artifactId']}").ok(200)
    wait_until(lambda: not path.exists())


def test_a_blob_that_is_a_tasks_output_stays(server: Server, api: Api) -> None:
    content = noise(20_000)
    digest = digest_of(content)
    path = blob_path(server, digest)
    own = adapter()
    who = api.sandbox()
    made = api.graph(task("a", own), close=True)
    api.as_(who[1]).call("PUT", f"/v1/sandboxes/{who[0]}/blobs/{digest}", content=content).ok(201)
    with sandbox(api, who, adapters=[own]) as peer:
        peer.finish(peer.start().assignment_id, outputs={"o": Output(kind="text", size_bytes=len(content), digest=digest)})
    task_id = made["tasks"][0]["taskId"]
    wait_until(lambda: api.task(task_id)["status"] == "SUCCEEDED")
    artifact = api.post("/v1/artifacts", artifact_of(content)).ok(201)
    api.delete(f"/v1/artifacts/{artifact['artifactId']}").ok(200)
    make_due(server, digest, api)
    wait_until(lambda: seen_by_the_collector(server, digest))
    assert api.get(f"/v1/tasks/{task_id}/outputs/o").content == content
    api.delete(f"/v1/runs/{made['run']['runId']}").ok(200)
    assert path.exists(), "somebody may still be reading the output"
    make_due(server, digest, api)
    wait_until(lambda: not path.exists())


def test_a_runs_artifacts_go_with_it(server: Server, api: Api) -> None:
    run_id = api.run()["runId"]
    made = api.post("/v1/artifacts", artifact_of(noise(100), runId=run_id)).ok(201)
    pending = announce(api, runId=run_id)
    send(api, pending, b"abc", "bytes 0-2/9").ok(202)
    api.delete(f"/v1/runs/{run_id}").ok(200)
    for artifact_id in (made["artifactId"], pending):
        api.get(f"/v1/artifacts/{artifact_id}").refused("not_found")
    make_due(server, made["digest"], api)
    wait_until(lambda: not blob_path(server, made["digest"]).exists())
    wait_until(lambda: partial_files(server, pending) == [])


def test_deleting_a_pending_artifact_removes_what_had_come(server: Server, api: Api) -> None:
    artifact_id = announce(api)
    send(api, artifact_id, b"abc", "bytes 0-2/9").ok(202)
    assert len(partial_files(server, artifact_id)) == 1
    api.delete(f"/v1/artifacts/{artifact_id}").ok(200)
    assert partial_files(server, artifact_id) == []
    api.delete(f"/v1/artifacts/{artifact_id}").refused("not_found")


def test_an_abandoned_upload_is_removed_after_a_day(server: Server, api: Api) -> None:
    made = api.graph(task("a"))
    task_id = made["tasks"][0]["taskId"]
    old, fresh, done = (announce(api, taskId=task_id) for _ in range(3))
    for artifact_id in (old, fresh):
        send(api, artifact_id, b"abc", "bytes 0-2/9").ok(202)
    send(api, done, b"whole").ok(200)
    with server.connect() as conn:
        sql = "update artifact_uploads set touched_at = now() - make_interval(hours => %s) where artifact_id = %s"
        conn.execute(sql, [25, old])
        conn.execute(sql, [23, fresh])
    loose = announce(api)
    api.delete(f"/v1/artifacts/{loose}").ok(200)  # wakes the garbage collector
    wait_until(lambda: api.get(f"/v1/artifacts/{old}").status == 404)
    assert partial_files(server, old) == []
    assert state(api, fresh)["offset"] == 3
    assert state(api, done)["state"] == "ready"
    gone = [e for e in api.activity(task_id, "artifact.deleted") if e["type"] == "artifact.deleted"]
    assert [e["data"] for e in gone] == [{"artifactId": old, "reason": "abandoned"}]
    assert garbage.INTERVAL_S <= 3600


# ---- outputs of a run


def test_the_outputs_of_a_run_are_listed(api: Api, other: Api) -> None:
    own = adapter()
    who = api.sandbox()
    made = api.graph(task("a", own), task("b", own), task("c", "nobody"))
    run = made["run"]["runKey"]
    assert api.get(f"/v1/runs/{run}/outputs").ok() == {"outputs": [], "nextCursor": None}

    def output(text: str, kind: Any = "text") -> Output:
        return Output(kind=kind, size_bytes=len(text), digest=digest_of(text.encode()), text=text)

    with sandbox(api, who, adapters=[own], max_concurrency=1) as peer:
        peer.finish(peer.start().assignment_id, outputs={"z": output("1"), "b-2": output("{}", "json"), "b": output("3")})
        peer.finish(peer.start().assignment_id, outputs={"a": output("four")})
    wait_until(lambda: len(api.get(f"/v1/runs/{run}/outputs").ok()["outputs"]) == 4)
    first = api.get(f"/v1/runs/{run}/outputs", limit=2).ok()
    rest = api.get(f"/v1/runs/{run}/outputs", limit=3, cursor=first["nextCursor"]).ok()
    found = first["outputs"] + rest["outputs"]
    assert [(o["taskKey"], o["outputKey"], o["kind"], o["sizeBytes"], o["digest"]) for o in found] == [
        ("a", "b", "text", 1, digest_of(b"3")), ("a", "b-2", "json", 2, digest_of(b"{}")),
        ("a", "z", "text", 1, digest_of(b"1")), ("b", "a", "text", 4, digest_of(b"four")),
    ]  # fmt: skip
    assert rest["nextCursor"] is None
    other.get(f"/v1/runs/{made['run']['runId']}/outputs").refused("not_found")


# ---- size


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_300_megabytes_up_and_down_in_little_memory(database: str, tmp_path: Path) -> None:
    count = 300
    noises = noise(MIB)

    def pieces() -> Iterator[bytes]:
        for number in range(count):
            yield number.to_bytes(4, "big") + noises[4:]

    hashed = hashlib.sha256()
    for piece in pieces():
        hashed.update(piece)
    with serving(tmp_path, database) as server:
        api = server.account()
        artifact_id = announce(api, digest=f"sha256:{hashed.hexdigest()}", sizeBytes=count * MIB)
        say = sys.stdout.write
        began = time.monotonic()
        body: Any = pieces()
        path = f"/v1/artifacts/{artifact_id}/content"
        headers = {"Content-Length": str(count * MIB)}
        api.call("PUT", path, content=body, headers=headers, timeout_s=200).ok(200)
        up_s = time.monotonic() - began
        import httpx2

        back = hashlib.sha256()
        began = time.monotonic()
        with (
            httpx2.Client(base_url=api.url, headers=api.headers, timeout=100) as http,
            http.stream("GET", f"/v1/artifacts/{artifact_id}/fetch") as response,
        ):
            for piece in response.iter_raw():
                back.update(piece)
        down_s = time.monotonic() - began
        assert back.hexdigest() == hashed.hexdigest()
        status = Path(f"/proc/{server.pid}/status").read_text()
        peak_mib = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024
        say(f"up {count / up_s:.0f} MiB/s, down {count / down_s:.0f} MiB/s, peak {peak_mib:.0f} MiB")
        assert peak_mib < 200



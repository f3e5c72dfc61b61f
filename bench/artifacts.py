"""One large artifact up and down: throughput of both ways, and the most memory that the server took for it.

N is its size in MiB (default 1024). `bare` sends and receives with nothing else to do; `client` is
`flakes.client`, which also computes and checks digests.
"""

from __future__ import annotations

import os
import random
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from bench.measure import emit
from bench.plane import Plane, plane
from flakes.client import SyncClient

MIB = 1024 * 1024


class Peak:
    """The largest resident size of the server while the block runs."""

    def __init__(self, server: Plane) -> None:
        self._server = server
        self.mib = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.02):
            self.mib = max(self.mib, self._server.memory_mib())


def make(path: Path, size_mib: int) -> None:
    """A file of noise; no two mebibytes are equal."""
    noise = bytearray(random.Random(7).randbytes(MIB))
    with path.open("wb") as file:
        for number in range(size_mib):
            noise[:8] = number.to_bytes(8, "big")
            file.write(noise)


def pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(MIB):
            yield piece


def bare(server: Plane, path: Path, size_mib: int) -> None:
    with server.client() as http:
        made = http.post("/v1/artifacts", json={"kind": "bench"}).raise_for_status().json()
        base = f"/v1/artifacts/{made['artifactId']}"
        headers = {"content-length": str(size_mib * MIB)}
        with Peak(server) as peak:
            began = time.monotonic()
            answer = http.put(f"{base}/content", content=pieces(path), headers=headers)
            up_s = time.monotonic() - began
            assert answer.raise_for_status().json()["state"] == "ready"
            began = time.monotonic()
            count = 0
            with http.stream("GET", f"{base}/fetch") as response:
                for piece in response.iter_raw():
                    count += len(piece)
            down_s = time.monotonic() - began
        assert count == size_mib * MIB
        http.delete(base).raise_for_status()
    emit("artifacts", how="bare", mib=size_mib, up_mib_s=round(size_mib / up_s),
         down_mib_s=round(size_mib / down_s), server_peak_mib=round(peak.mib, 1))  # fmt: skip


def client(server: Plane, path: Path, size_mib: int) -> None:
    with SyncClient(server.url, server.token) as api, Peak(server) as peak:
        began = time.monotonic()
        artifact = api.upload_artifact(path, kind="bench")
        up_s = time.monotonic() - began
        began = time.monotonic()
        target = path.with_name("back")
        api.download_artifact(artifact.artifact_id, target)
        down_s = time.monotonic() - began
        assert target.stat().st_size == size_mib * MIB
        target.unlink()
        api.delete_artifact(artifact.artifact_id)
    emit("artifacts", how="client", mib=size_mib, up_mib_s=round(size_mib / up_s),
         down_mib_s=round(size_mib / down_s), server_peak_mib=round(peak.mib, 1))  # fmt: skip


def main() -> None:
    size_mib = int(os.environ.get("N") or "1024")
    with tempfile.TemporaryDirectory(prefix="flakes-bench-") as directory, plane() as server:
        emit("artifacts", how="idle", server_peak_mib=round(server.memory_mib(), 1))
        path = Path(directory) / "artifact"
        make(path, size_mib)
        bare(server, path, size_mib)
        client(server, path, size_mib)


if __name__ == "__main__":
    main()

"""Bytes that sandboxes put under their digest, and who may read them (F26)."""

from __future__ import annotations

import hashlib

from api.caller import Api, task
from api.peer import adapter, sandbox
from flakes.wire.tasks import Output


def test_blobs(api: Api, other: Api) -> None:
    sandbox_id, token = api.sandbox()
    mine = api.as_(token)
    base = f"/v1/sandboxes/{sandbox_id}/blobs"
    data = bytes(range(256)) * 9_000
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    assert mine.call("PUT", f"{base}/{digest}", content=data).ok(201)["sizeBytes"] == len(data)
    mine.call("PUT", f"{base}/{digest}", content=data).ok(201)
    mine.call("PUT", f"{base}/{digest}", content=data[:-1]).refused("digest_mismatch")
    unknown = f"sha256:{hashlib.sha256(b'other').hexdigest()}"
    mine.call("PUT", f"{base}/{unknown}", content=data).refused("digest_mismatch")
    for wrong in ("nonsense", "sha256:12", "md5:abc", f"sha256:{'G' * 64}", "..%2f..%2fetc"):
        answer = mine.call("PUT", f"{base}/{wrong}", content=b"x", checked=False)
        assert answer.status in (400, 404), wrong
    for missing in (digest, unknown, "nonsense"):
        mine.get(f"{base}/{missing}").refused("not_found")


def test_a_blob_that_is_too_large(api: Api) -> None:
    sandbox_id, token = api.sandbox()
    data = b"\0" * (64 * 1024**2 + 1)
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    path = f"/v1/sandboxes/{sandbox_id}/blobs/{digest}"
    api.as_(token).call("PUT", path, content=data).refused("too_large")


def test_a_blob_is_read_by_those_whose_offer_names_it(api: Api) -> None:
    """F26: while the offer lives, by that sandbox, and by nobody else."""
    own = adapter()
    data = b"z" * 300_000
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    who, mate = api.sandbox(), api.sandbox()
    with sandbox(api, who, adapters=[own]) as peer, sandbox(api, mate):
        mine, mates = api.as_(who[1]), api.as_(mate[1])
        made = api.graph(task("a", own), task("b", own, dependsOn=["a"]))
        first = peer.start()
        mine.call("PUT", f"/v1/sandboxes/{who[0]}/blobs/{digest}", content=data).ok(201)
        mine.get(f"/v1/sandboxes/{who[0]}/blobs/{digest}").refused("not_found")
        output = Output(kind="text", size_bytes=len(data), digest=digest)
        peer.finish(first.assignment_id, outputs={"o": output})
        second = peer.start()
        assert mine.get(f"/v1/sandboxes/{who[0]}/blobs/{digest}").content == data
        mates.get(f"/v1/sandboxes/{mate[0]}/blobs/{digest}").refused("not_found")
        peer.finish(second.assignment_id)
        mine.get(f"/v1/sandboxes/{who[0]}/blobs/{digest}").refused("not_found")
    assert api.get(f"/v1/tasks/{made['tasks'][0]['taskId']}/outputs/o").content == data

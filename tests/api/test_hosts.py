"""Hosts as their owner manages them: credentials, previews and blockers, and every way to let one go."""

from __future__ import annotations

import time
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus

from api.caller import Api, task
from api.following import following
from api.peer import adapter, host, open_stream, pool, sandbox
from embedded_servers import wait_until
from flakes.wire.host_stream import Heartbeat, Launch, LeaseResult, Stop
from flakes.wire.sandbox_stream import Cancel, Drain


def one(api: Api, own: str, **fields: Any) -> str:
    return api.graph(task("a", own, **fields))["tasks"][0]["taskId"]


def credential_id(raw: str) -> str:
    return raw.partition(".")[0].rsplit("_", 1)[-1]


def sandbox_of(api: Api, sandbox_id: str) -> dict[str, Any]:
    return api.get(f"/v1/sandboxes/{sandbox_id}").ok()


def blockers_of(api: Api, host_id: str) -> list[str]:
    return api.call("DELETE", f"/v1/hosts/{host_id}", dryRun="true").ok(200)["blockers"]


# ---- credentials


def test_a_revoked_credential_ends_the_live_stream(api: Api) -> None:
    who = api.host()
    with following(api) as stream, host(api, who, pool("a", adapter())) as peer:
        began_s = time.monotonic()
        path = f"/v1/hosts/{who[0]}/credentials/{credential_id(who[1])}"
        assert api.get(path).ok()["status"] == "active"
        assert "lastUsedAt" in api.get(path).ok()
        gone = api.post(f"{path}/revoke", {"reason": "stolen"}).ok(200)
        assert (gone["status"], gone["reason"]) == ("revoked", "stolen")
        peer.wait_closed()
        assert time.monotonic() - began_s < 4
        told = stream.until(lambda s: s.event == "host.credential_revoked")[-1].data["data"]
        assert told == {"hostId": who[0], "credentialId": credential_id(who[1]), "reason": "stolen"}
    wait_until(lambda: api.get(f"/v1/hosts/{who[0]}").ok()["status"] == "offline")
    with pytest.raises(InvalidStatus) as refused:
        open_stream(api.url, "hosts", *who)
    assert refused.value.response.status_code == 401
    assert api.post(f"{path}/revoke", {"reason": "again"}).ok(200) == gone, "once is enough"


def test_a_rotated_credential_takes_over_without_a_gap(api: Api) -> None:
    host_id, old = api.host()
    path = f"/v1/hosts/{host_id}/credentials"
    made = api.post(f"{path}/rotate").ok(200)
    assert [(c["credentialId"], c["status"]) for c in made["replaced"]] == [(credential_id(old), "retired")]
    shown = api.get(path).ok()["credentials"]
    assert {c["status"] for c in shown} == {"active", "retired"}
    assert not [c for c in shown if "rawCredential" in c]
    for raw in (old, made["rawCredential"]):
        with host(api, (host_id, raw), pool("a", adapter())):
            pass
    api.post(f"{path}/{credential_id(old)}/revoke").ok(200)
    with pytest.raises(InvalidStatus):
        wait_until(lambda: open_stream(api.url, "hosts", host_id, old).close() is not None)
    with host(api, (host_id, made["rawCredential"]), pool("a", adapter())):
        pass
    again = api.post(f"{path}/rotate", {"graceS": 0}).ok(200)
    assert [c["status"] for c in again["replaced"]] == ["revoked"]
    api.post(f"{path}/rotate", {"graceS": -1}).refused("invalid_request")
    api.post(f"/v1/hosts/{host_id}/disable").ok(200)
    api.post(f"{path}/rotate").refused("host_conflict")


def test_a_replayed_rotation_shows_the_same_credential_to_the_same_caller(api: Api) -> None:
    host_id, _ = api.host()
    path = f"/v1/hosts/{host_id}/credentials/rotate"
    first = api.keyed("POST", path, "again", {}).ok(200)
    assert api.keyed("POST", path, "again", {}).ok(200) == first
    assert len(api.get(f"/v1/hosts/{host_id}/credentials").ok()["credentials"]) == 2


def test_only_so_many_credentials_work_at_once(api: Api) -> None:
    host_id, _ = api.host()
    path = f"/v1/hosts/{host_id}/credentials/rotate"
    for _ in range(7):
        api.post(path, {"graceS": 3600}).ok(200)
    assert api.post(path, {"graceS": 3600}).refused("limit_exceeded")["limit"] == 8


# ---- what people may change


def test_what_a_host_says_of_itself_is_not_for_people_to_write(api: Api) -> None:
    host_id, _ = api.host()
    path = f"/v1/hosts/{host_id}"
    for key in ("runtime", "adapter", "path", "env", "image", "provider", "status"):
        refused = api.patch(path, {"metadata": {"rack": 1, "deep": [{key: "x"}]}}).refused("invalid_request")
        assert refused["issues"][0]["path"] == f"metadata.deep[0].{key}"
        api.patch(path, {key: "x"}).refused("invalid_request")
        api.post("/v1/hosts/setup", {"metadata": {key: 1}}).refused("invalid_request")
    assert "metadata" not in api.get(path).ok()
    assert api.patch(path, {"autoBind": False}).ok(200)["autoBind"] is False


# ---- disable, enable


def test_a_disabled_host_claims_nothing_and_drains(api: Api) -> None:
    who, own = api.host(), adapter()
    with host(api, who, pool("a", own, max_instances=3, max_concurrency=1)) as peer:
        first, second = api.graph(task("a", own), task("b", own))["tasks"]
        launches = [peer.launched(), peer.launched()]
        credentials = [(each.sandbox_id, each.sandbox_token) for each in launches]
        with sandbox(api, credentials[0], adapters=[own], max_concurrency=1) as busy:
            running = busy.start()
            with sandbox(api, credentials[1], adapters=[own], max_concurrency=1) as offered:
                open_ = offered.offer()
                assert {running.task_id, open_.task_id} == {first["taskId"], second["taskId"]}
                url = f"/v1/hosts/{who[0]}/disable"
                preview = api.call("POST", url, {}, dryRun="true").ok(200)
                assert (preview["applied"], preview["host"]["status"]) == (False, "online")
                assert set(preview["sandboxIds"]) == {each.sandbox_id for each in launches}
                done = api.post(url, {"reason": "heat"}).ok(200)
                assert (done["applied"], done["sandboxIds"]) == (True, preview["sandboxIds"])
                assert busy.expect(Drain).reason
                assert offered.expect(Drain).reason
                stops = {peer.expect(Stop).instance_id, peer.expect(Stop).instance_id}
                assert stops == {each.instance_id for each in launches}
                # The offer that nobody had accepted waits elsewhere, and cost the task nothing.
                wait_until(lambda: api.task(open_.task_id)["attempts"][0]["state"] == "lost")
                assert api.task(open_.task_id)["status"] == "QUEUED"
                assert busy.finish(running.assignment_id) == set()
            assert api.task(running.task_id)["status"] == "SUCCEEDED"
        for each in launches:
            peer.exited(each.instance_id, "drained")
        peer.tell(Heartbeat(instances=0))
        wait_until(lambda: sandbox_of(api, launches[1].sandbox_id)["status"] == "stopped")
        wait_until(lambda: api.explained(open_.task_id)["code"] == "no_host_online")
        assert not [m for m in peer.others if isinstance(m, Launch)]
        assert api.get(f"/v1/hosts/{who[0]}").ok()["status"] == "disabled"
        assert api.post(f"/v1/hosts/{who[0]}/enable").ok(200)["status"] == "online"
        replacement = peer.launched()
        with sandbox(api, (replacement.sandbox_id, replacement.sandbox_token), adapters=[own]) as fresh:
            assert fresh.start().task_id == open_.task_id


# ---- delete, abandon, prune


def test_a_host_is_deleted_when_nothing_holds_it(api: Api) -> None:
    who, own = api.host(), adapter()
    path = f"/v1/hosts/{who[0]}"
    with host(api, who, pool("a", own)) as peer:
        made = one(api, own)
        launch = peer.expect(Launch)
        everything = ["active_credentials", "active_leases", "nonterminal_instances"]
        assert api.delete(path).refused("host_delete_blocked")["blockers"] == everything
        assert blockers_of(api, who[0]) == everything
        peer.tell(LeaseResult(lease_id=launch.lease_id, ok=True))
        wait_until(lambda: blockers_of(api, who[0]) == ["active_credentials", "nonterminal_instances"])
        api.post(f"{path}/disable").ok(200)
        stop = peer.expect(Stop)
        peer.tell(LeaseResult(lease_id=stop.lease_id, ok=True))
        wait_until(lambda: blockers_of(api, who[0]) == ["active_credentials"])
    api.post(f"{path}/credentials/{credential_id(who[1])}/revoke").ok(200)
    answer = api.call("DELETE", path, dryRun="true").ok(200)
    assert answer == {"status": "would_delete", "hostId": who[0], "blockers": []}
    api.get(path).ok(200)
    assert api.delete(path).ok(200)["status"] == "deleted"
    api.get(path).refused("not_found")
    shown = sandbox_of(api, launch.sandbox_id)
    assert shown["status"] == "stopped"
    assert "hostId" not in shown
    assert api.task(made)["status"] == "QUEUED"
    assert api.delete(f"/v1/sandboxes/{launch.sandbox_id}").ok(200)["status"] == "deleted"


def test_an_abandoned_hosts_work_goes_on_elsewhere(api: Api) -> None:
    lost, other, own = api.host(), api.host(), adapter()
    path = f"/v1/hosts/{lost[0]}/abandon"
    with host(api, lost, pool("a", own)) as peer:
        made = one(api, own)
        launch = peer.launched()
        with sandbox(api, (launch.sandbox_id, launch.sandbox_token), adapters=[own], max_concurrency=1) as gone:
            gone.start()
        api.post(path, {"confirm": lost[0]}).refused("host_conflict")
    wait_until(lambda: api.get(f"/v1/hosts/{lost[0]}").ok()["status"] == "offline")
    with following(api) as stream, host(api, other, pool("b", own)) as peer:
        api.post(path, {"confirm": "host"}).refused("confirmation_required")
        api.post(path, {}).refused("invalid_request")
        done = api.post(path, {"confirm": lost[0], "reason": "burnt down"}).ok(200)
        assert (done["sandboxIds"], done["clearedAssignments"]) == ([launch.sandbox_id], 1)
        assert done["host"]["status"] == "disabled"
        told = stream.until(lambda s: s.event == "host.abandoned")[-1].data["data"]
        assert told["reason"] == "burnt down"
        replacement = peer.launched()
        with sandbox(api, (replacement.sandbox_id, replacement.sandbox_token), adapters=[own]) as fresh:
            assert fresh.start().task_id == made
    for kind, who in (("hosts", lost), ("sandboxes", (launch.sandbox_id, launch.sandbox_token))):
        with pytest.raises(InvalidStatus) as refused:
            open_stream(api.url, kind, *who)
        assert refused.value.response.status_code == 401
    shown = sandbox_of(api, launch.sandbox_id)
    assert (shown["status"], shown["reason"]) == ("stopped", "burnt down")
    assert "cleanup" not in shown
    assert api.delete(f"/v1/hosts/{lost[0]}").ok(200)["status"] == "deleted"


def test_pruning_takes_what_is_away_and_holds_nothing(api: Api) -> None:
    away, connected, holding = api.host(), api.host(), api.host()
    own = adapter()
    with host(api, holding, pool("a", own)) as peer:
        one(api, own)
        peer.launched()
    with host(api, connected, pool("b", adapter())):
        wait_until(lambda: api.get(f"/v1/hosts/{holding[0]}").ok()["status"] == "offline")
        preview = api.post("/v1/hosts/prune", {"dryRun": True, "offlineS": 0}).ok(200)
        assert [each["hostId"] for each in preview["hosts"]] == [away[0]]
        assert [(k["hostId"], k["blockers"]) for k in preview["kept"]] == [
            (holding[0], ["nonterminal_instances"])
        ]
        assert len(api.get("/v1/hosts").ok()["hosts"]) == 3
        assert api.post("/v1/hosts/prune").ok(200)["hosts"] == [], "seven days, where nothing is said"
        done = api.post("/v1/hosts/prune", {"offlineS": 0}).ok(200)
        assert done == preview | {"dryRun": False}
        left = {each["hostId"] for each in api.get("/v1/hosts").ok()["hosts"]}
        assert left == {connected[0], holding[0]}
    with pytest.raises(InvalidStatus):
        open_stream(api.url, "hosts", *away)


# ---- the fleet


def test_drain_takes_back_what_was_not_accepted_and_finishes_what_was(api: Api) -> None:
    who, own = api.host(), adapter()
    with host(api, who, pool("a", own, max_concurrency=2)) as peer:
        made = api.graph(task("a", own), task("b", own))["tasks"]
        launch = peer.launched()
        path = f"/v1/sandboxes/{launch.sandbox_id}"
        with sandbox(api, (launch.sandbox_id, launch.sandbox_token), adapters=[own], max_concurrency=2) as daemon:
            running, open_ = daemon.start(), daemon.offer()
            blocked = api.delete(path).refused("sandbox_delete_blocked")
            assert blocked["blockers"] == ["live_sandbox", "accepted_running_assignments"]
            done = api.keyed("POST", f"{path}/drain", "key", {"reason": "update"}).ok(200)
            assert (done["sandbox"]["status"], done["clearedAssignments"]) == ("draining", 1)
            assert api.keyed("POST", f"{path}/drain", "key", {"reason": "update"}).ok(200) == done
            assert daemon.expect(Drain).reason == "update"
            stop = peer.expect(Stop)
            assert (stop.instance_id, stop.drain, stop.reason) == (launch.instance_id, True, "update")
            assert api.post(f"{path}/drain").ok(200)["clearedAssignments"] == 0
            assert api.task(open_.task_id)["status"] == "QUEUED"
            assert "error" not in api.task(open_.task_id)
            assert api.task(running.task_id)["status"] == "RUNNING"
            # A daemon that had accepted in that very moment is refused, and told so.
            assert daemon.finish(running.assignment_id) == set()
            peer.tell(LeaseResult(lease_id=stop.lease_id, ok=True))
        peer.exited(launch.instance_id, "the daemon retired")
        wait_until(lambda: sandbox_of(api, launch.sandbox_id)["status"] == "stopped")
        replacement = peer.launched()
        with sandbox(api, (replacement.sandbox_id, replacement.sandbox_token), adapters=[own]) as fresh:
            assert fresh.start().task_id == open_.task_id
    assert {t["taskId"] for t in made} == {running.task_id, open_.task_id}
    assert not [m for m in daemon.others if isinstance(m, Cancel)]
    api.post(f"{path}/drain").refused("sandbox_conflict")
    api.post(f"{path}/stop").refused("sandbox_conflict")


def test_a_drain_reaches_a_daemon_that_was_away(api: Api) -> None:
    """One that is run by hand, too: it has ended once it hangs up with nothing left."""
    who, own = api.sandbox(), adapter()
    with sandbox(api, who, adapters=[own]):
        pass
    wait_until(lambda: sandbox_of(api, who[0])["liveness"] == "offline")
    path = f"/v1/sandboxes/{who[0]}"
    assert api.post(f"{path}/drain").ok(200)["sandbox"]["status"] == "draining"
    api.post(f"{path}/stop").refused("sandbox_conflict")
    with sandbox(api, who, adapters=[own]) as daemon:
        assert daemon.expect(Drain).reason == "drained"
    wait_until(lambda: sandbox_of(api, who[0])["status"] == "stopped")
    with pytest.raises(InvalidStatus):
        open_stream(api.url, "sandboxes", *who)


def test_stopping_moves_the_work_elsewhere(api: Api) -> None:
    who, own = api.host(), adapter()
    with host(api, who, pool("a", own)) as peer:
        made = one(api, own)
        launch = peer.launched()
        path = f"/v1/sandboxes/{launch.sandbox_id}"
        with sandbox(api, (launch.sandbox_id, launch.sandbox_token), adapters=[own], max_concurrency=1) as daemon:
            daemon.start()
            assert api.post(f"{path}/stop", {"reason": "now"}).ok(200)["sandbox"]["status"] == "stopping"
            stop = peer.expect(Stop)
            assert (stop.drain, stop.reason) == (False, "now")
            assert api.task(made)["status"] == "RUNNING", "until its host says that it is dead"
            blocked = api.delete(path).refused("sandbox_delete_blocked")["blockers"]
            assert blocked[0] == "unsafe_status"
        peer.tell(LeaseResult(lease_id=stop.lease_id, ok=True))
        replacement = peer.launched()
        with sandbox(api, (replacement.sandbox_id, replacement.sandbox_token), adapters=[own]) as fresh:
            again = fresh.start()
            assert (again.task_id, again.attempt) == (made, 1)


def test_a_delete_waits_for_its_hosts_clean_up(quick: Api) -> None:
    """`deleting` and visible until the host has left nothing behind; a failure is shown and tried again."""
    who, own = quick.host(), adapter()
    with host(quick, who, pool("a", own)) as peer:
        one(quick, own, retry={"maxAttempts": 1})
        launch = peer.launched()
        path = f"/v1/sandboxes/{launch.sandbox_id}"
        with sandbox(quick, (launch.sandbox_id, launch.sandbox_token), adapters=[own], max_concurrency=1) as daemon:
            running = daemon.start()
            assert daemon.finish(running.assignment_id) == set()
        wait_until(lambda: sandbox_of(quick, launch.sandbox_id)["liveness"] == "offline")
        done = quick.delete(path).ok(200)
        assert done == {
            "status": "cleanup_queued", "sandboxId": launch.sandbox_id,
            "instanceId": launch.instance_id, "clearedAssignments": 0,
        }  # fmt: skip
        assert quick.delete(path).ok(200) == done
        stop = peer.expect(Stop)
        shown = sandbox_of(quick, launch.sandbox_id)
        assert (shown["status"], shown["cleanup"]) == ("deleting", {"state": "asked", "attempts": 1})
        peer.tell(LeaseResult(lease_id=stop.lease_id, ok=False, reason="processes [7] could not be killed"))
        wait_until(lambda: sandbox_of(quick, launch.sandbox_id)["cleanup"]["state"] == "waiting")
        cleanup = sandbox_of(quick, launch.sandbox_id)["cleanup"]
        assert (cleanup["attempts"], cleanup["lastError"]) == (1, "processes [7] could not be killed")
        assert cleanup["nextAt"]
        with pytest.raises(InvalidStatus):
            open_stream(quick.url, "sandboxes", launch.sandbox_id, launch.sandbox_token)
        again = peer.expect(Stop)
        assert again.lease_id != stop.lease_id
        peer.tell(LeaseResult(lease_id=again.lease_id, ok=True))
        wait_until(lambda: quick.get(path).status == 404)


def test_a_delete_while_the_host_is_away_is_done_when_it_is_back(api: Api) -> None:
    who, own = api.host(), adapter()
    with host(api, who, pool("a", own)) as peer:
        one(api, own)
        launch = peer.launched()
        with sandbox(api, (launch.sandbox_id, launch.sandbox_token), adapters=[own], max_concurrency=1) as daemon:
            assert daemon.finish(daemon.start().assignment_id) == set()
    wait_until(lambda: api.get(f"/v1/hosts/{who[0]}").ok()["status"] == "offline")
    wait_until(lambda: sandbox_of(api, launch.sandbox_id)["liveness"] == "offline")
    path = f"/v1/sandboxes/{launch.sandbox_id}"
    assert api.delete(path).ok(200)["status"] == "cleanup_queued"
    assert sandbox_of(api, launch.sandbox_id)["cleanup"]["state"] == "host_offline"
    from api.peer import instance

    with host(api, who, pool("a", own), instances=[instance(launch)]) as peer:
        stop = peer.expect(Stop)
        assert stop.instance_id == launch.instance_id
        peer.tell(LeaseResult(lease_id=stop.lease_id, ok=True))
        wait_until(lambda: api.get(path).status == 404)


def test_what_nobody_can_clean_up_can_be_abandoned(api: Api) -> None:
    who, own = api.host(), adapter()
    with host(api, who, pool("a", own)) as peer:
        made = one(api, own)
        launch = peer.launched()
        path = f"/v1/sandboxes/{launch.sandbox_id}"
        with sandbox(api, (launch.sandbox_id, launch.sandbox_token), adapters=[own], max_concurrency=1) as daemon:
            daemon.start()
            api.post(f"{path}/abandon", {"confirm": launch.sandbox_id}).refused("sandbox_conflict")
    wait_until(lambda: api.get(f"/v1/hosts/{who[0]}").ok()["status"] == "offline")
    wait_until(lambda: sandbox_of(api, launch.sandbox_id)["liveness"] == "offline")
    assert api.delete(path).refused("sandbox_delete_blocked")["blockers"] == ["accepted_running_assignments"]
    api.post(f"{path}/abandon", {"confirm": "yes"}).refused("confirmation_required")
    done = api.post(f"{path}/abandon", {"confirm": launch.sandbox_id, "reason": "gone"}).ok(200)
    assert (done["status"], done["clearedAssignments"]) == ("abandoned", 1)
    api.get(path).refused("not_found")
    shown = api.task(made)
    assert (shown["status"], shown["attempts"][0]["state"]) == ("QUEUED", "lost")


def test_a_launch_credential_opens_nothing_before_its_launch_is_accepted(api: Api) -> None:
    """Nor when it is played again after the sandbox has ended."""
    who, own = api.host(), adapter()
    with host(api, who, pool("a", own)) as peer:
        one(api, own)
        launch = peer.expect(Launch)
        as_daemon = api.as_(launch.sandbox_token)
        blob = f"/v1/sandboxes/{launch.sandbox_id}/blobs/x"
        as_daemon.get(blob).refused("unauthorized")
        with pytest.raises(InvalidStatus) as refused:
            open_stream(api.url, "sandboxes", launch.sandbox_id, launch.sandbox_token)
        assert refused.value.response.status_code == 401
        peer.tell(LeaseResult(lease_id=launch.lease_id, ok=True))
        with sandbox(api, (launch.sandbox_id, launch.sandbox_token), adapters=[own], max_concurrency=1) as daemon:
            daemon.start()
        peer.exited(launch.instance_id, "killed")
        wait_until(lambda: sandbox_of(api, launch.sandbox_id)["status"] == "stopped")
        wait_until(lambda: as_daemon.get(blob).status == 401)
        # The answer to its launch, played again, brings nothing back.
        peer.tell(LeaseResult(lease_id=launch.lease_id, ok=True))
        peer.launched()
        as_daemon.get(blob).refused("unauthorized")

"""The stream of a host: pools in, launches pushed, exits noticed, inventories reconciled, idle sandboxes retired."""

from __future__ import annotations

import time
from typing import Any

from api.caller import Api, name, task
from api.following import following
from api.peer import (
    HostPeer,
    SandboxPeer,
    adapter,
    host,
    host_hello,
    instance,
    open_stream,
    pool,
    sandbox,
)
from embedded_servers import wait_until
from flakes.server.streams.hub import Hub, Peer
from flakes.wire.host_stream import Bindings, Heartbeat, InstanceExited, Launch, LeaseResult, Stop
from flakes.wire.sandbox_stream import Heartbeat as SandboxHeartbeat


def one(api: Api, own: str, **fields: Any) -> str:
    """The id of a new task for this adapter."""
    return api.graph(task("a", own, **fields))["tasks"][0]["taskId"]


def status_of(api: Api, sandbox_id: str) -> str:
    return api.get(f"/v1/sandboxes/{sandbox_id}").ok()["status"]


def credential_of(launch: Launch) -> tuple[str, str]:
    return launch.sandbox_id, launch.sandbox_token


def test_what_a_host_says_of_itself_is_shown(api: Api) -> None:
    who = api.host(hostName="attic")
    own = adapter()
    with following(api) as stream:
        with host(api, who, pool("a", own, max_concurrency=3, capabilities=["y", "x"]), pool("b", own)) as peer:
            assert set(peer.pools) == {"a", "b"}
            shown = api.get(f"/v1/hosts/{who[0]}").ok()
            assert (shown["status"], shown["name"], shown["platform"]) == ("online", "attic", "linux")
            first, second = api.get(f"/v1/hosts/{who[0]}/pools").ok()["hostPools"]
            assert (first["poolId"], first["poolKey"]) == (peer.pools["a"], "a")
            assert (first["capabilities"], first["maxConcurrency"]) == (["x", "y"], 3)
            assert first["available"] is second["available"] is True
            stream.until(lambda s: s.event == "host.online")
        stream.until(lambda s: s.event == "host.offline")
    assert api.get(f"/v1/hosts/{who[0]}").ok()["status"] == "offline"
    with host(api, who, pool("a", own, max_concurrency=5)) as peer:
        assert peer.pools == {"a": first["poolId"]}, "a pool keeps its id"
        shown_pools = api.get(f"/v1/hosts/{who[0]}/pools").ok()["hostPools"]
        assert [(p["poolKey"], p["available"]) for p in shown_pools] == [("a", True), ("b", False)]
        assert shown_pools[0]["maxConcurrency"] == 5
        # A second hello on the same connection is a new advertisement.
        peer.tell(host_hello(who[0], [pool("c", own)]))
        wait_until(lambda: len(api.get(f"/v1/hosts/{who[0]}/pools").ok()["hostPools"]) == 3)
        peer.tell(Heartbeat(instances=0))
        assert api.get(f"/v1/hosts/{who[0]}").ok()["status"] == "online"


def test_frames_that_make_no_sense_do_not_close_it(api: Api) -> None:
    who, own = api.host(), adapter()
    with open_stream(api.url, "hosts", *who) as ws:
        peer = HostPeer(ws, who[0])
        for frame in ("", "x", "{}", b"\xff", '{"type":"welcome"}', '{"a":' * 20_000):
            peer.send_raw(frame)
        peer.tell(LeaseResult(lease_id="before hello", ok=True))
        peer.tell(host_hello(who[0], [pool("a", own)]))
        one(api, own)
        for frame in ('{"type":"lease_result"}', b"\xff", '{"type":"instance_exited","instanceId":"x\\u0000"}'):
            peer.send_raw(frame)
        peer.tell(LeaseResult(lease_id="unknown", ok=False, reason="a\0b"))
        launch = peer.launched()
        assert launch.pool_key == "a"


def test_a_launch_is_pushed_when_a_task_needs_it(api: Api) -> None:
    """F21: not at the next poll."""
    who, own = api.host(), adapter()
    with host(api, who, pool("a", own, max_concurrency=2)) as peer, following(api) as stream:
        began_s = time.monotonic()
        made = one(api, own)
        launch = peer.expect(Launch)
        assert time.monotonic() - began_s < 1.0
        assert api.explained(made)["code"] == "launch_in_flight"
        assert status_of(api, launch.sandbox_id) == "launching"
        told = stream.until(lambda s: s.event == "sandbox.launching")[-1].data["data"]
        assert told == {"sandboxId": launch.sandbox_id, "poolId": peer.pools["a"], "hostId": who[0]}
        peer.tell(LeaseResult(lease_id=launch.lease_id, ok=True))
        with sandbox(api, credential_of(launch), adapters=[own], max_concurrency=2) as daemon:
            assert daemon.start().task_id == made
            shown = api.get(f"/v1/sandboxes/{launch.sandbox_id}").ok()
            assert (shown["hostId"], shown["poolId"]) == (who[0], peer.pools["a"])
            assert (shown["provider"], shown["instanceId"]) == ("process", launch.instance_id)


def test_a_pool_launches_no_more_than_its_maximum(api: Api) -> None:
    who, own = api.host(), adapter()
    with host(api, who, pool("a", own, max_instances=2, max_concurrency=2)) as peer:
        made = api.graph(*(task(f"t{n}", own) for n in range(9)))["tasks"]
        launches = [peer.launched(), peer.launched()]
        with (
            sandbox(api, credential_of(launches[0]), adapters=[own], max_concurrency=2) as one_,
            sandbox(api, credential_of(launches[1]), adapters=[own], max_concurrency=2) as two,
        ):
            for daemon in (one_, two):
                daemon.start()
                daemon.start()
            waiting = [t["taskId"] for t in made if api.task(t["taskId"])["status"] == "QUEUED"]
            assert len(waiting) == 5
            wait_until(lambda: api.explained(waiting[0])["code"] == "pool_at_limit")
            explained = api.explained(waiting[0])
            assert explained["sentence"].startswith("4 of 4 slots")
            peer.tell(Heartbeat(instances=2))
            assert not [m for m in peer.others if isinstance(m, Launch)]
    alive = [s for s in api.get("/v1/sandboxes").ok()["sandboxes"] if s.get("hostId") == who[0]]
    assert len(alive) == 2


def test_a_failed_launch_is_visible_and_tried_again(quick: Api) -> None:
    who, own = quick.host(), adapter()
    with host(quick, who, pool("a", own)) as peer, following(quick) as stream:
        made = one(quick, own)
        first = peer.expect(Launch)
        began_s = time.monotonic()
        peer.tell(LeaseResult(lease_id=first.lease_id, ok=False, reason="no such binary: agentd"))
        wait_until(lambda: quick.explained(made)["code"] == "launch_failed")
        explained = quick.explained(made)
        assert explained["evidence"]["reason"] == "no such binary: agentd"
        assert explained["evidence"]["poolId"] == peer.pools["a"]
        shown = quick.get(f"/v1/hosts/{who[0]}/pools").ok()["hostPools"][0]
        assert shown["launchFailure"] == "no such binary: agentd"
        failed = stream.until(lambda s: s.event == "sandbox.launch_failed")[-1]
        assert failed.data["data"] == {"sandboxId": first.sandbox_id, "reason": "no such binary: agentd"}
        assert status_of(quick, first.sandbox_id) == "failed"
        second = peer.launched()
        assert time.monotonic() - began_s > 0.9, "after its back-off"
        assert second.sandbox_id != first.sandbox_id
        with sandbox(quick, credential_of(second), adapters=[own], max_concurrency=1) as daemon:
            assert daemon.start().task_id == made
            shown = quick.get(f"/v1/hosts/{who[0]}/pools").ok()["hostPools"][0]
            assert "launchFailure" not in shown


def test_the_credential_of_a_failed_launch_is_worth_nothing(api: Api) -> None:
    who, own = api.host(), adapter()
    with host(api, who, pool("a", own)) as peer:
        one(api, own)
        launch = peer.expect(Launch)
        peer.tell(LeaseResult(lease_id=launch.lease_id, ok=False, reason="no"))
        wait_until(lambda: status_of(api, launch.sandbox_id) == "failed")
        path = f"/v1/sandboxes/{launch.sandbox_id}/blobs/x"
        api.as_(launch.sandbox_token).get(path).refused("unauthorized")


def test_a_daemon_that_dies_before_it_connects_is_a_failed_launch(api: Api) -> None:
    """It is not started again and again without a pause."""
    who, own = api.host(), adapter()
    with host(api, who, pool("a", own)) as peer:
        made = one(api, own)
        launch = peer.launched()
        peer.exited(launch.instance_id, "exit code 2: bad configuration")
        wait_until(lambda: api.explained(made)["code"] == "launch_failed")
        assert "bad configuration" in api.explained(made)["evidence"]["reason"]
        assert status_of(api, launch.sandbox_id) == "failed"
        peer.tell(Heartbeat(instances=0))
        time.sleep(0.3)  # an ordinary launch is pushed in less
        assert not [m for m in peer.others if isinstance(m, Launch)]


def test_a_launch_that_comes_to_nothing_times_out(quick: Api) -> None:
    """What a person runs by hand has no such limit: it may come as late as it likes."""
    by_hand = quick.sandbox()
    who, own = quick.host(), adapter()
    with host(quick, who, pool("a", own)) as peer:
        made = one(quick, own)
        silent = peer.launched()
        replacement = peer.expect(Launch)
        assert replacement.sandbox_id != silent.sandbox_id
        shown = quick.get(f"/v1/sandboxes/{silent.sandbox_id}").ok()
        assert (shown["status"], shown["reason"]) == ("failed", "it did not connect within 2 s")
        assert quick.task(made)["status"] == "QUEUED"
    assert status_of(quick, by_hand[0]) == "launching"
    with sandbox(quick, by_hand):
        assert status_of(quick, by_hand[0]) == "running"


def test_work_of_an_exited_instance_goes_on_within_a_second(api: Api) -> None:
    """F01, F20: the slot in the pool is free at once, and a replacement is launched."""
    who, own = api.host(), adapter()
    with host(api, who, pool("a", own)) as peer:
        made = one(api, own)
        launch = peer.launched()
        with sandbox(api, credential_of(launch), adapters=[own], max_concurrency=1) as daemon:
            first = daemon.start()
        began_s = time.monotonic()
        peer.exited(launch.instance_id, "killed by signal 9")
        replacement = peer.launched()
        assert time.monotonic() - began_s < 1.0
        assert replacement.sandbox_id != launch.sandbox_id
        shown = api.task(made)
        assert shown["status"] == "QUEUED"
        assert shown["attempts"][0]["state"] == "lost"
        assert shown["attempts"][0]["reason"] == "killed by signal 9"
        assert shown["error"]["code"] == "sandbox_lost"
        with sandbox(api, credential_of(replacement), adapters=[own], max_concurrency=1) as daemon:
            again = daemon.start()
            assert (again.task_id, again.attempt) == (made, 1)
            assert again.assignment_id != first.assignment_id
            assert daemon.finish(again.assignment_id) == set()
        peer.tell(InstanceExited(instance_id=launch.instance_id, reason="told twice"))
    assert api.task(made)["status"] == "SUCCEEDED"
    api.as_(launch.sandbox_token).get(f"/v1/sandboxes/{launch.sandbox_id}/blobs/x", checked=False)


def test_another_host_cannot_end_an_instance(api: Api, other: Api) -> None:
    who, own = api.host(), adapter()
    with (
        host(api, who, pool("a", own)) as peer,
        host(api, api.host(), pool("b", adapter())) as mate,
        host(other, other.host(), pool("c", adapter())) as foreign,
    ):
        one(api, own)
        launch = peer.launched()
        with sandbox(api, credential_of(launch), adapters=[own], max_concurrency=1) as daemon:
            running = daemon.start()
            for stranger in (mate, foreign):
                stranger.exited(launch.instance_id)
                stranger.tell(LeaseResult(lease_id=launch.lease_id, ok=False, reason="no"))
            _settled(api, mate)
            _settled(other, foreign)
            assert status_of(api, launch.sandbox_id) == "running"
            assert daemon.finish(running.assignment_id) == set()


def _settled(api: Api, peer: HostPeer) -> None:
    """Everything this host has sent has been read: messages of one stream are applied in order."""
    key = name("mark")
    peer.tell(host_hello(peer.host_id, [pool(key, "nobody")]))
    path = f"/v1/hosts/{peer.host_id}/pools"
    wait_until(lambda: key in {p["poolKey"] for p in api.get(path).ok()["hostPools"]})


def test_a_reconnecting_hosts_inventory_is_the_truth(api: Api) -> None:
    who, own = api.host(), adapter()
    advertised = pool("a", own, max_instances=2, max_concurrency=1)
    with host(api, who, advertised) as peer:
        made = [t["taskId"] for t in api.graph(task("a", own), task("b", own))["tasks"]]
        launches = [peer.launched(), peer.launched()]
        with (
            sandbox(api, credential_of(launches[0]), adapters=[own], max_concurrency=1) as one_,
            sandbox(api, credential_of(launches[1]), adapters=[own], max_concurrency=1) as two,
        ):
            kept, gone = one_.start(), two.start()
            assert {kept.task_id, gone.task_id} == set(made)
    stranger = instance(
        Launch(lease_id="", instance_id="instance_unknown", sandbox_id="s", pool_key="a", sandbox_token="")
    )
    with host(api, who, advertised, instances=[instance(launches[0]), stranger]) as peer:
        stop = peer.expect(Stop)
        assert (stop.instance_id, stop.drain) == ("instance_unknown", False)
        wait_until(lambda: api.task(gone.task_id)["attempts"][0]["state"] == "lost")
        assert api.task(kept.task_id)["status"] == "RUNNING"
        assert status_of(api, launches[0].sandbox_id) == "running"
        assert status_of(api, launches[1].sandbox_id) == "stopped"
        replacement = peer.launched()
        assert replacement.sandbox_id not in {launch.sandbox_id for launch in launches}


def test_a_launch_that_the_host_never_heard_of_is_sent_again(api: Api) -> None:
    who, own = api.host(), adapter()
    with host(api, who, pool("a", own)) as peer:
        made = one(api, own)
        first = peer.expect(Launch)
    with host(api, who, pool("a", own)) as peer:
        again = peer.launched()
        assert (again.lease_id, again.sandbox_id) == (first.lease_id, first.sandbox_id)
        assert again.sandbox_token != first.sandbox_token
        with sandbox(api, credential_of(again), adapters=[own], max_concurrency=1):
            pass
        blob = f"/v1/sandboxes/{again.sandbox_id}/blobs/x"
        api.as_(first.sandbox_token).get(blob).refused("unauthorized")
        assert api.task(made)["status"] in ("QUEUED", "RUNNING")


def test_an_idle_sandbox_is_retired(quick: Api) -> None:
    who, own = quick.host(), adapter()
    with host(quick, who, pool("a", own)) as peer, following(quick) as stream:
        made = one(quick, own)
        launch = peer.launched()
        with sandbox(quick, credential_of(launch), adapters=[own], max_concurrency=1) as daemon:
            running = daemon.start()
            assert daemon.finish(running.assignment_id) == set()
            stop = _beating(daemon, peer, Stop)
            assert (stop.instance_id, stop.drain, stop.reason) == (launch.instance_id, True, "idle")
            assert status_of(quick, launch.sandbox_id) == "draining"
            later = one(quick, own)
        peer.exited(launch.instance_id, "idle")
        peer.tell(LeaseResult(lease_id=stop.lease_id, ok=True))
        stopped = stream.until(lambda s: s.event == "sandbox.stopped")[-1]
        assert stopped.data["data"]["sandboxId"] == launch.sandbox_id
        replacement = peer.launched()
        with sandbox(quick, credential_of(replacement), adapters=[own], max_concurrency=1) as daemon:
            assert daemon.start().task_id == later
    assert quick.task(made)["status"] == "SUCCEEDED"


def _beating(daemon: SandboxPeer, peer: HostPeer, kind: type[Any]) -> Any:
    """Wait for a message to the host while the sandbox sends its heartbeats."""
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        daemon.tell(SandboxHeartbeat(running=0))
        try:
            return peer.expect(kind, timeout_s=0.3)
        except TimeoutError:
            continue
    raise AssertionError("nothing came")


def test_a_silent_sandbox_does_not_hold_its_place_in_the_pool(quick: Api) -> None:
    """F20: written off without anybody's help, ended by its host, and replaced."""
    who, own = quick.host(), adapter()
    with host(quick, who, pool("a", own)) as peer:
        made = one(quick, own)
        launch = peer.launched()
        with sandbox(quick, credential_of(launch), adapters=[own], max_concurrency=1) as daemon:
            daemon.start()
        stop = peer.expect(Stop)
        assert (stop.instance_id, stop.drain) == (launch.instance_id, False)
        assert quick.task(made)["attempts"][0]["state"] == "lost"
        assert status_of(quick, launch.sandbox_id) == "stopping"
        peer.tell(LeaseResult(lease_id=stop.lease_id, ok=True))
        peer.exited(launch.instance_id, "killed")
        replacement = peer.launched()
        assert replacement.sandbox_id != launch.sandbox_id
        assert status_of(quick, launch.sandbox_id) == "stopped"
        with sandbox(quick, credential_of(replacement), adapters=[own], max_concurrency=1) as daemon:
            assert daemon.start().task_id == made


def test_a_sandbox_that_was_only_cut_off_is_welcome_again(quick: Api) -> None:
    """F19: where its place is not needed, nobody ends it."""
    who, own = quick.host(), adapter()
    with host(quick, who, pool("a", own, max_instances=2)) as peer:
        made = one(quick, own)
        launch = peer.launched()
        with sandbox(quick, credential_of(launch), adapters=[own], max_concurrency=1) as daemon:
            daemon.start()
        replacement = peer.expect(Launch)
        assert status_of(quick, launch.sandbox_id) == "expired"
        assert quick.task(made)["attempts"][0]["state"] == "lost"
        with sandbox(quick, credential_of(launch), adapters=[own], max_concurrency=1) as back:
            assert status_of(quick, launch.sandbox_id) == "running"
            assert back.start().task_id == made
        peer.tell(LeaseResult(lease_id=replacement.lease_id, ok=True))


def test_bindings_are_told_once_over_a_connection_until_they_change(api: Api) -> None:
    """A host that does not answer is not asked at each look; one that comes back is."""
    who, own, root = api.host(), adapter(), {"path": "/srv/projects"}
    api.put(f"/v1/hosts/{who[0]}/project-workspace-root", root).ok(200)
    path = f"/v1/hosts/{who[0]}/project-bindings/{api.project()}"
    with host(api, who, pool("a", own)) as peer:
        peer.expect(Bindings, lambda told: not told.bindings)
        made = api.put(path, {"poolKeys": ["a"]}).ok(201)
        (first,) = peer.expect(Bindings, lambda told: bool(told.bindings)).bindings
        assert first.binding_id == made["bindingId"]
        api.put(f"/v1/hosts/{who[0]}/project-workspace-root", {"path": "/srv/other"}).ok(200)
        (second,) = peer.expect(Bindings).bindings
        assert second.revision == first.revision + 1
        assert not [each for each in peer.others if isinstance(each, Bindings)]
    hub = Hub()
    connection = Peer(who[0], "user_1")
    unanswered = [(who[0], first.binding_id, second.revision)]
    assert hub.untold(unanswered) == set(), "it is not connected here"
    hub.add(hub.hosts, connection)
    connection.bindings = {first.binding_id: first.revision}
    assert hub.untold(unanswered) == {who[0]}
    connection.bindings = {first.binding_id: second.revision}
    assert hub.untold(unanswered) == set()


def test_an_advertisement_beyond_the_limits_is_refused(api: Api) -> None:
    """The connection ends with the reason, and nothing of the advertisement is taken over."""
    who, own = api.host(), adapter()
    with host(api, who, pool("kept", own)):
        pass
    for pools, says in (
        ([pool(f"p{n}", own) for n in range(65)], "64 pools"),
        ([pool("a", own, capabilities=[f"c{n}" for n in range(65)])], "64 capabilities"),
        ([pool("a", own, max_instances=10**12)], "maxInstances"),
        ([pool("a", own, max_concurrency=0)], "maxConcurrency"),
        ([pool("No Key", own)], "poolKey"),
    ):
        with open_stream(api.url, "hosts", *who) as ws:
            peer = HostPeer(ws, who[0])
            peer.tell(host_hello(who[0], pools))
            assert peer.wait_closed() == 1008
            assert ws.close_reason is not None
            assert says in ws.close_reason
    shown = api.get(f"/v1/hosts/{who[0]}/pools").ok()["hostPools"]
    assert [(p["poolKey"], p["available"]) for p in shown] == [("kept", True)]

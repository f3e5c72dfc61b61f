"""The client over real sockets: errors, retries, and an event stream that loses and repeats nothing."""

from __future__ import annotations

import asyncio
import socket
from contextlib import aclosing

import pytest

from cli.fake_plane import TOKEN, FakePlane
from flakes.client.api import Client
from flakes.client.sync import SyncClient
from flakes.client.transport import Address
from flakes.wire.errors import ApiError
from flakes.wire.runs import Run


def graph(*shells: str, close: bool = True) -> dict[str, object]:
    tasks = [
        {"taskKey": f"t{n}", "title": f"Task {n}", "adapter": "command", "input": {"shell": shell}}
        for n, shell in enumerate(shells)
    ]
    return {"name": "Run", "projectKey": "default", "tasks": tasks, "close": close}


def unused_url() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


def test_an_idempotent_request_is_tried_again_when_the_database_is_away(plane: FakePlane) -> None:
    plane.fail = [503, 503]

    async def main() -> str:
        async with Client(plane.url, TOKEN) as client:
            return (await client.me()).user_id

    assert asyncio.run(main()) == "user_1"
    assert len(plane.requests) == 3


def test_a_request_that_is_not_idempotent_is_sent_once(plane: FakePlane) -> None:
    plane.fail = [503]

    async def main() -> None:
        async with Client(plane.url, TOKEN) as client:
            await client._transport.call("POST", "/v1/runs/nightly/retry", Run, body={})

    with pytest.raises(ApiError) as refused:
        asyncio.run(main())
    assert refused.value.code == "database_unavailable"
    assert len(plane.requests) == 1


def test_a_mutation_is_sent_again_under_one_key_of_its_own(plane: FakePlane) -> None:
    plane.fail = [503, 503]

    async def main() -> None:
        async with Client(plane.url, TOKEN) as client:
            for _ in range(2):
                with pytest.raises(ApiError, match="no such run"):
                    await client.retry_run("nightly")

    asyncio.run(main())
    first, *again, other = plane.keys
    assert first is not None
    assert again == [first, first]
    assert other not in (None, first)


def test_a_refusal_keeps_code_message_and_fix(plane: FakePlane) -> None:
    async def main() -> None:
        async with Client(plane.url, "wrong") as client:
            await client.me()

    with pytest.raises(ApiError) as refused:
        asyncio.run(main())
    assert (refused.value.code, refused.value.fix) == ("unauthorized", "sign in")


def test_nothing_at_the_address_is_server_unreachable_with_a_fix() -> None:
    url = unused_url()

    async def main() -> None:
        async with Client(url, TOKEN) as client:
            await client.me()

    with pytest.raises(ApiError) as refused:
        asyncio.run(main())
    assert refused.value.code == "server_unreachable"
    assert url in refused.value.message
    assert "flakes up" in refused.value.fix


def test_a_foreign_server_is_a_protocol_error(plane: FakePlane) -> None:
    async def main() -> None:
        async with Client(plane.url + "/elsewhere", TOKEN) as client:
            await client.me()

    with pytest.raises(ApiError) as refused:
        asyncio.run(main())
    assert refused.value.code == "protocol_error"


def test_a_client_follows_a_session_that_moved(plane: FakePlane) -> None:
    async def main() -> str:
        locate = lambda: Address(plane.url, TOKEN)  # noqa: E731
        async with Client(unused_url(), "old", locate=locate) as client:
            return (await client.me()).user_id

    assert asyncio.run(main()) == "user_1"


@pytest.mark.parametrize("seed", range(5))
def test_a_broken_stream_loses_and_repeats_nothing(plane: FakePlane, seed: int) -> None:
    # Cuts at all kinds of places: before the first frame, inside an id, inside the data.
    plane.cut = [(17 * seed + 61 * n) % 450 for n in range(12)]

    async def main() -> list[str]:
        async with Client(plane.url, TOKEN) as client:
            await client.post_graph("r", graph("echo a", "echo b", "echo c", "echo d"))
            return [event.cursor async for event in client.follow_run("r")]

    cursors = asyncio.run(main())
    assert cursors == [event["cursor"] for event in plane.events]
    assert len(plane.streams) == 13


def test_the_stream_waits_while_the_server_is_away(plane: FakePlane) -> None:
    plane.fail = []

    async def main() -> str:
        async with Client(plane.url, TOKEN) as client:
            await client.post_graph("r", graph("hold"))
            waiting = asyncio.create_task(client.wait_run("r", timeout_s=20))
            while not plane.streams:
                await asyncio.sleep(0.01)
            plane.cut = [0, 0]
            plane.hold.set()
            return (await waiting).state

    assert asyncio.run(main()) == "SUCCEEDED"


def test_waiting_gives_up_in_time_and_says_that_the_work_goes_on(plane: FakePlane) -> None:
    async def main() -> None:
        async with Client(plane.url, TOKEN) as client:
            await client.post_graph("r", graph("hold"))
            await client.wait_run("r", timeout_s=0.2)

    with pytest.raises(ApiError) as refused:
        asyncio.run(main())
    assert (refused.value.code, refused.value.exit_code) == ("timeout", 4)


def test_waiting_uses_events_and_polls_nothing(plane: FakePlane) -> None:
    async def main() -> str:
        async with Client(plane.url, TOKEN) as client:
            await client.post_graph("r", graph("hold"))
            waiting = asyncio.create_task(client.wait_run("r", timeout_s=20))
            while not plane.streams:
                await asyncio.sleep(0.01)
            before = len(plane.requests)
            await asyncio.sleep(0.5)
            assert len(plane.requests) == before
            plane.hold.set()
            return (await waiting).state

    assert asyncio.run(main()) == "SUCCEEDED"


def test_an_open_run_is_complete_only_when_it_is_closed(plane: FakePlane) -> None:
    async def main() -> bool:
        async with Client(plane.url, TOKEN) as client:
            await client.post_graph("r", graph("echo a", close=False))
            waiting = asyncio.create_task(client.wait_run("r", timeout_s=20))
            while (await client.get_run("r")).state != "SUCCEEDED":
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.1)
            assert not waiting.done()
            await client.close_run("r")
            return (await waiting).closed

    assert asyncio.run(main()) is True


def test_a_refused_stream_is_not_tried_for_ever(plane: FakePlane) -> None:
    async def main() -> None:
        async with Client(plane.url, "wrong") as client, aclosing(client.events()) as events:
            await anext(events)

    with pytest.raises(ApiError) as refused:
        asyncio.run(main())
    assert refused.value.code == "unauthorized"


def test_patience_has_an_end() -> None:
    async def main() -> None:
        async with (
            Client(unused_url(), TOKEN) as client,
            aclosing(client.events(patience_s=0.3)) as events,
        ):
            await anext(events)

    with pytest.raises(ApiError) as refused:
        asyncio.run(main())
    assert refused.value.code == "server_unreachable"


def test_the_synchronous_facade_calls_and_iterates(plane: FakePlane) -> None:
    with SyncClient(plane.url, TOKEN) as client:
        client.post_graph("r", graph("echo a", "echo b"))
        types = [event.type for event in client.follow_run("r")]
        assert types[0] == "run.created"
        assert types.count("task.succeeded") == 2
        assert client.wait_run("r").state == "SUCCEEDED"
        with pytest.raises(ApiError) as refused:
            client.get_run("nothing")
    assert refused.value.code == "not_found"


def test_of_several_servers_the_one_that_answers_is_used(plane: FakePlane) -> None:
    dead = unused_url()
    for servers in (f"{dead},{plane.url}", f"{plane.url}, {dead}/"):
        for _ in range(4):  # it begins with either
            with SyncClient(servers, TOKEN) as client:
                assert client.me().user_id == "user_1"
                assert client.server == plane.url


def test_several_servers_that_are_all_down_are_unreachable() -> None:
    servers = f"{unused_url()},{unused_url()}"
    with SyncClient(servers, TOKEN) as client, pytest.raises(ApiError) as refused:
        client.me()
    assert refused.value.code == "server_unreachable"

"""A credential that ends takes what is open with it: event streams, logs, and the streams of hosts and sandboxes."""

from __future__ import annotations

import time
from pathlib import Path

import httpx2
import pytest

from api.browser import Browser
from api.caller import Api, task
from api.following import Following, following
from api.peer import adapter, sandbox
from api.plane import Server, serving

SOON_S = 1.5
SECONDS = 6.0


def key(api: Api) -> tuple[Api, str]:
    made = api.post("/v1/auth/keys", {"name": "k"}).ok(201)
    return api.as_(made["rawKey"]), made["key"]["keyId"]


def test_revoking_a_key_ends_its_streams_at_once_and_no_others(api: Api) -> None:
    program, key_id = key(api)
    run = api.run()
    with following(program, after="now") as mine, following(program, runId=run["runId"]) as too, following(api, after="now") as kept:  # fmt: skip
        began_s = time.monotonic()
        api.delete(f"/v1/auth/keys/{key_id}").ok(200)
        mine.ended(SOON_S)
        too.ended(SOON_S)
        assert time.monotonic() - began_s < SOON_S
        kept.until(lambda s: s.event == "key.revoked")
    program.get("/v1/me").refused("unauthorized")


def test_revoking_ends_the_following_of_a_log(api: Api) -> None:
    own = adapter()
    made = api.graph(task("only", own))
    program, key_id = key(api)
    with sandbox(api, adapters=[own]) as peer:
        peer.start()
        path = f"/v1/tasks/{made['tasks'][0]['taskId']}/logs"
        stream = Following(program, path=path, follow="1")
        try:
            api.delete(f"/v1/auth/keys/{key_id}").ok(200)
            stream.ended(SOON_S)
        finally:
            stream.close()


def test_signing_out_ends_the_streams_of_that_browser(api: Api) -> None:
    browser = Browser.of(api)
    with httpx2.Client(base_url=api.url, headers=browser.cookie_header, timeout=SECONDS) as http:
        with http.stream("GET", "/v1/events") as response:
            chunks = response.iter_bytes()
            assert b"retry" in next(chunks)
            browser.post("/v1/auth/sign-out").ok(200)
            assert b"event: session.started" not in b"".join(chunks), "it has ended"


def test_what_another_replica_revoked_ends_within_seconds(server: Server, api: Api) -> None:
    """And what expires by itself: nobody tells this replica of either."""
    for change in ("revoked_at = now()", "expires_at = now() + interval '1 s'"):
        program, key_id = key(api)
        with following(program, after="now") as stream, server.connect() as conn:
            conn.execute(f"update tokens set {change} where token_id = %s", [key_id])  # pyright: ignore[reportArgumentType]
            stream.ended(SECONDS)


def test_a_revoked_sandbox_loses_its_stream(server: Server, api: Api) -> None:
    sandbox_id, token = who = api.sandbox()
    with sandbox(api, who, adapters=[adapter()]) as peer, server.connect() as conn:
        conn.execute("update tokens set revoked_at = now() where subject_id = %s", [sandbox_id])
        peer.wait_closed(SECONDS)
    api.as_(token).get(f"/v1/sandboxes/{sandbox_id}/blobs/sha256:{'0' * 64}").refused("unauthorized")


@pytest.mark.slow
def test_what_is_over_is_removed(tmp_path: Path, database: str) -> None:
    with serving(tmp_path, database, {"auth": {"signUp": True}}) as server:
        api = server.owner()
        browser = Browser.of(api)
        kept_program, _ = key(api)
        program, key_id = key(api)
        browser.post("/v1/auth/device/code", {}).ok(200)
        program.get("/v1/me").ok()
        with server.connect() as conn:
            for statement in (
                "update one_time_codes set expires_at = now() - interval '1 day'",
                "update device_grants set expires_at = now() - interval '1 day'",
                "update rate_limits set empty_at = now() - interval '1 s'",
                "update tokens set revoked_at = now() - interval '8 days' where kind = 'browser'",
                "update tokens set expires_at = now() - interval '8 days' where token_id = %(key)s",
            ):
                conn.execute(statement, {"key": key_id} if "%(" in statement else None)
        server.stop()
        server.start()  # the janitor looks when it starts
        deadline = time.monotonic() + 10
        tables = ("one_time_codes", "device_grants", "rate_limits", "tokens where kind in ('browser', 'key')")
        with server.connect() as conn:
            while True:
                counts = [conn.execute(f"select count(*) from {t}").fetchone() for t in tables]  # pyright: ignore[reportArgumentType]
                if counts == [(0,), (0,), (0,), (1,)]:
                    break
                assert time.monotonic() < deadline, counts
                time.sleep(0.05)
        assert Api(server.url, kept_program.token).get("/v1/me").ok()["sessionKind"] == "key"

"""API keys: what each scope opens, on every route, and how they end."""

from __future__ import annotations

import pytest

from api.caller import Api
from api.plane import Server
from api.routes import World, build, request
from flakes.server.app import ENDPOINTS
from flakes.wire.auth import Scope

USERS = {f"{e.method} {e.path}": e for e in ENDPOINTS if e.family == "user"}
ADMIN = {
    "PATCH /v1/me", "GET /v1/auth/sessions", "DELETE /v1/auth/sessions/{sessionId}", "POST /v1/auth/keys",
    "GET /v1/auth/keys", "DELETE /v1/auth/keys/{keyId}", "POST /v1/auth/browser-links",
    "POST /v1/auth/change-password", "GET /v1/auth/device/{userCode}", "POST /v1/auth/device/{userCode}",
    "POST /v1/hosts/setup", "POST /v1/hosts/{hostId}/credentials/rotate", "POST /v1/sandboxes",
}  # fmt: skip


@pytest.fixture(scope="module")
def world(server: Server) -> World:
    return build(server.account())


def key(api: Api, scope: Scope, **fields: object) -> Api:
    return api.as_(api.post("/v1/auth/keys", {"name": "k", "scope": scope, **fields}).ok(201)["rawKey"])


@pytest.fixture(scope="module")
def reader(world: World) -> Api:
    return key(world.api, "read")


@pytest.fixture(scope="module")
def writer(world: World) -> Api:
    return key(world.api, "write")


@pytest.mark.parametrize("name", USERS)
def test_a_key_opens_what_its_scope_says(world: World, reader: Api, writer: Api, name: str) -> None:
    endpoint = USERS[name]
    needs = "admin" if name in ADMIN else "read" if endpoint.method == "GET" else "write"
    assert endpoint.needs == needs, "who may call a new route is decided on purpose"
    path = world.fill(endpoint.path)
    if needs == "admin":
        refused = request(world, endpoint, path, writer).refused("forbidden")
        assert refused["scope"] == "admin"
    if needs != "read":
        request(world, endpoint, path, reader).refused("forbidden")


def test_a_reader_reads_and_a_writer_writes(world: World, reader: Api, writer: Api) -> None:
    assert reader.get("/v1/me").ok()["scope"] == "read"
    assert reader.get("/v1/runs").ok() == world.api.get("/v1/runs").ok()
    run = writer.run()
    assert world.api.get(f"/v1/runs/{run['runId']}").ok()["runKey"] == run["runKey"]
    key(world.api, "admin").get("/v1/auth/keys").ok()


def test_a_key_is_shown_once_and_stored_as_a_hash(server: Server, api: Api) -> None:
    made = api.post("/v1/auth/keys", {"name": "ci", "expiresInDays": 30}).ok(201)
    listed = api.get("/v1/auth/keys")
    assert listed.ok()["keys"] == [made["key"]]
    secret = made["rawKey"].partition(".")[2]
    assert secret.encode() not in listed.content
    with server.connect() as conn:
        rows = conn.execute("select t::text from tokens t where token_id = %s", [made["key"]["keyId"]])
        assert secret not in str(rows.fetchall())


def test_a_key_ends(server: Server, api: Api) -> None:
    made = api.post("/v1/auth/keys", {"name": "short", "expiresInDays": 1}).ok(201)
    program = api.as_(made["rawKey"])
    with server.connect() as conn:
        conn.execute("update tokens set expires_at = now() where token_id = %s", [made["key"]["keyId"]])
    program.get("/v1/me").refused("unauthorized")
    for days in (0, -1, 3_651):
        api.post("/v1/auth/keys", {"name": "k", "expiresInDays": days}).refused("invalid_request")
    api.post("/v1/auth/keys", {"name": "k", "scope": "root"}).refused("invalid_request")
    api.post("/v1/auth/keys", {"name": ""}).refused("invalid_request")


def test_a_key_of_somebody_else_is_not_there(api: Api, other: Api) -> None:
    made = api.post("/v1/auth/keys", {"name": "mine"}).ok(201)
    other.delete(f"/v1/auth/keys/{made['key']['keyId']}").refused("not_found")
    api.as_(made["rawKey"]).get("/v1/me").ok()
    assert other.get("/v1/auth/keys").ok()["keys"] == []


def test_a_key_cannot_sign_out_and_a_session_is_no_key(api: Api) -> None:
    made = api.post("/v1/auth/keys", {"name": "mine", "scope": "admin"}).ok(201)
    program = api.as_(made["rawKey"])
    program.post("/v1/auth/sign-out").refused("forbidden")
    program.delete(f"/v1/auth/sessions/{made['key']['keyId']}").refused("not_found")
    me = api.get("/v1/me").ok()
    api.delete(f"/v1/auth/keys/{me['sessionId']}").refused("not_found")


def test_there_is_an_end_to_keys(server: Server, api: Api) -> None:
    owner = api.get("/v1/me").ok()["userId"]
    with server.connect() as conn:
        conn.execute(
            """insert into tokens (token_id, family, owner_id, subject_id, secret_hash, kind)
               select %(o)s || n, 'user', %(o)s, %(o)s, '', 'key' from generate_series(1, 100) n""",
            {"o": owner},
        )
    api.post("/v1/auth/keys", {"name": "one more"}).refused("limit_exceeded")

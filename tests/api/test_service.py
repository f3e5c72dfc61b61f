"""The server about itself: probes, the document, the Host header, and what no route serves."""

from __future__ import annotations

import http.client
import re
from urllib.parse import urlsplit

import msgspec

from api.caller import Api
from api.plane import Server
from flakes import __version__
from flakes.server.app import ENDPOINTS


def test_the_probes_answer_without_a_credential(server: Server) -> None:
    nobody = Api(server.url, None)
    assert nobody.get("/livez").ok(200)["status"] == "ok"
    ready = nobody.get("/readyz").ok(200)
    assert ready["status"] == "ok"
    assert ready["leading"] is True


def test_me_is_the_owner_of_the_token(server: Server) -> None:
    me = server.owner().get("/v1/me").ok()
    assert me == {
        "userId": me["userId"], "name": "owner", "email": None, "tokenFamily": "user",
        "sessionId": me["sessionId"], "sessionKind": "token", "scope": "admin",
        "serverVersion": __version__,
    }  # fmt: skip
    assert re.fullmatch(r"user_[0-9a-z]{26}", me["userId"])


def test_the_document_is_openapi_3_1_and_names_every_route(server: Server) -> None:
    answer = Api(server.url, None).get("/openapi.json")
    document = answer.ok()
    assert document["openapi"] == "3.1.0"
    assert {"title", "version"} <= document["info"].keys()
    served = {
        (method.upper(), path) for path, methods in document["paths"].items() for method in methods
    }
    assert served == {(endpoint.method, endpoint.path) for endpoint in ENDPOINTS}
    operation_ids = [
        operation["operationId"]
        for methods in document["paths"].values()
        for operation in methods.values()
    ]
    assert len(set(operation_ids)) == len(operation_ids)


def test_the_document_holds_together(server: Server) -> None:
    text = Api(server.url, None).get("/openapi.json").content
    document = msgspec.json.decode(text)
    schemas = document["components"]["schemas"]
    references = {r.decode() for r in re.findall(rb'"\$ref": "#/components/schemas/([^"]+)"', text)}
    assert references
    assert references <= schemas.keys()
    assert b"$ref" not in re.sub(rb'"\$ref": "#/components/schemas/[^"]+"', b"", text)
    for path, methods in document["paths"].items():
        names = set(re.findall(r"{(\w+)}", path))
        for operation in methods.values():
            in_path = {p["name"] for p in operation["parameters"] if p["in"] == "path"}
            assert in_path == names, path
            assert all(p["required"] for p in operation["parameters"] if p["in"] == "path")
            assert operation["summary"], path
            assert any(status.startswith(("2", "3")) for status in operation["responses"])
            assert all(r["description"] for r in operation["responses"].values())
            schemes = [scheme for entry in operation["security"] for scheme in entry]
            assert set(schemes) <= document["components"]["securitySchemes"].keys()


def test_the_patterns_of_the_document_are_those_of_ecmascript(server: Server) -> None:
    schemas = Api(server.url, None).get("/openapi.json").ok()["components"]["schemas"]
    assert schemas["ArtifactPost"]["properties"]["kind"]["pattern"].endswith("*$")
    patterns = re.findall(r'"pattern":"((?:[^"\\]|\\.)*)"', msgspec.json.encode(schemas).decode())
    assert patterns
    for pattern in patterns:
        assert not re.search(r"\\(Z|A|U|N)", pattern), pattern


def test_paths_and_methods_that_are_not_served(api: Api) -> None:
    api.get("/v1/nothing").refused("not_found")
    api.call("POST", "/v1/me", {}).refused("method_not_allowed")
    api.get("/v1/sandboxes/sandbox_x/stream").refused("upgrade_required")
    api.get("/v1/hosts/host_x/stream").refused("upgrade_required")


def test_the_console_is_there(server: Server) -> None:
    status, body = _with_host(server, "/console/", "localhost")
    assert status == 200
    assert b"Flakes" in body


def test_requests_for_another_name_are_refused(server: Server) -> None:
    """A page of a name that its owner points to 127.0.0.1 reaches nothing (DNS rebinding)."""
    for foreign in ("evil.example", "evil.example:7733", "localhost.evil.example", "127.0.0.1.evil", ""):
        status, body = _with_host(server, "/livez", foreign)
        assert status == 403, foreign
        assert msgspec.json.decode(body)["error"] == "forbidden"
    for own in ("localhost", "LOCALHOST:1", "127.0.0.1", "[::1]:80", "10.0.0.7:7733"):
        assert _with_host(server, "/livez", own)[0] == 200, own


def _with_host(server: Server, path: str, host: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=10)
    try:
        connection.putrequest("GET", path, skip_host=True)
        connection.putheader("Host", host)
        connection.endheaders()
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()

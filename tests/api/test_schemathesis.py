"""Every operation of /openapi.json, called with generated requests: it answers as the document says, and never fails.

Schemathesis makes the requests from the document, valid ones and invalid ones. Three quarters name what the world of
`routes.py` really has and start from a body that the route takes, so that they get behind the first check. What is
drawn depends on SEED alone (`FLAKES_TEST_SEED` and `FLAKES_TEST_EXAMPLES` choose other ones); a failure shows
the request as a curl command.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import hypothesis
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi import checks

from api.caller import DOCUMENT, name
from api.plane import Server
from api.routes import BODIES, World, build
from flakes.server.app import ENDPOINTS
from flakes.server.routing import Endpoint

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

SEED = int(os.environ.get("FLAKES_TEST_SEED") or 20_261)
EXAMPLES = int(os.environ.get("FLAKES_TEST_EXAMPLES") or 12)
"""Requests for each route and kind."""

UNENDING = {"GET /v1/events"}
"""Streams of events, which end only when their reader goes: tests/api/test_events.py reads them."""
MADE = {
    "PUT /v1/projects/{projectKey}": "projectKey", "PUT /v1/runs/{run}": "run",
    "POST /v1/runs/{run}/graph": "run", "PUT /v1/runs/{run}/tasks/{taskKey}": "taskKey",
}  # fmt: skip
"""Routes that make what this part of their path names, which therefore must not be there yet."""

BY_NAME = {f"{e.method} {e.path}": e for e in ENDPOINTS if f"{e.method} {e.path}" not in UNENDING}
CONFIG = schemathesis.Config.from_dict({
    "generation": {"with-security-parameters": False},  # the credential stays what it is
    "output": {"sanitization": {"enabled": False}},  # a field called `key` is no secret
})  # fmt: skip
SCHEMA = schemathesis.openapi.from_dict(DOCUMENT, config=CONFIG)
CHECKS = [
    not_a_server_error, checks.status_code_conformance, checks.content_type_conformance,
    checks.response_headers_conformance, checks.response_schema_conformance,
]  # fmt: skip


def _cases() -> Iterator[tuple[str, GenerationMode]]:
    for key, endpoint in BY_NAME.items():
        yield key, GenerationMode.POSITIVE
        if endpoint.query is not None or endpoint.body not in (None, bytes):
            yield key, GenerationMode.NEGATIVE  # there is something that can be wrong


@pytest.fixture(scope="module")
def shared(server: Server) -> World:
    return build(server.account())


@pytest.fixture
def world(request: pytest.FixtureRequest, server: Server, key: str) -> World:
    """One world for all that read; one of its own for each route that may cancel or delete it."""
    return request.getfixturevalue("shared") if key.startswith("GET") else build(server.account())


def test_what_is_left_out_is_a_stream() -> None:
    answers = {
        f"{e.method} {e.path}": DOCUMENT["paths"][e.path][e.method.lower()] for e in ENDPOINTS
    }
    for key in UNENDING:
        assert list(answers[key]["responses"]["200"]["content"]) == ["text/event-stream"]


@pytest.mark.parametrize(("key", "mode"), list(_cases()))
def test_it_answers_as_documented(world: World, key: str, mode: GenerationMode) -> None:
    endpoint = BY_NAME[key]
    api = world.sandbox_api if endpoint.family == "sandbox" else world.api
    headers = api.headers if endpoint.family is not None else {}
    sys.stdout.write(f"FLAKES_TEST_SEED={SEED} {key} {mode}\n")
    with requests.Session() as session:

        def check(case: schemathesis.Case, known: bool, data: st.DataObject) -> None:
            if known:
                _name_what_is_there(case, world, key)
                if mode.is_positive:
                    _start_from_a_good_body(case, world, endpoint, data)
            (case.query or {}).pop(
                "follow", None
            )  # a stream to the end of a task that does not end
            case.call_and_validate(
                base_url=api.url, session=session, headers=headers, checks=CHECKS, timeout=30
            )

        _repeat(SCHEMA[endpoint.path][endpoint.method].as_strategy(generation_mode=mode), check)


def _repeat(
    cases: st.SearchStrategy[schemathesis.Case],
    check: Callable[[schemathesis.Case, bool, st.DataObject], None],
) -> None:
    """Call `check` for EXAMPLES drawn cases, the same ones every time."""

    @hypothesis.seed(SEED)
    @hypothesis.settings(
        max_examples=EXAMPLES, database=None, deadline=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @hypothesis.given(case=cases, known=st.sampled_from([True, True, True, False]), data=st.data())
    def repeated(case: schemathesis.Case, known: bool, data: st.DataObject) -> None:
        check(case, known, data)

    repeated()


def _name_what_is_there(case: schemathesis.Case, world: World, key: str) -> None:
    there = dict(world.names)
    if key.startswith("POST /v1/tasks/"):
        there["taskId"] = there["runningTaskId"]
    if key in MADE:
        there[MADE[key]] = name("made")
    case.path_parameters |= {each: there[each] for each in case.path_parameters}


def _start_from_a_good_body(
    case: schemathesis.Case, world: World, endpoint: Endpoint, data: st.DataObject
) -> None:
    """Replace some fields of a body that the route takes by generated ones."""
    good = BODIES.get((endpoint.method, endpoint.path))
    if good is None or not isinstance(case.body, Mapping):
        return
    generated: dict[str, Any] = dict(case.body)
    chosen = data.draw(st.sets(st.sampled_from(sorted(generated)))) if generated else set()
    case.body = good(world) | {field: generated[field] for field in chosen}

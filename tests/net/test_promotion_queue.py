"""The promotion queue while its server is killed -9: at every step between the end of a task and its promotion, before
that step is recorded and just after. What comes of it is what comes of it undisturbed. F04, F05."""

from __future__ import annotations

import os
import socket
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from api.caller import Api
from api.plane import Server
from e2e.stage import FLAKES, say, seeded, until
from net.machines import Machine
from workspace.theirs import git, repository

pytestmark = pytest.mark.timeout(300)
PATIENCE_S = 60.0

PLAN = """+++
[merging]
verify = ["echo ran >> LEDGER/verified-$FLAKES_TASK_KEY", "test -s greeting.txt"]

[merging.resolver]
adapter = "command"
input = { shell = "echo ran >> LEDGER/resolver; { git show HEAD^1:greeting.txt; git show HEAD^2:greeting.txt; } > both && sort -u both > greeting.txt && rm both" }
+++

## french: Greet in French
run: echo ran >> LEDGER/french; echo bonjour > greeting.txt; echo f > french.txt

## german: Greet in German
run: echo ran >> LEDGER/german; echo hallo > greeting.txt
"""
TREE = {"french.txt": "f", "greeting.txt": "bonjour\nhallo", "keep.txt": "kept"}


SIDE, TEST, RESOLVE, AGAIN = "^(french|german)$", "^test-(french|german)$", "^resolve-", "^test-resolve-"


@dataclass(frozen=True)
class Moment:
    """A step of the queue: the row that is written in it, by a condition on that row and the key of its task."""

    name: str
    table: str
    when: str
    key: str = ""
    lasting: str = ""
    """What stays true of the row, where `when` does not."""

    @property
    def recorded(self) -> str:
        key = f" join tasks t on t.task_id = new.task_id and t.task_key ~ '{self.key}'" if self.key else ""
        return f"select from {self.table} new{key} where ({self.lasting or self.when}) and new.run_id = %s"


HELPED = "new.helper_task_id is not null"
MOMENTS = [
    Moment("stored", "workspaces", "new.kind = 'candidate'", SIDE),
    Moment("ended", "tasks", "new.status = 'SUCCEEDED'", SIDE),
    Moment("to be tested", "workspace_merges", "new.state = 'verifying'", SIDE, HELPED),
    Moment("tested", "tasks", "new.status = 'SUCCEEDED'", TEST),
    Moment("selected", "workspace_promotions", "new.version = 2"),
    Moment("to be resolved", "workspace_merges", "new.state = 'resolving'", SIDE, f"{HELPED} and new.paths is not null"),
    Moment("resolution stored", "workspaces", "new.kind = 'candidate'", RESOLVE),
    Moment("resolved", "tasks", "new.status = 'SUCCEEDED'", RESOLVE),
    Moment("resolution to be tested", "workspace_merges", "new.state = 'verifying'", RESOLVE, HELPED),
    Moment("resolution tested", "tasks", "new.status = 'SUCCEEDED'", AGAIN),
    Moment("resolution selected", "workspace_promotions", "new.version = 3"),
    Moment("settled", "workspace_merges", "new.state = 'promoted' and new.reason is not null", SIDE),
]  # fmt: skip

# Whoever writes such a row waits while the test holds the lock of that number, in the midst of its transaction.
PAUSE = """
create function pause() returns trigger language plpgsql as $$
begin
    if tg_argv[1] = '' or exists (select from tasks where task_id = to_jsonb(new) ->> 'task_id'
                                  and task_key ~ tg_argv[1]) then
        perform pg_advisory_xact_lock_shared(tg_argv[0]::bigint);
    end if;
    return new;
end $$"""
FIRST_LOCK = 7_000


class Scene:
    """One server that comes back at its old address, one host, and a repository."""

    def __init__(self, directory: Path, dsn: str) -> None:
        self.directory = directory
        self.dsn = dsn
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.server = Server(directory, dsn, {"listen": {"port": port}}).start()
        self.api: Api = self.server.account()
        self.machine = Machine(directory / "machine", self.api, [self.server.url])
        self.machine.start().wait_online(self.api)
        self.root = repository(directory / "theirs", greeting_txt="hello\n", keep_txt="kept\n")

    def back(self) -> None:
        """The server again, which leads at once: it need not wait until its dead predecessor's lease is over."""
        with psycopg.connect(self.dsn, autocommit=True) as conn:
            conn.execute("update leaders set expires_at = now() - interval '1 s'")
        self.server.start()

    def flakes(self, *words: str) -> str:
        assert self.api.token is not None
        env = {k: v for k, v in os.environ.items() if not k.startswith("FLAKES_")} | {
            "FLAKES_SERVER": self.server.url, "FLAKES_TOKEN": self.api.token,
            "FLAKES_DATA_DIR": str(self.directory / "data"), "NO_COLOR": "1",
        }  # fmt: skip
        ran = subprocess.run([*FLAKES, *words], cwd=self.root, env=env, capture_output=True, text=True, timeout=90, check=False)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout

    def begin(self, key: str) -> Path:
        ledger = self.directory / f"ledger-{key}"
        ledger.mkdir()
        plan = self.directory / f"{key}.md"
        plan.write_text(PLAN.replace("LEDGER", str(ledger)))
        self.flakes("run", str(plan), "--key", key, "--detach")
        return ledger

    def end(self, key: str) -> dict[str, Any]:
        until(lambda: self.run(key).get("completedAt"), PATIENCE_S, "the end of the run")
        assert self.run(key)["state"] == "SUCCEEDED"
        return self.outcome(key)

    def run(self, key: str) -> dict[str, Any]:
        return self.api.get(f"/v1/runs/{key}").ok()

    def outcome(self, key: str) -> dict[str, Any]:
        """Everything by which two such runs can be compared."""
        found = self.api.get(f"/v1/runs/{key}/workspaces", limit=200).ok()
        tasks = self.api.get(f"/v1/runs/{key}/tasks", limit=200).ok()["tasks"]
        # An offer that nobody took in time is none that ran.
        attempts = self.api.get(f"/v1/runs/{key}/attempts", limit=200).ok()["attempts"]
        # Which of the two comes second, and so conflicts, is open.
        kinds = Counter("french or german" if t["taskKey"] in ("french", "german") else t["taskKey"].partition("-")[0] for t in tasks)
        return {
            "tasks": kinds, "statuses": Counter(t["status"] for t in tasks),
            "attempts": Counter(a["state"] for a in attempts if a.get("acceptedAt")),
            "handles": Counter(w["kind"] for w in found["workspaces"]),
            "merges": Counter(m["state"] for m in found["merges"]),
            "promotions": [p["version"] for p in found["promotions"]],
            "files": self.files(key),
        }  # fmt: skip

    def files(self, key: str) -> dict[str, str]:
        """What is selected, as it comes to the user."""
        self.flakes("apply", key, "--branch", f"of-{key}")
        names = git(self.root, "ls-tree", "-r", "--name-only", f"of-{key}").split()
        return {name: git(self.root, "show", f"of-{key}:{name}") for name in names}


@contextmanager
def armed(dsn: str) -> Iterator[psycopg.Connection]:
    """A connection that holds every moment's lock."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(PAUSE)
        for number, moment in enumerate(MOMENTS, FIRST_LOCK):
            trigger = (
                f"create trigger pause_{number} after insert or update on {moment.table} for each row"
                f" when ({moment.when}) execute function pause('{number}', '{moment.key}')"
            )
            conn.execute(trigger)  # type: ignore[arg-type]
            conn.execute("select pg_advisory_lock(%s)", [number])
        yield conn


def one(conn: psycopg.Connection, query: str, *params: Any) -> bool:
    return conn.execute(query, params).fetchone() is not None  # type: ignore[arg-type]


def waits(conn: psycopg.Connection, number: int) -> bool:
    """Whether somebody is in the midst of that step."""
    return one(conn, "select from pg_locks where locktype = 'advisory' and objid = %s and not granted", number)


def free(conn: psycopg.Connection, number: int) -> None:
    conn.execute("select pg_advisory_unlock(%s)", [number])


@pytest.fixture
def scene(database: str, tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(tmp_path, database)
    try:
        yield scene
    finally:
        scene.machine.stop()
        scene.server.stop()


@pytest.mark.parametrize("kills", [8, pytest.param(12, marks=pytest.mark.slow)])
def test_killed_at_every_step_nothing_is_lost_and_nothing_done_twice(scene: Scene, kills: int) -> None:
    """At which of the steps, and whether before or after it, is drawn."""
    seed, rng = seeded()
    drawn = set(rng.sample(range(len(MOMENTS)), kills))
    places = [rng.choice(["before", "after"]) if n in drawn else "" for n in range(len(MOMENTS))]
    scene.begin("undisturbed")
    expected = scene.end("undisturbed")
    assert expected["files"] == TREE
    with armed(scene.dsn) as conn:
        ledger = scene.begin("disturbed")
        run_id = scene.run("disturbed")["runId"]
        for number, (moment, place) in enumerate(zip(MOMENTS, places, strict=True), FIRST_LOCK):
            if not place:
                free(conn, number)
                continue
            told = f"{place} {moment.name!r} was recorded (seed {seed})"
            if place == "before":
                until(lambda n=number: waits(conn, n), PATIENCE_S, told)
                scene.server.kill()
                free(conn, number)
            else:
                free(conn, number)
                until(lambda q=moment.recorded: one(conn, q, run_id), PATIENCE_S, told)
                scene.server.kill()
            say(f"killed {told}")
            scene.back()
        found = scene.end("disturbed")
    ran = {path.name: path.read_text().count("ran") for path in ledger.iterdir()}
    assert len(ran) == 5, ran
    assert set(ran.values()) == {1}, ran
    assert found == expected

"""A harness that does something of every kind, and kill -9 at a chosen moment of one of its effects.

The moment is found where the journal is written, by a trigger in the session's own database: `begun`, the effect is being
written down; `noted`, it has been, and is done now or in a moment; `done`, what came of it is being written down. For
the first and the last the writing is held up until the victim is dead, so the kill falls between the two for certain.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import psutil
import psycopg

from e2e.stage import Stage, until
from flakes.store.embedded import EmbeddedPostgres
from flakes.wire.errors import ApiError
from workspace.theirs import repository

Phase = Literal["begun", "noted", "done"]
PHASES: Final[tuple[Phase, ...]] = ("begun", "noted", "done")
VICTIMS: Final = ("worker", "child", "sandbox", "host", "server", "postgresql")
CHANNEL: Final = "flakes_test_halt"
LOCK: Final = 20_261_125

MODULE: Final = '''
import asyncio
from dataclasses import dataclass
from flakes.harness import Context, Defaults, define_harness

@dataclass
class Number:
    n: int

LIVE = """
while true; do
    line=$(flakes rounds next); code=$?
    [ $code = 4 ] && exit 0
    [ $code = 0 ] || exit $code
    key=$(echo "$line" | cut -f1); echo "$line" | cut -f2 > said
    flakes rounds complete $key --output result=said > done || exit
done"""

@define_harness(args=dict, defaults=Defaults(adapter="command", command="sh $AGENT", max_attempts=3))
async def main(ctx: Context[dict]):
    def command(line, key, **more):
        return ctx.command(f"echo $FLAKES_ATTEMPT >> {ctx.args['ledger']}/$FLAKES_TASK_KEY; {line}", key=key, **more)

    ctx.phase("begin")
    draws = [ctx.random(), ctx.random()]
    began = ctx.now()
    company = command("exec sleep 3600", "company")
    base = await ctx.workspace.selected()
    two = await ctx.all(ctx.agent(f"Say {n}", key=f"draft-{n}", output=Number) for n in range(2))
    first = await ctx.any(command("exec sleep 3600", "any-slow"), command("echo any", "any-fast"), cancel_rest=True)
    quick = [command(f"echo {n}", f"quorum-{n}") for n in range(2)]
    good = await ctx.quorum(*quick, command("exec sleep 3600", "quorum-slow"), need=2, cancel_rest=True)
    async with ctx.group("some", join="all_settled") as some:
        command_of = f"echo $FLAKES_ATTEMPT >> {ctx.args['ledger']}/$FLAKES_TASK_KEY; "
        some.command(command_of + f"echo {draws[0]}", key="member-good")
        some.command(command_of + "exit 3", key="member-bad", retry=1)
    await asyncio.sleep(1.2)
    edit = await command(
        "cat $FLAKES_INPUTS/*/result > notes.md; seq 5000 > $FLAKES_OUTPUTS/report;"
        " flakes artifacts create notes.md --kind notes > $FLAKES_STATE_DIR/made", "edit", inputs=two,
        output=ctx.output.workspace(["notes.md"]), outputs={"report": str},
    )
    changed = await ctx.workspace.diff(base, edit.workspace())
    await ctx.workspace.promote("notes", edit.workspace(), base=base, paths=["notes.md"])
    own = await ctx.workspace.commit("as it was")
    report = await ctx.outputs.read_text(edit, "report")
    live = command(LIVE, "live", live=True)
    one = await ctx.live_tasks.send(live, "one", output=str)
    await ctx.live_tasks.finish(live)
    over = await live
    roster = [each["taskKey"] for each in await ctx.run.roster()]
    go = await ctx.signal("go")
    version = await ctx.workpads.save("# done")
    await ctx.cancel(company)
    said = []
    while not said:
        said = await ctx.run.messages()
        if not said:
            await ctx.sleep(0.2)
    return ctx.succeeded(
        two=[each.data.n for each in two], first=first.text, good=sorted(each.text for each in good),
        some=[each.status for each in some.results], drawn=some.results[0].text == str(draws[0]),
        apart=draws[0] != draws[1], later=ctx.now() >= began, changed=[each["path"] for each in changed["changes"]],
        own=own.startswith("ws_"), report=len(report), one=one.data.strip(), over=over.status, roster=sorted(roster), go=go,
        version=version, said=said)
'''
AGENT: Final = """
brief=$(cat); n=$(echo "$brief" | sed -n 's/.*Say \\([0-9]\\).*/\\1/p' | head -1)
echo $FLAKES_ATTEMPT >> $LEDGER/$FLAKES_TASK_KEY
echo "{\\"n\\": $n}" > $FLAKES_OUTPUTS/result
"""
RESULT: Final[dict[str, Any]] = {
    "two": [0, 1], "first": "any", "good": ["0", "1"], "some": ["SUCCEEDED", "FAILED"], "drawn": True, "apart": True, "later": True,
    "changed": ["notes.md"], "own": True, "report": 23_893, "one": "one", "over": "SUCCEEDED", "go": {"by": "test"}, "version": 1,
    "said": ["well done"],
}  # fmt: skip
CHILDREN: Final = {
    "company": "CANCELLED", "draft-0": "SUCCEEDED", "draft-1": "SUCCEEDED", "any-slow": "CANCELLED", "any-fast": "SUCCEEDED",
    "quorum-0": "SUCCEEDED", "quorum-1": "SUCCEEDED", "quorum-slow": "CANCELLED", "member-good": "SUCCEEDED",
    "member-bad": "FAILED", "edit": "SUCCEEDED", "live": "SUCCEEDED",
}  # fmt: skip
NOTES: Final = '{"n": 0}\n{"n": 1}\n'
EFFECTS: Final = 37
"""Effects whose numbers are the same in every run: all but those that wait for a message."""


@dataclass(frozen=True, slots=True)
class Moment:
    """When to kill what."""

    effect: int
    phase: Phase
    victim: str


@dataclass(slots=True)
class Life:
    """A run of the harness, from its submission to what came of it."""

    key: str
    task_id: str
    ledger: Path
    killed: list[str] = field(default_factory=list)


class Theatre:
    """Runs the harness in a session, over files of its own, and kills while it runs."""

    def __init__(self, session: Stage) -> None:
        self.session = session
        self._number = 0
        self._dsn = EmbeddedPostgres(session.layout.postgresql).start().dsn
        self._root = repository(session.scratch / "kills", notes_md="old\n", keep_md="kept\n")
        session.flakes("run", "true", "--adapter", "command", "--key", "files", timeout_s=90, cwd=self._root).ok()
        with session.client() as client:
            self._workspace_id = client.get_run("files").workspace_id
        with self._database() as conn:
            conn.execute(_function("none", 0, "begun"))
            conn.execute("""create trigger flakes_test_halt before insert on harness_journals
                            for each row execute function flakes_test_halt()""")

    def begin(self) -> Life:
        self._number += 1
        key = f"killed-{os.getpid()}-{self._number}"
        ledger = self.session.scratch / key
        ledger.mkdir()
        agent = ledger / ".agent.sh"
        agent.write_text(AGENT.replace("$LEDGER", str(ledger)))
        task = {
            "taskKey": "plan", "title": "plan", "adapter": "harness",
            "input": {"source": MODULE.replace("$AGENT", str(agent)), "args": {"ledger": str(ledger)}},
            "toolGrants": ["flakes.tasks.spawn", "flakes.groups", "flakes.workspace.promote"],
            "declaredOutputs": {"result": {"kind": "json", "required": False}},
        }  # fmt: skip
        body = {"name": key, "projectKey": "default", "tasks": [task], "close": True, "workspaceId": self._workspace_id}
        with self.session.client() as client:
            client.post_graph(key, body)
            life = Life(key, client.task_id(f"{key}/plan"), ledger)
            client.send_signal(life.task_id, "go", {"by": "test"})
        return life

    def kill_at(self, moments: Sequence[Moment], rng: random.Random) -> Life:
        """Begin a run, and kill at these moments, in their order."""
        life: Life | None = None
        for moment in moments:
            with self._database() as conn:
                key = life.key if life else f"killed-{os.getpid()}-{self._number + 1}"
                conn.execute(_function(key, moment.effect, moment.phase))
                if moment.phase == "noted":
                    conn.execute(f"listen {CHANNEL}")
                else:
                    conn.execute(f"select pg_advisory_lock({LOCK})")
                life = life or self.begin()
                try:
                    self._reached(conn, moment.phase, life)
                    if moment.victim == "child" and self._process("child", life) is None:
                        conn.execute("select pg_advisory_unlock_all()")  # the next one that there is
                    self._kill(moment.victim, life, rng)
                finally:
                    with contextlib.suppress(psycopg.Error):
                        conn.execute("select pg_advisory_unlock_all()")
        assert life is not None
        return life

    def end(self, life: Life, timeout_s: float = 120.0) -> None:
        """Until it has ended: tell the harness what it waits to be told, until it has read it."""
        deadline = time.monotonic() + timeout_s
        told: str | None = None
        while time.monotonic() < deadline:
            with self.session.client() as client:
                if client.get_run(life.key).completed_at is not None:
                    return
                if told is not None:
                    states = {each.message_id: each.state for each in client.list_messages(life.task_id).messages}
                    told = told if states.get(told) in ("queued", "delivered", "consumed") else None
                if told is None and "read messages" in self._begun(life):
                    with contextlib.suppress(ApiError):
                        told = client.post_message(life.task_id, "follow_up", "well done").message_id
            time.sleep(0.05)
        raise AssertionError(f"{life.key} did not end: {self._stands(life)}")

    def _stands(self, life: Life) -> str:
        """For whoever has to find out why it does not go on."""
        with self.session.client() as client:
            tasks = client.all_tasks(life.key)
            stands = {each.task_key: (each.status, each.attempt, each.cancel_requested) for each in tasks}
            live = [(each.run_key, each.task_counts) for each in client.list_runs(limit=20).runs if each.completed_at is None]
        last = [str(each)[:200] for each in self.entries(life)[-4:]]
        explained = self.session.flakes("inspect", life.key, "--explain").out
        return f"killed {life.killed}\n{stands}\n{last}\nlive: {live}\n{explained}\n{self.session.logs()}"

    def check(self, life: Life) -> None:
        """All that a kill must not change."""
        session = self.session
        with session.client() as client:
            result = client.result(life.task_id)
            assert result.status == "SUCCEEDED", (life.killed, result.error, session.flakes("logs", f"{life.key}/plan").out)
            tasks = {each.task_key: each.status for each in client.all_tasks(life.key)}
            promotions = client.run_workspaces(life.key).promotions
            (output,) = [each.text for each in result.outputs.values()]
        found = json.loads(output or "null")
        roster = found.pop("roster")
        assert found == RESULT, life.killed
        assert tasks == CHILDREN | {"plan": "SUCCEEDED"}, life.killed
        assert set(roster) == set(tasks), life.killed
        assert [each.mode for each in promotions] == ["replace_bounded_paths", "initial"], (life.killed, promotions)
        shown = session.flakes("diff", life.key, "--json", cwd=self._root).ok().json
        assert [each["path"] for each in shown["files"]] == ["notes.md"], life.killed
        entries = self.entries(life)
        starts = [each for each in entries if each["k"] == "start"]
        assert [each["id"] for each in starts] == list(range(len(starts))), life.killed
        assert len(starts) >= EFFECTS

    def executions(self, life: Life) -> dict[str, int]:
        """How often each child ran, by key: those that did, apart from the one that stops while it has no prompt."""
        return {
            path.name: len(path.read_text().splitlines())
            for path in life.ledger.iterdir() if not path.name.startswith(".") and path.name != "live"
        }  # fmt: skip

    def entries(self, life: Life) -> list[dict[str, Any]]:
        with self._database() as conn:
            found = conn.execute(
                "select body from harness_journals where task_id = %s and body is not null order by position", [life.task_id]
            ).fetchall()
        return [json.loads(each[0]) for each in found]

    def _begun(self, life: Life) -> set[str]:
        try:
            return {each["what"] for each in self.entries(life) if each["k"] == "start"}
        except psycopg.Error:
            return set()  # the database is on its way back

    def _reached(self, conn: psycopg.Connection[Any], phase: Phase, life: Life) -> None:
        if phase == "noted":
            found = next(iter(conn.notifies(timeout=90, stop_after=1)), None)
            reached = found is not None
        else:
            waiting = f"select 1 from pg_locks where locktype = 'advisory' and not granted and objid = {LOCK}"
            deadline = time.monotonic() + 90
            while not (reached := conn.execute(waiting).fetchone() is not None) and time.monotonic() < deadline:
                time.sleep(0.05)
        assert reached, f"{life.key} did not get there: {self._stands(life)}"

    def _kill(self, victim: str, life: Life, rng: random.Random) -> None:
        if victim in ("worker", "child"):
            process = until(lambda: self._process(victim, life), 30, f"a {victim} to kill")
            life.killed.append(f"{victim} {process.pid}")
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        elif victim == "sandbox":
            one = rng.choice(self.session.identities("sandbox"))
            life.killed.append(f"sandbox {one.pid}")
            with contextlib.suppress(ProcessLookupError):
                os.kill(one.pid, signal.SIGKILL)
        else:
            life.killed.append(f"{victim} {self.session.kill(victim).pid}")

    def _process(self, victim: str, life: Life) -> psutil.Process | None:
        """The worker, or the youngest command of a child."""
        found: list[tuple[float, psutil.Process]] = []
        for one in self.session.identities("sandbox"):
            with contextlib.suppress(psutil.Error):
                for process in psutil.Process(one.pid).children(recursive=True):
                    with contextlib.suppress(psutil.Error):
                        environment = process.environ()
                        is_worker = any(word.endswith("harness/worker.py") for word in process.cmdline())
                        own = environment.get("FLAKES_RUN_KEY") == life.key and environment.get("FLAKES_TASK_KEY") != "plan"
                        if is_worker if victim == "worker" else own:
                            found.append((process.create_time(), process))
        return max(found, key=lambda each: each[0])[1] if found else None

    def _connected(self) -> psycopg.Connection[Any] | None:
        try:
            return psycopg.connect(self._dsn, autocommit=True)
        except psycopg.OperationalError:
            return None  # it is on its way back

    @contextlib.contextmanager
    def _database(self) -> Iterator[psycopg.Connection[Any]]:
        conn = until(self._connected, 60, "the database")
        try:
            yield conn
        finally:
            conn.close()


def _function(key: str, effect: int, phase: Phase) -> Any:
    """The trigger for one moment. Names and numbers are the test's own."""
    hit = {
        "begun": f"entry ->> 'k' = 'start' and (entry ->> 'id')::int = {effect}",
        "noted": f"entry ->> 'k' = 'start' and (entry ->> 'id')::int = {effect}",
        "done": f"entry ->> 'k' = 'settle' and (entry -> 'ids')::jsonb @> to_jsonb({effect})",
    }[phase]
    act = f"pg_notify('{CHANNEL}', '')" if phase == "noted" else f"pg_advisory_xact_lock({LOCK})"
    return f"""
        create or replace function flakes_test_halt() returns trigger language plpgsql as $$
        declare entry json;
        begin
            if new.body is null then return new; end if;
            entry := new.body::json;
            if {hit} and exists (select from tasks t join runs r using (run_id)
                                 where t.task_id = new.task_id and r.run_key = '{key}') then
                perform {act};
            end if;
            return new;
        end $$"""

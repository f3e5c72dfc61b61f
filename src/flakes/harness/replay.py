"""Running a harness: from the top, along its journal, and on behind its end.

The module runs in turns. In each one it goes as far as it can; then one thing settles, recorded or new,
and the next turn begins. While the journal lasts, everything that the module does is compared with it at
once, and nothing is done. Behind its end, what was begun is written down before it is done, so a process
that is killed anywhere leaves either nothing or something that its successor knows about.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Coroutine
from dataclasses import dataclass
from typing import Any, cast

from flakes.harness.earlier import Earlier
from flakes.harness.effects import WAITS, Effect, place
from flakes.harness.engine import Condition, Engine
from flakes.harness.errors import Diverged, EngineGone, HarnessError
from flakes.harness.journal import Journal, described, digest_of
from flakes.harness.loop import Loop

SPAWNS_MAX = 64
SPAWN_BYTES_MAX = 2 * 1024 * 1024
DELAY_S_MAX = 366 * 24 * 3600


@dataclass(slots=True)
class _Came:
    """What settled: one effect, or a batch of spawns; one value for each, or one error for all."""

    effects: list[Effect]
    values: list[Any]
    error: Exception | None = None


class Replay:
    """One run of a module in one process. `files`: names of the module's own files, for lines of the source."""

    def __init__(
        self, engine: Engine, digest: str, files: Collection[str], *, versioned: bool = False,
        hold_s: float | None = None, retries: bool = True,
    ) -> None:  # fmt: skip
        self.engine = engine
        self.journal = Journal(engine)
        self.loop = Loop(self)
        self._digest = digest
        self._files = files
        self._versioned = versioned
        self._hold_s = hold_s
        self._retries = retries
        self._effects: list[Effect] = []
        self._open: dict[int, Effect] = {}
        self._came: list[_Came] = []
        self._spawned: dict[str, int] = {}
        self._turn = 0
        self._last_ms = 0
        self._fatal: Exception | None = None
        self._patches: dict[str, bool] = {}
        self.waits_at = ""
        """``file.py:12``: where the first thing was begun that the module waits for."""
        self.yielded = False
        self.ended = False

    @property
    def earlier(self) -> Earlier:
        """What earlier tries have left."""
        return self.journal.earlier

    # ---- for the context: what the module asks

    def value(self, kind: str, make: Callable[[], Any]) -> Any:
        """A value that is taken once and is the same in every replay."""
        self._guard()
        recorded = self.journal.replaying
        entry = {"k": "value", "kind": kind, "at": place(self._files)}
        if not recorded:
            entry["value"] = make()
        return self._checked(lambda: self.journal.meet(entry, ("kind",)))["value"]

    def now_ms(self) -> int:
        """Unix time, never before what settled last."""
        return self.value("now", lambda: max(self._last_ms, self.engine.now_ms()))

    def patched(self, name: str) -> bool:
        """Whether the code behind a patch runs: yes where nothing was recorded yet, or it was patched then."""
        self._guard()
        if name not in self._patches:
            ahead = self.journal.peek()
            if ahead is None:
                self.journal.add({"k": "patch", "name": name})
                self._patches[name] = True
            elif ahead["k"] == "patch" and ahead["name"] == name:
                self.journal.take()
                self._patches[name] = True
            else:
                self._patches[name] = False
        return self._patches[name]

    def say(self, line: str) -> None:
        """A line for the log, once."""
        self._guard()
        if not self.journal.said():
            self.engine.say(line)

    def start(
        self, kind: str, request: dict[str, Any], what: str, extra: Callable[[], dict[str, Any]] | None = None
    ) -> Effect:
        """Ask for an effect; it begins when everything waits. `extra` is found out the first time only."""
        self._guard()
        entry = {
            "k": "start", "id": len(self._effects), "kind": kind, "digest": digest_of(request), "what": what,
            "at": place(self._files), "turn": self._turn,
        }  # fmt: skip
        if extra is not None and not self.journal.replaying:
            entry["extra"] = extra()
        met = self._checked(lambda: self.journal.meet(entry, ("id", "kind", "digest", "turn")))
        effect = Effect(len(self._effects), kind, request, what, self._turn, entry["at"], met.get("extra") or {})
        self._effects.append(effect)
        self._open[effect.id] = effect
        return effect

    async def result(self, effect: Effect) -> Any:
        """What came of an effect, or its error."""
        self._guard()
        if effect.settled:
            if effect.error is not None:
                raise effect.error
            return effect.value
        future = self.loop.create_future()
        effect.waiters.append(future)
        return await future

    async def call(self, operation: str, body: dict[str, Any], what: str, *, named: bool = False) -> Any:
        """Perform an operation and give its answer, the same in every replay. `named`: it is idempotent by an
        operation id, which it gets here."""
        request = {"operation": operation, "body": body, "named": named}
        return await self.result(self.start("call", request, what))

    async def sleep(self, delay_s: float) -> None:
        """Wait; over restarts too."""
        await self.result(self._timer(delay_s))

    # ---- for the loop

    def call_after(self, delay_s: float, callback: Callable[[], None]) -> Callable[[], None]:
        """See `loop.Timers`."""
        effect = self._timer(delay_s)
        effect.callbacks.append(callback)

        def cancel() -> None:
            effect.callbacks.clear()

        return cancel

    def elapsed_s(self) -> float:
        """See `loop.Timers`."""
        return self._last_ms / 1000

    def _timer(self, delay_s: float) -> Effect:
        delay_ms = round(min(max(0.0, delay_s), DELAY_S_MAX) * 1000)
        return self.start(
            "timer", {"delayMs": delay_ms}, f"sleep {delay_ms / 1000:g} s",
            lambda: {"dueMs": max(self._last_ms, self.engine.now_ms()) + delay_ms},
        )  # fmt: skip

    # ---- the run

    def run(self, main: Callable[[], Awaitable[Any]]) -> Any:
        """Run it to its end, or until it has to yield (`yielded`; the answer is None). Raises what the module
        raises, `HarnessError`s of its own, and `EngineGone`."""
        self.journal.load(retries=self._retries)
        self._open_journal()
        task = self.loop.create_task(cast(Coroutine[Any, Any, Any], main()), name="main")
        try:
            while True:
                self.loop.step()
                if self._fatal is not None:
                    raise self._fatal
                if task.done():
                    self.ended = True
                    return task.result()
                if not self._advance():
                    self.yielded = True
                    return None
        finally:
            self._close()

    def finish(self, status: str, data: Any) -> None:
        """Write the end down, or compare it with the one that was written down."""
        entry = {"k": "finish", "status": status, "digest": digest_of(data)}
        self.journal.meet(entry, ("status", "digest"))
        self.journal.flush()

    def _open_journal(self) -> None:
        first = self.journal.peek()
        if first is None:
            self.journal.add({"k": "module", "digest": self._digest})
            return
        first = self.journal.take()
        if first["k"] != "module" or (first["digest"] != self._digest and not self._versioned):
            raise HarnessError(
                "harness_changed", "the module is another one than the journal was written by",
                "run it as a new task; or mark it `@define_harness(versioned=True)` and guard what is new with "
                "`ctx.patched`", recorded=first.get("digest"), now=self._digest,
            )  # fmt: skip

    def _advance(self) -> bool:
        """Let one thing settle; False when the task has to yield."""
        recorded = self.journal.peek()
        if recorded is not None:
            self._deliver_recorded(recorded)
            return True
        if not self._came:
            self._perform()
        if not self._came and not self._wait():
            return False
        self._deliver(self._came.pop(0))
        return True

    def _deliver_recorded(self, recorded: dict[str, Any]) -> None:
        if recorded["k"] != "settle" or any(each not in self._open for each in recorded["ids"]):
            raise Diverged(
                f"the module waits, but recorded is {described(recorded)}"
                + (f" at {recorded['at']}" if recorded.get("at") else ""),
                recorded=described(recorded), now="waiting",
            )  # fmt: skip
        self.journal.take()
        self._last_ms = recorded["ms"]
        effects = [self._open[each] for each in recorded["ids"]]
        error = recorded.get("error")
        self._settle(_Came(effects, recorded.get("values") or [], error and _error_from(error)))

    def _deliver(self, came: _Came) -> None:
        self._last_ms = max(self._last_ms, self.engine.now_ms())
        entry: dict[str, Any] = {"k": "settle", "ids": [each.id for each in came.effects], "ms": self._last_ms}
        if came.error is None:
            entry["values"] = came.values
        else:
            assert isinstance(came.error, HarnessError)
            entry["error"] = came.error.body()
        self.journal.add(entry)
        self._settle(came)

    def _settle(self, came: _Came) -> None:
        self._turn += 1
        for place_, each in enumerate(came.effects):
            del self._open[each.id]
            each.performed = True
            value = None if came.error else came.values[place_]
            if each.kind == "spawn" and value is not None:
                self._spawned[value["taskId"]] = each.id
            each.settle(value, came.error)

    def spawn_of(self, task_id: str) -> int:
        """The effect that made a child."""
        return self._spawned[task_id]


    def _perform(self) -> None:
        """Do what was begun and not done yet; what came of it is delivered one by one."""
        self._reuse()
        todo = [each for each in self._open.values() if each.kind not in WAITS and not each.performed]
        if todo:
            self.journal.flush()
        spawns = [each for each in todo if each.kind == "spawn"]
        for batch in _batches(spawns):
            group = _group_of(batch[0])
            self._attempt(batch, "task.spawn", {
                "operationId": self.earlier.name(batch[0].id), "tasks": [each.request["task"] for each in batch],
                "detached": batch[0].request["detached"],
            } | ({"group": group} if group else {}))  # fmt: skip
        for each in todo:
            if each.kind == "call":
                body = dict(each.request["body"])
                if each.request["named"]:
                    body["operationId"] = self.earlier.name(each.id)
                self._attempt([each], each.request["operation"], body)

    def _reuse(self) -> None:
        """Take from earlier tries what they have left: children that succeeded, signals that came."""
        for each in self._open.values():
            if "reused" in each.extra and not each.performed:
                each.performed = True
                self._came.append(_Came([each], [each.extra["reused"]]))

    def _attempt(self, effects: list[Effect], operation: str, body: dict[str, Any]) -> None:
        for each in effects:
            each.performed = True
        try:
            answer = self.engine.perform(operation, body)
        except HarnessError as error:
            self._came.append(_Came(effects, [], error))
            return
        values = answer["children"] if effects[0].kind == "spawn" else [answer]
        assert len(values) == len(effects)
        self._came.append(_Came(effects, values))

    def _wait(self) -> bool:
        """Wait until something settles; False when the task has to yield."""
        waits = [each for each in self._open.values() if each.kind in WAITS and each.wanted and not each.performed]
        for each in waits:
            if (error := _hopeless(each, self._effects)) is not None:
                self._came.append(_Came([each], [], error))
                return True
        if not waits:
            raise HarnessError(
                "harness_stuck", "the module awaits something that nothing will settle",
                "await an effect of `ctx`, or a task or future that another task of the module completes",
            )  # fmt: skip
        self.journal.flush()
        self.waits_at = waits[0].at
        conditions = [Condition(each.id, each.kind, self._about(each), self.earlier.name(each.id)) for each in waits]  # pyright: ignore[reportArgumentType]
        settled = self.engine.wait(conditions, self._hold_s)
        self._came = [_Came([self._open[each.id]], [each.value], each.error) for each in settled]
        return bool(self._came)

    def _about(self, effect: Effect) -> dict[str, Any]:
        about = effect.request | effect.extra
        if "spawns" in about:
            about["taskIds"] = [self._effects[each].value["taskId"] for each in about.pop("spawns")]
        return about

    # ---- what must not go on

    def _guard(self) -> None:
        if self._fatal is not None:
            raise self._fatal

    def _checked(self, meet: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        try:
            return meet()
        except Diverged as error:
            self._fatal = error
            raise

    def _close(self) -> None:
        """Nothing of the module runs on, whatever it has in its `finally`."""
        self._fatal = self._fatal or EngineGone("the harness has ended here")
        for task in self.loop.tasks:
            if not task.done():
                task.cancel()
        try:
            self.loop.step()
        except (HarnessError, EngineGone, asyncio.CancelledError):
            pass
        for task in self.loop.tasks:
            if task.done() and not task.cancelled():
                task.exception()  # looked at


def _batches(spawns: list[Effect]) -> list[list[Effect]]:
    """Spawns in requests. The same in every process that comes to them: they were written down together."""
    batches: list[list[Effect]] = []
    size_bytes = 0
    for each in spawns:
        own_bytes = len(str(each.request))
        last = batches[-1] if batches else []
        if (
            not last or last[0].turn != each.turn or _group_of(last[0]) != _group_of(each)
            or last[0].request["detached"] != each.request["detached"] or len(last) == SPAWNS_MAX or size_bytes + own_bytes > SPAWN_BYTES_MAX
        ):  # fmt: skip
            batches.append([])
            size_bytes = 0
        batches[-1].append(each)
        size_bytes += own_bytes
    return batches


def _group_of(effect: Effect) -> str | None:
    return effect.request.get("group")


def _hopeless(effect: Effect, effects: list[Effect]) -> Exception | None:
    """Why a wait for children will never settle: one of them could not be started."""
    if "spawns" not in effect.request:
        return None
    failed = [effects[each].error for each in effect.request["spawns"]]
    return next((each for each in failed if each is not None), None)


def _error_from(body: dict[str, Any]) -> HarnessError:
    return HarnessError(body["error"], body["message"], body.get("fix", ""), **body.get("details", {}))

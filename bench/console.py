"""The console in headless Chromium: opening and scrolling a run of 10,000 tasks, and 1,000 events a second on screen.

Opening: from the click on a run to its table and map being painted, and from nothing (address typed, nothing cached).
Frames: times between frames while it scrolls; and what the main thread worked in each frame while events come,
from the browser's own trace: events of tasks that really run, as fast as this machine runs them beside the browser, and
1,000 a second of them written into the log. Needs `chromium` and Playwright.
"""

from __future__ import annotations

import os
import shutil
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
from playwright.sync_api import Page, sync_playwright

from bench.fleet import Fleet
from bench.listing import FILL_RUN
from bench.measure import emit, percentile
from bench.plane import Plane, plane

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
]
FRAME_US = 1_000_000 / 60
LARGE = "run_0000000000000000000000000a"
RATE = 1_000
PUMP = """
    insert into events (owner_id, run_id, task_id, type, data)
    select r.owner_id, r.run_id, t.task_id, e.type, json_build_object(
        'assignmentId', 'assignment_' || right(t.task_id, 26), 'sandboxId', 'sandbox_none', 'attempt', 1)
    from runs r, generate_series(%(first)s, %(last)s - 1) k,
         lateral (values (k, 'task.running'), (k - %(behind)s, 'task.succeeded')) e (place, type),
         lateral (select task_id from tasks where run_id = r.run_id and task_key = 't' || e.place) t
    where r.run_key = %(key)s"""
SHAPES = 3
"""How often each thing is measured; the median is told."""

PAINTED = """([count, all]) => new Promise((done) => {
    const look = () => {
        const table = document.querySelector('[role=table][aria-label=Tasks]');
        const whole = !document.querySelector('section[aria-label=Tasks][aria-busy]');
        const ready = table && Number(table.getAttribute('aria-rowcount')) > count && document.querySelector('.tbody .tr .cover') && document.querySelector('.node') && (whole || !all);
        ready ? requestAnimationFrame(() => setTimeout(() => done(performance.now()))) : requestAnimationFrame(look);
    };
    look();
})"""
SCROLL = """(px) => new Promise((done) => {
    const frames = [];
    let last = performance.now(), n = 0;
    const step = (now) => {
        frames.push(now - last);
        last = now;
        scrollBy(0, px);
        ++n < 240 ? requestAnimationFrame(step) : done(frames.slice(1));
    };
    requestAnimationFrame(step);
})"""


def main() -> None:
    count = int(os.environ.get("N") or "10000")
    with plane() as server, chromium() as browser:
        fill(server, count)
        context = browser.new_context(viewport={"width": 1280, "height": 860})
        with server.client() as client:
            code = client.post("/v1/auth/browser-links").raise_for_status().json()["code"]
        page = context.new_page()
        page.goto(f"{server.url}/console/runs#link={code}")
        page.wait_for_selector("[role=row] .cover")
        opening(page, server, count)
        scrolling(page, count)
        events(page, server)


@contextmanager
def chromium() -> Iterator[Any]:
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        yield running
        running.close()


def fill(server: Plane, count: int) -> None:
    with server.connect() as conn:
        conn.execute(FILL_RUN, {"run_id": LARGE, "key": "large", "count": count})
        conn.execute("vacuum analyze")


def opening(page: Page, server: Plane, count: int) -> None:
    """By a click in the list, and by its address with nothing in the cache. Besides the time on the clock, the processor
    time of the page's main thread, the server and the database: on a busy machine those say what it costs."""
    session = page.context.new_cdp_session(page)

    def click() -> None:
        page.evaluate("window.began = 0; document.addEventListener('click', () => { window.began = performance.now(); }, {capture: true, once: true})")
        page.click("text=A large run")

    for by in ("a click", "its address, nothing cached"):
        clock: list[float] = []
        works: list[tuple[float, float, float]] = []
        for _ in range(SHAPES):
            page.goto(f"{server.url}/console/runs")
            page.wait_for_selector("text=A large run")
            with Traced(page) as traced:
                before = server.cpu_s(), server.postgres_cpu_s()
                if by == "a click":
                    click()
                    clock.append(page.evaluate(PAINTED, [count - 1, False]) - page.evaluate("window.began"))
                else:
                    session.send("Network.clearBrowserCache")
                    page.goto(f"{server.url}/console/runs/large")
                    clock.append(page.evaluate(PAINTED, [count - 1, False]))
                after = server.cpu_s(), server.postgres_cpu_s()
            works.append((sum(buckets(traced.events)), 1000 * (after[0] - before[0]), 1000 * (after[1] - before[1])))
        emit("console_run_opens", tasks=count, by=by, p50_ms=round(statistics.median(clock)), max_ms=round(max(clock)),
             page_cpu_ms=round(statistics.median(w[0] for w in works)), server_cpu_ms=round(statistics.median(w[1] for w in works)),
             database_cpu_ms=round(statistics.median(w[2] for w in works)), load=os.getloadavg()[0])  # fmt: skip
    page.evaluate(PAINTED, [count - 1, True])
    emit("console_run_whole", tasks=count, all_rows_after_ms=round(page.evaluate("performance.now()")),
         heap_mib=round(page.evaluate("performance.memory.usedJSHeapSize") / 2**20, 1))  # fmt: skip


def scrolling(page: Page, count: int) -> None:
    """Times between frames while the table scrolls by 120 pixels a frame, and what the page's main thread works in one."""
    page.evaluate(PAINTED, [count - 1, True])
    frames: list[float] = []
    cpu_ms = 0.0
    for _ in range(3):
        page.evaluate("scrollTo(0, 600)")
        with Traced(page) as traced:
            frames += page.evaluate(SCROLL, 120)
        cpu_ms += sum(buckets(traced.events))
    emit("console_scroll", tasks=count, frames=len(frames), p50_ms=round(statistics.median(frames), 1),
         p95_ms=round(percentile(frames, 95), 1), p99_ms=round(percentile(frames, 99), 1),
         late=sum(frame > 25 for frame in frames), page_cpu_ms_a_frame=round(cpu_ms / len(frames), 2), load=os.getloadavg()[0])  # fmt: skip


def events(page: Page, server: Plane) -> None:
    """What the main thread works in each sixtieth of a second while events move what it shows."""
    places = ("/runs/busy-{}", "/runs/busy-{}?view=timeline", "/runs/busy-{}?tab=metrics", "/runs")
    for n, (place, real) in enumerate((place, real) for real in (True, False) for place in places):
        where = place.format(n)
        tasks = [
            {"taskKey": f"t{k}", "title": f"Task {k}", "adapter": "noop"} for k in range(9_000)
        ]
        with server.client() as client:
            client.post(
                f"/v1/runs/busy-{n}/graph",
                json={"name": f"Busy {n}", "projectKey": "bench", "tasks": tasks},
            ).raise_for_status()
            page.goto(f"{server.url}/console{where}")
            page.wait_for_selector("[role=row] .cover, .tile")
            page.wait_for_timeout(2_000)
            with moving(server, n, real):
                page.wait_for_timeout(1_000)
                before, began = ended(client, n), time.monotonic()
                with Traced(page) as traced:
                    page.wait_for_timeout(5_000)
                done, elapsed = ended(client, n) - before, time.monotonic() - began
            client.post(f"/v1/runs/busy-{n}/cancel", json={})
        works = buckets(traced.events)
        rate = round(2 * done / elapsed) if real else RATE
        emit("console_events", page=place.format("N"), tasks_run=real, events_per_s=rate, p50_ms=round(statistics.median(works), 2),
             p95_ms=round(percentile(works, 95), 2), p99_ms=round(percentile(works, 99), 2), max_ms=round(max(works), 1),
             over_10_ms=sum(work > 10 for work in works), of=len(works))  # fmt: skip


@contextmanager
def moving(server: Plane, n: int, real: bool) -> Iterator[None]:
    """The tasks of a run move meanwhile: really, or as far as the log of events tells."""
    if real:
        fleet = Fleet(server, 1, int(os.environ.get("SLOTS") or "8"))
        threading.Thread(target=drain, args=(fleet,), daemon=True).start()
        yield
        fleet.close()
        return
    over = threading.Event()
    thread = threading.Thread(target=pump, args=(server, n, over))
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def pump(server: Plane, n: int, over: threading.Event) -> None:
    """Writes `RATE` events a second: task after task begins and, four tenths of a second later, succeeds."""
    with server.connect() as conn:
        conn.autocommit = True
        began, written, behind = time.monotonic(), 0, RATE // 5
        while not over.wait(0.02):
            due = int((time.monotonic() - began) * RATE / 2)
            params = {"key": f"busy-{n}", "first": written, "last": due, "behind": behind}
            if due > written:
                conn.execute(PUMP, params)
            written = due


def drain(fleet: Fleet) -> None:
    """Its reports must be read, or it stops."""
    for _ in fleet.reports():
        pass


def ended(client: httpx2.Client, n: int) -> int:
    return client.get(f"/v1/runs/busy-{n}").json()["taskCounts"].get("SUCCEEDED", 0)


class Traced:
    """The browser's own record of what its threads did meanwhile."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.session = page.context.new_cdp_session(page)
        self.events: list[dict[str, Any]] = []
        self.over: list[bool] = []
        self.session.on("Tracing.dataCollected", lambda part: self.events.extend(part["value"]))
        self.session.on("Tracing.tracingComplete", lambda _: self.over.append(True))

    def __enter__(self) -> Traced:
        self.session.send("Tracing.start", {
            "transferMode": "ReportEvents",
            "traceConfig": {"includedCategories": ["toplevel", "disabled-by-default-devtools.timeline", "__metadata"]},
        })  # fmt: skip
        return self

    def __exit__(self, *_: object) -> None:
        self.session.send("Tracing.end")
        while not self.over:
            self.page.wait_for_timeout(50)


def buckets(traced: list[dict[str, Any]]) -> list[float]:
    """Milliseconds of processor time of the page's main thread in each frame of 1/60 s."""
    threads = {
        (e["pid"], e["tid"])
        for e in traced
        if e["name"] == "thread_name" and e["args"]["name"] == "CrRendererMain"
    }
    work: dict[tuple[int, int], list[dict[str, Any]]] = {}
    for event in traced:
        if (
            event["name"] == "RunTask"  # the outermost: another one of a like name is within it
            and "dur" in event
            and (event["pid"], event["tid"]) in threads
        ):
            work.setdefault((event["pid"], event["tid"]), []).append(event)
    busiest = max(work.values(), key=lambda tasks: sum(each["dur"] for each in tasks))
    first, last = min(e["ts"] for e in busiest), max(e["ts"] for e in busiest)
    found = [0.0] * (int((last - first) / FRAME_US) + 1)
    for event in busiest:
        # The thread's own time: what other processes of a busy machine take is not the page's work.
        found[int((event["ts"] - first) / FRAME_US)] += event.get("tdur", event["dur"]) / 1000
    return found


if __name__ == "__main__":
    main()

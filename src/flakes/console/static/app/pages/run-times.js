// @ts-check
/** When things were: the timeline of tasks (queued, running, waiting) and the lanes of sandboxes. */
import { Link, to } from "../router.js";
import { cx, html, useCalm, useMemo, useRef, useState } from "../lib.js";
import { ms } from "../reducer.js";
import { clock, duration, now } from "../time.js";
import { Empty } from "../ui/parts.js";
import { StateIcon, look, word } from "../ui/state.js";

const ROW = 24;
const FINENESS = 1_200;

/** The stretch of time that the run covers, in ms. @param {any[]} tasks */
function span(tasks) {
  let from = Infinity, until = 0, live = false;
  for (const task of tasks) {
    const begin = ms(task.admittedAt ?? task.createdAt);
    if (begin < from) from = begin;
    if (task.finishedAt) until = Math.max(until, ms(task.finishedAt));
    else if (task.status !== "SAVED") live = true;
  }
  if (live) until = Math.max(now.value, until);
  if (!Number.isFinite(from)) from = until || now.value;
  return { from, until: Math.max(until, from + 1_000), live };
}

/** @param {number} ms @param {number} about */
function step(ms, about) {
  const nice = [100, 200, 500, 1e3, 2e3, 5e3, 1e4, 15e3, 3e4, 6e4, 12e4, 3e5, 6e5, 9e5, 18e5, 36e5, 72e5, 144e5, 216e5, 432e5, 864e5, 1728e5, 6048e5];
  return nice.find((n) => ms / n <= about) ?? 6048e5 * 4;
}

/** @param {{from: number, until: number}} props */
function Axis({ from, until }) {
  const by = step(until - from, 8), ticks = [];
  for (let t = 0; t <= until - from; t += by) ticks.push(t);
  return html`<div class="axis" aria-hidden="true">${ticks.map((t) => html`<span key=${t} style=${{ left: `${(100 * t) / (until - from)}%` }}>${t === 0 ? "0" : duration(t)}</span>`)}</div>`;
}

/** Rows of one height in a box of their own; only those in sight are drawn. @param {any} props */
function Rows({ rows, height, render, label }) {
  const [top, setTop] = useState(0);
  const box = useRef(/** @type {HTMLElement | null} */ (null));
  const most = 440, first = Math.max(0, Math.floor(top / height) - 6), last = Math.ceil((top + most) / height) + 6;
  return html`<div class="times-rows" ref=${box} tabindex="0" role="group" aria-label=${label} style=${{ maxHeight: `${most}px` }} onScroll=${() => setTop(box.current?.scrollTop ?? 0)}>
    <div style=${{ height: `${rows.length * height}px`, position: "relative" }}>${rows.slice(first, last).map((/** @type {any} */ row, /** @type {number} */ i) => html`<div key=${row.key} class="times-row" style=${{ top: `${(first + i) * height}px`, height: `${height}px` }}>${render(row)}</div>`)}</div></div>`;
}

/** @param {{model: import("../run-model.js").RunModel}} props */
export function Timeline({ model }) {
  const run = model.run.value, calm = pace(model);
  const attempts = useCalm(model.attempts.value, calm), tasks = useCalm(model.tasks.value, calm);
  const rows = useMemo(() => (attempts ? timelines(tasks, attempts) : []), [tasks, attempts]);
  if (!attempts) return html`<div class="picture" />`;
  const scale = span(tasks), byKey = model.byKey.value;
  return html`<div class="picture times">
    <div class="times-head"><span class="legend"><i class="bar queue" />queued <i class="bar tone-run" />running <i class="bar wait" />waiting</span><${Axis} ...${scale} /></div>
    <${Rows} rows=${rows} height=${ROW} label="Timeline" render=${({ task, attempts }) => html`<span class="times-name"><${StateIcon} state=${task.status} size=${14} /><${Link} to=${to("runs", run.runKey, "tasks", task.taskKey)} title=${task.title}>${task.taskKey}<//></span><span class="times-lane">${bars(task, attempts, byKey, scale)}</span>`} />
  </div>`;
}

/** How often a picture of that many tasks is drawn anew, in ms. @param {import("../run-model.js").RunModel} model */
const pace = (model) => (model.tasks.value.length > 1_000 ? 500 : 0);

/** A row for each task that was admitted, in the order in which they began. @param {any[]} tasks @param {Map<string, any>} attempts */
function timelines(tasks, attempts) {
  /** @type {Map<string, any[]>} */
  const of = new Map();
  for (const attempt of attempts.values()) {
    const list = of.get(attempt.taskId);
    list ? list.push(attempt) : of.set(attempt.taskId, [attempt]);
  }
  const rows = [];
  for (const task of tasks) {
    if (task.status === "SAVED") continue;
    const own = of.get(task.taskId) ?? [];
    rows.push({ key: task.taskId, task, attempts: own, first: own.length ? ms(own[0].offeredAt) : Infinity, at: ms(task.startedAt ?? task.queuedAt ?? task.admittedAt ?? task.createdAt) });
  }
  return rows.sort((a, b) => (a.first === b.first ? a.at - b.at : a.first - b.first));
}

/** The stretches of one task's life. @param {any} task @param {any[]} attempts @param {Map<string, any>} byKey @param {any} scale */
function bars(task, attempts, byKey, { from, until }) {
  const drawn = [];
  const place = (/** @type {number} */ a, /** @type {number} */ b) => ({ left: `${(100 * (a - from)) / (until - from)}%`, width: `max(2px, ${(100 * Math.max(0, b - a)) / (until - from)}%)` });
  const queue = (/** @type {number} */ a, /** @type {number} */ b, /** @type {boolean} */ wait) => { if (b - a > 0) drawn.push(html`<i class=${cx("bar", wait ? "wait" : "queue")} style=${place(a, b)} title=${`${wait ? "waiting" : "queued"} ${duration(b - a)}`} />`); };
  let before = readyAt(task, byKey), yielded = false;
  for (const attempt of attempts) {
    const offered = ms(attempt.offeredAt), accepted = attempt.acceptedAt ? ms(attempt.acceptedAt) : null;
    const end = attempt.endedAt ? ms(attempt.endedAt) : Math.max(now.value, offered);
    queue(before, accepted ?? end, yielded);
    if (accepted !== null) drawn.push(html`<i class=${cx("bar", `tone-${look(attempt.state).tone}`)} style=${place(accepted, end)} title=${`attempt ${attempt.attempt}: ${word(attempt.state)} ${attempt.endedAt ? "after" : "for"} ${duration(end - accepted)}, from ${clock(attempt.acceptedAt)}${attempt.reason ? `: ${attempt.reason}` : ""}`} />`);
    before = end;
    yielded = attempt.state === "yielded";
  }
  if (task.status === "QUEUED" || task.status === "WAITING") queue(Math.max(before, task.queuedAt ? ms(task.queuedAt) : before), now.value, task.status === "WAITING");
  return drawn;
}

/** When a task could first have begun: its admission, or the last end among what it depends on. @param {any} task @param {Map<string, any>} byKey */
function readyAt(task, byKey) {
  let at = ms(task.admittedAt ?? task.createdAt);
  for (const key of task.dependsOn ?? []) {
    const end = byKey.get(key)?.finishedAt;
    if (end) at = Math.max(at, ms(end));
  }
  return at;
}

/** @param {{model: import("../run-model.js").RunModel, nameOf: (id: string) => string}} props */
export function Lanes({ model, nameOf }) {
  const run = model.run.value, calm = pace(model);
  const attempts = useCalm(model.attempts.value, calm), tasks = useCalm(model.tasks.value, calm);
  if (!attempts) return html`<div class="picture" />`;
  const accepted = [...attempts.values()].filter((a) => a.acceptedAt);
  if (!accepted.length) return html`<${Empty} title="No sandbox has taken a task yet">A task appears here when a sandbox accepts it.<//>`;
  const scale = span(tasks), fine = (scale.until - scale.from) / FINENESS;
  /** @type {Map<string, any[]>} */
  const of = new Map();
  for (const attempt of accepted) of.get(attempt.sandboxId)?.push(attempt) ?? of.set(attempt.sandboxId, [attempt]);
  const index = model.index;
  const rows = [];
  for (const [sandboxId, list] of of) {
    const tracks = packed(list, fine);
    const busy = list.reduce((sum, a) => sum + ((a.endedAt ? ms(a.endedAt) : now.value) - ms(a.acceptedAt)), 0);
    tracks.forEach((track, i) => rows.push({ key: `${sandboxId} ${i}`, sandboxId, first: i === 0, count: list.length, busy, track }));
  }
  const bar = (/** @type {any} */ b) => {
    const style = { left: `${(100 * (b.from - scale.from)) / (scale.until - scale.from)}%`, width: `max(3px, ${(100 * (b.until - b.from)) / (scale.until - scale.from)}%)` };
    if (b.count > 1) return html`<i class=${`bar tone-${look(b.state).tone}`} style=${style} title=${`${b.count} attempts, ${word(b.state)}`} />`;
    const task = tasks[index.get(b.taskId) ?? -1];
    return html`<${Link} class=${`bar named tone-${look(b.state).tone}`} style=${style} to=${to("runs", run.runKey, "tasks", task?.taskKey ?? "")} title=${`${task?.taskKey}: ${word(b.state)}, ${duration(b.until - b.from)}`}><span>${task?.taskKey}</span><//>`;
  };
  return html`<div class="picture times">
    <div class="times-head"><span class="legend">${of.size} ${of.size === 1 ? "sandbox" : "sandboxes"}</span><${Axis} ...${scale} /></div>
    <${Rows} rows=${rows} height=${28} label="Attempts by sandbox" render=${(/** @type {any} */ row) => html`<span class="times-name">${row.first && html`<${Link} to=${to("sandboxes", row.sandboxId)}>${nameOf(row.sandboxId)}<//><small class="muted num">${row.count} in ${duration(row.busy)}</small>`}</span><span class="times-lane tall">${row.track.map(bar)}</span>`} />
  </div>`;
}

/** Attempts in as few tracks as do not overlap; very short neighbours of one state become one bar. @param {any[]} list @param {number} fine */
function packed(list, fine) {
  const bars = list.map((a) => ({ from: ms(a.acceptedAt), until: a.endedAt ? ms(a.endedAt) : now.value, state: a.state, taskId: a.taskId, count: 1 }));
  bars.sort((a, b) => a.from - b.from);
  /** @type {any[][]} */
  const tracks = [];
  for (const bar of bars) {
    const track = tracks.find((t) => t[t.length - 1].until <= bar.from + 1);
    if (!track) { tracks.push([bar]); continue; }
    const last = track[track.length - 1];
    if (bar.from - last.until < fine && bar.state === last.state && bar.until - last.from < fine * 4) { last.until = bar.until; last.count += bar.count; } else track.push(bar);
  }
  return tracks;
}

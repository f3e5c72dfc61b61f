// @ts-check
/** One run: its state, its pictures, its tasks, and what it left behind. */
import { call, get, post, v1 } from "../api.js";
import { Link, navigate, place, setQuery, to } from "../router.js";
import { count, html, number, useComputed, useEffect, useRef } from "../lib.js";
import { ended } from "../reducer.js";
import { useResource } from "../resource.js";
import { useRun } from "../run-model.js";
import { Ago, Elapsed } from "../time.js";
import { Confirm, Copy, Empty, Header, Menu, Panel, Problem, Tabs, chosenTab, toast } from "../ui/parts.js";
import { Progress, State, StateIcon, TASK_ORDER, word } from "../ui/state.js";
import { Table } from "../ui/table.js";
import { RunChanges } from "./changes.js";
import { StandStill } from "./explain.js";
import { Artifacts, Files, Results } from "./run-leavings.js";
import { Map } from "./run-map.js";
import { Metrics } from "./run-metrics.js";
import { Lanes, Timeline } from "./run-times.js";
import { Promotions } from "./run-promotions.js";

/** @param {{run: string}} props */
export function Run({ run: reference }) {
  const tab = chosenTab("tab", "overview"), view = chosenTab("view", "map");
  const model = useRun(reference, tab === "overview" && view === "map");
  const run = model.run.value, error = model.error.value;
  if (model.deleted.value) return html`<${Header} trail=${[["Runs", "/runs"]]} title=${run?.name ?? reference} /><${Empty} title="This run was deleted"><${Link} to="/runs">Go to the runs<//><//>`;
  if (!run) return error ? html`<${Header} trail=${[["Runs", "/runs"]]} title=${reference} /><${Problem} error=${error} retry=${() => model.load()} />` : html`<${Header} trail=${[["Runs", "/runs"]]} title="…" /><div class="loading" role="status" aria-label="Loading"><i /><i /><i /></div>`;
  return html`
    <${Header} trail=${[["Runs", "/runs"], [run.projectKey, `/runs?project=${encodeURIComponent(run.projectKey)}`]]} title=${run.name}
      after=${html`<${State} state=${run.state} text=${run.deleting ? "Deleting" : run.cancelRequested && !isOver(run) ? "Cancelling" : null} />`} actions=${html`<${Actions} model=${model} />`}>
      <div class="head-facts">
        <${Copy} text=${run.runKey} label="run key" />
        <${Ended} model=${model} />
        <span>${isOver(run) ? "took" : "for"} <${Elapsed} from=${run.createdAt} to=${run.completedAt ?? (isOver(run) ? run.updatedAt : null)} /></span>
        <span>started <${Ago} at=${run.createdAt} /></span>
        ${!run.closed && html`<span title="More tasks may be added until it is closed">open</span>`}
        <${Budget} budget=${run.budget} />
      </div>
      <${Bar} model=${model} />
    <//>
    ${error && html`<${Problem} error=${error} retry=${() => model.load()} />`}
    <${Tabs} name="tab" label="Parts of the run" tabs=${[["overview", "Overview"], ["results", "Results"], ["changes", "Changes"], ["promotions", "Promotions"], ["artifacts", "Artifacts"], ["metrics", "Metrics"], ["files", "Reserved files"]]} />
    <${Panel} name="tab" chosen=${tab}>
      ${tab === "overview" && html`<${Overview} model=${model} />`}
      ${tab === "results" && html`<${Results} model=${model} />`}
      ${tab === "artifacts" && html`<${Artifacts} run=${run} />`}
      ${tab === "metrics" && html`<${Metrics} model=${model} />`}
      ${tab === "changes" && html`<${RunChanges} model=${model} />`}
      ${tab === "promotions" && html`<${Promotions} model=${model} />`}
      ${tab === "files" && html`<${Files} run=${run} />`}
    <//>`;
}

/** @typedef {{model: import("../run-model.js").RunModel}} OfRun */
// What moves with every event is read in small parts, so that nothing else is drawn anew.
/** @param {OfRun} props */
const Ended = ({ model }) => html`<span><span class="num">${number(model.total.value - model.live.value)}</span> of ${count(model.total.value, "task")} ended</span>`;
/** @param {OfRun} props */
const Bar = ({ model }) => html`<div class="run-bar"><${Progress} counts=${model.known.value} tall /></div>`;
/** @param {OfRun} props */
const Live = ({ model }) => html`${count(model.live.value, "task")}`;
const isOver = (/** @type {any} */ run) => ["SUCCEEDED", "FAILED", "CANCELLED"].includes(run.state);

/** @param {{budget: any}} props */
function Budget({ budget }) {
  if (!budget) return null;
  const parts = [budget.tokens && `${budget.tokens.toLocaleString("en")} tokens`, budget.costMicroUsd && `$${(budget.costMicroUsd / 1e6).toFixed(2)}`, budget.children && count(budget.children, "child", "children")].filter(Boolean);
  return parts.length ? html`<span>budget ${parts.join(", ")}</span>` : null;
}

/** @param {OfRun} props */
function Actions({ model }) {
  const run = model.run.value, failed = model.failed.value, live = useComputed(() => model.live.value > 0).value;
  const path = (/** @type {string[]} */ ...parts) => v1("runs", run.runId, ...parts);
  return html`
    ${live && html`<${Confirm} label="Cancel run" title="Cancel this run?" danger confirm="Cancel the run" disabled=${run.cancelRequested} run=${() => post(path("cancel"), { reason: "cancelled in the console" })}>
      <p><${Live} model=${model} /> will not be finished. Running ones are stopped, and end when their sandboxes confirm that nothing of them is left. What is done stays readable.</p><//>`}
    ${failed > 0 && !live && html`<button onClick=${async () => { try { await post(path("retry")); toast(`${count(failed, "task")} start again`); } catch (e) { toast(/** @type {any} */ (e).message, true); } }}>Rerun from failed</button>`}
    <a class="button" href=${v1("runs", run.runId, "history.jsonl")} download=${`${run.runKey}.history.jsonl`}>History</a>
    <${Menu} label="More actions">
      ${!run.closed && html`<button onClick=${() => post(path("close")).catch((e) => toast(e.message, true))}>Close: no more tasks</button>`}
      <${Link} to=${`/new?from=${encodeURIComponent(run.runKey)}`}>Start a run like this one<//>
      <${Confirm} menu label="Delete…" title="Delete this run?" danger confirm="Delete for ever" run=${async () => { await call("DELETE", path()); navigate("/runs"); toast(live ? "It is cancelled, and goes once nothing of it runs" : "Deleted"); }}>
        <p>Its tasks, attempts, logs, workpads and results are removed. This cannot be undone; download the history first if you may need it.</p>
        ${live && html`<p><strong><${Live} model=${model} /> ${model.live.value === 1 ? "is" : "are"} still live.</strong> The run is cancelled first and disappears when nothing of it runs any more.</p>`}<//>
    <//>`;
}

/** @param {OfRun} props */
function Overview({ model }) {
  const view = chosenTab("view", "map");
  const run = model.run.value;
  const layout = useResource(`layout ${run.runId} ${model.growth.value}`, (signal) => {
    const begun = model.layout;
    model.layout = null;
    return begun ?? get(v1("runs", run.runId, "layout"), {}, signal);
  });
  const shown = useRef(/** @type {any} */ (null));
  if (layout.data) shown.current = layout.data;
  useEffect(() => { if (view !== "map" && !model.attempts.value) model.loadAttempts(); }, [view]);
  const names = useResource("sandbox names", (signal) => get("/v1/sandboxes", { limit: 200 }, signal), { on: (e) => e.type === "sandbox.launching" || e.type === "sandbox.running", everyMs: 2_000 });
  const nameOf = (/** @type {string} */ id) => names.data?.sandboxes.find((/** @type {any} */ s) => s.sandboxId === id)?.name ?? `…${id.slice(-6)}`;
  const none = useComputed(() => model.total.value === 0).value;
  if (none) return html`<${Empty} title="No tasks yet">Save one with <code>flakes tasks save --run ${run.runKey}</code>, and admit it.<//>`;
  return html`<${StandStill} model=${model} />
    <div class="section-head view-head"><${Tabs} name="view" small label="Pictures of the run" tabs=${[["map", "Map"], ["timeline", "Timeline"], ["sandboxes", "By sandbox"]]} /></div>
    <${Panel} name="view" chosen=${view}>
      ${view === "map" && (shown.current ? html`<${Picture} model=${model} layout=${shown.current} />` : html`<div class="picture" />`)}
      ${view === "timeline" && html`<${Timeline} model=${model} />`}
      ${view === "sandboxes" && html`<${Lanes} model=${model} nameOf=${nameOf} />`}
    <//>
    <${Tasks} model=${model} nameOf=${nameOf} names=${names.data} layout=${shown.current} />`;
}

/** @param {{model: import("../run-model.js").RunModel, layout: any}} props */
const Picture = ({ model, layout }) => html`<${Map} layout=${layout} tasks=${model.tasks.value} runKey=${model.run.value.runKey} whole=${model.whole.value} />`;

const COLUMNS = [
  { key: "n", title: "#", width: "36px", from: "m", end: true },
  { key: "task", title: "Task", width: "minmax(0, 5fr)" },
  { key: "status", title: "Status", width: "88px", from: "m" },
  { key: "workpad", title: "Workpad", width: "58px", from: "l" },
  { key: "sandbox", title: "Sandbox", width: "104px", from: "l" },
  { key: "needs", title: "Depends on", width: "minmax(0, 2fr)", from: "l" },
  { key: "accepted", title: "Accepted", width: "76px", from: "m", end: true },
  { key: "finished", title: "Finished", width: "76px", from: "m", end: true },
  { key: "took", title: "Took", width: "64px", end: true },
];

/** @param {{model: import("../run-model.js").RunModel, nameOf: (id: string) => string, names: any, layout: any}} props */
function Tasks({ model, nameOf, names, layout }) {
  const query = place.value.query;
  const status = query.get("status") ?? "", words = (query.get("find") ?? "").toLowerCase(), among = query.get("among") ?? "";
  const run = model.run.value, tasks = model.tasks.value, whole = model.whole.value;
  const bundle = among && layout ? layout.nodes.find((/** @type {any} */ n) => n.taskKeys.length > 1 && n.taskKeys[0] === among) : null;
  const keys = bundle ? new Set(bundle.taskKeys) : null;
  // Tasks that are still to come have their rows already: nothing moves when they do.
  const unread = whole ? 0 : Math.max(0, model.total.value - tasks.length);
  const rows = !status && !words && !keys ? (unread ? [...tasks, ...new Array(unread).fill(null)] : tasks) : tasks.filter((task) => (!status || task.status === status) && (!keys || keys.has(task.taskKey)) && (!words || task.taskKey.includes(words) || task.title.toLowerCase().includes(words)));
  const timer = useRef(0);
  return html`<section class="section" aria-label="Tasks" aria-busy=${whole ? null : "true"}>
    <div class="section-head"><h2>Tasks</h2>
      <${Statuses} model=${model} status=${status} />
      ${bundle && html`<button onClick=${() => setQuery({ among: null })}>${count(bundle.taskKeys.length, "alike task")} ✕</button>`}
      <span class="spring" />
      <label class="search"><span class="sr">Find a task</span><input type="search" placeholder="Find a task" defaultValue=${query.get("find") ?? ""} onInput=${(/** @type {any} */ e) => { clearTimeout(timer.current); const text = e.target.value; timer.current = setTimeout(() => setQuery({ find: text.trim() }), 120); }} /><kbd aria-hidden="true">/</kbd></label>
    </div>
    ${rows.length ? html`<${Table} label="Tasks" columns=${COLUMNS} rows=${rows} rowHeight=${36} deps=${[run.runKey, names]} keyOf=${taskId} row=${(/** @type {any} */ task) => (task ? taskCells(task, (model.index.get(task.taskId) ?? 0) + 1, run, nameOf) : COMING)} />` : html`<${Empty} title="No task matches"><button onClick=${() => setQuery({ status: null, find: null, among: null })}>Show all tasks</button><//>`}
    ${!whole && (status || words || keys) && html`<div class="more muted" role="status">Looking among the other tasks…</div>`}
  </section>`;
}

/** @param {{model: import("../run-model.js").RunModel, status: string}} props */
function Statuses({ model, status }) {
  const counts = model.known.value;
  return html`<div class="chips" role="group" aria-label="Status"><button aria-pressed=${status ? "false" : "true"} onClick=${() => setQuery({ status: null })}>All <span class="num">${number(model.total.value)}</span></button>
    ${TASK_ORDER.filter((s) => counts[s]).map((s) => html`<button key=${s} aria-pressed=${status === s ? "true" : "false"} onClick=${() => setQuery({ status: status === s ? null : s })}><${StateIcon} state=${s} size=${14} />${word(s)} <span class="num">${number(counts[s])}</span></button>`)}</div>`;
}

const taskId = (/** @type {any} */ task, /** @type {number} */ at) => task?.taskId ?? `row ${at}`;
/** The cells of a task that was not read yet. */
const COMING = COLUMNS.map((column) => (column.key === "task" ? html`<span class="coming" />` : ""));

/** @param {any} task @param {number} n @param {any} run @param {(id: string) => string} nameOf */
function taskCells(task, n, run, nameOf) {
  const needs = task.dependsOn ?? [], began = task.status === "RUNNING" || task.status === "WAITING" || ended(task) ? task.startedAt : null;
  return [
    html`<span class="muted num">${n}</span>`,
    html`<div class="run-name"><${StateIcon} state=${task.status} label /><${Link} to=${to("runs", run.runKey, "tasks", task.taskKey)} data-row class="cover">${task.title}<//>${task.title !== task.taskKey && html`<code class="muted">${task.taskKey}</code>`}${task.attempt > 1 && html`<small class="muted">attempt ${task.attempt}</small>`}${task.optional && html`<small class="muted">optional</small>`}</div>`,
    html`<span class="muted">${task.cancelRequested && !ended(task) ? "Cancelling" : word(task.status)}</span>`,
    html`<span class="muted">${task.workpad?.version ? `v${task.workpad.version}` : "–"}</span>`,
    html`<span class="muted">${task.sandboxId ? nameOf(task.sandboxId) : "–"}</span>`,
    html`<span class="muted" title=${needs.join(", ")}>${needs.length ? needs.slice(0, 3).join(", ") + (needs.length > 3 ? ` +${needs.length - 3}` : "") : "–"}</span>`,
    html`<span class="muted"><${Ago} at=${began} /></span>`,
    html`<span class="muted"><${Ago} at=${task.finishedAt} /></span>`,
    began ? html`<${Elapsed} from=${began} to=${task.finishedAt} />` : html`<span class="muted">–</span>`,
  ];
}

// @ts-check
/** What a run, or one task of it, changed in the files: whose changes, what became of them, how to take them, the lines. */
import { get, v1 } from "../api.js";
import { Link, place, setQuery, to } from "../router.js";
import { html } from "../lib.js";
import { useResource } from "../resource.js";
import { Copy, Empty, Loaded, sentence } from "../ui/parts.js";
import { State } from "../ui/state.js";
import { Diff } from "./diff.js";

const PATHS_SHOWN = 500;
/** @type {Record<string, string>} */
export const KINDS = { candidate: "candidate", merged: "merge", output: "declared output", snapshot: "snapshot" };
/** A state of the queue that brings results in: a word, and what it means. @type {Record<string, [string, string]>} */
const STATES = {
  queued: ["Queued", "It is brought in as soon as its turn comes."],
  verifying: ["Being tested", "It is merged, and the merged files are being tested."],
  resolving: ["Being resolved", "It conflicts with what is selected, and a task resolves that."],
  promoted: ["Promoted", "It is in what the run has selected."],
  contained: ["Contained", "Everything of it was in what the run has selected already."],
  conflict: ["Conflict", "It does not merge with what the run has selected. It is kept, and can be taken by hand."],
  unverified: ["Unverified", "It merges, but the merged files did not pass their test. It is kept."],
  failed: ["Not merged", "It could not be merged. It is kept."],
  kept: ["Kept", "It is not brought in by itself. It is kept, and can be promoted or taken by hand."],
  selected: ["Selected", "It is what the run has selected."],
  candidate: ["Candidate", "Nothing was done with it yet: it can be promoted, or taken by hand."],
};
export const short = (/** @type {string} */ id) => `…${id.slice(-8)}`;

/** The newest 200 handles of the files of a run, or of one task of it, with what became of them. @param {string} runId @param {string} [taskId] */
export function useWorkspaces(runId, taskId) {
  return useResource(`workspaces ${runId} ${taskId ?? ""}`, (signal) => get(v1("runs", runId, "workspaces"), { limit: 200, taskId }, signal),
    { on: (e) => e.runId === runId && /^(workspace\.|run\.|task\.(succeeded|failed|cancelled)|attempt\.ended)/.test(e.type), everyMs: 500 });
}

/** What became of a handle. @param {any} found the answer of `useWorkspaces` @param {any} handle @returns {any} */
export function fateOf(found, handle) {
  const merge = found.merges?.find((/** @type {any} */ m) => m.workspaceId === handle.workspaceId);
  if (merge && merge.state !== "queued") return merge;
  return found.refs.some((/** @type {any} */ r) => r.name === "selected" && r.workspaceId === handle.workspaceId) ? { state: "selected" } : merge ?? { state: "candidate" };
}

/** @param {{state: string}} props */
export function Fate({ state }) {
  return html`<span title=${STATES[state]?.[1]}><${State} state=${state} text=${STATES[state]?.[0]} /></span>`;
}

/** The command that brings files to whoever reads this. @param {any} run @param {any} task @param {string} [state] */
export const takeCommand = (run, task, state) => `flakes apply ${run.runKey}${task ? `/${task.taskKey}` : ""}${state === "conflict" ? " --3way" : ""}`;

/** What is told of a handle above its lines. @param {{fate: any, run: any, task: any}} props */
function Told({ fate, run, task }) {
  const say = STATES[fate.state]?.[1] ?? "";
  return html`<div class=${`notice ${{ conflict: "warn", unverified: "warn", failed: "warn", resolving: "info", verifying: "info", queued: "info", promoted: "good", contained: "good", selected: "good" }[fate.state] ?? ""}`}><div><span><strong>${STATES[fate.state]?.[0]}</strong> ${say}${fate.reason && fate.state !== "promoted" ? ` ${sentence(fate.reason)}` : ""}${fate.helperTaskId && html` <${Helper} run=${run} taskId=${fate.helperTaskId} />`}</span>
    ${fate.paths?.length > 0 && html`<span class="chips">${fate.state === "conflict" ? "In conflict: " : "In question: "}${fate.paths.map((/** @type {string} */ path) => html`<button key=${path} class="dep" onClick=${() => setQuery({ file: path })}><code>${path}</code></button>`)}</span>`}</div>
    <span class="take"><span class="muted">Take it:</span> <${Copy} text=${takeCommand(run, task, fate.state)} label="command" /></span></div>`;
}

/** @param {{run: any, taskId: string}} props */
function Helper({ run, taskId }) {
  const task = useResource(`helper ${taskId}`, (signal) => get(v1("tasks", taskId), {}, signal)).data;
  return task ? html`<${Link} to=${to("runs", run.runKey, "tasks", task.taskKey)}>${task.title}<//>` : null;
}

/** The paths alone, as they were stored: for files that nobody can compare here. @param {{handle: any}} props */
function Paths({ handle }) {
  const whole = useResource(`handle ${handle.workspaceId}`, (signal) => get(v1("workspaces", handle.workspaceId), {}, signal)).data;
  if (!whole?.changes?.length) return null;
  const { changes, changeCount } = whole;
  return html`<ul class="paths" aria-label="Changed paths">${changes.slice(0, PATHS_SHOWN).map((/** @type {any} */ c) => html`<li key=${c.path} class=${`is-${c.kind}`}><b aria-hidden="true">${{ added: "A", changed: "M", removed: "D" }[/** @type {"added"} */ (c.kind)]}</b><span class="sr">${c.kind} </span><code>${c.path}</code></li>`)}</ul>${changeCount > Math.min(changes.length, PATHS_SHOWN) && html`<p class="muted">and ${(changeCount - Math.min(changes.length, PATHS_SHOWN)).toLocaleString("en")} more</p>`}`;
}

/** The changes of one task: the newest first, any other by its address. @param {{task: any, run: any}} props */
export function TaskChanges({ task, run }) {
  const found = useWorkspaces(task.runId, task.taskId);
  return html`<${Loaded} from=${found}>${(/** @type {any} */ all) => {
    const list = all.workspaces, wanted = place.value.query.get("of"), handle = list.find((/** @type {any} */ w) => w.workspaceId === wanted) ?? list[0];
    if (!handle) return html`<${Empty} title="No changes">What this task changes in the files of its run is here as soon as it is stored: when its attempt ends, or when it asks for it.<//>`;
    return html`${list.length > 1 && html`<div class="section-head"><label>Stored <select onChange=${choose} value=${handle.workspaceId}>${list.map((/** @type {any} */ w, /** @type {number} */ i) => html`<option key=${w.workspaceId} value=${w.workspaceId}>${list.length - i}: ${KINDS[w.kind] ?? w.kind}, ${w.changeCount} changed</option>`)}</select></label></div>`}
      <${Shown} handle=${handle} fate=${fateOf(all, handle)} run=${run ?? task} task=${task} />`; }}<//>`;
}

/** @param {{handle: any, fate: any, run: any, task: any}} props */
function Shown({ handle, fate, run, task }) {
  return html`<${Told} fate=${fate} run=${run} task=${task} />
    ${handle.baseWorkspaceId ? html`<${Diff} workspaceId=${handle.workspaceId} known=${html`<${Paths} handle=${handle} />`} />` : html`<${Paths} handle=${handle} />`}`;
}

/** @param {any} event */
const choose = (event) => setQuery({ of: event.target.value, base: null, file: null }, false);

/** The changes of a run: what is selected against what it began with, those of a task, or those of one promotion. @param {{model: import("../run-model.js").RunModel}} props */
export function RunChanges({ model }) {
  const run = model.run.value, found = useWorkspaces(run.runId), query = place.value.query;
  return html`<${Loaded} from=${found}>${(/** @type {any} */ all) => {
    const selected = all.refs.find((/** @type {any} */ r) => r.name === "selected"), of = query.get("of") ?? "", base = query.get("base") ?? "";
    if (!selected && !all.workspaces.length) return html`<${Empty} title="No files">A run that begins from a directory has its files here, and what its tasks changed. Start one in a git repository: <code>flakes run plan.md</code><//>`;
    const tasks = new Map(model.tasks.value.map((task) => [task.taskId, task])), handle = all.workspaces.find((/** @type {any} */ w) => w.workspaceId === of), task = handle && tasks.get(handle.taskId);
    return html`<div class="section-head"><label>Changes of <select onChange=${choose} value=${handle || base ? of : ""}><option value="">everything selected</option>
        ${of && !handle && html`<option value=${of}>one promotion</option>`}
        ${all.workspaces.filter((/** @type {any} */ w) => w.kind !== "snapshot").map((/** @type {any} */ w) => html`<option key=${w.workspaceId} value=${w.workspaceId}>${nameOf(w, all, tasks)}</option>`)}</select></label></div>
      ${base && of ? html`<${Diff} workspaceId=${of} base=${base} />`
        : handle ? html`<${Shown} handle=${handle} fate=${fateOf(all, handle)} run=${run} task=${task} />`
        : of ? html`<${Diff} workspaceId=${of} />`
        : !selected || selected.workspaceId === run.workspaceId ? html`<${Empty} title="Nothing is selected but what the run began with">What tasks change is brought in when they succeed. Changes that are not brought in are kept: choose them above, or look at the <a href="?tab=promotions">promotions</a>.<//>`
        : html`<div class="notice good"><div><span><strong>Selected</strong> What came in of its tasks, against what the run began with.</span></div><span class="take"><span class="muted">Take it:</span> <${Copy} text=${takeCommand(run, null)} label="command" /></span></div>
          ${run.workspaceId ? html`<${Diff} workspaceId=${selected.workspaceId} base=${run.workspaceId} />` : html`<${Diff} workspaceId=${selected.workspaceId} />`}`}`; }}<//>`;
}

/** @param {any} handle @param {any} all @param {Map<string, any>} tasks */
function nameOf(handle, all, tasks) {
  const state = fateOf(all, handle).state;
  return `${tasks.get(handle.taskId)?.title ?? KINDS[handle.kind] ?? handle.kind} (${(STATES[state]?.[0] ?? state).toLowerCase()}, ${handle.changeCount} changed)`;
}

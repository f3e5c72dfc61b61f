// @ts-check
/** Files of a run: what is selected, what its tasks made of it, and every move of what is selected. */
import { get, post, v1 } from "../api.js";
import { Link, to } from "../router.js";
import { count, html, useState } from "../lib.js";
import { useResource } from "../resource.js";
import { Ago } from "../time.js";
import { Confirm, Copy, Empty, Loaded, Wide, toast } from "../ui/parts.js";

/** @type {Record<string, string>} */
const KINDS = { candidate: "candidate", merged: "merge", output: "output", snapshot: "snapshot" };
/** @type {Record<string, string>} */
const MODES = { initial: "the run began with it", fast_forward: "whole", replace_bounded_paths: "named paths" };
const SHOWN = 500;
const short = (/** @type {string} */ id) => `…${id.slice(-8)}`;

/** What was read of the files of a run, or of one task of it. @param {string} run @param {string} runId @param {string} [taskId] */
export function useWorkspaces(run, runId, taskId) {
  return useResource(`workspaces ${runId} ${taskId ?? ""}`, (signal) => get(v1("runs", run, "workspaces"), { limit: 100, taskId }, signal), { on: (e) => e.runId === runId && e.type.startsWith("workspace."), everyMs: 500 });
}

/** @param {{model: import("../run-model.js").RunModel}} props */
export function Workspaces({ model }) {
  const run = model.run.value, found = useWorkspaces(run.runId, run.runId);
  const titles = new Map(model.tasks.value.map((task) => [task.taskId, task]));
  return html`<${Loaded} from=${found}>${(/** @type {any} */ { refs, workspaces, promotions, nextCursor }) => !refs.length && !workspaces.length ? html`<${Empty} title="No files">A run that begins from a directory has its files here, and what its tasks changed. Start one in a git repository: <code>flakes run plan.md</code><//>` : html`
    ${refs.map((/** @type {any} */ ref) => html`<p key=${ref.name} class="lead">The ref <strong>${ref.name}</strong> is at <${Copy} text=${ref.workspaceId} shown=${short(ref.workspaceId)} label="workspace id" />, version ${ref.version}, <${Ago} at=${ref.updatedAt} />. Bring it into your directory: <code>flakes apply ${run.runKey}</code></p>`)}
    <section class="section"><h2 class="lead">What tasks made</h2>${workspaces.length ? workspaces.map((/** @type {any} */ w, /** @type {number} */ i) => html`<${Handle} key=${w.workspaceId} first=${i < 3} handle=${w} run=${run} task=${titles.get(w.taskId)} refs=${refs} onMoved=${found.reload} />`) : html`<p class="muted">Nothing yet.</p>`}${nextCursor && html`<p class="muted hint">The newest 100.</p>`}</section>
    <section class="section"><h2 class="lead">Promotions</h2>${promotions.length ? html`<${Wide}><table class="plain-table"><thead><tr><th>Ref</th><th>Version</th><th>From</th><th>To</th><th>How</th><th>By</th><th class="end">When</th></tr></thead><tbody>${promotions.map((/** @type {any} */ p) => html`<tr key=${p.ref + p.version}><td><strong>${p.ref}</strong></td><td class="num">${p.version}</td><td><code class="muted">${p.fromWorkspaceId ? short(p.fromWorkspaceId) : "–"}</code></td><td><code class="muted">${short(p.toWorkspaceId)}</code></td><td class="muted">${MODES[p.mode] ?? p.mode}${p.paths ? `: ${p.paths.map((/** @type {any} */ s) => s.path).slice(0, 4).join(", ")}` : ""}</td><td class="muted">${p.assignmentId ? "a task" : "a person"}</td><td class="end muted"><${Ago} at=${p.promotedAt} /></td></tr>`)}</tbody></table><//>` : html`<p class="muted">None yet.</p>`}</section>`}<//>`;
}

/** One set of files, with what differs from what it was made from. @param {any} props */
export function Handle({ handle, run, task, refs = [], first = false, onMoved }) {
  const selected = refs.find((/** @type {any} */ r) => r.name === "selected"), current = refs.some((/** @type {any} */ r) => r.workspaceId === handle.workspaceId);
  const promote = async () => {
    await post(v1("runs", run.runId, "promotions"), { workspaceId: handle.workspaceId, ref: "selected", expectedWorkspaceId: selected?.workspaceId });
    onMoved();
    toast("Promoted");
  };
  return html`<div class="card handle"><div class="card-head"><strong>${KINDS[handle.kind] ?? handle.kind}</strong>${task && html`<span>of <${Link} to=${to("runs", run.runKey, "tasks", task.taskKey)}>${task.title}<//></span>`}<${Copy} text=${handle.workspaceId} shown=${short(handle.workspaceId)} label="workspace id" />${current && html`<small class="tally">selected</small>`}<span class="spring" /><span class="muted"><${Ago} at=${handle.createdAt} /></span>
      ${onMoved && selected && !current && handle.kind !== "snapshot" && html`<${Confirm} label="Promote" title="Promote these files?" run=${promote}><p>They become what the run has selected: later tasks begin from them, and <code>flakes apply</code> brings them. It is refused when something else was selected meanwhile.</p><//>`}</div>
    <div class="card-body"><${Changes} handle=${handle} first=${first} /></div></div>`;
}

/** The paths, read when somebody looks. @param {{handle: any, first: boolean}} props */
function Changes({ handle, first }) {
  const [open, setOpen] = useState(first);
  const whole = useResource(open && handle.changeCount ? `handle ${handle.workspaceId}` : null, (signal) => get(v1("workspaces", handle.workspaceId), {}, signal));
  if (!handle.changeCount) return html`<p class="muted">Nothing differs from what it was made from.</p>`;
  return html`<details open=${open} onToggle=${(/** @type {any} */ e) => setOpen(e.currentTarget.open)}><summary class="muted">${count(handle.changeCount, "changed path")}</summary>
    ${open && html`<${Loaded} from=${whole}>${({ changes = [] }) => html`<ul class="paths">${changes.slice(0, SHOWN).map((/** @type {any} */ c) => html`<li key=${c.path} class=${`is-${c.kind}`}><b aria-hidden="true">${{ added: "+", changed: "~", removed: "−" }[/** @type {"added"} */ (c.kind)]}</b><span class="sr">${c.kind} </span><code>${c.path}</code></li>`)}</ul>${handle.changeCount > Math.min(changes.length, SHOWN) && html`<p class="muted">and ${(handle.changeCount - Math.min(changes.length, SHOWN)).toLocaleString("en")} more</p>`}`}<//>`}</details>`;
}

/** The files that one task left. @param {{task: any}} props */
export function TaskFiles({ task }) {
  const found = useWorkspaces(task.runId, task.runId, task.taskId);
  const list = found.data?.workspaces ?? [];
  if (!list.length) return null;
  return html`<section class="section"><h2 class="lead">Files</h2>${list.map((/** @type {any} */ w, /** @type {number} */ i) => html`<${Handle} key=${w.workspaceId} first=${i === 0} handle=${w} run=${task} />`)}</section>`;
}

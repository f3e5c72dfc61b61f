// @ts-check
/** How the work of a run's tasks came together: what is selected, what became of each result, and every promotion. */
import { me, post, v1 } from "../api.js";
import { Link, to } from "../router.js";
import { count, html } from "../lib.js";
import { Ago } from "../time.js";
import { Confirm, Copy, Empty, Loaded, Wide, sentence, toast } from "../ui/parts.js";
import { Fate, KINDS, fateOf, short, takeCommand, useWorkspaces } from "./changes.js";

/** @type {Record<string, string>} */
const MODES = { initial: "the run began with it", fast_forward: "whole", replace_bounded_paths: "named paths" };
/** What is in, is being brought in right now, or was found not to go together with what is selected. */
const SETTLED = new Set(["promoted", "contained", "selected", "verifying", "resolving", "conflict", "failed"]);

/** @param {{model: import("../run-model.js").RunModel}} props */
export function Promotions({ model }) {
  const run = model.run.value, found = useWorkspaces(run.runId);
  const tasks = new Map(model.tasks.value.map((task) => [task.taskId, task]));
  return html`<${Loaded} from=${found}>${(/** @type {any} */ all) => !all.refs.length && !all.workspaces.length ? html`<${Empty} title="No files">A run that begins from a directory has its files here, and what its tasks changed. Start one in a git repository: <code>flakes run plan.md</code><//>` : html`
    ${all.refs.map((/** @type {any} */ ref) => html`<div key=${ref.name} class="notice"><div><span>${ref.name === "selected" ? html`<strong>Selected</strong> is` : html`The ref <strong>${ref.name}</strong> is`} version ${ref.version}, <${Ago} at=${ref.updatedAt} />: <${Copy} text=${ref.workspaceId} shown=${short(ref.workspaceId)} label="workspace id" /> ${ref.workspaceId !== run.workspaceId && html`<${Link} to=${`${to("runs", run.runKey)}?tab=changes`}>What changed<//>`}</span></div>${ref.name === "selected" && html`<span class="take"><span class="muted">Take it:</span> <${Copy} text=${takeCommand(run, null)} label="command" /></span>`}</div>`)}
    <section class="section"><h2 class="lead">What tasks left</h2><${Left} all=${all} run=${run} tasks=${tasks} reload=${found.reload} /></section>
    ${all.overlaps?.length > 0 && html`<section class="section"><h2 class="lead">Overlaps</h2><p class="muted lead">Tasks that change the same files: what comes in later may not merge.</p><${Overlaps} overlaps=${all.overlaps} run=${run} /></section>`}
    <section class="section"><h2 class="lead">Promotions</h2><${History} all=${all} run=${run} /></section>`}<//>`;
}

/** @param {any} props */
function Left({ all, run, tasks, reload }) {
  const list = all.workspaces.filter((/** @type {any} */ w) => w.taskId);
  if (!list.length) return html`<p class="muted">Nothing yet: what a task changed is here when it ends.</p>`;
  const selected = all.refs.find((/** @type {any} */ r) => r.name === "selected");
  return html`<${Wide}><table class="plain-table"><thead><tr><th>State</th><th>Task</th><th>What</th><th>Why</th><th class="end">When</th><th><span class="sr">Actions</span></th></tr></thead><tbody>${list.map((/** @type {any} */ w) => {
    const fate = fateOf(all, w), task = tasks.get(w.taskId), why = [fate.paths?.length && `in ${fate.paths.slice(0, 3).join(", ")}${fate.paths.length > 3 ? ` and ${fate.paths.length - 3} more` : ""}`, fate.reason].filter(Boolean).join("; ");
    return html`<tr key=${w.workspaceId} class="candidate"><td><${Fate} state=${fate.state} /></td><td>${task ? html`<${Link} data-row to=${to("runs", run.runKey, "tasks", task.taskKey)}>${task.title}<//>` : short(w.taskId)}</td><td class="muted when" title=${KINDS[w.kind] ?? w.kind}><${Link} to=${`${to("runs", run.runKey)}?tab=changes&of=${w.workspaceId}`}>${count(w.changeCount, "path")} changed<//></td><td class="muted why">${why ? sentence(why) : "–"}</td><td class="end muted when"><${Ago} at=${fate.settledAt ?? w.createdAt} /></td>
      <td><div class="row-actions">${!["promoted", "contained", "selected"].includes(fate.state) && task && html`<${Copy} text=${takeCommand(run, task, fate.state)} label="command" />`}${selected && !SETTLED.has(fate.state) && html`<${Promote} handle=${w} run=${run} selected=${selected} onMoved=${reload} />`}</div></td></tr>`; })}</tbody></table><//>
    ${all.nextCursor && html`<p class="muted hint">The newest 200. All of them: <code>flakes inspect ${run.runKey} --json</code></p>`}`;
}

/** @param {{overlaps: any[], run: any}} props */
function Overlaps({ overlaps, run }) {
  const link = (/** @type {string} */ key) => html`<${Link} to=${to("runs", run.runKey, "tasks", key)}>${key}<//>`;
  return html`<${Wide}><table class="plain-table"><thead><tr><th>Task</th><th>How</th><th>Files</th><th class="end">Found</th></tr></thead><tbody>${overlaps.map((o) => html`<tr key=${o.taskId + o.otherTaskId + o.how}><td>${link(o.taskKey)}</td><td class="muted in-text">${o.how === "reserved" ? html`reserved by ${link(o.otherTaskKey)}` : html`changed by ${link(o.otherTaskKey)} too`}</td><td class="why">${o.paths.slice(0, 3).map((/** @type {string} */ path, /** @type {number} */ i) => html`${i > 0 && ", "}<code>${path}</code>`)}${o.count > 3 && html` <span class="muted">and ${o.count - 3} more</span>`}</td><td class="end muted when"><${Ago} at=${o.updatedAt} /></td></tr>`)}</tbody></table><//>`;
}

/** @param {any} props */
function Promote({ handle, run, selected, onMoved }) {
  const promote = async () => {
    await post(v1("runs", run.runId, "promotions"), { workspaceId: handle.workspaceId, ref: "selected", expectedWorkspaceId: selected.workspaceId });
    onMoved();
    toast("Promoted");
  };
  return html`<${Confirm} label="Promote" title="Promote these files?" run=${promote}><p>They become what the run has selected: later tasks begin from them, and <code>flakes apply</code> brings them. It is refused when they were not made from what is selected now.</p><//>`;
}

/** @param {any} props */
function History({ all, run }) {
  if (!all.promotions.length) return html`<p class="muted">None yet.</p>`;
  const several = all.refs.length > 1;
  /** @param {any} p */
  const by = (p) => (p.taskKey ? html`<${Link} to=${to("runs", run.runKey, "tasks", p.taskKey)}>${p.taskKey}<//>` : p.assignmentId ? "a task" : p.userId === me.value?.userId ? "you" : "somebody");
  return html`<${Wide}><table class="plain-table"><thead><tr>${several && html`<th>Ref</th>`}<th>Version</th><th>From</th><th>To</th><th>How</th><th>By</th><th class="end">When</th><th><span class="sr">Actions</span></th></tr></thead><tbody>${all.promotions.map((/** @type {any} */ p) => html`<tr key=${p.ref + p.version}>${several && html`<td><strong>${p.ref}</strong></td>`}<td class="num">${p.version}</td><td>${p.fromWorkspaceId ? html`<${Copy} text=${p.fromWorkspaceId} shown=${short(p.fromWorkspaceId)} label="workspace id" />` : "–"}</td><td><${Copy} text=${p.toWorkspaceId} shown=${short(p.toWorkspaceId)} label="workspace id" /></td><td class="muted">${MODES[p.mode] ?? p.mode}${p.paths ? `: ${p.paths.map((/** @type {any} */ s) => s.path).slice(0, 4).join(", ")}` : ""}</td><td>${by(p)}</td><td class="end muted when"><${Ago} at=${p.promotedAt} /></td><td class="end">${p.fromWorkspaceId && html`<${Link} to=${`${to("runs", run.runKey)}?tab=changes&of=${p.toWorkspaceId}&base=${p.fromWorkspaceId}`}>What changed<span class="sr"> in version ${p.version}</span><//>`}</td></tr>`)}</tbody></table><//>`;
}

// @ts-check
/** What a task made while it ran: its groups and how they stand, its children, and what it waits for. */
import { get, v1 } from "../api.js";
import { Link, to } from "../router.js";
import { count, html } from "../lib.js";
import { useResource } from "../resource.js";
import { Ago } from "../time.js";
import { Empty, Loaded, Wide } from "../ui/parts.js";
import { State, StateIcon, word } from "../ui/state.js";

/** @type {Record<string, string>} */
const RULES = { all_success: "all must succeed", all_settled: "all must end", first: "the first success is enough", quorum: "so many must succeed" };
/** @type {Record<string, string>} */
const GROUPS = { OPEN: "CREATED", CLOSED: "RUNNING", ABANDONED: "STALLED" };

/** @param {{task: any}} props */
export function Children({ task }) {
  const on = (/** @type {any} */ e) => e.runId === task.runId && /^(task|group|wait|signal)\./.test(e.type);
  const groups = useResource(`groups ${task.taskId}`, (signal) => get(v1("tasks", task.taskId, "groups"), {}, signal), { on, everyMs: 500 });
  const children = useResource(`children ${task.taskId}`, (signal) => get(v1("tasks", task.taskId, "children"), { limit: 200 }, signal), { on, everyMs: 500 });
  const waits = useResource(`waits ${task.taskId}`, (signal) => get(v1("tasks", task.taskId, "waits"), { limit: 50 }, signal), { on, everyMs: 500 });
  const list = children.data?.children ?? [], open = (waits.data?.waits ?? []).filter((/** @type {any} */ w) => w.state === "pending");
  const key = (/** @type {string} */ id) => groups.data?.groups.find((/** @type {any} */ g) => g.groupId === id)?.groupKey ?? "";
  return html`${open.map((/** @type {any} */ w) => html`<p key=${w.waitId} class="notice wait"><span>It waits ${waited(w, key)} <${Ago} at=${w.createdAt} />.</span></p>`)}
    ${(groups.data?.groups ?? []).map((/** @type {any} */ g) => html`<section key=${g.groupId} class="section"><div class="section-head"><h2>${g.name ?? g.groupKey}</h2><${State} state=${GROUPS[g.status] ?? g.status} text=${word(g.status).toLowerCase()} /><span class="muted">${g.joinRule === "quorum" ? `${g.quorum} must succeed` : RULES[g.joinRule] ?? g.joinRule}${g.maxChildren ? `, at most ${count(g.maxChildren, "child", "children")}` : ""}</span></div>
      <${Listed} task=${task} rows=${list.filter((/** @type {any} */ c) => c.groupId === g.groupId)} /></section>`)}
    <${Loaded} from=${children}>${() => { const alone = list.filter((/** @type {any} */ c) => !c.groupId); return list.length === 0 && !(groups.data?.groups.length) ? html`<${Empty} title="No children">A task with the grant to spawn makes other tasks while it runs; they are listed here and drawn in the run's map.<//>` : alone.length > 0 && html`<section class="section"><h2 class="lead">${groups.data?.groups.length ? "In no group" : "Children"}</h2><${Listed} task=${task} rows=${alone} /></section>`; }}<//>
    ${children.data?.nextCursor && html`<p class="muted hint">The first 200; all of them are in the run's table.</p>`}`;
}

/** @param {{task: any, rows: any[]}} props */
function Listed({ task, rows }) {
  if (!rows.length) return html`<p class="muted">No child yet.</p>`;
  return html`<${Wide}><table class="plain-table"><thead><tr><th>Child</th><th>Status</th><th>Adapter</th><th class="end">Finished</th></tr></thead><tbody>${rows.map((c) => html`<tr key=${c.taskId}><td><${Link} data-row to=${to("runs", task.runKey, "tasks", c.taskKey)}>${c.title}<//>${c.title !== c.taskKey && html` <code class="muted">${c.taskKey}</code>`}${c.detached && html` <small class="muted">detached</small>`}${c.error && html`<div class="bad-text">${c.error.message}</div>`}</td><td><span class="state-line"><${StateIcon} state=${c.status} />${word(c.status)}</span></td><td class="muted">${c.adapter}</td><td class="end muted"><${Ago} at=${c.finishedAt} /></td></tr>`)}</tbody></table><//>`;
}

/** @param {any} wait @param {(id: string) => string} key */
function waited(wait, key) {
  if (wait.kind === "group") return html`for the group <strong>${key(wait.groupId)}</strong>, since`;
  if (wait.kind === "signal") return html`for the signal <strong>${wait.signalName}</strong>, since`;
  if (wait.kind === "timer") return html`until <${Ago} at=${wait.dueAt} />, since`;
  return "for its children, since";
}

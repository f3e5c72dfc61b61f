// @ts-check
/** What a task made while it ran: its groups and how they stand, its children, and what it waits for. */
import { get, post, v1 } from "../api.js";
import { Link, to } from "../router.js";
import { count, html, useState } from "../lib.js";
import { useResource } from "../resource.js";
import { Ago, Elapsed } from "../time.js";
import { Dialog, Empty, Loaded, Problem, Wide, toast } from "../ui/parts.js";
import { Progress, State, StateIcon, word } from "../ui/state.js";

/** @type {Record<string, string>} */
const RULES = { all_success: "all must succeed", all_settled: "all must end", first: "the first success is enough", quorum: "so many must succeed" };
/** @type {Record<string, string>} */
const GROUPS = { OPEN: "CREATED", CLOSED: "RUNNING", ABANDONED: "STALLED" };
/** @type {Record<string, string>} */
const GROUP_WORDS = { OPEN: "open for more children", CLOSED: "under way", ABANDONED: "given up by the task" };
/** @type {Record<string, [string, string]>} */
const WAITS = { pending: ["WAITING", "waits"], settled: ["SUCCEEDED", "has happened"], timed_out: ["STALLED", "did not happen in time"], cancelled: ["CANCELLED", "no longer matters"] };

/** @param {{task: any}} props */
export function Children({ task }) {
  const on = (/** @type {any} */ e) => e.runId === task.runId && /^(task|group|wait|signal|round)\./.test(e.type);
  const groups = useResource(`groups ${task.taskId}`, (signal) => get(v1("tasks", task.taskId, "groups"), {}, signal), { on, everyMs: 500 });
  const children = useResource(`children ${task.taskId}`, (signal) => get(v1("tasks", task.taskId, "children"), { limit: 200 }, signal), { on, everyMs: 500 });
  const waits = useResource(`waits ${task.taskId}`, (signal) => get(v1("tasks", task.taskId, "waits"), { limit: 50 }, signal), { on, everyMs: 500 });
  const list = children.data?.children ?? [], all = waits.data?.waits ?? [], over = all.filter((/** @type {any} */ w) => w.state !== "pending");
  const key = (/** @type {string} */ id) => groups.data?.groups.find((/** @type {any} */ g) => g.groupId === id)?.groupKey ?? "";
  return html`${all.filter((/** @type {any} */ w) => w.state === "pending").map((/** @type {any} */ w) => html`<div key=${w.waitId} class="notice wait"><div><span>It waits for ${waited(w, key)}, since <${Ago} at=${w.createdAt} />.${w.dueAt && w.kind !== "timer" && html` It gives up <${Ago} at=${w.dueAt} />.`}</span></div>${w.kind === "signal" && html`<${Signal} task=${task} name=${w.signalName} />`}</div>`)}
    ${(groups.data?.groups ?? []).map((/** @type {any} */ g) => html`<section key=${g.groupId} class="section"><div class="section-head"><h2>${g.name ?? g.groupKey}</h2><${State} state=${GROUPS[g.status] ?? g.status} text=${GROUP_WORDS[g.status] ?? word(g.status).toLowerCase()} /><span class="muted">${g.joinRule === "quorum" ? `${g.quorum} must succeed` : RULES[g.joinRule] ?? g.joinRule}${g.maxChildren ? `, at most ${count(g.maxChildren, "child", "children")}` : ""}</span>${g.counts.total > 0 && html`<span class="group-bar"><${Progress} counts=${{ SUCCEEDED: g.counts.succeeded, FAILED: g.counts.failed, CANCELLED: g.counts.cancelled, RUNNING: g.counts.live }} /></span><span class="muted num">${g.counts.total - g.counts.live} of ${g.counts.total} ended</span>`}</div>
      <${Listed} task=${task} rows=${list.filter((/** @type {any} */ c) => c.groupId === g.groupId)} /></section>`)}
    <${Loaded} from=${children}>${() => { const alone = list.filter((/** @type {any} */ c) => !c.groupId); return list.length === 0 && !(groups.data?.groups.length) ? html`<${Empty} title="No children">A task with the grant to spawn makes other tasks while it runs; they are listed here and drawn in the run's map.<//>` : alone.length > 0 && html`<section class="section"><h2 class="lead">${groups.data?.groups.length ? "In no group" : "Children"}</h2><${Listed} task=${task} rows=${alone} /></section>`; }}<//>
    ${children.data?.nextCursor && html`<p class="muted hint">The first 200; all of them are in the run's table.</p>`}
    ${over.length > 0 && html`<section class="section"><h2 class="lead">What it waited for</h2><ul class="activity">${over.map((/** @type {any} */ w) => { const [state, words] = WAITS[w.state] ?? ["CREATED", w.state]; return html`<li key=${w.waitId}><${StateIcon} state=${w.verdict === "FAILED" ? "FAILED" : state} /><span>${capital(waited(w, key))} ${w.verdict ? word(w.verdict).toLowerCase() : words} <span class="muted">after <${Elapsed} from=${w.createdAt} to=${w.settledAt} /></span>${w.payload != null && html`<pre class="code-block" tabindex="0">${JSON.stringify(w.payload, null, 2)}</pre>`}</span><span class="muted"><${Ago} at=${w.settledAt} /></span></li>`; })}</ul>${waits.data.nextCursor && html`<p class="muted hint">The newest 50.</p>`}</section>`}`;
}

/** @param {{task: any, rows: any[]}} props */
function Listed({ task, rows }) {
  if (!rows.length) return html`<p class="muted">No child yet.</p>`;
  return html`<${Wide}><table class="plain-table"><thead><tr><th>Child</th><th>Status</th><th>Adapter</th><th class="end">Finished</th></tr></thead><tbody>${rows.map((c) => html`<tr key=${c.taskId}><td><${Link} data-row to=${to("runs", task.runKey, "tasks", c.taskKey)}>${c.title}<//>${c.title !== c.taskKey && html` <code class="muted">${c.taskKey}</code>`}${c.attempt > 1 && html` <small class="muted">attempt ${c.attempt}</small>`}${c.detached && html` <small class="muted">detached</small>`}${c.error && html`<div class="bad-text">${c.error.message}</div>`}</td><td><span class="state-line"><${StateIcon} state=${c.status} />${word(c.status)}</span></td><td class="muted">${c.adapter}</td><td class="end muted"><${Ago} at=${c.finishedAt} /></td></tr>`)}</tbody></table><//>`;
}

/** What is waited for. @param {any} wait @param {(id: string) => string} key */
function waited(wait, key) {
  if (wait.kind === "group") return ["the group ", html`<strong>${key(wait.groupId)}</strong>`];
  if (wait.kind === "signal") return ["the signal ", html`<strong>${wait.signalName}</strong>`];
  if (wait.kind === "timer") return [wait.settledAt ? "a time" : "a time: ", wait.settledAt ? null : html`<${Ago} at=${wait.dueAt} />`];
  if (wait.kind === "round") return ["a round of a live child"];
  if (wait.kind === "prompt") return ["a prompt of its parent"];
  return ["its children"];
}

/** @param {any[]} parts */
const capital = ([first, ...rest]) => [first[0].toUpperCase() + first.slice(1), ...rest];

/** Sends a task the signal that it waits for. @param {{task: any, name: string}} props */
function Signal({ task, name }) {
  const [open, setOpen] = useState(false), [text, setText] = useState(""), [error, setError] = useState(/** @type {any} */ (null)), [busy, setBusy] = useState(false);
  const send = async (/** @type {Event} */ event) => {
    event.preventDefault();
    setError(null);
    let payload = null;
    try { if (text.trim()) payload = JSON.parse(text); } catch { setError({ message: "this is no JSON", fix: 'write text in quotes: "like this"' }); return; }
    setBusy(true);
    try { await post(v1("tasks", task.taskId, "signals", name), payload === null ? {} : { payload }); setOpen(false); toast(`The signal ${name} is sent`); } catch (e) { setError(e); }
    setBusy(false);
  };
  return html`<button onClick=${() => setOpen(true)}>Send it</button>${open && html`<${Dialog} title=${`Send the signal ${name}`} onClose=${() => setOpen(false)}><form class="form" onSubmit=${send}>
    <div class="field"><label for="signal">What it carries, as JSON</label><textarea id="signal" rows="4" class="mono" value=${text} placeholder="nothing" onInput=${(/** @type {any} */ e) => setText(e.target.value)} /><small>The task goes on with it. It may be left empty.</small></div>
    ${error && html`<${Problem} error=${error} />`}
    <div class="dialog-actions"><button type="button" onClick=${() => setOpen(false)}>Cancel</button><button class="primary" disabled=${busy}>Send</button></div></form><//>`}`;
}

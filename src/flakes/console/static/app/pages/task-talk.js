// @ts-check
/** Talking with a running task: messages and what became of them, and the questions it asks. */
import { get, post, v1 } from "../api.js";
import { Link, to } from "../router.js";
import { html, useState } from "../lib.js";
import { useResource } from "../resource.js";
import { Ago } from "../time.js";
import { Empty, Loaded, Problem } from "../ui/parts.js";
import { State } from "../ui/state.js";
import { amount } from "./task-activity.js";

const LENGTH_MAX = 20_000;
/** @type {Record<string, string>} */
const ASKS = { follow_up: "Add information, or answer a question", steer: "Change direction: what should it do differently?", interrupt: "Stop what it does now, and say what comes instead" };
/** @type {Record<string, string>} */
const MODES = { follow_up: "Follow up", steer: "Steer", interrupt: "Interrupt" };
/** @type {Record<string, string>} */
const WHY_NOT = { QUEUED: "It is queued: a message needs an attempt that runs.", BLOCKED: "It waits for other tasks: a message needs an attempt that runs.", WAITING: "It has yielded and waits: a message needs an attempt that runs.", SAVED: "It is not admitted yet." };

/** @param {{task: any, most?: number}} props `most` of them are shown */
export function Messages({ task, most = 100 }) {
  const messages = useResource(`messages ${task.taskId}`, (signal) => get(v1("tasks", task.taskId, "messages"), { limit: 100 }, signal), { on: (e) => e.taskId === task.taskId && e.type.startsWith("message."), everyMs: 200 });
  return html`<${Composer} task=${task} onSent=${messages.reload} />
    <${Loaded} from=${messages}>${(/** @type {any} */ { messages: list }) => list.length ? html`<ol class="messages">${list.slice(0, most).map((/** @type {any} */ m) => html`<li key=${m.messageId} class="card card-body"><div class="message-head"><strong>${MODES[m.mode] ?? m.mode}</strong><${State} state=${m.state} text=${m.state} /><span class="spring" /><span class="muted"><${Ago} at=${m.createdAt} /></span></div><p class="message-text">${m.message}</p>${m.reason && html`<p class="muted">${m.reason}</p>`}</li>`)}</ol>` : most > 2 && html`<${Empty} title="No messages yet">A message reaches the agent while it runs; its delivery shows here.<//>`}<//>`;
}

/** @param {{task: any, onSent: () => void}} props */
export function Composer({ task, onSent }) {
  const [mode, setMode] = useState("follow_up");
  const [text, setText] = useState("");
  const [error, setError] = useState(/** @type {any} */ (null));
  const [busy, setBusy] = useState(false);
  const running = task.status === "RUNNING";
  const send = async () => {
    if (!text.trim() || busy || !running) return;
    setBusy(true);
    setError(null);
    try {
      await post(v1("tasks", task.taskId, "messages"), { mode, message: text.trim() });
      setText("");
      onSent();
    } catch (e) { setError(e); }
    setBusy(false);
  };
  return html`<form class="composer card" onSubmit=${(/** @type {Event} */ e) => { e.preventDefault(); send(); }}>
    ${error && html`<${Problem} error=${error} />`}
    <label class="sr" for="message">Message to the task</label>
    <textarea id="message" rows="3" maxlength=${LENGTH_MAX} disabled=${!running} placeholder=${running ? ASKS[mode] : WHY_NOT[task.status] ?? "It has ended: nobody would read a message."} value=${text} onInput=${(/** @type {any} */ e) => setText(e.target.value)} onKeyDown=${(/** @type {KeyboardEvent} */ e) => { if (e.key === "Enter" && (e.ctrlKey || e.metaKey)) { e.preventDefault(); send(); } }} />
    <div class="composer-foot"><div class="chips" role="group" aria-label="Kind of message">${[["follow_up", "Follow up"], ["steer", "Steer"], ["interrupt", "Interrupt"]].map(([key, word]) => html`<button key=${key} type="button" aria-pressed=${mode === key ? "true" : "false"} disabled=${!running} onClick=${() => setMode(key)}>${word}</button>`)}</div><span class="spring" />${text.length > LENGTH_MAX * 0.9 && html`<span class="muted num">${text.length} of ${LENGTH_MAX}</span>`}<button class="primary" disabled=${!running || busy || !text.trim()}>Send <kbd aria-hidden="true">Ctrl ⏎</kbd></button></div>
  </form>`;
}

/** A question of a task, and the two answers to it. @param {{permission: any, onAnswered: () => void, where?: boolean}} props */
export function Question({ permission, onAnswered, where }) {
  const [reason, setReason] = useState("");
  const [error, setError] = useState(/** @type {any} */ (null));
  const [busy, setBusy] = useState(false);
  const answer = async (/** @type {string} */ decision) => {
    setBusy(true);
    setError(null);
    try {
      await post(v1("tasks", permission.taskId, "permissions", permission.permissionRequestId, "respond"), { decision, ...(reason.trim() ? { reason: reason.trim() } : {}) });
      onAnswered();
    } catch (e) { setError(e); if (/** @type {any} */ (e).status === 409) setTimeout(onAnswered, 1_500); }
    setBusy(false);
  };
  const asked = permission.action === "extend" && permission.details?.budget ? permission.details : null;
  const details = !asked && Object.keys(permission.details ?? {}).length > 0;
  const id = `reason-${permission.permissionRequestId}`;
  return html`<article class="question card" aria-label="Permission request">
    <div class="question-head"><${State} state="pending" text=${asked ? "Asks for more of its budget" : "Asks for permission"} />${where && html`<${Link} to=${to("runs", permission.runKey, "tasks", permission.taskKey)}>${permission.runKey} / ${permission.taskKey}<//>`}<span class="spring" /><span class="muted"><${Ago} at=${permission.createdAt} /></span></div>
    <p class="question-prompt">${permission.prompt}</p>
    ${asked && html`<p><span class="spent"><span>${amount(asked.budget, asked.spent)} of ${amount(asked.budget, asked.limit)} ${asked.scope === "run" ? "of the whole run" : asked.scope === "tree" ? "of a task and what it made" : "of this task"}</span><span class="meter" role="img" aria-label=${`${Math.round((100 * asked.spent) / Math.max(1, asked.limit))} % of the budget`}><i class="tone-bad" style=${{ width: `${Math.min(100, (100 * asked.spent) / Math.max(1, asked.limit))}%` }} /></span></span></p><p class="muted">Approved, it may spend as much again as it was given at first. Denied, it ends as failed: the budget is exhausted.</p>`}
    ${permission.action && !asked && html`<pre class="question-action" tabindex="0">${permission.action}</pre>`}
    ${details && html`<details><summary>Details</summary><pre tabindex="0">${JSON.stringify(permission.details, null, 2)}</pre></details>`}
    ${permission.expiresAt && html`<p class="muted">Unanswered, it is ${permission.default} <${Ago} at=${permission.expiresAt} />.</p>`}
    ${error && html`<${Problem} error=${error} />`}
    <div class="question-foot"><label class="sr" for=${id}>Reason</label><input id=${id} maxlength="2000" placeholder="Reason, if there is one to give" value=${reason} onInput=${(/** @type {any} */ e) => setReason(e.target.value)} /><button class="danger" disabled=${busy} onClick=${() => answer("denied")}>Deny</button><button class="primary" disabled=${busy} onClick=${() => answer("approved")}>${asked ? "Allow as much again" : "Approve"}</button></div>
  </article>`;
}

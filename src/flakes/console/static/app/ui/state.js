// @ts-check
/** States as people see them: a colour, a shape of its own, and a word, so that no state is told by colour alone. */
import { cx, html } from "../lib.js";

const circle = (/** @type {any} */ inner, fill = "none") => html`<circle cx="8" cy="8" r="6.25" fill=${fill} stroke="currentColor" stroke-width="1.5" />${inner}`;
const onFill = { stroke: "var(--bg)", "stroke-width": "1.7", "stroke-linecap": "round", "stroke-linejoin": "round", fill: "none" };
const line = { stroke: "currentColor", "stroke-width": "1.5", "stroke-linecap": "round", "stroke-linejoin": "round", fill: "none" };

/** In the order in which they are told. @type {Record<string, {tone: string, word: string, icon: any}>} */
export const STATES = {
  FAILED: { tone: "bad", word: "Failed", icon: html`<path d="M5.4 1.5h5.2L14.5 5.4v5.2l-3.9 3.9H5.4L1.5 10.6V5.4z" fill="currentColor" /><path d="m5.8 5.8 4.4 4.4m0-4.4-4.4 4.4" ...${onFill} />` },
  STALLED: { tone: "warn", word: "Stalled", icon: html`<path d="M8 1.8 15 14H1z" fill="currentColor" stroke="currentColor" stroke-width="1" stroke-linejoin="round" /><path d="M8 6v3.7m0 2v.1" ...${onFill} />` },
  RUNNING: { tone: "run", word: "Running", icon: html`<circle cx="8" cy="8" r="6.25" fill="none" stroke="currentColor" stroke-width="1.5" opacity=".3" /><path d="M8 1.75A6.25 6.25 0 0 1 14.25 8" stroke="currentColor" stroke-width="2" stroke-linecap="round" fill="none" /><circle cx="8" cy="8" r="2.2" fill="currentColor" />` },
  WAITING: { tone: "wait", word: "Waiting", icon: circle(html`<path d="M6.3 5.7v4.6m3.4-4.6v4.6" ...${line} />`) },
  QUEUED: { tone: "queue", word: "Queued", icon: circle(html`<path d="M8 4.8V8l2.1 1.5" ...${line} />`) },
  BLOCKED: { tone: "dim", word: "Blocked", icon: html`<rect x="2.25" y="2.25" width="11.5" height="11.5" rx="2" fill="none" stroke="currentColor" stroke-width="1.5" /><path d="M5.5 8h5" ...${line} />` },
  SAVED: { tone: "dim", word: "Saved", icon: html`<circle cx="8" cy="8" r="6.25" fill="none" stroke="currentColor" stroke-width="1.5" stroke-dasharray="2.2 2.16" />` },
  CREATED: { tone: "dim", word: "Created", icon: html`<circle cx="8" cy="8" r="6.25" fill="none" stroke="currentColor" stroke-width="1.5" stroke-dasharray="2.2 2.16" />` },
  SUCCEEDED: { tone: "good", word: "Succeeded", icon: html`<circle cx="8" cy="8" r="7" fill="currentColor" /><path d="m5 8.3 2.1 2.1L11 6" ...${onFill} />` },
  CANCELLED: { tone: "dim", word: "Cancelled", icon: circle(html`<path d="m4 12 8-8" ...${line} />`) },
};

/** Statuses of tasks in the order of a progress bar. */
export const TASK_ORDER = ["SUCCEEDED", "RUNNING", "WAITING", "QUEUED", "BLOCKED", "SAVED", "CANCELLED", "FAILED"];

/** Other things have states too: attempts, hosts, sandboxes, requests, messages. @type {Record<string, string>} */
const ALIKE = {
  accepted: "RUNNING", running: "RUNNING", offered: "QUEUED", succeeded: "SUCCEEDED", failed: "FAILED", lost: "STALLED",
  cancelled: "CANCELLED", declined: "CANCELLED", yielded: "WAITING", online: "SUCCEEDED", offline: "CANCELLED",
  disabled: "CANCELLED", created: "CREATED", active: "SUCCEEDED", suspect: "STALLED", archived: "CANCELLED",
  pending: "WAITING", approved: "SUCCEEDED", denied: "FAILED", expired: "CANCELLED", queued: "QUEUED",
  delivered: "RUNNING", consumed: "SUCCEEDED", undeliverable: "FAILED", ready: "SUCCEEDED", available: "SUCCEEDED",
  unavailable: "STALLED", pending_launch: "QUEUED", launching: "QUEUED", draining: "WAITING", stopping: "WAITING",
  stopped: "CANCELLED", deleting: "WAITING", revoked: "CANCELLED",
  verifying: "RUNNING", resolving: "RUNNING", promoted: "SUCCEEDED", contained: "SUCCEEDED", selected: "SUCCEEDED",
  PROMPTED: "QUEUED", COMPLETED: "SUCCEEDED", conflict: "STALLED", unverified: "STALLED", kept: "CREATED", candidate: "CREATED",
};

/** @param {string} state */
export const look = (state) => STATES[state] ?? STATES[ALIKE[state]] ?? STATES.CREATED;
/** @param {string} state */
export const word = (state) => STATES[state]?.word ?? (/^[A-Z_]+$/.test(state) ? state[0] + state.slice(1).toLowerCase() : state).replaceAll("_", " ");

/** The sign of a state; with `label`, it also says it. @param {{state: string, label?: boolean, size?: number}} props */
export function StateIcon({ state, label = false, size = 16 }) {
  const { tone, icon } = look(state);
  return html`<svg class=${cx("state", `tone-${tone}`, tone === "run" && "spin")} width=${size} height=${size} viewBox="0 0 16 16" role=${label ? "img" : null} aria-label=${label ? word(state) : null} aria-hidden=${label ? null : "true"}>${icon}</svg>`;
}

/** Sign and word. @param {{state: string, text?: string}} props */
export function State({ state, text }) {
  return html`<span class=${cx("state-line", `tone-${look(state).tone}`)}><${StateIcon} state=${state} /><span>${text ?? word(state)}</span></span>`;
}

/** Which part of the tasks is where. @param {{counts: Record<string, number>, tall?: boolean}} props */
export function Progress({ counts, tall }) {
  const total = Object.values(counts).reduce((sum, n) => sum + n, 0);
  const done = (counts.SUCCEEDED ?? 0) + (counts.FAILED ?? 0) + (counts.CANCELLED ?? 0);
  const told = TASK_ORDER.filter((s) => counts[s]).map((s) => `${counts[s]} ${word(s).toLowerCase()}`).join(", ") || "no tasks";
  return html`<span class=${cx("progress", tall && "tall")} role="img" aria-label=${`${done} of ${total} tasks ended: ${told}`} title=${told}>
    ${TASK_ORDER.filter((s) => counts[s]).map((s) => html`<i key=${s} class=${`tone-${look(s).tone} part-${s}`} style=${{ width: `${(100 * counts[s]) / total}%` }} />`)}
  </span>`;
}

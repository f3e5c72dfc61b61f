// @ts-check
/** Why something does not go on, from stored facts, and what to do about it: one task, or a whole run. */
import { get, v1 } from "../api.js";
import { Link, to } from "../router.js";
import { count, html } from "../lib.js";
import { useResource } from "../resource.js";
import { Ago } from "../time.js";
import { inline, sentence } from "../ui/parts.js";
import { StateIcon } from "../ui/state.js";

/** What passes by itself. */
const PASSES = new Set(["capacity_saturated", "launch_in_flight", "offer_in_flight", "not_scheduled_yet", "dependency_pending", "wait_pending", "retry_backoff", "merge_pending", "running", "not_admitted"]);
const NAMED = 8, READ = 100;

/** @param {{explanation: any, runKey: string}} props */
export function Explain({ explanation, runKey }) {
  const { code, sentence: why, nextAction, evidence } = explanation;
  return html`<div class=${`notice ${PASSES.has(code) ? "info" : "warn"} explain`} role="status"><div><strong>${sentence(why)}</strong><span>Next: ${inline(nextAction)}.</span>
    ${evidence?.dependencies && html`<span class="chips">${Object.entries(evidence.dependencies).slice(0, 12).map(([key, state]) => html`<${Link} key=${key} class="dep" to=${to("runs", runKey, "tasks", key)}><${StateIcon} state=${state} size=${14} label />${key}<//>`)}</span>`}
    <details><summary class="muted">Evidence: <code>${code}</code></summary><dl class="facts">${Object.entries(evidence ?? {}).filter(([name, value]) => value !== null && name !== "dependencies").map(([name, value]) => html`<div key=${name}><dt>${spoken(name)}</dt><dd>${told(value)}</dd></div>`)}</dl></details></div></div>`;
}

/** `lastSandboxId` as words. @param {string} name */
const spoken = (name) => name.replace(/([A-Z])/g, " $1").toLowerCase();

/** A value of the evidence for people: moments, links to what it names, lists, and things with their parts. @param {any} value @returns {any} */
function told(value) {
  if (value === null || value === undefined) return "–";
  if (Array.isArray(value)) return value.length === 0 ? "none" : value.every((each) => typeof each !== "object") ? value.map((each, i) => [i > 0 && ", ", told(each)]) : html`<ul class="told">${value.map((each, i) => html`<li key=${i}>${told(each)}</li>`)}</ul>`;
  if (typeof value === "object") return Object.entries(value).filter(([, each]) => each !== null).map(([name, each], i) => html`<span key=${name} class="told-part">${i > 0 && "; "}<span class="muted">${spoken(name)}</span> ${told(each)}</span>`);
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (typeof value === "number") return value.toLocaleString("en");
  if (/^\d{4}-\d\d-\d\dT\d\d:/.test(value)) return html`<${Ago} at=${value} />`;
  if (/^sandbox_[0-9a-z]{20,}$/.test(value)) return html`<${Link} to=${to("sandboxes", value)}>…${value.slice(-8)}<//>`;
  if (/^host_[0-9a-z]{20,}$/.test(value)) return html`<${Link} to=${to("hosts", value)}>…${value.slice(-8)}<//>`;
  return value;
}

/**
 * Why a run stands still: its tasks that do not move, those with the same reason together. While others of it
 * run, only what does not pass by itself.
 * @param {{model: import("../run-model.js").RunModel}} props
 */
export function StandStill({ model }) {
  const run = model.run.value, waits = model.waits.value;
  const found = useResource(waits ? `still ${run.runId}` : null, (signal) => get(v1("runs", run.runId, "explanations"), { limit: READ }, signal), { on: (e) => e.runId === run.runId || /^(sandbox|host|binding)\./.test(e.type), everyMs: 1_000 });
  const tasks = (waits && found.data?.tasks) || [];
  const busy = model.busy.value;
  const groups = [...grouped(tasks.filter((/** @type {any} */ t) => !busy || !PASSES.has(t.explanation.code))).values()];
  if (!groups.length) return null;
  const worst = run.state === "STALLED" || groups.some((g) => !PASSES.has(g.explanation.code));
  return html`<section class=${`notice still ${worst ? "warn" : "info"}`} aria-label="What stands still"><div>
    <h2>${busy ? "What does not go on by itself" : run.state === "STALLED" ? "Why it cannot go on" : "Why nothing runs"}</h2>
    <ul>${groups.slice(0, NAMED).map(({ explanation: { code, sentence: why, nextAction }, tasks: list }) => html`<li key=${code + why}><span>${sentence(why)} <span class="muted">Next: ${code === "needs_input" ? html`<${Link} to="/inbox">answer it<//>` : inline(nextAction)}.</span></span>
      <span class="chips">${list.slice(0, NAMED).map((t) => html`<${Link} key=${t.taskId} class="dep" to=${to("runs", run.runKey, "tasks", t.taskKey)}><${StateIcon} state=${t.status} size=${14} label />${t.taskKey}<//>`)}${list.length > NAMED && html`<span class="muted">and ${count(list.length - NAMED, "more task")}</span>`}</span></li>`)}</ul>
    ${groups.length > NAMED && html`<span class="muted">And ${count(groups.length - NAMED, "other reason")}.</span>`}${found.data.nextCursor && html`<span class="muted">Told of the first ${READ} tasks; all of them: <code>flakes inspect ${run.runKey} --explain</code></span>`}</div></section>`;
}

/** @param {any[]} tasks @returns {Map<string, {explanation: any, tasks: any[]}>} */
function grouped(tasks) {
  const groups = new Map();
  for (const task of tasks) {
    const key = task.explanation.code + task.explanation.sentence;
    const group = groups.get(key);
    if (group) group.tasks.push(task);
    else groups.set(key, { explanation: task.explanation, tasks: [task] });
  }
  return groups;
}

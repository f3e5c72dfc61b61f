// @ts-check
/** One task: why it is where it is, what it is to do, what it says and leaves, and how to talk with it. */
import { get, post, v1 } from "../api.js";
import { Link, to } from "../router.js";
import { count, html, useRef } from "../lib.js";
import { ended } from "../reducer.js";
import { useResource } from "../resource.js";
import { useRun } from "../run-model.js";
import { Ago, Elapsed, duration } from "../time.js";
import { Confirm, Copy, Facts, Header, Markdown, Panel, Problem, Tabs, chosenTab, inline, toast } from "../ui/parts.js";
import { State, StateIcon, word } from "../ui/state.js";
import { Fate, TaskChanges } from "./changes.js";
import { Children } from "./task-children.js";
import { Explain } from "./explain.js";
import { Activity } from "./task-activity.js";
import { Log } from "./task-log.js";
import { ResultView } from "./task-result.js";
import { Rounds } from "./task-rounds.js";
import { Messages, Question } from "./task-talk.js";
import { Transcript } from "./task-transcript.js";
import { Workpad } from "./task-workpad.js";

/** @param {{run: string, task: string}} props */
export function Task({ run: runKey, task: taskKey }) {
  const model = useRun(runKey);
  // Why it is not running may change with anything that happens elsewhere.
  const waits = useRef(false);
  const detail = useResource(`task ${runKey} ${taskKey}`, (signal) => get(v1("runs", runKey, "tasks", taskKey), { explain: 1 }, signal), { on: (e) => (e.runId === model.run.value?.runId && e.taskKey === taskKey) || (waits.current && /^(task|sandbox|host)\./.test(e.type)), everyMs: 500 });
  const task = detail.data;
  waits.current = ["QUEUED", "BLOCKED", "WAITING"].includes(task?.status);
  const trail = [["Runs", "/runs"], [model.run.value?.name ?? runKey, to("runs", runKey)]];
  if (!task) return html`<${Header} trail=${trail} title=${detail.error ? taskKey : "…"} />${detail.error ? html`<${Problem} error=${detail.error} retry=${detail.reload} />` : html`<div class="loading" role="status" aria-label="Loading"><i /><i /><i /></div>`}`;
  return html`<${Loaded} task=${task} model=${model} trail=${trail} reload=${detail.reload} error=${detail.error} />`;
}

/** @param {any} props */
function Loaded({ task, model, trail, reload, error }) {
  const runKey = task.runKey, over = ended(task);
  // What is most telling when the page opens; it does not jump to another part by itself.
  const first = useRef(over ? "result" : task.status === "RUNNING" ? (task.adapter === "command" ? "log" : "transcript") : "brief").current;
  const tab = chosenTab("tab", first);
  const tasks = model.tasks.value, at = model.index.get(task.taskId);
  const beside = (/** @type {number} */ step) => (at === undefined ? null : tasks[at + step]);
  const pending = useResource(`permissions ${task.taskId}`, (signal) => get(v1("tasks", task.taskId, "permissions"), { limit: 20 }, signal), { on: (e) => e.taskId === task.taskId && e.type.startsWith("permission."), everyMs: 150 });
  const questions = (pending.data?.permissions ?? []).filter((/** @type {any} */ p) => p.status === "pending");
  const result = useResource(over ? `result ${task.taskId} ${task.status} ${task.attempt} ${task.finishedAt}` : null, (signal) => get(v1("tasks", task.taskId, "result"), {}, signal));
  const tabs = /** @type {[string, string, any?][]} */ ([["brief", "Brief"], ["transcript", "Transcript"], ["log", "Log"], ["result", "Result"], ...(model.run.value?.workspaceId ? [["changes", "Changes"]] : []), ["workpad", "Workpad", task.workpad?.version ? `v${task.workpad.version}` : null], ...(task.definition.liveRounds ? [["rounds", "Rounds"]] : []), ["children", "Children"], ["messages", "Messages"], ["activity", "Activity"]]);
  return html`
    <${Header} trail=${trail} title=${task.title} after=${html`<${State} state=${task.status} text=${task.cancelRequested && !over ? "Cancelling" : null} />`} actions=${html`
        ${[[-1, "←", "Previous task"], [1, "→", "Next task"]].map(([step, sign, text]) => { const next = beside(/** @type {number} */ (step)); return next && html`<${Link} class="button" to=${to("runs", runKey, "tasks", next.taskKey)} aria-label=${`${text}: ${next.title}`} title=${`${text}: ${next.title}`}>${sign}<//>`; })}
        ${(task.status === "FAILED" || task.status === "CANCELLED") && html`<button class="primary" onClick=${() => post(v1("tasks", task.taskId, "retry")).then(() => toast("It starts again"), (e) => toast(e.message, true))}>Try again</button>`}
        ${!over && html`<${Confirm} label="Cancel task" title="Cancel this task?" danger disabled=${task.cancelRequested} run=${async () => { await post(v1("tasks", task.taskId, "cancel"), { reason: "cancelled in the console" }); reload(); }}><p>${task.status === "RUNNING" ? "The agent is stopped; the task ends when its sandbox confirms that nothing of it is left." : "It will not run."} Tasks that depend on it follow their own policy.</p><//>`}`}>
      <div class="head-facts"><${Copy} text=${task.taskKey} label="task key" /><span>${task.adapter}</span>${task.status === "RUNNING" && html`<span>running for <${Elapsed} from=${task.startedAt} /></span>`}${over && task.startedAt && html`<span>took <${Elapsed} from=${task.startedAt} to=${task.finishedAt} /></span>`}${task.attempt > 1 && html`<span>attempt ${task.attempt}</span>`}${task.optional && html`<span>optional</span>`}${over && task.explanation?.code.startsWith("merge_") && html`<span class="fate">changes: <a href="?tab=changes"><${Fate} state=${task.explanation.evidence.state} /></a></span>`}</div>
    <//>
    ${error && html`<${Problem} error=${error} retry=${reload} />`}
    ${questions.map((/** @type {any} */ p) => html`<${Question} key=${p.permissionRequestId} permission=${p} onAnswered=${pending.reload} />`)}
    ${questions.length === 0 && task.status !== "RUNNING" && !over && task.explanation && html`<${Explain} explanation=${task.explanation} runKey=${runKey} />`}
    <div class="task-columns">
      <div class="task-main">
        <${Tabs} name="tab" label="Parts of the task" tabs=${tabs} first=${first} />
        <${Panel} name="tab" chosen=${tab}>
          ${tab === "brief" && html`<${Brief} task=${task} result=${result.data} />`}
          ${tab === "transcript" && html`<${Transcript} task=${task} reload=${reload} />${task.status === "RUNNING" && html`<div class="log-talk"><${Messages} task=${task} most=${2} /></div>`}`}
          ${tab === "log" && html`<${Log} task=${task} />${task.status === "RUNNING" && html`<div class="log-talk"><${Messages} task=${task} most=${2} /></div>`}`}
          ${tab === "result" && (over ? (result.data ? html`<${ResultView} result=${result.data} />` : result.error ? html`<${Problem} error=${result.error} />` : null) : html`<p class="muted">It has not ended yet.</p>`)}
          ${tab === "changes" && html`<${TaskChanges} task=${task} run=${model.run.value} />`}
          ${tab === "workpad" && html`<${Workpad} task=${task} />`}
          ${tab === "rounds" && html`<${Rounds} task=${task} />`}
          ${tab === "children" && html`<${Children} task=${task} />`}
          ${tab === "messages" && html`<${Messages} task=${task} />`}
          ${tab === "activity" && html`<${Activity} task=${task} />`}
        <//>
      </div>
      <aside class="task-side" aria-label="About the task"><${Side} task=${task} model=${model} /></aside>
    </div>`;
}

/** @param {{task: any, result: any}} props */
function Brief({ task, result }) {
  const d = task.definition, shell = d.input?.shell ?? d.input?.argv?.join(" "), source = d.adapter === "harness" ? d.input?.source : null;
  return html`
    ${d.bodyMarkdown ? html`<${Markdown} text=${d.bodyMarkdown} />` : !shell && !source && html`<p class="muted">It has no brief.</p>`}
    ${source && html`<${Module} input=${d.input} />`}
    ${shell && html`<section class="section"><h2>Command</h2><pre class="code-block" tabindex="0">${shell}</pre></section>`}
    ${(d.acceptance ?? []).length > 0 && html`<section class="section"><h2>Acceptance</h2><ul class="criteria">${d.acceptance.map((/** @type {string} */ text) => html`<li key=${text}>${text}</li>`)}</ul></section>`}
    ${(d.verify ?? []).length > 0 && html`<section class="section"><h2>Must pass</h2><ul class="criteria">${d.verify.map((/** @type {string} */ line) => { const proof = result?.evidence?.find((/** @type {any} */ e) => e.command === line); return html`<li key=${line}>${proof && html`<${StateIcon} state=${proof.passed ? "SUCCEEDED" : "FAILED"} label />`}<code>${line}</code></li>`; })}</ul></section>`}
    ${Object.keys(d.declaredOutputs ?? {}).length > 0 && html`<section class="section"><h2>Outputs to leave</h2><ul class="criteria">${Object.entries(d.declaredOutputs).map(([key, o]) => html`<li key=${key}><strong>${key}</strong><span class="muted">${/** @type {any} */ (o).kind}${/** @type {any} */ (o).required === false ? ", optional" : ""}</span></li>`)}</ul></section>`}
    <details class="section"><summary class="muted">Definition, as JSON</summary><pre class="code-block" tabindex="0">${JSON.stringify(d, null, 2)}</pre></details>`;
}

/** The module of a harness, what it is given, and the files that came along. @param {{input: any}} props */
function Module({ input }) {
  const given = input.args && Object.keys(input.args).length > 0, files = Object.entries(input.files ?? {});
  return html`<section class="section"><h2>Harness</h2>${given && html`<p class="muted">It is given:</p><pre class="code-block" tabindex="0">${JSON.stringify(input.args, null, 2)}</pre>`}
    ${[[input.harnessFile ?? "harness.py", input.source], ...files].map(([name, text], i) => html`<details key=${name} open=${i === 0}><summary class="muted"><code>${name}</code></summary><pre class="code-block" tabindex="0">${text}</pre></details>`)}</section>`;
}

/** Tokens and money, and how much of the budget that is. @param {{usage: any, budget: any}} props */
function Spent({ usage, budget }) {
  const total = usage.inputTotal + usage.output, n = (/** @type {number} */ x) => x.toLocaleString("en");
  const share = budget?.tokens ? total / budget.tokens : budget?.costMicroUsd && usage.costMicroUsd != null ? usage.costMicroUsd / budget.costMicroUsd : null;
  return html`<div class="spent"><span>${n(total)} tokens${usage.costMicroUsd != null && `, $${(usage.costMicroUsd / 1e6).toFixed(2)}`}</span>
    ${share != null && html`<span class="meter" role="img" aria-label=${`${Math.round(100 * share)} % of the budget`}><i class=${share > 0.9 ? "tone-bad" : "tone-run"} style=${{ width: `${Math.min(100, 100 * share)}%` }} /></span>`}
    <small class="muted">${n(usage.inputTotal)} in${usage.cachedRead ? `, ${n(usage.cachedRead)} of them cached` : ""}; ${n(usage.output)} out${usage.reasoning ? `, ${n(usage.reasoning)} of them reasoning` : ""}; ${count(usage.calls, "call")}</small></div>`;
}

/** @param {{task: any, model: import("../run-model.js").RunModel}} props */
function Side({ task, model }) {
  const d = task.definition, byKey = model.byKey.value, needs = task.dependsOn ?? [];
  const behind = model.tasks.value.filter((other) => other.dependsOn?.includes(task.taskKey));
  const budget = d.budget && [d.budget.tokens && `${d.budget.tokens.toLocaleString("en")} tokens`, d.budget.costMicroUsd && `$${(d.budget.costMicroUsd / 1e6).toFixed(2)}`, d.budget.children && count(d.budget.children, "child", "children"), d.budget.wallMs && duration(d.budget.wallMs)].filter(Boolean).join(", ");
  const list = (/** @type {string[]} */ keys) => html`<ul class="dep-list">${keys.slice(0, 30).map((key) => { const other = byKey.get(key); return html`<li key=${key}><${Link} class="dep" to=${to("runs", task.runKey, "tasks", key)} title=${other?.title}>${other && html`<${StateIcon} state=${other.status} size=${14} label />`}<span class="ellipsis">${key}</span><//></li>`; })}${keys.length > 30 && html`<li class="muted">and ${keys.length - 30} more</li>`}</ul>`;
  return html`
    <${Facts} rows=${[["Adapter", task.adapter], ["Model", d.model], ["Effort", d.effort], ["Sandbox", task.sandboxId && html`<${Link} to=${to("sandboxes", task.sandboxId)} class="ellipsis" title=${task.sandboxId}>…${task.sandboxId.slice(-8)}<//>`], ["Queued", task.queuedAt && html`<${Ago} at=${task.queuedAt} />`], ["Accepted", task.startedAt && html`<${Ago} at=${task.startedAt} />`], ["Finished", task.finishedAt && html`<${Ago} at=${task.finishedAt} />`], ["Next attempt", task.nextAttemptAt && html`<${Ago} at=${task.nextAttemptAt} />`], ["Priority", task.priority || null], ["Timeout", d.timeoutS && duration(d.timeoutS * 1_000)], ["Retries", d.retry?.maxAttempts > 1 ? `up to ${d.retry.maxAttempts} attempts` : null], ["Needs", (d.requiredCapabilities ?? []).join(", ")], ["Grants", (d.toolGrants ?? []).join(", ")], ["Budget", budget], ["Spent", task.usage && html`<${Spent} usage=${task.usage} budget=${d.budget} />`], ["Permissions", d.permissionMode], ["Id", html`<${Copy} text=${task.taskId} shown=${`…${task.taskId.slice(-10)}`} label="task id" />`]]} />
    ${task.parentTaskKey && html`<section><h2>Made by</h2>${list([task.parentTaskKey])}</section>`}
    ${needs.length > 0 && html`<section><h2>Depends on</h2>${list(needs)}</section>`}
    ${behind.length > 0 && html`<section><h2>Needed by</h2>${list(behind.map((t) => t.taskKey))}</section>`}
    ${(task.attempts ?? []).length > 0 && html`<section><h2>Attempts</h2><ol class="attempts">${[...task.attempts].reverse().map((/** @type {any} */ a) => html`<li key=${a.assignmentId}><${StateIcon} state=${a.state} label /><div><div>${a.attempt}. ${word(a.state)}${a.acceptedAt && html` <span class="muted">${a.endedAt ? "after" : "for"} <${Elapsed} from=${a.acceptedAt} to=${a.endedAt} /></span>`}</div><small class="muted">on <${Link} to=${to("sandboxes", a.sandboxId)}>…${a.sandboxId.slice(-8)}<//>, <${Ago} at=${a.offeredAt} /></small>${a.reason && html`<small class="attempt-reason">${inline(a.reason)}</small>`}</div></li>`)}</ol></section>`}`;
}

// @ts-check
/** What a task left behind: its words, what was verified, its outputs. */
import { v1 } from "../api.js";
import { html } from "../lib.js";
import { duration } from "../time.js";
import { Markdown, bytes, inline, sentence } from "../ui/parts.js";
import { StateIcon } from "../ui/state.js";

/** @param {{result: any}} props */
export function ResultView({ result }) {
  const outputs = Object.entries(result.outputs ?? {});
  return html`
    ${result.error && html`<div class="notice bad"><div><strong>${inline(sentence(result.error.message))}</strong><span class="muted">${result.error.code.replaceAll("_", " ")}${result.error.exitCode != null ? `, exit code ${result.error.exitCode}` : ""}</span></div></div>`}
    ${result.text ? html`<${Markdown} text=${result.text} />` : !result.error && html`<p class="muted">It left no words.</p>`}
    ${(result.evidence ?? []).length > 0 && html`<section class="evidence"><h2>${result.verified ? "Verified" : "Not verified"}</h2>
      ${result.evidence.map((/** @type {any} */ e, /** @type {number} */ i) => html`<details key=${i} open=${!e.passed}><summary><${StateIcon} state=${e.passed ? "SUCCEEDED" : "FAILED"} label /><code>${e.command}</code><span class="muted num">${e.passed ? "passed" : `exit code ${e.exitCode}`} in ${duration(e.durationMs)}</span></summary>${e.tail && html`<pre tabindex="0">${e.tail}</pre>`}</details>`)}</section>`}
    ${(result.warnings ?? []).length > 0 && html`<section class="evidence"><h2>Warnings</h2>${result.warnings.map((/** @type {any} */ w, /** @type {number} */ i) => html`<p key=${i} class="warning"><${StateIcon} state="STALLED" label size=${14} /><span>${w.output && html`<strong>${w.output}</strong>: `}${inline(sentence(w.message))}</span></p>`)}</section>`}
    ${result.verified == null && result.status === "SUCCEEDED" && html`<p class="muted">Claimed by the task; nothing was verified.</p>`}
    ${outputs.length > 0 && html`<section class="evidence"><h2>Outputs</h2>${outputs.map(([key, output]) => html`<details key=${key}><summary><strong>${key}</strong><span class="muted">${output.kind}, ${bytes(output.sizeBytes)}</span><span class="spring" />${output.workspaceId && html`<a href=${`?tab=changes&of=${output.workspaceId}`}>What changed</a>`}<a href=${v1("tasks", result.taskId, "outputs", key)} download=${key}>Download<span class="sr"> ${key}</span></a></summary>${output.text != null ? html`<pre tabindex="0">${output.text}</pre>` : html`<p class="muted">Too large to show here.</p>`}</details>`)}</section>`}`;
}

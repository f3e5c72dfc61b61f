// @ts-check
/** What a run leaves behind: results of tasks, artifacts and outputs, and the files that are reserved now. */
import { get, v1 } from "../api.js";
import { Link, to } from "../router.js";
import { html, useState } from "../lib.js";
import { ended } from "../reducer.js";
import { useResource } from "../resource.js";
import { Ago } from "../time.js";
import { Empty, Loaded, Wide, bytes } from "../ui/parts.js";
import { StateIcon, word } from "../ui/state.js";
import { ResultView } from "./task-result.js";

const SHOWN = 200;

/** @param {{model: import("../run-model.js").RunModel}} props */
export function Results({ model }) {
  const run = model.run.value, tasks = model.tasks.value;
  const needed = new Set(tasks.flatMap((task) => task.dependsOn ?? []));
  const over = tasks.filter(ended);
  if (!over.length) return html`<${Empty} title="No results yet">A task's result is here as soon as it ends.<//>`;
  const rank = (/** @type {any} */ task) => (task.status === "FAILED" ? 0 : needed.has(task.taskKey) ? 2 : 1);
  const sorted = [...over].sort((a, b) => rank(a) - rank(b) || Date.parse(b.finishedAt ?? 0) - Date.parse(a.finishedAt ?? 0));
  return html`<p class="muted lead">Failures first, then what nothing else depends on.</p>
    <div class="results">${sorted.slice(0, SHOWN).map((task, i) => html`<${Result} key=${task.taskId} task=${task} run=${run} open=${i < 3} />`)}</div>
    ${sorted.length > SHOWN && html`<p class="muted">And ${(sorted.length - SHOWN).toLocaleString("en")} more: open them from the table of tasks.</p>`}`;
}

/** @param {{task: any, run: any, open: boolean}} props */
function Result({ task, run, open: first }) {
  const [open, setOpen] = useState(first);
  const result = useResource(open ? `result ${task.taskId} ${task.attempt} ${task.status}` : null, (signal) => get(v1("tasks", task.taskId, "result"), {}, signal));
  return html`<details class="card result" open=${open} onToggle=${(/** @type {any} */ e) => setOpen(e.currentTarget.open)}>
    <summary><${StateIcon} state=${task.status} label /><strong class="ellipsis">${task.title}</strong><code class="muted">${task.taskKey}</code><span class="spring" /><${Ago} at=${task.finishedAt} /></summary>
    <div class="card-body">${open && html`<${Loaded} from=${result}>${(/** @type {any} */ r) => html`<${ResultView} result=${r} />`}<//>`}<p class="result-link"><${Link} to=${to("runs", run.runKey, "tasks", task.taskKey)}>Open the task<//></p></div>
  </details>`;
}

/** @param {{run: any}} props */
export function Artifacts({ run }) {
  const mine = (/** @type {any} */ e) => e.runId === run.runId && (e.type.startsWith("artifact.") || e.type.startsWith("task.succeeded"));
  const artifacts = useResource(`artifacts ${run.runId}`, (signal) => get(v1("runs", run.runId, "artifacts"), { limit: 200 }, signal), { on: mine, everyMs: 1_000 });
  const outputs = useResource(`outputs ${run.runId}`, (signal) => get(v1("runs", run.runId, "outputs"), { limit: 200 }, signal), { on: mine, everyMs: 1_000 });
  return html`<section class="section"><h2 class="lead">Outputs of tasks</h2><${Loaded} from=${outputs}>${(/** @type {any} */ { outputs: list, nextCursor }) => list.length ? html`<${Wide}><table class="plain-table"><thead><tr><th>Output</th><th>Task</th><th>Kind</th><th class="end">Size</th><th><span class="sr">Actions</span></th></tr></thead><tbody>
      ${list.map((/** @type {any} */ o) => html`<tr key=${o.taskId + o.outputKey}><td><strong>${o.outputKey}</strong></td><td><${Link} to=${to("runs", run.runKey, "tasks", o.taskKey)}>${o.taskKey}<//></td><td class="muted">${o.kind}</td><td class="end num">${bytes(o.sizeBytes)}</td><td class="end"><a href=${v1("tasks", o.taskId, "outputs", o.outputKey)} download=${`${o.taskKey}-${o.outputKey}`}>Download<span class="sr"> ${o.outputKey} of ${o.taskKey}</span></a></td></tr>`)}
      </tbody></table><//>${nextCursor && html`<p class="muted">The first 200. All of them: <code>flakes artifacts list ${run.runKey}</code></p>`}` : html`<${Empty} title="No outputs">A task that declares outputs leaves them here when it ends.<//>`}<//></section>
    <section class="section"><h2 class="lead">Artifacts</h2><${Loaded} from=${artifacts}>${(/** @type {any} */ { artifacts: list }) => list.length ? html`<${Wide}><table class="plain-table"><thead><tr><th>Artifact</th><th>Kind</th><th>State</th><th>Created</th><th class="end">Size</th><th><span class="sr">Actions</span></th></tr></thead><tbody>
      ${list.map((/** @type {any} */ a) => html`<tr key=${a.artifactId}><td><strong>${a.name ?? a.artifactId}</strong></td><td class="muted">${a.kind}</td><td>${word(a.state)}</td><td><${Ago} at=${a.createdAt} /></td><td class="end num">${bytes(a.sizeBytes)}</td><td class="end">${a.state === "ready" && html`<a href=${v1("artifacts", a.artifactId, "fetch")} download=${a.name ?? a.artifactId}>Download<span class="sr"> ${a.name ?? a.artifactId}</span></a>`}</td></tr>`)}
      </tbody></table><//>` : html`<${Empty} title="No artifacts">Files that somebody uploads for this run are here: <code>flakes artifacts upload</code><//>`}<//></section>`;
}

/** @param {{run: any}} props */
export function Files({ run }) {
  const files = useResource(`files ${run.runId}`, (signal) => get(v1("runs", run.runId, "file-reservations"), { limit: 200 }, signal), { on: (e) => e.runId === run.runId && e.type.startsWith("files.") });
  return html`<${Loaded} from=${files}>${(/** @type {any} */ { reservations: list }) => list.length ? html`<${Wide}><table class="plain-table"><thead><tr><th>Path</th><th>Task</th><th>Why</th><th>Since</th></tr></thead><tbody>
    ${list.map((/** @type {any} */ r) => html`<tr key=${r.path + r.taskKey}><td><code>${r.path}${r.kind === "prefix" ? "/…" : ""}</code></td><td><${Link} to=${to("runs", run.runKey, "tasks", r.taskKey)}>${r.taskKey}<//></td><td class="muted">${r.reason ?? "–"}</td><td><${Ago} at=${r.createdAt} /></td></tr>`)}
  </tbody></table><//>` : html`<${Empty} title="No files are reserved">A task that says which files it is about to change is listed here while it runs.<//>`}<//>`;
}

// @ts-check
/** A new run: one task from a prompt, or a workflow file that is checked and drawn while it is written. */
import { ApiError, get, post, put, v1 } from "../api.js";
import { navigate, place, setQuery, to } from "../router.js";
import { count, html, useEffect, useRef, useState } from "../lib.js";
import { useResource } from "../resource.js";
import { Field, Header, Panel, Problem, Tabs, chosenTab, inline } from "../ui/parts.js";
import { Map as Picture } from "./run-map.js";

const KEEP = "flakes.new-run";
const EXAMPLE = `+++
project = "default"
adapter = "command"
+++

# Check the site

## fetch: Fetch the pages
run: echo fetched

Fetch every page of the site.

## links: Check the links
depends_on: fetch
run: echo no broken links

## spelling: Check the spelling
depends_on: fetch
run: echo no mistakes

## report: Write the report
depends_on: links, spelling
run: echo done
`;

function kept() { try { return JSON.parse(localStorage.getItem(KEEP) ?? "{}"); } catch { return {}; } }

export function NewRun() {
  const kind = chosenTab("kind", "prompt");
  const from = place.value.query.get("from");
  const projects = useResource("projects", (signal) => get("/v1/projects", { limit: 200 }, signal), { on: (e) => e.type.startsWith("project.") });
  const adapters = useResource("adapters", async (signal) => [...new Set((await get("/v1/sandboxes", { limit: 200 }, signal)).sandboxes.flatMap((/** @type {any} */ s) => s.adapters))].sort(), {});
  const [form, setForm] = useState(/** @type {any} */ (() => ({ prompt: "", adapter: "command", project: "default", name: "", text: EXAMPLE, ...kept() })));
  const [error, setError] = useState(/** @type {any} */ (null));
  const [busy, setBusy] = useState(false);
  const set = (/** @type {any} */ changes) => setForm((/** @type {any} */ f) => { const next = { ...f, ...changes }; try { localStorage.setItem(KEEP, JSON.stringify({ text: next.text, prompt: next.prompt, adapter: next.adapter, project: next.project })); } catch { /* this page keeps it */ } return next; });
  const checked = useCheck(kind === "file" ? form.text : null, form.adapter);
  const source = useSource(from);
  const ready = from ? source.tasks : kind === "prompt" ? form.prompt.trim() : checked?.ok;

  const start = async () => {
    setBusy(true);
    setError(null);
    try {
      const plan = from ? { tasks: source.tasks, name: source.run.name, project: source.run.projectKey } : kind === "prompt" ? fromPrompt(form) : { tasks: checked.tasks, name: checked.name ?? "Run", project: checked.projectKey ?? form.project, runKey: checked.runKey, budget: checked.budget };
      await ensure(plan.project);
      const runKey = plan.runKey ?? freshKey(plan.name);
      const answer = await post(v1("runs", runKey, "graph"), { name: form.name.trim() || plan.name, projectKey: plan.project, tasks: plan.tasks, close: true, ...(plan.budget ? { budget: plan.budget } : {}) });
      if (!from) set({ prompt: "" });
      navigate(to("runs", answer.run.runKey));
    } catch (e) { setError(e); }
    setBusy(false);
  };
  const keys = (/** @type {KeyboardEvent} */ e) => { if (e.key === "Enter" && (e.ctrlKey || e.metaKey) && ready) { e.preventDefault(); start(); } };
  const known = projects.data?.projects.filter((/** @type {any} */ p) => p.status === "active") ?? [];
  const fields = html`<div class="form-row">
      ${kind === "prompt" && !from && html`<${Field} label="Agent" id="adapter" hint=${form.adapter === "command" ? "Runs the text as a command line" : null}><input id="adapter" list="adapters" value=${form.adapter} onInput=${(/** @type {any} */ e) => set({ adapter: e.target.value })} /><datalist id="adapters">${(adapters.data ?? []).map((/** @type {string} */ a) => html`<option key=${a} value=${a} />`)}</datalist><//>`}
      ${!from && html`<${Field} label="Project" id="project" hint=${kind === "file" && checked?.projectKey ? "The file names its own" : known.some((/** @type {any} */ p) => p.projectKey === form.project) ? null : "It is made when it is missing"}><input id="project" list="projects" disabled=${kind === "file" && Boolean(checked?.projectKey)} value=${(kind === "file" && checked?.projectKey) || form.project} onInput=${(/** @type {any} */ e) => set({ project: e.target.value })} /><datalist id="projects">${known.map((/** @type {any} */ p) => html`<option key=${p.projectKey} value=${p.projectKey}>${p.name}</option>`)}</datalist><//>`}
      <${Field} label="Name" id="name"><input id="name" maxlength="200" value=${form.name} placeholder=${from ? source.run?.name ?? "" : kind === "prompt" ? titleOf(form.prompt) : checked?.name ?? ""} onInput=${(/** @type {any} */ e) => set({ name: e.target.value })} /><//>
    </div>`;
  const foot = html`${error && html`<${Problem} error=${error} />`}<div class="form-foot"><button class="primary" disabled=${!ready || busy} onClick=${start}>Start the run <kbd aria-hidden="true">Ctrl ⏎</kbd></button>${kind === "file" && !from && checked?.ok && html`<span class="muted">${count(checked.tasks.length, "task")}</span>`}</div>`;
  if (from) {
    return html`<${Header} trail=${[["Runs", "/runs"], [from, to("runs", from)]]} title="A run like this one" /><div class="form" onKeyDown=${keys}>
      ${source.error ? html`<${Problem} error=${source.error} />` : html`<p class="muted">${source.tasks ? `${count(source.tasks.length, "task")} with the same definitions, all of them from the beginning.` : "Reading the tasks…"} <button class="quiet" onClick=${() => setQuery({ from: null })}>Start something else</button></p>`}${fields}${foot}</div>`;
  }
  return html`<${Header} trail=${[["Runs", "/runs"]]} title="New run" />
    <div onKeyDown=${keys}><${Tabs} name="kind" label="What the run is made from" tabs=${[["prompt", "Prompt"], ["file", "Workflow file"]]} />
    <${Panel} name="kind" chosen=${kind}>
      ${kind === "prompt" ? html`<div class="form"><${Field} label=${form.adapter === "command" ? "Command line" : "What is to be done?"} id="prompt"><textarea id="prompt" rows="7" class=${form.adapter === "command" ? "mono" : ""} value=${form.prompt} onInput=${(/** @type {any} */ e) => set({ prompt: e.target.value })} /><//>${fields}${foot}</div>`
      : html`<div class="file-columns"><div class="form">
          <${Editor} text=${form.text} problems=${checked?.problems ?? []} onInput=${(/** @type {string} */ text) => set({ text })} />
          ${fields}${foot}</div>
        <div class="file-side"><${Checked} checked=${checked} /></div></div>`}
    <//></div>`;
}

/** @param {any} props */
function Editor({ text, problems, onInput }) {
  const numbers = useRef(/** @type {HTMLDivElement | null} */ (null));
  const lines = text.split("\n").length, bad = new Set(problems.map((/** @type {any} */ p) => p.line));
  const take = async (/** @type {any} */ file) => { if (file) onInput(await file.text()); };
  return html`<${Field} label=${html`Workflow file <label class="file-pick">open a file<input type="file" accept=".md,.markdown,text/markdown" class="sr" onChange=${(/** @type {any} */ e) => take(e.target.files[0])} /></label>`} id="file">
    <div class="code-editor" onDragOver=${(/** @type {Event} */ e) => e.preventDefault()} onDrop=${(/** @type {DragEvent} */ e) => { e.preventDefault(); take(e.dataTransfer?.files[0]); }}>
      <div class="line-numbers" ref=${numbers} aria-hidden="true">${Array.from({ length: lines }, (_, i) => html`<span key=${i} class=${bad.has(i + 1) ? "bad" : ""}>${i + 1}</span>`)}</div>
      <textarea id="file" class="mono" spellcheck="false" wrap="off" value=${text} aria-invalid=${problems.length ? "true" : null} aria-describedby="problems" onInput=${(/** @type {any} */ e) => onInput(e.target.value)} onScroll=${(/** @type {any} */ e) => { if (numbers.current) numbers.current.scrollTop = e.target.scrollTop; }} /></div><//>`;
}

/** @param {{checked: any}} props */
function Checked({ checked }) {
  if (!checked) return html`<div id="problems" class="muted">Checking…</div>`;
  if (checked.failed) return html`<div id="problems"><${Problem} error=${checked.failed} /></div>`;
  const go = (/** @type {number} */ line) => { const area = /** @type {HTMLTextAreaElement} */ (document.getElementById("file")); const lines = area.value.split("\n"), at = lines.slice(0, line - 1).join("\n").length + (line > 1 ? 1 : 0); area.focus(); area.setSelectionRange(at, at + (lines[line - 1]?.length ?? 0)); };
  if (!checked.ok) return html`<div id="problems" role="status"><h2 class="lead">${count(checked.problems.length, "problem")}</h2><ol class="problems">${checked.problems.map((/** @type {any} */ p, /** @type {number} */ i) => html`<li key=${i}><button class="quiet" onClick=${() => go(p.line)}>line ${p.line}</button><div>${inline(p.message)}<small class="muted">${inline(p.fix)}</small></div></li>`)}</ol></div>`;
  const tasks = checked.tasks.map((/** @type {any} */ t) => ({ ...t, status: "SAVED" }));
  return html`<div id="problems" role="status"><h2 class="lead">No problems</h2><${Picture} layout=${checked.layout} tasks=${tasks} runKey="" whole link=${false} /></div>`;
}

/** The check of a text, once the typing pauses. @param {string | null} text @param {string} adapter */
function useCheck(text, adapter) {
  const [state, setState] = useState(/** @type {any} */ (null));
  useEffect(() => {
    if (text === null) return;
    let gone = false;
    const timer = setTimeout(async () => {
      try {
        const checked = await post("/v1/workflows/check", { text, adapter: adapter || null });
        if (!gone) setState({ problems: [], tasks: [], ...checked });
      } catch (failed) { if (!gone) setState({ ok: false, problems: [], tasks: [], failed }); }
    }, 180);
    return () => { gone = true; clearTimeout(timer); };
  }, [text, adapter]);
  return state;
}

/** The definitions of the tasks of another run. @param {string | null} from */
function useSource(from) {
  const [state, setState] = useState(/** @type {any} */ ({}));
  useEffect(() => {
    if (!from) return;
    (async () => {
      try {
        const run = await get(v1("runs", from));
        const { tasks } = await get(v1("runs", from, "tasks"), { limit: 500 });
        if (Object.values(run.taskCounts).reduce((/** @type {number} */ a, /** @type {any} */ b) => a + b, 0) > tasks.length) throw new ApiError(400, { error: "limit_exceeded", message: "runs of more than 500 tasks are not copied here", fix: "submit its workflow file again with `flakes run`" });
        const definitions = [];
        for (let i = 0; i < tasks.length; i += 12) definitions.push(...(await Promise.all(tasks.slice(i, i + 12).map((/** @type {any} */ t) => get(v1("tasks", t.taskId))))).map((t) => ({ ...t.definition, taskKey: t.taskKey, ...(t.dependsOn?.length ? { dependsOn: t.dependsOn } : {}) })));
        setState({ run, tasks: definitions });
      } catch (error) { setState({ error }); }
    })();
  }, [from]);
  return state;
}

/** @param {string} project */
async function ensure(project) {
  try { await get(v1("projects", project)); } catch (error) {
    if (/** @type {any} */ (error).status !== 404) throw error;
    await put(v1("projects", project), { name: project });
  }
}

/** @param {string} prompt */
const titleOf = (prompt) => { const line = prompt.trim().split("\n")[0]; return line.length > 72 ? line.slice(0, 71) + "…" : line; };
/** @param {any} form */
function fromPrompt({ prompt, adapter, project }) {
  const title = titleOf(prompt), command = adapter === "command";
  return { name: title, project, tasks: [{ taskKey: "task", title, adapter, ...(command ? { input: { shell: prompt } } : { bodyMarkdown: prompt }) }] };
}
/** A key that this second has for itself. @param {string} name */
function freshKey(name) {
  const stem = name.toLowerCase().normalize("NFKD").replace(/[^a-z0-9]+/g, "-").split("-").filter(Boolean).slice(0, 5).join("-").slice(0, 52).replace(/-+$/, "");
  return `${stem || "run"}-${Math.floor(Date.now() / 100).toString(36).slice(-7)}`;
}

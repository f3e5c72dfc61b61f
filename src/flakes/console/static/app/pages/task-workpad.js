// @ts-check
/**
 * The workpad: read, edited with a preview, saved from a version. Whoever was quicker loses nothing, and nor
 * do we: another version is merged, and what both changed is shown side by side. Unsaved text survives the tab.
 */
import { get, put, v1 } from "../api.js";
import { html, useEffect, useRef, useState } from "../lib.js";
import { merge } from "../merge.js";
import { useResource } from "../resource.js";
import { Ago } from "../time.js";
import { Empty, Loaded, Markdown, Problem, toast } from "../ui/parts.js";

/** @typedef {{base: number, baseText: string, text: string, at?: number}} Draft */

const PREFIX = "flakes.workpad.";
/** This tab, also after it is loaded again: every tab keeps a draft of its own. */
const TAB = (() => { try { const known = sessionStorage.getItem("flakes.tab") ?? Math.random().toString(36).slice(2); sessionStorage.setItem("flakes.tab", known); return known; } catch { return "only"; } })();
const draftKey = (/** @type {string} */ taskId) => `${PREFIX}${taskId}.${TAB}`;
/** @param {string} key @returns {Draft | null} */
function readDraft(key) { try { return JSON.parse(localStorage.getItem(key) ?? "null"); } catch { return null; } }
/** @param {string} taskId @param {Draft | null} draft */
function keepDraft(taskId, draft) { try { draft ? localStorage.setItem(draftKey(taskId), JSON.stringify({ ...draft, at: Date.now() })) : localStorage.removeItem(draftKey(taskId)); } catch { /* no room: the text stays in the page */ } }
/** Keys of what other tabs have not saved. @param {string} taskId */
function otherDrafts(taskId) { try { return Object.keys(localStorage).filter((key) => key.startsWith(`${PREFIX}${taskId}.`) && key !== draftKey(taskId)); } catch { return []; } }

/** @param {{task: any}} props */
export function Workpad({ task }) {
  const pad = useResource(`workpad ${task.taskId}`, (signal) => get(v1("tasks", task.taskId, "workpad"), {}, signal), { on: (e) => e.taskId === task.taskId && e.type === "workpad.updated", everyMs: 150 });
  return html`<${Loaded} from=${pad}>${(/** @type {any} */ current) => html`<${Editor} task=${task} current=${current} onSaved=${pad.set} />`}<//>`;
}

/** @param {{task: any, current: any, onSaved: (pad: any) => void}} props */
function Editor({ task, current, onSaved }) {
  // While editing: the version that the text was made from, and the text.
  const [draft, setDraft] = useState(() => readDraft(draftKey(task.taskId)));
  const [others, setOthers] = useState(() => otherDrafts(task.taskId));
  const [conflict, setConflict] = useState(/** @type {any} */ (null));
  const [error, setError] = useState(/** @type {any} */ (null));
  const [busy, setBusy] = useState(false);
  const area = useRef(/** @type {HTMLTextAreaElement | null} */ (null));
  const change = (/** @type {any} */ next) => { setDraft(next); keepDraft(task.taskId, next); };
  const edit = () => { change({ base: current.version, baseText: current.bodyMarkdown, text: current.bodyMarkdown }); setTimeout(() => area.current?.focus()); };
  const take = (/** @type {string} */ key) => { const found = readDraft(key); if (found) change(found); drop(key); };
  const drop = (/** @type {string} */ key) => { localStorage.removeItem(key); setOthers(otherDrafts(task.taskId)); };
  const stop = () => { change(null); setConflict(null); setError(null); };

  const meet = (/** @type {any} */ theirs) => {
    if (!draft) return;
    const parts = merge(draft.baseText, draft.text, theirs.bodyMarkdown);
    if (parts.every((part) => "text" in part)) {
      change({ base: theirs.version, baseText: theirs.bodyMarkdown, text: parts.map((part) => /** @type {any} */ (part).text).join("") });
      toast(`Merged with version ${theirs.version}`);
    } else setConflict({ parts, theirs });
  };
  const save = async () => {
    if (!draft || busy) return;
    setBusy(true);
    setError(null);
    try {
      const saved = await put(v1("tasks", task.taskId, "workpad"), { bodyMarkdown: draft.text, baseVersion: draft.base });
      stop();
      onSaved(saved);
      toast(`Saved as version ${saved.version}`);
    } catch (e) {
      if (/** @type {any} */ (e).code === "workpad_version_conflict") meet(/** @type {any} */ (e).body.current);
      else setError(e);
    }
    setBusy(false);
  };
  const keys = (/** @type {KeyboardEvent} */ e) => { if (e.key === "Enter" && (e.ctrlKey || e.metaKey)) { e.preventDefault(); save(); } };

  if (conflict && draft) return html`<${Conflict} conflict=${conflict} version=${draft.base} onDone=${(/** @type {string} */ text) => { change({ base: conflict.theirs.version, baseText: conflict.theirs.bodyMarkdown, text }); setConflict(null); }} onBack=${() => setConflict(null)} />`;
  if (!draft) {
    return html`<div class="section-head"><span class="muted">${current.version ? html`Version ${current.version}, <${Ago} at=${current.updatedAt} />, by ${current.author?.kind === "user" ? "a person" : "the task"}` : "Never written"}</span><span class="spring" /><${Versions} task=${task} current=${current} /><button onClick=${edit}>Edit</button></div>
      ${others.map((key) => ({ key, draft: readDraft(key) })).filter((other) => other.draft).map(({ key, draft: other }) => html`<div key=${key} class="notice wait"><div><strong>Another tab has text that is not saved.</strong><span class="muted">From version ${other?.base}, written <${Ago} at=${new Date(other?.at ?? 0).toISOString()} />. If that tab is still open, save it there.</span></div><button onClick=${() => take(key)}>Go on with it here</button><button onClick=${() => drop(key)}>Throw it away</button></div>`)}
      ${current.version ? html`<div class="card card-body"><${Markdown} text=${current.bodyMarkdown} /></div>` : html`<${Empty} title="The workpad is empty">Plans, findings and hand-over notes live here, by people and by the task.<//>`}`;
  }
  const behind = current.version > draft.base;
  return html`<div class="section-head"><span class="muted">Editing version ${draft.base}</span><span class="spring" /><button onClick=${stop}>Discard</button><button class="primary" disabled=${busy || (draft.text === draft.baseText && !behind)} onClick=${save}>Save</button></div>
    ${error && html`<${Problem} error=${error} />`}
    ${behind && html`<div class="notice wait" role="status"><div><strong>Version ${current.version} was saved meanwhile.</strong><span>Your text is safe here.</span></div><button onClick=${() => meet(current)}>Merge it in</button></div>`}
    <div class="pad-edit"><label class="sr" for="pad">Workpad, in Markdown</label><textarea id="pad" ref=${area} class="mono" value=${draft.text} onKeyDown=${keys} onInput=${(/** @type {any} */ e) => change({ ...draft, text: e.target.value })} spellcheck="false" /><div class="card card-body pad-preview" tabindex="0" role="region" aria-label="Preview"><${Preview} text=${draft.text} /></div></div>`;
}

/** Rendered once the typing pauses. @param {{text: string}} props */
function Preview({ text }) {
  const [shown, setShown] = useState(text);
  useEffect(() => { const timer = setTimeout(() => setShown(text), 250); return () => clearTimeout(timer); }, [text]);
  return shown.trim() ? html`<${Markdown} text=${shown} />` : html`<p class="muted">Nothing to preview.</p>`;
}

/** Both versions of what both changed; the rest is merged already. @param {any} props */
function Conflict({ conflict, version, onDone, onBack }) {
  const [chosen, setChosen] = useState(/** @type {Record<number, string>} */ ({}));
  const open = conflict.parts.filter((/** @type {any} */ part, /** @type {number} */ i) => !("text" in part) && !chosen[i]).length;
  const done = () => onDone(conflict.parts.map((/** @type {any} */ part, /** @type {number} */ i) => ("text" in part ? part.text : { mine: part.mine, theirs: part.theirs, both: joined(part.mine, part.theirs) }[chosen[i]])).join(""));
  return html`<div class="notice warn" role="alert"><div><strong>Version ${conflict.theirs.version} changed the same lines.</strong><span>Choose for each place; everything else is merged. Nothing is saved yet.</span></div></div>
    <div class="conflict">${conflict.parts.map((/** @type {any} */ part, /** @type {number} */ i) => "text" in part ? html`<pre key=${i} class="agreed">${shortened(part.text)}</pre>` : html`<fieldset key=${i} class=${`hunk chose-${chosen[i] ?? "none"}`}><legend class="sr">A place that both changed</legend>
      <div class="hunk-sides">
        <figure><figcaption>Yours</figcaption><pre tabindex="0">${part.mine || "(removed)"}</pre></figure>
        <figure><figcaption>Before, in version ${version}</figcaption><pre tabindex="0">${part.base || "(nothing)"}</pre></figure>
        <figure><figcaption>Theirs, in version ${conflict.theirs.version}</figcaption><pre tabindex="0">${part.theirs || "(removed)"}</pre></figure>
      </div>
      <div class="hunk-choice">${[["mine", "Keep yours"], ["theirs", "Take theirs"], ["both", "Both, yours first"]].map(([key, text]) => html`<button key=${key} aria-pressed=${chosen[i] === key ? "true" : "false"} onClick=${() => setChosen({ ...chosen, [i]: key })}>${text}</button>`)}</div></fieldset>`)}</div>
    <div class="dialog-actions"><button onClick=${onBack}>Back to your text</button><button class="primary" disabled=${open > 0} onClick=${done}>${open ? `${open} left to choose` : "Use this and go on editing"}</button></div>`;
}

const joined = (/** @type {string} */ a, /** @type {string} */ b) => (a && !a.endsWith("\n") ? `${a}\n${b}` : a + b);
/** @param {string} text */
function shortened(text) {
  const lines = text.split("\n");
  return lines.length <= 8 ? text : [...lines.slice(0, 3), `… ${lines.length - 6} lines …`, ...lines.slice(-3)].join("\n");
}

/** Earlier versions, read one at a time. @param {{task: any, current: any}} props */
function Versions({ task, current }) {
  const [open, setOpen] = useState(0);
  const list = useResource(current.version > 1 ? `versions ${task.taskId} ${current.version}` : null, (signal) => get(v1("tasks", task.taskId, "workpad", "versions"), { limit: 100 }, signal));
  const version = useResource(open ? `version ${task.taskId} ${open}` : null, (signal) => get(v1("tasks", task.taskId, "workpad", "versions", String(open)), {}, signal));
  if (!list.data) return null;
  return html`<select aria-label="Earlier versions" value=${open || ""} onChange=${(/** @type {any} */ e) => setOpen(Number(e.target.value))}><option value="">History</option>${list.data.versions.map((/** @type {any} */ v) => html`<option key=${v.version} value=${v.version}>Version ${v.version}, ${new Date(v.updatedAt).toLocaleString()}</option>`)}</select>
    ${open > 0 && html`<div class="pad-version card card-body"><div class="section-head"><strong>Version ${open}</strong><span class="spring" /><button onClick=${() => setOpen(0)}>Close</button></div><${Loaded} from=${version}>${(/** @type {any} */ v) => html`<${Markdown} text=${v.bodyMarkdown} />`}<//></div>`}`;
}

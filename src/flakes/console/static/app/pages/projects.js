// @ts-check
/** Projects: the namespaces of runs, and where their work may be placed. */
import { call, get, post, put, v1 } from "../api.js";
import { Link, navigate, to } from "../router.js";
import { html, useState } from "../lib.js";
import { useResource } from "../resource.js";
import { Ago } from "../time.js";
import { Confirm, Copy, Dialog, Empty, Field, Header, Loaded, Problem, toast } from "../ui/parts.js";
import { State, StateIcon } from "../ui/state.js";

export function Projects() {
  const projects = useResource("projects", (signal) => get("/v1/projects", { limit: 200 }, signal), { on: (e) => e.type.startsWith("project.") });
  const [making, setMaking] = useState(false);
  return html`<${Header} title="Projects" actions=${html`<button class="primary" onClick=${() => setMaking(true)}>New project</button>`} />
    <${Loaded} from=${projects}>${(/** @type {any} */ { projects: list }) => list.length ? html`
      <div class="list card">${[...list].sort((a, b) => (a.status === "archived" ? 1 : 0) - (b.status === "archived" ? 1 : 0)).map((/** @type {any} */ p) => html`<div key=${p.projectId} class="list-row"><${StateIcon} state=${p.status} label /><${Link} class="cover" data-row to=${to("projects", p.projectKey)}>${p.name}<//><code class="muted">${p.projectKey}</code>${p.status === "archived" && html`<small class="muted">archived</small>`}<span class="spring" /><${Link} class="above" to=${`/runs?project=${encodeURIComponent(p.projectKey)}`}>Runs<span class="sr"> of ${p.name}</span><//><span class="muted"><${Ago} at=${p.createdAt} /></span></div>`)}</div>`
      : html`<${Empty} title="No projects yet">A project is a name for runs that belong together. <button onClick=${() => setMaking(true)}>Make the first</button><//>`}<//>
    ${making && html`<${NewProject} onClose=${() => setMaking(false)} />`}`;
}

/** @param {{onClose: () => void}} props */
function NewProject({ onClose }) {
  const [form, setForm] = useState({ key: "", name: "", touched: false });
  const [error, setError] = useState(/** @type {any} */ (null));
  const save = async (/** @type {Event} */ e) => {
    e.preventDefault();
    setError(null);
    try { await put(v1("projects", form.key), { name: form.name.trim() }); onClose(); navigate(to("projects", form.key)); } catch (x) { setError(x); }
  };
  const keyOf = (/** @type {string} */ name) => name.toLowerCase().replace(/[^a-z0-9]+/g, "-").replace(/^-+|-+$/g, "").slice(0, 64);
  return html`<${Dialog} title="New project" onClose=${onClose}><form class="form" onSubmit=${save}>
    <${Field} label="Name" id="project-name"><input id="project-name" required maxlength="200" autofocus value=${form.name} onInput=${(/** @type {any} */ e) => setForm({ ...form, name: e.target.value, key: form.touched ? form.key : keyOf(e.target.value) })} /><//>
    <${Field} label="Key" id="project-key" hint="Lower case, digits and dashes. It cannot be changed later."><input id="project-key" required maxlength="64" pattern="[a-z0-9]+(-[a-z0-9]+)*" class="mono" value=${form.key} onInput=${(/** @type {any} */ e) => setForm({ ...form, key: e.target.value, touched: true })} /><//>
    ${error && html`<${Problem} error=${error} />`}
    <div class="dialog-actions"><button type="button" onClick=${onClose}>Cancel</button><button class="primary">Make the project</button></div></form><//>`;
}

/** @param {{project: string}} props */
export function Project({ project: key }) {
  const project = useResource(`project ${key}`, (signal) => get(v1("projects", key), {}, signal), { on: (e) => e.type.startsWith("project.") });
  const runs = useResource(`runs of ${key}`, (signal) => get("/v1/runs", { projectKey: key, limit: 10 }, signal), { on: (e) => e.type.startsWith("run."), everyMs: 1_000 });
  const bindings = useResource(`bindings of ${key}`, (signal) => bindingsOf(key, signal), { on: (e) => /^(host|binding)\./.test(e.type), everyMs: 500 });
  const trail = [["Projects", "/projects"]];
  if (!project.data) return html`<${Header} trail=${trail} title=${key} /><${Loaded} from=${project}>${() => null}<//>`;
  const p = project.data, archived = p.status === "archived";
  return html`<${Header} trail=${trail} title=${p.name} after=${archived && html`<${State} state="archived" />`} actions=${html`<${Link} class="button" to=${`/runs?project=${encodeURIComponent(key)}`}>All its runs<//>
      ${!archived && html`<${Rename} project=${p} onDone=${project.reload} /><${Confirm} label="Archive" title=${`Archive ${p.name}?`} danger run=${async () => { await post(v1("projects", key, "archive")); project.reload(); toast("Archived"); }}><p>It takes no new runs and no new bindings. What it has stays readable, and runs that go on go on.</p><//>`}`}>
      <div class="head-facts"><${Copy} text=${key} label="project key" /><span>made <${Ago} at=${p.createdAt} /></span></div><//>
    <section class="section"><h2>Latest runs</h2><${Loaded} from=${runs}>${(/** @type {any} */ { runs: list }) => list.length ? html`<div class="list card">${list.map((/** @type {any} */ r) => html`<div key=${r.runId} class="list-row"><${StateIcon} state=${r.state} label /><${Link} class="cover" data-row to=${to("runs", r.runKey)}>${r.name}<//><span class="spring" /><span class="muted"><${Ago} at=${r.createdAt} /></span></div>`)}</div>` : html`<${Empty} title="No runs yet"><${Link} to="/new">Start one<//><//>`}<//></section>
    <section class="section"><h2>Where its work may run</h2>
      <${Loaded} from=${bindings}>${(/** @type {any} */ list) => html`${list.filter((/** @type {any} */ b) => b.binding).length === 0 && html`<p class="muted lead">It is bound to no host: hosts that serve every project take it.</p>`}
        ${list.length ? list.map((/** @type {any} */ each) => html`<${HostBinding} key=${each.host.hostId} entry=${each} projectKey=${key} archived=${archived} onDone=${bindings.reload} />`) : html`<${Empty} title="No hosts"><${Link} to="/hosts">Connect one<//><//>`}`}<//></section>`;
}

/** Every host with its pools and, if there is one, its binding of the project. @param {string} key @param {AbortSignal} signal */
async function bindingsOf(key, signal) {
  const { hosts } = await get("/v1/hosts", { limit: 100 }, signal);
  return Promise.all(hosts.map(async (/** @type {any} */ host) => {
    const [pools, bound] = await Promise.all([get(v1("hosts", host.hostId, "pools"), {}, signal), get(v1("hosts", host.hostId, "project-bindings"), { limit: 200 }, signal).catch(() => ({ bindings: [] }))]);
    return { host, pools: pools.hostPools, binding: bound.bindings.find((/** @type {any} */ b) => b.projectKey === key) };
  }));
}

/** @param {any} props */
function HostBinding({ entry: { host, pools, binding }, projectKey, archived, onDone }) {
  const [chosen, setChosen] = useState(/** @type {string[] | null} */ (null));
  const [error, setError] = useState(/** @type {any} */ (null));
  const keys = chosen ?? binding?.poolKeys ?? [];
  const save = async () => {
    setError(null);
    const path = v1("hosts", host.hostId, "project-bindings", projectKey);
    try { keys.length ? await put(path, { poolKeys: keys }) : await call("DELETE", path); setChosen(null); onDone(); toast("Saved"); } catch (e) { setError(e); }
  };
  return html`<div class="card binding"><div class="card-head"><${StateIcon} state=${host.status} label /><${Link} to=${to("hosts", host.hostId)}><strong>${host.name}</strong><//>${host.autoBind && html`<small class="muted">serves every unbound project</small>`}<span class="spring" />${binding && html`<${State} state=${binding.status} />`}</div>
    <div class="card-body"><fieldset class="checks" disabled=${archived}><legend class="sr">Pools of ${host.name}</legend>${pools.length ? pools.map((/** @type {any} */ pool) => html`<label key=${pool.poolKey} class="check"><input type="checkbox" checked=${keys.includes(pool.poolKey)} onChange=${(/** @type {any} */ e) => setChosen(e.target.checked ? [...keys, pool.poolKey] : keys.filter((/** @type {string} */ k) => k !== pool.poolKey))} /><span>${pool.poolKey} <span class="muted">${pool.adapter}, ${pool.provider}</span></span></label>`) : html`<p class="muted">It offers no pools.</p>`}</fieldset>
      ${binding?.workspacePath && html`<p class="muted">Files at <code>${binding.workspacePath}</code></p>`}${binding?.reason && html`<p class="muted">Because: ${binding.reason.replaceAll("_", " ")}</p>`}
      ${error && html`<${Problem} error=${error} />`}${chosen && html`<div class="form-foot"><button class="primary" onClick=${save}>${keys.length ? "Bind these pools" : "Remove the binding"}</button><button onClick=${() => setChosen(null)}>Leave it</button></div>`}</div></div>`;
}

/** @param {any} props */
function Rename({ project, onDone }) {
  const [open, setOpen] = useState(false);
  const [name, setName] = useState(project.name);
  const [error, setError] = useState(/** @type {any} */ (null));
  const save = async (/** @type {Event} */ e) => { e.preventDefault(); try { await call("PATCH", v1("projects", project.projectKey), { body: { name } }); setOpen(false); onDone(); } catch (x) { setError(x); } };
  return html`<button onClick=${() => { setName(project.name); setOpen(true); }}>Rename</button>${open && html`<${Dialog} title="Rename the project" onClose=${() => setOpen(false)}><form class="form" onSubmit=${save}><${Field} label="Name" id="rename"><input id="rename" required maxlength="200" autofocus value=${name} onInput=${(/** @type {any} */ e) => setName(e.target.value)} /><//>${error && html`<${Problem} error=${error} />`}<div class="dialog-actions"><button type="button" onClick=${() => setOpen(false)}>Cancel</button><button class="primary">Rename</button></div></form><//>`}`;
}

// @ts-check
/** Hosts: machines that offer pools of sandboxes. */
import { call, get, post, put, v1 } from "../api.js";
import { Link, navigate, to } from "../router.js";
import { count, html, useState } from "../lib.js";
import { useResource } from "../resource.js";
import { Ago } from "../time.js";
import { Confirm, Copy, Dialog, Empty, Facts, Field, Header, Loaded, Menu, Problem, Wide, toast } from "../ui/parts.js";
import { State } from "../ui/state.js";

const FLEET = /^(host|sandbox|binding)\./;

export function Hosts() {
  const hosts = useResource("hosts", (signal) => get("/v1/hosts", { limit: 200 }, signal), { on: (e) => e.type.startsWith("host."), everyMs: 300 });
  return html`<${Header} title="Hosts" />
    <${Loaded} from=${hosts}>${(/** @type {any} */ { hosts: list }) => list.length ? html`<${Wide}><table class="plain-table"><thead><tr><th>Host</th><th>State</th><th>Platform</th><th>Projects</th><th>Version</th><th class="end">Last seen</th></tr></thead><tbody>
      ${list.map((/** @type {any} */ h) => html`<tr key=${h.hostId}><td><${Link} data-row to=${to("hosts", h.hostId)}><strong>${h.name}</strong><//></td><td><${State} state=${h.status} /></td><td class="muted">${[h.platform, h.arch].filter(Boolean).join(" ") || "–"}</td><td class="muted">${h.autoBind ? "every unbound one" : "bound ones"}</td><td class="muted">${h.version ?? "–"}</td><td class="end muted"><${Ago} at=${h.lastSeenAt} /></td></tr>`)}</tbody></table><//>
      <p class="muted hint">Connect another machine: <code>flakes host setup --config host.toml</code>, then <code>flakes host run</code> there. <${Link} to="/docs/guide/hosts">How<//></p>`
    : html`<${Empty} title="No hosts">A host is a machine that runs tasks. On this one: <code>flakes up</code>. On another: <code>flakes host setup</code>, then <code>flakes host run</code>.<//>`}<//>`;
}

/** @param {{host: string}} props */
export function Host({ host: id }) {
  const host = useResource(`host ${id}`, (signal) => get(v1("hosts", id), {}, signal), { on: (e) => FLEET.test(e.type), everyMs: 400 });
  const pools = useResource(`pools ${id}`, (signal) => get(v1("hosts", id, "pools"), {}, signal), { on: (e) => FLEET.test(e.type), everyMs: 600 });
  const bindings = useResource(`bindings ${id}`, (signal) => get(v1("hosts", id, "project-bindings"), { limit: 200 }, signal), { on: (e) => FLEET.test(e.type), everyMs: 600 });
  const credentials = useResource(`credentials ${id}`, (signal) => get(v1("hosts", id, "credentials"), {}, signal), { on: (e) => e.type.startsWith("host."), everyMs: 600 });
  const trail = [["Hosts", "/hosts"]];
  if (host.data && host.error?.status === 404) return html`<${Header} trail=${trail} title=${host.data.name} /><${Empty} title="This host is gone"><${Link} to="/hosts">Go to the hosts<//><//>`;
  if (!host.data) return html`<${Header} trail=${trail} title="Host" /><${Loaded} from=${host}>${() => null}<//>`;
  const h = host.data;
  return html`<${Header} trail=${trail} title=${h.name} after=${html`<${State} state=${h.status} />`} actions=${html`<${Actions} host=${h} reload=${host.reload} />`}><div class="head-facts"><${Copy} text=${h.hostId} label="host id" />${h.lastSeenAt && html`<span>seen <${Ago} at=${h.lastSeenAt} /></span>`}</div><//>
    <div class="task-columns"><div>
      <section><h2 class="lead">Pools</h2><${Loaded} from=${pools}>${(/** @type {any} */ { hostPools: list }) => list.length ? html`<${Wide}><table class="plain-table"><thead><tr><th>Pool</th><th>Offers</th><th>Provider</th><th class="end">Sandboxes</th><th class="end">Tasks in each</th></tr></thead><tbody>${list.map((/** @type {any} */ p) => html`<tr key=${p.poolId}><td><strong>${p.poolKey}</strong>${!p.available && html` <small class="muted">not available</small>`}${p.launchFailure && html`<div class="bad-text">${p.launchFailure}${p.launchRetryAt && html`; tried again <${Ago} at=${p.launchRetryAt} />`}</div>`}</td><td>${p.adapter}${p.capabilities.length > 0 && html` <span class="muted">${p.capabilities.join(", ")}</span>`}</td><td class="muted">${p.provider}</td><td class="end num">${p.maxInstances}</td><td class="end num">${p.maxConcurrency}</td></tr>`)}</tbody></table><//>` : html`<${Empty} title="No pools">Pools come from the host's own file; it tells them when it connects.<//>`}<//></section>
      ${!bindings.error && html`<section class="section"><h2 class="lead">Projects bound to it</h2><${Root} host=${h} onDone=${host.reload} /><${Loaded} from=${bindings}>${(/** @type {any} */ { bindings: list }) => list.length ? html`<${Wide}><table class="plain-table"><thead><tr><th>Project</th><th>State</th><th>Pools</th><th>Files at</th></tr></thead><tbody>${list.map((/** @type {any} */ b) => html`<tr key=${b.bindingId}><td><${Link} to=${to("projects", b.projectKey)}>${b.projectKey}<//></td><td><${State} state=${b.status} />${b.reason && html`<div class="muted">${b.reason.replaceAll("_", " ")}</div>`}</td><td class="muted">${b.poolKeys.join(", ")}</td><td><code class="muted">${b.workspacePath ?? "–"}</code></td></tr>`)}</tbody></table><//>` : html`<p class="muted">${h.autoBind ? "None: it serves every project that is bound nowhere." : "None. Bind one on its page."}</p>`}<//></section>`}
      ${!credentials.error && html`<section class="section"><h2 class="lead">Credentials</h2><${Loaded} from=${credentials}>${(/** @type {any} */ { credentials: list }) => html`<${Wide}><table class="plain-table"><thead><tr><th>Credential</th><th>State</th><th>Made</th><th>Last used</th><th><span class="sr">Actions</span></th></tr></thead><tbody>${list.map((/** @type {any} */ c) => html`<tr key=${c.credentialId}><td><code>${c.tokenPrefix}…</code></td><td>${c.status}</td><td class="muted"><${Ago} at=${c.createdAt} /></td><td class="muted"><${Ago} at=${c.lastUsedAt} /></td><td class="end">${(c.status === "active" || c.status === "retired") && html`<${Confirm} label="Revoke" title="Revoke this credential?" danger run=${async () => { await post(v1("hosts", id, "credentials", c.credentialId, "revoke"), {}); credentials.reload(); }}><p>A host that uses it is disconnected within seconds, and cannot come back with it.</p><//>`}</td></tr>`)}</tbody></table><//>`}<//></section>`}
    </div><aside class="task-side" aria-label="About the host"><${Facts} rows=${[["Platform", [h.platform, h.arch].filter(Boolean).join(" ")], ["Version", h.version], ["Serves", h.autoBind ? "every unbound project" : "bound projects"], ["Made", html`<${Ago} at=${h.createdAt} />`], ["Disabled", h.disabledAt && html`<${Ago} at=${h.disabledAt} />`]]} /></aside></div>`;
}

/** @param {any} props */
function Actions({ host, reload }) {
  const path = (/** @type {string[]} */ ...parts) => v1("hosts", host.hostId, ...parts);
  const [typed, setTyped] = useState("");
  return html`${host.status === "disabled"
      ? html`<button onClick=${() => post(path("enable")).then(reload, (e) => toast(e.message, true))}>Enable</button>`
      : html`<${Confirm} label="Disable" title=${`Disable ${host.name}?`} danger run=${async () => { const answer = await post(path("disable"), {}); reload(); toast(answer.sandboxIds?.length ? `Disabled; ${count(answer.sandboxIds.length, "sandbox", "sandboxes")} drained` : "Disabled"); }}><p>It gets nothing new. Its sandboxes finish what they run, and end.</p><//>`}
    <${Menu} label="More actions">
      <${Confirm} menu label="Delete…" title=${`Delete ${host.name}?`} danger run=${async () => { try { await call("DELETE", path()); } catch (e) { throw explained(e); } navigate("/hosts"); }}><p>Only a host that holds nothing any more can be deleted.</p><//>
      <${Confirm} menu label="Abandon…" title=${`Abandon ${host.name}?`} danger confirm="Abandon it" run=${async () => { await post(path("abandon"), { confirm: typed.trim() }); reload(); }}><p>For a machine that will never come back. What still runs there is stopped by nobody, and its tasks are placed elsewhere.</p><${Field} label=${`Type ${host.hostId} to confirm`} id="abandon"><input id="abandon" value=${typed} onInput=${(/** @type {any} */ e) => setTyped(e.target.value)} /><//><//>
    <//>`;
}

/** @type {Record<string, string>} */
export const BLOCKERS = {
  active_credentials: "it has credentials that work: revoke them", active_leases: "launches of it are under way", nonterminal_instances: "sandboxes of it have not ended",
  unsafe_status: "it is not in a state in which that is safe: stop it first", live_sandbox: "it is connected: drain or stop it first", accepted_running_assignments: "it runs tasks", provider_cleanup_required: "its host has to clean up first, and is not connected",
};

/** A refusal with its blockers in words. @param {any} error */
export function explained(error) {
  const blockers = error.body?.blockers;
  if (blockers?.length) error.fix = blockers.map((/** @type {string} */ b) => BLOCKERS[b] ?? b).join("; ");
  return error;
}

/** @param {any} props */
function Root({ host, onDone }) {
  const [open, setOpen] = useState(false);
  const [path, setPath] = useState(host.projectWorkspaceRoot ?? "");
  const [error, setError] = useState(/** @type {any} */ (null));
  const save = async (/** @type {Event} */ e) => { e.preventDefault(); try { await put(v1("hosts", host.hostId, "project-workspace-root"), { path }); setOpen(false); onDone(); } catch (x) { setError(x); } };
  return html`<p class="muted lead">Project root: ${host.projectWorkspaceRoot ? html`<code>${host.projectWorkspaceRoot}</code>` : "not set"} <button class="quiet" onClick=${() => setOpen(true)}>Change</button></p>
    ${open && html`<${Dialog} title="Project root" onClose=${() => setOpen(false)}><form class="form" onSubmit=${save}><${Field} label="Absolute path on the host" id="root" hint="Each project has a directory of its key below it. The server stores the path; the host looks."><input id="root" class="mono" required value=${path} onInput=${(/** @type {any} */ e) => setPath(e.target.value)} /><//>${error && html`<${Problem} error=${error} />`}<div class="dialog-actions"><button type="button" onClick=${() => setOpen(false)}>Cancel</button><button class="primary">Save</button></div></form><//>`}`;
}

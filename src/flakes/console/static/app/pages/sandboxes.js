// @ts-check
/** The fleet: sandboxes, whether they live, and getting rid of those that do not. */
import { call, get, post, v1 } from "../api.js";
import { Link, navigate, place, setQuery, to } from "../router.js";
import { html, useState } from "../lib.js";
import { useResource } from "../resource.js";
import { Ago } from "../time.js";
import { Confirm, Copy, Empty, Facts, Field, Header, Loaded, Menu, sentence, toast } from "../ui/parts.js";
import { State } from "../ui/state.js";
import { Table } from "../ui/table.js";
import { explained } from "./hosts.js";

const OVER = new Set(["stopped", "failed", "expired", "cancelled"]);
const COLUMNS = [
  { key: "name", title: "Sandbox", width: "minmax(0, 1fr)" },
  { key: "status", title: "Lifecycle", width: "128px" },
  { key: "liveness", title: "Liveness", width: "104px", from: "m" },
  { key: "busy", title: "Busy", width: "64px", from: "m", end: true },
  { key: "adapters", title: "Offers", width: "minmax(0, 180px)", from: "l" },
  { key: "cleanup", title: "Cleanup", width: "minmax(0, 200px)", from: "l" },
  { key: "updated", title: "Updated", width: "90px", from: "m", end: true },
];
const on = (/** @type {any} */ e) => /^(sandbox|task|attempt)\./.test(e.type);

export function Sandboxes() {
  const fleet = useResource("sandboxes", (signal) => get("/v1/sandboxes", { limit: 200 }, signal), { on, everyMs: 800 });
  const all = place.value.query.get("show") === "all";
  return html`<${Header} title="Sandboxes" actions=${html`<div class="chips" role="group" aria-label="Show"><button aria-pressed=${all ? "false" : "true"} onClick=${() => setQuery({ show: null })}>Not ended</button><button aria-pressed=${all ? "true" : "false"} onClick=${() => setQuery({ show: "all" })}>All</button></div>`} />
    <${Loaded} from=${fleet}>${(/** @type {any} */ { sandboxes, nextCursor }) => {
      const rows = all ? sandboxes : sandboxes.filter((/** @type {any} */ s) => !OVER.has(s.status));
      return rows.length ? html`<${Table} label="Sandboxes" columns=${COLUMNS} rows=${rows} keyOf=${(/** @type {any} */ s) => s.sandboxId} row=${cells} />${nextCursor && html`<p class="muted hint">The newest 200. All of them: <code>flakes sandboxes list</code></p>`}`
        : html`<${Empty} title=${sandboxes.length ? "No sandbox is there now" : "No sandboxes yet"}>A host launches one when a task needs it, and retires it when it is idle.<//>`;
    }}<//>`;
}

/** @param {any} s */
const cells = (s) => [
  html`<div class="run-name"><${Link} class="cover" data-row to=${to("sandboxes", s.sandboxId)}>${s.name}<//>${s.provider && html`<small class="muted">${s.provider}</small>`}</div>`,
  html`<${State} state=${s.status} />`,
  html`<span class="muted">${s.liveness}</span>`,
  html`<span class="num muted">${s.running ?? 0}/${s.maxConcurrency}</span>`,
  html`<span class="muted">${s.adapters.join(", ")}</span>`,
  html`<span class="muted">${cleanup(s)}</span>`,
  html`<span class="muted"><${Ago} at=${s.updatedAt} /></span>`,
];

/** @param {any} s */
function cleanup(s) {
  if (s.status === "deleting" && !s.cleanup) return "queued";
  if (!s.cleanup) return "–";
  return html`${s.cleanup.state.replaceAll("_", " ")}, attempt ${s.cleanup.attempts}${s.cleanup.nextAt && html`, next <${Ago} at=${s.cleanup.nextAt} />`}`;
}

/** @param {{sandbox: string}} props */
export function Sandbox({ sandbox: id }) {
  const found = useResource(`sandbox ${id}`, (signal) => get(v1("sandboxes", id), {}, signal), { on, everyMs: 400 });
  const [typed, setTyped] = useState("");
  const trail = [["Sandboxes", "/sandboxes"]];
  if (found.data && found.error?.status === 404) return html`<${Header} trail=${trail} title=${found.data.name} /><${Empty} title="This sandbox is gone"><${Link} to="/sandboxes">Go to the sandboxes<//><//>`;
  if (!found.data) return html`<${Header} trail=${trail} title="Sandbox" /><${Loaded} from=${found}>${() => null}<//>`;
  const s = found.data, path = (/** @type {string[]} */ ...parts) => v1("sandboxes", id, ...parts);
  const act = (/** @type {string} */ what, /** @type {string} */ done) => async () => { try { await post(path(what), {}); } catch (e) { throw explained(e); } found.reload(); toast(done); };
  return html`<${Header} trail=${trail} title=${s.name} after=${html`<${State} state=${s.status} />`} actions=${html`
      ${s.status === "running" && html`<${Confirm} label="Drain" title="Drain this sandbox?" run=${act("drain", "It takes nothing new")}><p>It takes nothing new, finishes what it runs, and ends.</p><//>`}
      ${!OVER.has(s.status) && s.status !== "deleting" && html`<${Confirm} label="Stop" title="Stop this sandbox?" danger run=${act("stop", "It is being stopped")}><p>What it runs is stopped, and tried again elsewhere as far as the tasks allow.</p><//>`}
      <${Menu} label="More actions"><${Confirm} menu label="Delete…" title="Delete this sandbox?" danger run=${async () => { let answer; try { answer = await call("DELETE", path()); } catch (e) { throw explained(e); } if (answer.status === "deleted") navigate("/sandboxes"); else found.reload(); toast(answer.status === "deleted" ? "Deleted" : "Cleanup queued: it goes when its host has cleaned up"); }}><p>Nothing that runs is deleted. If its host still holds something of it, the entry stays as “cleanup queued” until that is gone.</p><//>
        <${Confirm} menu label="Abandon…" title="Abandon this sandbox?" danger confirm="Abandon it" run=${async () => { await post(path("abandon"), { confirm: typed.trim() }); navigate("/sandboxes"); toast("Given up"); }}><p>For one that its host will never clean up. What of it still runs is stopped by nobody; its tasks are placed elsewhere.</p><${Field} label=${`Type ${id} to confirm`} id="abandon"><input id="abandon" class="mono" autocomplete="off" value=${typed} onInput=${(/** @type {any} */ e) => setTyped(e.target.value)} /><//><//><//>`}>
      <div class="head-facts"><${Copy} text=${s.sandboxId} label="sandbox id" /><span>${s.liveness}</span>${s.lastSeenAt && html`<span>seen <${Ago} at=${s.lastSeenAt} /></span>`}</div><//>
    ${s.reason && html`<div class="notice"><div><strong>${sentence(s.reason)}</strong></div></div>`}
    ${s.cleanup && html`<div class="notice warn"><div><strong>Cleanup: ${cleanup(s)}</strong>${s.cleanup.lastError && html`<span>${sentence(s.cleanup.lastError)}</span>`}</div></div>`}
    <${Facts} rows=${[["Runs", `${s.running ?? 0} of ${s.maxConcurrency} tasks`], ["Offers", s.adapters.join(", ")], ["Capabilities", s.capabilities.join(", ")], ["Provider", s.provider ?? "run by hand"], ["Isolation", s.isolation], ["Host", s.hostId && html`<${Link} to=${to("hosts", s.hostId)}>${s.hostId}<//>`], ["Instance", html`<${Copy} text=${s.instanceId} label="instance id" />`], ["Made", html`<${Ago} at=${s.createdAt} />`], ["Updated", html`<${Ago} at=${s.updatedAt} />`]]} />`;
}

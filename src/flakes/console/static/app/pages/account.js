// @ts-check
/** The account: profile, password, what is signed in, API keys, and how this browser shows things. */
import { call, get, me, post, v1 } from "../api.js";
import { html, useState } from "../lib.js";
import { identify } from "../live.js";
import { toggle, wanted } from "../notify.js";
import { useResource } from "../resource.js";
import { Ago } from "../time.js";
import { Confirm, Copy, Empty, Facts, Field, Header, Loaded, Panel, Problem, Tabs, Wide, chosenTab, toast } from "../ui/parts.js";

export function Account() {
  const tab = chosenTab("tab", "profile");
  return html`<${Header} title="Account" />
    <${Tabs} name="tab" label="Parts of the account" tabs=${[["profile", "Profile"], ["security", "Security"], ["keys", "API keys"]]} />
    <${Panel} name="tab" chosen=${tab}>${tab === "profile" ? html`<${Profile} />` : tab === "security" ? html`<${Security} />` : html`<${Keys} />`}<//>`;
}

/** A form that says what came of it. @param {() => Promise<any>} run */
function useForm(run) {
  const [error, setError] = useState(/** @type {any} */ (null));
  const [busy, setBusy] = useState(false);
  const submit = async (/** @type {Event} */ e) => {
    e.preventDefault();
    setBusy(true);
    setError(null);
    try { await run(); } catch (x) { setError(x); }
    setBusy(false);
  };
  return { error, busy, submit };
}

function Profile() {
  const who = me.value;
  const [name, setName] = useState(who.name ?? "");
  const form = useForm(async () => { await call("PATCH", "/v1/me", { body: { name } }); await identify(); toast("Saved"); });
  return html`<form class="form narrow" onSubmit=${form.submit}><${Field} label="Name" id="me-name"><input id="me-name" maxlength="200" required value=${name} onInput=${(/** @type {any} */ e) => setName(e.target.value)} autocomplete="name" /><//>
      ${form.error && html`<${Problem} error=${form.error} />`}<div class="form-foot"><button class="primary" disabled=${form.busy || name === who.name}>Save</button></div></form>
    <section class="section"><${Facts} rows=${[["E-mail", who.email ?? "none: the owner of a local session"], ["Signed in as", who.sessionKind], ["Server", `Flakes ${who.serverVersion}`], ["Id", html`<${Copy} text=${who.userId} label="account id" />`]]} /></section>
    ${"Notification" in globalThis && html`<section class="section"><h2>Notifications</h2><p class="muted lead">This browser tells you when a task asks for permission and when a run ends, while the console is open in some tab.</p><button aria-pressed=${wanted.value ? "true" : "false"} onClick=${async () => { if (!(await toggle()) && Notification.permission === "denied") toast("The browser does not allow notifications for this site", true); }}>${wanted.value ? "Turn notifications off" : "Turn notifications on"}</button></section>`}`;
}

function Security() {
  const [old, setOld] = useState(""), [fresh, setFresh] = useState("");
  const sessions = useResource("sessions", (signal) => get("/v1/auth/sessions", { limit: 100 }, signal), { on: (e) => /^(session|account)\./.test(e.type) });
  const form = useForm(async () => { const answer = await post("/v1/auth/change-password", { currentPassword: old, newPassword: fresh }); setOld(""); setFresh(""); sessions.reload(); toast(`Changed; ${answer.endedSessions} other ${answer.endedSessions === 1 ? "session" : "sessions"} ended${answer.keys.length ? `; ${answer.keys.length} API keys go on working` : ""}`); });
  return html`<section><h2 class="lead">Signed in</h2><${Loaded} from=${sessions}>${(/** @type {any} */ { sessions: list }) => list.length ? html`<${Wide}><table class="plain-table"><thead><tr><th>What</th><th>From</th><th>Since</th><th>Last used</th><th><span class="sr">Actions</span></th></tr></thead><tbody>${list.map((/** @type {any} */ s) => html`<tr key=${s.sessionId}><td>${s.kind === "cli" ? "Command line" : "Browser"} <span class="muted client">${s.client}</span>${s.current && html` <strong>this one</strong>`}</td><td class="muted">${s.address ?? "–"}</td><td class="muted"><${Ago} at=${s.createdAt} /></td><td class="muted"><${Ago} at=${s.lastUsedAt} /></td><td class="end"><${Confirm} label="End" title="End this session?" danger run=${async () => { await call("DELETE", v1("auth", "sessions", s.sessionId)); s.current ? (me.value = null) : sessions.reload(); }}><p>It is signed out at once, its streams too.</p><//></td></tr>`)}</tbody></table><//>` : html`<${Empty} title="Nothing else is signed in" />`}<//></section>
    ${me.value.email ? html`<section class="section"><h2>Password</h2><form class="form narrow" onSubmit=${form.submit}><${Field} label="Current password" id="old"><input id="old" type="password" required autocomplete="current-password" value=${old} onInput=${(/** @type {any} */ e) => setOld(e.target.value)} /><//><${Field} label="New password" id="fresh" hint="At least ten characters. Every other session ends."><input id="fresh" type="password" required minlength="10" autocomplete="new-password" value=${fresh} onInput=${(/** @type {any} */ e) => setFresh(e.target.value)} /><//>${form.error && html`<${Problem} error=${form.error} />`}<div class="form-foot"><button class="primary" disabled=${form.busy}>Change the password</button></div></form></section>` : null}`;
}

function Keys() {
  const keys = useResource("api keys", (signal) => get("/v1/auth/keys", { limit: 100 }, signal));
  const [form, setForm] = useState({ name: "", scope: "write", days: "90" });
  const [made, setMade] = useState(/** @type {any} */ (null));
  const make = useForm(async () => { setMade(await post("/v1/auth/keys", { name: form.name, scope: form.scope, ...(form.days ? { expiresInDays: Number(form.days) } : {}) })); setForm({ ...form, name: "" }); keys.reload(); });
  return html`${made && html`<div class="notice good" role="status"><div><strong>This is the key ${made.key.name}. It is not shown again.</strong><${Copy} text=${made.rawKey} label="API key" /></div><button onClick=${() => setMade(null)}>Done</button></div>`}
    <${Loaded} from=${keys}>${(/** @type {any} */ { keys: list }) => list.length ? html`<${Wide}><table class="plain-table"><thead><tr><th>Key</th><th>May</th><th>Made</th><th>Last used</th><th>Expires</th><th><span class="sr">Actions</span></th></tr></thead><tbody>${list.map((/** @type {any} */ k) => html`<tr key=${k.keyId}><td><strong>${k.name}</strong></td><td>${k.scope}</td><td class="muted"><${Ago} at=${k.createdAt} /></td><td class="muted"><${Ago} at=${k.lastUsedAt} /></td><td class="muted">${k.expiresAt ? html`<${Ago} at=${k.expiresAt} />` : "never"}</td><td class="end"><${Confirm} label="Revoke" title=${`Revoke ${k.name}?`} danger run=${async () => { await call("DELETE", v1("auth", "keys", k.keyId)); keys.reload(); }}><p>Whatever uses it is refused from now on.</p><//></td></tr>`)}</tbody></table><//>` : html`<${Empty} title="No API keys">A key lets a program act for you, as far as its scope goes.<//>`}<//>
    <section class="section"><h2>New key</h2><form class="form-row" onSubmit=${make.submit}><${Field} label="Name" id="key-name"><input id="key-name" required maxlength="100" value=${form.name} onInput=${(/** @type {any} */ e) => setForm({ ...form, name: e.target.value })} /><//>
      <${Field} label="May" id="key-scope"><select id="key-scope" value=${form.scope} onChange=${(/** @type {any} */ e) => setForm({ ...form, scope: e.target.value })}><option value="read">read</option><option value="write">read and write</option><option value="admin">also deal in credentials</option></select><//>
      <${Field} label="Days until it expires" id="key-days"><input id="key-days" type="number" min="1" max="3650" placeholder="never" value=${form.days} onInput=${(/** @type {any} */ e) => setForm({ ...form, days: e.target.value })} /><//><div class="form-button"><button class="primary" disabled=${make.busy}>Make the key</button></div></form>${make.error && html`<${Problem} error=${make.error} />`}</section>`;
}

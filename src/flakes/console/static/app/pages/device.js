// @ts-check
/** Letting a command line in: somebody runs `flakes auth login` and compares the code. */
import { get, post, v1 } from "../api.js";
import { place, setQuery } from "../router.js";
import { html, useState } from "../lib.js";
import { useResource } from "../resource.js";
import { Ago } from "../time.js";
import { Facts, Field, Header, Problem } from "../ui/parts.js";

export function Device() {
  const code = place.value.query.get("code") ?? "";
  const [typed, setTyped] = useState(code);
  const grant = useResource(code ? `device ${code}` : null, (signal) => get(v1("auth", "device", code), {}, signal));
  const [error, setError] = useState(/** @type {any} */ (null));
  const [done, setDone] = useState("");
  const decide = async (/** @type {string} */ decision) => { setError(null); try { setDone((await post(v1("auth", "device", code), { decision })).status); } catch (e) { setError(e); } };
  const status = done || grant.data?.status;
  return html`<${Header} title="Sign a device in" />
    <div class="form narrow">
    ${(!code || grant.error) && html`<form class="form" onSubmit=${(/** @type {Event} */ e) => { e.preventDefault(); setQuery({ code: typed.trim().toUpperCase() }); }}><${Field} label="Code that the device shows" id="device-code"><input id="device-code" class="mono" required autocomplete="off" value=${typed} onInput=${(/** @type {any} */ e) => setTyped(e.target.value)} placeholder="ABCD-EFGH" /><//><button class="primary">Go on</button></form>`}
    ${grant.error && html`<${Problem} error=${grant.error} />`}
    ${grant.data && html`<p class="device-code mono" aria-label="Code">${grant.data.userCode}</p>
      <${Facts} rows=${[["Asks", grant.data.clientName], ["From", grant.data.address], ["Since", html`<${Ago} at=${grant.data.createdAt} />`]]} />
      ${status === "pending" ? html`<p class="muted">Compare the code with the one on the device. If they differ, or you did not ask for this, deny it: whoever asks could act as you.</p>${error && html`<${Problem} error=${error} />`}<div class="form-foot"><button class="primary" onClick=${() => decide("approved")}>Approve</button><button class="danger" onClick=${() => decide("denied")}>Deny</button></div>`
        : html`<div class=${`notice ${status === "approved" ? "good" : "bad"}`} role="status"><div><strong>${status === "approved" ? "Approved. Go back to the device." : "Denied. The device is not signed in."}</strong></div></div>`}`}
    </div>`;
}

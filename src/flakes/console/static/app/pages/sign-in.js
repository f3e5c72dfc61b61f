// @ts-check
/** The entrance: signing in, signing up, the code of a mail, and a forgotten password. */
import { get, post } from "../api.js";
import { identify } from "../live.js";
import { Link, navigate, place } from "../router.js";
import { html, useEffect, useState } from "../lib.js";
import { Field, Problem, Toasts } from "../ui/parts.js";
import { Mark } from "../ui/shell.js";

export const ENTRANCES = ["/sign-in", "/sign-up", "/verify", "/forgot", "/reset"];
const HANDLE = "flakes.verification";
const keep = (/** @type {string} */ handle) => { try { sessionStorage.setItem(HANDLE, handle); } catch { /* asked again, then */ } };
const kept = () => { try { return sessionStorage.getItem(HANDLE) ?? ""; } catch { return ""; } };

/** @type {Record<string, {title: string, say?: string, fields: [string, string, any][], button: string, send: (values: any) => Promise<string | void>}>} */
const FORMS = {
  "/sign-in": { title: "Sign in", fields: [["email", "E-mail", { type: "email", autocomplete: "username" }], ["password", "Password", { type: "password", autocomplete: "current-password" }]], button: "Sign in", send: async (v) => { await post("/v1/auth/sign-in", v); } },
  "/sign-up": { title: "Make an account", fields: [["name", "Name", { autocomplete: "name" }], ["email", "E-mail", { type: "email", autocomplete: "username" }], ["password", "Password, at least ten characters", { type: "password", autocomplete: "new-password", minlength: 10 }]], button: "Sign up", send: async (v) => { keep((await post("/v1/auth/sign-up", v)).verification); return "/verify"; } },
  "/verify": { title: "Enter the code", say: "Six digits are on their way to your address. Without a mail server they are in the server's log.", fields: [["code", "Code", { inputmode: "numeric", autocomplete: "one-time-code", pattern: "[0-9]{6}", maxlength: 6 }]], button: "Finish", send: async (v) => { await post("/v1/auth/verify", { verification: kept(), code: v.code }); } },
  "/forgot": { title: "Forgot the password", say: "If there is an account with this address, a code is sent to it.", fields: [["email", "E-mail", { type: "email", autocomplete: "username" }]], button: "Send a code", send: async (v) => { keep((await post("/v1/auth/forgot-password", v)).verification); return "/reset"; } },
  "/reset": { title: "Choose a new password", say: "With the six digits of the mail. Every session ends, and API keys are revoked.", fields: [["code", "Code", { inputmode: "numeric", autocomplete: "one-time-code", pattern: "[0-9]{6}", maxlength: 6 }], ["newPassword", "New password, at least ten characters", { type: "password", autocomplete: "new-password", minlength: 10 }]], button: "Change the password", send: async (v) => { await post("/v1/auth/reset-password", { verification: kept(), ...v }); } },
};

/** @param {{path: string}} props */
export function Entrance({ path }) {
  const form = FORMS[path];
  const [values, setValues] = useState(/** @type {Record<string, string>} */ ({}));
  const [error, setError] = useState(/** @type {any} */ (null));
  const [busy, setBusy] = useState(false);
  const [options, setOptions] = useState(/** @type {any} */ (null));
  useEffect(() => { get("/v1/auth/options").then(setOptions, () => setOptions({})); }, []);
  useEffect(() => { setError(null); setValues({}); document.title = `${form.title} · Flakes`; }, [path]);
  const send = async (/** @type {Event} */ e) => {
    e.preventDefault();
    setBusy(true);
    setError(null);
    try {
      const next = await form.send(values);
      if (next) navigate(next);
      else { await identify(); if (ENTRANCES.includes(place.value.path)) navigate("/runs", { replace: true }); }
    } catch (x) { setError(x); }
    setBusy(false);
  };
  const signIn = path === "/sign-in";
  return html`<main class="entrance" id="main"><div class="entrance-card">
    <div class="brand"><${Mark} />Flakes</div><h1>${form.title}</h1>
    ${signIn && html`<p class="notice info"><span>On the machine of a local session, <code>flakes console</code> prints a link that signs you in.</span></p>`}
    ${form.say && html`<p class="muted">${form.say}</p>`}
    <form class="form" onSubmit=${send}>${form.fields.map(([key, label, attributes]) => html`<${Field} key=${path + key} label=${label} id=${`in-${key}`}><input id=${`in-${key}`} required=${key !== "name"} ...${attributes} value=${values[key] ?? ""} onInput=${(/** @type {any} */ e) => setValues({ ...values, [key]: e.target.value })} /><//>`)}
      ${error && html`<${Problem} error=${error} />`}<button class="primary" disabled=${busy}>${form.button}</button></form>
    ${signIn && options?.provider && html`<a class="button" href="/v1/auth/oidc/start">Sign in with ${options.provider}</a>`}
    <p class="entrance-links">${signIn ? html`${options?.signUp && html`<${Link} to="/sign-up">Make an account<//>`}<${Link} to="/forgot">Forgot the password<//>` : html`<${Link} to="/sign-in">Back to signing in<//>`}<${Link} to="/docs">Documentation<//></p>
  </div><${Toasts} /></main>`;
}

// @ts-check
/** The frame of every page: where one can go, whether the stream lives, and who is signed in. */
import { me, post } from "../api.js";
import { connection, lostSince } from "../live.js";
import { cx, html, signal, useEffect, useRef } from "../lib.js";
import { waiting } from "../notify.js";
import { BASE, Link, place } from "../router.js";
import { duration, now } from "../time.js";
import { PLACES, helpOpen } from "./keys.js";
import { Dialog, Toasts, toast } from "./parts.js";

const line = { fill: "none", stroke: "currentColor", "stroke-width": "1.5", "stroke-linecap": "round", "stroke-linejoin": "round" };
/** @type {[string, string, any][]} */
const NAVIGATION = [
  ["/runs", "Runs", html`<path d="M3 4h10M3 8h10M3 12h6" ...${line} />`],
  ["/inbox", "Inbox", html`<path d="M2 9.5 4 3.5h8l2 6v3H2zM2 9.5h3.500l1 1.500h3l1-1.500H14" ...${line} />`],
  ["/projects", "Projects", html`<path d="M2 4.500V12.500h12v-7H8l-1.500-2H2z" ...${line} />`],
  ["/hosts", "Hosts", html`<path d="M2.500 3h11v4h-11zM2.500 9h11v4h-11zM5 5h.1M5 11h.1" ...${line} />`],
  ["/sandboxes", "Sandboxes", html`<path d="m8 2 5.500 3v6L8 14l-5.500-3V5zM2.500 5 8 8l5.500-3M8 8v6" ...${line} />`],
  ["/docs", "Documentation", html`<path d="M3 2.500h7.500L13 5v8.500H3zM5.500 7h5M5.500 9.500h5" ...${line} />`],
];
const drawer = signal(false);
const theme = signal(document.documentElement.dataset.theme ?? "system");
const THEMES = { system: "light", light: "dark", dark: "system" };

function turn() {
  const next = THEMES[/** @type {"system"} */ (theme.value)];
  theme.value = next;
  if (next === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = next;
  try { next === "system" ? localStorage.removeItem("flakes.theme") : localStorage.setItem("flakes.theme", next); } catch { /* for this visit only */ }
}

async function leave() {
  try {
    await post("/v1/auth/sign-out");
    me.value = null;
  } catch (error) { toast(/** @type {any} */ (error).message, true); }
}

function Connection() {
  const state = connection.value;
  const since = lostSince.value ? Math.max(0, now.value - lostSince.value) : 0;
  const text = { live: "Live", connecting: "Connecting", paused: "Paused", lost: `Reconnecting${since > 2_000 ? ` for ${duration(since)}` : ""}` }[state];
  return html`<div class=${cx("connection", state)} role="status"><i aria-hidden="true" /><span>${text}</span></div>`;
}

/** @param {any} props */
export function Shell({ children }) {
  const { path } = place.value;
  const signedIn = me.value;
  const shown = useRef(path);
  useEffect(() => {
    drawer.value = false;
    if (shown.current === path) return;
    // Another page: the keyboard and a screen reader begin with it, unless it has a place for them of its own.
    shown.current = path;
    const main = document.getElementById("main");
    if (!main?.contains(document.activeElement)) main?.focus({ preventScroll: true });
  }, [path]);
  const current = path === "/" ? "/runs" : path;
  return html`<a class="skip" href="#main">Skip to the page</a>
    <div class=${cx("shell", drawer.value && "open")}>
      <header class="topbar"><button aria-label="Menu" aria-expanded=${drawer.value ? "true" : "false"} onClick=${() => { drawer.value = !drawer.value; }}>
        <svg width="16" height="16" viewBox="0 0 16 16" aria-hidden="true"><path d="M2 4h12M2 8h12M2 12h12" ...${line} /></svg></button><${Link} to="/runs" class="brand"><${Mark} />Flakes<//><span class="spring" /><${Connection} /></header>
      <aside class="side">
        <${Link} to="/runs" class="brand"><${Mark} />Flakes<//>
        <nav aria-label="Main">${NAVIGATION.map(([target, text, icon]) => html`<${Link} key=${target} to=${target} aria-current=${current === target || current.startsWith(target + "/") ? "page" : null}>
          <svg width="16" height="16" viewBox="0 0 16 16" aria-hidden="true">${icon}</svg><span>${text}</span>${target === "/inbox" && waiting.value > 0 && html`<b class="badge" aria-label=${`${waiting.value} waiting`}>${waiting.value}</b>`}<//>`)}</nav>
        <span class="spring" />
        <div class="side-foot">
          <${Connection} />
          <button class="quiet" onClick=${turn} title="Light, dark, or as the system has it">Theme: ${theme.value}</button>
          <button class="quiet" onClick=${() => { helpOpen.value = true; }}>Keyboard <kbd>?</kbd></button>
          ${signedIn ? html`<${Link} to="/account" class="who" aria-current=${current.startsWith("/account") ? "page" : null}>${signedIn.name || signedIn.email || "Account"}<//><button class="quiet" onClick=${leave}>Sign out</button>` : html`<${Link} to="/sign-in">Sign in<//>`}
        </div>
      </aside>
      <div class="veil" onClick=${() => { drawer.value = false; }} />
      <main id="main" tabindex="-1">${children}</main>
    </div>
    <${Toasts} />
    ${helpOpen.value && html`<${Help} />`}`;
}

export function Mark() {
  return html`<svg class="mark" width="18" height="18" viewBox="0 0 16 16" aria-hidden="true"><path d="M8 1.500v13M2.400 4.750l11.200 6.500M13.600 4.750l-11.200 6.500M6.200 2.800 8 4.600l1.800-1.800M6.200 13.200 8 11.400l1.800 1.800" ...${line} /></svg>`;
}

function Help() {
  const rows = [["/", "Search"], ["j  k", "Next and previous row, or file of a diff"], ["Enter", "Open the row"], ...PLACES.map(([key, , text]) => [`g ${key}`, `Go to ${text}`]), ["Ctrl Enter", "Send a message, save a workpad"], ["+  −  0", "Zoom the map, fit it"], ["?", "This help"], ["Esc", "Close"]];
  return html`<${Dialog} title="Keyboard" onClose=${() => { helpOpen.value = false; }}>
    <dl class="keys">${rows.map(([keys, text]) => html`<div key=${keys}><dt>${keys.split(" ").filter(Boolean).map((k) => html`<kbd>${k}</kbd>`)}</dt><dd>${text}</dd></div>`)}</dl>
    <div class="dialog-actions"><button autofocus onClick=${() => { helpOpen.value = false; }}>Close</button></div>
  <//>`;
}
export { BASE };

// @ts-check
/** Small parts that every page uses. */
import { Link, navigate, place, setQuery } from "../router.js";
import { cx, html, signal, useEffect, useLayoutEffect, useRef, useState } from "../lib.js";
import { post } from "../api.js";

/** What went wrong, and what to do. @param {{error: any, retry?: () => void}} props */
export function Problem({ error, retry }) {
  return html`<div class="notice bad" role="alert">
    <div><strong>${inline(sentence(error.message))}</strong>${error.fix && html`<span>${inline(sentence(error.fix))}</span>`}</div>
    ${retry && html`<button onClick=${retry}>Try again</button>`}
  </div>`;
}

/** @param {string} text */
export const sentence = (text) => (text ? text[0].toUpperCase() + text.slice(1) + (/[.!?…)`]$/.test(text) ? "" : ".") : "");

/** `code` in a sentence. @param {string} text */
export const inline = (text) => text.split("`").map((part, i) => (i % 2 ? html`<code>${part}</code>` : part));

/** Nothing here: why, and what to do. @param {any} props */
export function Empty({ title, children }) {
  return html`<div class="empty"><strong>${title}</strong><div>${children}</div></div>`;
}

/** What is shown of a resource: its error, a quiet sign that it loads, or what it holds. @param {any} props */
export function Loaded({ from, children }) {
  if (from.data !== undefined) return html`${from.error && html`<${Problem} error=${from.error} retry=${from.reload} />`}${children(from.data)}`;
  if (from.error) return html`<${Problem} error=${from.error} retry=${from.reload} />`;
  return html`<div class="loading" role="status" aria-label="Loading"><i /><i /><i /></div>`;
}

/** A title, what leads to it, and what can be done. @param {any} props */
export function Header({ trail, title, after, children, actions }) {
  const name = typeof title === "string" ? title : "";
  useEffect(() => { if (name) document.title = `${name} · Flakes`; }, [name]);
  return html`<header class="page-head">
    ${trail && html`<nav class="trail" aria-label="Breadcrumb">${trail.map((/** @type {any} */ [text, target], /** @type {number} */ i) => html`${i > 0 && html`<span aria-hidden="true">/</span>`}<${Link} to=${target}>${text}<//>`)}</nav>`}
    <div class="head-line"><h1>${title}</h1>${after}<span class="spring" />${actions && html`<div class="actions">${actions}</div>`}</div>
    ${children}
  </header>`;
}

/** Views of one thing, each with an address: `?name=key`. @param {{name: string, tabs: [string, string, any?][], label: string, small?: boolean, first?: string}} props `first` is the one without an address */
export function Tabs({ name, tabs, label, small, first = tabs[0][0] }) {
  const chosen = place.value.query.get(name) ?? first;
  return html`<div class=${cx("tabs", small && "small")} role="tablist" aria-label=${label} onKeyDown=${arrows}>
    ${tabs.map(([key, text, extra]) => html`<button key=${key} role="tab" id=${`tab-${name}-${key}`} aria-selected=${key === chosen ? "true" : "false"} aria-controls=${`panel-${name}`} tabindex=${key === chosen ? 0 : -1}
      onClick=${() => setQuery({ [name]: key === first ? null : key })}>${text}${extra != null && html`<span class="tally">${extra}</span>`}</button>`)}
  </div>`;
}

/** @param {KeyboardEvent} event */
function arrows(event) {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!step) return;
  const all = /** @type {HTMLElement[]} */ ([.../** @type {Element} */ (event.currentTarget).querySelectorAll("[role=tab]")]);
  const next = all[(all.indexOf(/** @type {HTMLElement} */ (document.activeElement)) + step + all.length) % all.length];
  next.focus();
  next.click();
  event.preventDefault();
}

/** What the chosen tab shows. @param {any} props */
export function Panel({ name, chosen, children }) {
  return html`<section role="tabpanel" id=${`panel-${name}`} aria-labelledby=${`tab-${name}-${chosen}`} class="panel">${children}</section>`;
}

/** The chosen key of `Tabs`. @param {string} name @param {string} first */
export const chosenTab = (name, first) => place.value.query.get(name) ?? first;

/** Text that a click copies. @param {{text: string, shown?: string, label: string}} props */
export function Copy({ text, shown, label }) {
  const [done, setDone] = useState(false);
  const copy = async () => {
    await navigator.clipboard?.writeText(text).catch(() => {});
    setDone(true);
    setTimeout(() => setDone(false), 1_200);
  };
  return html`<button class="copy" onClick=${copy} title=${`Copy ${label}`}><span class="sr">Copy ${label} </span><code>${shown ?? text}</code><span class="copied" aria-live="polite">${done ? "copied" : ""}</span></button>`;
}

/** Facts in two columns. @param {{rows: [string, any][]}} props */
export function Facts({ rows }) {
  return html`<dl class="facts">${rows.filter(([, value]) => value != null && value !== false && value !== "").map(([name, value]) => html`<div key=${name}><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>`;
}

/** A dialog over the page; Escape and a click beside it close it. @param {any} props */
export function Dialog({ title, onClose, children, wide }) {
  const ref = useRef(/** @type {HTMLDialogElement | null} */ (null));
  useLayoutEffect(() => {
    const dialog = ref.current;
    dialog?.showModal();
    return () => dialog?.close();
  }, []);
  return html`<dialog ref=${ref} class=${cx(wide && "wide")} aria-label=${title} onCancel=${(/** @type {Event} */ e) => { e.preventDefault(); onClose(); }} onClick=${(/** @type {Event} */ e) => { if (e.target === ref.current) onClose(); }}>
    <div class="dialog"><h2>${title}</h2>${children}</div>
  </dialog>`;
}

/** A button that first says what will happen. @param {any} props `run` does it; an error stays in the dialog */
export function Confirm({ label, title, children, run, danger, confirm, disabled, menu, type }) {
  const [open, setOpen] = useState(false);
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState(/** @type {any} */ (null));
  const act = async () => {
    setBusy(true);
    setError(null);
    try { await run(); setOpen(false); } catch (e) { setError(e); }
    setBusy(false);
  };
  return html`<button type=${type} class=${cx(menu && "item", danger && "danger")} disabled=${disabled} onClick=${() => { setError(null); setOpen(true); }}>${label}</button>
    ${open && html`<${Dialog} title=${title} onClose=${() => setOpen(false)}>
      <div class="prose-small">${children}</div>
      ${error && html`<${Problem} error=${error} />`}
      <div class="dialog-actions"><button type=${type} onClick=${() => setOpen(false)}>Keep as it is</button><button type=${type} class=${danger ? "danger solid" : "primary"} disabled=${busy} onClick=${act}>${confirm ?? label}</button></div>
    <//>`}`;
}

/** Sentences that appear for a moment. @type {{value: {id: number, text: string, bad?: boolean}[]}} */
export const toasts = signal([]);
let toastId = 0;
/** @param {string} text @param {boolean} [bad] */
export function toast(text, bad = false) {
  const id = ++toastId;
  toasts.value = [...toasts.value.slice(-2), { id, text, bad }];
  setTimeout(() => { toasts.value = toasts.value.filter((t) => t.id !== id); }, bad ? 8_000 : 4_000);
}
export function Toasts() {
  return html`<div class="toasts" role="status" aria-live="polite">${toasts.value.map((t) => html`<div key=${t.id} class=${cx("toast", t.bad && "bad")}>${t.text}</div>`)}</div>`;
}

/** Rendered Markdown, by the server. The same text is rendered once. @type {Map<string, Promise<string>>} */
const rendered = new Map();
/** @param {string} text */
export function renderMarkdown(text) {
  let found = rendered.get(text);
  if (!found) {
    found = post("/v1/markdown", { markdown: text }).then((answer) => answer.html);
    found.catch(() => rendered.delete(text));
    rendered.set(text, found);
    if (rendered.size > 100) rendered.delete(/** @type {string} */ (rendered.keys().next().value));
  }
  return found;
}
/** Wide parts of a text can be scrolled with the keyboard. @param {HTMLElement | null} element */
export function reachable(element) {
  for (const block of element?.querySelectorAll("pre, table") ?? []) block.setAttribute("tabindex", "0");
}
/** @param {{text: string, label?: string}} props */
export function Markdown({ text }) {
  const [state, setState] = useState({ text: "", html: "" });
  useEffect(() => {
    let gone = false;
    renderMarkdown(text).then((answer) => { if (!gone) setState({ text, html: answer }); }, () => {});
    return () => { gone = true; };
  }, [text]);
  const body = useRef(/** @type {HTMLDivElement | null} */ (null));
  useLayoutEffect(() => reachable(body.current), [state.html]);
  if (!state.html) return html`<div class="prose plain">${text}</div>`;
  return html`<div class="prose" ref=${body} dangerouslySetInnerHTML=${{ __html: state.html }} />`;
}

/** What may be wider than the page: then it scrolls, with the keyboard too. @param {{children: any}} props */
export function Wide({ children }) {
  const ref = useRef(/** @type {HTMLDivElement | null} */ (null));
  const [over, setOver] = useState(false);
  useLayoutEffect(() => {
    const box = ref.current;
    if (!box) return;
    const observer = new ResizeObserver(() => setOver(box.scrollWidth > box.clientWidth));
    observer.observe(box);
    if (box.firstElementChild) observer.observe(box.firstElementChild);
    return () => observer.disconnect();
  }, []);
  return html`<div class="card scroll-x" ref=${ref} tabindex=${over ? 0 : null}>${children}</div>`;
}

/** A field of a form with its label and what is wrong with it. @param {any} props */
export function Field({ label, hint, children, id }) {
  return html`<div class="field"><label for=${id}>${label}</label>${children}${hint && html`<small id=${`${id}-hint`}>${hint}</small>`}</div>`;
}

/** Bytes for people. @param {number | null | undefined} n */
export function bytes(n) {
  if (n == null) return "–";
  if (n < 1_024) return `${n} B`;
  const units = ["KiB", "MiB", "GiB"];
  let value = n / 1_024, unit = 0;
  while (value >= 1_024 && unit < 2) { value /= 1_024; unit++; }
  return `${value.toFixed(value < 10 ? 1 : 0)} ${units[unit]}`;
}

/** A menu of further actions. @param {any} props */
export function Menu({ label, children }) {
  const ref = useRef(/** @type {HTMLDetailsElement | null} */ (null));
  useEffect(() => {
    const close = (/** @type {Event} */ event) => {
      const menu = ref.current;
      if (menu?.open && (event.type === "keydown" ? /** @type {KeyboardEvent} */ (event).key === "Escape" : !menu.contains(/** @type {Node} */ (event.target)))) menu.open = false;
    };
    addEventListener("pointerdown", close);
    addEventListener("keydown", close);
    return () => { removeEventListener("pointerdown", close); removeEventListener("keydown", close); };
  }, []);
  return html`<details class="menu" ref=${ref}><summary aria-label=${label}>⋯</summary><div class="menu-items">${children}</div></details>`;
}

export { navigate };

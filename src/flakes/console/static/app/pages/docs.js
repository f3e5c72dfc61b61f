// @ts-check
/** The documentation of this server's own version: the guide and the reference, searchable. */
import { get, v1 } from "../api.js";
import { Link, place, setQuery } from "../router.js";
import { html, useEffect, useLayoutEffect, useRef } from "../lib.js";
import { useResource } from "../resource.js";
import { Empty, Header, Loaded, reachable } from "../ui/parts.js";

const SECTIONS = { guide: "Guide", reference: "Reference" };

/** @param {{section?: string, page?: string}} props */
export function Docs({ section, page }) {
  const words = place.value.query.get("q") ?? "";
  const contents = useResource(`docs ${words}`, (signal) => get("/v1/docs", { q: words }, signal));
  const known = useRef(/** @type {any[]} */ ([]));
  if (contents.data) known.current = contents.data.documents;
  const list = known.current, first = list[0]?.path;
  const path = section && page ? `${section}/${page}` : first ?? null;
  const found = useResource(path && !words ? `doc ${path}` : null, (signal) => get(v1("docs", ...(/** @type {string} */ (path)).split("/")), {}, signal));
  const timer = useRef(0), at = list.findIndex((d) => d.path === path);
  const beside = (/** @type {number} */ step) => list[at + step];
  return html`<div class="docs"><nav class="docs-nav" aria-label="Documentation">
      <label class="search"><span class="sr">Search the documentation</span><input type="search" placeholder="Search" defaultValue=${words} onInput=${(/** @type {any} */ e) => { clearTimeout(timer.current); const text = e.target.value.trim(); timer.current = setTimeout(() => setQuery({ q: text }), 150); }} /><kbd aria-hidden="true">/</kbd></label>
      ${Object.entries(SECTIONS).map(([key, name]) => html`<div key=${key}><h2>${name}</h2><ul>${list.filter((d) => d.section === key).map((d) => html`<li key=${d.path}><${Link} to=${`/docs/${d.path}`} aria-current=${d.path === path && !words ? "page" : null}>${d.title}<//></li>`)}</ul></div>`)}
    </nav><div class="docs-page">
      ${words ? html`<${Header} title=${`Search: ${words}`} /><${Loaded} from=${contents}>${(/** @type {any} */ { hits }) => hits.length ? html`<ul class="hits">${hits.map((/** @type {any} */ h, /** @type {number} */ i) => html`<li key=${i}><${Link} data-row to=${`/docs/${h.path}#${h.anchor}`}><strong>${h.heading}</strong><//> <span class="muted">${h.title}</span><p class="muted">${h.excerpt}</p></li>`)}</ul>` : html`<${Empty} title="Nothing found">Try fewer words.<//>`}<//>`
      : html`${found.error && !found.data && html`<${Header} title="No such document" />`}<${Loaded} from=${found}>${(/** @type {any} */ doc) => html`<${Page} doc=${doc} /><div class="docs-beside">${beside(-1) && html`<${Link} to=${`/docs/${beside(-1).path}`}>← ${beside(-1).title}<//>`}<span class="spring" />${beside(1) && html`<${Link} to=${`/docs/${beside(1).path}`}>${beside(1).title} →<//>`}</div>`}<//>`}
    </div></div>`;
}

/** @param {{doc: any}} props */
function Page({ doc }) {
  const body = useRef(/** @type {HTMLElement | null} */ (null));
  useEffect(() => { document.title = `${doc.title} · Flakes`; }, [doc.title]);
  useLayoutEffect(() => {
    reachable(body.current);
    const anchor = decodeURIComponent(place.value.hash.slice(1));
    if (anchor) document.getElementById(anchor)?.scrollIntoView();
  }, [doc.path, place.value.hash]);
  return html`<article class="prose" ref=${body} dangerouslySetInnerHTML=${{ __html: doc.html }} />`;
}

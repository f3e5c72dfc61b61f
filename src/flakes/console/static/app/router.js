// @ts-check
/** Addresses: every view and every selection has one. */
import { html, signal } from "./lib.js";

export const BASE = "/console";

/** @typedef {{path: string, query: URLSearchParams, hash: string}} Place */

/** @type {{value: Place}} */
export const place = signal(read());

function read() {
  const path = location.pathname.startsWith(BASE) ? location.pathname.slice(BASE.length) : "/";
  return { path: path || "/", query: new URLSearchParams(location.search), hash: location.hash };
}

addEventListener("popstate", () => { place.value = read(); });

/** Go to an address inside the console. @param {string} to @param {{replace?: boolean}} [options] */
export function navigate(to, { replace = false } = {}) {
  const before = place.value.path;
  history[replace ? "replaceState" : "pushState"](null, "", BASE + to);
  place.value = read();
  if (place.value.path !== before && !place.value.hash) scrollTo(0, 0);
}

/** Change parts of the query and stay where we are. @param {Record<string, string|null|undefined>} changes @param {boolean} [replace] */
export function setQuery(changes, replace = true) {
  const query = new URLSearchParams(place.value.query);
  for (const [name, value] of Object.entries(changes)) value ? query.set(name, value) : query.delete(name);
  const text = query.toString();
  navigate(place.value.path + (text ? `?${text}` : ""), { replace });
}

/** The parameters of `pattern` (`/runs/:run`) if `path` is of its form. @param {string} pattern @param {string} path */
export function match(pattern, path) {
  const wanted = pattern.split("/"), given = path.replace(/\/$/, "").split("/");
  if (pattern === "/") return path === "/" ? {} : null;
  if (wanted.length !== given.length) return null;
  /** @type {Record<string, string>} */
  const found = {};
  for (let i = 0; i < wanted.length; i++) {
    if (wanted[i].startsWith(":")) {
      if (!given[i]) return null;
      try { found[wanted[i].slice(1)] = decodeURIComponent(given[i]); } catch { return null; }
    } else if (wanted[i] !== given[i]) return null;
  }
  return found;
}

/** A path from parts that may hold anything. @param {...string} parts */
export const to = (...parts) => "/" + parts.map(encodeURIComponent).join("/");

/** A link inside the console. @param {any} props */
export function Link({ to: target, children, ...rest }) {
  return html`<a href=${BASE + target} ...${rest}>${children}</a>`;
}

/** Follows links of the console without loading the page anew, those in rendered Markdown too. */
export function followLinks() {
  document.addEventListener("click", (event) => {
    if (event.defaultPrevented || event.button !== 0 || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
    const link = /** @type {Element} */ (event.target).closest?.("a[href]");
    if (!(link instanceof HTMLAnchorElement) || link.target === "_blank" || link.hasAttribute("download")) return;
    if (link.origin !== location.origin || !link.pathname.startsWith(BASE + "/")) return;
    if (link.pathname === location.pathname && link.search === location.search && link.hash) return;
    event.preventDefault();
    navigate(link.pathname.slice(BASE.length) + link.search + link.hash);
  });
}
